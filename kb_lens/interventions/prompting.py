"""A debiasing prompt, a baseline: tell the model to be fair."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any

from kb_lens.benchmarks.benchmark import Benchmark
from kb_lens.benchmarks.requests import Request
from kb_lens.models.exclusive_use import held
from kb_lens.models.hooked import HookedModel


@dataclass(frozen=True)
class Prompting:
    """A text that tells the model to be fair: a chat's system text, or a prompt's beginning."""

    text: str
    """The text for the model."""

    def __post_init__(self) -> None:
        if not self.text.strip():
            raise ValueError("the debiasing prompt is empty: there is nothing to tell the model.")

    def applied(self, model: HookedModel) -> AbstractContextManager[HookedModel]:
        """The unchanged model, which no other thread may change meanwhile."""
        return held(model)

    def asked(self, benchmark: Benchmark) -> Benchmark:
        """The benchmark with the text in every request."""
        return replace(benchmark, requests=tuple(map(self._told, benchmark.requests)))

    def _told(self, request: Request) -> Request:
        if request.chat:
            return replace(request, system=self.text)
        # a prompt without a chat has no system text: the instruction comes first
        return replace(request, prompt=f"{self.text} {request.prompt}")

    def describe(self) -> dict[str, Any]:
        """The text."""
        return {"prompt": self.text}
