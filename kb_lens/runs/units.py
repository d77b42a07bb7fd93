"""The unit of work of every study: one condition of the model on one benchmark."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from kb_lens.benchmarks.benchmark import Benchmark
from kb_lens.evaluation.evaluate import evaluate
from kb_lens.evaluation.results import EvaluationResult
from kb_lens.interventions.conditions import Condition
from kb_lens.models.hooked import fingerprint, model_name
from kb_lens.models.prompts import request_tokens
from kb_lens.runs.engines import run_serial
from kb_lens.runs.unit_store import UnitStore, unit_key

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
    batch_tokens: int | None = None
    """At most this many tokens in one forward pass; no part of its key."""

    def __str__(self) -> str:
        return f"{self.condition.name}, {self.benchmark.key}"

    def key(self, model: Any) -> str:
        """Its name by content: the same change of the same weights asked the same texts.

        Every column of the items counts, and the tokens of the first request stand for the
        tokenizer and its chat template.
        """
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
            "items": asked.items_digest,
            "tokens": _first_tokens(model, asked),
            "seed": self.seed,
        }
        return unit_key(content)

    def work(self, model: Any) -> EvaluationResult:
        """Evaluate it."""
        asked = self.condition.asked(self.benchmark)
        with self.condition.applied(model):
            return evaluate(
                model,
                asked,
                batch_tokens=self.batch_tokens,
                progress=False,
                seed=self.seed,
            )

    def kept(self, key: str, model: Any, store: UnitStore) -> EvaluationResult:
        """Its result in the store, under the name that the model has here."""
        found = store.read(key)
        if found is None:
            raise ValueError(f"the result of {self} was damaged after it was written: start again.")
        return replace(found, model=model_name(model))

    def measured(self, model: Any, store: UnitStore) -> EvaluationResult:
        """Its result, from the store if it is there."""
        key = self.key(model)
        run_serial({key: self}, store, lambda unit: unit.work(model), progress=False)
        return self.kept(key, model, store)


def _first_tokens(model: Any, benchmark: Benchmark) -> list[int]:
    one = benchmark.requests[0]
    text = one.prompt + "".join(one.options[:1])
    return request_tokens(model.tokenizer, text, one.system, one.chat)
