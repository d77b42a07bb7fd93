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
"""Raise it when a result would come out otherwise under the same key."""


def check_units(model: HookedModel, units: Iterable[Unit]) -> None:
    """Refuse what cannot be asked of the model, before anything is measured.

    Raises:
        ValueError: Names the condition and the benchmark.
    """
    seen: set[str] = set()
    for unit in units:
        with naming(str(unit)):
            asked = unit.condition.asked(unit.benchmark)
            if asked.digest not in seen:
                check_fits(model, asked)
            seen.add(asked.digest)


class _NothingLeftError(Exception):
    """All of a unit is done, or others are at it."""


@dataclass(frozen=True)
class Unit:
    """What is done to the model, and what it is asked."""

    condition: Condition
    """What is done."""
    benchmark: Benchmark
    """What is asked, before the condition has its say."""
    seed: int = 0
    """Of the bootstrap."""
    batch_tokens: int | None = None
    """At most this many tokens in one forward pass; no part of its key."""

    def __str__(self) -> str:
        return f"{self.condition.name}, {self.benchmark.key}"

    def key(self, model: HookedModel) -> str:
        """Its name by content: the same change of the same weights asked the same texts.

        Every column of the items counts, and the tokens of some requests stand for the
        tokenizer and its chat template.
        """
        change = self.condition.describe() or {}
        # How neurons were found, and what a checkpoint is called, does not change what they do.
        for name in ("origin", "checkpoint"):
            change.pop(name, None)
        # Another checkpoint in the model's place has the key that it would have by itself.
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
            store: Where its entry will be; finished slices are kept there until it is. None keeps
                nothing.
            progress: Whether to show a progress bar.
        """
        # The key before the condition is applied: some change the weights, and what is measured
        # is the model under the condition, which may be another one.
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
        """Do slices of it that another process has not begun; returns whether there were any.

        Args:
            model: The model without the condition.
            store: Where that process keeps them, and will keep its entry.
        """
        if not is_divided(self.benchmark):
            return False
        key = self.key(model)
        # Left by an exception: a block in which the model never runs is taken for a mistake.
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
        """Its result in the store, under the names that model and condition have here."""
        content = store.read(key)
        if content is None:
            raise ValueError(f"the result of {self} was damaged after it was written: start again.")
        return self.named(content, model)

    def measured(
        self, model: HookedModel, store: Store, *, progress: bool = False
    ) -> EvaluationResult:
        """Its result, from the store if it is there."""
        work = partial(self.entry, model, store, progress=progress)
        return self.named(store.obtain(self.key(model), work), model)

    def named(self, content: bytes, model: HookedModel) -> EvaluationResult:
        """The result in an entry. All who ask the same share it; its names are the asker's."""
        result = result_from_bytes(content)
        return replace(
            result,
            model=model_name(model),
            fingerprint=fingerprint(model),
            condition=self.condition.info(),
        )
