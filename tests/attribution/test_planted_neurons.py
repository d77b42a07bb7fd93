"""Planted neurons: they do what they were planted for, and the measures are what they should be."""

import importlib
import math
import sys
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch

import kb_lens as kb
from kb_lens.checks.neuron_effects import neuron_effects
from kb_lens.models.hooked import site_hooks

EXAMPLES = Path(__file__).parents[2] / "examples"
if not EXAMPLES.is_dir():
    pytest.skip("examples are not part of an installed package", allow_module_level=True)
sys.path.insert(0, str(EXAMPLES))
models = importlib.import_module("planted_models")
planted_neurons = importlib.import_module("planted_neurons")
figure = importlib.import_module("planted_figure")
CONVERGED = planted_neurons.CONVERGED
GRID = planted_neurons.GRID


@pytest.fixture(scope="module", autouse=True)
def _nine_questions():
    """Half of the experiment's, which is faster; one thread, on which the sums are the same."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(models, "N_QUESTIONS", 9)
        yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module", params=["plain", "gated"])
def garden(request):
    return models.plant(models.Design(request.param, seed=5))


@pytest.fixture(scope="module")
def table():
    """One model of each kind, measured."""
    designs = [models.Design(kind, seed=5) for kind in ("plain", "gated")]
    return pd.concat([planted_neurons.measure(design) for design in designs], ignore_index=True)


def few(garden, n=4):
    """The same model with its first questions."""
    return replace(garden, questions=garden.questions[:n])


def activations(garden):
    """At the last position of every question: [question, layer, d_mlp]."""
    names = site_hooks(garden.model, "post")
    rows = []
    for question in garden.questions:
        tokens = kb.PromptTemplate().tokens(garden.model, question.text)
        _, cache = garden.model.run_with_cache(tokens, names_filter=lambda name: name in names)
        rows.append(torch.stack([cache[name].flatten(0, -2)[-1] for name in names]))
    return torch.stack(rows)


def with_questions(garden, group):
    """A group's neurons, each with the questions that it was planted for: yes, then no."""
    is_yes = torch.tensor([question.answer == "yes" for question in garden.questions])
    half = len(garden.groups[group]) // 2
    return zip(garden.groups[group], [is_yes] * half + [~is_yes] * half, strict=True)


def test_planted_neurons_are_active_on_their_questions(garden):
    h = activations(garden)
    for group in ("writer", "relay", "reader"):
        for neuron, on_questions in with_questions(garden, group):
            values = h[:, neuron.layer, neuron.index]
            assert values[on_questions].min() > 0.3
            assert values[~on_questions].abs().max() < 0.4 < values[on_questions].mean() / 3


def test_distractors_are_loud_and_silent(garden):
    h = activations(garden)
    writer = max(h[:, n.layer, n.index].mean() for n in garden.groups["writer"])
    for neuron in garden.groups["loud"]:
        assert h[:, neuron.layer, neuron.index].min() > 3 * writer
    for neuron in garden.groups["silent"]:
        assert h[:, neuron.layer, neuron.index].abs().max() < 0.05
    assert not garden.neurons() & garden.neurons("loud", "silent")
    assert len(garden.neurons()) == 16
    assert len(garden.neurons("loud", "silent")) == 8 * models.N_LAYERS


def test_loud_neurons_write_beside_the_answers_and_silent_ones_along_them(garden):
    model = garden.model.original_model
    words = model.lm_head.weight.detach()
    yes, no = garden.model.tokenizer.convert_tokens_to_ids(["yes", "no"])
    for group, parallel in (("loud", False), ("silent", True), ("writer", True)):
        for neuron in garden.groups[group]:
            mlp = garden.model.blocks[neuron.layer].mlp
            row = mlp.W_out[neuron.index].detach()
            cosines = torch.cosine_similarity(words[[yes, no]], row[None]).abs()
            assert (cosines.max() > 0.6) == parallel
            assert parallel or cosines.max() < 1e-4


