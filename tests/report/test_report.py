"""The report: what it says of results, that it is one file, and that nothing in it is run."""

import json
import re
from dataclasses import replace
from html.parser import HTMLParser

import pandas as pd
import plotly.graph_objects as go
import pytest
from report_folders import EVIL, TOKENS, run_folder, study_folder, token_table
from test_cli import bank, call, data, folder  # noqa: F401  # fixtures
from test_comparison import crows
from test_figures import YES_NO

import kb_lens as kb
from kb_lens.cli.terminal import show_answer
from kb_lens.evaluation.comparison import summarize
from kb_lens.evaluation.results import ConditionInfo
from kb_lens.figures.folders import draw_folder
from kb_lens.figures.style import finish
from kb_lens.report.page import Section, Table, render
from kb_lens.report.words import changes, conclusion, damage_points, knowledge_words
from kb_lens.report.write import write_report
from kb_lens.runs.folder import RunFolder
from kb_lens.runs.identify import Identified
from kb_lens.runs.run import write_reading

NO_CHANGE = {"base": 160, "lambda_2": 158, "random_lambda_2": 160}
NO_COLUMNS = json.dumps({"model": "m", "spelling": vars(YES_NO), "table": [{"answer": "no"}]})
EFFECT = {"base": 160, "lambda_2": 100, "random_lambda_2": 158}


class Page(HTMLParser):
    """The elements of a page with their attributes, and its text without scripts and style."""

    def __init__(self, html):
        super().__init__()
        self.elements, self.words, self._inside = [], [], ""
        self.feed(html)

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        self._inside = tag

    def handle_endtag(self, tag):
        self._inside = ""

    def handle_data(self, text):
        if self._inside not in ("script", "style"):
            self.words.append(text)

    def all(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]

    @property
    def text(self):
        return " ".join("".join(self.words).split())


def page_of(path, figures=None):
    write_report(path, figures or {}, path / "report.html")
    return (path / "report.html").read_text(encoding="utf-8")


def said(results):
    return conclusion(changes(results))


def random(results, control_of="lambda 2", draw=0):
    """The same results as a random control's."""
    info = ConditionInfo(f"random {control_of}", "control", control_of, draw)
    return [replace(result, condition=info) for result in results]


# -- what it says ------------------------------------------------------------------------------


def test_an_effect_is_claimed_only_beyond_0_and_beyond_random_neurons():
    base, better, same = [crows(160, 200)], [crows(100, 200)], [crows(158, 200)]
    shown = {"base": base, "lambda 2": better, "random lambda 2": random(same)}
    assert said(shown).startswith("In 1 of 1 comparisons")
    assert "lambda 2 on CrowS-Pairs" in said(shown)
    nothing = {"base": base, "lambda 2": same, "random lambda 2": random(base)}
    assert said(nothing).startswith("No debiasing is shown: in none of 1 comparisons")
    as_random = {"base": base, "lambda 2": better, "random lambda 2": random(better)}
    assert said(as_random).startswith("No debiasing is shown")
    (change,) = changes(as_random)
    assert change.verdict == "nearer to its best value, not shown to be more than random"
    without = {"base": base, "lambda 2": better}
    assert said(without).startswith("Debiasing is not judged: no random neurons were measured")
    assert "In 1 of 1 comparisons" in said(without)
    assert changes(without)[0].verdict == "nearer to its best value, no random control"
    worse = {"base": same, "lambda 2": [crows(195, 200)], "random lambda 2": random(same)}
    assert "In 1 it moved further away: lambda 2 on CrowS-Pairs." in said(worse)


def test_an_effect_has_to_be_beyond_every_kind_of_control():
    base, better, same = [crows(160, 200)], [crows(100, 200)], [crows(158, 200)]
    results = {"base": base, "lambda 2": better, "alike": random(same)}
    for order in (("alike", "damage"), ("damage", "alike")):
        both = results | {"damage": random(better)}
        (change,) = changes({name: both[name] for name in ("base", "lambda 2", *order)})
        assert not change.specific
        assert change.beyond.value == 0
    (change,) = changes(results)
    assert change.specific


