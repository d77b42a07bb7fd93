"""The house style: both themes are legible, the colours differ for everyone, columns are narrow."""

import json
import re
from itertools import combinations, pairwise

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest
from plotly.subplots import make_subplots
from test_comparison import crows
from test_effects import made as effects
from test_effects import scores
from test_figures import DRAWINGS, SETS, answered
from test_plots_methods import METHODS, made
from test_plots_studies import BASE, CASES, SETTINGS, drawn, results

import kb_lens as kb
from kb_lens.checks.control_tests import ControlTest
from kb_lens.checks.specificity import Specificity
from kb_lens.figures import themed
from kb_lens.figures.column import INCHES, WIDTH, caption, in_column
from kb_lens.figures.layers import _SHARED
from kb_lens.figures.layout import TALLEST, Stack, title_height, without_title
from kb_lens.figures.methods import control_distribution, rank_figure
from kb_lens.figures.neuron_effects import dose_response, effect_against_attribution
from kb_lens.figures.results import before_after
from kb_lens.figures.specificity import specificity_plot
from kb_lens.figures.studies import study_figures
from kb_lens.figures.style import BACKGROUND, COLOURS, DIVERGING, GREY, INK, PALE, SMALL, finish
from kb_lens.figures.themes import DARK
from kb_lens.figures.tuning import tuning_figure
from kb_lens.statistics import Metric

TEXT_CONTRAST = 4.5
"""The least that WCAG 2 asks for (level AA)."""
APART = 15
"""The least CIE Lab distance of two colours that a reader must tell apart; 2.3 is just seen."""
MACHADO = {
    "protanopia": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    "deuteranopia": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ],
    "tritanopia": [
        [1.255528, -0.076749, -0.178779],
        [-0.078411, 0.930809, 0.147602],
        [0.004733, 0.691367, 0.303900],
    ],
}
"""Linear RGB as a dichromat sees it; Machado, Oliveira and Fernandes (2009), severity 1."""


def specific() -> Specificity:
    overlaps = pd.DataFrame({"tau": 0.1, "set": ["know-bias", "wrong answer"], "size": [9, 7]})
    overlaps = overlaps.assign(know_bias_size=9, shared=[9, 6], jaccard=[1, 0.6])
    halves = pd.DataFrame({"tau": 0.1, "dimension": ["gender", "all"], "n_questions": [9, 9]})
    halves = halves.assign(jaccard=0.7, low=0.6, high=0.8, n_halves=20)
    return Specificity(overlaps.assign(contained=[1, 2 / 3]), halves, answered())


def among_controls() -> dict[str, ControlTest]:
    return {"one": ControlTest("k", "m", Metric(-2.0, -4.0, 1.0, 9), np.array([3.0, 2.0]))}


def not_measured() -> go.Figure:
    table = results(CASES["aggregation"])
    lacking = table["benchmark"].eq("crows_pairs") & table["aggregation"].eq("pooled")
    return study_figures("aggregation", {"results": table[~lacking]}, SETTINGS)["aggregation"]


EVERY = {
    **DRAWINGS,
    **{f"study {name}": lambda name=name: drawn(name)[name] for name in CASES},
    "transfer": lambda: drawn("transfer", base={**BASE, ("stereoset", "icat_gender"): 60.0})[
        "transfer_matrix"
    ],
    "not_measured": not_measured,
    "ranks": lambda: rank_figure(kb.rank_table(METHODS, n_bootstrap=50)),
    "controls": lambda: control_distribution(among_controls()),
    "tuning": lambda: tuning_figure(made()),
    "specificity": lambda: specificity_plot(specific()),
    "dose_response": lambda: dose_response(effects()),
    "effect_against_attribution": lambda: effect_against_attribution(effects(), scores()),
}
THEMES = {"light": {colour: colour for colour in DARK}, "dark": DARK}


