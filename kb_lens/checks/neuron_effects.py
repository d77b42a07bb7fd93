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

import torch
from torch import Tensor
from tqdm.auto import tqdm

from kb_lens.checks.effects import EffectSettings, NeuronEffects
from kb_lens.checks.scaled_rows import ScaledRows, Trial
from kb_lens.interventions.positions import Positions, check_positions
from kb_lens.interventions.scaling import check_factor
from kb_lens.knowledge.check import answer_spelling
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
        knowledge: What `check_knowledge` found for these questions with this template and style;
            asked here if not given.
        template: The words around each question; default the paper's.
        answer_style: As in `attribute`.
        batch_size: Most neurons x factors in one forward pass; default 256 one-token rows or 32
            whole prompts.
        progress: Whether to show progress bars.

    Raises:
        ValueError: If the set is empty or belongs to another model, a factor is not finite or
            comes twice, or `positions` or `batch_size` is not allowed.
    """
    _check(neurons, questions, lams, positions, batch_size)
    neurons.check_model(model)
    template = template or PromptTemplate()
    spelling = answer_spelling(
        model, questions, template, knowledge, answer_style=answer_style, progress=progress
    )
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


def check_effects(lams: Sequence[float], batch_size: int | None) -> None:
    """Raise `ValueError` for factors or a batch size that `neuron_effects` does not take."""
    if not lams or len(set(lams)) < len(lams):
        raise ValueError(f"lams is {lams}: allowed are one or more different factors.")
    for lam in lams:
        check_factor(lam)
    if batch_size is not None and batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}: allowed are integers from 1.")


def _check(
    neurons: NeuronSet,
    questions: Sequence[Question],
    lams: Sequence[float],
    positions: str,
    batch_size: int | None,
) -> None:
    check_positions(positions)
    check_effects(lams, batch_size)
    if not len(neurons) or not questions:
        what = "the neuron set is empty" if questions else "there are no questions"
        raise ValueError(f"{what}: there is nothing to measure.")
