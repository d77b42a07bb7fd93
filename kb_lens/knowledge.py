"""Does the model know? What it answers to the questions, before any neuron is looked for.

The method presupposes a model that answers the bank right. Raw accuracy hides one that always
gives the same answer, so balanced accuracy and AUC are reported, with the share of probability
that falls on yes and no at all (README: does the model know?).
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import get_args

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from tqdm.auto import tqdm

from kb_lens.files import write_text
from kb_lens.models.answers import AnswerStyle, Spelling, release_spelling, spellings
from kb_lens.models.hooked import HookedModel, model_name
from kb_lens.models.prompts import PromptTemplate
from kb_lens.passes import last_position
from kb_lens.questions import Question

LEAST = {"mass": 0.1, "balanced_accuracy": 65.0, "auc": 0.7}
"""Below any of these the verdict is that the model does not know. With less mass the model answers
something else than yes or no; 65 % and 0.7 are well above what 45 guesses give (50 %, 0.5)."""


@dataclass(frozen=True, eq=False)
class Knowledge:
    """What a model answers to a set of questions."""

    model: str
    """The model's name."""
    spelling: Spelling
    """The spelling that is scored."""
    table: pd.DataFrame
    """One row a question: dimension, kind, concept, text, answer, p_yes and p_no (in the chosen
    spelling), mass (all spellings of both), said (the likelier answer), right."""

    def summary(self, by: str | None = None) -> pd.DataFrame:
        """Accuracy over all questions, or over each value of `by` (``dimension``, ``kind``).

        Returns:
            n, right, balanced_accuracy (percent; 50 is chance), auc (of P(yes) over P(no); 0.5 is
            chance), said_yes and said_no (percent), p_right and mass (means). Balanced accuracy
            and AUC are missing where all questions have the same answer.
        """
        groups = self.table.groupby(by, sort=False) if by else [("all", self.table)]
        rows = {str(name): _summarize(group) for name, group in groups}
        return pd.DataFrame.from_dict(rows, orient="index").rename_axis(by or "questions")

    @property
    def knows(self) -> bool:
        """Whether the method's precondition holds; False where one answer is right throughout."""
        total = self.summary().iloc[0]
        return bool((total[[*LEAST]] >= [*LEAST.values()]).all())  # a missing AUC is below any

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the answers as JSON."""
        content = {
            "model": self.model,
            "spelling": asdict(self.spelling),
            "knows": self.knows,
            "verdict": self.verdict(),
            "table": self.table.to_dict("records"),
        }
        write_text(path, json.dumps(content, indent=1) + "\n")

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Knowledge:
        """Read a file that `save` wrote.

        Raises:
            ValueError: If the file is missing or something else.
        """
        if not Path(path).is_file():
            raise ValueError(f"no such knowledge file: '{path}'.")
        try:
            content = json.loads(Path(path).read_text(encoding="utf-8"))
            spelling = Spelling(**content["spelling"])
            return cls(content["model"], spelling, pd.DataFrame(content["table"]))
        except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError) as error:
            raise ValueError(f"'{path}' is no knowledge file of kb_lens: {error!r}.") from error

    def verdict(self) -> str:
        """The result in plain words."""
        total = self.summary().iloc[0]
        common = "no" if total["said_no"] >= total["said_yes"] else "yes"
        figures = (
            f"{self.model} answers {total['right']:.0f} of {total['n']:.0f} questions right; it "
            f"says {common} to {total['said_' + common]:.0f} % of them. Balanced accuracy "
            f"{total['balanced_accuracy']:.0f} % (chance 50), AUC {total['auc']:.2f} (chance 0.5), "
            f"{100 * total['mass']:.0f} % of the probability is on yes and no, spelled "
            f"{self.spelling.yes!r} and {self.spelling.no!r}."
        )
        if np.isnan(total["auc"]):
            return (
                f"CANNOT BE TOLD. All right answers are the same, so a model that always says "
                f"{common} cannot be told from one that knows. {figures} Ask questions of both "
                "answers."
            )
        if self.knows:
            return f"KNOWS. {figures} The method's precondition holds."
        return (
            f"DOES NOT KNOW. {figures} The method needs a model that answers these questions "
            "right: on this one the neurons found are not neurons that know what bias is, and no "
            "debiasing can be expected. What follows shows the procedure, not an effect."
        )


def check_knowledge(
    model: HookedModel,
    questions: Sequence[Question],
    *,
    template: PromptTemplate | None = None,
    answer_style: AnswerStyle = "model",
    batch_size: int = 8,
    progress: bool = True,
) -> Knowledge:
    """Ask the model every question and read off the probabilities of yes and no.

    Args:
        model: A model with TransformerLens hooks.
        questions: The questions.
        template: The words around each question.
        answer_style: ``model`` scores the spelling with the most probability over these questions,
            ``release`` bare lower-case ``yes`` and ``no``.
        batch_size: Prompts a forward pass.
        progress: Whether to show a progress bar.

    Raises:
        ValueError: If there are no questions or no single-token answers.
    """
    if not questions:
        raise ValueError("no questions: give at least one.")
    if answer_style not in get_args(AnswerStyle):
        raise ValueError(f"answer_style is {answer_style!r}: allowed are 'model' and 'release'.")
    template = template or PromptTemplate()
    options = spellings(model.tokenizer)
    probabilities = _next_token_probabilities(model, questions, template, batch_size, progress)
    answer_tokens = torch.tensor([[option.yes_token, option.no_token] for option in options])
    if answer_style == "release":
        chosen = release_spelling(options)
    else:
        by_spelling = probabilities[:, answer_tokens].sum(-1)  # [question, spelling]
        chosen = options[int(by_spelling.mean(0).argmax())]
    table = pd.DataFrame([vars(question) for question in questions])
    table["p_yes"] = probabilities[:, chosen.yes_token].double().numpy()
    table["p_no"] = probabilities[:, chosen.no_token].double().numpy()
    table["mass"] = probabilities[:, answer_tokens.unique()].sum(-1).double().numpy()
    table["said"] = np.where(table["p_yes"] > table["p_no"], "yes", "no")
    table["right"] = table["said"] == table["answer"]
    return Knowledge(model_name(model), chosen, table)


def _next_token_probabilities(
    model: HookedModel,
    questions: Sequence[Question],
    template: PromptTemplate,
    batch_size: int,
    progress: bool,
) -> Float[Tensor, "question d_vocab"]:
    prompts = [template.tokens(model, question.text)[0] for question in questions]
    batches = [prompts[i : i + batch_size] for i in range(0, len(prompts), batch_size)]
    probabilities: list[Tensor] = []
    with torch.no_grad():
        for batch in tqdm(batches, desc="asking the questions", disable=not progress):
            # Causal attention never looks right, so padding there needs no mask.
            tokens = pad_sequence(batch, batch_first=True)
            last = torch.tensor([len(prompt) - 1 for prompt in batch], device=tokens.device)
            positions = torch.arange(tokens.shape[1], device=tokens.device)
            with last_position.marking(positions == last[:, None]):
                logits = model(tokens, return_type="logits")
            predictions = logits[torch.arange(len(batch)), last]
            probabilities.append(predictions.float().softmax(-1).cpu())
    return torch.cat(probabilities)


def _summarize(group: pd.DataFrame) -> dict[str, float]:
    p_yes = group["p_yes"].to_numpy()
    p_no = group["p_no"].to_numpy()
    is_yes = group["answer"].eq("yes").to_numpy()
    said_yes = group["said"].eq("yes").to_numpy()
    right = said_yes == is_yes
    balanced_accuracy, auc = np.nan, np.nan
    if is_yes.any() and not is_yes.all():
        balanced_accuracy = 50 * (right[is_yes].mean() + right[~is_yes].mean())
        auc = _auc(p_yes / (p_yes + p_no), is_yes)
    return {
        "n": len(group),
        "right": int(right.sum()),
        "balanced_accuracy": float(balanced_accuracy),
        "auc": auc,
        "said_yes": 100 * float(said_yes.mean()),
        "said_no": 100 * float((~said_yes).mean()),
        "p_right": float(np.where(is_yes, p_yes, p_no).mean()),
        "mass": float(group["mass"].to_numpy().mean()),
    }


def _auc(score: NDArray[np.floating], is_yes: NDArray[np.bool_]) -> float:
    """Area under the ROC curve, from ranks (Mann-Whitney); a tie counts one half."""
    rank = pd.Series(score).rank().to_numpy()
    n_yes = int(is_yes.sum())
    n_no = len(is_yes) - n_yes
    return float((rank[is_yes].sum() - n_yes * (n_yes + 1) / 2) / (n_yes * n_no))
