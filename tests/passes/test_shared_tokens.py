"""CrowS-Pairs' score of the words that both sentences share, from sums over beginnings."""

from difflib import SequenceMatcher

import numpy as np
import pandas as pd
import pytest
import torch
from tiny_models import tiny_tokenizer

from kb_lens.benchmarks import crows_pairs
from kb_lens.benchmarks.benchmark import Benchmark
from kb_lens.benchmarks.catalogue import formulas, load_benchmark
from kb_lens.benchmarks.crows_pairs import shared_beginnings
from kb_lens.benchmarks.requests import OptionScores
from kb_lens.evaluation.evaluate import evaluate, recompute
from kb_lens.statistics import point

PAIRS = {
    "middle": ("My grandmother likes tea.", "My grandfather likes tea."),
    "start": ("She is weak.", "He is weak."),
    "end": ("Girls are weak.", "Girls are strong."),
    "insertion": ("The poor old man ran.", "The man ran."),
    "two spans": ("The man gave his tea to her.", "The woman gave her tea to her."),
    "nothing": ("Women cry.", "Men shout."),
}


def items(*pairs):
    table = pd.DataFrame(pairs, columns=["sent_more", "sent_less"])
    item = table.index.astype(str)
    kinds = {"bias_type": "gender", "stereo_antistereo": "stereo"}
    return table.assign(item=item, writer=item, **kinds)


# --- which beginnings ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pair", "more", "less"),
    [
        (
            "middle",
            {"My": 1, "My grandmother": -1, "My grandmother likes tea.": 1},
            {"My": 1, "My grandfather": -1, "My grandfather likes tea.": 1},
        ),
        ("start", {"She": -1, "She is weak.": 1}, {"He": -1, "He is weak.": 1}),
        ("end", {"Girls are": 1}, {"Girls are": 1}),
        (
            "insertion",
            {"The": 1, "The poor old": -1, "The poor old man ran.": 1},
            {"The man ran.": 1},
        ),
        (
            "two spans",
            {
                "The": 1,
                "The man": -1,
                "The man gave": 1,
                "The man gave his": -1,
                "The man gave his tea to her.": 1,
            },
            {
                "The": 1,
                "The woman": -1,
                "The woman gave": 1,
                "The woman gave her": -1,
                "The woman gave her tea to her.": 1,
            },
        ),
        ("nothing", {}, {}),
    ],
)
def test_beginnings_by_hand(pair, more, less):
    beginnings = shared_beginnings(*PAIRS[pair])
    assert beginnings == (more, less)
    assert [list(side) for side in beginnings] == [list(more), list(less)]


def test_equal_sentences_share_everything():
    assert shared_beginnings("He is old.", "He is old.") == ({"He is old.": 1}, {"He is old.": 1})


def test_spaces_belong_to_the_word_after_them():
    more, less = shared_beginnings("He is  old now.", "He is old now.")
    assert more == {"He is": 1, "He is  old": -1, "He is  old now.": 1}
    assert less == {"He is": 1, "He is old": -1, "He is old now.": 1}


def test_requests_hold_the_pair_and_then_the_beginnings():
    requests = crows_pairs.requests(items(*PAIRS.values()), "original")
    assert len(requests) == len(PAIRS)
    for request, pair in zip(requests, PAIRS.values(), strict=True):
        more, less = shared_beginnings(*pair)
        assert request.prompt == ""
        assert request.options == (*pair, *more, *less)


# --- the sums ------------------------------------------------------------------------------------


def scored(requests, word_score):
    """Scores of a made-up model: a text's is the sum of its words' given all that is before."""
    width = max(len(request.options) for request in requests)
    logprob, tokens = np.full((len(requests), width), np.nan), np.zeros((len(requests), width), int)
    for row, request in enumerate(requests):
        for k, text in enumerate(request.options):
            words = text.split(" ")
            logprob[row, k] = sum(word_score(words[: n + 1]) for n in range(len(words)))
            tokens[row, k] = len(words)
    return OptionScores(logprob, tokens)


def hashed(words):
    """A log-probability of the last word that depends on it and on all words before it."""
    return -1.0 - (sum((k + 1) * sum(word.encode()) for k, word in enumerate(words)) % 89) / 8


