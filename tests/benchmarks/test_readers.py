"""Files of benchmarks, statements, examples and questions: read, or refused in one line."""

import csv
import inspect
import io
import json
from dataclasses import replace

import pytest
from capability_rows import ROWS
from damaged_files import (
    check_read_or_refused,
    damaged_bytes,
    damaged_rows,
    damaged_table,
    fuzzed,
)
from hypothesis import given
from hypothesis import strategies as st
from test_bbq import four_rows
from test_benchmarks import CROWS, CROWS_HEADER, stereoset_row
from test_over_correction import COLUMNS as PROMPT_COLUMNS
from test_over_correction import ROWS as PROMPTS

import kb_lens as kb
from kb_lens.benchmarks import harness
from kb_lens.benchmarks.benchmark import result_key
from kb_lens.benchmarks.catalogue import SPECS, load_benchmark
from kb_lens.benchmarks.data import find_rows
from kb_lens.interventions.steering import load_statements
from kb_lens.models.prompts import load_examples

EXAMPLES = [("question", "answer"), ("Is A, or B?", "No"), ("Is A A?", "Yes")]
STATEMENTS = [("dimension", "concept", "biased", "fair"), ("x", "c", "B.", "F, no?")]
BANK = [
    ("id", "dimension", "kind", "concept", "text", "answer"),
    ("a", "gender", "causal_rejection", "maths", "Is it, or not?", "no"),
    ("b", "race", "bias_recognition", "maths", "Is it?", "yes"),
]
RELEASE = [
    ("gold", "q_index", "bias_cat", "concept", "question"),
    *(("no", "1", "age", "", f"Is it {k}?") for k in range(3)),
]
CROWS_TABLE = list(csv.reader(io.StringIO(CROWS_HEADER + CROWS)))


def benchmark_of(name):
    """Reads the items of the data folder that a file is in."""
    return lambda path: SPECS[name].load(path.parents[SPECS_FILES[name].count("/")])


def capability_rows_of(task):
    """Reads the rows alone: the harness' object for them takes its time."""

    def read(path):
        rows, _ = find_rows(harness._sources(task), path.parents[1])
        return [harness.DOCUMENTS[task.name](row) for row in rows]

    return read


SPECS_FILES = {
    "stereoset": "stereoset/dev.jsonl",
    "bbq_age": "bbq/Age.jsonl",
    "bbq_race_x_ses": "bbq/Race_x_SES.jsonl",
    "plain_text": "plain_text.jsonl",
    "crows_pairs": "crows_pairs/crows_pairs_anonymized.csv",
    "over_correction": "neutral_prompts.csv",
}
TEXTS = [{"id": "1", "subject": "s", "text": "It rains."}, {"id": "2", "subject": "s", "text": "x"}]
JSON_LINES = {
    "stereoset": [stereoset_row(0), stereoset_row(1, "intersentence")],
    "bbq_age": four_rows("Age"),
    "bbq_race_x_ses": four_rows("Race_x_SES"),
    "plain_text": TEXTS,
}
TABLES = {"crows_pairs": CROWS_TABLE, "over_correction": [PROMPT_COLUMNS, *PROMPTS]}
TASKS = {task.name: task for task in harness.TASKS}

READERS = {
    **{
        name: (SPECS_FILES[name], rows, benchmark_of(name))
        for name, rows in (JSON_LINES | TABLES).items()
    },
    **{name: (task.file, ROWS[name][:3], capability_rows_of(task)) for name, task in TASKS.items()},
    "examples": ("examples.csv", EXAMPLES, load_examples),
    "examples as JSON": (
        "examples.jsonl",
        [{"question": question, "answer": answer} for question, answer in EXAMPLES[1:]],
        load_examples,
    ),
    "statements": ("own.csv", STATEMENTS, lambda path: load_statements(path=path)),
    "bank": ("bank.csv", BANK, lambda path: kb.load_questions(path=path)),
    "release": ("release.csv", RELEASE, lambda path: kb.load_questions(path=path)),
}
"""Reader -> its file below a folder, good rows, and how it is read."""


def as_text(rows, delimiter=","):
    """Rows as the text of a file: dicts as JSON lines, others as CSV."""
    if isinstance(rows[0], dict):
        return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    text = io.StringIO()
    csv.writer(text, delimiter=delimiter, lineterminator="\n").writerows(rows)
    return text.getvalue()


def written(folder, name, content):
    """A reader's file with other content, and the reader."""
    file, _, read = READERS[name]
    path = folder / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path, read


def items(result):
    """What was read, comparable."""
    table = result[0] if isinstance(result, tuple) and len(result) == 2 else result
    return table.to_dict("list") if hasattr(table, "to_dict") else table


@pytest.mark.parametrize("name", READERS)
def test_what_editors_and_spreadsheets_write_is_read(tmp_path, name):
    rows = READERS[name][1]
    text = as_text(rows)
    forms = [text, text.replace("\n", "\r\n"), text.replace("\n", "\n\n"), "\n" + text]
    contents = [form.encode() for form in forms] + [text.encode("utf-8-sig"), text[:-1].encode()]
    if not isinstance(rows[0], dict):
        contents += [as_text(rows, delimiter).encode() for delimiter in ";\t"]
    expected, *others = [items(read(path)) for path, read in _each(tmp_path, name, contents)]
    assert all(other == expected for other in others)


def _each(folder, name, contents):
    return (written(folder, name, content) for content in contents)


@fuzzed
@given(data=st.data())
@pytest.mark.parametrize("name", READERS)
def test_a_damaged_file_is_read_or_refused(tmp_path, name, data):
    rows = READERS[name][1]
    structured = damaged_rows(rows) if isinstance(rows[0], dict) else damaged_table(rows)
    content = data.draw(st.binary() | damaged_bytes(as_text(rows).encode()) | structured)
    check_read_or_refused(READERS[name][2], written(tmp_path, name, content)[0])


