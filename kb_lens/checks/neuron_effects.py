"""What one neuron does: the answer when that neuron alone is scaled.

`scale_neurons` scales a set as a whole; here every neuron of it is scaled by itself, by each of
some factors, and P(right answer) and the logit difference are read again. Factor 0 is the neuron's
ablation, the effect that its attribution score estimates; several factors make a dose-response
curve.

One forward pass tries many neurons: each row of the batch has its own neuron and factor
(`kb_lens.checks.scaled_rows`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor
from tqdm.auto import tqdm

from kb_lens.arguments import check_count
from kb_lens.checks.effects import EffectSettings, NeuronEffects
from kb_lens.checks.scaled_rows import ScaledRows, Trial
from kb_lens.interventions.positions import Positions, check_positions
from kb_lens.interventions.scaling import check_factor
from kb_lens.knowledge.check import answer_spelling, check_questions
from kb_lens.knowledge.verdict import Knowledge
from kb_lens.models.answers import AnswerStyle, Spelling
from kb_lens.models.bridge_check import as_the_checkpoint
from kb_lens.models.hooked import HookedModel, fingerprint, model_name
from kb_lens.models.prompts import PromptTemplate
from kb_lens.neurons import NeuronSet
from kb_lens.passes.matrix_products import fast_products
from kb_lens.questions import Question


@as_the_checkpoint
def neuron_effects(
    model: HookedModel,
    neurons: NeuronSet,
    questions: Sequence[Question],
    *,
    lams: Sequence[float] = (0.0, 2.0),
    positions: Positions = "last",
    knowledge: Knowledge | None = None,
    spelling: Spelling | None = None,
    template: PromptTemplate | None = None,
    answer_style: AnswerStyle = "model",
    batch_size: int | None = None,
    progress: bool = True,
) -> NeuronEffects:
    """Scale each neuron alone, by each factor, and read off the answer to every question.

    Args:
        model: A `TransformerBridge` or `HookedTransformer`.
        neurons: The neurons, at the site of the set.
        questions: What is asked.
        lams: The factors: 0 ablates, 1 changes nothing.
        positions: ``last``: the last position of the prompt alone, where attributions are taken;
            one-token rows over a shared prefix where the model allows it. ``all``: every position
            of the prompt; whole prompts as rows, slower by about the prompt's length.
        knowledge: What `check_knowledge` found for these questions (and perhaps for more) with this
            template and style; asked here if not given.
        spelling: In its stead, how yes and no are spelled, such as that of attributions.
        template: The words around each question; default the paper's.
        answer_style: As in `attribute`.
        batch_size: Most neurons x factors in one forward pass; default 256 one-token rows or 32
            whole prompts.
        progress: Whether to show progress bars.

    Raises:
        ValueError: If the set is empty or belongs to another model, `knowledge` is of another
            model, template or questions, a factor is not finite in the type of the weights or comes
            twice, or another argument is not allowed.
    """
    check_positions(positions)
    check_effects(lams, batch_size, model.cfg.dtype)
    check_questions(questions)
    if not len(neurons):
        raise ValueError("the neuron set is empty: there is nothing to measure.")
    neurons.check_model(model)
    template = PromptTemplate() if template is None else template
    style: dict[str, Any] = {"answer_style": answer_style, "progress": progress}
    spelling = answer_spelling(model, questions, template, knowledge, spelling, **style)
    settings = _settings(model, neurons, positions, spelling, template)
    tensors = _measured(model, neurons, questions, lams, settings, batch_size, progress)
    return NeuronEffects(
        **tensors,
        neurons=neurons.neurons,
        lams=tuple(map(float, lams)),
        questions=tuple(questions),
        settings=settings,
    )


def _settings(
    model: HookedModel,
    neurons: NeuronSet,
    positions: Positions,
    spelling: Spelling,
    template: PromptTemplate,
) -> EffectSettings:
    return EffectSettings(
        model=model_name(model),
        fingerprint=fingerprint(model),
        dtype=str(model.cfg.dtype).removeprefix("torch."),
        site=neurons.site,
        positions=positions,
        spelling=spelling,
        template=template,
    )


def _measured(
    model: HookedModel,
    neurons: NeuronSet,
    questions: Sequence[Question],
    lams: Sequence[float],
    settings: EffectSettings,
    batch_size: int | None,
    progress: bool,
) -> dict[str, Tensor]:
    """The tensors of `NeuronEffects` by their names."""
    # a set is sorted, so trials come layer by layer, as `ScaledRows` needs them
    trials: list[Trial] = [
        (neuron.layer, neuron.index, float(lam)) for neuron in neurons for lam in lams
    ]
    values: list[Tensor] = []
    with torch.no_grad(), fast_products(model.cfg):
        for question in tqdm(questions, "scaling neurons", unit="question", disable=not progress):
            tokens = settings.template.tokens(model, question.text)
            rows = ScaledRows(model, settings.site, tokens, settings.positions)
            right, wrong = settings.spelling.tokens(question.answer)
            values.append(rows.values(trials, right, wrong, batch_size or rows.most))
    prob, logit_diff = torch.stack(values, 1)  # [question, 1 + trial] each
    # float16 ends at 65,504: a large factor may be beyond it
    if not bool(logit_diff.isfinite().all()):
        raise ValueError(f"the model overflows at a factor of {lams}: load it in float32.")
    shape = (len(questions), len(neurons), len(lams))
    return {
        "prob": prob[:, 1:].reshape(shape),
        "logit_diff": logit_diff[:, 1:].reshape(shape),
        "base_prob": prob[:, 0],
        "base_logit_diff": logit_diff[:, 0],
    }


def check_effects(lams: object, batch_size: object, dtype: torch.dtype | str | None = None) -> None:
    """Raise `ValueError` for factors or a batch size that `neuron_effects` does not take."""
    if isinstance(lams, str) or not isinstance(lams, Sequence):
        raise ValueError(f"lams is {lams!r}: allowed are one or more different factors in a list.")
    factors = cast(Sequence[object], lams)
    for lam in factors:
        check_factor(lam, dtype)
    if not factors or len(set(factors)) < len(factors):
        raise ValueError(f"lams is {lams}: allowed are one or more different factors.")
    if batch_size is not None:
        check_count("batch_size", batch_size)
