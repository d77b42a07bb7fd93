"""Balanced accuracy and AUC are what they say, their intervals as wide as the concepts allow."""

import numpy as np
import pandas as pd
import pytest
from answer_tables import BANK, FORMS, by_form, right, table_of

import kb_lens as kb
from kb_lens.knowledge.measures import answer_measures


def made(p_yes, answers, concepts="", kinds="k"):
    table = pd.DataFrame({"answer": answers, "p_yes": np.asarray(p_yes, float)})
    table["p_no"] = 1 - table["p_yes"]
    table["said"] = np.where(table["p_yes"] > 0.5, "yes", "no")
    return table.assign(dimension="d", concept=concepts, kind=kinds)


def test_auc_counts_ordered_pairs_and_halves_ties():
    accuracy, auc = answer_measures(made([0.1, 0.4, 0.4, 0.9], ["no", "no", "yes", "yes"]))
    assert auc.value == pytest.approx((1 + 1 + 1 + 0.5) / 4)
    assert (accuracy.n, auc.n) == (4, 4)


def test_balanced_accuracy_is_the_mean_of_both_shares_of_right_answers():
    accuracy, _ = answer_measures(made([0.9, 0.9, 0.1, 0.1, 0.9], ["yes"] * 3 + ["no"] * 2))
    assert accuracy.value == pytest.approx(100 * (2 / 3 + 1 / 2) / 2)


# 16 of 18 pairs of a yes and a no question are in order: AUC 0.89.
NINE = [0.1, 0.2, 0.35, 0.3, 0.32, 0.4, 0.6, 0.7, 0.8], ["no"] * 3 + ["yes"] * 6


def test_nine_questions_tell_little_and_225_tell_more():
    concepts = [str(k % 3) for k in range(9)]
    _, few = answer_measures(made(*NINE, concepts))
    assert few.value == pytest.approx(16 / 18)
    assert few.low < 0.5
    assert few.high > 0.95
    p_yes, answers = NINE[0] * 25, NINE[1] * 25
    _, many = answer_measures(made(p_yes, answers, [str(k // 3) for k in range(225)]))
    assert many.value == pytest.approx(few.value)
    assert 0.8 < many.low < many.value < many.high < 0.95


@pytest.mark.parametrize("n", [1, 2])
def test_right_answers_to_a_few_questions_are_no_proof(n):
    """The bootstrap gives them an interval without width."""
    for measure, chance in zip(
        answer_measures(made([0.9] * n + [0.1] * n, ["yes"] * n + ["no"] * n)),
        (50, 0.5),
        strict=True,
    ):
        assert measure.value == measure.high == 2 * chance
        assert measure.low < chance


def test_always_no_is_chance_with_an_interval():
    accuracy, _ = answer_measures(made([0.1] * 30, ["no", "yes", "yes"] * 10))
    assert accuracy.value == 50
    assert 20 < accuracy.low < 40
    assert 60 < accuracy.high < 80


def test_questions_about_one_concept_count_as_one_draw():
    """Three times the same answer is no more than once."""
    draw = np.random.default_rng(0)
    is_yes = np.repeat(np.arange(40) % 2 == 0, 3)
    p_yes = np.repeat(draw.random(40), 3) * 0.8 + 0.2 * is_yes
    answers = np.where(is_yes, "yes", "no")
    _, alone = answer_measures(made(p_yes, answers))
    _, together = answer_measures(made(p_yes, answers, np.repeat(np.arange(40), 3).astype(str)))
    assert together.value == alone.value
    assert together.high - together.low > 1.4 * (alone.high - alone.low)


def test_the_same_concept_of_two_dimensions_is_two():
    table = table_of(BANK, right(BANK))
    table["p_yes"] = np.random.default_rng(1).random(len(table))
    table["concept"] = [f"c{k % 25}" for k in range(len(table))]
    merged = answer_measures(table.assign(dimension="all"))[1]
    assert answer_measures(table)[1] != merged


def test_who_goes_by_the_form_has_chance_within_forms():
    table = table_of(FORMS, by_form(FORMS))
    for measure, chance in zip(answer_measures(table, within_kinds=True), (50, 0.5), strict=True):
        assert measure.value == pytest.approx(chance)
        assert measure.low < chance < measure.high
    known = answer_measures(table_of(FORMS, right(FORMS)), within_kinds=True)
    assert [measure.value for measure in known] == [100, 1]
    assert known[1].low > 0.8


def test_within_forms_is_the_mean_over_the_forms():
    draw = np.random.default_rng(2)
    table = table_of(FORMS, draw.random(len(FORMS)))
    alone = [answer_measures(group) for _, group in table.groupby("kind")]
    both = zip(answer_measures(table, within_kinds=True), *alone, strict=True)
    for whole, *parts in both:
        assert whole.value == pytest.approx(np.mean([part.value for part in parts]))
        widest = max(part.high - part.low for part in parts)
        assert whole.high - whole.low < 0.8 * widest


def test_what_does_not_exist_is_missing():
    one_answer = made([0.2, 0.8], ["yes", "yes"])
    not_finite = made([0.2, np.nan], ["no", "yes"])
    zero = made([0.2, 0.0], ["no", "yes"]).assign(p_no=[0.8, 0.0])
    for table in (one_answer, not_finite, zero):
        for measure in answer_measures(table):
            assert np.isnan([measure.value, measure.low, measure.high]).all()


def test_a_table_without_concepts_has_an_interval_and_the_same_one_every_time():
    table = made(*NINE).drop(columns="concept")
    assert answer_measures(table) == answer_measures(table)
    assert answer_measures(table) == answer_measures(made(*NINE))


@pytest.mark.slow
def test_the_interval_holds_the_truth_as_often_as_it_says():
    """Concepts of three questions that share half of their noise; the truth is known."""
    draw = np.random.default_rng(3)
    is_yes = np.tile([True, True, False], 15)
    truth = 0.7602  # of a shift of 1 under noise of variance 1: the normal integral of 1 / sqrt(2)
    n_held, n_drawn = 0, 200
    for _ in range(n_drawn):
        shared = np.repeat(draw.normal(size=15), 3)
        noise = np.sqrt(0.5) * (shared + draw.normal(size=45))
        p_yes = 1 / (1 + np.exp(-(is_yes + noise)))
        concepts = np.repeat(np.arange(15), 3).astype(str)
        _, auc = answer_measures(made(p_yes, np.where(is_yes, "yes", "no"), concepts))
        n_held += auc.low <= truth <= auc.high
    assert n_held >= 0.92 * n_drawn


def test_the_public_values_are_those(llama):
    knowledge = kb.check_knowledge(llama, BANK[::9], forms=(), progress=False)
    assert (knowledge.balanced_accuracy, knowledge.auc) == answer_measures(knowledge.table)
