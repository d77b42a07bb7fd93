"""The questions are asked, and the probabilities of yes and no read off."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, get_args

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from tqdm.auto import tqdm

from kb_lens.knowledge.verdict import Knowledge
from kb_lens.models.answers import (
    AnswerStyle,
    Spelling,
    check_spelling,
    release_spelling,
    spellings,
)
from kb_lens.models.bridge_check import as_the_checkpoint
from kb_lens.models.hooked import HookedModel, model_name
from kb_lens.models.prompts import PromptTemplate
from kb_lens.passes import last_position
from kb_lens.questions import BANK, Question, bank_folder, load_questions

N_TOKENS = 5
"""Likeliest next tokens that are named."""


@as_the_checkpoint
def check_knowledge(
    model: HookedModel,
    questions: Sequence[Question],
    *,
    template: PromptTemplate | None = None,
    answer_style: AnswerStyle = "model",
    forms: Sequence[Question] | None = None,
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
        forms: Plain questions with both answers in each kind; ``()`` for none. Default those of the
            bank, if all of `questions` are from the English bank, else none.
        batch_size: Prompts a forward pass.
        progress: Whether to show a progress bar.

    Raises:
        ValueError: For no questions, no single-token answers, or a kind of `forms` without both.
    """
    _check_asking(questions, answer_style)
    forms = _form_questions(questions) if forms is None else forms
    _check_balanced(forms)
    template = template or PromptTemplate()
    texts = [template.text(model.tokenizer, questions[k].text) for k in (0, -1)]
    options = spellings(model.tokenizer, texts)
    tokens = torch.tensor([[option.yes_token, option.no_token] for option in options])
    n = len(questions)
    predicted = _ask(model, [*questions, *forms], template, tokens.unique(), batch_size, progress)
    # [question, spelling, answer]
    answers = predicted.candidates[:, torch.searchsorted(tokens.unique(), tokens)]
    if answer_style == "release":
        chosen = options.index(release_spelling(options))
    else:
        # The form questions have no say in how the answers to the others are spelled.
        chosen = int(answers[:n].nan_to_num().sum(-1).mean(0).argmax())
    columns = (answers[:, chosen], predicted.candidates.sum(-1))
    return Knowledge(
        model_name(model),
        options[chosen],
        _table(questions, *(column[:n] for column in columns)),
        _table(forms, *(column[n:] for column in columns)) if forms else None,
        _likeliest(model.tokenizer, predicted.mean),
    )


def answer_spelling(
    model: HookedModel,
    questions: Sequence[Question],
    template: PromptTemplate,
    knowledge: Knowledge | None,
    *,
    answer_style: AnswerStyle,
    progress: bool,
) -> Spelling:
    """How yes and no are spelled behind these questions: as `knowledge` says, or found by asking.

    Raises:
        ValueError: If `knowledge` was found with a template behind which they have other tokens.
    """
    if knowledge is None:
        asking: dict[str, Any] = {"template": template, "answer_style": answer_style}
        return check_knowledge(model, questions, forms=(), progress=progress, **asking).spelling
    first_prompt = template.text(model.tokenizer, questions[0].text)
    check_spelling(knowledge.spelling, model.tokenizer, first_prompt)
    return knowledge.spelling


def _check_asking(questions: Sequence[Question], answer_style: str) -> None:
    if not questions:
        raise ValueError("no questions: give at least one.")
    if answer_style not in get_args(AnswerStyle):
        raise ValueError(f"answer_style is {answer_style!r}: allowed are 'model' and 'release'.")


def _form_questions(questions: Sequence[Question]) -> list[Question]:
    """The bank's, where all questions are from its English files; none for others."""
    bank = {question.text for question in load_questions(None, dimension=BANK["en"])}
    if not all(question.text in bank for question in questions):
        return []
    return load_questions(None, path=bank_folder() / "forms.csv")


def _check_balanced(forms: Sequence[Question]) -> None:
    for kind in dict.fromkeys(question.kind for question in forms):
        answers = {question.answer for question in forms if question.kind == kind}
        if len(answers) < 2:
            raise ValueError(
                f"forms: the right answer to every question of the kind {kind!r} is "
                f"{answers.pop()!r}. Each kind needs questions of both answers."
            )


class _Predicted(NamedTuple):
    """What is kept of the probabilities of the next token."""

    candidates: Float[Tensor, "question candidate"]
    """Of the tokens of every spelling."""
    mean: Float[Tensor, " d_vocab"]
    """Over the questions; one that is not finite counts as 0."""


def _ask(
    model: HookedModel,
    questions: Sequence[Question],
    template: PromptTemplate,
    candidates: Int[Tensor, " candidate"],
    batch_size: int,
    progress: bool,
) -> _Predicted:
    prompts = [template.tokens(model, question.text)[0] for question in questions]
    batches = [prompts[i : i + batch_size] for i in range(0, len(prompts), batch_size)]
    candidate_rows: list[Tensor] = []
    total = torch.zeros(())
    with torch.no_grad():
        for batch in tqdm(batches, desc="asking the questions", disable=not progress):
            # Causal attention never looks right, so padding there needs no mask.
            tokens = pad_sequence(batch, batch_first=True)
            last = torch.tensor([len(prompt) - 1 for prompt in batch], device=tokens.device)
            positions = torch.arange(tokens.shape[1], device=tokens.device)
            with last_position.marking(positions == last[:, None]):
                logits = model(tokens, return_type="logits")
            predictions = logits[torch.arange(len(batch)), last]
            probabilities = predictions.float().softmax(-1).cpu()
            # A large vocabulary times hundreds of questions would take gigabytes.
            candidate_rows.append(probabilities[:, candidates])
            total = total + probabilities.nan_to_num().sum(0)
    return _Predicted(torch.cat(candidate_rows), total / len(prompts))


def _table(
    questions: Sequence[Question],
    answers: Float[Tensor, "question answer"],
    mass: Float[Tensor, " question"],
) -> pd.DataFrame:
    table = pd.DataFrame([vars(question) for question in questions])
    table["p_yes"], table["p_no"] = answers.double().numpy().T
    table["mass"] = mass.double().numpy()
    table["said"] = np.where(table["p_yes"] > table["p_no"], "yes", "no")
    table["right"] = table["said"] == table["answer"]
    return table


def _likeliest(tokenizer: Any, mean: Float[Tensor, " d_vocab"]) -> list[tuple[str, float]]:
    """The tokens with the largest mean probability, as text."""
    shares, tokens = mean.topk(min(N_TOKENS, len(mean)))
    pairs = zip(tokens.tolist(), shares.tolist(), strict=True)
    return [(tokenizer.decode([token]), share) for token, share in pairs if share > 0]
