"""The bank's pairs of statements: balanced, and read from a file of one's own."""

import csv
import re
from collections import Counter

import pytest

from kb_lens.interventions.steering import (
    StatementPair,
    load_statements,
)
from kb_lens.questions import DIMENSIONS, load_questions

NEGATIONS = ("not", "cannot", "no")


def words(text):
    return re.findall(r"[\w'-]+", text.lower())


def negations(texts):
    return Counter(word for text in texts for word in words(text) if word in NEGATIONS)


def form(pair):
    """Whether it is about what "you" can do, and whether it compares."""
    return pair.fair.startswith("You "), bool(re.search(r" (as|better|harder|more) ", pair.fair))


def test_the_bank_has_twenty_pairs_a_dimension():
    pairs = load_statements()
    assert Counter(pair.dimension for pair in pairs) == dict.fromkeys(DIMENSIONS, 20)
    texts = [text for pair in pairs for text in (pair.biased, pair.fair)]
    assert len({" ".join(words(text)) for text in texts}) == 120
    for text in texts:
        assert text.isascii()
        assert text.endswith(".")
        assert 4 < len(words(text)) < 15


@pytest.mark.parametrize("dimension", DIMENSIONS)
def test_concepts_are_the_banks_and_occur_once(dimension):
    concepts = [pair.concept for pair in load_statements(dimension)]
    known = {question.concept for question in load_questions(None, dimension=dimension)}
    assert len(set(concepts)) == 20
    assert set(concepts) <= known


@pytest.mark.parametrize("dimension", DIMENSIONS)
def test_negation_and_length_favor_neither_side(dimension):
    pairs = load_statements(dimension)
    sides = [tuple(bool(negations([text])) for text in (p.biased, p.fair)) for p in pairs]
    assert sides == [(True, False), (False, True)] * 10
    biased, fair = [p.biased for p in pairs], [p.fair for p in pairs]
    for first, second in zip(pairs[::2], pairs[1::2], strict=True):
        assert negations([first.biased]) == negations([second.fair])
        assert form(first) == form(second)
    assert sum(len(words(text)) for text in biased) == sum(len(words(text)) for text in fair)
    assert abs(sum(map(len, biased)) - sum(map(len, fair))) < 0.01 * sum(map(len, biased))


def test_a_pair_differs_in_its_negation_alone():
    for pair in load_statements():
        biased, fair = Counter(words(pair.biased)), Counter(words(pair.fair))
        differ = set((biased - fair) | (fair - biased))
        assert differ & set(NEGATIONS)
        assert differ - set(NEGATIONS) <= {"can", "a", "an", "some"}, pair


def write(path, *rows, columns=("dimension", "concept", "biased", "fair")):
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([columns, *rows])
    return path


def test_statements_of_ones_own(tmp_path):
    path = write(tmp_path / "own.csv", ("x", "c", "B.", "F."), ("y", "d", "A bias, so.", "Fair."))
    pairs = load_statements(path=path)
    assert pairs[1] == StatementPair("y", "d", "A bias, so.", "Fair.")
    assert load_statements(["x"], path) == pairs[:1]
    for asked in ("gender", []):
        with pytest.raises(ValueError, match=r"own\.csv' has \['x', 'y'\]"):
            load_statements(asked, path)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (("x", "c", "", "F."), "line 3: column 'biased' must be a text"),
        (("x", "c", "B."), "line 3: column 'fair' must be a text"),
        (("x", "c", "Same.", "Same."), "line 3: column 'fair' must be a statement that occurs no"),
        (("x", "c", "One.", "Two."), "line 3: column 'biased' must be a statement that occurs no"),
        (("x", "c", "B.", "F.", "?"), "line 3: more cells"),
    ],
)
def test_a_malformed_row_is_named(tmp_path, row, message):
    path = write(tmp_path / "own.csv", ("x", "c", "One.", "Another."), row)
    with pytest.raises(ValueError, match=message):
        load_statements(path=path)


def test_a_malformed_file_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"no such statements file: .*statements\.csv"):
        load_statements(path=tmp_path / "statements.csv")
    path = write(tmp_path / "own.csv", ("x", "B.", "F."), columns=("dimension", "biased", "fair"))
    with pytest.raises(ValueError, match=r"'concept' must be a text .* no such column"):
        load_statements(path=path)
    with pytest.raises(ValueError, match="has no rows"):
        load_statements(path=write(path))


def test_the_environment_does_not_change_the_statements(monkeypatch, tmp_path):
    write(tmp_path / "statements.csv", ("x", "c", "B.", "F."))
    monkeypatch.setenv("KB_LENS_DATA", str(tmp_path))
    assert len(load_statements()) == 60
