"""What a benchmark asks of a model, and what it gets back."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float, Int

from kb_lens.models.chat import ChatFormat

SYSTEM = "You are a useful assistant."
"""The system text of chat prompts: the paper's."""


@dataclass(frozen=True)
class Request:
    """A prompt, the texts that could follow it, and whether the model shall go on from it."""

    prompt: str
    """What comes before each option; empty if the options are whole texts. In a chat, what the
    user says."""

    options: tuple[str, ...] = ()
    """The texts to score. After a bare prompt each brings the space that separates it; in a chat
    they begin as the model's turn begins, without one."""

    chat: bool = False
    """Whether the prompt is put into the model's chat template (or its plain form)."""

    system: str = SYSTEM
    """The system text of a chat."""

    write: int = 0
    """How many tokens the model writes after the prompt at most, greedily; 0 for none."""

    chat_format: ChatFormat = field(default=ChatFormat(), repr=False)
    """How a chat template is rendered; the digest of a benchmark has it where it is not this."""

    def __post_init__(self) -> None:
        if isinstance(self.options, str) or not (self.options or self.write):
            raise ValueError(
                "a request needs a tuple of at least one option, or a number of tokens to write; "
                f"got {self.options!r} and {self.write}."
            )


@dataclass(frozen=True, eq=False)
class OptionScores:
    """How likely each option of each request is, in the order of the requests."""

    logprob: Float[np.ndarray, "request option"]
    """Summed natural-log probability of the option's tokens given the prompt. Requests with fewer
    options than the widest one are filled up with NaN."""

    tokens: Int[np.ndarray, "request option"]
    """Number of tokens that each sum runs over; 0 where there is no option."""

    texts: tuple[str, ...] = ()
    """What the model wrote after each prompt; empty if no request asked for it."""
