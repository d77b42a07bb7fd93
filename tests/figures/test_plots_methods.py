"""The figures of methods show the numbers that they are given."""

import numpy as np
import pandas as pd
import pytest
from test_comparison import crows

import kb_lens as kb
from kb_lens.checks.control_tests import ControlTest, control_test
from kb_lens.figures.methods import control_distribution, rank_figure
from kb_lens.figures.tuning import tuning_figure
from kb_lens.statistics import Metric
from kb_lens.studies.tuned import Tuning

METHODS = {"base": [crows(8)], "good": [crows(5)], "below": [crows(2)], "worst": [crows(10)]}


def texts(figure):
    return [annotation.text for annotation in figure.layout.annotations]


def note(figure):
    """What stands below the title, on one line."""
    return figure.layout.title.subtitle.text.replace("<br>", " ")


def traces(figure, name):
    return [trace for trace in figure.data if trace.name == name]


# --- ranks ---------------------------------------------------------------------------------


def test_the_rank_figure_has_every_rank_and_value_the_best_method_first():
    table = kb.rank_table(METHODS, n_bootstrap=50).assign(rank_low=1.04, rank_high=3)
    (heat,) = (figure := rank_figure(table)).data
    assert figure.layout.yaxis.ticktext == ("good", "base", "below", "worst")
    np.testing.assert_array_equal(heat.z, [[1, 1], [2.5, 2.5], [2.5, 2.5], [4, 4]])
    assert heat.text.tolist() == [
        ["<b>1.0</b><br>1.0\N{EN DASH}3.0", "<b>1</b><br>50.0"],
        ["<b>2.5</b><br>1.0\N{EN DASH}3.0", "<b>2.5</b><br>80.0"],
        ["<b>2.5</b><br>1.0\N{EN DASH}3.0", "<b>2.5</b><br>20.0"],
        ["<b>4.0</b><br>1.0\N{EN DASH}3.0", "<b>4</b><br>100.0"],
    ]
    assert "stereotype" in figure.layout.xaxis.ticktext[1]


def test_a_key_that_begins_like_another_is_not_taken_for_it():
    table = pd.DataFrame({"method": ["a", "b"], "average_rank": [1.0, 2.0]})
    table = table.assign(rank_low=1.0, rank_high=2.0)
    for key, value in (("bbq_generated", -1.23), ("bbq", -0.04)):
        table[f"{key} s_AMB"], table[f"{key} rank"] = [value, 9.0], [1.0, 2.0]
    figure = rank_figure(table)
    assert figure.data[0].text[0].tolist()[1:] == [
        "<b>1</b><br>\N{MINUS SIGN}1.2",
        "<b>1</b><br>0.0",
    ]
    assert figure.layout.xaxis.ticktext[1:] == (
        "BBQ,<br>generated<br><i>bias</i><br><i>score,</i><br><i>ambiguous</i>",
        "BBQ<br><i>bias</i><br><i>score,</i><br><i>ambiguous</i>",
    )


@pytest.mark.parametrize("broken", [pd.DataFrame(), pd.DataFrame({"method": ["a"]})])
def test_what_is_no_rank_table_is_refused(broken):
    with pytest.raises(ValueError, match=r"kb_lens\.rank_table"):
        rank_figure(broken)


# --- controls ------------------------------------------------------------------------------


def test_controls_and_method_stand_where_their_effects_are():
    tests = {
        "first": control_test(crows(8), crows(5), [crows(7), crows(8), crows(2)]),
        "second": ControlTest("k", "m", Metric(-2.0, -4.0, 1.0, 9), np.array([3.0])),
    }
    figure = control_distribution(tests)
    strips, methods = traces(figure, "random controls"), traces(figure, "the method")
    np.testing.assert_allclose(strips[0].x, [10, 0, 0], atol=1e-9)
    assert [m.x[0] for m in methods] == pytest.approx([30, -2])
    assert methods[1].error_x.array[0] == 3
    assert methods[1].error_x.arrayminus[0] == 2
    assert texts(figure) == ["rank 1 of 4", "rank 2 of 2"]
    assert "No p with fewer than 99 random draws" in note(figure)
    for row, (strip, method) in enumerate(zip(strips, methods, strict=True)):
        heights = [*strip.y, *method.y]
        assert all(row - 0.5 < height < row + 0.5 for height in heights)
        assert max(strip.y) < method.y[0]
    assert [trace.showlegend for trace in figure.data] == [True, True, False, False]
    assert figure.layout.yaxis.ticktext[1] == "second<br><i>m</i>"


