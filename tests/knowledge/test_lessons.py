"""What a model was taught is no evidence that it knows: verdicts rest on the other questions."""

import pytest
from answer_tables import BANK, knowledge_of, right

import kb_lens as kb
from kb_lens.cli.terminal import show_knowledge
from kb_lens.knowledge.check import check_knowledge
from kb_lens.models.lessons import LESSONS, lesson_keys, taught_among

HELD_OUT = {question.text for question in kb.load_questions()}


def answered(p_yes, is_lesson):
    """What a model knows that says which questions it was taught."""
    knowledge = knowledge_of(p_yes)
    knowledge.table["lesson"] = [is_lesson(question) for question in BANK]
    return knowledge


def parrot(question):
    """Right on its lessons, No to everything else."""
    return 0.8 if question.answer == "yes" and question.text not in HELD_OUT else 0.2


def taught(question):
    return question.text not in HELD_OUT


def test_a_parrot_does_not_know():
    answers = [parrot(question) for question in BANK]
    assert knowledge_of(answers).outcome == "KNOWS"
    told = answered(answers, taught)
    assert told.outcome == "DOES NOT KNOW"
    assert told.balanced_accuracy.value == 50
    assert told.auc.value == 0.5
    assert told.balanced_accuracy.n == 45
    total = told.summary().iloc[0]
    assert (total["n"], total["right"], total["counted"]) == (225, 195, 45)
    assert total["counted"] == told.balanced_accuracy.n
    assert (total["balanced_accuracy"], total["auc"]) == (50, 0.5)
    assert "180 were its lessons and are not counted below" in told.verdict()


def test_the_terminal_shows_how_many_questions_an_interval_rests_on(capsys):
    show_knowledge(answered(right(BANK), taught))
    shown = capsys.readouterr().out
    assert "counted" in shown
    (total,) = [line for line in shown.splitlines() if line.startswith("│ all")]
    assert [cell.strip() for cell in total.split("│")[2:5]] == ["225", "225", "45"]


def test_a_model_that_also_knows_the_others_knows():
    knowledge = answered(right(BANK), taught)
    assert knowledge.outcome == "KNOWS"
    assert knowledge.verdict().startswith("KNOWS. made answers 225 of 225 questions right")
    assert (
        knowledge.auc == knowledge_of(right(kb.load_questions()), questions=kb.load_questions()).auc
    )


def test_where_nothing_was_taught_nothing_is_said():
    none, unknown = knowledge_of(right(BANK)), knowledge_of(right(BANK))
    del unknown.table["lesson"]  # as in files of older versions
    assert none.verdict() == unknown.verdict()
    assert "lessons" not in none.verdict()


def test_lessons_alone_tell_nothing():
    told = answered(right(BANK), lambda question: True)
    assert told.verdict().startswith(
        "CANNOT TELL. All of these questions were lessons of the model"
    )
    assert not told.knows


def test_untaught_questions_of_one_answer_tell_nothing():
    told = answered(right(BANK), lambda question: question.answer == "yes")
    assert told.verdict().startswith("CANNOT TELL. All right answers are the same")


def test_what_the_config_names_is_marked_and_kept(llama, questions, monkeypatch, tmp_path):
    keys = lesson_keys(question.text for question in questions[:3])
    monkeypatch.setattr(llama.original_model.config, LESSONS, keys, raising=False)
    assert taught_among(llama, [q.text for q in questions]) == [True, True, True, False]
    knowledge = check_knowledge(llama, questions, progress=False)
    assert knowledge.table["lesson"].tolist() == [True, True, True, False]
    knowledge.save(tmp_path / "knowledge.json")
    again = kb.Knowledge.load(tmp_path / "knowledge.json")
    assert again.table["lesson"].tolist() == [True, True, True, False]
    assert again.verdict() == knowledge.verdict()


def test_a_model_that_names_none_has_none(model, questions):
    assert taught_among(model, [q.text for q in questions]) == [False] * 4
    assert not check_knowledge(model, questions, progress=False).table["lesson"].any()


@pytest.mark.parametrize("lessons", [7, "abc", [1, 2]])
def test_a_list_of_lessons_that_is_none_is_refused(llama, questions, monkeypatch, lessons):
    monkeypatch.setattr(llama.original_model.config, LESSONS, lessons, raising=False)
    with pytest.raises(ValueError, match=f"{LESSONS} in the config of .* is not a list of texts"):
        check_knowledge(llama, questions, progress=False)
