"""The words of CrowS-Pairs: those that a pair's sentences share, and the classes of the others.

Words are split at spaces, which belong to the word after them, and matched with difflib. Words in
which the sentences differ are classified by their form: a pronoun, the name of a group, a name of a
person, place or thing (capitalised and not listed otherwise), or another word. Nothing is guessed:
a word that is not listed and not capitalised is another word, whatever it means.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from difflib import SequenceMatcher
from typing import NamedTuple

from kb_lens.benchmarks.requests import Excerpt, Span

CLASSES = ("pronoun", "group", "name")
"""The classes of words in which the sentences differ; other words have no class."""

_PRONOUNS = """
i me my mine myself we us our ours ourselves you your yours yourself yourselves he him his
himself she her hers herself it its itself they them their theirs themselves
"""

_GROUPS = """
african african-american afro afro-american anglo arab arabian arabic asian asian-american
black caucasian colored dark-skinned eskimo gypsy hispanic latina latino light-skinned native
navajo roma whibte white
american armenian australian british californian canadian chinese dutch dutchman eastern
easterner english englishman englishmen englishwoman european floridian foreigner french
german greek immigrant indian irish irishman italian japanese korean mexian mexican middle
mongolian nigerian non-immigrant norse northern norwegian pakistani polish puerto refugee
rican russian saudi scandanavian scandinavian scottish southern spanish swede syrian texan
thai vietnamese
actor actress aunt boy boyfriend brother businessman businesswoman cis cisfemale cisgender dad
daughter father female feminine girl girlfriend granddaughter grandfather grandma grandmother
grandpa grandson guy host hostess husband king lady ma'am male man masculine men mom mother mr
mrs queen sir sister son spearman spearwoman trans transgender uncle waiter waitress wife
wives woman women
bisexual etero gay heterosexual hetrosexual homosexual lesbian straight
amish atheist baptist buddhist cathloic catholic chistian christian episcopalian hindu jew
jewish lutheran mormon muslim pentacostal protestant satanist wiccan
adult aged child children elderly kid middle-aged old older senior teen teenage teenager young
younger youth
educated ghetto homeless lower poor rich uneducated upper wealthy
able-bodied abled autistic blind crippled deaf disabled handicapped healthy ill mentally
nondisabled paraplegic retarded
beautiful fat fit muscular obese overweight short skinny slim tall thin ugly underweight
"""
"""Words that name a group: by race and colour, nationality, gender, sexual orientation, religion,
age, socioeconomic status, disability, appearance; in the singular, as the benchmark spells them."""

_ORDINARY = """
a an and astronomers athletes begin being big but butches college doctors everyone homeowners
house minorities minority minors no olympic people precious pride psychotic rock same small
successful suddenly suddently tent that the vets won
"""
"""Words that are no names and that the benchmark capitalises, mostly at a sentence's beginning."""

_LISTED = tuple(frozenset(words.split()) for words in (_PRONOUNS, _GROUPS, _ORDINARY))


class PairWords(NamedTuple):
    """The words of a pair's sentences, each with its space before it: characters [start, end)."""

    shared: Excerpt
    """The words that both have."""

    before: Excerpt
    """The shared words before every difference."""

    classes: tuple[Excerpt, ...]
    """The words in which the sentences differ, by their class; some have none."""


def pair_words(more: str, less: str) -> PairWords:
    """Classify the words of a pair."""
    words = [list(re.finditer(r"\s*\S+", sentence)) for sentence in (more, less)]
    texts = [[word[0] for word in sentence] for sentence in words]
    # autojunk would ignore words that are frequent in long sentences.
    blocks = SequenceMatcher(None, *texts, autojunk=False).get_matching_blocks()
    shared = [[b[side] + k for b in blocks for k in range(b.size)] for side in range(2)]
    n_before = blocks[0].size if blocks[0][:2] == (0, 0) else 0
    spans = [[word.span() for word in sentence] for sentence in words]
    return PairWords(
        _excerpt(spans, shared, aligned=True),
        _excerpt(spans, [chosen[:n_before] for chosen in shared], aligned=True),
        tuple(_excerpt(spans, _of_class(name, texts, shared)) for name in CLASSES),
    )


def _excerpt(
    spans: Sequence[Sequence[Span]], chosen: Iterable[Iterable[int]], *, aligned: bool = False
) -> Excerpt:
    """The chosen words of both sentences."""
    words = (tuple(s[k] for k in numbers) for s, numbers in zip(spans, chosen, strict=True))
    return Excerpt(tuple(words), aligned)


def _of_class(
    name: str, texts: Sequence[Sequence[str]], shared: Sequence[Sequence[int]]
) -> list[list[int]]:
    """The indices of both sentences' words of a class that are not shared."""
    return [
        [k for k, word in enumerate(words) if k not in both and word_class(word) == name]
        for words, both in zip(texts, shared, strict=True)
    ]


def word_class(word: str) -> str:
    """The class of a word, with any punctuation: one of `CLASSES`, or empty."""
    pronouns, groups, ordinary = _LISTED
    bare = re.sub(r"^\W+|\W+$", "", word.replace("\N{RIGHT SINGLE QUOTATION MARK}", "'"))
    stem = re.sub(r"'(s|d|ll|m|re|ve)$", "", bare, flags=re.IGNORECASE).lower()
    if stem in pronouns:
        return "pronoun"
    if {stem, stem.removesuffix("s")} & groups:
        return "group"
    return "name" if bare[:1].isupper() and stem not in ordinary else ""
