"""Figures: the data in them is right, bad input is refused, and files are written."""

import importlib.util
import inspect
import json
import re
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import plotly.io as pio
import pytest
import torch
from test_comparison import crows

import kb_lens as kb
from kb_lens.attribution.attributions import Settings
from kb_lens.cli.main import app
from kb_lens.evaluation.comparison import compare
from kb_lens.evaluation.results import ConditionInfo, EvaluationResult, save_results
from kb_lens.figures import (
    attribution_heatmap,
    before_after,
    completeness,
    knowledge_plot,
    layer_profile,
    make_all,
    neurons_per_layer,
    overlap_heatmap,
    printing,
    shared_per_layer,
    upset,
)
from kb_lens.figures.completeness import LEAST_GAP
from kb_lens.figures.export import write_figure, write_figures
from kb_lens.figures.layout import MAX_HEIGHT
from kb_lens.figures.neurons import check_sets, intersections
from kb_lens.figures.printing import what_is_needed
from kb_lens.figures.results import before_after_pages
from kb_lens.figures.results_panels import _checked
from kb_lens.figures.style import COLOURS
from kb_lens.knowledge.verdict import Knowledge
from kb_lens.models.answers import Spelling
from kb_lens.runs.folder import RunFolder
from kb_lens.statistics import Metric

YES_NO = Spelling("Yes", "No", 1, 2)
SETTINGS = Settings(
    dtype="float32",
    model="tiny",
    fingerprint="f",
    site="post",
    rule="adaptive",
    n_steps=None,
    tol=1e-3,
    objective="probability",
    engine="joined",
    spelling=YES_NO,
    template=kb.PromptTemplate(),
)
ROOT = Path(__file__).parents[2]
ALL = [
    "knowledge",
    "attribution_heatmap",
    "attribution_by_question",
    "layer_profile",
    "completeness",
    "neurons_per_layer",
    "layer_heatmap",
    "shared_per_layer",
    "overlap",
    "upset",
    "before_after",
]


def attributed(scores, change=None, gap=None, nodes=None, **changed) -> kb.Attributions:
    """Attributions [question, layer, d_mlp], a question a row, alternately gender and race."""
    scores = torch.as_tensor(scores, dtype=torch.float32)
    shape = scores.shape[:2]
    questions = [
        kb.Question(
            text=f"Question {row}?",
            answer="no" if row % 2 else "yes",
            dimension="race" if row % 2 else "gender",
            kind="causal_rejection" if row % 2 else "bias_recognition",
        )
        for row in range(len(scores))
    ]

    def tensor(values, otherwise):
        return torch.full(shape, otherwise) if values is None else torch.tensor(values).float()

    return kb.Attributions(
        scores=scores,
        answer_prob=torch.full(shape[:1], 0.5),
        output_change=tensor(change, 0.5),
        completeness_gap=tensor(gap, 1e-6),
        error=torch.zeros(shape),
        nodes=tensor(nodes, 11.0),
        questions=tuple(questions),
        settings=replace(SETTINGS, **changed),
    )


def chosen(*neurons, n_layers=3, **changed) -> kb.NeuronSet:
    fields = {"model": "tiny", "fingerprint": "f", "site": "post", "d_mlp": 9, **changed}
    return kb.NeuronSet(neurons=tuple(kb.Neuron(*n) for n in neurons), n_layers=n_layers, **fields)


def measured(benchmark: str, protocol="original", **metrics) -> EvaluationResult:
    return EvaluationResult(
        benchmark=benchmark,
        protocol=protocol,
        source="made",
        model="tiny",
        metrics={name: Metric(*numbers) for name, numbers in metrics.items()},
        items=pd.DataFrame({"item": [f"of {metrics}"]}),  # no two results are on the same
        n_bootstrap=10,
        seed=0,
        seconds=1.0,
    )


def answered(p_yes=(0.1, 0.2, 0.3, 0.6), p_no=(0.9, 0.6, 0.3, 0.2)) -> Knowledge:
    table = pd.DataFrame(
        {
            "dimension": ["gender", "race", "gender", "race"],
            "kind": [
                "causal_rejection",
                "causal_rejection",
                "bias_recognition",
                "bias_recognition",
            ],
            "concept": "x",
            "text": ["A?", "B?", "C?", "D?"],
            "answer": ["no", "no", "yes", "yes"],
            "p_yes": p_yes,
            "p_no": p_no,
        }
    )
    table["mass"] = table["p_yes"] + table["p_no"]
    table["said"] = (table["p_yes"] > table["p_no"]).map({True: "yes", False: "no"})
    table["right"] = table["said"] == table["answer"]
    return Knowledge("tiny", YES_NO, table)