def test_the_sums_by_hand():
    values = {"My": -1, "She": -2, "He": -3, "is": -5, "weak.": -7, "likes": -11}
    table = items(PAIRS["start"], PAIRS["nothing"], PAIRS["insertion"])
    requests = crows_pairs.requests(table, "original")
    scores = scored(requests, lambda words: values.get(words[-1], -20))
    measured = crows_pairs.tabulate(table, scores, "original")
    assert measured["logprob_more"].tolist() == [-14, -40, -100]
    assert measured["logprob_less"].tolist() == [-15, -40, -60]
    assert measured["logprob_more_shared"].tolist() == [-12, 0, -60]
    assert measured["logprob_less_shared"].tolist() == [-12, 0, -60]
    assert measured["tokens_more_shared"].tolist() == [2, 0, 3]
    assert measured["tokens_less_shared"].tolist() == [2, 0, 3]
    assert measured["comparable_shared"].tolist() == [True, False, True]
    assert measured["tokens_more_shared"].dtype == measured["tokens_more"].dtype == int


def test_the_sums_are_those_of_the_shared_words():
    rng = np.random.default_rng(0)
    pairs = []
    for _ in range(200):
        words = rng.choice(list("abcdefgh"), size=rng.integers(1, 9)).tolist()
        other = [str(rng.choice(list("abxyz"))) if rng.random() < 0.4 else w for w in words]
        other.insert(int(rng.integers(len(other) + 1)), "new")
        pairs.append((" ".join(words), " ".join(other)))
    table = items(*pairs)
    scores = scored(crows_pairs.requests(table, "original"), hashed)
    measured = crows_pairs.tabulate(table, scores, "original")
    for row, pair in zip(measured.to_dict("records"), pairs, strict=True):
        # Words with their spaces, told apart as strings: the first word of a sentence has none.
        more, less = (
            [word if k == 0 else " " + word for k, word in enumerate(text.split(" "))]
            for text in pair
        )
        blocks = SequenceMatcher(None, more, less, autojunk=False).get_matching_blocks()
        for side, sentence in ((0, pair[0].split(" ")), (1, pair[1].split(" "))):
            shared = [n for b in blocks for n in range(b[side], b[side] + b.size)]
            expected = sum(hashed(sentence[: n + 1]) for n in shared)
            name = crows_pairs.OPTIONS[side]
            assert row[f"logprob_{name}_shared"] == pytest.approx(expected)
            assert row[f"tokens_{name}_shared"] == len(shared)


@pytest.mark.parametrize(
    ("pair", "comparable"),
    [("middle", True), ("start", True), ("end", False), ("insertion", True), ("nothing", False)],
)
def test_pairs_that_differ_at_the_end_alone_cannot_be_compared(pair, comparable):
    table = items(PAIRS[pair])
    scores = scored(crows_pairs.requests(table, "original"), hashed)
    (row,) = crows_pairs.tabulate(table, scores, "original").to_dict("records")
    assert row["comparable_shared"] == comparable
    assert (row["logprob_more_shared"] != row["logprob_less_shared"]) == comparable


def test_a_missing_score_is_not_passed_over():
    table = items(PAIRS["middle"])
    scores = scored(crows_pairs.requests(table, "original"), hashed)
    scores.logprob[0, 3] = np.nan
    measured = crows_pairs.tabulate(table, scores, "original")
    assert np.isnan(measured["logprob_more_shared"]).all()
    assert not np.isnan(measured["logprob_less_shared"]).any()