def test_they_raise_the_right_answer_and_ablation_agrees(garden):
    """Together they carry the answer; alone each pushes its own questions' answer."""
    effects = neuron_effects(
        garden.model, garden.neurons(), garden.questions, lams=(0.0,), progress=False
    )
    change = effects.logit_change[..., 0]
    for group in ("writer", "relay", "reader"):
        for neuron, on_questions in with_questions(garden, group):
            assert change[on_questions, effects.neurons.index(neuron)].mean() < -0.1
    with kb.scale_neurons(garden.model, garden.neurons(), lam=0.0, positions="last"):
        without = kb.check_knowledge(garden.model, garden.questions, forms=(), progress=False)
    before = kb.check_knowledge(garden.model, garden.questions, forms=(), progress=False)
    assert before.knows
    assert not without.knows
    for knowledge, low, high in ((before, 0.3, 1.0), (without, 0.0, 0.1)):
        assert low < knowledge.summary()["p_right"].iloc[0] < high


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["plain", "gated"])
def test_saturation_hides_the_local_gradient_and_not_the_integral(kind):
    """At the end of the path P(right) is flat: activation x gradient misses what the layer did."""
    shares = {}
    for sharpness in (1.0, 9.0):
        garden = few(models.plant(models.Design(kind, 5, sharpness=sharpness, strength=2.0)))
        scores = kb.attribute(garden.model, garden.questions, progress=False)
        h, gradient = planted_neurons.at_the_end(garden, scores)
        layer = scores.output_change[:, 1]
        assert (scores.scores[:, 1].sum(-1) / layer - 1).abs().max() < 0.01
        shares[sharpness] = ((h * gradient)[:, 1].sum(-1) / layer).median()
        assert sharpness == 1.0 or layer.median() > 0.9
    assert shares[1.0] > 0.3
    assert abs(shares[9.0]) < 0.01


def test_activations_and_gradients_are_those_at_the_end_of_the_path(garden):
    first = few(garden, 1)
    scores = kb.attribute(garden.model, first.questions, progress=False)
    h, gradient = planted_neurons.at_the_end(first, scores)
    assert torch.allclose(h, activations(first), atol=1e-4)
    names = site_hooks(garden.model, "post")
    tokens = kb.PromptTemplate().tokens(garden.model, garden.questions[0].text)
    right, _ = scores.settings.spelling.tokens(garden.questions[0].answer)

    def p_right(step):
        def nudge(activation, hook):
            activation.view(-1, activation.shape[-1])[-1] += step * gradient[0, 2]
            return activation

        logits = garden.model.run_with_hooks(tokens, fwd_hooks=[(names[2], nudge)])
        return logits[0, -1].softmax(-1)[right]

    slope = (p_right(0.05) - p_right(-0.05)) / 0.1
    assert torch.isclose(slope, gradient[0, 2].square().sum(), rtol=0.02)


def test_precision_and_recall_by_hand():
    assert planted_neurons.precision_recall(4, 3, 6) == {
        "precision": 0.75,
        "recall": 0.5,
        "f1": 0.6,
    }
    empty = {"precision": 0.0, "recall": 0.0, "f1": 0.0}
    assert planted_neurons.precision_recall(0, 0, 6) == empty


def test_average_precision_by_hand():
    score = torch.tensor([[5.0, 1.0], [4.0, 3.0]])
    true = torch.tensor([[True, False], [False, True]])  # ranked first and third
    assert planted_neurons.average_precision(score, true) == pytest.approx((1 + 2 / 3) / 2)
    assert planted_neurons.average_precision(-score, ~true) == pytest.approx((1 + 2 / 3) / 2)


def test_a_question_weighs_as_much_as_any_other_in_the_ranking():
    scores = torch.tensor([[[1.0, 2.0]], [[100.0, 0.0]], [[-1.0, -5.0]]])
    assert planted_neurons.ranking(scores).tolist() == [[0.5, pytest.approx(1 / 3)]]


def test_scores_are_the_library_s(garden):
    scores = planted_neurons.all_scores(few(garden), seed=1)
    assert scores[GRID].settings.rule == "riemann"
    assert scores[GRID].settings.n_steps == 20
    assert scores[CONVERGED].settings.rule == "adaptive"
    sorted_scores, _ = scores[CONVERGED].scores.flatten(1).sort(1)
    shuffled, _ = scores["random"].scores.flatten(1).sort(1)
    assert torch.equal(sorted_scores, shuffled)
    assert len(kb.select_neurons(scores["random"])) == len(kb.select_neurons(scores[CONVERGED]))


@pytest.mark.slow
def test_the_same_seed_gives_the_same_table(table):
    state = torch.get_rng_state()
    again = planted_neurons.measure(models.Design("plain", seed=5))
    assert torch.equal(torch.get_rng_state(), state), "no global seed is touched"
    pd.testing.assert_frame_equal(again, table.loc[table["kind"].eq("plain")], rtol=1e-4)
    first, second = (models.plant(models.Design("plain", seed)).neurons() for seed in (5, 6))
    assert first.neurons != second.neurons


