"""The effect of one neuron: the answer when that neuron alone is scaled.

`scale_neurons` scales a whole set. Here each neuron is scaled by itself, by each of some factors,
and P(right answer) and the logit difference are read again. Factor 0 is the neuron's ablation,
whose effect the attribution score estimates. Several factors give a dose-response curve.

One forward pass tries many neurons: each row of the batch has its own neuron and factor
(`kb_lens.checks.scaled_rows`).
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, cast

import torch
from safetensors.torch import load, save
from torch import Tensor

from kb_lens.arguments import check_count
from kb_lens.attribution.attribute import check_cache
from kb_lens.checks.effects import EffectSettings, NeuronEffects
from kb_lens.checks.scaled_rows import ScaledRows, Trial
from kb_lens.interventions.positions import Positions, check_positions
from kb_lens.interventions.scaling import check_factor
from kb_lens.knowledge.check import answer_spelling, check_questions
from kb_lens.knowledge.verdict import Knowledge
from kb_lens.models.answers import AnswerStyle, Spelling
from kb_lens.models.bridge_check import as_the_checkpoint
from kb_lens.models.hooked import HookedModel, fingerprint, model_name, weights_digest
from kb_lens.models.prompts import PromptTemplate
from kb_lens.neurons.sets import Neurons, NeuronSet, neurons_of
from kb_lens.passes.matrix_products import fast_products
from kb_lens.questions import Question
from kb_lens.shared_work import entries
from kb_lens.store import Store, entry_key

_Asked = tuple[Tensor, tuple[int, int]]
"""A prompt's tokens, and those of the right and the wrong answer."""
_FORMAT = 1
"""Increase it when the same key would give another effect."""


@as_the_checkpoint
def neuron_effects(
    model: HookedModel,
    neurons: Neurons,
    questions: Sequence[Question],
    *,
    lams: Sequence[float] = (0.0, 2.0),
    positions: Positions = "last",
    knowledge: Knowledge | None = None,
    spelling: Spelling | None = None,
    template: PromptTemplate | None = None,
    answer_style: AnswerStyle = "model",
    batch_size: int | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    progress: bool = True,
) -> NeuronEffects:
    """Scale each neuron alone, by each factor, and read the answer to every question.

    Args:
        model: A `TransformerBridge` or `HookedTransformer`.
        neurons: The neurons: a set, at its site, or names, ``["L26.N1371"]``, at site ``post``.
        questions: What is asked.
        lams: The factors: 0 ablates, 1 changes nothing.
        positions: ``last``: only the last position of the prompt, where attributions are taken; a
            row is one token over a shared prefix if the model allows it. ``all``: every position
            of the prompt; a row is a whole prompt, slower by about the prompt's length.
        knowledge: The result of `check_knowledge` for these (or more) questions with this template
            and style; asked here if not given.
        spelling: Instead of `knowledge`, how yes and no are spelled, such as in attributions.
        template: The words around each question; default the paper's.
        answer_style: As in `attribute`.
        batch_size: Most neurons x factors in one forward pass; default 256 one-token rows or 32
            whole prompts.
        cache_dir: The folder in which finished questions are kept. The same call continues from
            there; processes that share it share the work. Refused while hooks are set.
        progress: Whether to show progress bars.

    Raises:
        ValueError: If the set is empty or belongs to another model, `knowledge` is of another
            model, template or questions, a factor is given twice or is not finite in the type of
            the weights, or another argument is not allowed.
    """
    check_positions(positions)
    check_effects(lams, batch_size, model.cfg.dtype)
    check_questions(questions)
    check_cache(cache_dir, model)
    neurons = neurons_of(model, neurons)
    template = PromptTemplate() if template is None else template
    style: dict[str, Any] = {"answer_style": answer_style, "progress": progress}
    spelling = answer_spelling(model, questions, template, knowledge, spelling, **style)
    settings = _settings(model, neurons, positions, spelling, template)
    store = None if cache_dir is None else Store(cache_dir, ".safetensors")
    tensors = _measured(model, neurons, questions, lams, settings, batch_size, store, progress)
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
    store: Store | None,
    progress: bool,
) -> dict[str, Tensor]:
    """The tensors of `NeuronEffects` by their names."""
    # a set is sorted, so the trials are sorted by layer, as `ScaledRows` needs them
    trials: list[Trial] = [
        (neuron.layer, neuron.index, float(lam)) for neuron in neurons for lam in lams
    ]
    asked = [
        (settings.template.tokens(model, question.text), settings.spelling.tokens(question.answer))
        for question in questions
    ]

    def key(each: _Asked) -> str:
        tokens, answers = each
        content = [_FORMAT, weights_digest(model), settings.dtype, settings.site]
        return entry_key([*content, settings.positions, tokens.tolist(), answers, trials])

    def work(each: _Asked) -> bytes:
        tokens, answers = each
        rows = ScaledRows(model, settings.site, tokens, settings.positions)
        return save({"values": rows.values(trials, *answers, batch_size or rows.most).contiguous()})

    with torch.no_grad(), fast_products(model.cfg):
        kept = entries(asked, store, key, work, kind="question", progress=progress)
        values = [load(content)["values"] for content in kept]
    prob, logit_diff = torch.stack(values, 1)  # [question, 1 + trial] each
    # float16 ends at 65,504: a large factor may exceed it
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