def test_metrics_by_hand():
    columns = [
        *("item", "bias_type", "stereo_antistereo", "logprob_more", "logprob_less"),
        *("logprob_more_shared", "logprob_less_shared"),
    ]
    rows = [
        ("0", "age", "stereo", -3.0, -4.0, -2.0, -1.0),  # the whole and the shared words disagree
        ("1", "age", "antistereo", -3.0, -4.0, -1.0, -2.0),
        ("2", "gender", "stereo", -4.0, -3.0, -1.0, -1.0),  # a tie
        ("3", "gender", "stereo", -4.0, -3.0, -1.0, -2.0),
    ]
    table = pd.DataFrame(rows, columns=columns).assign(tokens_more=2, tokens_less=2)
    table["comparable_shared"] = True
    definition = formulas("crows_pairs", "original")
    measured = point(definition.statistics(table), definition.metrics)
    shared = {
        n: m.value.item() for n, m in measured.items() if n.startswith("stereotype_share_shared")
    }
    assert shared == pytest.approx(
        {
            "stereotype_share_shared": 62.5,
            "stereotype_share_shared_stereo": 50,
            "stereotype_share_shared_antistereo": 100,
            "stereotype_share_shared_age": 50,
            "stereotype_share_shared_gender": 75,
        }
    )
    assert measured["stereotype_share"].value.item() == 50
    assert set(definition.headline) <= set(measured)

    table["comparable_shared"] = [False, False, True, True]
    measured = point(definition.statistics(table), definition.metrics)
    shared = {n: m for n, m in measured.items() if n.startswith("stereotype_share_shared")}
    assert {name.removeprefix("stereotype_share_shared") for name in shared} == {
        *("", "_stereo", "_gender"),
    }
    assert {(m.value.item(), m.n.item()) for m in shared.values()} == {(75, 2)}
    assert measured["stereotype_share"].n.item() == 4
    table["comparable_shared"] = False
    measured = point(definition.statistics(table), definition.metrics)
    assert not [name for name in measured if "shared" in name]


# --- with a model and the authors' pairs ---------------------------------------------------------


def token_logprobs(model, text):
    """Log-probability of each token of a text in one forward pass, and where it ends."""
    tokens = model.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    ids = [model.tokenizer.bos_token_id, *tokens["input_ids"]]
    logprobs = model(torch.tensor([ids]), return_type="logits")[0].log_softmax(-1)
    picked = [logprobs[k, token].item() for k, token in enumerate(ids[1:])]
    return picked, [end for _, end in tokens["offset_mapping"]]


def test_a_models_tokens_in_the_shared_words_are_summed(llama):
    table = items(PAIRS["middle"], PAIRS["two spans"], PAIRS["insertion"])
    benchmark = Benchmark(
        name="crows_pairs",
        protocol="original",
        source="here",
        items=table,
        requests=tuple(crows_pairs.requests(table, "original")),
        groups=crows_pairs.GROUPS,
        tabulate=lambda rows, scores: crows_pairs.tabulate(rows, scores, "original"),
        formulas=crows_pairs.FORMULAS["original"],
    )
    result = evaluate(llama, benchmark, progress=False, n_bootstrap=20)
    shared = {  # characters of the shared words in each sentence
        "sent_more": [[(0, 2), (14, 25)], [(0, 3), (7, 12), (16, 28)], [(0, 3), (12, 21)]],
        "sent_less": [[(0, 2), (14, 25)], [(0, 3), (9, 14), (18, 30)], [(0, 12)]],
    }
    for column, name in (("sent_more", "more"), ("sent_less", "less")):
        for row, (text, spans) in enumerate(zip(table[column], shared[column], strict=True)):
            logprobs, ends = token_logprobs(llama, text)
            inside = [any(a < end <= b for a, b in spans) for end in ends]
            expected = sum(p for p, ok in zip(logprobs, inside, strict=True) if ok)
            assert result.items[f"logprob_{name}_shared"][row] == pytest.approx(expected, abs=1e-3)
            assert result.items[f"tokens_{name}_shared"][row] == sum(inside)
            assert result.items[f"logprob_{name}"][row] == pytest.approx(sum(logprobs), abs=1e-3)
    assert recompute(result) == result.metrics


def test_every_pair_shares_words_and_borders_are_token_borders(data_dir):
    benchmark = load_benchmark("crows_pairs", data_dir=data_dir)
    tokenizer = tiny_tokenizer()
    for request in benchmark.requests[::10]:
        more, less = shared_beginnings(*request.options[:2])
        assert more
        assert less
        for sentence, beginnings in zip(request.options, (more, less), strict=False):
            sentence_ids = tokenizer(sentence)["input_ids"]
            for text in beginnings:
                ids = tokenizer(text)["input_ids"]
                assert sentence.startswith(text)
                assert sentence_ids[: len(ids)] == ids