def test_what_has_a_p_has_its_rate_beside_it():
    metric, controls = Metric(0.5, -1.0, 1.0, 9), np.zeros(99)
    tests = {"alone": ControlTest("k", "m", metric, controls)}
    tests["of a table"] = ControlTest("k", "m", metric, controls, q=0.031)
    figure = control_distribution(tests)
    assert texts(figure) == [
        "p = 0.01<br>rank 1 of 100",
        "p = 0.01, q = 0.031<br>rank 1 of 100",
    ]
    assert "No p" not in note(figure)


def test_many_controls_stay_in_their_row():
    test = ControlTest("k", "m", Metric(0.0, -1.0, 1.0, 9), np.linspace(-1, 1, 200))
    (strip,) = traces(control_distribution({"one": test}), "random controls")
    assert -0.4 < min(strip.y) < max(strip.y) < 0.1


def test_no_tests_are_refused():
    with pytest.raises(ValueError, match="no tests to draw"):
        control_distribution({})


# --- tuning --------------------------------------------------------------------------------


def made(lam=2.0):
    development = pd.DataFrame({"lam": [1.5, 2.0, 4.0], "gain": [1.0, 2.0, 9.0], "n": 80})
    development = development.assign(low=-1.0, high=10.0, capability_change=[0.0, -1.0, -8.0])
    development["capability_low"] = development["capability_change"] - 2
    development["capability_high"] = development["capability_change"] + 1
    development["capability_n"], development["admissible"] = 40, [True, True, False]
    rows = [("crows_pairs", 0.5), ("openbookqa", -0.25)] if lam != 1 else []
    test = pd.DataFrame(
        [(key, "gain", 0.0, value, value, value - 1, value + 2, 70) for key, value in rows],
        columns=["benchmark", "metric", "base", "other", "difference", "low", "high", "n"],
    )
    settings = {
        "model": "tiny",
        "n_neurons": 3,
        "bias": "crows_pairs",
        "bias_metric": "stereotype_share",
        "capability": "openbookqa",
        "capability_metric": "acc",
        "bound": 5.0,
    }
    return Tuning(lam, "The verdict.", development, test, settings)


def test_the_sweep_the_bound_and_the_test_are_drawn():
    figure = tuning_figure(made())
    taken = traces(figure, "development items")
    assert [list(trace.x) for trace in taken] == [[1.5, 2.0]] * 2
    assert [list(trace.y) for trace in taken] == [[1, 2], [0, -1]]
    assert list(taken[1].error_y.array) == [1, 1]
    assert list(taken[1].error_y.arrayminus) == [2, 2]
    costly = traces(figure, "development items, too costly")
    assert [list(trace.y) for trace in costly] == [[9], [-8]]
    tested = traces(figure, "test items")
    assert [list(trace.y) for trace in tested] == [[0.5], [-0.25]]
    assert list(tested[0].error_y.arrayminus) == [1]
    assert all(2.0 < trace.x[0] < 4.0 for trace in tested)
    lines = [shape for shape in figure.layout.shapes if shape.type == "line"]
    assert [(line.y0, line.yref) for line in lines] == [(-5, "y2")]
    bands = [shape for shape in figure.layout.shapes if shape.type == "rect"]
    assert len(bands) == 2
    assert all(band.x0 < 2.0 < tested[0].x[0] < band.x1 < 4.0 for band in bands)
    assert "chosen" in texts(figure)
    assert "The verdict." in figure.layout.title.subtitle.text
    assert any(
        "crows_pairs stereotype_share" in t and "n = 80, test 70" in t for t in texts(figure)
    )
    assert any("openbookqa acc" in t and "n = 40, test 70" in t for t in texts(figure))
    assert [trace.showlegend for trace in figure.data] == [True] * 3 + [False] * 3


def test_where_nothing_was_chosen_nothing_is_marked():
    figure = tuning_figure(made(lam=1.0))
    assert "chosen" not in texts(figure)
    assert not [shape for shape in figure.layout.shapes if shape.type == "rect"]
    assert all(len(trace.x) == 0 and not trace.showlegend for trace in traces(figure, "test items"))


def test_a_single_lambda_is_drawn():
    tuning = made()
    one = Tuning(2.0, "", tuning.development.iloc[1:2], tuning.test, tuning.settings)
    figure = tuning_figure(one)
    assert figure.layout.xaxis.range[0] < 2.0


def test_an_empty_sweep_is_refused():
    tuning = made()
    with pytest.raises(ValueError, match="no lambda to draw"):
        tuning_figure(Tuning(1.0, "", tuning.development.iloc[:0], tuning.test, tuning.settings))