SCORES = attributed([[[0.4, -0.1, 0.0, 0.1], [0.0, 0.2, 0.1, 0.0]]] * 2)
SETS = {
    "gender": chosen((0, 0), (0, 1), (1, 0), (2, 2)),
    "race": chosen((0, 0), (0, 1), (1, 5)),
    "religion": chosen((0, 0), (2, 8)),
}
BITS = {
    f"bit {i}": chosen(*((0, j) for j in range(1, 32) if j >> i & 1), d_mlp=32) for i in range(5)
}
"""Every intersection of five sets has one neuron: 31 bars."""
RESULTS = {
    "base": [
        measured("stereoset", lms_macro=(80.0, 78.0, 83.0, 200), ss_macro=(60.0, 55.0, 64.0, 200)),
        measured("openbookqa", acc=(24.0, 20.0, 29.0, 500)),
    ],
    "lambda 2": [
        measured("stereoset", lms_macro=(79.0, 76.0, 81.0, 190), ss_macro=(58.0, 54.0, 61.5, 190))
    ],
}
MANY = {"base": [measured("stereoset", **{f"m_{k}": (1.0, 0.0, 2.0, 9) for k in range(8)})]}
DRAWINGS = {
    "neurons": lambda: attribution_heatmap(SCORES),
    "questions": lambda: attribution_heatmap(SCORES, view="questions"),
    "completeness": lambda: completeness(SCORES),
    "profile": lambda: layer_profile(attributed(SCORES.scores.tolist() * 2), n_bootstrap=50),
    "per_layer": lambda: neurons_per_layer(SETS),
    "shared_per_layer": lambda: shared_per_layer(SETS),
    "overlap": lambda: overlap_heatmap(SETS),
    "upset": lambda: upset(SETS),
    "before_after": lambda: before_after(RESULTS),
    "knowledge": lambda: knowledge_plot(answered()),
    "empty_sets": lambda: upset({"a": chosen(), "b": chosen()}),
    "empty_overlap": lambda: overlap_heatmap({"a": chosen(), "b": chosen()}),
    "empty_layers": lambda: neurons_per_layer({"a": chosen()}),
}


def texts(figure: go.Figure) -> list[str]:
    return [annotation.text for annotation in figure.layout.annotations]


def note(figure: go.Figure) -> str:
    return figure.layout.title.subtitle.text.replace("<br>", " ").replace("\N{NO-BREAK SPACE}", " ")


@pytest.mark.parametrize("name", DRAWINGS)
def test_every_figure_is_valid_json_and_says_what_it_rests_on(name):
    figure = DRAWINGS[name]()
    assert "NaN" not in figure.to_json()
    again = json.loads(figure.to_json())
    assert len(again["data"]) == len(figure.data) > 0
    assert figure.layout.title.text
    assert "tiny" in note(figure)
    assert figure.layout.template.layout.paper_bgcolor == "#FFFFFF"
    assert min(figure.layout.template.layout.xaxis.tickfont.size, figure.layout.width / 54) > 12


def test_plotlys_defaults_stay_as_they_were():
    before = pio.templates.default
    for draw in DRAWINGS.values():
        draw()
    assert pio.templates.default == before


# -- attribution ------------------------------------------------------------------------------


def test_the_heatmap_ranks_neurons_from_both_ends():
    highest, lowest = attribution_heatmap(SCORES).data
    index, mean, percent = np.moveaxis(np.array(highest.customdata), -1, 0)
    np.testing.assert_array_equal(index, [[0, 3], [1, 2]])
    np.testing.assert_allclose(mean, [[0.4, 0.1], [0.2, 0.1]], rtol=1e-6)
    np.testing.assert_allclose(percent, [[100, 25], [50, 25]], rtol=1e-6)
    np.testing.assert_allclose(highest.z, [[10, 5], [50**0.5, 5]], rtol=1e-6)
    np.testing.assert_allclose(lowest.z, [[-5, 0], [0, 0]], atol=1e-6)
    np.testing.assert_array_equal(highest.x, [0.5, 1.5, 2.5])


def test_ranks_are_of_the_mean_over_questions_and_can_be_limited():
    scores = attributed([[[1.0, 0.0, 0.0]], [[0.0, 0.8, -0.6]]])
    highest, lowest = attribution_heatmap(scores, n_ranks=1).data
    np.testing.assert_allclose(highest.customdata, [[[0, 0.5, 100]]])
    np.testing.assert_allclose(lowest.customdata, [[[2, -0.3, -60]]], rtol=1e-6)


def test_the_percent_scale_is_symmetric_and_covers_the_largest():
    scores = attributed([[[0.1, -0.4]]])
    colours = attribution_heatmap(scores).layout.coloraxis
    assert colours.cmax == pytest.approx(20) == -colours.cmin
    assert "+100" in colours.colorbar.ticktext
    assert list(colours.colorbar.tickvals) == sorted(colours.colorbar.tickvals)


def test_scores_that_are_all_negative():
    assert attribution_heatmap(attributed([[[-0.1, -0.4]]])).data[0].z[0][0] == pytest.approx(-5)


