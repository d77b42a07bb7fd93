"""A benchmark in slices: the same items, none scored twice, and nothing kept of a single one."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from tiny_models import tiny_bridge

from kb_lens.benchmarks.benchmark import Benchmark
from kb_lens.benchmarks.requests import Request
from kb_lens.evaluation import slices
from kb_lens.evaluation.evaluate import evaluate
from kb_lens.evaluation.scoring import option_logprobs
from kb_lens.evaluation.slices import benchmark_scores
from kb_lens.statistics import Formulas
from kb_lens.store import Store

N_ITEMS = 13
WORDS = ("city", "girl", "chess", "player", "people", "street", "good", "tall")


def scored_and_written(items, scores):
    """Each item's two requests: what was scored, and what was written."""
    options = np.nan_to_num(scores.logprob).sum(1).reshape(-1, 2)
    return items.assign(first=options[:, 0], second=options[:, 1], text=scores.texts[1::2])


def made_up_benchmark():
    """Items with a request of one to three options, and a request that a third have written."""
    items = pd.DataFrame({"item": [f"item {k}" for k in range(N_ITEMS)]})
    requests = []
    for k in range(N_ITEMS):
        word = WORDS[k % len(WORDS)]
        requests.append(Request(f"Item {k}: the {word}", (" is", " was", " has")[: k % 3 + 1]))
        requests.append(Request(f"The {word} in {k}", (" yes", " no"), write=4 if k % 3 else 0))
    formulas = Formulas(lambda table: None, lambda statistics: {}, None, (), {})
    return Benchmark(
        "made_up", "original", "here", items, tuple(requests), (), scored_and_written, formulas
    )


@pytest.fixture
def calls(monkeypatch):
    """Index of the first request of each slice that is scored."""
    firsts = []

    def counted(*arguments, first, **options):
        firsts.append(first)
        return text_logprobs(*arguments, first=first, **options)

    text_logprobs = slices.text_logprobs
    monkeypatch.setattr(slices, "text_logprobs", counted)
    return firsts


def test_slices_hold_every_item_once():
    benchmark = made_up_benchmark()
    cut = benchmark.slices(5)
    assert [len(piece.items) for piece in cut] == [5, 5, 3]
    assert sum((piece.requests for piece in cut), ()) == benchmark.requests
    pd.testing.assert_frame_equal(
        pd.concat([piece.items for piece in cut], ignore_index=True), benchmark.items
    )
    (alone,) = benchmark.slices(N_ITEMS)
    assert (alone.digest, alone.items_digest) == (benchmark.digest, benchmark.items_digest)


def test_slices_give_the_scores_of_all_at_once(llama, calls, monkeypatch):
    benchmark = made_up_benchmark()
    together, _ = benchmark_scores(llama, benchmark, progress=False)
    assert calls == [0]
    expected = option_logprobs(llama, benchmark.requests, progress=False)
    assert together.logprob.tobytes() == expected.logprob.tobytes()
    monkeypatch.setattr(slices, "SLICE_ITEMS", 5)
    cut, _ = benchmark_scores(llama, benchmark, progress=False)
    assert calls == [0, 0, 10, 20]
    np.testing.assert_allclose(cut.logprob, expected.logprob, atol=1e-4)
    np.testing.assert_array_equal(cut.tokens, expected.tokens)
    assert cut.texts == together.texts
    assert [bool(text) for text in cut.texts] == [bool(r.write) for r in benchmark.requests]


def test_finished_slices_are_not_scored_again(llama, calls, monkeypatch, tmp_path):
    monkeypatch.setattr(slices, "SLICE_ITEMS", 5)
    store, benchmark = Store(tmp_path, ".parquet"), made_up_benchmark()
    first, seconds = benchmark_scores(llama, benchmark, store, progress=False)
    again, more_seconds = benchmark_scores(llama, benchmark, store, batch_tokens=7, progress=False)
    assert calls == [0, 10, 20, 20]  # the last one is never kept
    assert first.logprob[:20].tobytes() == again.logprob[:20].tobytes()
    assert first.texts == again.texts
    assert min(seconds, more_seconds) > 0


def test_a_slice_is_named_by_what_its_scores_depend_on(llama):
    def keys(model, benchmark):
        return {piece.key(model) for piece in slices._slices(model, benchmark)}

    benchmark = made_up_benchmark()
    key = keys(llama, benchmark)
    labelled = replace(benchmark, items=benchmark.items.assign(label="other"))
    assert keys(llama, labelled) == key
    others = [
        (tiny_bridge("llama", seed=5), benchmark),
        (tiny_bridge("llama", add_bos=True), benchmark),
        (llama, replace(benchmark, requests=benchmark.requests[::-1])),
    ]
    for model, other in others:
        assert not keys(model, other) & key


def test_the_progress_bar_counts_kept_slices_at_once(llama, capsys, monkeypatch, tmp_path):
    monkeypatch.setattr("kb_lens.progress._is_watched", lambda: True)
    monkeypatch.setattr(slices, "SLICE_ITEMS", 5)
    store, benchmark = Store(tmp_path, ".parquet"), made_up_benchmark()
    for _ in range(2):
        benchmark_scores(llama, benchmark, store)
        lines = [line for line in capsys.readouterr().err.split("\r") if line.strip()]
        total = sum(piece.n_texts for piece in slices._slices(llama, benchmark))
        assert lines[-1].startswith("made_up: 100%")
        assert f"{total}/{total}" in lines[-1]


def test_messages_count_items_of_the_benchmark(llama, monkeypatch, tmp_path):
    monkeypatch.setattr(slices, "SLICE_ITEMS", 5)
    benchmark = made_up_benchmark()
    hooks = [("blocks.1.mlp.hook_post", lambda value, hook: value * float("nan"))]
    store = Store(tmp_path, ".parquet")
    benchmark_scores(llama, benchmark, store, progress=False)
    with (
        llama.hooks(fwd_hooks=hooks),
        pytest.raises(ValueError, match=r"item 20, option 0: .* not"),
    ):
        evaluate(llama, benchmark, store=store, progress=False)
