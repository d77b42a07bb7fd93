"""Figures of the studies: the numbers in them are the table's, and what they say is true."""

import json
from functools import cache
from itertools import product

import numpy as np
import pandas as pd
import pytest

from kb_lens.figures.studies import study_figures
from kb_lens.figures.style import MINUS
from kb_lens.studies.plans import STUDIES

SETTINGS = {"model": "tiny", "n_questions": 45, "tau": 0.1, "beta": 0.15, "lam": 2.0}
OWN_SETTINGS = {
    "lambda": {"lam": None},
    "question-types": {"n_questions": 225},
    "questions": {"n_questions": None},
    "right-answers": {"n_questions": 225},
    "thresholds": {"tau": None, "beta": None},
}
"""What the studies' plans say of themselves."""
BASE = {
    ("stereoset", "ss"): 60.0,
    ("stereoset", "icat_macro"): 60.0,
    ("crows_pairs", "stereotype_share"): 54.0,
    ("plain_text", "perplexity"): 40.0,
    ("plain_text", "logprob_per_token"): -3.7,
}
GRID = (0.05, 0.1, 0.2)
KIND = ("control", "methods")
"""The one column about controls that tables always had."""


def control(control_of, draw):
    """The columns that say that a case is a random draw."""
    return {"role": "control", "control_of": control_of, "draw": draw}


CASES = {
    "aggregation": [{"aggregation": name} for name in ("union", "pooled")],
    "lambda": [
        {"lam": lam, "set": name, **labels}
        for lam in (1.0, 2.0, 3.0)
        for name, labels in (
            ("know-bias", {}),
            ("like it", control(f"know-bias {lam}", 0)),
            ("like it too", control(f"know-bias {lam}", 1)),
        )
    ],
    "methods": [
        {"method": "enhancement"},
        *(
            {"method": f"alike {draw}", "control": "influence", **control("enhancement", draw)}
            for draw in range(3)
        ),
        {"method": "prompt: be fair", "n_neurons": np.nan},
    ],
    "quadrature": [{"rule": rule, "spelling": "model"} for rule in ("converged", "20 points")],
    "question-types": [{"questions": "only bias_recognition"}, {"questions": "all kinds"}],
    "questions": [{"n_questions": n} for n in (9, 18, 27, 225)],
    "right-answers": [
        *({"set": name} for name in ("right", "all")),
        *(
            {"set": f"{name}'s draw {draw}", **control(name, draw)}
            for name in ("right", "all")
            for draw in (0, 1)
        ),
    ],
    "site": [{"site": site, "at": at} for site in ("post", "pre") for at in ("all", "last")],
    "thresholds": [{"tau": tau, "beta": beta} for tau, beta in product(GRID, GRID)],
    "transfer": [{"source": name} for name in ("gender", "race", "union")],
}


def results(cases, base=BASE, change=lambda number, metric: float(number)) -> pd.DataFrame:
    """Case 0, 1, 2 changes every metric by 0, 1, 2 points, give or take 1.5."""
    rows = []
    for (benchmark, metric), value in base.items():
        key = {"benchmark": benchmark, "metric": metric, "n": 200}
        rows.append({"role": "base", **key, "value": value, "low": value - 4, "high": value + 4})
        for number, labels in enumerate(cases):
            moved = change(number, metric)
            rows.append(
                {
                    "role": "method",
                    "control_of": None,
                    "draw": None,
                    "n_neurons": 10.0 * number,
                    **labels,
                    **key,
                    "value": value + moved,
                }
                | {"difference": moved}
                | {"difference_low": moved - 1.5, "difference_high": moved + 1.5}
            )
    return pd.DataFrame(rows)


@cache
def drawn_as_is(name):
    return drawn(name, base=BASE)


def drawn(name, **changed):
    if not changed:
        return drawn_as_is(name)
    settings = SETTINGS | OWN_SETTINGS.get(name, {})
    return study_figures(name, {"results": results(CASES[name], **changed)}, settings)


def plain(text):
    for sign, usual in (("<br>", " "), ("\N{NO-BREAK SPACE}", " "), (MINUS, "-")):
        text = text.replace(sign, usual)
    return text


def titles(figure):
    heads = (note.text for note in figure.layout.annotations if note.text.startswith("<b>"))
    return [plain(text) for text in heads]


def note(figure):
    return plain(figure.layout.title.subtitle.text)


def rows_of(figure):
    return [plain(text) for text in figure.layout.yaxis.ticktext]


