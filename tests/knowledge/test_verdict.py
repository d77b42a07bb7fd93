"""Who knows, who goes by the form, who does not know, and what cannot be told."""

import json

import numpy as np
import pandas as pd
import pytest
from answer_tables import BANK, FORMS, by_form, knowledge_of, right

import kb_lens as kb
from kb_lens.knowledge.verdict import Knowledge

GUESSES = np.random.default_rng(0).random(len(BANK))
TOKENS = [("<think>", 0.93), ("\n", 0.02)]


def test_right_answers_in_every_form_are_knowing():
    knowledge = knowledge_of(right(BANK), right(FORMS))
    assert knowledge.outcome == "KNOWS"
    assert knowledge.knows
    assert knowledge.verdict().startswith("KNOWS. made answers 225 of 225 questions right")
    assert "precondition holds" in knowledge.verdict()
    assert "form not checked" not in knowledge.verdict()


def test_a_model_that_goes_by_the_form_does_not_know():
    """All of the bank right, and No to every plain "Does X determine Y?"."""
    knowledge = knowledge_of(right(BANK), by_form(FORMS))
    assert knowledge.verdict().startswith("KNOWS THE FORM. ")
    assert not knowledge.knows
    assert knowledge.form_balanced_accuracy.value == 50
    rows = knowledge.form_summary()
    assert rows.loc["form: causal_rejection", "said_no"] == 100
    assert rows.loc["form: bias_recognition", "said_no"] == 0


def test_guesses_are_not_knowing_whatever_is_known_of_plain_facts():
    knowledge = knowledge_of(GUESSES, right(FORMS))
    assert knowledge.verdict().startswith("DOES NOT KNOW. ")
    assert "no debiasing can be expected" in knowledge.verdict()


def test_always_no_is_not_knowing():
    knowledge = knowledge_of([0.1] * 225, [0.1] * 72)
    total = knowledge.summary().iloc[0]
    assert (total["right"], total["balanced_accuracy"], total["auc"]) == (75, 50, 0.5)
    assert (total["said_no"], total["said_yes"]) == (100, 0)
    assert knowledge.verdict().startswith("DOES NOT KNOW. ")


def test_both_lower_ends_must_be_above_chance():
    """Yes and no are told apart, but No is always the likelier one."""
    ranked = [0.4 if question.answer == "yes" else 0.2 for question in BANK]
    knowledge = knowledge_of(ranked, right(FORMS))
    assert knowledge.auc.low > 0.5
    assert knowledge.balanced_accuracy.value == 50
    assert knowledge.outcome == "DOES NOT KNOW"


def test_without_form_questions_the_verdict_says_so():
    for p_yes, outcome in ((right(BANK), "KNOWS"), (GUESSES, "DOES NOT KNOW")):
        knowledge = knowledge_of(p_yes)
        assert knowledge.outcome == outcome
        assert knowledge.verdict().startswith(f"{outcome}. ")
        assert "form not checked" in knowledge.verdict()
        assert knowledge.form_auc is None
        assert knowledge.form_balanced_accuracy is None
        assert knowledge.form_summary().empty


def test_the_intervals_stand_in_the_verdict_in_percent_and_from_0_to_1():
    knowledge = knowledge_of(GUESSES)
    accuracy, auc = knowledge.balanced_accuracy, knowledge.auc
    percent = f"{accuracy.value:.0f} [{accuracy.low:.0f}, {accuracy.high:.0f}] % (chance 50)"
    assert f"Balanced accuracy {percent}" in knowledge.verdict()
    assert f"AUC {auc.value:.2f} [{auc.low:.2f}, {auc.high:.2f}]" in knowledge.verdict()
    total = knowledge.summary().iloc[0]
    assert (total["auc_low"], total["auc_high"]) == (auc.low, auc.high)


def test_little_on_yes_and_no_cannot_tell_and_names_what_stands_there():
    knowledge = knowledge_of(right(BANK), right(FORMS), mass=0.03, next_tokens=TOKENS)
    verdict = knowledge.verdict()
    assert verdict.startswith("CANNOT TELL. Only 3 % of the probability is on yes and no. ")
    assert "likeliest next tokens: '<think>' 93 %, '\\n' 2 %" in verdict
    for cause in ("chat template", "thinking", "spelled", "float16"):
        assert cause in verdict
    assert knowledge_of(right(BANK), right(FORMS), mass=0.11).outcome == "KNOWS"