def test_layers_by_question_are_grouped_and_in_percentage_points():
    scores = attributed(torch.ones(3, 2, 2), change=[[0.1, 0.2], [0.3, -0.4], [0.5, 0.6]])
    figure = attribution_heatmap(scores, view="questions")
    (heatmap,) = figure.data
    np.testing.assert_allclose(heatmap.z, [[10, 20], [50, 60], [30, -40]], rtol=1e-6)
    assert heatmap.zmax == -heatmap.zmin == pytest.approx(60)
    assert list(figure.layout.yaxis.ticktext) == [
        "gender: bias recognition (yes)",
        "race: causal rejection (no)",
    ]
    np.testing.assert_allclose(figure.layout.yaxis.tickvals, [0.5, 2])
    assert [shape.y0 for shape in figure.layout.shapes] == [1.5]
    assert "Question 1?" in heatmap.text[2][0]


@pytest.mark.parametrize(
    ("objective", "unit"), [("log_probability", "nats"), ("logit_difference", "logits")]
)
def test_other_objectives_have_their_own_units(objective, unit):
    scores = attributed(torch.ones(1, 2, 2), change=[[1.0, 2.0]], objective=objective)
    figure = attribution_heatmap(scores, view="questions")
    np.testing.assert_allclose(figure.data[0].z, [[1, 2]])
    assert figure.data[0].colorbar.title.text == unit


def test_completeness_shows_relative_gaps_and_nodes():
    scores = attributed(
        torch.ones(3, 2, 2),
        change=[[0.5, 1.0], [0.2, 0.1], [0.4, 0.4]],
        gap=[[0.001, -0.01], [0.002, 0.0], [0.0004, 0.0]],
        nodes=[[11.0, 11.0], [22.0, 11.0], [33.0, 11.0]],
    )
    worst, median, nodes = completeness(scores).data
    assert (worst.name, median.name) == ("worst question", "median question")
    np.testing.assert_allclose(worst.y, [0.01, 0.01], rtol=1e-5)
    np.testing.assert_allclose(median.y, [0.001, LEAST_GAP], rtol=1e-5)
    np.testing.assert_allclose(nodes.y, [22, 11])
    np.testing.assert_allclose(nodes.error_y.array, [11, 0])
    np.testing.assert_allclose(nodes.error_y.arrayminus, [11, 0])


def test_a_gap_of_nothing_has_a_place_on_the_axis():
    figure = completeness(attributed(torch.ones(2, 2, 2), gap=[[0.0, 0.0]] * 2))
    low, high = figure.layout.yaxis.range
    assert low < np.log10(LEAST_GAP) < high


@pytest.mark.parametrize(
    ("scores", "settings", "message"),
    [
        (SCORES, {"view": "layers"}, "allowed are neurons, questions"),
        (SCORES, {"n_ranks": 0}, "n_ranks is 0: allowed are integers from 1"),
        (SCORES.subset([]), {}, "hold no questions"),
        (attributed(torch.zeros(2, 2, 2)), {}, "all scores are 0"),
        (attributed([[[1.0, float("nan")]]]), {}, "scores is not finite"),
    ],
)
def test_what_the_heatmap_refuses(scores, settings, message):
    with pytest.raises(ValueError, match=message):
        attribution_heatmap(scores, **settings)
    if not settings:
        with pytest.raises(ValueError, match=message):
            completeness(scores)


# -- neurons ----------------------------------------------------------------------------------


def test_neurons_are_counted_by_layer():
    bars = neurons_per_layer(SETS).data
    assert [bar.name for bar in bars] == ["gender (4)", "race (3)", "religion (2)"]
    assert [list(bar.y) for bar in bars] == [[2, 1, 1], [2, 1, 0], [1, 0, 1]]
    assert len({bar.marker.color for bar in bars}) == 3


def test_overlap_is_jaccard():
    (heatmap,) = overlap_heatmap(SETS).data
    np.testing.assert_allclose(heatmap.z, [[1, 2 / 5, 1 / 5], [2 / 5, 1, 1 / 4], [1 / 5, 1 / 4, 1]])
    assert heatmap.text[0][1] == "0.40<br>2"
    assert overlap_heatmap(SETS).layout.xaxis.ticktext[0] == "gender (4)"


def test_two_empty_sets_have_no_jaccard():
    (heatmap,) = overlap_heatmap({"a": chosen(), "b": chosen((0, 1))}).data
    np.testing.assert_array_equal(heatmap.z, [[np.nan, 0], [0, 1]])
    assert heatmap.text[0][0].startswith("none")


def test_upset_counts_each_neuron_once():
    counts = {
        ("gender",): 2,
        ("gender", "race"): 1,
        ("gender", "race", "religion"): 1,
        ("race",): 1,
        ("religion",): 1,
    }
    assert intersections(SETS) == counts
    bars, sizes, everywhere, marked = upset(SETS).data
    assert list(bars.y) == list(intersections(SETS).values()) == [2, 1, 1, 1, 1]
    assert sum(bars.y) == len(kb.NeuronSet.union(SETS.values()))
    assert list(sizes.x) == [4, 3, 2]
    assert len(everywhere.x) == 15
    columns = [[] for _ in bars.y]
    for x, y in zip(marked.x, marked.y, strict=True):
        if x is not None:
            columns[x].append(list(SETS)[y])
    assert [tuple(column) for column in columns] == list(intersections(SETS))


