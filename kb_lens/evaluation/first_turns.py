"""Turns of a chat that the model answers before the measured one.

Some methods ask twice: the model first writes an answer, and then its answer to the next turn is
measured. The first answers are written greedily, in batches, with all attached hooks. Afterwards
the request is an ordinary one with a `history`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from kb_lens.benchmarks.requests import Request
from kb_lens.evaluation.encoding import prompt_tokens
from kb_lens.evaluation.generation import greedy_texts
from kb_lens.models.hooked import HookedModel


def answered(
    model: HookedModel,
    requests: Sequence[Request],
    *,
    batch_tokens: int | None = None,
    advance: Callable[[int], object] | None = None,
) -> tuple[Request, ...]:
    """The requests with the model's answers to their first turns.

    The turns are answered in order, each after those before it. Answers are stripped of spaces.

    Args:
        model: A ``TransformerBridge``; attached hooks fire.
        requests: Those without ``first`` stay as they are.
        batch_tokens: At most this many prompt tokens in one batch; default by device.
        advance: Called after each batch with the number of different turns answered.

    Returns:
        The same requests in their order, with ``history`` in place of ``first``.

    Raises:
        ValueError: As `greedy_texts`.
    """
    done = list(requests)
    while waiting := [k for k, request in enumerate(done) if request.first]:
        turns = first_turns(done)
        texts = greedy_texts(model, turns, batch_tokens=batch_tokens, advance=advance)
        for k, turn, text in zip(waiting, turns, texts, strict=True):
            done[k] = _answered(done[k], turn.prompt, text.strip())
    return tuple(done)


def first_turns(requests: Sequence[Request]) -> list[Request]:
    """The next unanswered turn of each request that has one, as a request to write."""
    return [
        replace(
            request,
            prompt=request.first[0],
            options=(),
            write=request.first_write,
            sampling=None,  # only the measured answer is sampled
            first=(),
            first_write=0,
        )
        for request in requests
        if request.first
    ]


def check_room(model: HookedModel, requests: Sequence[Request]) -> None:
    """Refuse requests that might not fit the context after the first turns are answered.

    Raises:
        ValueError: Says how many tokens are possible.
    """
    n_ctx = getattr(model.cfg, "n_ctx", None)
    for request in dict.fromkeys(requests):
        if n_ctx is None or not request.first:
            continue
        done = request
        for turn in request.first:
            done = _answered(done, turn, "")
        options = model.tokenizer([*request.options, ""], add_special_tokens=False)["input_ids"]
        prompt = len(prompt_tokens(model.tokenizer, done))
        written = request.first_write * len(request.first)
        last = max(request.write, *map(len, options))
        if prompt + written + last > n_ctx:
            raise ValueError(
                f"a prompt of {prompt} tokens, up to {written} for the model's first answers and "
                f"{last} for its last answer are more than its context of {n_ctx}: "
                f"{request.prompt[:60]!r}. Use a model with a longer context."
            )


def _answered(request: Request, turn: str, text: str) -> Request:
    rest = request.first[1:]
    return replace(
        request,
        history=(*request.history, ("user", turn), ("assistant", text)),
        first=rest,
        first_write=request.first_write if rest else 0,
    )