@pytest.mark.parametrize("value", [np.nan, 0.0])
def test_a_probability_that_is_zero_or_not_finite_cannot_tell(value):
    """The right answers are mixed, and nobody says that they are the same."""
    knowledge = knowledge_of(right(BANK), right(FORMS), next_tokens=TOKENS)
    for table in (knowledge.table, knowledge.forms):
        table.loc[3, ["p_yes", "p_no"]] = value
    verdict = knowledge.verdict()
    assert verdict.startswith("CANNOT TELL. ")
    assert "zero or not finite on 2 of 297 questions" in verdict
    assert "float16" in verdict
    assert "'<think>' 93 %" in verdict
    assert "are the same" not in verdict


def test_one_answer_throughout_cannot_tell():
    only_no = [question for question in BANK if question.answer == "no"]
    knowledge = knowledge_of([0.1] * len(only_no), right(FORMS), only_no)
    assert knowledge.verdict().startswith("CANNOT TELL. All right answers are the same")


def test_too_few_questions_cannot_tell():
    """All nine No, with an AUC of 0.89: that is what 225 questions took back."""
    nine = kb.load_questions(9)
    p_yes = [0.1, 0.2, 0.35, *(0.3, 0.32, 0.4, 0.41, 0.42, 0.43)]
    ordered = sorted(nine, key=lambda question: question.answer)
    knowledge = knowledge_of(p_yes, right(FORMS), ordered)
    assert knowledge.auc.value == pytest.approx(16 / 18)
    assert knowledge.auc.low < 0.5
    assert knowledge.auc.high > 0.75
    assert knowledge.verdict().startswith("CANNOT TELL. Too few questions")


def test_few_questions_are_enough_where_no_is_said_to_all_and_most_to_the_wrong_ones():
    """Balanced accuracy alone would allow anything; the AUC does not."""
    nine = kb.load_questions(9)
    p_yes = [0.1 if question.answer == "yes" else 0.3 for question in nine]
    knowledge = knowledge_of(p_yes, right(FORMS), nine)
    accuracy = knowledge.balanced_accuracy
    assert accuracy.low < 50 < 75 < accuracy.high
    assert knowledge.outcome == "DOES NOT KNOW"


def test_yes_and_no_told_apart_by_few_questions_with_one_answer_cannot_tell():
    few = kb.load_questions(9)
    p_yes = [0.4 if question.answer == "yes" else 0.2 for question in few]
    knowledge = knowledge_of(p_yes, right(FORMS), few)
    assert knowledge.auc.low > 0.5
    assert knowledge.outcome == "CANNOT TELL"


def test_save_and_load(tmp_path):
    for form_p_yes in (None, by_form(FORMS)):
        knowledge = knowledge_of(GUESSES, form_p_yes, next_tokens=TOKENS)
        knowledge.save(tmp_path / "knowledge.json")
        again = Knowledge.load(tmp_path / "knowledge.json")
        assert again.verdict() == knowledge.verdict()
        assert list(again.next_tokens) == TOKENS
        pd.testing.assert_frame_equal(again.table, knowledge.table)
        assert (again.forms is None) == (form_p_yes is None)
        if again.forms is not None:
            pd.testing.assert_frame_equal(again.forms, knowledge.forms)
    content = json.loads((tmp_path / "knowledge.json").read_text())
    assert content["auc"] == vars(knowledge.auc)


def test_a_file_from_before_the_form_questions_is_read(tmp_path):
    path = tmp_path / "knowledge.json"
    knowledge_of(right(BANK), by_form(FORMS)).save(path)
    content = json.loads(path.read_text())
    old = {name: content[name] for name in ("model", "spelling", "knows", "verdict", "table")}
    path.write_text(json.dumps(old))
    knowledge = Knowledge.load(path)
    assert knowledge.outcome == "KNOWS"
    assert "form not checked" in knowledge.verdict()
    path.write_text("{}")
    with pytest.raises(ValueError, match=r"knowledge\.json', model: Field required"):
        Knowledge.load(path)
