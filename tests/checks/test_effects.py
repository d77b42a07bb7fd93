"""What scaling neurons did: tables, files, the scores beside it, and figures."""

import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import save_file

import kb_lens as kb
from kb_lens.attribution.attributions import Settings
from kb_lens.checks.effects import (
    EffectSettings,
    NeuronEffects,
    effect_against_score,
    rank_correlation,
)
from kb_lens.figures.neuron_effects import (
    dose_response,
    effect_against_attribution,
    free_places,
)
from kb_lens.models.answers import Spelling

SPELLING = Spelling("Yes", "No", 1, 2)
MADE = EffectSettings("tiny", "f", "float32", "post", "last", SPELLING, kb.PromptTemplate())
ASKED = [
    kb.Question(text=f"Is it {i}?", answer="yes", dimension="gender", id=str(i)) for i in range(2)
]


def made(change=((-0.2, 0.1), (-0.4, -0.3)), lams=(0.0, 2.0), neurons=((0, 1), (1, 0))):
    """Effects whose change of P(right) is `change` [neuron, lam], 0.1 more in question 1."""
    shift = torch.tensor(change) + torch.tensor([0.0, 0.1])[:, None, None]
    base = torch.tensor([0.5, 0.6])
    return NeuronEffects(
        prob=base[:, None, None] + shift,
        logit_diff=3 * shift + 1,
        base_prob=base,
        base_logit_diff=torch.ones(2),
        neurons=tuple(kb.Neuron(*neuron) for neuron in neurons),
        lams=lams,
        questions=tuple(ASKED),
        settings=MADE,
    )


def test_the_table():
    table = made().table()
    assert table[["layer", "index"]].to_numpy().tolist() == [[0, 1], [0, 1], [1, 0], [1, 0]]
    assert table["lam"].tolist() == [0, 2, 0, 2]
    assert table["prob_change"].tolist() == pytest.approx([-0.15, 0.15, -0.35, -0.25])
    assert table["low"].tolist() == pytest.approx([-0.2, 0.1, -0.4, -0.3])
    assert table["high"].tolist() == pytest.approx([-0.1, 0.2, -0.3, -0.2])
    assert table["logit_change"].tolist() == pytest.approx([-0.45, 0.45, -1.05, -0.75])
    assert table["logit_low"].tolist() == pytest.approx([-0.6, 0.3, -1.2, -0.9])
    assert table["n"].tolist() == [2] * 4
    assert table["helps"].tolist() == [0, 1, 0, 0]


def test_helps_is_a_share_of_the_questions():
    assert made(change=((-0.05, 0.3), (0.3, -0.3))).table()["helps"].tolist() == [0.5, 1, 1, 0]


def test_the_dose_response_passes_through_nothing_at_1():
    curve = made().dose_response()
    assert curve["lam"].tolist() == [0, 1, 2, 0, 1, 2]
    still = curve.loc[curve["lam"].eq(1), ["prob_change", "low", "high"]]
    assert not still.to_numpy().any()
    assert curve["prob_change"].tolist() == pytest.approx([-0.15, 0, 0.15, -0.35, 0, -0.25])
    assert len(made(lams=(1.0, 0.5)).dose_response()) == 4, "a measured 1 is not added again"


def test_more_means_than_are_resampled_at_once():
    neurons = [(0, i) for i in range(100)]
    found = made(change=[(0.001 * i, -0.001 * i) for i in range(100)], neurons=neurons).table()
    change = found["prob_change"].to_numpy()
    assert change[::2].tolist() == pytest.approx([0.001 * i + 0.05 for i in range(100)], abs=1e-6)
    assert (found["high"] - found["low"]).tolist() == pytest.approx([0.1] * 200, abs=1e-6)


def test_what_is_saved_is_loaded(tmp_path):
    made().save(tmp_path / "effects.safetensors")
    found = NeuronEffects.load(tmp_path / "effects.safetensors")
    for name in ("neurons", "lams", "questions", "settings"):
        assert getattr(found, name) == getattr(made(), name)
    assert torch.equal(found.prob, made().prob)
    assert found.table().equals(made().table())


def test_files_that_are_something_else(tmp_path):
    with pytest.raises(ValueError, match="no such neuron effects file"):
        NeuronEffects.load(tmp_path / "none")
    (tmp_path / "text").write_text("no tensors")
    with pytest.raises(ValueError, match="not a complete safetensors"):
        NeuronEffects.load(tmp_path / "text")
    save_file({"prob": torch.zeros(1)}, tmp_path / "scores", {"format": "other"})
    with pytest.raises(ValueError, match="its format is 'other'"):
        NeuronEffects.load(tmp_path / "scores")


def test_shapes_that_do_not_fit():
    with pytest.raises(ValueError, match=r"prob has shape \(2, 2, 2\): expected \(1, 2, 2\)"):
        replace(made(), questions=made().questions[:1])


# -- beside the scores ------------------------------------------------------------------------


