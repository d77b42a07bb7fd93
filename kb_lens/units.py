"""The unit of work of every study: one condition of the model on one benchmark."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from kb_lens.benchmarks import Benchmark
from kb_lens.conditions import Condition
from kb_lens.evaluation import EvaluationResult, evaluate
from kb_lens.models import fingerprint
from kb_lens.unit_store import UnitStore, unit_key

_FORMAT = 1
"""Raise it when a result would come out otherwise under the same key."""


@dataclass(frozen=True)
class Unit:
    """What is done to the model, and what it is asked."""

    condition: Condition
    """What is done."""
    benchmark: Benchmark
    """What is asked, before the condition has its say."""
    seed: int = 0
    """Of the bootstrap."""

    def __str__(self) -> str:
        return f"{self.condition.name}, {self.benchmark.key}"

    def key(self, model: Any) -> str:
        """Its name by content: the same change of the same weights asked the same texts."""
        change = self.condition.describe() or {}
        change.pop("origin", None)  # how the neurons were found does not change what they do
        asked = self.condition.asked(self.benchmark)
        content = {
            "format": _FORMAT,
            "weights": fingerprint(model),
            "dtype": str(model.cfg.dtype),
            "change": change,
            "benchmark": asked.key,
            "digest": asked.digest,
            "items": [str(item) for item in asked.items["item"]],
            "seed": self.seed,
        }
        return unit_key(content)

    def work(self, model: Any) -> EvaluationResult:
        """Evaluate it."""
        asked = self.condition.asked(self.benchmark)
        with self.condition.applied(model):
            return evaluate(model, asked, progress=False, seed=self.seed)

    def measured(self, model: Any, store: UnitStore) -> EvaluationResult:
        """Its result, from the store if it is there."""
        key = self.key(model)
        found = store.read(key)
        if found is None:
            found = self.work(model)
            store.write(key, found)
        return found