DEEP = b"[" * 100_000
FAULTS = {
    "cp1252": (lambda text: text[:-5] + b"\xe9" + text[-5:], "perhaps cp1252"),
    "utf-16": (lambda text: text.decode().encode("utf-16"), "UTF-16"),
    "nul": (lambda text: text[:-3] + b"\0" + text[-3:], "NUL"),
    "empty": (lambda text: b"", "empty|no rows|no examples"),
    "blank": (lambda text: b"\n \n", "empty|no rows|no examples"),
}
JSON_FAULTS = {
    "nested without end": (lambda text: text + DEEP, "recursion limit"),
    "a number without end": (lambda text: text + b'{"a": ' + b"1" * 5000 + b"}", "out of range"),
    "NaN": (lambda text: text + b'{"a": NaN}', "JSON"),
    "Infinity": (lambda text: text + b'{"a": -Infinity}', "JSON"),
    "half a character": (lambda text: text + b'{"a": "\\ud800"}', "JSON"),
    "cut": (lambda text: text[:-4], "JSON"),
    "a list": (lambda text: text + b"[1]", "(row|line) [0-9]+"),
}
CSV_FAULTS = {
    "header alone": (lambda text: text.partition(b"\n")[0], "empty|no rows|no examples"),
    "open quote": (lambda text: text + b'"x', "Is a double quote missing"),
    "huge field": (lambda text: text + b"x" * 140_000, "field larger than"),
    "cells missing": (lambda text: text + b"x\n", "(row|line) [0-9]+"),
    "cells too many": (lambda text: text + b"x" + b"," * 30 + b"x\n", "(row|line) [0-9]+"),
    "column twice": (lambda text: text.replace(b"\n", b",x,x\n"), "column twice"),
}
CASES = [
    (name, fault)
    for name, (_, rows, _) in READERS.items()
    for fault in FAULTS | (JSON_FAULTS if isinstance(rows[0], dict) else CSV_FAULTS)
]


@pytest.mark.parametrize(("name", "fault"), CASES)
def test_a_faulty_file_is_refused(tmp_path, name, fault):
    damage, message = (FAULTS | JSON_FAULTS | CSV_FAULTS)[fault]
    content = damage(as_text(READERS[name][1]).encode())
    path, read = written(tmp_path, name, content)
    with pytest.raises(ValueError, match=message) as error:
        read(path)
    assert path.name in str(error.value)
    assert len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize("name", READERS)
def test_a_folder_is_no_file(tmp_path, name):
    file, _, read = READERS[name]
    (tmp_path / file).mkdir(parents=True)
    with pytest.raises(ValueError, match=r"is a folder: give a"):
        read(tmp_path / file)


@pytest.mark.parametrize("name", READERS)
def test_a_missing_column_is_named_beside_those_there_are(tmp_path, name):
    rows = READERS[name][1]
    if isinstance(rows[0], dict):
        lost = {"stereoset": "target", "arc_easy": "question", "arc_challenge": "question"}
        column = lost.get(name, list(rows[0])[-2 if name == "hellaswag" else 0])
        renamed = [{key + "_" * (key == column): row[key] for key in row} for row in rows]
    else:
        column = {"crows_pairs": "sent_more", "release": "question"}.get(name, rows[0][-1])
        renamed = [[cell + "_" * (cell == column) for cell in rows[0]], *rows[1:]]
    path, read = written(tmp_path, name, as_text(renamed).encode())
    with pytest.raises(ValueError, match=f"{column}_|lacks the column") as error:
        read(path)
    assert path.name in str(error.value)


# --- what chooses a file -------------------------------------------------------------------------


@pytest.mark.parametrize("data_dir", [5, True, ["a"], "~nobody-of-this-name/data"])
@pytest.mark.parametrize("name", ["stereoset", "bbq", "over_correction"])
def test_a_data_dir_that_is_none_is_refused(name, data_dir):
    with pytest.raises(ValueError, match="data_dir is"):
        inspect.unwrap(load_benchmark)(name, data_dir=data_dir)


@pytest.mark.parametrize("name", ["stereoset", "bbq", "over_correction"])
def test_a_data_dir_that_is_a_file_is_refused(tmp_path, name):
    (tmp_path / "data").touch()
    with pytest.raises(ValueError, match=r"data' is a file|is '.*data', a file: give its folder"):
        load_benchmark(name, data_dir=tmp_path / "data")


@pytest.mark.parametrize("name", [None, 5, ["stereoset"], "../stereoset", ""])
def test_a_name_that_is_no_benchmark_is_refused(name):
    with pytest.raises(ValueError, match="unknown benchmark"):
        inspect.unwrap(load_benchmark)(name)


@pytest.mark.parametrize("changes", [{"name": "../x"}, {"name": "con"}, {"protocol": "a/b"}])
def test_a_benchmark_s_name_can_name_its_files(tmp_path, changes):
    path, _ = written(tmp_path, "stereoset", as_text(JSON_LINES["stereoset"]).encode())
    benchmark = load_benchmark("stereoset", data_dir=path.parents[1])
    with pytest.raises(ValueError, match="cannot name a benchmark"):
        replace(benchmark, **changes)
    with pytest.raises(ValueError, match="cannot name a benchmark"):
        result_key(*({"name": "x", "protocol": "original"} | changes).values())


def test_a_source_does_not_say_whose_files_they_are(tmp_path):
    for name in SPECS_FILES:
        path, _ = written(tmp_path, name, as_text(READERS[name][1]).encode())
        benchmark = load_benchmark(name, data_dir=tmp_path)
        assert str(tmp_path) not in benchmark.source
        assert path.name in benchmark.source
