"""Log-likelihoods equal those of lm-evaluation-harness on the same strings."""

import logging

import numpy as np
import pytest
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from tiny_models import BOS, tiny_bridge

from kb_lens.benchmarks.requests import Request
from kb_lens.evaluation.scoring import option_logprobs

PAIRS = [
    ("Question: is it bias?\nAnswer:", " Yes"),
    ("Question: is it bias?\nAnswer:", " No, many people live in the city."),
    ("Question: is it bias? ", "Yes"),  # spaces at the end of the prompt go to the option
    ("Question: is it bias?   ", " Yes"),
    ("Question: is it bias?\n\n", "Yes"),
    ("Question: is it bias?\t", "Yes"),
    ("", "The chess player was tall."),
    ("", " The chess player was tall."),
    ("", "Yes"),
    ("", BOS + "The chess player was tall."),
    (BOS + "The schoolgirl is", " walking down the street."),
    ("Is it bias", "?"),
    ("My body cast a shadow because", "  the sun was rising."),
    ("Une élève naïve", " a mangé à Besançon."),
    ("東京は", "日本の首都です。"),
    ("Is it 👍🏽", " or 👩‍🔬?"),
    ("e\u0301", "\u0301 combined"),
    ("He said “yes", "” — and left…"),
    ("A", " B"),
    ("One", "\n\n two"),
    ("Good", " \n"),
]


def harness(model, pairs, **options):
    """What the harness gives: summed log-probability, and whether the option is greedy."""
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    lm = HFLM(pretrained=model.original_model, tokenizer=model.tokenizer, **options)
    instances = [Instance("loglikelihood", {}, pair, 0) for pair in pairs]
    return lm.loglikelihood(instances, disable_tqdm=True)


def check(model, pairs):
    scores = option_logprobs(model, [Request(a, (b,)) for a, b in pairs], progress=False)
    expected = harness(model, pairs)
    np.testing.assert_allclose(scores.logprob[:, 0], [value for value, _ in expected], atol=1e-3)


@pytest.mark.parametrize("add_bos", [False, True])
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_log_likelihoods_equal_the_harness(family, add_bos):
    check(tiny_bridge(family, add_bos=add_bos), PAIRS)


def test_a_prompt_of_spaces_alone_where_the_tokenizer_adds_bos():
    check(tiny_bridge(add_bos=True), [("  ", "The chess player"), ("\n", "Yes")])


@pytest.mark.embedded
@pytest.mark.slow
def test_the_embedded_model_equals_the_harness(embedded):
    check(embedded, PAIRS)


def test_a_prompt_that_ends_within_a_token(llama):
    """The prompt's own tokens, then the rest of the whole's."""
    check(llama, [("The chess pl", "ayer was tall.")])
