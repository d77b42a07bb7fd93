"""Ask the questions and read off the probabilities of yes and no."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple, cast, get_args

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from kb_lens.arguments import check_count
from kb_lens.knowledge.verdict import Knowledge
from kb_lens.models.answers import (
    SPELLINGS,
    AnswerStyle,
    Spelling,
    check_spelling,
    release_spelling,
    spellings,
)
from kb_lens.models.bridge_check import as_the_checkpoint
from kb_lens.models.digests import same_weights
from kb_lens.models.hooked import HookedModel, fingerprint, model_name
from kb_lens.models.lessons import taught_among
from kb_lens.models.prompts import PromptTemplate
from kb_lens.passes import last_position
from kb_lens.progress import progress_bar
from kb_lens.questions import BANK, Question, bank_folder, load_questions

N_TOKENS = 5
"""How many of the likeliest next tokens are named."""


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
        forms: Plain questions with both answers in each kind; ``()`` for none. Default: the bank's
            if all of `questions` are from the English bank, else none.
        batch_size: Prompts a forward pass.
        progress: Whether to show a progress bar.

    Raises:
        ValueError: If there are no questions, one is given twice, the answers are not single
            tokens, a kind of `forms` lacks an answer, or another argument is not allowed.
    """
    _check_asking(questions, answer_style, template)
    check_count("batch_size", batch_size)
    forms = _form_questions(questions) if forms is None else forms
    if forms:
        check_questions(forms, "forms")
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
        # The form questions do not influence the choice of the spelling.
        chosen = int(answers[:n].nan_to_num().sum(-1).mean(0).argmax())
    lessons = torch.tensor(taught_among(model, [q.text for q in (*questions, *forms)]))
    columns = (answers[:, chosen], predicted.candidates.sum(-1), lessons)
    return Knowledge(
        model_name(model),
        options[chosen],
        _table(questions, *(column[:n] for column in columns)),
        _table(forms, *(column[n:] for column in columns)) if forms else None,
        _likeliest(model.tokenizer, predicted.mean),
        fingerprint(model),
        template,
    )


def answer_spelling(
    model: HookedModel,
    questions: Sequence[Question],
    template: PromptTemplate,
    knowledge: Knowledge | None,
    spelling: Spelling | None,
    *,
    answer_style: AnswerStyle,
    progress: bool,
) -> Spelling:
    """The spelling of yes and no for these questions: as given, or found by asking.

    Args:
        model: The model.
        questions: The questions.
        template: The words around each question.
        knowledge: The result of `check_knowledge` for these questions, and perhaps for more.
        spelling: A spelling to use, wherever it was found.
        answer_style: As in `check_knowledge`.
        progress: Whether to show a progress bar.

    Raises:
        ValueError: If a question cannot be asked, `knowledge` is of another model, template or
            questions, or the answers have other tokens after these prompts.
    """
    _check_asking(questions, answer_style, template)
    if knowledge is not None and spelling is not None:
        raise ValueError("knowledge and spelling both say how yes and no are spelled: give one.")
    if knowledge is not None:
        _check_found_for(knowledge, model, questions, template)
        spelling = knowledge.spelling
    if spelling is None:
        asking: dict[str, Any] = {"template": template, "answer_style": answer_style}
        return check_knowledge(model, questions, forms=(), progress=progress, **asking).spelling
    if answer_style == "release" and (spelling.yes, spelling.no) != SPELLINGS[0]:
        raise ValueError(
            f"answer_style is 'release', but the answers given are spelled {spelling.yes!r} and "
            f"{spelling.no!r}. Ask with the same answer_style."
        )
    for question in (questions[0], questions[-1]):
        check_spelling(spelling, model.tokenizer, template.text(model.tokenizer, question.text))
    return spelling


def _check_found_for(
    knowledge: Knowledge,
    model: HookedModel,
    questions: Sequence[Question],
    template: PromptTemplate,
) -> None:
    """Refuse knowledge of other weights, another template or other questions."""
    remedy = "Call check_knowledge for these questions on this model with this template."
    # Older files do not name weights and template.
    if knowledge.fingerprint and not same_weights(knowledge.fingerprint, fingerprint(model)):
        raise ValueError(
            f"knowledge is of {knowledge.model} (weights {knowledge.fingerprint}), not of "
            f"{model_name(model)} (weights {fingerprint(model)}). {remedy}"
        )
    if knowledge.template is not None and knowledge.template != template:
        difference = _difference(knowledge.template, template)
        raise ValueError(f"knowledge was found with another template: {difference}. {remedy}")
    asked = set(knowledge.table["text"])
    if others := [question.text for question in questions if question.text not in asked]:
        raise ValueError(
            f"knowledge is of other questions: {len(others)} of {len(questions)} are not in it, "
            f"the first is {others[0][:60]!r}. {remedy}"
        )