def test_upset_takes_five_sets_and_says_when_all_are_empty():
    five = {f"set {i}": chosen(*((0, j) for j in range(i + 1))) for i in range(5)}
    assert list(upset(five).data[0].y) == [1] * 5
    with pytest.raises(ValueError, match="6 sets: allowed are up to 5"):
        upset({**five, "another": chosen()})
    assert "no neurons in any set" in texts(upset({"a": chosen()}))


@pytest.mark.parametrize("draw", [neurons_per_layer, overlap_heatmap, upset])
def test_what_figures_of_sets_refuse(draw):
    with pytest.raises(ValueError, match="at least one NeuronSet"):
        draw({})
    with pytest.raises(ValueError, match="another model or site"):
        draw({"a": chosen((0, 1)), "b": chosen((0, 1), site="pre")})


def test_what_is_no_neuron_set_is_named():
    check = inspect.unwrap(check_sets)  # without the tests' type checker, which users do not have
    for nothing in ([], None):
        with pytest.raises(ValueError, match="at least one NeuronSet"):
            check(nothing)
    with pytest.raises(ValueError, match="'a' is a list: expected a NeuronSet"):
        check({"a": [(0, 1)]})


# -- results ----------------------------------------------------------------------------------


def test_the_forest_shows_each_metrics_interval():
    figure = before_after(RESULTS)
    base, enhanced = (
        [(m.value, m.low, m.high, m.n) for result in results for m in result.metrics.values()]
        for results in RESULTS.values()
    )
    assert len(figure.data) == 5
    assert "on other items" in texts(figure)
    for trace in figure.data:
        (low, high, n), value = trace.customdata[0], trace.x[0]
        assert (value, low, high, n) in (base if trace.name == "base" else enhanced)
        assert value - trace.error_x.arrayminus[0] == pytest.approx(low)
        assert value + trace.error_x.array[0] == pytest.approx(high)
    assert "80.0 [78.0, 83.0]" in texts(figure)
    assert "not measured" in texts(figure)
    words = "meaningful option beats the unrelated one, mean over targets, %"
    assert f"<b>StereoSet: LMS, macro</b>, n = 190 to 200<br>{words}" in texts(figure)
    words = "stereotype beats anti-stereotype, mean over targets, %; best 50"
    assert f"<b>StereoSet: SS, macro</b>, n = 190 to 200<br>{words}" in texts(figure)
    assert [line.x0 for line in figure.layout.shapes] == [50]


def test_one_condition_and_one_metric_are_enough():
    result = measured("stereoset", logprob_per_token=(-4.0, -5.0, -3.0, 9))
    figure = before_after({"base": [result]}, metrics=[("stereoset", "logprob_per_token")])
    assert len(figure.data) == 1
    assert not figure.layout.shapes
    assert "Dotted" not in note(figure)
    alone = before_after({"base": result}, metrics=["stereoset.logprob_per_token"])
    assert alone.to_json() == figure.to_json()


def test_the_note_says_where_the_damage_is_equal():
    def under(name, **info):
        lam = info.pop("lam", None)
        change = None if lam is None else {"lam": lam}
        condition = ConditionInfo(name, intervention=change, **info)
        return replace(crows(5), condition=condition)

    results = {
        "base": under("base", role="base"),
        "mine": under("lambda 2", role="method", lam=2.0),
        "alike": under("alike", role="control", control_of="lambda 2", lam=2.0),
    }
    assert "damage" not in note(before_after(results))
    results["like damage"] = under("other", role="control", control_of="lambda 2", lam=3.0)
    words = "like damage: the damage is equal on 24 plain passages and may differ here."
    assert words in note(before_after(results)).replace("<br>", " ")


def test_the_ideal_value_is_in_sight():
    figure = before_after({"base": [measured("stereoset", icat=(40.0, 39.0, 41.0, 9))]})
    low, high = figure.layout.xaxis2.range
    assert low < 39
    assert high > 100


def test_the_headline_has_one_panel_of_fluency():
    results = [
        measured(name, **{metric: (1.0, 0.0, 2.0, 9), "logprob_per_token": (-4.0, -5.0, -3.0, 9)})
        for name, metric in (("stereoset", "icat_macro"), ("crows_pairs", "stereotype_share"))
    ]
    assert len(before_after({"base": results}).data) == 3


def test_protocols_of_one_benchmark_have_panels_of_their_own():
    results = [
        measured("stereoset", p, icat=(9.0, 8.0, 9.5, 9)) for p in ("original", "instructed")
    ]
    titles = texts(before_after({"base": results}))
    assert (
        "<b>StereoSet, instructed: ICAT</b>, n = 9<br>lms and ss in one, points; best 100" in titles
    )