@pytest.mark.slow
def test_the_table_adds_up(table):
    assert (table["hits"] <= table[["selected", "n_true"]].min(axis=1)).all()
    assert table["average_precision"].between(0, 1).all()
    planted = table.loc[table["truth"].eq("planted")]
    assert (planted[["writer", "relay", "reader"]].sum(axis=1) == planted["hits"]).all()
    for _, group in planted.groupby(["kind", "method"]):
        assert group.sort_values("tau")["selected"].is_monotonic_decreasing
    converged = planted.loc[planted["method"].eq(CONVERGED)]
    assert (converged["jaccard"] == 1).all()
    assert (converged["distance"] == 0).all()


def made(values):
    """A table with one measure's values: method -> one a model."""
    rows = [
        {"kind": "plain", "seed": seed, **figure.CENTRE, "method": method, "truth": "planted"}
        | {"tau": planted_neurons.TAU, **dict.fromkeys(planted_neurons.MEASURES, value)}
        for method, column in values.items()
        for seed, value in enumerate(column)
    ]
    return pd.DataFrame(rows)


def test_means_and_paired_differences_by_hand():
    values = made({CONVERGED: [0.6, 0.9, 0.3], GRID: [0.5, 0.8, 0.2]})
    mean = planted_neurons.means(values).query("method == @CONVERGED and measure == 'recall'")
    assert mean["value"].item() == pytest.approx(0.6)
    assert mean["low"].item() == pytest.approx(0.3)  # the smallest model, three times
    assert mean["n"].item() == 3
    gain = planted_neurons.differences(values).query("measure == 'average_precision'")
    assert gain["method"].item() == GRID
    numbers = gain[["difference", "low", "high"]].to_numpy()[0]
    assert numbers == pytest.approx([0.1, 0.1, 0.1]), "each model beside itself"


def test_models_of_one_seed_are_drawn_together():
    """Two seeds in the same share of confidence, the first in two settings."""
    first = made({CONVERGED: [0.6, 0.9], GRID: [0.5, 0.5]}).assign(p_right=0.3)
    other_setting = made({CONVERGED: [0.6], GRID: [0.6]}).assign(p_right=0.4, sharpness=9.0)
    sure = made({CONVERGED: [0.7], GRID: [0.2]}).assign(p_right=0.95)
    gain = planted_neurons.by_confidence(pd.concat([sure, first, other_setting]))
    gain = gain.query("measure == 'f1'")
    assert gain["p_right"].tolist() == ["(0.25, 0.5]", "(0.9, 1.0]"]
    numbers = gain[["difference", "low", "high", "n"]].to_numpy()
    assert numbers[0] == pytest.approx([0.5 / 3, 0.05, 0.4, 3])
    # one draw of models alone gives no interval
    assert numbers[1] == pytest.approx([0.5, math.nan, math.nan, 1], nan_ok=True)


def test_a_run_goes_on_where_it_stopped(monkeypatch, tmp_path):
    todo, done = planted_neurons.designs(1, 0)[:3], []

    def measured(design):
        if len(done) == 1 and not stopped:
            stopped.append(design)
            raise KeyboardInterrupt
        done.append(design)
        return made({CONVERGED: [0.5]})

    stopped = []
    monkeypatch.setattr(planted_neurons, "measure", measured)
    with pytest.raises(KeyboardInterrupt):
        planted_neurons.run(todo, tmp_path)
    assert len(planted_neurons.run(todo, tmp_path)) == 3
    assert done == todo, "each measured once"


@pytest.mark.slow
def test_the_command_writes_tables_and_figure(monkeypatch, tmp_path, table, capsys):
    columns = ["kind", *figure.CENTRE]

    def measured(design):
        rows = table.loc[table["kind"].eq(design.kind)]
        return rows.assign(seed=design.seed, **{n: getattr(design, n) for n in columns})

    monkeypatch.setattr(planted_neurons, "measure", measured)
    monkeypatch.setattr(planted_neurons, "SETTINGS", ({}, {"depth": 0}))
    monkeypatch.setattr(planted_neurons, "FORMATS", ("html",))
    threads = torch.get_num_threads()
    assert planted_neurons.main(["--models", "2", "--out", str(tmp_path)]) == 0
    assert torch.get_num_threads() == threads == 1
    assert "rows" in capsys.readouterr().out
    assert len(pd.read_parquet(tmp_path / "planted.parquet")) == 4 * len(table)
    assert {path.name for path in tmp_path.iterdir()} == {
        *("parts", "planted.parquet", "means.parquet", "differences.parquet"),
        *("by_confidence.parquet", "planted_neurons.html", "plotly.min.js"),
    }


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "moe"}, "kind is 'moe': allowed are 'plain' and 'gated'"),
        ({"depth": 3}, "depth is 3: allowed are 0 to 2"),
    ],
)
def test_designs_that_cannot_be_made(change, message):
    with pytest.raises(ValueError, match=message):
        models.Design(**{"kind": "plain", "seed": 0} | change)
