"""A benchmark scored slice by slice, so that one that was interrupted goes on inside."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from tqdm.auto import tqdm

from kb_lens.benchmarks.benchmark import Benchmark
from kb_lens.benchmarks.requests import OptionScores
from kb_lens.evaluation.encoding import Score, Term, Twice, encode, prompt_tokens
from kb_lens.evaluation.entries import scores_from_bytes, scores_to_bytes
from kb_lens.evaluation.first_turns import answered, check_room, first_turns
from kb_lens.evaluation.generation import check_writable, greedy_texts
from kb_lens.evaluation.scoring import different_texts, text_logprobs
from kb_lens.models.hooked import HookedModel, weights_digest
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
    slices = _slices(model, benchmark)
    scored: list[tuple[OptionScores, float]] = []
    total = sum(items.n_texts for items in slices)
    with tqdm(total=total, desc=benchmark.key, unit="text", disable=not progress) as bar:
        end = 0
        for items in slices:
            # The last one is never kept: little remains to be done after it, and a block of an
            # intervention in which the model never runs is taken for a mistake.
            keeping = None if items is slices[-1] else store
            scored.append(items.scores_kept(model, keeping, batch_tokens, bar.update))
            end += items.n_texts
            bar.update(end - bar.n)  # the slice at once, where it was kept
    return _joined([scores for scores, _ in scored]), sum(seconds for _, seconds in scored)


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

    def scores_kept(
        self,
        model: HookedModel,
        store: Store | None,
        batch_tokens: int | None,
        advance: Callable[[int], object],
    ) -> tuple[OptionScores, float]:
        """The same, from the store if it is there."""
        if store is None:
            return self.scores(model, batch_tokens, advance)
        content = store.obtain(
            self.key(model), lambda: scores_to_bytes(*self.scores(model, batch_tokens, advance))
        )
        return scores_from_bytes(content)

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