def test_every_study_has_a_figure_that_is_valid_json():
    assert set(CASES) == {*STUDIES, "methods"}
    for name in CASES:
        figures = drawn(name)
        assert name in figures
        for figure in figures.values():
            again = json.loads(figure.to_json())
            assert "NaN" not in figure.to_json()
            assert len(again["data"]) > 0
            assert figure.layout.width == 700
            assert note(figure).startswith("tiny, ")
            assert "95 % paired bootstrap interval" in note(figure)


def test_a_benchmark_is_shown_by_its_headline_and_plain_text_by_the_damage():
    assert titles(drawn("aggregation")["aggregation"]) == [
        "<b>StereoSet: ICAT, macro</b> base 60.0, best 100, n = 200",
        "<b>CrowS-Pairs: stereotype share</b> base 54.0, best 50, n = 200",
        "<b>plain text: log-probability a token</b> base -3.70, lower is damage, n = 200",
    ]


def test_a_benchmark_of_the_callers_own_is_shown_by_its_first_metric():
    figures = drawn("aggregation", base={("mine", "score"): 1.0, ("mine", "other"): 2.0})
    assert titles(figures["aggregation"]) == ["<b>mine: score</b> base 1.0, n = 200"]


def test_settings_that_the_study_varies_are_not_said_to_hold():
    said = {name: note(drawn(name)[name]).split(".", 1)[0] for name in CASES}
    assert said["site"] == "tiny, 45 questions, tau 10 %, beta 15 %, lambda 2"
    assert said["lambda"] == "tiny, 45 questions, tau 10 %, beta 15 %"
    assert said["thresholds"] == "tiny, 45 questions, lambda 2"
    assert said["questions"] == "tiny, tau 10 %, beta 15 %, lambda 2"
    assert said["question-types"] == "tiny, parts of 225 questions, tau 10 %, beta 15 %, lambda 2"


def test_a_row_is_a_case_with_its_neurons_and_its_interval():
    figure = drawn("question-types")["question-types"]
    assert rows_of(figure) == ["only bias recognition (0)", "all kinds (10)"]
    points = figure.data[0]
    assert list(points.x) == [0, 1]
    assert list(points.y) == [0, 1]
    assert list(points.error_x.array) == list(points.error_x.arrayminus) == [1.5, 1.5]
    low, high = figure.layout.xaxis.range
    assert low < -1.5
    assert high > 2.5


def test_random_sets_are_one_row_of_mean_and_percentiles():
    figure = drawn("methods", change=lambda number, metric: 10.0 * number)["methods"]
    names = ["enhancement (0)", "random, same layers and influence (10, 3 sets)", "prompt: be fair"]
    assert rows_of(figure) == names
    own, random = figure.data[:2]
    assert list(own.x) == [0, 40]
    assert list(own.y) == [0, 2]
    assert list(random.x) == [20]
    assert list(random.y) == [1]
    np.testing.assert_allclose(random.error_x.array, 9.5)
    np.testing.assert_allclose(random.error_x.arrayminus, 9.5)
    assert "percentiles" in note(figure)
    assert "percentiles" not in note(drawn("aggregation")["aggregation"])


def test_random_sets_for_different_neurons_are_different_rows():
    assert rows_of(drawn("right-answers")["right-answers"]) == [
        "right (0)",
        "all (10)",
        "random, like right (20, 2 sets)",
        "random, like all (40, 2 sets)",
    ]


def test_a_benchmark_of_the_callers_own_has_points():
    figure = drawn("lambda", base={("mine", "acc"): 1.0})["lambda"]
    assert figure.layout.yaxis.title.text == "points"


def test_what_was_not_measured_says_so():
    table = results(CASES["aggregation"])
    lacking = table["benchmark"].eq("crows_pairs") & table["aggregation"].eq("pooled")
    figure = study_figures("aggregation", {"results": table[~lacking]}, SETTINGS)["aggregation"]
    missing = [note for note in figure.layout.annotations if note.text == "not measured"]
    assert [(note.yref, note.y) for note in missing] == [("y2", 1)]
    assert [len(trace.x) for trace in figure.data] == [2, 1, 2]


@pytest.mark.parametrize(("start", "reached"), [(54.0, False), (51.0, True), (49.0, True)])
def test_a_best_value_is_marked_where_it_is_in_reach(start, reached):
    base = {("crows_pairs", "stereotype_share"): start}
    figure = drawn("aggregation", base=base)["aggregation"]
    assert [shape.x0 for shape in figure.layout.shapes] == [50 - start] * reached


