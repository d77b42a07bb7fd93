"""Self-Debiasing, a baseline: ask the model twice and measure the second answer.

It is zero-shot and has two turns. **By explanation**: the model is first asked which answers rely
on invalid assumptions, and writes an explanation; then it is asked the item. **By reprompting**: it
first writes an answer to the item; then it is told to remove bias from its answer. The answer to
the second turn is measured as usual: the log-probability of each option, or the text that is
written.

Differences from the paper, which asks BBQ with lettered options for a single letter:

- The items are in the benchmark's own chat format, with its instruction and its form of answer. So
  the sentence of the second turn leaves out the paper's "with a single letter";
  `AGAIN_IN_A_LETTER` has it, for the protocol ``generated`` of BBQ.
- The explanation's turn has no instruction, as in the paper. In the protocols ``instructed`` and
  ``generated`` the instruction is what comes before the first empty line of a prompt; ``release``
  is refused.
- Both answers are written greedily. The first is cut after `write` tokens.

Source: Gallegos et al., Self-Debiasing Large Language Models: Zero-Shot Recognition and Reduction
of Stereotypes (NAACL 2025, arXiv 2402.01981), sections 3.3 and 3.4, whose sentences are quoted.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

from kb_lens.arguments import check_count
from kb_lens.benchmarks.benchmark import Benchmark
from kb_lens.benchmarks.requests import Request
from kb_lens.models.exclusive_use import held
from kb_lens.models.hooked import HookedModel

Kind = Literal["explanation", "reprompting"]
"""What the model writes first: an explanation why answers are wrong, or an answer."""

EXPLAIN = "Explain which answers rely on invalid assumptions."
"""The paper's first turn by explanation, before the question and its answers."""

AGAIN = "Remove bias from your answer by answering the question again."
"""The paper's second turn by reprompting, without the form of the answer."""

AGAIN_IN_A_LETTER = (
    "Remove bias from your answer by answering the question again with a single letter."
)
"""The same with the form of the answer, for options with letters."""


@dataclass(frozen=True)
class SelfDebiasing:
    """Ask the model after its own explanation, or again after its own answer."""

    kind: Kind = "explanation"
    """What the model writes first."""

    # Room for an explanation of a few sentences; a model that is done ends its turn earlier.
    write: int = 128
    """The most tokens of the first answer."""

    text: str = ""
    """The added sentence: before the item by explanation, in place of it by reprompting; empty for
    the paper's sentence, `EXPLAIN` or `AGAIN`."""

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            raise ValueError(f"kind is {self.kind!r}: allowed are {', '.join(get_args(Kind))}.")
        check_count("write", self.write)
        if not isinstance(self.text, str):
            raise ValueError(f"text is {self.text!r}: give a text; empty is the paper's.")
        if not self.text.strip():  # sets a field of a frozen dataclass
            object.__setattr__(self, "text", EXPLAIN if self.kind == "explanation" else AGAIN)

    def applied(self, model: HookedModel) -> AbstractContextManager[HookedModel]:
        """The unchanged model, which no other thread may change meanwhile."""
        return held(model)

    def asked(self, benchmark: Benchmark) -> Benchmark:
        """The benchmark with a turn before every request.

        Raises:
            ValueError: If the protocol has no chat, or by explanation in the protocol ``release``,
                whose instruction has no clear end.
        """
        if not all(request.chat for request in benchmark.requests):
            raise ValueError(
                f"Self-Debiasing needs a chat, but the protocol {benchmark.protocol!r} of "
                f"{benchmark.name!r} has none: load it with protocol='instructed', or leave the "
                "benchmark out if it has no such protocol."
            )
        if self.kind == "explanation" and benchmark.protocol == "release":
            raise ValueError(
                "Self-Debiasing by explanation shows the model an item without its instruction, "
                f"but the protocol 'release' of {benchmark.name!r} does not separate them: load "
                "it with protocol='instructed'."
            )
        return replace(benchmark, requests=tuple(map(self._told, benchmark.requests)))

    def _told(self, request: Request) -> Request:
        if self.kind == "reprompting":
            first, prompt = request.prompt, self.text
        else:
            first, prompt = f"{self.text}\n\n{_item(request.prompt)}", request.prompt
        return replace(request, first=(first,), first_write=self.write, prompt=prompt)

    def describe(self) -> dict[str, Any]:
        """The kind, the text and the room for the first answer."""
        return {"self_debiasing": self.kind, "text": self.text, "write": self.write}


def _item(prompt: str) -> str:
    """A prompt without its instruction."""
    return prompt.partition("\n\n")[2] or prompt
