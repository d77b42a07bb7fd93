"""The second pass, a baseline: suppress tokens that are likelier after a text that invites bias.

`kb_lens.evaluation.second_pass` has the formula and its source (Schick, Udupa and Schütze 2021,
arXiv 2103.00453, who call it Self-Debiasing; here that is the name of the method that asks twice).

Differences from the published method:

- `TEXTS` have the form that the comparison by Meade, Poole-Dayan and Reddy (An Empirical Survey of
  the Effectiveness of Debiasing Techniques, ACL 2022, arXiv 2110.08527) uses for StereoSet and
  CrowS-Pairs, but end in a newline, like the texts for toxic language in the authors' released
  code.
    Those of the comparison end in a space.
- They compare every item with the text of its own type of bias. Here all items are compared with
all
  texts and the smallest factor counts, as in the paper with several descriptions. To compare a type
  with its own text, evaluate its items with one text: ``SecondPass((TEXTS["gender"],))``.
- The paper measures CrowS-Pairs on masked language models; here models are causal.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any

from kb_lens.benchmarks.benchmark import Benchmark
from kb_lens.benchmarks.requests import Against
from kb_lens.models.exclusive_use import held
from kb_lens.models.hooked import HookedModel

TEXTS = {
    dimension: f"The following text discriminates against people because of their {reason}:\n"
    for dimension, reason in {
        "gender": "gender",
        "race": "race/color",
        "religion": "religion",
        "age": "age",
        "disability": "disability",
        "nationality": "nationality",
        "physical_appearance": "physical appearance",
        "sexual_orientation": "sexual orientation",
        "socioeconomic": "socioeconomic status/occupation",
    }.items()
}
"""A text for each type of bias of CrowS-Pairs."""

DEFAULT_TEXTS = tuple(TEXTS[dimension] for dimension in ("gender", "race", "religion"))
"""The texts of the questions' dimensions. Each costs a pass."""


@dataclass(frozen=True)
class SecondPass:
    """Compare every probability with the one after texts that invite bias."""

    texts: tuple[str, ...] = DEFAULT_TEXTS
    """The texts before the prompt, each in its own pass, with their final newline."""

    decay: float = 50.0
    """How fast a token's factor falls with its gain after a text: the paper's lambda."""

    floor: float = 0.01
    """The smallest factor, as in the authors' code; 0 for the paper's formula, which has none."""

    def __post_init__(self) -> None:
        self.against  # noqa: B018 - checks the values now

    @property
    def against(self) -> Against:
        """The same in the form of a request."""
        return Against(self.texts, self.decay, self.floor)

    def applied(self, model: HookedModel) -> AbstractContextManager[HookedModel]:
        """The unchanged model, which no other thread may change meanwhile."""
        return held(model)

    def asked(self, benchmark: Benchmark) -> Benchmark:
        """The benchmark with the second pass in every request."""
        requests = [replace(request, against=self.against) for request in benchmark.requests]
        return replace(benchmark, requests=tuple(requests))

    def describe(self) -> dict[str, Any]:
        """The texts and both numbers."""
        return {"second_pass": list(self.texts), "decay": self.decay, "floor": self.floor}