def channels(colour: str) -> np.ndarray:
    """Linear RGB from 0 to 1."""
    encoded = np.array([int(colour[at : at + 2], 16) for at in (1, 3, 5)]) / 255
    return np.where(encoded <= 0.04045, encoded / 12.92, ((encoded + 0.055) / 1.055) ** 2.4)


def contrast(colour: str, other: str) -> float:
    """The ratio that WCAG 2 defines."""
    dark, light = sorted(float(channels(c) @ [0.2126, 0.7152, 0.0722]) for c in (colour, other))
    return (light + 0.05) / (dark + 0.05)


def lab(linear: np.ndarray) -> np.ndarray:
    """CIE Lab of linear RGB under D65."""
    to_xyz = [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
    t = np.array(to_xyz) @ linear / [0.9505, 1.0, 1.089]
    x, y, z = np.where(t > (6 / 29) ** 3, np.cbrt(t), t / (3 * (6 / 29) ** 2) + 4 / 29)
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


def distance(colour: str, other: str, seen_by: str) -> float:
    matrix = np.array(MACHADO.get(seen_by, np.eye(3)))
    seen = (lab(np.clip(matrix @ channels(c), 0, 1)) for c in (colour, other))
    return float(np.linalg.norm(np.subtract(*seen)))


def between(scale, share: float) -> str:
    """The colour of a colour scale at a share from 0 to 1."""
    stops = np.array([[int(c[at : at + 2], 16) for at in (1, 3, 5)] for _, c in scale])
    mixed = [np.interp(share, [position for position, _ in scale], stops[:, k]) for k in range(3)]
    return "#" + "".join(f"{round(value):02X}" for value in mixed)


def colours_in(figure: go.Figure) -> set[str]:
    """Every colour written anywhere in the figure, without its opacity."""
    colours = set()
    for colour in re.findall(r'"(#\w{6}|rgba?\([^"]*\)|white|black|gr[ae]y)"', figure.to_json()):
        numbers = re.findall(r"\d+", colour)[:3] if colour.startswith("rgb") else []
        colours.add("#" + "".join(f"{int(n):02X}" for n in numbers) if numbers else colour)
    return colours


def fonts_in(node, key="") -> list[dict]:
    """Every font of a figure's JSON."""
    if isinstance(node, list):
        return [font for child in node for font in fonts_in(child)]
    if not isinstance(node, dict):
        return []
    below = [font for name, child in node.items() for font in fonts_in(child, name)]
    return [node, *below] if key.endswith("font") else below


@pytest.fixture(params=EVERY)
def figure(request):
    return EVERY[request.param]()


def test_the_reference_values_are_the_known_ones():
    assert contrast("#000000", "#FFFFFF") == pytest.approx(21)
    assert contrast("#777777", "#FFFFFF") == pytest.approx(4.48, abs=0.01)
    np.testing.assert_allclose(lab(channels("#FF0000")), [53.2, 80.1, 67.2], atol=0.2)
    grey = channels("#808080")
    for matrix in MACHADO.values():
        np.testing.assert_allclose(np.array(matrix) @ grey, grey, rtol=1e-4)


# -- themes -----------------------------------------------------------------------------------


def test_every_colour_is_the_houses_and_has_a_dark_counterpart(figure):
    before = go.Figure(figure)
    dark = themed(figure, "dark")
    assert not set(DARK) & set(DARK.values())
    assert colours_in(figure) <= set(DARK)
    assert colours_in(dark) == {DARK[colour] for colour in colours_in(figure)}
    assert figure == before
    assert themed(figure, "light") is not figure
    assert themed(figure, "light") == figure


def test_a_dark_figure_differs_in_its_colours_alone(figure):
    def plain(figure):
        text = json.dumps(json.loads(figure.to_json()), sort_keys=True)
        return re.sub(r"#\w{6}|rgba\([^)]*\)", "", text)

    assert plain(themed(figure, "dark")) == plain(themed(figure, "light"))


def test_words_that_are_colours_stay():
    figure = go.Figure(go.Bar(x=["#FFFFFF"], y=[1], name="#222222", marker_color="#123456"))
    (bar,) = themed(figure, "dark").data
    assert (bar.x[0], bar.name, bar.marker.color) == ("#FFFFFF", "#222222", "#123456")


def test_colours_of_single_points_and_bands_are_exchanged():
    marker = {"color": np.array([INK, GREY], dtype=object)}
    band = go.Scatter(x=[1, 2], y=[1, 2], marker=marker, fillcolor="rgba(34, 34, 34, 0.25)")
    (trace,) = themed(go.Figure(band), "dark").data
    assert list(trace.marker.color) == [DARK[INK], DARK[GREY]]
    assert trace.fillcolor == "rgba(237, 239, 242, 0.25)"


def test_an_unknown_theme_is_refused():
    with pytest.raises(ValueError, match="theme is 'grey': allowed are light, dark"):
        themed(go.Figure(), "grey")


@pytest.mark.parametrize("theme", THEMES)
def test_text_stands_out_from_what_is_behind_it(figure, theme):
    drawing, colours = themed(figure, theme), THEMES[theme]
    fonts = fonts_in(json.loads(drawing.to_json()))
    inks = {font["color"] for font in fonts if "color" in font}
    assert colours[INK] in inks
    for ink in inks:
        for behind in (BACKGROUND, PALE):
            assert contrast(ink, colours[behind]) >= TEXT_CONTRAST
    for cells in drawing.select_traces(
        lambda trace: trace.type == "heatmap" and trace.textfont.color
    ):
        z = np.array(cells.z, dtype=float)
        low, high = (np.nanmin(z), np.nanmax(z)) if cells.zmin is None else (cells.zmin, cells.zmax)
        shares = (z[np.isfinite(z)] - low) / (high - low or 1)
        for share in np.unique(1 - shares if cells.reversescale else shares):
            behind = between(cells.colorscale, share)
            assert contrast(cells.textfont.color, behind) >= TEXT_CONTRAST


# -- colour blindness -------------------------------------------------------------------------


@pytest.mark.parametrize("seen_by", ["everyone", *MACHADO])
@pytest.mark.parametrize("theme", THEMES)
def test_colours_that_are_used_together_differ(theme, seen_by):
    colours = THEMES[theme]
    together = [COLOURS[:5], (COLOURS[-1], *COLOURS[:4]), (COLOURS[0], GREY), _SHARED]
    for pair in (pair for group in together for pair in combinations(group, 2)):
        colour, other = (colours[light] for light in pair)
        assert distance(colour, other, seen_by) >= APART, pair


@pytest.mark.parametrize("seen_by", ["everyone", *MACHADO])
@pytest.mark.parametrize("theme", THEMES)
def test_below_and_above_zero_differ_as_soon_as_they_differ_from_zero(theme, seen_by):
    scale = [(position, THEMES[theme][colour]) for position, colour in DIVERGING]
    for share in np.linspace(0.08, 0.5, 22):
        below, above = between(scale, 0.5 - share), between(scale, 0.5 + share)
        assert distance(below, above, seen_by) >= APART


# -- columns ----------------------------------------------------------------------------------


def test_a_column_is_narrow_and_its_letters_print_with_6_points(figure):
    before, narrow = go.Figure(figure), in_column(figure)
    assert figure == before
    if narrow is None:
        return
    assert narrow.layout.width == WIDTH
    assert narrow.layout.height <= TALLEST * WIDTH / INCHES
    assert narrow.layout.title.text is None
    sizes = [font["size"] for font in fonts_in(json.loads(narrow.to_json())) if "size" in font]
    assert min(sizes) == SMALL
    assert SMALL * INCHES * 72 / WIDTH >= 6
    assert narrow.layout.margin.t >= 10


def test_only_dense_tables_need_the_whole_page():
    assert {name for name, draw in EVERY.items() if in_column(draw()) is None} == {"ranks"}
    many = [{"method": f"method {number} " + "x " * 20} for number in range(40)]
    tall = study_figures("methods", {"results": results(many)}, SETTINGS)["methods"]
    assert in_column(tall) is None


def pixels(figure, axis):
    """Top and bottom of a panel, from the figure's top."""
    layout = figure.layout
    room = layout.height - layout.margin.t - layout.margin.b
    return [layout.margin.t + (1 - end) * room for end in reversed(layout[axis].domain)]


def test_panels_side_by_side_stand_one_below_the_other():
    page = drawn("questions")["questions"]
    column = in_column(page)
    axes = ["yaxis", "yaxis2", "yaxis3", "yaxis4"]
    ends = [pixels(column, axis) for axis in axes]
    heights = [bottom - top for top, bottom in ends]
    np.testing.assert_allclose(heights, np.subtract(*reversed(pixels(page, "yaxis"))))
    gaps = [below[0] - above[1] for above, below in pairwise(ends)]
    np.testing.assert_allclose(gaps, page.layout.meta["between"])
    assert ends[-1][1] == pytest.approx(column.layout.height - column.layout.margin.b)
    assert all(column.layout[axis.replace("y", "x", 1)].domain == (0, 1) for axis in axes)


def test_a_column_has_the_differences_alone():
    share = [("crows_pairs", "stereotype_share")]
    page = before_after({"base": crows(5), "a rather long name": crows(7)}, metrics=share)
    column = in_column(page)
    assert [trace.xaxis for trace in page.data] == ["x", "x2", "x2"]
    assert [trace.xaxis for trace in column.data] == ["x"]
    assert column.layout.xaxis.domain == (0, 1)
    assert not column.layout.xaxis2.visible
    assert {each.xref for each in column.layout.annotations} == {"x domain"}
    assert column.layout.margin.l > 6.9 * len("a rather long name")
    assert column.layout.margin.r == page.layout.margin.r, "the numbers"
    assert in_column(before_after({"base": crows(5)}, metrics=share)) is None


def test_every_panel_of_a_column_has_its_names():
    page, column = (figure := drawn("site")["site"]), in_column(figure)
    assert page.layout.yaxis2.showticklabels is False
    assert column.layout.yaxis2.showticklabels is True


def test_a_long_legend_gets_the_lines_that_it_needs():
    short, long = (
        in_column(kb.figures.neurons_per_layer({f"a set {i} " + "x" * 20: SETS["race"] for i in n}))
        for n in (range(1), range(4))
    )
    assert long.layout.margin.t - short.layout.margin.t == 20 * 3
    assert long.layout.height - short.layout.height == 20 * 3


def test_panels_of_a_stack_are_as_high_as_it_says():
    stack = Stack(3, height=100, between=50)
    figure = make_subplots(rows=stack.n, vertical_spacing=stack.spacing)
    finish(figure, "title", "note")
    title, margin = title_height(figure), figure.layout.margin
    assert margin.t == title == 12 + 22 + 18 + 12
    figure.update_layout(height=margin.t + stack.plot + margin.b)
    ends = [pixels(figure, axis) for axis in ("yaxis", "yaxis2", "yaxis3")]
    np.testing.assert_allclose([bottom - top for top, bottom in ends], 100)
    np.testing.assert_allclose([below[0] - above[1] for above, below in pairwise(ends)], 50)
    assert stack.above(40) == pytest.approx(1.1)
    assert Stack(1, 100, 50).spacing == 0


def test_without_its_title_the_plot_stays_as_high():
    figure = finish(go.Figure(), "title", "note", top=30)
    untitled = without_title(figure, edge=5)
    plots = [f.layout.height - f.layout.margin.t for f in (figure, untitled)]
    assert plots[0] == plots[1]
    assert untitled.layout.margin.t == 30 + 5
    assert untitled.layout.title.text is None
    assert figure.layout.title.text == "title"


def test_the_caption_is_what_the_picture_leaves_out():
    lines = caption(EVERY["overlap"]()).splitlines()
    assert lines[0] == "How much the sets of neurons share"
    assert lines[1].startswith("Jaccard: ")
    assert lines[1].endswith("tiny, site post.")
    assert len(lines) == 2