def scores(**settings):
    """Scores of the same two questions, the second first, and of one more."""
    values = torch.zeros(3, 2, 2)
    values[:, 0, 1] = torch.tensor([0.3, 0.1, 9.0])
    values[:, 1, 0] = torch.tensor([0.5, 0.4, 9.0])
    more = kb.Question(text="Is that so?", answer="no", dimension="race")
    layers = torch.zeros(3, 2)
    used = {
        "model": "tiny",
        "fingerprint": "f",
        "dtype": "float32",
        "site": "post",
        "rule": "adaptive",
        "n_steps": None,
        "tol": 1e-3,
        "objective": "probability",
        "engine": "joined",
        "spelling": SPELLING,
        "template": kb.PromptTemplate(),
    }
    return kb.Attributions(
        scores=values,
        answer_prob=torch.zeros(3),
        output_change=layers,
        completeness_gap=layers,
        error=layers,
        nodes=layers,
        questions=(ASKED[1], ASKED[0], more),
        settings=Settings(**(used | settings)),
    )


def test_the_ablation_beside_the_score():
    table = effect_against_score(made(), scores())
    assert table["score"].tolist() == pytest.approx([0.2, 0.45])
    assert table["loss"].tolist() == pytest.approx([0.15, 0.35])
    assert table["low"].tolist() == pytest.approx([0.1, 0.3])
    assert table["high"].tolist() == pytest.approx([0.2, 0.4])
    assert rank_correlation(table) == pytest.approx(1)


@pytest.mark.parametrize(
    ("score", "loss", "rho"),
    [
        ([1, 2, 3], [10, 500, 20], 0.5),
        ([1, 2, 3], [3, 2, 1], -1),
        ([1, 1, 2, 3], [1, 2, 3, 4], 4.5 / math.sqrt(4.5 * 5)),
    ],
)
def test_rank_correlation(score, loss, rho):
    assert rank_correlation(pd.DataFrame({"score": score, "loss": loss})) == pytest.approx(rho)


def test_one_neuron_has_no_rank_correlation():
    table = effect_against_score(made(change=((-0.2, 0.1),), neurons=((0, 1),)), scores())
    assert math.isnan(rank_correlation(table))


def test_scores_that_cannot_be_compared():
    for settings, message in (
        ({"fingerprint": "g"}, "fingerprint is g, the effects' f"),
        ({"site": "pre"}, "site is pre"),
        ({"spelling": Spelling("yes", "no", 3, 4)}, "both must be the same"),
        ({"objective": "logit_difference"}, "give those of probability"),
    ):
        with pytest.raises(ValueError, match=message):
            effect_against_score(made(), scores(**settings))
    with pytest.raises(ValueError, match="no scores of the question 'Is it 1"):
        effect_against_score(made(), scores().subset([1]))
    with pytest.raises(ValueError, match="factor 0"):
        effect_against_score(made(lams=(1.0, 2.0)), scores())


# -- figures ----------------------------------------------------------------------------------


def test_a_panel_for_each_of_the_strongest_neurons():
    figure = dose_response(made())
    titles = [note.text for note in figure.layout.annotations]
    assert titles[:2] == ["L1.N0", "L0.N1"], "the strongest first"
    lines = [trace for trace in figure.data if trace.mode == "lines+markers"]
    assert [list(line.x) for line in lines] == [[0, 1, 2], [0, 1, 2]]
    assert list(lines[0].y) == pytest.approx([-35, 0, -25])
    bands = [trace for trace in figure.data if trace.fill == "toself"]
    assert list(bands[1].y) == pytest.approx([-20, 0, 10, 20, 0, -10])
    assert len(dose_response(made(), top=1).data) == 2
    subtitle = figure.layout.title.subtitle.text
    assert "tiny, site post, last position, 2 questions" in subtitle
    with pytest.raises(ValueError, match="top is 0"):
        dose_response(made(), top=0)


def test_the_scatter_says_rho_and_n():
    figure = effect_against_attribution(made(), scores())
    line, points = figure.data
    assert list(line.x) == list(line.y) == pytest.approx([15, 45])
    assert list(points.x) == pytest.approx([20, 45])
    assert list(points.y) == pytest.approx([15, 35])
    assert list(points.customdata) == ["L0.N1", "L1.N0"]
    assert list(points.error_y.array) == pytest.approx([5, 5])
    assert "Rank correlation 1.00, n = 2 neurons" in figure.layout.title.subtitle.text


def test_names_in_the_scatter_do_not_cover_points():
    """The name of the first, to its right, would cover the second."""
    neurons = ((0, 0), (0, 1), (1, 0))
    change = ((-0.11, 0), (-0.105, 0), (-0.45, 0))
    crowded = replace(scores(), scores=torch.tensor([[[0.02, 0.03], [0.5, 0.0]]]).repeat(3, 1, 1))
    figure = effect_against_attribution(made(change, neurons=neurons), crowded)
    assert "L1.N0" in {name.text for name in figure.layout.annotations}


def test_names_stand_clear_of_points_bars_and_lines():
    # on the line of no loss; on the diagonal; a crowd; far from everything
    points = np.array([[40.0, 0.0], [20.0, 20.0], [1.0, 1.0], [1.2, 1.1], [1.1, 0.9], [30.0, 10.0]])
    bars = np.stack([points[:, 1] - 1, points[:, 1] + 1], 1)
    places = free_places(points, bars)
    assert places[5] == (-1, 0)
    assert places[0][1] == 1  # above the line
    assert places[1] in {(-1, 1), (1, -1)}  # off the diagonal
    assert set(places) & {2, 3, 4} != {2, 3, 4}
