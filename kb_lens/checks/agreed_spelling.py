"""One spelling of yes and no for all attributions that are compared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from kb_lens.attribution.attributions import Attributions
from kb_lens.knowledge.check import answer_spelling
from kb_lens.knowledge.verdict import Knowledge
from kb_lens.models.answers import Spelling
from kb_lens.models.digests import same_weights
from kb_lens.models.hooked import HookedModel, fingerprint
from kb_lens.models.prompts import PromptTemplate
from kb_lens.questions import Question


def agreed_spelling(
    model: HookedModel,
    questions: Sequence[Question],
    bias: Attributions | None,
    knowledge: Knowledge | None,
    options: Mapping[str, Any],
) -> Spelling:
    """The spelling of yes and no in what is given; the model is asked if nothing is given.

    Args:
        model: The model that answers.
        questions: The bias-knowledge questions.
        bias: Their attributions, if there are some already.
        knowledge: The result of `check_knowledge` for them, if there is one already.
        options: Further arguments of `attribute`.

    Raises:
        ValueError: If `bias`, `knowledge`, the model and the questions do not belong together.
    """
    template = options.get("template") or PromptTemplate()
    spelling: Spelling | None = options.get("spelling")
    if bias is not None:
        _check_bias(bias, model, questions, template, options)
        if knowledge is None and spelling is None:
            spelling = bias.settings.spelling
    style: dict[str, Any] = {"answer_style": options.get("answer_style", "model")}
    style["progress"] = options.get("progress", True)
    spelling = answer_spelling(model, questions, template, knowledge, spelling, **style)
    of_bias = None if bias is None else bias.settings.spelling
    if of_bias is not None and of_bias.tokens("yes") != spelling.tokens("yes"):
        raise ValueError(
            f"bias is of answers spelled {of_bias.yes!r}, knowledge of "
            f"{spelling.yes!r}: give those of the same call."
        )
    return spelling


def _check_bias(
    bias: Attributions,
    model: HookedModel,
    questions: Sequence[Question],
    template: PromptTemplate,
    options: Mapping[str, Any],
) -> None:
    """Refuse attributions that cannot be compared with the others."""
    if list(bias.yes_no_questions) != list(questions):
        raise ValueError("bias holds the attributions of other questions: give those of these.")
    settings = bias.settings
    wanted = {
        "site": options.get("site", "post"),
        "objective": options.get("objective", "probability"),
        "template": template,
    }
    others = [name for name, value in wanted.items() if getattr(settings, name) != value]
    if not same_weights(settings.fingerprint, fingerprint(model)):
        others.insert(0, "model")
    if others:
        raise ValueError(
            f"bias holds attributions of another {others[0]}: give what attribute returned for "
            "this call's."
        )