def test_a_benchmark_of_your_own_is_shown():
    unknown = measured("unknown", score=(1.0, 1.0, 1.0, 1))
    assert before_after({"base": [unknown]}).data[0].x == (1,)
    figure = before_after({"base": [*RESULTS["base"], unknown]})
    assert "<b>unknown: score</b>, n = 1<br>" in texts(figure)
    words = "stereotype beats anti-stereotype, mean over targets, %; best 50"
    assert f"<b>StereoSet: SS, macro</b>, n = 200<br>{words}" in texts(figure)


def test_a_metric_of_a_group_has_its_metrics_words_and_ideal():
    results = {"base": [measured("stereoset", ss_gender=(60.0, 50.0, 70.0, 9))]}
    figure = before_after(results, metrics=[("stereoset", "ss_gender")])
    assert figure.layout.xaxis2.title.text == "value, %"
    words = "stereotype beats anti-stereotype, %; best 50"
    assert f"<b>StereoSet: SS, gender</b>, n = 9<br>{words}" in texts(figure)


def test_a_metric_of_another_version_keeps_its_name():
    results = {"base": [measured("stereoset", removed=(60.0, 50.0, 70.0, 9))]}
    assert "<b>StereoSet: removed</b>, n = 9<br>" in texts(before_after(results))


def test_differences_are_paired_and_stand_first():
    base, other = (
        replace(crows(n), condition=ConditionInfo(role=role))
        for n, role in ((3, "base"), (5, None))
    )
    shown = [("crows_pairs", "stereotype_share")]
    both = {"base": [base], "lambda 2": [other]}
    figure = before_after(both, metrics=shown, n_bootstrap=200)
    row = compare(base, other, n_bootstrap=200).set_index("metric").loc["stereotype_share"]
    (change,) = [t for t in figure.data if t.name == "lambda 2" and t.xaxis in (None, "x")]
    assert change.x == (row["difference"],) == (20.0,)
    assert change.customdata[0][:2] == pytest.approx([row["low"], row["high"]])
    assert figure.layout.xaxis.title.text == "difference, points"
    values = [t.x[0] for t in figure.data if t.xaxis == "x2"]
    assert values == [30.0, 50.0]
    # the best value, 50, is 20 points above the base model's 30
    assert [line.x0 for line in figure.layout.shapes] == [20.0, 50]


def test_controls_are_grey():
    results = {"base": crows(3), "mine": crows(5), "random": crows(4)}
    figure = before_after(results, controls=["random"])
    colours = {trace.name: trace.marker.color for trace in figure.data}
    assert colours["random"] != colours["mine"] == COLOURS[0]
    assert before_after(results, controls="random") == figure
    with pytest.raises(ValueError, match="no condition 'rnd': allowed are 'base', 'mine'"):
        before_after(results, controls=["rnd"])


def test_no_forest_is_higher_than_a_page_and_pages_hold_every_panel():
    names = "stereoset", "crows_pairs", "openbookqa", "copa", "arc_easy", "mmlu", "hellaswag"
    conditions = {}
    for n in range(5):
        at = (1.0, 0.0, 2.0, n)
        results = [measured(name, acc=at, stereotype_share=at) for name in names]
        conditions[f"condition {n}"] = results
    pages = before_after_pages(conditions)
    assert list(pages)[:2] == ["before_after", "before_after_2"]
    assert all(page.layout.height <= MAX_HEIGHT for page in pages.values())
    panels = [t for page in pages.values() for t in texts(page) if t.startswith("<b>")]
    assert len(panels) == 6  # StereoSet has neither metric
    assert before_after(conditions).layout.height <= MAX_HEIGHT
    assert "of 6 headline metrics" in note(before_after(conditions))


def test_the_base_model_is_black_wherever_it_stands():
    first, second = (
        replace(measured("stereoset", ss=(60.0, 50.0, 70.0, n)), condition=ConditionInfo(role=role))
        for n, role in ((9, "method"), (8, "base"))
    )
    figure = before_after({"scaled": [first], "unchanged": [second]})
    assert [trace.marker.color for trace in figure.data] == [COLOURS[0], COLOURS[-1]]


def test_a_metric_instead_of_pairs_is_named():
    check = inspect.unwrap(_checked)  # without the tests' type checker, which users do not have
    with pytest.raises(ValueError, match="no condition has the metric 'l'"):
        check("lms", [("stereoset", "lms")])


@pytest.mark.parametrize(
    ("results", "metrics", "message"),
    [
        ({}, None, "no results"),
        ({"base": []}, None, "no results"),
        ({"base": RESULTS["base"] * 2}, None, "'base' has a benchmark twice"),
        (
            RESULTS,
            [("stereoset", "ss_makro")],
            "metric 'stereoset.ss_makro': there are stereoset.ss_macro, stereoset.lms_macro, ",
        ),
        (MANY, ["stereoset.m_7x"], r"there are stereoset.m_7, [\w., ]+ and 5 more\."),
        (RESULTS, [], "metrics is empty"),
    ],
)
def test_what_the_forest_refuses(results, metrics, message):
    with pytest.raises(ValueError, match=message):
        before_after(results, metrics=metrics)


