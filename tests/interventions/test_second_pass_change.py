"""The second pass as a change of a model: benchmarks run with it, and it alone moves them."""

import math

import numpy as np
import pytest
from jaxtyping import TypeCheckError
from tiny_models import tiny_bridge

import kb_lens as kb
from kb_lens.evaluation.evaluate import evaluate
from kb_lens.interventions.conditions import Change, Condition
from kb_lens.interventions.second_pass import DEFAULT_TEXTS, TEXTS, SecondPass


@pytest.fixture(scope="module")
def roomy():
    """A tiny random model whose context holds a chat with a list."""
    return tiny_bridge("llama", max_position_embeddings=2048)


def measured(model, benchmark, change=None):
    condition = Condition("measured", change)
    with condition.applied(model):
        return evaluate(model, condition.asked(benchmark), progress=False, n_bootstrap=10)


def numbers(result):
    """The log-probabilities of every item."""
    columns = [name for name in result.items if name.startswith("logprob")]
    return result.items[columns].to_numpy()


@pytest.mark.parametrize(
    ("name", "protocol"),
    [("stereoset", "original"), ("crows_pairs", "original"), ("crows_pairs", "instructed")],
)
def test_benchmarks_run_with_it(name, protocol, roomy, data_dir):
    benchmark = kb.load_benchmark(name, protocol=protocol, limit=2, data_dir=data_dir)
    base = measured(roomy, benchmark)
    result = measured(roomy, benchmark, SecondPass())
    assert result.metrics.keys() == base.metrics.keys()
    assert result.digest != base.digest
    tokens = [column for column in base.items if column.startswith("tokens")]
    assert base.items[tokens].equals(result.items[tokens]), "the same tokens are scored"
    assert np.abs(numbers(result) - numbers(base)).max(axis=1).min() > 1e-3
    without = measured(roomy, benchmark, SecondPass(decay=0.0))
    np.testing.assert_allclose(numbers(without), numbers(base), atol=1e-3)


def test_plain_text_runs_with_it(roomy):
    benchmark = kb.load_benchmark("plain_text", limit=1)
    base = measured(roomy, benchmark)
    result = measured(roomy, benchmark, SecondPass((TEXTS["gender"],)))
    assert result.metrics["perplexity"].value != pytest.approx(base.metrics["perplexity"].value)


def test_settings():
    assert all(text.endswith(":\n") for text in TEXTS.values())
    assert set(DEFAULT_TEXTS) < set(TEXTS.values())
    changes = [
        SecondPass(),
        SecondPass(decay=10.0),
        SecondPass(floor=0.0),
        SecondPass(DEFAULT_TEXTS[:1]),
    ]
    assert len({str(change.describe()) for change in changes}) == len(changes)
    assert all(isinstance(change, Change) for change in changes)
    with pytest.raises(ValueError, match="decay is nan"):
        SecondPass(decay=math.nan)
    for texts in ((), ("",), ["a"], TEXTS, (1, 2)):
        with pytest.raises((ValueError, TypeCheckError), match=r"at least one text|texts"):
            SecondPass(texts)
