"""The facts that come with the package are completions for the embedded model."""

from pathlib import Path

import pytest

import kb_lens as kb
from kb_lens.completions import check_completions

FACTS = Path(__file__).parents[2] / "question_bank" / "facts.csv"


@pytest.fixture(scope="module")
def facts():
    return kb.load_completions(FACTS)


def test_each_fact_has_two_wordings_with_one_target(facts):
    assert len(facts) == 40
    for first, second in zip(facts[::2], facts[1::2], strict=True):
        assert first.dimension == second.dimension
        assert (first.target, first.foil) == (second.target, second.foil)
        assert first.prompt != second.prompt
    assert all(fact.target.startswith(" ") for fact in facts)


@pytest.mark.slow
def test_the_embedded_model_can_be_asked_them_and_knows_most(embedded, facts):
    check_completions(embedded, facts)
    first = facts[::2]
    scores = kb.attribute(embedded, first[:4], rule="riemann", n_steps=2, progress=False)
    assert (scores.answer_prob > 0.1).all()