def test_no_condition_vanishes_whatever_it_is_called():
    """Only the first is the base; what nobody said to be a control is a method."""
    base, better = [crows(160, 200)], [crows(100, 200)]
    (change,) = changes({"base": base, "random seeds averaged": better})
    assert change.condition == "random seeds averaged"
    names = ["as it is", "lambda", "base 2", "random"]
    found = changes(dict(zip(names, (base, better, better, better), strict=True)))
    assert [change.condition for change in found] == names[1:]


def test_a_control_is_known_by_its_role_and_found_under_any_name():
    base, better, same = [crows(160, 200)], [crows(100, 200)], [crows(158, 200)]
    method = [replace(result, condition=ConditionInfo("lambda 2", "method")) for result in better]
    results = {"plain": base, "out/a": method, "out/b": random(same), "c": random(same, draw=1)}
    (change,) = changes(results)
    assert (change.condition, change.specific) == ("out/a", True)
    summary = summarize(results).set_index("condition")
    assert set(summary.loc["out/b", "role"]) == {"control"}
    assert set(summary.loc["out/b", "control_of"]) == {"out/a"}
    assert set(summary.loc["c", "draw"]) == {1}
    assert set(summary.loc["plain", "role"]) == {"base"}


def test_an_interval_that_touches_0_shows_nothing():
    """Nothing moved: the difference and both ends of its interval are 0."""
    (change,) = changes({"base": [crows(160, 200)], "lambda 2": [crows(160, 200)]})
    assert (change.gain.low, change.gain.high) == (0, 0)
    assert change.verdict == "no change shown"


def test_an_effect_on_a_model_that_does_not_know_is_none_of_knowing():
    assert knowledge_words("KNOWS") == []
    for outcome in ("KNOWS THE FORM", "DOES NOT KNOW", "CANNOT TELL"):
        (line,) = knowledge_words(outcome)
        assert line.startswith(f"Knowledge: {outcome}. No effect is shown to be one of knowing")
        assert len(line) <= 80, "a line of the terminal"


def test_without_an_enhanced_model_nothing_is_said_about_debiasing():
    assert conclusion([]).startswith("No enhanced model was measured")


def test_a_damaged_language_model_is_named():
    results = {"base": [crows(160, 200)], "lambda 9": [crows(160, 200, shift=-8.0)]}
    results["random"] = random([crows(160, 200, shift=-8.0)], "lambda 9")
    ((sentence, below),) = damage_points(summarize(results))  # of the method alone
    assert sentence.startswith("lambda 9, change of a token's mean log-probability: damaged")
    assert "on CrowS-Pairs -2.00 [-2.00, -2.00]." in sentence
    assert not below


def test_the_terminal_has_the_answer_and_says_what_a_gain_is(tmp_path, capsys):
    run_folder(tmp_path, **NO_CHANGE)
    show_answer(write_report(tmp_path, {}, tmp_path / "report.html"))
    lines = capsys.readouterr().out.splitlines()
    (head,) = [line for line in lines if "before, after" in line]
    assert head.split("before, after")[1].split() == ["gain", "gain", "minus", "random's"]
    assert "Gain: how much nearer to the best value, in the metric's unit" in "\n".join(lines)
    assert max(map(len, lines)) <= 80
    assert "Knowledge: CANNOT TELL. No effect is shown to be one of knowing bias." in lines


def test_the_summary_of_a_run(tmp_path):
    text = Page(page_of(run_folder(tmp_path, **NO_CHANGE))).text
    assert "No debiasing is shown: in none of 1 comparisons" in text
    assert "answers 3 of 4 questions right" in text
    assert "2 of 6 neurons (33 %) were selected (union of the dimensions, tau 10 %" in text
    assert "gender 2, race 1." in text
    assert "CrowS-Pairs: stereotype share807950+1.00 [" in text  # the cells of a row
    assert text.index("No debiasing is shown") < text.index("CrowS-Pairs") < text.index("answers 3")
    assert "the effect is beyond random neurons' (failed)" in text
    assert "with several kinds of these the smallest difference" in text
    text = Page(page_of(run_folder(tmp_path / "other", **EFFECT))).text
    assert "In 1 of 1 comparisons" in text


