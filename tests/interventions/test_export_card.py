"""An export's card says what was measured of it, to people and to the hub, and nothing else."""

import json
import sys

import pytest
from folding_neurons import some_neurons
from huggingface_hub import ModelCard
from tiny_models import tiny_bridge

import kb_lens as kb
from kb_lens.cli import main as cli
from kb_lens.interventions.conditions import Condition
from kb_lens.interventions.scaling import Scaling
from kb_lens.runs.measure import measure_below

KINDS = [("intrasentence", "gender"), ("intersentence", "race")]
ROWS = [
    {
        "type": KINDS[k % 2][0],
        "bias_type": KINDS[k % 2][1],
        "target": f"t{k}",
        "context": f"He is here {k}.",
        "stereotype": f"He is bad {k}.",
        "anti-stereotype": f"He is good {k}.",
        "unrelated": f"The street {k}.",
    }
    for k in range(6)
]


def measure(root, model):
    """What `kb-lens run` leaves in ``run``: neurons, and results of them, base and a control."""
    data = root / "data/stereoset/dev.jsonl"
    data.parent.mkdir(parents=True, exist_ok=True)
    data.write_text("\n".join(map(json.dumps, ROWS)))
    neurons = some_neurons(model)
    random = kb.NeuronSet.of(model, ["L0.N1", "L1.N2", "L2.N3"])
    conditions = [
        Condition("base"),
        Condition("lambda 3", Scaling(neurons, 3.0)),
        Condition("random", Scaling(random, 3.0), "control", "lambda 3", 0),
        Condition("last", Scaling(neurons, 4.0, "last")),
        Condition("lambda 2", Scaling(neurons, 2.0)),
    ]
    benchmark = kb.load_benchmark("stereoset", data_dir=root / "data")
    neurons.save(root / "run/neurons.json")
    return measure_below(root / "run", model, conditions, [benchmark], progress=False)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tmp_path_factory.mktemp("measured")


@pytest.fixture(scope="module")
def results(root, bridge):
    return measure(root, bridge)


def export(monkeypatch, folder, out, *arguments):
    """Run the command; its exit status."""
    command = ["kb-lens", "export", folder, "--out", out, *arguments]
    monkeypatch.setattr(sys, "argv", [*map(str, command)])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    return stop.value.code or 0


@pytest.mark.parametrize("given", ["file", "names"])
def test_the_hub_reads_what_was_measured(monkeypatch, root, folder, results, tmp_path, given):
    arguments = ["--neurons", root / "run/neurons.json"]
    if given == "names":
        arguments = ["--neurons", "L2.N47,L0.N3,L0.N5", "--results", root / "run"]
    assert export(monkeypatch, folder, tmp_path / "out", "--lam", 3, *arguments) == 0
    card = ModelCard.load(tmp_path / "out/README.md")
    assert card.data.model_name == "tiny, 3 neurons times 3"
    measured = results["lambda 3"][0].metrics
    said = {result.metric_type: result for result in card.data.eval_results}
    assert {"icat_macro", "ss_macro", "lms_macro", "logprob_per_token"} <= said.keys()
    for metric, result in said.items():
        assert result.metric_value == measured[metric].value
        assert (result.dataset_type, result.dataset_config) == ("stereoset", "original")
    rows = {tuple(row[:3]): row[3:] for row in table(card.text)}
    assert {condition for _, _, condition in rows} == {"base", "lambda 3", "random"}
    metric = measured["logprob_per_token"]
    value, difference, n, clusters = rows["stereoset", "logprob_per_token", "lambda 3"]
    assert value == f"{metric.value:.2f} [{metric.low:.2f}, {metric.high:.2f}]"
    before = results["base"][0].metrics["logprob_per_token"].value
    assert difference.startswith(f"{metric.value - before:+.2f} [")
    assert (n, clusters) == ("6", "6")
    assert "random neurons (`random`) may do as much" in " ".join(card.text.split())
    assert "What was not shown" not in card.text


def table(text):
    """The cells of a card's table."""
    rows = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in row] for row in rows[2:]]


@pytest.mark.parametrize("lam", [2.5, 4])
def test_what_was_not_measured_is_not_said(monkeypatch, root, folder, results, tmp_path, lam):
    """Another factor; or at the last position alone, which no weights can do."""
    arguments = ("--neurons", root / "run/neurons.json", "--lam", lam)
    assert export(monkeypatch, folder, tmp_path / "out", *arguments) == 0
    card = ModelCard.load(tmp_path / "out/README.md")
    assert card.data.eval_results is None
    assert "Writing this checkpoint measured nothing" in " ".join(card.text.split())
    assert not table(card.text)


def test_a_folder_of_evaluate_has_no_base(monkeypatch, root, folder, results, tmp_path):
    arguments = ("--neurons", root / "run/neurons.json", "--lam", 2)
    evaluated = root / "run/evaluations/lambda 2"
    assert export(monkeypatch, folder, tmp_path / "out", *arguments, "--results", evaluated) == 0
    text = ModelCard.load(tmp_path / "out/README.md").text
    assert {row[2] for row in table(text)} == {"lambda 2"}
    assert "random neurons, which were not measured beside it" in " ".join(text.split())


def test_what_is_asked_for_and_not_there_is_said(
    monkeypatch, root, folder, results, tmp_path, capsys
):
    neurons = ("--neurons", root / "run/neurons.json", "--lam")
    for arguments, message in (
        ((*neurons, 2.5, "--results", root / "run"), "none is these 3 neurons times 2.5"),
        ((*neurons, 2, "--results", root / "run/evaluations/base"), "has base: none is these 3"),
        ((*neurons, 2, "--results", tmp_path / "none"), "has no results.json"),
    ):
        assert export(monkeypatch, folder, tmp_path / "out", *arguments) == 2
        assert message in capsys.readouterr().err
        assert not (tmp_path / "out").exists()


def test_results_of_another_model_are_refused(monkeypatch, root, folder, tmp_path, capsys):
    measure(tmp_path / "other", tiny_bridge(seed=9))
    arguments = ("--neurons", "L0.N3,L0.N5,L2.N47", "--lam", 3)
    arguments += ("--results", tmp_path / "other/run")
    assert export(monkeypatch, folder, tmp_path / "out", *arguments) == 2
    assert "the export is of tiny" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
