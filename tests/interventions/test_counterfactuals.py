"""Counterfactual texts: which words trade places, and the bank's pairs of them."""

import csv
from collections import Counter

import pytest

from kb_lens.interventions.counterfactuals import (
    WordPair,
    counterfactual,
    load_word_pairs,
    sides,
)
from kb_lens.interventions.steering import load_statements
from kb_lens.questions import DIMENSIONS

PAIRS = load_word_pairs()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("He sold his car to a woman.", "She sold her car to a man."),
        ("HE is a hero; His wife knows.", "SHE is a heroine; Her husband knows."),
        ("The man's father-in-law is male-dominated.", "The woman's mother-in-law is f"),
        ("A Muslim and two Christians", "A Christian and two Muslims"),
        ("Black people and white people", "White people and Black people"),
        ("Some say: Black people vote. White women do.", "Some say: White people vote. Black w"),
        ("An atheist met an Anglican. Anglicans sing.", "An Anglican met an atheist. Atheists s"),
        ("a Lutheran school of a Lutheran.", "a Jewish school of a Jew."),
        ("An African American church", "An Irish American mosque"),
        ("Mr. Smith saw himself.", "Mrs. Smith saw herself."),
    ],
)
def test_words_trade_places(text, expected):
    assert counterfactual(text, PAIRS).startswith(expected)


@pytest.mark.parametrize(
    "text",
    ["", "The others manage.", "a black hole, a white sail", "manly heroism", "Womanizer"],
)
def test_a_text_without_the_words_has_no_counterfactual(text):
    assert counterfactual(text, PAIRS) is None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("her book", "his book"),
        ("I saw her.", "I saw him."),
        ("I saw her", "I saw him"),
        ("He told her that", "She told him that"),
        ("He gave her a book", "She gave him a book"),
        ("It is her old red book", "It is his old red book"),
        ("The book is his.", "The book is hers."),
        ("hers was his and him", "his was hers and her"),
    ],
)
def test_her_is_his_before_a_noun_and_him_elsewhere(text, expected):
    assert counterfactual(text, PAIRS) == expected


def test_the_banks_pairs():
    counts = Counter(pair.dimension for pair in PAIRS)
    assert set(counts) == set(DIMENSIONS)
    assert all(count >= 25 for count in counts.values())
    for pair in PAIRS:  # so that the article before a word fits its counterpart as well
        if pair.first == "Islam":  # takes none
            continue
        assert (pair.first[0].lower() in "aeiou") == (pair.second[0].lower() in "aeiou"), pair
    assert load_word_pairs("race") == tuple(p for p in PAIRS if p.dimension == "race")


@pytest.mark.parametrize("dimension", DIMENSIONS)
def test_most_statements_have_a_counterfactual_and_it_leads_back(dimension):
    pairs = load_word_pairs(dimension)
    texts = [text for p in load_statements(dimension) for text in (p.biased, p.fair)]
    changed = {text: counterfactual(text, pairs) for text in texts}
    there = {text: other for text, other in changed.items() if other is not None}
    assert len(there) >= 20
    for text, other in there.items():
        assert counterfactual(other, pairs) == text


def write(path, *rows, columns=("dimension", "first", "second")):
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([columns, *rows])
    return path


def test_pairs_of_ones_own(tmp_path):
    path = write(tmp_path / "own.csv", ("x", "cat", "dog"), ("y", "old", "young"))
    pairs = load_word_pairs(path=path)
    assert pairs == (WordPair("x", "cat", "dog"), WordPair("y", "old", "young"))
    assert counterfactual("An old Cat", load_word_pairs(["x"], path)) == "An old Dog"
    with pytest.raises(ValueError, match=r"there are no dimensions \['z'\]"):
        load_word_pairs("z", path)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (("x", "", "dog"), "line 3: column 'first' must be a text"),
        (("x", "dog"), "line 3: column 'second' must be a text"),
        (("x", "Dog", "dog"), "line 3: column 'second' must be another word"),
        (("x", "dog", "Cat"), "line 3: column 'first' must be a word of a pair that is"),
    ],
)
def test_a_malformed_row_is_named(tmp_path, row, message):
    path = write(tmp_path / "own.csv", ("x", "cat", "dog"), row)
    with pytest.raises(ValueError, match=message):
        load_word_pairs(path=path)


def test_a_word_has_at_most_two_counterparts(tmp_path):
    rows = [("x", "her", other) for other in ("his", "him", "it")]
    path = write(tmp_path / "own.csv", *rows)
    with pytest.raises(ValueError, match="line 4: column 'first' must be a word with at most two"):
        load_word_pairs(path=path)


def test_no_pairs():
    with pytest.raises(ValueError, match="got no pairs"):
        counterfactual("he", ())


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("She is her own boss.", {"second"}),
        ("His car", {"first"}),
        ("A man and a woman", {"first", "second"}),
        ("a black hole on the asian tiger", set()),
    ],
)
def test_the_sides_that_a_text_is_on(text, expected):
    assert sides(text, PAIRS) == expected
    if len(expected) == 1:  # its counterfactual is on the other
        assert sides(counterfactual(text, PAIRS), PAIRS) == {"first", "second"} - expected