def test_panels_without_room_go_on_in_further_figures():
    base = {(f"bench{number}", "score"): 1.0 for number in range(7)}
    figures = drawn("thresholds", base=base)
    many = [{"method": f"method {number} " + "x " * 20} for number in range(20)]
    tall = study_figures("methods", {"results": results(many, base)}, SETTINGS)
    assert list(figures) == ["thresholds"]
    assert list(tall) == ["methods", "methods_2", "methods_3", "methods_4"]
    assert [len(titles(figure)) for figure in tall.values()] == [2, 2, 2, 1]
    assert max(figure.layout.height for figure in tall.values()) < 1000


# -- lambda -----------------------------------------------------------------------------------


def test_lambda_draws_the_value_with_the_interval_of_its_difference_and_the_controls():
    figure = drawn("lambda", change=lambda number, metric: float(number))["lambda"]
    panel = [trace for trace in figure.data if trace.xaxis == "x2"]
    own = next(trace for trace in panel if trace.name == "know-bias neurons")
    assert list(own.x) == [1, 2, 3]
    assert list(own.y) == [54, 57, 60]
    random = next(trace for trace in panel if trace.name == "random neurons")
    assert list(random.y) == [55, 58, 61, 62, 59, 56]
    band = next(trace for trace in panel if trace.fill and trace.name is None)
    assert list(band.y) == [52.5, 55.5, 58.5, 61.5, 58.5, 55.5]
    base = next(trace for trace in panel if trace.name == "base model")
    assert list(base.y) == [54, 54]
    assert sum(trace.line.width == 1 for trace in panel) == 2


def test_random_neurons_start_where_the_model_is_as_it_is():
    """At lambda 1 nothing is drawn: it is the identity, whichever neurons it is of."""
    cases = [c for c in CASES["lambda"] if c["set"] == "know-bias" or c["lam"] != 1]
    table = results(cases, change=lambda number, metric: float(number))
    figure = study_figures("lambda", {"results": table}, SETTINGS)["lambda"]
    panel = [trace for trace in figure.data if trace.xaxis == "x2"]
    base = next(trace for trace in panel if trace.name == "base model").y[0]
    draws = [trace for trace in panel if trace.line.width == 1]
    assert len(draws) == 2
    assert all((trace.x[0], trace.y[0]) == (1, base) for trace in draws)


def test_lambdas_legend_names_everything_once_and_the_best_value_only_where_it_is():
    near = {("stereoset", "icat_macro"): 60.0, ("crows_pairs", "stereotype_share"): 51.0}
    figure = drawn("lambda", base=near)["lambda"]
    named = [trace.name for trace in figure.data if trace.showlegend]
    assert sorted(named) == ["base model", "best value", "know-bias neurons", "random neurons"]
    assert [t.xaxis for t in figure.data if t.name == "best value"] == ["x2"]


def test_lambda_without_controls_has_no_band_for_them():
    table = results([case for case in CASES["lambda"] if case["set"] == "know-bias"])
    figure = study_figures("lambda", {"results": table}, SETTINGS)["lambda"]
    assert "random neurons" not in {trace.name for trace in figure.data}


# -- questions --------------------------------------------------------------------------------


def test_questions_shows_differences_and_the_number_of_neurons():
    figure = drawn("questions")["questions"]
    assert titles(figure)[-1] == "<b>neurons selected</b>"
    change, *_, sizes = figure.data
    assert list(change.x) == list(sizes.x) == [9, 18, 27, 225]
    assert list(change.y) == [0, 1, 2, 3]
    assert list(sizes.y) == [0, 10, 20, 30]
    assert list(figure.layout.xaxis.tickvals) == [9, 18, 225]  # 27 has no room


# -- heatmaps ---------------------------------------------------------------------------------


def test_thresholds_have_tau_upwards_beta_to_the_right_and_marks_where_0_is_excluded():
    sizes, icat, *_ = drawn("thresholds", change=lambda n, _: n - 4.0)["thresholds"].data
    assert sizes.text.tolist() == [["0", "10", "20"], ["30", "40", "50"], ["60", "70", "80"]]
    assert np.isnan(sizes.z[0, 0])
    np.testing.assert_allclose(sizes.z[2], np.log10([60, 70, 80]))
    assert icat.z.tolist() == [[-4, -3, -2], [-1, 0, 1], [2, 3, 4]]
    assert icat.zmin == -icat.zmax < -4
    assert [[plain(cell) for cell in row] for row in icat.text] == [
        ["<b>-4.0*</b>", "<b>-3.0*</b>", "<b>-2.0*</b>"],
        ["-1.0", "+0.0", "+1.0"],
        ["<b>+2.0*</b>", "<b>+3.0*</b>", "<b>+4.0*</b>"],
    ]


