"""Score a benchmark slice by slice, so that it can continue after an interruption."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from kb_lens.benchmarks.benchmark import Benchmark
from kb_lens.benchmarks.requests import OptionScores
from kb_lens.evaluation.encoding import Score, Term, Twice, encode, prompt_tokens
from kb_lens.evaluation.entries import scores_from_bytes, scores_to_bytes
from kb_lens.evaluation.first_turns import answered, check_room, first_turns
from kb_lens.evaluation.generation import check_writable, greedy_texts
from kb_lens.evaluation.scoring import different_texts, text_logprobs
from kb_lens.models.hooked import HookedModel, weights_digest
from kb_lens.progress import progress_bar
from kb_lens.shared_work import assist_with, entries
from kb_lens.store import Store, entry_key

SLICE_ITEMS = 512
"""Items in a slice: minutes of work on a laptop, the most that an interruption costs. The common
beginning of texts runs once for each slice, so smaller slices would cost more."""
_FORMAT = 1
"""Raise it if the same key would give other scores."""


def benchmark_scores(
    model: HookedModel,
    benchmark: Benchmark,
    store: Store | None = None,
    *,
    batch_tokens: int | None = None,
    progress: bool = True,
) -> tuple[OptionScores, float]:
    """Score all requests of a benchmark.

    Args:
        model: As for `evaluate`.
        benchmark: As for `evaluate`.
        store: As for `evaluate`.
        batch_tokens: As for `evaluate`.
        progress: Whether to show a progress bar, in scored or generated texts.

    Returns:
        The scores, and the seconds that they took in all runs together.
    """
    # The last one is never stored: little is left to do after it, and an intervention's block in
    # which the model does not run would be an error.
    *slices, last = _slices(model, benchmark)
    total = sum(items.n_texts for items in (*slices, last))
    with progress_bar(total=total, desc=benchmark.key, unit="text", shown=progress) as bar:

        def work(items: _Slice) -> bytes:
            before = bar.n
            content = scores_to_bytes(*items.scores(model, batch_tokens, bar.update))
            bar.update(before + items.n_texts - bar.n)
            return content

        kept = entries(
            slices, store, lambda items: items.key(model), work, kind="slice", progress=False
        )
        scored = [scores_from_bytes(content) for content in kept]
        bar.update(
            sum(items.n_texts for items in slices) - bar.n
        )  # with the work of other processes
        scored.append(last.scores(model, batch_tokens, bar.update))
        bar.update(total - bar.n)
    return _joined([scores for scores, _ in scored]), sum(seconds for _, seconds in scored)


def is_divided(benchmark: Benchmark) -> bool:
    """Whether a benchmark has several slices."""
    return len(benchmark.items) > SLICE_ITEMS


def assist_scoring(
    model: HookedModel,
    benchmark: Benchmark,
    store: Store,
    *,
    is_over: Callable[[], bool],
    batch_tokens: int | None = None,
) -> bool:
    """Score slices of a benchmark that another process works on and has not begun.

    Args:
        model: As for `evaluate`.
        benchmark: As for `evaluate`.
        store: The store of that process.
        is_over: Says whether that process has finished.
        batch_tokens: As for `evaluate`.

    Returns:
        Whether there were any to score.
    """
    *slices, _ = _slices(model, benchmark)

    def work(items: _Slice) -> bytes:
        return scores_to_bytes(*items.scores(model, batch_tokens, lambda n: None))

    return assist_with({items.key(model): items for items in slices}, store, work, is_over)


def check_fits(model: HookedModel, benchmark: Benchmark) -> None:
    """Raise `ValueError` for requests that do not fit the model, as `evaluate` does first."""
    _slices(model, benchmark)


@dataclass(frozen=True, eq=False)
class _Slice:
    """Consecutive items of a benchmark."""

    benchmark: Benchmark
    """The benchmark with only these items."""
    asked: Sequence[Sequence[Score]]
    """The scores of its requests in tokens, without turns before the last."""
    first: int
    """Index of its first request in the benchmark."""
    n_texts: int = field(init=False)
    """Number of different texts to score and prompts to generate from."""

    def __post_init__(self) -> None:
        scored = different_texts(self.asked)
        requests = {*self.benchmark.requests}
        written = sum(len(request.first) + (request.write > 0) for request in requests)
        object.__setattr__(self, "n_texts", len(scored) + written)

    def scores(
        self, model: HookedModel, batch_tokens: int | None, advance: Callable[[int], object]
    ) -> tuple[OptionScores, float]:
        """Score it and generate texts if requested; with the seconds that it took."""
        start = time.perf_counter()
        requests, asked = self.benchmark.requests, self.asked
        if any(request.first for request in requests):
            requests = answered(model, requests, batch_tokens=batch_tokens, advance=advance)
            asked = encode(model, requests, first=self.first)
        scores = text_logprobs(
            model, asked, batch_tokens=batch_tokens, advance=advance, first=self.first
        )
        if any(request.write for request in requests):
            texts = greedy_texts(model, requests, batch_tokens=batch_tokens, advance=advance)
            scores = replace(scores, texts=texts)
        return scores, time.perf_counter() - start

    def key(self, model: HookedModel) -> str:
        """Its key in the store, from everything that it depends on except interventions."""
        requests = self.benchmark.requests
        written = [request.last_turn() for request in requests if request.write]
        content: dict[str, Any] = {
            "format": _FORMAT,
            "weights": weights_digest(model),
            "dtype": str(model.cfg.dtype),
            "requests": self.benchmark.digest,
            "tokens": [[text.start, *text.ids] for text, _ in self._terms()],
            "written_on": [prompt_tokens(model.tokenizer, request) for request in written],
        }
        # Options that a benchmark does not use are not in its keys, so that older entries stay
        # valid.
        if any(request.further for request in requests):
            content["summed"] = [list(chosen) for _, chosen in self._terms()]
        if others := [t.others for t, _ in self._terms() if isinstance(t, Twice)]:
            content["second"] = others
        if turns := first_turns(requests):
            content["first"] = [prompt_tokens(model.tokenizer, turn) for turn in turns]
        return entry_key(content)

    def _terms(self) -> list[Term]:
        return [term for row in self.asked for score in row for term in score]


def _slices(model: HookedModel, benchmark: Benchmark) -> list[_Slice]:
    """The benchmark in consecutive slices; `ValueError` if something does not fit the model."""
    requests = [request.last_turn() for request in benchmark.requests]
    writing = requests if any(request.write for request in requests) else []
    if to_write := [*first_turns(benchmark.requests), *writing]:
        check_writable(model, to_write)  # at once, not after everything else is scored
    check_room(model, benchmark.requests)
    asked = encode(model, requests)
    slices: list[_Slice] = []
    first = 0
    for items in benchmark.slices(SLICE_ITEMS):
        end = first + len(items.requests)
        slices.append(_Slice(items, asked[first:end], first))
        first = end
    return slices


def _joined(slices: Sequence[OptionScores]) -> OptionScores:
    """The scores of consecutive slices as one table, with the width of the widest."""
    width = max(scores.logprob.shape[1] for scores in slices)
    logprob: list[np.ndarray] = []
    tokens: list[np.ndarray] = []
    texts: list[str] = []
    for scores in slices:
        n_requests, n_options = scores.logprob.shape
        missing = (0, 0), (0, width - n_options)
        logprob.append(np.pad(scores.logprob, missing, constant_values=np.nan))
        tokens.append(np.pad(scores.tokens, missing))
        texts += scores.texts or [""] * n_requests
    written = tuple(texts) if any(scores.texts for scores in slices) else ()
    return OptionScores(np.concatenate(logprob), np.concatenate(tokens), written)
