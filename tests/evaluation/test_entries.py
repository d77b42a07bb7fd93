"""Results and scores come back from bytes as they were, to the bit."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from test_benchmarks import folder  # noqa: F401

from kb_lens.benchmarks.catalogue import DEFAULT_BENCHMARKS, load_benchmark
from kb_lens.benchmarks.requests import OptionScores
from kb_lens.evaluation.entries import (
    result_from_bytes,
    result_to_bytes,
    scores_from_bytes,
    scores_to_bytes,
)
from kb_lens.evaluation.evaluate import evaluate
from kb_lens.evaluation.results import ConditionInfo, EvaluationResult
from kb_lens.statistics import Metric


@pytest.fixture
def result(llama, folder):  # noqa: F811
    """What the tiny model scores on CrowS-Pairs."""
    benchmark = load_benchmark("crows_pairs", data_dir=folder)
    return evaluate(llama, benchmark, progress=False, n_bootstrap=50)


@pytest.mark.parametrize("name", DEFAULT_BENCHMARKS)
def test_a_result_comes_back_as_it_was(llama, folder, tmp_path, name):  # noqa: F811
    benchmark = load_benchmark(name, data_dir=folder)
    result = evaluate(llama, benchmark, progress=False, n_bootstrap=50)
    content = result_to_bytes(result)
    back = result_from_bytes(content)
    pd.testing.assert_frame_equal(back.items, result.items)
    for field in set(EvaluationResult.__dataclass_fields__) - {"items"}:
        assert getattr(back, field) == getattr(result, field)
    (tmp_path / "entry.parquet").write_bytes(content)
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "entry.parquet"), result.items)


def test_an_entry_is_nobodys_condition(result):
    scaled = replace(result, condition=ConditionInfo("lambda 2", "method"))
    assert result_to_bytes(scaled) == result_to_bytes(result)
    assert result_from_bytes(result_to_bytes(scaled)).condition == ConditionInfo()


def test_numbers_come_back_to_the_bit(result):
    metrics = {
        "odd": Metric(1 / 3, -0.0, 5e-324, 7),
        "none": Metric(float("nan"), -1e308, 1e308, 1),
    }
    items = result.items.assign(
        number=range(2), flag=[True, False], word=["", "ß"], share=0.1 + 0.2
    ).iloc[::-1]
    back = result_from_bytes(result_to_bytes(replace(result, metrics=metrics, items=items)))
    assert repr(back.metrics) == repr(metrics)
    pd.testing.assert_frame_equal(back.items, items)


@pytest.mark.parametrize("texts", [(), ("", "ß\n")])
def test_scores_come_back_to_the_bit(texts):
    logprob = np.array([[-1 / 3, -5e-324, -0.0], [-1e308, np.nan, np.nan]])
    tokens = np.array([[1, 2, 3], [4, 0, 0]])
    scores, seconds = scores_from_bytes(scores_to_bytes(OptionScores(logprob, tokens, texts), 0.1))
    assert scores.logprob.tobytes() == logprob.tobytes()
    np.testing.assert_array_equal(scores.tokens, tokens, strict=True)
    assert (scores.texts, seconds) == (texts, 0.1)