def test_settings_and_provenance(tmp_path):
    text = Page(page_of(run_folder(tmp_path, **NO_CHANGE))).text
    for words in (
        "fingerprint f",
        "versions torch = 2.13.0",
        "Control random lambda 2 random, matched in everything (seed 0), lambda 2",
        "Controls one draw each",
        "identify = 1.5",
        "lam = 2.0 and 3.0",
    ):
        assert words in text
    assert "200 items, protocol original, made; 50 resamples" in text
    assert "You are a useful assistant." in text
    assert "bank = default" in text
    assert "lm-eval" not in text


def test_neurons_with_scores_and_tokens(tmp_path):
    page = page_of(run_folder(tmp_path, **NO_CHANGE))
    rows = re.findall(r"<tr><td.*?</tr>", page, re.DOTALL)
    (row,) = [row for row in rows if "gender, race" in row and "<code>" in row]
    numbers = re.findall(r'data-number="([^"]*)"', row)
    assert [float(number) for number in numbers] == pytest.approx([1, 2, 20, 4])
    shown = re.findall(r"<code>(.*?)</code>", row)
    assert len(shown) == 10
    assert shown[0] == "NA"
    assert shown[3] == "null"
    assert "left out" not in row
    assert "the effect of changing this neuron alone may differ" in Page(page).text


def test_what_a_folder_lacks_is_said(tmp_path):
    text = Page(page_of(run_folder(tmp_path, parts=False, **NO_CHANGE))).text
    assert "this folder has no tokens.csv. kb-lens run writes it." in text
    assert "This folder has no checks.json" in text
    (tmp_path / "run.json").unlink()
    assert "This folder has no run.json" in Page(page_of(tmp_path)).text


def test_a_study_that_shows_nothing_and_one_that_does(tmp_path):
    nothing = study_folder(tmp_path / "nothing", (-1.0, -3.0, 1.0), (2.0, 0.0, 4.0), draws=3)
    text = Page(page_of(nothing)).text
    assert "No effect on bias is shown: none of 2 differences" in text
    assert "none of 2 cases differs from the base model" in text
    assert "No p with fewer than 99 random draws" in text
    assert "case 0 on CrowS-Pairs, against layer: rank 1 of 4, gain +9.00 [+1.00, +12.00]" in text
    assert "0.25" not in text, "an older table's p of few draws is shown nowhere"
    assert "lam varies" in text
    shown = study_folder(tmp_path / "shown", (-9.0, -12.0, -1.0), (4.0, 1.0, 6.0))
    text = Page(page_of(shown)).text
    assert "2 of 2 differences" in text
    assert "1 nearer to the best value and 1 not" in text
    assert "case 0: -9.00 [-12.00, -1.00], nearer to the best value" in text
    assert "case 1: +4.00 [+1.00, +6.00], away from the best value" in text
    assert "In 1 of 1 tests against random draws" in text
    assert "in 1 of them q, which is corrected for the number of tests" in text.lower()
    assert "against layer: p = 0.01, q = 0.01, gain +9.00" in text
    assert "No p with fewer" not in text
    assert "perplexity change" not in text


# -- the file ----------------------------------------------------------------------------------


def test_one_file_with_plotly_once_and_nothing_fetched(tmp_path):
    run_folder(tmp_path, **NO_CHANGE)
    drawn = draw_folder(tmp_path)
    html = page_of(tmp_path, drawn)
    assert len(re.findall(r"\* plotly\.js v\d", html)) == 1
    page = Page(html)
    assert sum(one.get("type") == "application/json" for one in page.all("script")) == len(drawn)
    for _, attributes in page.elements:
        assert "src" not in attributes
        assert attributes.get("href", "#").startswith("#")
    assert "default-src 'none'" in page.all("meta")[1]["content"]