def test_an_interval_that_ends_at_0_does_not_exclude_it():
    figure = drawn("thresholds", change=lambda number, metric: 1.5)["thresholds"]
    assert set(figure.data[1].text.ravel()) == {"+1.5"}


TARGETS = {
    ("stereoset", "icat_macro"): 60.0,
    ("stereoset", "icat"): 60.0,
    ("stereoset", "icat_gender"): 70.0,
    ("stereoset", "icat_race"): 50.0,
    ("crows_pairs", "stereotype_share"): 54.0,
    ("crows_pairs", "stereotype_share_race-color"): 51.0,
    ("crows_pairs", "stereotype_share_gender"): 44.0,
    ("crows_pairs", "stereotype_share_age"): 60.0,
}


def test_transfer_counts_how_much_nearer_a_share_comes_to_50_and_marks_icat_alone():
    figure = drawn("transfer", base=TARGETS, change=lambda number, _: 2.0 * number)
    assert list(figure) == ["transfer_matrix", "transfer"]
    icat, share = figure["transfer_matrix"].data
    assert icat.z.tolist() == [[0, 0], [2, 2], [4, 4]]
    assert icat.text.tolist()[1:] == [["<b>+2.0*</b>"] * 2, ["<b>+4.0*</b>"] * 2]
    assert share.z.tolist() == [[0, 0], [2, -2], [4, -4]]  # 44 to 46 and 48; 51 to 53 and 55
    assert not any("*" in text for text in share.text.ravel())
    assert "|base - best| - |value - best|" in note(figure["transfer_matrix"])


def test_transfer_says_which_cells_are_the_neurons_own_dimension():
    figure = drawn("transfer", base=TARGETS)["transfer_matrix"]
    assert list(figure.layout.xaxis2.ticktext) == ["gender<br>n = 200", "race-color<br>n = 200"]
    assert rows_of(figure) == ["gender (0)", "race (10)", "union (20)"]
    boxes = [
        (box.xref, (box.x0 + box.x1) / 2, (box.y0 + box.y1) / 2) for box in figure.layout.shapes
    ]
    assert boxes == [("x", 0, 0), ("x", 1, 1), ("x2", 0, 0), ("x2", 1, 1)]


def test_transfer_has_all_types_of_own_items():
    """Types with a dimension first; a kind of items and a variant are no types."""
    names = ("icat_macro", "icat", "icat_old age", "icat_caste", "icat_race", "icat_per_token")
    targets = {("stereoset-mine", name): 60.0 for name in (*names, "icat_intrasentence")}
    figure = drawn("transfer", base=targets)["transfer_matrix"]
    heads = [f"{name}<br>n = 200" for name in ("race", "caste", "old age")]
    assert list(figure.layout.xaxis.ticktext) == heads
    assert [(box.x0 + box.x1, box.y0 + box.y1) for box in figure.layout.shapes] == [(0, 2)]


def test_transfer_without_bias_types_has_no_matrix():
    assert list(drawn("transfer", base={("openbookqa", "acc"): 24.0})) == ["transfer"]


# -- errors -----------------------------------------------------------------------------------


def test_bad_input_is_refused():
    table = results(CASES["site"])
    with pytest.raises(ValueError, match=r"no study 'x': allowed are .*thresholds"):
        study_figures("x", {"results": table}, SETTINGS)
    with pytest.raises(ValueError, match=r"icat_makro .*: there are stereoset\.icat_macro"):
        study_figures("site", {"results": table}, SETTINGS, metrics=[("stereoset", "icat_makro")])
    with pytest.raises(ValueError, match="icat_macro has 0 rows of the base model and 4 of cases"):
        study_figures("site", {"results": table[table["difference"].notna()]}, SETTINGS)
    with pytest.raises(ValueError, match="icat_macro has 1 rows of the base model and 0 of cases"):
        study_figures("site", {"results": table[table["difference"].isna()]}, SETTINGS)
    with pytest.raises(ValueError, match="no rows"):
        study_figures("site", {"results": pd.DataFrame()}, SETTINGS)
