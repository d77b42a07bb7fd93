"""What a benchmark asks of a model, and what it gets back."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

import numpy as np
from jaxtyping import Float, Int

from kb_lens.arguments import all_texts, check_count, check_number, check_seed
from kb_lens.models.chat import ChatFormat

SYSTEM = "You are a useful assistant."
"""The system text of chat prompts: the paper's."""

_DECAYS = "a finite number from 0"
_FLOORS = "a number from 0 to 1"
_FACTORS = "a finite number above 0"

Span = tuple[int, int]
"""Characters of a text: the first, and the one behind the last."""


@dataclass(frozen=True)
class Excerpt:
    """Words of a request's options whose log-probability is asked for by itself.

    It is the sum over the option's tokens that lie in the words, each given all that is before it
    in the option. Where tokens lie is read off the characters that they stand for. A token that
    lies in these words and in others counts as none of these.
    """

    words: tuple[tuple[Span, ...], ...]
    """Of each option, its words in order; the space before a word belongs to it."""

    aligned: bool = False
    """Whether the options have these words in common, the k-th of each being the k-th of the
    others. What cannot be counted in one of them is counted in none: the sums are then over the
    same words."""

    def __post_init__(self) -> None:
        lengths = {len(spans) for spans in self.words}
        if self.aligned and len(lengths) > 1:
            raise ValueError(f"aligned options have equally many words, got {sorted(lengths)}.")


@dataclass(frozen=True, order=True)
class Against:
    """Texts that a request is read behind a second time, see `kb_lens.evaluation.second_pass`.

    What is likelier behind one of them is made less likely.
    """

    texts: tuple[str, ...]
    """Each is put in front of the prompt as it is, in a pass of its own. In a chat it begins what
    the user says."""

    decay: float
    """How fast the factor of a token falls with what it gains behind a text."""

    floor: float = 0.0
    """The least factor."""

    def __post_init__(self) -> None:
        if not all_texts(self.texts):
            raise ValueError(
                f"texts is {self.texts!r}: give a tuple of at least one text, none of them empty."
            )
        decay = check_number("decay", self.decay, _DECAYS)
        if not (math.isfinite(decay) and decay >= 0):
            raise ValueError(f"decay is {decay}: allowed is {_DECAYS}.")
        if not 0 <= check_number("floor", self.floor, _FLOORS) <= 1:
            raise ValueError(f"floor is {self.floor}: allowed is {_FLOORS}.")


@dataclass(frozen=True)
class Sampling:
    """How a model draws the tokens that it writes, see `kb_lens.evaluation.sampling`."""

    temperature: float
    """What the logits are divided by."""

    top_k: int
    """Out of how many likeliest tokens one is drawn."""

    repetition_penalty: float = 1.0
    """What the logit of a token that stands before is divided by, or multiplied with where it is
    below 0; 1 for no penalty."""

    seed: int = 0
    """Of the draws. The same prompt and seed give the same text."""

    def __post_init__(self) -> None:
        for name in ("temperature", "repetition_penalty"):
            value = check_number(name, getattr(self, name), _FACTORS)
            if not (math.isfinite(value) and value > 0):
                raise ValueError(f"{name} is {value}: allowed is {_FACTORS}.")
        check_count("top_k", self.top_k)
        check_seed(self.seed)


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
    """How many tokens the model writes after the prompt at most; 0 for none."""

    chat_format: ChatFormat = field(default=ChatFormat(), repr=False)
    """How a chat template is rendered; the digest of a benchmark has it where it is not this."""

    unstarted: bool = field(default=False, repr=False)
    """Whether whole texts are scored a second time, with the start token before the first token
    alone: all others are predicted from the text before them, as the tokenizer writes it. Behind a
    prompt no start token stands that the tokenizer does not write: both scores are the same."""

    excerpts: tuple[Excerpt, ...] = field(default=(), repr=False)
    """Words of the options to score by themselves; not of a chat's."""

    first: tuple[str, ...] = field(default=(), repr=False)
    """What the user of a chat says before the prompt, turn by turn. The model itself answers each
    in writing, greedily."""

    first_write: int = field(default=0, repr=False)
    """How many tokens the model writes after each of these turns at most."""

    history: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    """(role, text) of the turns that stand before the prompt of a chat; what becomes of `first`
    once it is answered."""

    against: Against | None = field(default=None, repr=False)
    """What the request is read behind a second time; None for nothing."""

    sampling: Sampling | None = field(default=None, repr=False)
    """How what is written is drawn; None for greedily."""

    @property
    def n_scores(self) -> int:
        """How many scores are asked for, see `OptionScores`."""
        return len(self.options) * (1 + self.unstarted + len(self.excerpts))

    @property
    def further(self) -> str:
        """What is asked beside the options, for the digest of a benchmark; empty if nothing is."""
        words = repr((self.unstarted, self.excerpts)) if self._of_whole_texts else ""
        around = (self.first, self.first_write, self.history, self.against)
        # With the request, so that it is known whose they are: of others there is no word.
        words += repr((self, *around)) if any(around) else ""
        if self.sampling and self.against:  # what was drawn from log-probabilities is another text
            words += "drawn from logits"
        return words + (repr((self, self.sampling)) if self.sampling else "")

    def last_turn(self) -> Request:
        """The request without what the user says first."""
        return replace(self, first=(), first_write=0) if self.first else self

    @property
    def _of_whole_texts(self) -> bool:
        return self.unstarted or bool(self.excerpts)

    def __post_init__(self) -> None:
        if isinstance(self.options, str) or not (self.options or self.write):
            raise ValueError(
                "a request needs a tuple of at least one option, or a number of tokens to write; "
                f"got {self.options!r} and {self.write}."
            )
        if self.sampling and not self.write:
            raise ValueError("sampling is of what the model writes: give a number in write.")
        if self._of_whole_texts and self.chat:
            raise ValueError(
                "excerpts and texts without a start are of whole texts, and none is an answer in a "
                f"chat: got {self.prompt!r}."
            )
        if any(len(excerpt.words) != len(self.options) for excerpt in self.excerpts):
            raise ValueError(f"an excerpt needs the words of {len(self.options)} options.")
        if (self.first or self.history) and not self.chat:
            raise ValueError("only a chat has turns before the prompt: set chat=True.")
        if bool(self.first) != (self.first_write > 0):
            raise ValueError(
                f"turns that the model answers first need room for its answers: got {self.first!r} "
                f"and first_write={self.first_write}."
            )


@dataclass(frozen=True, eq=False)
class OptionScores:
    """How likely each option of each request is, in the order of the requests.

    The options' columns come first; then, where they are asked for, the options without a start,
    and each excerpt's words of each option. An excerpt without a token has log-probability 0.
    """

    logprob: Float[np.ndarray, "request option"]
    """Summed natural-log probability of the option's tokens given the prompt. Requests with fewer
    options than the widest one are filled up with NaN."""

    tokens: Int[np.ndarray, "request option"]
    """Number of tokens that each sum runs over; 0 where there is no option."""

    texts: tuple[str, ...] = ()
    """What the model wrote after each prompt; empty if no request asked for it."""
