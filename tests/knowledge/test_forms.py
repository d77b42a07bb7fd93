"""The form questions are plain facts, balanced in every form, in the bank's own words."""

import re
from collections import Counter

import pytest
from answer_tables import BANK, FORMS

import kb_lens as kb
from kb_lens.questions import BANK as DIMENSIONS
from kb_lens.questions import KINDS


def test_there_are_twelve_of_each_answer_in_each_form():
    assert Counter((q.kind, q.answer) for q in FORMS) == {
        (kind, answer): 12 for kind in KINDS for answer in ("yes", "no")
    }
    assert {q.dimension for q in FORMS} == {"form"}
    assert len({q.text for q in FORMS}) == len({q.id for q in FORMS}) == 72
    for question in FORMS:
        assert question.text.count("?") == 1
        assert question.text.endswith("?")
        assert question.id == f"form-{question.concept}-{question.kind}"


@pytest.mark.parametrize(
    "words",
    [
        *("determine", "decide", "dictate", "a form of", "an example of", "count as"),
        *("mistake", "an error", "false claim", "correct", "Do you", "Would you", "In your view"),
    ],
)
def test_no_words_of_a_form_give_the_answer_away(words):
    for kind in KINDS:
        answers = Counter(q.answer for q in FORMS if words in q.text and q.kind == kind)
        assert answers["yes"] == answers["no"]
    assert any(words in q.text for q in FORMS)


def test_they_open_as_the_bank_s_questions_do():
    for kind in KINDS:
        openings = {" ".join(q.text.split()[:2]) for q in BANK if q.kind == kind}
        first = {opening.split()[0] for opening in openings}
        for question in FORMS:
            if question.kind == kind:
                assert question.text.split()[0] in first, question.text


def test_none_is_a_question_of_the_bank_or_of_the_control():
    others = kb.load_questions(None, dimension=DIMENSIONS["en"])
    assert {"control", "safety"} <= {q.dimension for q in others}
    assert not {q.text for q in FORMS} & {q.text for q in others}


def test_none_is_about_people():
    social = r"\b(gender|race|racial|religio\w+|bias\w*|wom[ae]n|m[ae]n|people|person\w*|faith)\b"
    assert re.search(social, BANK[0].text)
    assert not [q.text for q in FORMS if re.search(social, q.text, re.IGNORECASE)]