def test_nothing_from_outside_becomes_markup(tmp_path):
    html = page_of(run_folder(tmp_path, **NO_CHANGE), draw_folder(tmp_path))
    page = Page(html)
    assert not page.all("img")
    assert len(page.all("script")) == len(draw_folder(tmp_path)) + 2
    assert f"Is {EVIL} < `b` & c?" in page.text
    assert TOKENS[1] in page.text
    for data_block in re.findall(r'<script type="application/json">(.*?)</script>', html):
        assert "<" not in data_block
        assert set(json.loads(data_block)) >= {"data", "layout"}


def test_headings_contents_and_labels(tmp_path):
    run_folder(tmp_path, **NO_CHANGE)
    page = Page(page_of(tmp_path, draw_folder(tmp_path)))
    assert len(page.all("h1")) == 1
    targets = {attributes["href"][1:] for attributes in page.all("a")}
    assert targets == {attributes["id"] for attributes in page.all("section")}
    identifiers = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(identifiers) == len(set(identifiers))
    plots = [one for one in page.all("div") if one.get("class") == "plot"]
    assert plots
    assert all(one["role"] == "img" and len(one["aria-label"]) > 20 for one in plots)
    assert all(one.get("scope") == "col" for one in page.all("th"))


def test_cells_show_numbers_to_one_precision_with_their_intervals():
    table = pd.DataFrame(
        {
            "name": ["a", None],
            "n": [3, 12],
            "value": [50.0, None],
            "low": [1.25, None],
            "high": [60.0, None],
            "p": [0.004, 0.5],
            "right": [True, False],
        }
    )
    html = render("t", "l", [Section("Numbers", tables=[Table("T", table)])])
    heads = re.findall(r'<button type="button">(.*?)</button>', html)
    assert heads == ["name", "n", "value", "p", "right"]
    cells = re.findall(r"<td[^>]*>([^<]*)</td>", html)
    assert cells == [
        "a",
        "3",
        "50.00 [1.25,\N{NO-BREAK SPACE}60.00]",
        "0.004",
        "yes",
        "",
        "12",
        "",
        "0.500",
        "no",
    ]
    keys = re.findall(r'data-number="([^"]*)"', html)
    assert keys == ["3.0", "50.0", "0.004", "", "12.0", "", "0.5"]


def test_the_title_of_a_figure_is_text_of_the_page_and_the_plot_keeps_its_size():
    figure = finish(go.Figure(go.Scatter(y=[1, 2])), "A <b>title</b>", "A note of 5 %.", height=400)
    html = render("t", "l", [Section("Figures", figures={"one": figure})])
    layout = json.loads(re.search(r'<script type="application/json">(.*?)</script>', html)[1])
    layout = layout["layout"]
    assert "<h3>A title</h3>" in html
    assert not layout["title"]
    inside = figure.layout.height - figure.layout.margin.t
    assert layout["height"] - layout["margin"]["t"] == inside
    assert layout["height"] < 400
    assert figure.layout.title.text == "A <b>title</b>"


def test_empty_sections_are_left_out():
    html = render("t", "l", [Section("Nothing here"), Section("Full", words=["`a < b`"])])
    assert "Nothing here" not in html
    assert "<code>a &lt; b</code>" in html


# -- the folder and the command ----------------------------------------------------------------


def test_tokens_spelled_like_missing_values_stay_tokens(tmp_path):
    saved = RunFolder.load(run_folder(tmp_path, **NO_CHANGE))
    pd.testing.assert_frame_equal(saved.tokens, token_table(), check_dtype=False)
    assert len(saved.neurons) == 2
    assert len(saved.checks) == 10
    assert saved.record["command"] == "run"


