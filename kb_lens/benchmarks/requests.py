"""What a benchmark asks of a model, and what it gets back."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int


@dataclass(frozen=True)
class Request:
    """A prompt and the texts that could follow it."""

    prompt: str
    """What comes before each option; empty if the options are whole texts."""

    options: tuple[str, ...]
    """The texts to score; each brings the space that separates it from the prompt."""

    def __post_init__(self) -> None:
        if isinstance(self.options, str) or not self.options:
            raise ValueError(
                f"a request needs a tuple of at least one option, got {self.options!r}"
            )


@dataclass(frozen=True, eq=False)
class OptionScores:
    """How likely each option of each request is, in the order of the requests."""

    logprob: Float[np.ndarray, "request option"]
    """Summed natural-log probability of the option's tokens given the prompt. Requests with fewer
    options than the widest one are filled up with NaN."""

    tokens: Int[np.ndarray, "request option"]
    """Number of tokens that each sum runs over; 0 where there is no option."""
