"""The unit of work of the main job and of every study: one condition on one benchmark."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial

from kb_lens.benchmarks.benchmark import Benchmark
from kb_lens.evaluation.encoding import sample_tokens
from kb_lens.evaluation.entries import result_from_bytes, result_to_bytes
from kb_lens.evaluation.evaluate import evaluate
from kb_lens.evaluation.results import EvaluationResult
from kb_lens.evaluation.slices import assist_scoring, check_fits, is_divided
from kb_lens.interventions.conditions import Condition
from kb_lens.models.hooked import HookedModel, fingerprint, model_name, weights_digest
from kb_lens.shared_work import naming
from kb_lens.store import Store, entry_key

_FORMAT = 1
"""Increase it when the same key would give another result."""


def check_units(model: HookedModel, units: Iterable[Unit]) -> None:
    """Refuse units that do not work for the model, before anything is measured.

    Raises:
        ValueError: If there is one; the message names the condition and the benchmark.
    """
    seen: set[str] = set()
    for unit in units:
        with naming(str(unit)):
            asked = unit.condition.asked(unit.benchmark)
            if asked.digest not in seen:
                check_fits(model, asked)
            seen.add(asked.digest)


class _NothingLeftError(Exception):
    """All slices of a unit are done, or other processes work on them."""


@dataclass(frozen=True)
class Unit:
    """A change of the model, and a benchmark."""

    condition: Condition
    """The change of the model."""
    benchmark: Benchmark
    """The benchmark, before the condition changes its prompts."""
    seed: int = 0
    """Seed of the bootstrap."""
    batch_tokens: int | None = None
    """At most this many tokens in one forward pass; not part of the key."""

    def __str__(self) -> str:
        return f"{self.condition.name}, {self.benchmark.key}"

    def key(self, model: HookedModel) -> str:
        """A digest of its content: the change of the weights, the weights and the texts.

        Every column of the items counts. The tokens of some requests represent the tokenizer and
        its chat template.
        """
        change = self.condition.describe() or {}
        # How neurons were found and the name of a checkpoint do not change the result.
        for name in ("origin", "checkpoint"):
            change.pop(name, None)
        # Another checkpoint has the key that it would have as the model.
        weights = change.pop("checkpoint_weights", None) or weights_digest(model)
        benchmark = self.condition.asked(self.benchmark)
        content = {
            "format": _FORMAT,
            "weights": weights,
            "dtype": str(model.cfg.dtype),
            "change": change,
            "benchmark": benchmark.key,
            "digest": benchmark.digest,
            "items": benchmark.items_digest,
            "tokens": sample_tokens(model, benchmark.requests),
            "seed": self.seed,  # of the intervals
        }
        return entry_key(content)

    def work(
        self, model: HookedModel, store: Store | None = None, *, progress: bool = False
    ) -> EvaluationResult:
        """Evaluate it.

        Args:
            model: The model without the condition.
            store: The store for its entry; finished slices are kept there until then. None keeps
                nothing.
            progress: Whether to show a progress bar.
        """
        # The key is computed before the condition is applied: some conditions change the weights,
        # others put another model in its place.
        weights = fingerprint(model)
        slices = None if store is None else store.pieces(self.key(model))
        with self.condition.applied(model) as changed:
            result = evaluate(
                changed,
                self.condition.asked(self.benchmark),
                store=slices,
                batch_tokens=self.batch_tokens,
                progress=progress,
                seed=self.seed,
            )
        return replace(
            result,
            model=model_name(model),
            fingerprint=weights,
            condition=self.condition.info(),
        )

    def entry(
        self, model: HookedModel, store: Store | None = None, *, progress: bool = False
    ) -> bytes:
        """Evaluate it, see `work`; its result as an entry of the store. Errors name the unit."""
        with naming(str(self)):
            return result_to_bytes(self.work(model, store, progress=progress))

    def assist(self, model: HookedModel, store: Store) -> bool:
        """Do slices of it that another process has not begun; return whether there were any.

        Args:
            model: The model without the condition.
            store: The store in which that process keeps them.
        """
        if not is_divided(self.benchmark):
            return False
        key = self.key(model)
        # Left by an exception: a block in which the model never runs is an error.
        with (
            suppress(_NothingLeftError),
            naming(str(self)),
            self.condition.applied(model) as changed,
        ):
            if not assist_scoring(
                changed,
                self.condition.asked(self.benchmark),
                store.pieces(key),
                is_over=lambda: key in store,
                batch_tokens=self.batch_tokens,
            ):
                raise _NothingLeftError
            return True
        return False

    def kept(self, key: str, model: HookedModel, store: Store) -> EvaluationResult:
        """Its result from the store, with the names of the model and condition used here."""
        content = store.read(key)
        if content is None:
            raise ValueError(f"the result of {self} was damaged after it was written: start again.")
        return self.named(content, model)

    def measured(
        self, model: HookedModel, store: Store, *, progress: bool = False
    ) -> EvaluationResult:
        """Its result, from the store if it has one."""
        work = partial(self.entry, model, store, progress=progress)
        return self.named(store.obtain(self.key(model), work), model)

    def named(self, content: bytes, model: HookedModel) -> EvaluationResult:
        """The result in an entry. Equal units share an entry, so the names are set here."""
        result = result_from_bytes(content)
        return replace(
            result,
            model=model_name(model),
            fingerprint=fingerprint(model),
            condition=self.condition.info(),
        )
