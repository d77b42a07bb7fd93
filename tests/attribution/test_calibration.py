"""What a question begins with follows from the model and the settings, and never from luck."""

import pytest
import torch
from tiny_models import tiny_bridge

import kb_lens as kb
from kb_lens.attribution import calibration
from kb_lens.attribution.quadrature import STEEP, WHOLE


@pytest.fixture
def spelling(questions):
    """One for all: which is found depends on the questions."""
    model = tiny_bridge("llama")
    return kb.check_knowledge(model, questions, forms=(), progress=False).spelling


@pytest.fixture
def attributed(spelling):
    def attributed(model, items, **options):
        own = {} if isinstance(items[0], kb.Completion) else {"spelling": spelling}
        return kb.attribute(model, items, progress=False, **own, **options)

    return attributed


def test_a_question_s_scores_do_not_depend_on_the_questions_beside_it(questions, attributed):
    alone = [attributed(tiny_bridge("llama"), [question]) for question in questions]
    together = attributed(tiny_bridge("llama"), questions)
    other_way = attributed(tiny_bridge("llama"), questions[::-1])
    assert torch.equal(together.scores, torch.cat([each.scores for each in alone]))
    assert torch.equal(together.scores, other_way.scores.flip(0))


def test_it_is_learned_once_a_model_and_setting(questions, attributed, monkeypatch):
    model, learned = tiny_bridge("llama"), []
    real = calibration._calibrated
    monkeypatch.setattr(calibration, "_calibrated", lambda *a: learned.append(1) or real(*a))
    attributed(model, questions)
    attributed(model, questions[:1])
    assert len(learned) == 1
    attributed(model, questions, site="pre")
    assert len(learned) == 2
    with torch.no_grad():
        next(model.parameters()).mul_(1.5)
    attributed(model, questions[:1])
    assert len(learned) == 3, "other weights"


def test_inside_a_block_nothing_is_learned(questions, attributed, monkeypatch):
    model = tiny_bridge("llama")
    monkeypatch.setattr(calibration, "_calibrated", lambda *a: pytest.fail("learned"))
    with kb.scale_neurons(model, ["L0.N1"], lam=2.0):
        attributed(model, questions[:1])


def test_what_was_learned_cuts_the_first_guess(llama, questions, attributed):
    attributed(llama, questions[:1])
    edges = next(iter(calibration._EDGES[llama].values()))
    assert len(edges) == 3
    for of_layer, first in zip(edges, (STEEP, WHOLE, WHOLE), strict=True):
        assert {*first} <= {*of_layer}
        assert list(of_layer) == sorted({*of_layer})


def test_a_context_that_is_too_short_for_the_prompt_is_no_error(attributed):
    model = tiny_bridge("llama", max_position_embeddings=24)
    completions = [kb.Completion("Is it so?", " yes")]
    scores = attributed(model, completions)
    assert (scores.error <= 1e-3).all()


@pytest.mark.parametrize("tol", [1e-2, 1e-4])
def test_the_estimated_error_keeps_the_tolerance(questions, attributed, tol):
    scores = attributed(tiny_bridge("llama"), questions, tol=tol)
    assert (scores.error <= tol).all()
    model = tiny_bridge("llama")
    finer = attributed(model, questions, rule="gauss-legendre", n_steps=200)
    error = (scores.scores - finer.scores).norm(dim=-1) / finer.scores.norm(dim=-1)
    assert (error <= tol).all()
