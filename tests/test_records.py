"""What kb_lens wrote comes back, or the file and the place in it are named: never anything else."""

import json
import os
from dataclasses import dataclass, replace

import pandas as pd
import pytest
import torch
from damaged_files import (
    EXAMPLES,
    check_read_or_refused,
    damaged_bytes,
    damaged_rows,
    fuzzed,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from report_folders import run_folder, study_folder
from test_effects import made
from test_plots_style import specific

import kb_lens as kb
from kb_lens.checks.effects import NeuronEffects
from kb_lens.checks.specificity import Specificity
from kb_lens.evaluation.results import load_results
from kb_lens.files import write_text
from kb_lens.interventions.fairsteer import FairSteer
from kb_lens.interventions.projection import Projection
from kb_lens.interventions.steering import Steering
from kb_lens.records.objects import read_json, write_json
from kb_lens.records.tables import (
    Belongs,
    read_table,
    read_table_of,
    table_from_bytes,
    table_to_bytes,
    write_csv,
)
from kb_lens.records.tensors import read_tensors, write_tensors
from kb_lens.runs.folder import RunFolder
from kb_lens.runs.record import load_record
from kb_lens.studies.tables import Experiment
from kb_lens.studies.tuned import Tuning

BASE = "evaluations/base"
NO_CHANGE = {"base": 120, "lambda_2": 120, "random_lambda_2": 120}


quick = settings(fuzzed, max_examples=max(12, EXAMPLES // 4))
"""A whole folder is read each time, for most files."""


def tuned(folder):
    rows = {"lam": [2.0], "gain": [1.0], "low": [0.0], "high": [2.0], "capability_change": [0.0]}
    test = pd.DataFrame({"benchmark": ["b"], "metric": ["m"], "difference": [1.0]})
    settings = {"model": "tiny", "fingerprint": "f"}
    Tuning(2.0, "Better.", pd.DataFrame(rows), test, settings).save(folder)


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """A folder with every kind of file."""
    folder = tmp_path_factory.mktemp("good")
    run_folder(folder / "run", **NO_CHANGE)
    study_folder(folder / "study", (1.0, 0.0, 2.0))
    tuned(folder / "tuned")
    made().save(folder / "effects.safetensors")
    vector = torch.ones(4)
    Steering(vector, 1, "tiny", "f").save(folder / "steering.safetensors")
    Projection(torch.eye(4)[:2], 1, "tiny", "f").save(folder / "projection.safetensors")
    FairSteer(vector, vector, 0.5, 1, "tiny", "f", (0.5, 1.0)).save(folder / "fair.safetensors")
    specific().save(folder / "specificity")
    return folder


def folder_of(read, depth=1):
    """A reader of a folder, given a file `depth` below it."""
    return lambda path: read(path.parents[depth - 1])


READERS = {
    "run/attributions.safetensors": kb.Attributions.load,
    "run/neurons.json": kb.NeuronSet.load,
    "run/neurons/gender.json": folder_of(RunFolder.load, 2),
    "run/knowledge.json": kb.Knowledge.load,
    "run/run.json": folder_of(load_record),
    "run/checks.json": folder_of(RunFolder.load),
    "run/tokens.csv": folder_of(RunFolder.load),
    f"run/{BASE}/results.json": folder_of(load_results),
    f"run/{BASE}/items/crows_pairs.parquet": folder_of(load_results, 2),
    "study/study.json": folder_of(Experiment.load),
    "study/results.parquet": folder_of(Experiment.load),
    "tuned/tuning.json": folder_of(Tuning.load),
    "tuned/development.csv": folder_of(Tuning.load),
    "effects.safetensors": NeuronEffects.load,
    "steering.safetensors": Steering.load,
    "projection.safetensors": Projection.load,
    "fair.safetensors": FairSteer.load,
    "specificity/specificity.csv": folder_of(Specificity.load),
    "specificity/control_knowledge.json": folder_of(Specificity.load),
}
"""File -> what reads it."""


@pytest.fixture(params=READERS)
def file(request, good):
    """A file, its content and its reader; it is put back afterwards."""
    path = good / request.param
    content = path.read_bytes()
    yield path, content, READERS[request.param]
    path.write_bytes(content)


def test_whole_files_are_read(file):
    path, _, read = file
    read(path)


@quick
@given(st.data())
def test_damaged_files_are_read_or_refused(file, data):
    path, content, read = file
    path.write_bytes(data.draw(damaged_bytes(content)))
    check_read_or_refused(read, path)


@quick
@given(st.data())
def test_json_with_other_values_is_read_or_refused(file, data):
    path, content, read = file
    if path.suffix == ".json":
        value = json.loads(content)
        rows = value if isinstance(value, list) else [value]
        line = data.draw(damaged_rows(rows)).decode().splitlines()
        path.write_text(line[0] if isinstance(value, dict) else f"[{','.join(line)}]")
        check_read_or_refused(read, path)


@quick
@given(st.binary(max_size=200))
def test_arbitrary_bytes_are_refused(file, content):
    path, _, read = file
    path.write_bytes(content)
    check_read_or_refused(read, path)


def test_a_folder_in_place_of_a_file_is_named(good, tmp_path):
    for name in ("neurons.json", "attributions.safetensors", "knowledge.json"):
        (tmp_path / name).mkdir()
        with pytest.raises(ValueError, match=name):
            READERS[f"run/{name}"](tmp_path / name)


# -- the readers themselves ---------------------------------------------------------------------


@dataclass(frozen=True)
class Point:
    """A record."""

    x: int
    name: str = ""
    weights: tuple[float, ...] = ()


OTHER = [
    ('{"x": 1.0}', "x: it should be a valid integer, got 1.0"),
    ('{"x": true}', "x: it should be a valid integer, got True"),
    ('{"x": "1"}', "x: it should be a valid integer, got '1'"),
    ("{}", "x: Field required"),
    ('{"x": 1, "y": 2}', "y: Unexpected keyword argument"),
    ('{"x": 1, "weights": [1, null]}', r"weights\[1\]: it should be a valid number, got None"),
    ('{"x": 1, "weights": [Infinity]}', "is not complete JSON"),
    ("[" * 100_000, "is not complete JSON: recursion limit"),
    ('{"x": ' + "1" * 5000 + "}", "is not complete JSON"),
    ("null", "it should be an object, got None"),
]


@pytest.mark.parametrize(("text", "message"), OTHER, ids=range(len(OTHER)))
def test_the_place_in_the_file_is_named(tmp_path, text, message):
    path = tmp_path / "point.json"
    write_text(path, text)
    with pytest.raises(ValueError, match=message) as caught:
        read_json(path, Point)
    assert str(path) in str(caught.value)


@given(st.integers(-(2**60), 2**60), st.text(), st.lists(st.floats(allow_nan=False)))
def test_objects_come_back(tmp_path_factory, x, name, weights):
    path = tmp_path_factory.mktemp("json") / "point.json"
    point = Point(x, name, tuple(weights))
    write_json(path, vars(point))
    assert read_json(path, Point, finite=False) == point


TENSORS = {
    "a name too many": ({"a": torch.ones(2), "b": torch.ones(2)}, "has the tensors a, b; it needs"),
    "no tensor": ({}, "has the tensors none"),
    "NaN": ({"a": torch.tensor([float("nan")])}, "a: it holds numbers that are not finite"),
    "infinity": ({"a": torch.tensor([float("inf")])}, "not finite"),
    "another type": ({"a": torch.ones(2, dtype=torch.int64)}, "torch.int64 is not a floating"),
}


@pytest.mark.parametrize(("tensors", "message"), TENSORS.values(), ids=TENSORS)
def test_tensors_that_are_others(tmp_path, tensors, message):
    path = tmp_path / "a.safetensors"
    write_tensors(path, tensors, "kb_lens a 1", {"x": 1})
    with pytest.raises(ValueError, match=message):
        read_tensors(path, ("a",), "kb_lens a 1", Point)


cells = st.text(st.characters(codec="utf-8", exclude_characters="\r\n\0"), max_size=8)


@given(st.lists(cells | st.sampled_from(["=1+1", "+a", "-2", "@x", "'=", "''+", "\t=", "NA", ""])))
def test_cells_that_a_spreadsheet_would_run_are_escaped_and_come_back(tmp_path_factory, texts):
    path = tmp_path_factory.mktemp("csv") / "table.csv"
    table = pd.DataFrame({"text": texts, "n": range(len(texts))})
    write_csv(path, table, Belongs("tiny", "f"))
    raw = pd.read_csv(path, keep_default_na=False, dtype=str)
    assert not any(text[:1] in tuple("=+-@|%\t\r") for text in raw["text"] if text)
    back, whose = read_table(path, {"text": "text", "n": "number"})
    assert back["text"].tolist() == texts
    assert whose == (Belongs("tiny", "f") if texts else Belongs())


def test_a_table_of_another_model_is_named(tmp_path):
    path = tmp_path / "table.csv"
    write_csv(path, pd.DataFrame({"n": [1]}), Belongs("tiny", "f"))
    with pytest.raises(
        ValueError, match=r"table\.csv' is of tiny \(weights f\), but what is beside"
    ):
        read_table_of(path, {"n": "number"}, Belongs("tiny", "other"))
    moved = Belongs("/home/anna/tiny", "")
    assert len(read_table_of(path, {"n": "number"}, moved)) == 1


@pytest.mark.skipif(os.name != "posix", reason="modes are those of Unix")
@pytest.mark.parametrize("umask", [0o022, 0o002, 0o077])
def test_files_have_the_mode_that_the_umask_allows(good, tmp_path, umask):
    before = os.umask(umask)
    try:
        kb.Attributions.load(good / "run/attributions.safetensors").save(tmp_path / "a.safetensors")
        write_text(tmp_path / "a.txt", "a")
    finally:
        os.umask(before)
    modes = {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()}
    assert modes == {0o666 & ~umask}


# -- folders of two models ----------------------------------------------------------------------


def other_results(folder):
    path = folder / BASE
    (result,) = load_results(path).values()
    for file in (path / "results.json", path / "items/crows_pairs.parquet"):
        file.unlink()
    replace(result, fingerprint="other").save(path)


def other_neurons(folder):
    path = folder / "neurons.json"
    replace(kb.NeuronSet.load(path), fingerprint="other").save(path)


def other_attributions(folder):
    path = folder / "attributions.safetensors"
    scores = kb.Attributions.load(path)
    replace(scores, settings=replace(scores.settings, fingerprint="other")).save(path)


def other_knowledge(folder):
    path = folder / "knowledge.json"
    replace(kb.Knowledge.load(path), fingerprint="other").save(path)


def other_tokens(folder):
    path = folder / "tokens.csv"
    table, _ = read_table(path, {"token": "text"})
    write_csv(path, table, Belongs("tiny", "other"))


def other_checks(folder):
    path = folder / "checks.json"
    rows = json.loads(path.read_text())
    write_json(path, [row | {"model": "tiny", "fingerprint": "other"} for row in rows])


def other_dimension(folder):
    path = folder / "neurons/gender.json"
    replace(kb.NeuronSet.load(path), fingerprint="other").save(path)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("swap", "name"),
    [
        (other_results, "results.json"),
        (other_neurons, "neurons.json"),
        (other_attributions, "attributions.safetensors"),
        (other_knowledge, "knowledge.json"),
        (other_tokens, "tokens.csv"),
        (other_checks, "checks.json"),
        (other_dimension, "gender.json"),
    ],
)
def test_a_file_of_another_model_is_found(tmp_path, swap, name):
    folder = run_folder(tmp_path, **NO_CHANGE)
    RunFolder.load(folder)
    swap(folder)
    with pytest.raises(ValueError, match=r"Keep each model's results in a folder of its") as error:
        RunFolder.load(folder)
    assert name in str(error.value)


def test_a_text_that_is_no_utf_8_is_damage_and_no_error_of_who_looks_at_it_later():
    content = table_to_bytes(pd.DataFrame({"kind": ["intersentence", "intrasentence"]}), {})
    with pytest.raises(ValueError, match="is damaged"):
        table_from_bytes(content.replace(b"intersentence", b"\xff" + b"ntersentence"))


def test_a_key_of_any_length_is_refused_in_a_short_line(tmp_path):
    path = tmp_path / "neurons.json"
    path.write_text(json.dumps({"[" * 5000: 1}))
    with pytest.raises(ValueError, match=r"neurons\.json") as told:
        kb.NeuronSet.load(path)
    assert len(str(told.value)) < 300 + len(str(path))
