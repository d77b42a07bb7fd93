"""Find the factors at which random neurons do the same damage as a method, and keep them."""

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

# Few, and always the same: every step of the search scores them all, for every draw.
N_DAMAGE_TEXTS = 24
"""Number of passages of plain text on which damage is measured."""
_FORMAT = 1
"""Increase it when the same key would give another factor."""

Measured = Callable[[Condition, Benchmark], EvaluationResult]
"""Measures one condition on one benchmark; the caller keeps the results."""


def damage_texts(seed: int) -> Benchmark:
    """The passages on which damage is measured."""
    return load_benchmark("plain_text", limit=N_DAMAGE_TEXTS, seed=seed)


def fits(model: HookedModel, texts: Benchmark) -> bool:
    """Whether every passage fits in the model's context."""
    n_ctx = getattr(model.cfg, "n_ctx", None)
    passages = [option for request in texts.requests for option in request.options]
    # One token is added before a passage.
    longest = 1 + max(len(ids) for ids in model.tokenizer(passages)["input_ids"])
    return n_ctx is None or longest <= n_ctx


def damage(measured: Measured, texts: Benchmark, neurons: NeuronSet, lam: float) -> float:
    """The change of the mean log-probability per token on plain text; below 0 is damage."""
    scaled = Condition(f"lambda {lam:g}", Scaling(neurons, lam))
    before = measured(Condition("base"), texts).metrics["logprob_per_token"].value
    after = measured(scaled, texts).metrics["logprob_per_token"].value
    return after - before


@dataclass(frozen=True)
class Search:
    """The search for the factor at which a control does a method's damage."""

    control: NeuronSet
    """The neurons of the control."""
    target: float
    """The `damage` to reach. Nothing is measured unless it is below 0."""

    def key(self, model: HookedModel, texts: Benchmark) -> str:
        """The key of its result, by the control's change of the weights and the texts."""
        control = Unit(Condition("control", Scaling(self.control, 1.0)), texts)
        return entry_key(["same damage", _FORMAT, control.key(model), self.target])

    def found(self, measured: Measured, texts: Benchmark) -> Matched:
        """The factor, see `matched_factor`."""
        if self.target >= 0:  # the method does no damage: factor 1, which does none, is nearest
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
    """The results of the searches.

    Args:
        model: The model.
        searches: The searches.
        measured: Measures one condition.
        texts: The passages on which damage is measured.
        store: The store of the results; None keeps nothing.
        progress: Whether to show a progress bar.
    """
    kept = entries(
        searches,
        None if store is None else replace(store, suffix=".json"),
        lambda search: search.key(model, texts),
        lambda search: json.dumps(asdict(search.found(measured, texts))).encode(),
        kind="damage-matched factor",
        progress=progress,
    )
    return [Matched(**json.loads(content)) for content in kept]