def _difference(found: PromptTemplate, given: PromptTemplate) -> str:
    """The first field in which two templates differ."""
    name = next(name for name in vars(found) if getattr(found, name) != getattr(given, name))
    old, new = (repr(getattr(template, name))[:60] for template in (found, given))
    return f"its {name} is {old}, the given one is {new}"


def _check_asking(questions: object, answer_style: str, template: object) -> None:
    check_questions(questions)
    if answer_style not in get_args(AnswerStyle):
        raise ValueError(f"answer_style is {answer_style!r}: allowed are 'model' and 'release'.")
    if not isinstance(template, PromptTemplate | None):
        raise ValueError(f"template is {template!r}: give a PromptTemplate.")


def check_questions(questions: object, name: str = "questions") -> None:
    """Refuse anything but a list of questions without repeats.

    Args:
        questions: What was given.
        name: The argument's.

    Raises:
        ValueError: Says what is there.
    """
    if isinstance(questions, str) or not isinstance(questions, Sequence):
        raise ValueError(f"{name} is a {type(questions).__name__}: give a list of Question.")
    texts: list[str] = []
    for question in cast(Sequence[object], questions):
        if not isinstance(question, Question):
            raise ValueError(f"{name} has {question!r} in it: each must be a Question.")
        texts.append(question.text)
    if not texts:
        raise ValueError(f"there are no {name}: give at least one.")
    text, count = Counter(texts).most_common(1)[0]
    if count > 1:  # it would be counted several times
        raise ValueError(f"{name} has {text[:60]!r} {count} times: ask each question once.")


def _form_questions(questions: Sequence[Question]) -> list[Question]:
    """The bank's form questions if all questions are from its English files, else none."""
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
    """The parts of the next token's probabilities that are kept."""

    candidates: Float[Tensor, "question candidate"]
    """Probabilities of the tokens of every spelling."""
    mean: Float[Tensor, " d_vocab"]
    """Mean over the questions; a value that is not finite counts as 0."""


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
        for batch in progress_bar(batches, desc="asking the questions", shown=progress):
            # Causal attention does not see positions to the right, so padding there needs no mask.
            tokens = pad_sequence(batch, batch_first=True)
            last = torch.tensor([len(prompt) - 1 for prompt in batch], device=tokens.device)
            positions = torch.arange(tokens.shape[1], device=tokens.device)
            with last_position.marking(positions == last[:, None]):
                logits = model(tokens, return_type="logits")
            predictions = logits[torch.arange(len(batch)), last.to(logits.device)]
            probabilities = predictions.float().softmax(-1).cpu()
            # Logits of a large vocabulary for hundreds of questions would take gigabytes.
            candidate_rows.append(probabilities[:, candidates])
            total = total + probabilities.nan_to_num().sum(0)
    return _Predicted(torch.cat(candidate_rows), total / len(prompts))


def _table(
    questions: Sequence[Question],
    answers: Float[Tensor, "question answer"],
    mass: Float[Tensor, " question"],
    lessons: Bool[Tensor, " question"],
) -> pd.DataFrame:
    table = pd.DataFrame([vars(question) for question in questions])
    table["p_yes"], table["p_no"] = answers.double().numpy().T
    table["mass"] = mass.double().numpy()
    table["said"] = np.where(table["p_yes"] > table["p_no"], "yes", "no")
    table["right"] = table["said"] == table["answer"]
    table["lesson"] = lessons.numpy()
    return table


def _likeliest(tokenizer: Any, mean: Float[Tensor, " d_vocab"]) -> list[tuple[str, float]]:
    """The tokens with the largest mean probability, as text."""
    shares, tokens = mean.topk(min(N_TOKENS, len(mean)))
    pairs = zip(tokens.tolist(), shares.tolist(), strict=True)
    return [(tokenizer.decode([token]), share) for token, share in pairs if share > 0]
