"""A debiasing prompt, a baseline: the model is told to be fair."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

from kb_lens.benchmarks.benchmark import Benchmark


@dataclass(frozen=True)
class Prompting:
    """A text that tells the model to be fair: the system text of chats, the beginning of others."""

    text: str
    """What the model is told."""

    def __post_init__(self) -> None:
        if not self.text.strip():
            raise ValueError("the debiasing prompt is empty: there is nothing to tell the model.")

    def applied(self, model: Any) -> AbstractContextManager[Any]:
        """The model as it is."""
        return nullcontext(model)

    def asked(self, benchmark: Benchmark) -> Benchmark:
        """The benchmark with the text in every request."""
        requests = tuple(
            replace(one, system=self.text)
            if one.chat
            else replace(one, prompt=f"{self.text} {one.prompt}")
            for one in benchmark.requests
        )
        return replace(benchmark, requests=requests)

    def describe(self) -> dict[str, Any]:
        """The text."""
        return {"prompt": self.text}
