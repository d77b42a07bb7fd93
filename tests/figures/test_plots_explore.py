"""Figures for looking at neurons: tokens in colour, a card, an ablation study."""

import re

import pytest

import kb_lens as kb
from kb_lens.checks.neuron_cards import NeuronCards, read_cards
from kb_lens.figures.neuron_card import drawn_card
from kb_lens.figures.style import shown_token
from kb_lens.records.tables import read_parquet, write_parquet

TEXTS = ["The nurse said that she was <b>tired</b>.", "No, he was not & would not be."]


def opacity(shape):
    return float(re.fullmatch(r"rgba\(\d+, \d+, \d+, ([\d.]+)\)", shape.fillcolor)[1])


def test_the_darkest_token_has_the_largest_activation(llama):
    table = kb.activations(llama, ["L1.N3"], TEXTS, progress=False)
    figure = kb.figures.activation_text(table)
    shapes = figure.layout.shapes
    assert len(shapes) == len(table)
    behind = table[table["position"] > 0]
    assert opacity(shapes[behind["activation"].abs().idxmax()]) == pytest.approx(0.75)
    for shape, value in zip(shapes, table["activation"], strict=True):
        orange = shape.fillcolor.startswith("rgba(213, 94, 0")
        assert orange == (value > 0) or opacity(shape) == 0
    shown = "".join(str(text) for trace in figure.data for text in trace.text)
    assert "&lt;b&gt;" in shown or "&lt;" in shown, "a tag in a text is text"


def test_no_token_is_wider_than_its_line(llama):
    table = kb.activations(llama, ["L1.N3"], "nurse " * 30, progress=False)
    figure = kb.figures.activation_text(table)
    assert max(shape.x1 for shape in figure.layout.shapes) <= 91
    assert len({shape.y0 for shape in figure.layout.shapes}) > 1


def test_a_table_without_a_row_is_refused(llama):
    table = kb.activations(llama, ["L1.N3"], TEXTS, progress=False)
    with pytest.raises(ValueError, match="no token"):
        kb.figures.activation_text(table.iloc[:0])


def test_the_card_has_tokens_doses_and_texts(llama, questions):
    figure = kb.figures.neuron_card(
        llama, "L1.N3", texts=TEXTS, questions=questions[:2], progress=False
    )
    assert figure.layout.title.text == "Neuron L1.N3"
    titles = [annotation.text for annotation in figure.layout.annotations]
    assert any("Change of P(right), points" in title for title in titles)
    assert sum(trace.type == "bar" for trace in figure.data) == 2
    assert len(figure.layout.shapes) > 10
    assert kb.figures.themed(figure, "dark").layout.title.text == "Neuron L1.N3"


def test_a_card_has_the_largest_activations_of_either_sign(llama, questions, tmp_path):
    texts = [question.text for question in kb.load_questions(9)]
    (neuron,) = kb.NeuronSet.of(llama, "L1.N3")
    cards = read_cards(
        llama, "L1.N3", texts=texts, questions=questions[:2], n_texts=4, progress=False
    )
    read = kb.activations(llama, "L1.N3", texts, progress=False).query("position > 0")
    peaks = read.loc[read.groupby("text")["activation"].agg(lambda column: column.abs().idxmax())]
    expected = sorted(peaks["activation"], key=abs, reverse=True)[:4]
    shown = cards.excerpts.groupby("rank")["peak"].first().tolist()
    assert shown == pytest.approx(expected, rel=1e-4)
    assert min(shown) < 0 < max(shown), "both signs are among them"
    words = str(drawn_card(cards, neuron).to_dict())
    assert "Texts with the largest activations, by size" in words
    assert all(f"{peak:+.3g}" in words for peak in shown)

    cards.save(tmp_path)
    assert NeuronCards.load(tmp_path).by_size
    excerpts, about = read_parquet(tmp_path / "excerpts.parquet")
    write_parquet(tmp_path / "excerpts.parquet", excerpts, {"texts": about["texts"]})
    older = drawn_card(NeuronCards.load(tmp_path), neuron)
    assert "Texts with the largest activations: up to the peak" in str(older.to_dict())


def test_a_card_is_of_one_neuron(llama):
    with pytest.raises(ValueError, match="a card shows one neuron, but there are 2"):
        kb.figures.neuron_card(llama, kb.NeuronSet.of(llama, "L0.N1,L0.N2"))


def test_a_panel_a_measure_and_a_row_a_neuron(llama):
    benchmark = kb.load_benchmark("stereoset", limit=6)
    study = kb.ablation_study(
        llama, ["L0.N3", "L2.N5"], prompts=TEXTS, benchmark=benchmark, progress=False
    )
    figure = kb.figures.ablation_figure(study)
    assert len(figure.data) == 6, "three panels of two factors"
    assert list(figure.layout.yaxis.ticktext) == ["L0.N3", "L2.N5", "all 2"]
    chosen = kb.figures.ablation_figure(study, ["ss_macro"])
    rows = study.table[study.table["measure"] == "ss_macro"]
    assert sorted(x for trace in chosen.data for x in trace.x) == sorted(rows["value"])
    with pytest.raises(ValueError, match="no measure 'x'"):
        kb.figures.ablation_figure(study, ["x"])


def test_every_step_of_the_slider_shows_its_factor_beside_the_model_as_it_is(llama):
    figure = kb.figures.next_tokens(
        llama, ["L1.N3", "L2.N5"], 'The "nurse" said that', lams=(0.0, 1.0, 5.0), k=6
    )
    heading = f"{figure.layout.title.text} {figure.layout.title.subtitle.text}"
    assert "Effect of 2 neurons on" in heading
    assert 'The "nurse" said' in heading, "plotly draws &quot; as it stands"
    (slider,) = figure.layout.sliders
    assert [step.label for step in slider.steps] == ["0", "1", "5"]
    for nth, step in enumerate(slider.steps):
        assert step.args[0]["visible"] == [nth == 0, nth == 1, nth == 2, True]
    bars, base = figure.data[:-1], figure.data[-1]
    assert [bar.visible for bar in bars] == [True, False, False], "a static file shows it so"
    assert slider.active == 0
    assert bars[1].x == pytest.approx(base.x), "a factor of 1"
    assert bars[2].x != pytest.approx(base.x)
    assert list(base.x) == sorted(base.x, reverse=True)
    assert len(figure.layout.yaxis.ticktext) == 6


def test_a_token_of_spaces_has_a_label():
    assert shown_token(" <b> ") == "·&lt;b&gt;·"
    assert shown_token("\\n" + " " * 40) == f"\\n{'·' * 9}…"