def test_the_knowledge_plot_shows_every_question():
    figure = knowledge_plot(answered())
    gender, race = figure.data
    np.testing.assert_allclose(gender.x, [10, 50])
    np.testing.assert_allclose(race.x, [25, 75])
    assert gender.marker.symbol == ("circle", "circle-open")
    assert race.marker.symbol == ("circle", "circle")
    assert np.round([*gender.y, *race.y]).tolist() == [0, 1, 0, 1]
    shaded = [(box.x0, box.x1) for box in figure.layout.shapes if box.type == "rect"]
    assert shaded == [(0, 50), (50, 100)]
    assert "4 questions: 3 answered right" in note(figure)


def test_a_model_that_always_says_no_is_left_of_the_middle():
    figure = knowledge_plot(answered((0.1,) * 4, (0.5,) * 4))
    assert all(x < 50 for points in figure.data for x in points.x)
    assert "says no to 4 and yes to 0" in note(figure)
    assert "Balanced accuracy 50 [11, 89] % (chance 50), AUC 0.50 [" in note(figure)


def test_knowledge_of_one_answer_has_no_balanced_accuracy():
    knowledge = answered()
    only_no = replace(knowledge, table=knowledge.table[knowledge.table["answer"] == "no"])
    assert "AUC do not exist" in note(knowledge_plot(only_no))


def test_the_form_questions_have_rows_of_their_own_below():
    knowledge = answered()
    forms = knowledge.table.assign(dimension="form", said="no", p_yes=0.1, p_no=0.4)
    figure = knowledge_plot(replace(knowledge, forms=forms))
    *bank, plain = figure.data
    assert [points.name for points in bank] == ["gender", "race"]
    assert plain.name == "form"
    np.testing.assert_allclose(plain.x, 20)
    assert min(plain.y) > max(max(points.y) for points in bank)
    names = figure.layout.yaxis.ticktext
    assert names[2:] == (
        "plain causal rejection<br>(right: no)",
        "plain bias recognition<br>(right: yes)",
    )
    assert "on plain questions" in note(figure)
    assert figure.layout.height >= knowledge_plot(knowledge).layout.height


def test_what_the_knowledge_plot_refuses():
    knowledge = answered()
    with pytest.raises(ValueError, match="has no rows"):
        knowledge_plot(replace(knowledge, table=knowledge.table[:0]))
    with pytest.raises(ValueError, match="lacks p_yes"):
        knowledge_plot(replace(knowledge, table=knowledge.table.drop(columns="p_yes")))


# -- all of them, and files -------------------------------------------------------------------


def test_make_all_makes_what_the_results_allow():
    assert list(make_all(SCORES, SETS, RESULTS, answered())) == ALL
    assert list(make_all(SCORES, SETS)) == ALL[1:-1]
    layers = ["neurons_per_layer", "layer_heatmap"]
    assert list(make_all(None, {"all": SETS["race"]})) == layers
    six = {f"set {i}": SETS["race"] for i in range(6)}
    assert list(make_all(None, six)) == [*layers, "shared_per_layer", "overlap"]
    assert make_all(None, {}) == {}


def test_html_needs_no_network(tmp_path):
    written = write_figure(upset(SETS), tmp_path / "deep" / "upset", ("html",))
    assert written.files == (tmp_path / "deep" / "upset.html",)
    assert written.note == ""
    page = written.files[0].read_text(encoding="utf-8")
    assert len(page) > 1e6
    assert "<script src=" not in page


def test_without_kaleido_the_html_is_there_and_one_line_helps(tmp_path, monkeypatch):
    monkeypatch.setattr(printing, "find_spec", lambda name: None)
    figures = {name: DRAWINGS[name]() for name in ("overlap", "upset")}
    written = write_figures(figures, tmp_path)
    names = ["overlap.html", "plotly.min.js", "upset.html"]
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    assert written.note == what_is_needed()
    assert "\n" not in what_is_needed()


def test_without_a_browser_the_html_is_there_and_one_line_helps(tmp_path, monkeypatch):
    kaleido = pytest.importorskip("kaleido")
    from choreographer.errors import ChromeNotFoundError

    def no_browser(**settings):
        raise ChromeNotFoundError("no browser")

    monkeypatch.setattr(kaleido, "Kaleido", no_browser)
    written = write_figures({"a": upset(SETS), "b": upset(SETS)}, tmp_path)
    assert [path.name for path in written.files] == ["a.html", "b.html"]
    assert written.note == what_is_needed()


