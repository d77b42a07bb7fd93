"""Scaling one neuron: the same as scaling a set of one, whatever the way that it runs."""

import math
from dataclasses import replace

import pandas as pd
import pytest
import torch
from safetensors.torch import save_file
from tiny_models import FAMILIES, tiny_bridge

import kb_lens as kb
from kb_lens.attribution.attributions import Settings
from kb_lens.checks.neuron_effects import (
    EffectSettings,
    NeuronEffects,
    effect_against_score,
    neuron_effects,
    rank_correlation,
)
from kb_lens.figures.neuron_effects import dose_response, effect_against_attribution
from kb_lens.knowledge import Spelling
from kb_lens.models.hooked import fingerprint, model_name

SPELLING = Spelling("Yes", "No", 1, 2)
MADE = EffectSettings("tiny", "f", "float32", "post", "last", SPELLING, kb.PromptTemplate())
ASKED = [
    kb.Question(text=f"Is it {i}?", answer="yes", dimension="gender", id=str(i)) for i in range(2)
]


def some_neurons(model, site="post", members=((0, 3), (0, 5), (1, 7), (2, 1))):
    neurons = tuple(kb.Neuron(*member) for member in members)
    return kb.NeuronSet(neurons, model_name(model), fingerprint(model), site, 3, 48)


def one_at_a_time(model, neurons, questions, spelling, lam, positions):
    """P(right) and logit difference [question, neuron] by whole prompts and `scale_neurons`."""
    rows = []
    for question in questions:
        tokens = kb.PromptTemplate().tokens(model, question.text)
        right, wrong = spelling.tokens(question.answer)
        for neuron in neurons:
            alone = replace(neurons, neurons=(neuron,))
            with kb.scale_neurons(model, alone, lam=lam, positions=positions):
                logits = model(tokens)[0, -1]
            rows.append((logits.softmax(-1)[right], logits[right] - logits[wrong]))
    return torch.tensor(rows).view(len(questions), len(neurons), 2).unbind(-1)


def agrees(model, questions, site, positions, lam=0.0):
    neurons = some_neurons(model, site)
    found = neuron_effects(
        model, neurons, questions, lams=(1.0, lam), positions=positions, progress=False
    )
    expected = one_at_a_time(model, neurons, questions, found.settings.spelling, lam, positions)
    assert found.logit_change[..., 1].abs().max() > 1e-3, "the neurons do something"
    assert found.prob_change[..., 0].abs().max() < 1e-6
    assert found.logit_change[..., 0].abs().max() < 1e-4
    assert torch.allclose(found.prob[..., 1], expected[0], atol=1e-6, rtol=1e-4)
    assert torch.allclose(found.logit_diff[..., 1], expected[1], atol=1e-4)


@pytest.mark.parametrize("positions", ["last", "all"])
@pytest.mark.parametrize("site", ["post", "pre"])
def test_each_neuron_alone_is_scaled_as_a_set_of_one(model, questions, site, positions):
    agrees(model, questions, site, positions)
    agrees(model, questions[:1], site, positions, lam=2.5)


@pytest.mark.parametrize("positions", ["last", "all"])
@pytest.mark.parametrize("family", FAMILIES)
def test_in_every_family(family, questions, positions):
    agrees(tiny_bridge(family), questions[:1], "post", positions)


def test_the_base_is_the_unchanged_model(model, questions):
    knowledge = kb.check_knowledge(model, questions, progress=False)
    table = knowledge.table
    right = table["p_yes"].where(table["answer"].eq("yes"), table["p_no"]).tolist()
    for positions in ("last", "all"):
        found = neuron_effects(
            model,
            some_neurons(model),
            questions,
            positions=positions,
            knowledge=knowledge,
            progress=False,
        )
        assert found.base_prob.tolist() == pytest.approx(right, rel=1e-4)
        assert found.settings.spelling == knowledge.spelling


@pytest.mark.parametrize("positions", ["last", "all"])
@pytest.mark.parametrize("batch_size", [1, 3])
def test_the_batch_size_changes_nothing(llama, questions, positions, batch_size):
    settings = {"lams": (0, 2, 3), "positions": positions, "progress": False}
    whole = neuron_effects(llama, some_neurons(llama), questions, **settings)
    parts = neuron_effects(llama, some_neurons(llama), questions, batch_size=batch_size, **settings)
    assert torch.allclose(parts.prob, whole.prob, atol=1e-6)
    assert torch.allclose(parts.logit_diff, whole.logit_diff, atol=1e-4)


def test_a_model_that_is_not_covered_runs_whole_prompts(llama, questions):
    whole = neuron_effects(llama, some_neurons(llama), questions, progress=False)
    hook = ("blocks.0.attn.hook_pattern", lambda pattern, hook: None)
    with llama.hooks(fwd_hooks=[hook]), pytest.warns(UserWarning, match="Whole prompts run"):
        found = neuron_effects(llama, some_neurons(llama), questions, progress=False)
    assert torch.allclose(found.prob, whole.prob, atol=1e-6)
    assert torch.allclose(found.logit_diff, whole.logit_diff, atol=1e-4)


def test_no_hook_is_left(llama, questions):
    tokens = kb.PromptTemplate().tokens(llama, "Is it?")
    before = llama(tokens)
    for positions in ("last", "all"):
        neuron_effects(
            llama, some_neurons(llama), questions[:1], positions=positions, progress=False
        )
        assert torch.equal(llama(tokens), before)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"lams": ()}, "one or more different factors"),
        ({"lams": (0, 0.0)}, "one or more different factors"),
        ({"lams": (math.inf,)}, "any finite number"),
        ({"positions": "first"}, "allowed are 'all' and 'last'"),
        ({"batch_size": 0}, "integers from 1"),
    ],
)
def test_bad_settings(llama, questions, settings, message):
    """Plain calls: a shape checker would speak up before kb_lens does."""
    unchecked = getattr(neuron_effects, "__wrapped__", neuron_effects)
    with pytest.raises(ValueError, match=message):
        unchecked(llama, some_neurons(llama), questions[:1], progress=False, **settings)


def test_a_model_that_overflows(llama, questions):
    hook = ("blocks.1.hook_out", lambda residual, hook: residual * float("inf"))
    with llama.hooks(fwd_hooks=[hook]), pytest.raises(ValueError, match="overflows"):
        neuron_effects(llama, some_neurons(llama), questions[:1], positions="all", progress=False)


def test_nothing_to_measure_and_neurons_of_another_model(llama, questions):
    with pytest.raises(ValueError, match="the neuron set is empty"):
        neuron_effects(llama, some_neurons(llama, members=()), questions)
    with pytest.raises(ValueError, match="there are no questions"):
        neuron_effects(llama, some_neurons(llama), [])
    with pytest.raises(ValueError, match="these neurons belong to"):
        neuron_effects(llama, some_neurons(tiny_bridge("gpt2")), questions)


# -- results ----------------------------------------------------------------------------------


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
    with pytest.raises(ValueError, match="no such file"):
        NeuronEffects.load(tmp_path / "none")
    (tmp_path / "text").write_text("no tensors")
    with pytest.raises(ValueError, match="no readable safetensors"):
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
        ({"spelling": Spelling("yes", "no", 3, 4)}, "compare like with like"),
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
    assert list(bands[1].y) == pytest.approx([-10, 0, 20, 10, 0, -20])
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
    assert {name.text for name in figure.layout.annotations} == {"L0.N1", "L1.N0"}
