"""Balanced COPA: COPA's prompts on items and their mirror images, which are one cluster."""

import json

import pytest

import kb_lens as kb
from kb_lens.benchmarks.data import NoDataError

ORIGINAL = {
    "id": 1,
    "premise": "My plant died.",
    "question": "cause",
    "choice1": "I gave it no water.",
    "choice2": "I gave it some water.",
    "label": 0,
    "mirrored": False,
}
MIRRORED = ORIGINAL | {"id": 1001, "premise": "My plant grew.", "label": 1, "mirrored": True}
OTHER = ORIGINAL | {
    "id": 2,
    "premise": "It rained.",
    "question": "effect",
    "choice1": "We got wet.",
    "choice2": "We stayed dry.",
}
ROWS = (
    ORIGINAL,
    MIRRORED,
    OTHER,
    OTHER | {"id": 1002, "label": 1, "premise": "The sun shone.", "mirrored": True},
)


@pytest.fixture
def folder(tmp_path):
    def write(rows):
        path = tmp_path / "balanced_copa" / "train.jsonl"
        path.parent.mkdir(exist_ok=True)
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return tmp_path

    return write


def test_the_prompts_are_those_of_copa(folder):
    benchmark = kb.load_benchmark("balanced_copa", data_dir=folder(ROWS))
    first = benchmark.requests[0]
    assert first.prompt == "My plant died because"
    assert benchmark.requests[1].prompt == "My plant grew because"
    assert first.options == benchmark.requests[1].options
    assert first.options == ("  i gave it no water.", "  i gave it some water.")
    assert benchmark.items["part"].tolist() == ["original", "mirrored"] * 2


def test_who_goes_by_the_choices_alone_has_half_of_them(llama, folder):
    result = kb.evaluate(
        llama, kb.load_benchmark("balanced_copa", data_dir=folder(ROWS)), progress=False
    )
    table = result.items
    assert result.metrics["acc"].n == 4
    assert result.metrics["acc"].clusters == 2
    for part in ("original", "mirrored"):
        accuracy = 100 * table.query("part == @part")["acc"].mean()
        assert result.metrics[f"acc_{part}"].value == accuracy
    same = table.groupby("choices")["prediction"].nunique() == 1
    assert (
        table[table["choices"].isin(same[same].index)].groupby("choices")["acc"].sum() == 1
    ).all()


def test_a_sample_has_as_many_mirror_images(folder):
    benchmark = kb.load_benchmark("balanced_copa", data_dir=folder(ROWS), limit=2)
    assert sorted(benchmark.items["part"]) == ["mirrored", "original"]


def test_the_hubs_rows_have_the_same_format(monkeypatch):
    import datasets

    monkeypatch.delenv("KB_LENS_DATA", raising=False)
    monkeypatch.setattr("kb_lens.benchmarks.data._hub_closed", lambda: None)
    asked = []

    def load_dataset(name, split):
        asked.append((name, split))
        return datasets.Dataset.from_list([dict(row) for row in ROWS])

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    benchmark = kb.load_benchmark("balanced_copa")
    assert asked == [("pkavumba/balanced-copa", "train")]
    assert len(benchmark.items) == 4
    assert "balanced-copa" in benchmark.source


@pytest.mark.parametrize(
    ("change", "reason"),
    [({"mirrored": "no"}, "column 'mirrored'.*true or false"), ({"label": 2}, "label")],
)
def test_a_row_that_is_not_as_expected(folder, change, reason):
    with pytest.raises(ValueError, match=reason):
        kb.load_benchmark("balanced_copa", data_dir=folder([ORIGINAL | change]))


def test_without_its_file_it_says_where_it_looked(monkeypatch):
    monkeypatch.delenv("KB_LENS_DATA", raising=False)
    with pytest.raises(NoDataError, match=r"no data for balanced_copa.*balanced_copa/train\.jsonl"):
        kb.load_benchmark("balanced_copa")
