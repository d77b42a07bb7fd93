"""The requests of a benchmark and the scores of their options."""

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
"""Characters of a text: [start, end)."""


@dataclass(frozen=True)
class Excerpt:
    """Words of a request's options that are scored separately.

    The score is the sum of log-probabilities of the option's tokens in the words, each given
    everything before it. Tokens are located by their characters. A token that is only partly in
    the words does not count.
    """

    words: tuple[tuple[Span, ...], ...]
    """The words of each option, in order; the space before a word belongs to it."""

    aligned: bool = False
    """Whether the options share these words, with the k-th word of each option the same. A word
    that cannot be counted in one option is then counted in none, so that the sums are over the same
    words."""

    def __post_init__(self) -> None:
        lengths = {len(spans) for spans in self.words}
        if self.aligned and len(lengths) > 1:
            raise ValueError(f"aligned options need equally many words, got {sorted(lengths)}.")


@dataclass(frozen=True, order=True)
class Against:
    """Texts after which a request is read a second time, see `kb_lens.evaluation.second_pass`.

    Tokens that are likelier after one of them are made less likely.
    """

    texts: tuple[str, ...]
    """Each is put unchanged before the prompt, in its own pass. In a chat it begins the user's
    text."""

    decay: float
    """How fast a token's factor falls with its gain after a text."""

    floor: float = 0.0
    """The smallest factor."""

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
    """The settings of sampling, see `kb_lens.evaluation.sampling`."""

    temperature: float
    """The temperature: logits are divided by it."""

    top_k: int
    """The number of likeliest tokens that one is drawn from."""

    repetition_penalty: float = 1.0
    """The repetition penalty: the logit of a token in the text so far is divided by it, or
    multiplied if it is below 0; 1 for no penalty."""

    seed: int = 0
    """The seed. The same prompt and seed give the same text."""

    def __post_init__(self) -> None:
        for name in ("temperature", "repetition_penalty"):
            value = check_number(name, getattr(self, name), _FACTORS)
            if not (math.isfinite(value) and value > 0):
                raise ValueError(f"{name} is {value}: allowed is {_FACTORS}.")
        check_count("top_k", self.top_k)
        check_seed(self.seed)


@dataclass(frozen=True)
class Request:
    """A prompt, the options that could follow it, and how much the model writes after it."""

    prompt: str
    """The text before each option; empty if the options are whole texts. In a chat the user's
    text."""

    options: tuple[str, ...] = ()
    """The texts to score. After a bare prompt each begins with the space that separates it; in a
    chat they begin without one, like the model's turn."""

    chat: bool = False
    """Whether the prompt is put into the model's chat template (or its plain form)."""

    system: str = SYSTEM
    """The system text of a chat."""

    write: int = 0
    """The most tokens that the model writes after the prompt; 0 for none."""

    chat_format: ChatFormat = field(default=ChatFormat(), repr=False)
    """How a chat template is rendered; part of a benchmark's digest unless it is the default."""

    unstarted: bool = field(default=False, repr=False)
    """Whether whole texts are scored a second time with the start token only before the first
    token; all other tokens are predicted from the text before them, as the tokenizer writes it.
    After a prompt both scores are the same."""

    excerpts: tuple[Excerpt, ...] = field(default=(), repr=False)
    """Words of the options to score separately; not in a chat."""

    first: tuple[str, ...] = field(default=(), repr=False)
    """The user's turns of a chat before the prompt. The model answers each of them greedily."""

    first_write: int = field(default=0, repr=False)
    """The most tokens that the model writes after each of these turns."""

    history: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    """(role, text) of the turns before the prompt of a chat: `first` with the model's answers."""

    against: Against | None = field(default=None, repr=False)
    """The texts of the second pass; None for no second pass."""

    sampling: Sampling | None = field(default=None, repr=False)
    """How generated tokens are drawn; None for greedy generation."""

    @property
    def n_scores(self) -> int:
        """The number of scores, see `OptionScores`."""
        return len(self.options) * (1 + self.unstarted + len(self.excerpts))

    @property
    def further(self) -> str:
        """The parts of a request apart from prompt and options, for a benchmark's digest."""
        words = repr((self.unstarted, self.excerpts)) if self._of_whole_texts else ""
        around = (self.first, self.first_write, self.history, self.against)
        # With the request they belong to; requests without such parts add nothing.
        words += repr((self, *around)) if any(around) else ""
        if self.sampling and self.against:  # drawing from log-probabilities would give another text
            words += "drawn from logits"
        return words + (repr((self, self.sampling)) if self.sampling else "")

    def last_turn(self) -> Request:
        """The request without its first turns."""
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
            raise ValueError("sampling needs a text to write: give a number of tokens in write.")
        if self._of_whole_texts and self.chat:
            raise ValueError(
                "excerpts and texts without a start need whole texts, not answers in a chat: "
                f"got {self.prompt!r}."
            )
        if any(len(excerpt.words) != len(self.options) for excerpt in self.excerpts):
            raise ValueError(f"an excerpt needs the words of {len(self.options)} options.")
        if (self.first or self.history) and not self.chat:
            raise ValueError("only a chat has turns before the prompt: set chat=True.")
        if bool(self.first) != (self.first_write > 0):
            raise ValueError(
                f"first turns need room for the model's answers: got {self.first!r} "
                f"and first_write={self.first_write}."
            )


@dataclass(frozen=True, eq=False)
class OptionScores:
    """How likely each option of each request is, in the order of the requests.

    The columns are the options, then, if requested, the options without a start, and each excerpt
    of each option. An excerpt without a token has log-probability 0.
    """

    logprob: Float[np.ndarray, "request option"]
    """Summed natural-log probability of the option's tokens given the prompt. Requests with fewer
    options than the widest one are padded with NaN."""

    tokens: Int[np.ndarray, "request option"]
    """Number of tokens in each sum; 0 if there is no option."""

    texts: tuple[str, ...] = ()
    """The text that the model wrote after each prompt; empty if no request asked for it."""
