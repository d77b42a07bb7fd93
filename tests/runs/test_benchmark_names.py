"""What stands behind ``--benchmarks``: names, and files of the user's own."""

from pathlib import Path

import pytest
from test_benchmarks import stereoset_row, write_jsonl

from kb_lens.runs.benchmark_names import load_named, own_sources, parse_name
from kb_lens.runs.settings import Items

ITEMS = Items(limit=7)


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder to stand in, with files of items."""
    for name in ("mine.jsonl", "a:b@c.jsonl", "sub/mine.jsonl", "home/own.jsonl"):
        rows = [stereoset_row(k, bias_type="age", target=name) for k in range(4)]
        write_jsonl(tmp_path / name, rows)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    return tmp_path


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("stereoset=mine.jsonl", ("original", 7, "mine.jsonl")),
        (" stereoset=mine.jsonl:instructed@50 ", ("instructed", 50, "mine.jsonl")),
        ("stereoset=mine.jsonl@50", ("original", 50, "mine.jsonl")),
        ("stereoset=a:b@c.jsonl", ("original", 7, "a:b@c.jsonl")),
        ("stereoset=a:b@c.jsonl:release@3", ("release", 3, "a:b@c.jsonl")),
        ("stereoset=./mine.jsonl", ("original", 7, "mine.jsonl")),
    ],
)
def test_a_file_stands_behind_the_name(here, text, expected):
    choice = parse_name(text, ITEMS)
    protocol, limit, file = expected
    assert choice[:4] == ("stereoset", protocol, limit, Path(file))


def test_the_home_folder_is_meant(here):
    assert parse_name("stereoset=~/own.jsonl", ITEMS).path == here / "home/own.jsonl"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("stereoset=", r"after the = comes a file: NAME=FILE\[:PROTOCOL\]\[@ITEMS\]"),
        ("stereoset=none", "no such file of benchmark items: 'none'. Write NAME=FILE"),
        ("stereoset=mine.jsonl:x", "'mine.jsonl:x'. .* original, instructed or release"),
        ("stereoset=mine.jsonl@0", "no such file of benchmark items: 'mine.jsonl@0'"),
        ("stereoset@5=mine.jsonl", "a file comes right behind the name"),
        ("stereoset:instructed=mine.jsonl", "a file comes right behind the name"),
        ("copa=none", "PROTOCOL being original"),
        ("x=mine.jsonl", "unknown benchmark 'x'"),
        ("=mine.jsonl", "unknown benchmark ''"),
        ("mine.jsonl", r"write stereoset=mine.jsonl \(NAME=FILE"),
        ("sub/mine:instructed@5", "write stereoset=sub/mine "),
        ("stereo", "Did you mean 'stereoset'?"),
        ("bbq_gendr", "Did you mean .* or 'bbq_gender_identity'?"),
        ("stereoset:instruct", "allowed: .* Did you mean 'instructed'?"),
    ],
)
def test_what_is_wrong_is_said(here, text, said):
    with pytest.raises(ValueError, match=said):
        load_named([text], ITEMS, 0)


def test_files_are_told_apart_by_their_names(here, data_dir):
    names = ("stereoset=mine.jsonl", "stereoset=mine.jsonl:instructed", "stereoset=home/own.jsonl")
    loaded = load_named(("stereoset@8", *names), Items(data_dir=data_dir), 0)
    assert [benchmark.key for benchmark in loaded] == [
        *("stereoset", "stereoset-mine", "stereoset_instructed-mine", "stereoset-own")
    ]
    sources = own_sources(loaded)
    assert list(sources) == [benchmark.key for benchmark in loaded[1:]]
    with pytest.raises(ValueError, match=r"a name twice: .* different names, without folder"):
        load_named(("stereoset=mine.jsonl", "stereoset=sub/mine.jsonl"), ITEMS, 0)
