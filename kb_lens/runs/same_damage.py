"""Random neurons brought to the damage that a method does, measured and kept as units are."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial

from kb_lens.benchmarks.benchmark import Benchmark
from kb_lens.benchmarks.catalogue import load_benchmark
from kb_lens.checks.matched_factor import Matched, matched_factor
from kb_lens.evaluation.results import EvaluationResult
from kb_lens.interventions.conditions import Condition
from kb_lens.interventions.scaling import Scaling
from kb_lens.models.hooked import HookedModel
from kb_lens.neurons.sets import NeuronSet
from kb_lens.runs.units import Unit
from kb_lens.shared_work import entries
from kb_lens.store import Store, entry_key

# Every step of the search scores them all, for every draw: so few, and always the same.
N_DAMAGE_TEXTS = 24
"""Passages of plain text that damage is measured on."""
_FORMAT = 1
"""Raise it when a factor would come out otherwise under the same key."""

Measured = Callable[[Condition, Benchmark], EvaluationResult]
"""One condition on one benchmark, by who keeps what was measured."""


def damage_texts(seed: int) -> Benchmark:
    """What damage is measured on."""
    return load_benchmark("plain_text", limit=N_DAMAGE_TEXTS, seed=seed)


def fits(model: HookedModel, texts: Benchmark) -> bool:
    """Whether every passage is within the model's context."""
    n_ctx = getattr(model.cfg, "n_ctx", None)
    passages = [option for request in texts.requests for option in request.options]
    # One token more stands before a passage.
    longest = 1 + max(len(ids) for ids in model.tokenizer(passages)["input_ids"])
    return n_ctx is None or longest <= n_ctx


def damage(measured: Measured, texts: Benchmark, neurons: NeuronSet, lam: float) -> float:
    """The change of the mean log-probability of a token on plain text; below 0 is damage."""
    scaled = Condition(f"lambda {lam:g}", Scaling(neurons, lam))
    before = measured(Condition("base"), texts).metrics["logprob_per_token"].value
    after = measured(scaled, texts).metrics["logprob_per_token"].value
    return after - before


@dataclass(frozen=True)
class Search:
    """For the factor at which a control does a method's damage."""

    control: NeuronSet
    """The neurons that are to do it."""
    target: float
    """What it is to be, see `damage`. Nothing is measured unless it is below 0."""

    def key(self, model: HookedModel, texts: Benchmark) -> str:
        """The name of what it finds: the control's change of the weights, asked the texts."""
        control = Unit(Condition("control", Scaling(self.control, 1.0)), texts)
        return entry_key(["same damage", _FORMAT, control.key(model), self.target])

    def found(self, measured: Measured, texts: Benchmark) -> Matched:
        """The factor, see `matched_factor`."""
        if self.target >= 0:  # at factor 1, which does none, it is nearest to a method that helps
            return Matched(1.0, 0.0, reached=False)
        return matched_factor(partial(damage, measured, texts, self.control), self.target)


def at_same_damage(
    model: HookedModel,
    searches: Sequence[Search],
    measured: Measured,
    texts: Benchmark,
    store: Store | None,
    *,
    progress: bool = True,
) -> list[Matched]:
    """What each search finds.

    Args:
        model: What is measured.
        searches: For what.
        measured: Measures one condition.
        texts: What damage is measured on.
        store: Where what is found is kept; None keeps nothing.
        progress: Whether to show a progress bar.
    """
    kept = entries(
        searches,
        None if store is None else replace(store, suffix=".json"),
        lambda search: search.key(model, texts),
        lambda search: json.dumps(asdict(search.found(measured, texts))).encode(),
        kind="matched factor",
        progress=progress,
    )
    return [Matched(**json.loads(content)) for content in kept]
