"""The second pass, a baseline: what is likelier behind a text that invites bias is held down.

`kb_lens.evaluation.second_pass` has the formula and its source (Schick, Udupa and Schütze 2021,
arXiv 2103.00453, who call it Self-Debiasing; the name is taken here by the method that asks twice).

Where this differs from what is published:

- `TEXTS` have the form that the comparison by Meade, Poole-Dayan and Reddy (An Empirical Survey of
  the Effectiveness of Debiasing Techniques, ACL 2022, arXiv 2110.08527) uses for StereoSet and
  CrowS-Pairs, with a newline at the end, as the authors' released code has behind its texts for
  toxic language. Theirs end in a space.
- They set every item against the text of its own type of bias. Here all items are set against all
  texts, the least factor counting, as the paper does with several descriptions. To set a type
  against its own, evaluate its items with one text: ``SecondPass((TEXTS["gender"],))``.
- The paper's CrowS-Pairs are of masked language models; these are causal ones.
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
"""Those of the dimensions that the questions are about. Each costs a pass."""


@dataclass(frozen=True)
class SecondPass:
    """Every probability is set against the one behind texts that invite bias."""

    texts: tuple[str, ...] = DEFAULT_TEXTS
    """What is put in front, each in a pass of its own; it brings the newline that ends it."""

    decay: float = 50.0
    """How fast a token's factor falls with what it gains behind a text: the paper's lambda."""

    floor: float = 0.01
    """The least factor: that of the authors' code. The paper's formula has none: 0."""

    def __post_init__(self) -> None:
        self.against  # noqa: B018 - what is not allowed is refused now

    @property
    def against(self) -> Against:
        """The same as a request has it."""
        return Against(self.texts, self.decay, self.floor)

    def applied(self, model: HookedModel) -> AbstractContextManager[HookedModel]:
        """The model as it is, and no other thread may change it meanwhile."""
        return held(model)

    def asked(self, benchmark: Benchmark) -> Benchmark:
        """The benchmark with the second pass in every request."""
        requests = [replace(request, against=self.against) for request in benchmark.requests]
        return replace(benchmark, requests=tuple(requests))

    def describe(self) -> dict[str, Any]:
        """The texts and both numbers."""
        return {"second_pass": list(self.texts), "decay": self.decay, "floor": self.floor}