def test_the_command(monkeypatch, tmp_path, capsys):
    run_folder(tmp_path / "run", **NO_CHANGE)
    assert call(monkeypatch, "report", tmp_path / "run") == 0
    assert f"Written to {tmp_path}/run/report.html" in capsys.readouterr().out
    assert "before_after" in (tmp_path / "run" / "report.html").read_text()
    out = tmp_path / "new" / "page.html"
    assert (
        call(monkeypatch, "report", study_folder(tmp_path / "s", (1.0, 0.0, 2.0)), "--out", out)
        == 0
    )
    assert "<h1>How should the neurons" in out.read_text()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (None, "", "has no results: expected what `kb-lens run` wrote"),
        ("run.json", "{", "run.json' is not complete JSON"),
        ("run.json", "[]", "run.json': it should be an object, got []"),
        ("run.json", '{"model": 5}', "run.json', command: Field required"),
        ("checks.json", '[{"check": "a"}]', "checks.json' has no column 'status'"),
        ("tokens.csv", "layer,index\n1,2\n", "tokens.csv' has no column 'side'"),
        ("knowledge.json", "{}", "knowledge.json', model: Field required"),
        ("study.json", "{}", "is not a file of kb_lens study"),
        ("knowledge.json", NO_COLUMNS, "knowledge.json', table[0].text: Field required"),
        ("evaluations/base/results.json", "{", "is not complete JSON"),
    ],
)
def test_mistakes_are_one_line_and_status_2(monkeypatch, tmp_path, capsys, name, content, message):
    if name is not None:
        run_folder(tmp_path, **NO_CHANGE)
        (tmp_path / name).write_text(content)
    assert call(monkeypatch, "report", tmp_path) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert message in lines[0]
    assert not (tmp_path / "report.html").exists()


def test_items_without_their_columns_are_one_line_too(monkeypatch, tmp_path, capsys):
    items = run_folder(tmp_path, **NO_CHANGE) / "evaluations/lambda 2/items/crows_pairs.parquet"
    pd.read_parquet(items)[["item"]].to_parquet(items)
    assert call(monkeypatch, "report", tmp_path) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "its columns are not those of crows_pairs: KeyError" in line


@pytest.mark.slow
def test_a_run_ends_in_a_report(monkeypatch, tmp_path, folder, bank, data, capsys):  # noqa: F811
    out = tmp_path / "run"
    monkeypatch.setattr("kb_lens.cli.jobs.save_figures", lambda *a, **k: None)  # no browser
    arguments = ("--bank", bank, "--data-dir", data, "--lam", 2, "--out", out)
    assert call(monkeypatch, "run", folder, *arguments) == 0
    assert capsys.readouterr().out.splitlines()[-1].endswith(f"read {out}/report.html")
    text = Page((out / "report.html").read_text(encoding="utf-8")).text
    assert "CANNOT TELL" in text
    assert {"checks.json", "tokens.csv", "report.html"} <= {path.name for path in out.iterdir()}
    noted = (out / ".kb_lens" / "written.jsonl").read_text().splitlines()
    assert {"checks.json", "tokens.csv", "report.html"} <= set(map(json.loads, noted))
    tokens = RunFolder.load(out).tokens
    neurons = kb.NeuronSet.load(out / "neurons.json")
    assert {*zip(tokens["layer"], tokens["index"], strict=True)} == {tuple(n) for n in neurons}
    assert "checks and tokens" in json.loads((out / "run.json").read_text())["seconds"]


def test_neurons_that_cannot_be_read_do_not_stop_a_run(monkeypatch, tmp_path, llama):
    def refuse(*arguments):
        raise ValueError("packed weights")

    monkeypatch.setattr("kb_lens.runs.run.promoted_tokens", refuse)
    run = RunFolder.load(run_folder(tmp_path / "run", **NO_CHANGE))
    found = Identified(run.knowledge, run.attributions, run.sets, run.neurons)
    told = []
    write_reading(llama, found, run.results, 2.0, tmp_path, told.append)
    assert told == ["LEFT OUT: the tokens that the neurons promote. packed weights"]
    assert [path.name for path in tmp_path.glob("*.*")] == ["checks.json"]
    pd.testing.assert_frame_equal(RunFolder.load(tmp_path / "run").checks, checks_in(tmp_path))


def checks_in(place):
    rows = json.loads((place / "checks.json").read_text())
    return pd.DataFrame(rows)[["check", "status", "finding", "advice"]]
