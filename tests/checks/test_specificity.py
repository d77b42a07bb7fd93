"""What else selects the neurons: sets and halves with a known answer."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from tiny_models import tiny_bridge

import kb_lens as kb
from kb_lens.checks.specificity import (
    CONTRASTIVE,
    CONTROL,
    KNOW_BIAS,
    LOGITS,
    WRONG,
    Evidence,
    Specificity,
    default_control,
    flipped,
    gather,
    named_sets,
    specificity,
)


@pytest.fixture(scope="module")
def evidence():
    model = tiny_bridge("llama")
    questions = kb.load_questions(18)
    return gather(model, questions, rule="gauss-legendre", n_steps=3, progress=False)


def with_salient(attributions, *neurons):
    """The same attributions in which exactly these neurons are salient in every question."""
    scores = torch.zeros_like(attributions.scores)
    for layer, index in neurons:
        scores[:, layer, index] = 1.0
    return replace(attributions, scores=scores)


@pytest.mark.slow
def test_everything_is_attributed_in_one_spelling(evidence):
    assert [q.answer for q in evidence.wrong.questions] == [
        {"yes": "no", "no": "yes"}[q.answer] for q in evidence.bias.questions
    ]
    spellings = {part.settings.spelling for part in parts(evidence)}
    assert len(spellings) == 1
    assert evidence.logits.settings.objective == "logit_difference"
    assert {q.dimension for q in evidence.control.questions} == {"control"}
    both = evidence.bias.answer_prob + evidence.wrong.answer_prob
    knowledge = kb.check_knowledge(tiny_bridge("llama"), evidence.bias.questions, progress=False)
    expected = knowledge.table["p_yes"] + knowledge.table["p_no"]
    assert both.tolist() == pytest.approx(expected.tolist(), rel=1e-4)


def parts(evidence):
    return [evidence.bias, evidence.wrong, evidence.control, evidence.logits]


def test_overlaps_of_known_sets(evidence):
    known = Evidence(
        bias=with_salient(evidence.bias, (0, 1), (0, 2), (1, 3), (2, 4)),
        wrong=with_salient(evidence.wrong, (0, 1), (2, 9)),
        control=with_salient(evidence.control, (0, 1), (0, 2), (1, 3)),
        logits=with_salient(evidence.logits, (2, 4)),
        control_knowledge=evidence.control_knowledge,
    )
    table = specificity(known, taus=[0.1], n_halves=3).overlaps.set_index("set")
    assert table["size"].to_dict() == {
        **{KNOW_BIAS: 4, WRONG: 2, CONTROL: 3, LOGITS: 1},
        CONTRASTIVE: 1,
    }
    assert table["contained"].to_dict() == pytest.approx(
        {KNOW_BIAS: 1, WRONG: 0.25, CONTROL: 0.75, LOGITS: 0.25, CONTRASTIVE: 0.25}
    )
    assert table.loc[WRONG, "jaccard"] == pytest.approx(1 / 5)
    assert list(named_sets(known, tau=0.1)[CONTRASTIVE]) == [(2, 4)]


def test_contrastive_selection_is_a_difference(evidence):
    plain = kb.select_neurons(evidence.bias, 0.05, 0.1)
    control = kb.select_neurons(evidence.control, 0.05, 0.1)
    contrastive = kb.select_neurons(evidence.bias, 0.05, 0.1, minus=evidence.control)
    assert set(contrastive) == set(plain) - set(control)


def test_a_set_that_every_question_gives_is_stable(evidence):
    known = replace(evidence, bias=with_salient(evidence.bias, (0, 1), (2, 5)))
    table = specificity(known, taus=[0.1, 0.2], n_halves=5).stability
    assert table["dimension"].tolist() == ["gender", "race", "religion", "all"] * 2
    assert (table[["jaccard", "low", "high"]] == 1).all().all()
    assert table["n_questions"].tolist() == [6, 6, 6, 18] * 2


def test_a_set_of_one_question_is_not_stable(evidence):
    """Each question has a neuron of its own: no half has a neuron of the other."""
    scores = torch.zeros_like(evidence.bias.scores)
    for row in range(len(scores)):
        scores[row, 0, row] = 1.0
    known = replace(evidence, bias=replace(evidence.bias, scores=scores))
    table = specificity(known, taus=[0.1], n_halves=5).stability
    assert (table["jaccard"] == 0).all()


def test_halves_are_selected_as_select_neurons_does(evidence):
    """The splits by hand, in the seed's own order."""
    part = evidence.bias.by_dimension()["gender"]
    generator, expected = np.random.default_rng(5), []
    for _ in range(4):
        order = generator.permutation(len(part)).tolist()
        halves = [kb.select_neurons(part.subset(half), 0.1, 0.1) for half in (order[:3], order[3:])]
        expected.append(halves[0].jaccard(halves[1]))
    known = replace(evidence, bias=part)
    found = specificity(known, taus=[0.1], n_halves=4, seed=5).stability.iloc[0]
    assert found["jaccard"] == pytest.approx(np.mean(expected))
    assert found["low"] == pytest.approx(np.percentile(expected, 2.5))
    assert 0 < found["jaccard"] < 1


def test_attributions_of_other_questions_are_refused(evidence):
    with pytest.raises(ValueError, match="attributions of other questions"):
        gather(tiny_bridge("llama"), kb.load_questions(9), bias=evidence.bias, progress=False)


def test_the_default_control_is_as_large_as_a_dimension():
    assert len(default_control(kb.load_questions())) == 15
    assert len(default_control(kb.load_questions(None))) == 75
    assert [q.answer for q in flipped(kb.load_questions(9))[:3]] == ["yes", "no", "no"]


def test_what_is_refused(evidence):
    with pytest.raises(ValueError, match="at least 2 splits"):
        specificity(evidence, n_halves=1)
    with pytest.raises(ValueError, match="tau is 2"):
        specificity(evidence, taus=[2])


def test_files_and_figure(evidence, tmp_path):
    found = specificity(evidence, taus=[0.05, 0.1], n_halves=4)
    found.save(tmp_path)
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"specificity.csv", "stability.csv", "control_knowledge.json"}
    again = Specificity.load(tmp_path)
    pd.testing.assert_frame_equal(again.overlaps, found.overlaps)
    pd.testing.assert_frame_equal(again.stability, found.stability)
    figure = kb.figures.specificity_plot(again)
    shares = found.overlaps.query("tau == 0.05 and set == @CONTROL")["contained"]
    assert 100 * shares.iloc[0] in list(figure.data[0].x)
    assert "specificity" in kb.figures.make_all(None, {}, specificity=found)
    (tmp_path / "stability.csv").write_text("damaged")
    with pytest.raises(ValueError, match=r"stability\.csv' has no column 'dimension'"):
        Specificity.load(tmp_path)
    with pytest.raises(ValueError, match="no rows to draw"):
        kb.figures.specificity_plot(replace(found, stability=found.stability[:0]))
