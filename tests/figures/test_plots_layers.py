"""Figures over the layers: the sums are the scores', and each neuron is counted once."""

import numpy as np
import pytest
from test_figures import SETS, attributed, chosen, note, texts

import kb_lens as kb
from kb_lens.figures import layer_profile, shared_per_layer

# Questions 0 and 2 are of gender, 1 and 3 of race; two layers of three neurons.
SCORES = attributed(
    [
        [[0.3, -0.1, 0.0], [0.1, 0.1, 0.1]],
        [[0.0, 0.0, 0.2], [-0.1, -0.2, 0.0]],
        [[0.1, -0.3, 0.2], [0.1, 0.0, -0.2]],
        [[0.0, 0.0, 0.2], [-0.1, -0.2, 0.0]],
    ]
)


def lines(figure, name):
    return [trace for trace in figure.data if trace.name == name]


def bands(figure):
    return [trace for trace in figure.data if trace.fill]


def test_the_profile_is_the_mean_of_the_sums_with_their_signs():
    figure = layer_profile(SCORES, n_bootstrap=100)
    added, taken, together = lines(figure, "gender (2)")
    np.testing.assert_allclose(added.y, [30, 20], rtol=1e-6)
    np.testing.assert_allclose(taken.y, [-20, -10], rtol=1e-6)
    np.testing.assert_allclose(together.y, [10, 10], rtol=1e-5)
    added, taken, together = lines(figure, "race (2)")
    np.testing.assert_allclose(added.y, [20, 0], atol=1e-6)
    np.testing.assert_allclose(taken.y, [0, -30], atol=1e-5)
    np.testing.assert_allclose(together.y, [20, -30], atol=1e-5)
    assert [trace.showlegend for trace in figure.data if trace.showlegend] == [True] * 2
    assert figure.layout.yaxis.title.text == "percentage points"


def test_the_interval_is_over_the_questions():
    figure = layer_profile(SCORES, n_bootstrap=1000)
    added = bands(figure)[0]
    np.testing.assert_allclose(added.y, [30, 10, 30, 30], rtol=1e-6)  # 30, 30 and 30, 10
    np.testing.assert_allclose(lines(figure, "gender (2)")[0].customdata, [[30, 30], [10, 30]])
    equal = bands(figure)[4]
    np.testing.assert_allclose(equal.y, [20, 0, 0, 20], atol=1e-6)


def test_the_total_of_exact_scores_is_what_the_layer_contributes():
    scores = SCORES.scores.sum(-1)
    exact = attributed(SCORES.scores, change=scores.tolist())
    for name, attributions in exact.by_dimension().items():
        together = lines(layer_profile(exact, n_bootstrap=1), f"{name} (2)")[2]
        np.testing.assert_allclose(together.y, 100 * attributions.output_change.mean(0), rtol=1e-5)


def test_other_objectives_keep_their_unit():
    figure = layer_profile(attributed([[[1.0]]], objective="logit_difference"), n_bootstrap=1)
    assert figure.layout.yaxis.title.text == "logits"
    assert lines(figure, "gender (1)")[0].y == pytest.approx([1])
    assert "1 questions" in note(figure)


def test_what_the_profile_refuses():
    with pytest.raises(ValueError, match="hold no questions"):
        layer_profile(SCORES.subset([]))
    with pytest.raises(ValueError, match="n_bootstrap must be at least 1"):
        layer_profile(SCORES, n_bootstrap=0)


def test_a_neuron_is_counted_once_in_the_number_of_its_sets():
    bars = shared_per_layer(SETS).data
    assert [bar.name for bar in bars] == ["in one set (4)", "in 2 (1)", "in all 3 (1)"]
    assert [list(bar.y) for bar in bars] == [[0, 2, 2], [1, 0, 0], [1, 0, 0]]
    union = kb.NeuronSet.union(SETS.values())
    assert np.sum([bar.y for bar in bars], 0).tolist() == union.mask().sum(1).tolist()
    assert shared_per_layer(SETS).layout.barmode == "stack"


@pytest.mark.parametrize(
    ("n", "names"),
    [
        (2, ["in one set (1)", "in all 2 (1)"]),
        (4, ["in one set (1)", "in 2 (1)", "in 3 (1)", "in all 4 (1)"]),
        (6, ["in one set (1)", "in 2 (1)", "in 3 to 5 (3)", "in all 6 (1)"]),
    ],
)
def test_more_sets_have_classes_of_their_own(n, names):
    sets = {f"set {i}": chosen(*((0, j) for j in range(n - i))) for i in range(n)}
    bars = shared_per_layer(sets).data
    assert [bar.name for bar in bars] == names
    assert len({bar.marker.color for bar in bars}) == len(bars)


def test_empty_sets_are_drawn_and_one_set_is_refused():
    empty = shared_per_layer({"a": chosen(), "b": chosen()})
    assert [sum(bar.y) for bar in empty.data] == [0, 0]
    assert texts(empty) == []
    with pytest.raises(ValueError, match="1 set has nothing to share"):
        shared_per_layer({"a": chosen((0, 1))})
