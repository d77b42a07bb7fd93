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
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor
from tqdm.auto import tqdm

from kb_lens.files import write_text
from kb_lens.models.hooked import model_name
from kb_lens.models.prompts import PromptTemplate
from kb_lens.passes import last_position
from kb_lens.questions import Question

AnswerStyle = Literal["model", "release"]
"""``model``: the spelling that the model itself prefers; ``release``: bare ``yes`` and ``no``."""

SPELLINGS = (("yes", "no"), ("Yes", "No"), ("YES", "NO"), (" yes", " no"), (" Yes", " No"))
MIN_MASS, MIN_BALANCED_ACCURACY, MIN_AUC = 0.1, 65.0, 0.7
"""Below any of these the verdict is that the model does not know."""


@dataclass(frozen=True)
class Spelling:
    """One way to write the two answers, each a single token."""

    yes: str
    """The text of yes."""
    no: str
    """The text of no."""
    yes_token: int
    """Token id of yes."""
    no_token: int
    """Token id of no."""

    def tokens(self, answer: str) -> tuple[int, int]:
        """The ids of the right and of the wrong answer."""
        if answer == "yes":
            return self.yes_token, self.no_token
        return self.no_token, self.yes_token


def spellings(tokenizer: Any) -> list[Spelling]:
    """The ways to write yes and no that are one token each for this tokenizer.

    Raises:
        ValueError: If there is none.
    """
    found: dict[tuple[int, int], Spelling] = {}
    for pair in SPELLINGS:
        yes, no = (tokenizer(text, add_special_tokens=False)["input_ids"] for text in pair)
        if len(yes) == len(no) == 1 and yes != no:
            found.setdefault((yes[0], no[0]), Spelling(*pair, yes[0], no[0]))
    if not found:
        raise ValueError(
            "this tokenizer writes no spelling of yes and no as one token each (tried "
            f"{', '.join(map(repr, SPELLINGS))}): attribution needs single-token answers."
        )
    return list(found.values())


def _release_spelling(tokenizer: Any) -> Spelling:
    for spelling in spellings(tokenizer):
        if (spelling.yes, spelling.no) == SPELLINGS[0]:
            return spelling
    raise ValueError(
        "answer_style is 'release', but 'yes' and 'no' are not one token each for this tokenizer. "
        "Use answer_style='model'."
    )


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
        enough = (MIN_MASS, MIN_BALANCED_ACCURACY, MIN_AUC)
        got = (total["mass"], total["balanced_accuracy"], total["auc"])
        return all(value >= least for value, least in zip(got, enough, strict=True))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the answers as JSON."""
        path = Path(path)
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
    model: Any,
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
        questions: What is asked.
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
    if answer_style not in ("model", "release"):
        raise ValueError(f"answer_style is {answer_style!r}: allowed are 'model' and 'release'.")
    options = spellings(model.tokenizer)
    probabilities = _next_token_probabilities(model, questions, template, batch_size, progress)
    pairs = torch.tensor([[option.yes_token, option.no_token] for option in options])
    found = probabilities[:, pairs]  # [question, spelling, answer]
    chosen = (
        options[int(found.sum(-1).mean(0).argmax())]
        if answer_style == "model"
        else _release_spelling(model.tokenizer)
    )
    table = pd.DataFrame([vars(question) for question in questions])
    table["p_yes"] = probabilities[:, chosen.yes_token].double().numpy()
    table["p_no"] = probabilities[:, chosen.no_token].double().numpy()
    table["mass"] = probabilities[:, pairs.unique()].sum(-1).double().numpy()
    table["said"] = np.where(table["p_yes"] > table["p_no"], "yes", "no")
    table["right"] = table["said"] == table["answer"]
    return Knowledge(model_name(model), chosen, table)


def _next_token_probabilities(
    model: Any,
    questions: Sequence[Question],
    template: PromptTemplate | None,
    batch_size: int,
    progress: bool,
) -> Float[Tensor, "question d_vocab"]:
    template = template or PromptTemplate()
    prompts = [template.tokens(model, question.text)[0] for question in questions]
    batches = [prompts[i : i + batch_size] for i in range(0, len(prompts), batch_size)]
    rows = []
    with torch.no_grad():
        for batch in tqdm(batches, desc="asking the questions", disable=not progress):
            tokens = _right_padded(batch)
            last = torch.tensor([len(prompt) - 1 for prompt in batch], device=tokens.device)
            places = torch.arange(tokens.shape[1], device=tokens.device)
            with last_position.marking(places == last[:, None]):
                logits = model(tokens, return_type="logits")
            rows.append(logits[torch.arange(len(batch)), last].float().softmax(-1).cpu())
    return torch.cat(rows)


def _right_padded(prompts: Sequence[Int[Tensor, " _"]]) -> Int[Tensor, "batch pos"]:
    """Causal attention never looks right, so padding there needs no mask."""
    return torch.nn.utils.rnn.pad_sequence(list(prompts), batch_first=True)


def _summarize(group: pd.DataFrame) -> dict[str, float]:
    p_yes, p_no = group["p_yes"].to_numpy(), group["p_no"].to_numpy()
    is_yes = group["answer"].eq("yes").to_numpy()
    said_yes = group["said"].eq("yes").to_numpy()
    right = said_yes == is_yes
    both = bool(is_yes.any() and not is_yes.all())
    balanced = 50 * (right[is_yes].mean() + right[~is_yes].mean()) if both else np.nan
    return {
        "n": len(group),
        "right": int(right.sum()),
        "balanced_accuracy": float(balanced),
        "auc": _auc(p_yes / (p_yes + p_no), is_yes) if both else np.nan,
        "said_yes": 100 * float(said_yes.mean()),
        "said_no": 100 * float((~said_yes).mean()),
        "p_right": float(np.where(is_yes, p_yes, p_no).mean()),
        "mass": float(group["mass"].to_numpy().mean()),
    }


def _auc(score: np.ndarray, is_yes: np.ndarray) -> float:
    """Area under the ROC curve, from ranks (Mann-Whitney); a tie counts one half."""
    rank = pd.Series(score).rank().to_numpy()
    n_yes, n_no = int(is_yes.sum()), int((~is_yes).sum())
    return float((rank[is_yes].sum() - n_yes * (n_yes + 1) / 2) / (n_yes * n_no))
