"""Perplexity on the plain text that comes with kb_lens."""

import json
import re

import numpy as np
import pandas as pd
import pytest

from kb_lens.benchmarks import plain_text
from kb_lens.benchmarks.catalogue import load_benchmark
from kb_lens.benchmarks.caution import caution
from kb_lens.benchmarks.requests import OptionScores
from kb_lens.evaluation.comparison import compare, flip_names, summarize
from kb_lens.evaluation.evaluate import evaluate, recompute
from kb_lens.evaluation.results import EvaluationResult
from kb_lens.statistics import bootstrap, flips

TEXTS = ("The chess player was tall.", "Many people live in the city.", "They are good at it.")


def write(folder, rows):
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    (folder / "plain_text.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


@pytest.fixture
def small(tmp_path):
    """A folder with three passages of one's own."""
    rows = [{"id": str(k), "subject": "test", "text": text} for k, text in enumerate(TEXTS)]
    return write(tmp_path, rows)


@pytest.fixture(scope="module")
def bank():
    """The bank's items."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("KB_LENS_DATA", raising=False)
        return plain_text.load()[0]


def test_the_bank_has_many_short_passages_on_many_subjects(bank):
    words = bank["text"].map(lambda text: len(text.split()))
    assert len(bank) >= 60
    assert words.between(60, 120).all()
    assert bank["subject"].nunique() >= 15
    for column in ("item", "text"):
        assert bank[column].is_unique


def test_passages_are_whole_sentences_in_plain_characters(bank):
    for text in bank["text"]:
        assert re.fullmatch(r"[A-Z][A-Za-z0-9 .,;:'?-]+\.", text), text
        assert "  " not in text


def test_passages_do_not_speak_of_bias(bank):
    assert not any(caution(text)["warned"] for text in bank["text"])


def test_each_passage_is_scored_whole(small):
    benchmark = load_benchmark("plain_text", data_dir=small)
    assert [r.options for r in benchmark.requests] == [(text,) for text in TEXTS]
    assert all(r.prompt == "" and not r.chat and not r.write for r in benchmark.requests)


def tabulated(logprob, tokens):
    items = pd.DataFrame({"item": ["a", "b"], "subject": "test", "text": "x"})
    scores = OptionScores(np.array([logprob]).T, np.array([tokens]).T)
    return plain_text.tabulate(items, scores, "original")


def test_metrics_by_hand():
    table = tabulated([-np.log(2), -3 * np.log(8)], [1, 3])
    assert list(table) == ["item", "subject", "logprob", "tokens"]
    formulas = plain_text.FORMULAS["original"]
    metrics = bootstrap(formulas.statistics(table), formulas.metrics, n_bootstrap=200)
    # Ten bits in four tokens; a mean over passages would give 4.
    assert metrics["perplexity"].value == pytest.approx(2 ** (10 / 4))
    assert metrics["logprob_per_token"].value == pytest.approx(-2.5 * np.log(2))
    assert (metrics["perplexity"].low, metrics["perplexity"].high) == pytest.approx((2, 8))
    assert metrics["perplexity"].n == 2
    assert set(formulas.headline) == set(metrics)


def test_perplexity_of_a_model_that_guesses_is_the_number_of_words():
    table = tabulated([-5 * np.log(400), -7 * np.log(400)], [5, 7])
    formulas = plain_text.FORMULAS["original"]
    metrics = bootstrap(formulas.statistics(table), formulas.metrics, n_bootstrap=20)
    assert metrics["perplexity"].value == pytest.approx(400)
    assert metrics["perplexity"].low == pytest.approx(400)


def test_passages_have_nothing_to_flip():
    formulas = plain_text.FORMULAS["original"]
    statistics = formulas.statistics(tabulated([-1.0, -2.0], [1, 2]))
    assert formulas.flips is None
    with pytest.raises(ValueError, match="name no quantity whose changes"):
        flips(statistics, statistics, formulas)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"id": "1", "subject": "test"}, "line 2: column 'text' .* got no such column"),
        ({"id": 1, "subject": "test", "text": "x"}, "line 2: column 'id' must be a text.*got 1"),
        ({"id": "1", "subject": " ", "text": "x"}, "line 2: column 'subject' must be a text"),
        ("{", "line 2: not JSON"),
        ({"id": "0", "subject": "test", "text": "x"}, "has the item '0' of 'plain_text' twice"),
    ],
)
def test_a_bad_row_is_named(tmp_path, row, message):
    write(tmp_path, [{"id": "0", "subject": "test", "text": "x"}, row])
    with pytest.raises(ValueError, match=message):
        load_benchmark("plain_text", data_dir=tmp_path)


def test_an_empty_file_is_named(tmp_path):
    write(tmp_path, [""])
    with pytest.raises(ValueError, match=r"plain_text\.jsonl has no rows"):
        load_benchmark("plain_text", data_dir=tmp_path)


def test_a_folder_without_the_file_means_the_bank(bank, tmp_path):
    benchmark = load_benchmark("plain_text", data_dir=tmp_path)
    pd.testing.assert_frame_equal(benchmark.items, bank)


def test_from_model_to_comparison(llama, small, tmp_path):
    benchmark = load_benchmark("plain_text", data_dir=small)
    options = {"progress": False, "n_bootstrap": 50}
    base = evaluate(llama, benchmark, **options)
    mean = base.items["logprob"].sum() / base.items["tokens"].sum()
    assert base.metrics["perplexity"].value == pytest.approx(np.exp(-mean))
    tokens = llama.tokenizer(list(TEXTS), add_special_tokens=False)["input_ids"]
    assert base.items["tokens"].tolist() == [len(ids) for ids in tokens]  # the first one counts
    base.save(tmp_path / "out")
    assert recompute(EvaluationResult.load(tmp_path / "out")) == base.metrics
    with llama.hooks(fwd_hooks=[("blocks.1.mlp.hook_post", lambda value, hook: -3 * value)]):
        other = evaluate(llama, benchmark, **options)
    table = compare(base, other, n_bootstrap=50).set_index("metric")
    assert list(table.index) == ["perplexity", "logprob_per_token"]
    assert table.loc["perplexity", "difference"] == pytest.approx(
        other.metrics["perplexity"].value - base.metrics["perplexity"].value
    )
    assert table.loc["perplexity", "difference"] != 0
    assert flip_names(base) == ()
    summary = summarize({"base": [base], "other": [other]})
    assert set(summary["metric"]) == {"perplexity", "logprob_per_token"}
