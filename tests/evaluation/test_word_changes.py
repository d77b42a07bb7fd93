"""Which words of CrowS-Pairs move: sums over classes, and what each alone would do."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from test_crows_pairs import benchmark_of

import kb_lens as kb
from kb_lens.evaluation.comparison import compare
from kb_lens.evaluation.evaluate import evaluate
from kb_lens.evaluation.result_files import RESULTS_FILE
from kb_lens.evaluation.results import EvaluationResult, load_results
from kb_lens.evaluation.word_changes import WHOLE, WORDS, word_changes
from kb_lens.figures.words import token_changes
from kb_lens.models.hooked import fingerprint, model_name

PEOPLE = (("women", "men"), ("She", "He"), ("Tyrone", "Prescott"), ("tailors", "doctors"))
DOING = ("run home.", "are weak.", "like tea.")
PAIRS = [(f"{a} {doing}", f"{b} {doing}") for a, b in PEOPLE for doing in DOING]
PAIRS += [(f"The {a} {doing}", f"The {b} {doing}") for a, b in PEOPLE[::3] for doing in DOING]
PAIRS += [("Tom saw his wife.", "Tom saw her husband."), ("The city.", "The street.")]


@pytest.fixture(scope="module")
def results():
    """Before and inside an intervention that changes much."""
    from tiny_models import tiny_bridge

    model = tiny_bridge("llama")
    members = tuple(kb.Neuron(layer, k) for layer in range(3) for k in range(0, 48, 5))
    sizes = {"n_layers": 3, "d_mlp": 48}
    neurons = kb.NeuronSet(members, model_name(model), fingerprint(model), "post", **sizes)
    benchmark = benchmark_of(*PAIRS)
    before = evaluate(model, benchmark, progress=False, n_bootstrap=20)
    with kb.scale_neurons(model, neurons, lam=3.0):
        return before, evaluate(model, benchmark, progress=False, n_bootstrap=20)


def rows(results, **options):
    return word_changes(*results, n_bootstrap=200, **options).set_index("words")


def test_the_classes_add_up_to_the_whole_sentence(results):
    table = rows(results)
    assert table.index.tolist() == list(WORDS)
    for column in ("nats", "tokens"):
        assert table[column].iloc[1:].sum() == pytest.approx(table.loc[WHOLE, column])
    assert table.loc[WHOLE, "pairs"] == len(PAIRS)
    assert table["pairs"].tolist()[1:] == [8, 18, 7, 4, 3, 7]


def test_the_whole_sentences_row_is_the_comparisons(results):
    table = rows(results, seed=3)
    compared = compare(*results, n_bootstrap=200, seed=3).set_index("metric")
    share = compared.loc["stereotype_share", ["difference", "low", "high"]].to_numpy(float)
    columns = ["share", "share_low", "share_high"]
    np.testing.assert_allclose(table.loc[WHOLE, columns].to_numpy(float), share, atol=1e-9)
    assert share[0] != 0
    damage = compared.loc["logprob_per_token", "difference"]
    assert table.loc[WHOLE, "token"] == pytest.approx(damage)


def test_words_before_the_first_difference_move_no_preference(results):
    table = rows(results)
    before = table.loc["shared, before a difference"]
    assert before[["nats", "low", "high", "share", "share_low", "share_high"]].eq(0).all()
    assert before["token"] != 0
    assert (table["low"] <= table["nats"]).all()
    assert (table["nats"] <= table["high"]).all()


def test_a_class_alone_changes_what_its_words_change(results):
    """By hand: the names of groups as they are after, all else as it was."""
    before, after = (result.items for result in results)
    margin = before["logprob_more"] - before["logprob_less"]
    for table, sign in ((after, 1), (before, -1)):
        margin = margin + sign * (table["logprob_more_group"] - table["logprob_less_group"])
    was = (before["logprob_more"] > before["logprob_less"]).mean()
    expected = 100 * ((margin > 0).mean() - was)
    assert rows(results).loc["names of groups", "share"] == pytest.approx(expected)


def test_the_order_of_the_pairs_does_not_matter(results):
    before, after = results
    turned = replace(after, items=after.items.iloc[::-1].reset_index(drop=True))
    pd.testing.assert_frame_equal(rows(results), rows((before, turned)))


def test_results_that_have_no_classes_are_refused(results):
    before, after = results
    older = after.items.drop(columns=["logprob_more_before"])
    with pytest.raises(ValueError, match="no column 'logprob_more_before': they were saved by an"):
        word_changes(before, replace(after, items=older))
    with pytest.raises(ValueError, match="the same items can be compared, got 20 and 19"):
        word_changes(before, replace(after, items=after.items.iloc[1:]))
    with pytest.raises(
        ValueError,
        match="of crows_pairs have classes of words; this is one of 'crows_pairs_instruct",
    ):
        word_changes(before, replace(after, protocol="instructed"))


def test_the_figure_shows_the_table_from_saved_results_alone(results, tmp_path):
    loaded = []
    for name, result in zip(("base", "enhanced"), results, strict=True):
        result.save(tmp_path / name)
        loaded.append(EvaluationResult.load(tmp_path / name))
        assert (tmp_path / name / RESULTS_FILE).is_file()
        assert list(load_results(tmp_path / name)) == ["crows_pairs"]
    figure = token_changes(*loaded, n_bootstrap=200)
    table = rows(results)
    for trace, column, high in zip(
        figure.data, ("nats", "share"), ("high", "share_high"), strict=True
    ):
        np.testing.assert_allclose(trace.x, table[column], atol=1e-9)
        ends = np.array(trace.x) + np.array(trace.error_x.array)
        np.testing.assert_allclose(ends, table[high], atol=1e-9)
    assert figure.layout.yaxis.ticktext[0] == f"<b>{WHOLE}</b>"
    assert "names of groups (7)" in figure.layout.yaxis.ticktext
    assert kb.figures.token_changes is token_changes