def test_a_browser_that_fails_is_closed_and_named(tmp_path, monkeypatch):
    kaleido = pytest.importorskip("kaleido")
    done = []

    class Failing:
        def __init__(self, **settings):
            pass

        async def __aenter__(self):
            return self

        async def __aexit__(self, *error):
            done.append("closed")

        async def create_tab(self, address):
            return None

        async def calc_fig(self, figure, opts):
            done.append("drawn")
            if len(done) > 1:
                raise RuntimeError("the tab crashed\nat line 1")
            return b'<svg width="700" height="420"></svg>'

    monkeypatch.setattr(kaleido, "Kaleido", Failing)
    figures = {"a": upset(SETS), "b": upset(SETS)}
    written = write_figures(figures, tmp_path, ("svg",))
    assert [path.name for path in written.files] == ["a.svg"]
    assert written.note.endswith("(the tab crashed)")
    assert done == ["drawn", "drawn", "closed"]


def browser() -> bool:
    if importlib.util.find_spec("kaleido") is None:
        return False
    from choreographer.browsers.chromium import Chromium

    return Chromium.find_browser(skip_local=False) is not None


@pytest.mark.slow
@pytest.mark.skipif(not browser(), reason="static figures need kaleido and a Chromium or Chrome")
def test_static_files_are_what_they_say(tmp_path):
    figures = {"upset": upset(SETS), "overlap": overlap_heatmap(SETS)}
    written = write_figures(figures, tmp_path, ("png", "svg", "pdf"))
    assert written.note == ""
    assert len(written.files) == 6
    for name in figures:
        png = (tmp_path / f"{name}.png").read_bytes()
        assert png.startswith(b"\x89PNG")
        assert int.from_bytes(png[16:20], "big") == 2100
        assert (tmp_path / f"{name}.svg").read_text(encoding="utf-8").startswith("<svg")
        assert (tmp_path / f"{name}.pdf").read_bytes().startswith(b"%PDF")


@pytest.mark.slow
@pytest.mark.skipif(not browser(), reason="static figures need kaleido and a Chromium or Chrome")
@pytest.mark.parametrize(
    ("width", "inches"), [("page", 7), ("column", 3.3), ("5.5in", 5.5), ("14 cm", 5.51)]
)
def test_a_print_is_as_wide_as_it_says_and_has_its_own_font(width, inches, tmp_path):
    written = write_figure(upset(SETS), tmp_path / "upset", ("png", "svg", "pdf"), width=width)
    assert written.note == ""
    png, svg, pdf = (path.read_bytes() for path in written.files[:3])
    assert int.from_bytes(png[16:20], "big") == pytest.approx(300 * inches, abs=4)
    assert float(re.search(r'width="([\d.]+)in"', svg.decode())[1]) == pytest.approx(
        inches, abs=0.01
    )
    box = re.search(rb"/MediaBox \[0 0 ([\d.]+)", pdf)
    assert float(box[1]) == pytest.approx(72 * inches, abs=1)
    assert b"Arimo" in pdf
    assert "font/woff2" in svg.decode()


@pytest.mark.slow
@pytest.mark.skipif(not browser(), reason="static figures need kaleido and a Chromium or Chrome")
def test_the_first_figure_is_drawn_like_the_second(tmp_path):
    """While its font was loading, its texts were measured in another, wider one."""
    one, other = crows(5), crows(7)
    figure = before_after({"base": one, "lambda 2": other})
    write_figures({"first": figure, "second": figure}, tmp_path, "svg", width="column")
    rooms = [
        re.findall(
            r'class="bg"[^>]* width="([\d.]+)"', (tmp_path / f"{name}.column.svg").read_text()
        )
        for name in ("first", "second")
    ]
    assert rooms[0] == rooms[1] != []


def test_html_figures_of_a_folder_share_a_script(tmp_path):
    written = write_figures({"a": upset(SETS), "b": upset(SETS)}, tmp_path, "html")
    assert (tmp_path / "plotly.min.js").stat().st_size > 1e6
    for path in written.files:
        page = path.read_text(encoding="utf-8")
        assert len(page) < 2e5
        assert re.findall(r'<script[^>]* src="([^"]*)"', page) == ["plotly.min.js"]
        parts = [page.index(part) for part in ("plotly.min.js", "document.fonts", "PLOTLYENV")]
        assert parts == sorted(parts), "plotly is there, waits for the fonts, and draws"
        assert "font-family:Arimo" in page


@pytest.mark.parametrize(
    ("form", "name"),
    [
        ({}, "upset.html"),
        ({"theme": "dark"}, "upset.dark.html"),
        ({"width": "column"}, "upset.column.html"),
        ({"theme": "dark", "width": "column"}, "upset.dark.column.html"),
        ({"width": "5.5in"}, "upset.5_5in.html"),
        ({"width": "14 cm"}, "upset.14cm.html"),
    ],
)
def test_every_form_has_a_name_of_its_own(form, name, tmp_path):
    written = write_figure(upset(SETS), tmp_path / "upset", ("html",), **form)
    assert written.files[0] == tmp_path / name
    assert written.note == ""
    page = written.files[0].read_text(encoding="utf-8")
    paper = "#15181D" if "theme" in form else "#FFFFFF"
    assert f'"paper_bgcolor":"{paper}"' in page
    assert f"body {{background: {paper}}}" in page
    assert ("Which neurons the sets have in common" in page) != ("width" in form)
    text = tmp_path / "upset.txt"
    assert text.is_file() == ("width" in form)
    if "width" in form:
        assert "Which neurons the sets have in common\ntiny, " in text.read_text(encoding="utf-8")


