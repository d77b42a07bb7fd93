"""A benchmark scored slice by slice, so that one that was interrupted goes on inside."""

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
"""Items whose scores are kept together: minutes of work on a laptop, which is the most that an
interruption costs. What a slice's texts share is run once a slice, so fewer would cost more."""
_FORMAT = 1
"""Raise it when a slice would be scored otherwise under the same key."""


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
        progress: Whether to show a progress bar, in texts that are scored or written.

    Returns:
        The scores, and the seconds that they took, however often they were interrupted.
    """
    # The last one is never kept: little remains to be done after it, and a block of an intervention
    # in which the model never runs is taken for a mistake.
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
        bar.update(sum(items.n_texts for items in slices) - bar.n)  # also what others have done
        scored.append(last.scores(model, batch_tokens, bar.update))
        bar.update(total - bar.n)
    return _joined([scores for scores, _ in scored]), sum(seconds for _, seconds in scored)


def is_divided(benchmark: Benchmark) -> bool:
    """Whether it has several slices."""
    return len(benchmark.items) > SLICE_ITEMS


def assist_scoring(
    model: HookedModel,
    benchmark: Benchmark,
    store: Store,
    *,
    is_over: Callable[[], bool],
    batch_tokens: int | None = None,
) -> bool:
    """Score slices of a benchmark that another process is at, where it has not begun.

    Args:
        model: As for `evaluate`.
        benchmark: As for `evaluate`.
        store: Where that process keeps them.
        is_over: Whether it has finished.
        batch_tokens: As for `evaluate`.

    Returns:
        Whether there were any.
    """
    *slices, _ = _slices(model, benchmark)

    def work(items: _Slice) -> bytes:
        return scores_to_bytes(*items.scores(model, batch_tokens, lambda n: None))

    return assist_with({items.key(model): items for items in slices}, store, work, is_over)


def check_fits(model: HookedModel, benchmark: Benchmark) -> None:
    """Raise `ValueError` for what does not fit the model, as `evaluate` would before it begins."""
    _slices(model, benchmark)


@dataclass(frozen=True, eq=False)
class _Slice:
    """Consecutive items of a benchmark."""

    benchmark: Benchmark
    """With these items alone."""
    asked: Sequence[Sequence[Score]]
    """The scores of its requests in tokens, without what is said before their last turn."""
    first: int
    """Index of its first request in the benchmark."""
    n_texts: int = field(init=False)
    """Different texts to score, and prompts to write on from."""

    def __post_init__(self) -> None:
        scored = different_texts(self.asked)
        requests = {*self.benchmark.requests}
        written = sum(len(request.first) + (request.write > 0) for request in requests)
        object.__setattr__(self, "n_texts", len(scored) + written)

    def scores(
        self, model: HookedModel, batch_tokens: int | None, advance: Callable[[int], object]
    ) -> tuple[OptionScores, float]:
        """Score it, and write where that is asked for; with the seconds that it took."""
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
        """Its name in the store, by all that it depends on but an intervention."""
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
        # What most benchmarks do not ask has no trace in their keys: older entries have none.
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
    """The benchmark in consecutive slices; `ValueError` for what does not fit the model."""
    requests = [request.last_turn() for request in benchmark.requests]
    writing = requests if any(request.write for request in requests) else []
    if to_write := [*first_turns(benchmark.requests), *writing]:
        check_writable(model, to_write)  # now, not after everything else is scored
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
    """The scores of consecutive slices as one table, as wide as the widest."""
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