def test_what_is_too_wide_for_a_column_is_written_for_the_page_and_named(tmp_path):
    figures = {"wide": upset(BITS), "narrow": upset(SETS)}
    written = write_figures(figures, tmp_path, "html", width="column")
    names = [path.name for path in written.files]
    assert names == ["wide.html", "narrow.column.html", "narrow.txt"]
    assert written.note == "These need the page's width: wide."


def test_what_writing_refuses(tmp_path):
    with pytest.raises(ValueError, match="theme is 'grey': allowed are light, dark"):
        write_figure(upset(SETS), tmp_path / "upset", ("html",), theme="grey")
    for width in (
        "wide",
        "",
        "5.5",
        "in",
        "0in",
        "1in",
        "99999in",
        "-5in",
        "5,5in",
        "nanin",
        "30in",
    ):
        with pytest.raises(ValueError, match=f"width is '{width}': allowed are page, column"):
            write_figure(upset(SETS), tmp_path / "upset", ("html",), width=width)
    with pytest.raises(ValueError, match="format is 'gif': allowed are html, png, svg, pdf"):
        write_figure(upset(SETS), tmp_path / "upset", ("gif",))
    with pytest.raises(ValueError, match="not a file name"):
        write_figures({"a/b": upset(SETS)}, tmp_path, ("html",))
    assert list(tmp_path.iterdir()) == []


# -- figures/make_figures.py ------------------------------------------------------------------


@pytest.fixture
def script(monkeypatch):
    path = ROOT / "figures" / "make_figures.py"
    if not path.is_file():
        pytest.skip("figures/make_figures.py is not part of an installed package")
    specification = importlib.util.spec_from_file_location("make_figures", path)
    module = importlib.util.module_from_spec(specification)
    monkeypatch.setitem(sys.modules, "make_figures", module)
    specification.loader.exec_module(module)
    return module


@pytest.fixture
def run_folder(tmp_path):
    """What ``kb-lens run`` makes."""
    folder = tmp_path / "run"
    SCORES.save(folder / "attributions.safetensors")
    kb.NeuronSet.union(SETS.values()).save(folder / "neurons.json")
    for name, neurons in SETS.items():
        neurons.save(folder / "neurons" / f"{name}.json")
    for name, n in {"lambda 10": 50, "lambda 2": 55, "base": 60}.items():
        save_results(folder / "evaluations" / name, [replace(crows(n, 100), model="tiny")])
    answered().save(folder / "knowledge.json")
    return folder


def test_every_figure_is_rebuilt_from_a_folder(script, run_folder, tmp_path, capsys):
    out = tmp_path / "out"
    assert script.main([str(run_folder), "--out", str(out), "--formats", "html"]) == 0
    assert {path.stem for path in out.iterdir()} == {*ALL, "plotly.min"}
    assert capsys.readouterr().out == f"11 figures, 11 files in {out}.\n"


@pytest.mark.slow
def test_the_script_and_the_command_write_dark_columns(script, run_folder, tmp_path, capsys):
    form = ["--formats", "html", "--theme", "dark", "--width", "column"]
    assert script.main([str(run_folder), "--out", str(tmp_path / "out"), *form]) == 0
    names = {f"{name}.dark.column.html" for name in ALL} | {f"{name}.txt" for name in ALL}
    names.add("plotly.min.js")
    assert {path.name for path in (tmp_path / "out").iterdir()} == names
    assert "11 figures, 22 files" in capsys.readouterr().out
    app(["figures", str(run_folder), *form], result_action="return_value")
    assert {path.name for path in (run_folder / "figures").iterdir()} == names


def test_conditions_and_dimensions_keep_a_sensible_order(run_folder):
    run = RunFolder.load(run_folder)
    assert list(run.results) == ["base", "lambda 2", "lambda 10"]
    assert list(run.sets) == ["gender", "race", "religion"]


def test_a_folder_with_less_gives_fewer_figures(script, tmp_path):
    SETS["race"].save(tmp_path / "neurons.json")
    assert list(RunFolder.load(tmp_path).sets) == ["all"]
    assert script.main([str(tmp_path), "--out", str(tmp_path / "out"), "--formats", "html"]) == 0
    names = {"layer_heatmap.html", "neurons_per_layer.html", "plotly.min.js"}
    assert {path.name for path in (tmp_path / "out").iterdir()} == names


def test_a_folder_without_results_is_an_error_in_one_line(script, tmp_path, capsys):
    assert script.main([str(tmp_path)]) == 2
    assert "has no results: expected what `kb-lens run` wrote" in capsys.readouterr().err
