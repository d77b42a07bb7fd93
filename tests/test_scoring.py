"""Scores of options: the same as one plain forward pass each, whatever the batch and order."""

import numpy as np
import pytest
import torch
from tiny_models import BOS, FAMILIES, N_CTX, tiny_bridge

from kb_lens.benchmarks import Request
from kb_lens.scoring import option_logprobs

PROMPT = "The schoolgirl is walking"
REQUESTS = [
    Request("", ("The chess player was tall.", "He was good.", "A city")),
    Request(PROMPT, (" down the street.", " home", " and running and running")),
    Request("Is it bias?", (" yes", " no")),
    Request("Is it bias? ", ("yes", "no")),
    Request("", ("The chess player was tall.",)),
]


def plain(model, before, option):
    """Log-probability of the option's tokens after the tokens before it, in one forward pass."""
    option = model.tokenizer(option, add_special_tokens=False)["input_ids"]
    logits = model(torch.tensor([before + option]), return_type="logits")[0]
    logprobs = logits.log_softmax(-1)[len(before) - 1 : -1]
    return sum(logprobs[k, token].item() for k, token in enumerate(option)), len(option)


def score(model, requests, **options):
    return option_logprobs(model, requests, progress=False, **options)


@pytest.mark.parametrize("family", FAMILIES)
def test_batches_equal_one_forward_pass_an_option(family):
    model = tiny_bridge(family)
    scores = score(model, REQUESTS, batch_tokens=64)
    bos = model.tokenizer.bos_token_id
    for request, logprobs, tokens in zip(REQUESTS, scores.logprob, scores.tokens, strict=True):
        bare = request.prompt.rstrip()
        before = model.tokenizer(bare, add_special_tokens=False)["input_ids"] if bare else [bos]
        for k, option in enumerate(request.options):
            expected = plain(model, before, request.prompt[len(bare) :] + option)
            assert logprobs[k] == pytest.approx(expected[0], abs=1e-4)
            assert tokens[k] == expected[1]


def test_order_and_batch_size_do_not_matter(llama):
    whole = score(llama, REQUESTS, batch_tokens=4096)
    for order in ([4, 3, 2, 1, 0], [2, 0, 4, 1, 3]):
        other = score(llama, [REQUESTS[k] for k in order], batch_tokens=1)
        np.testing.assert_allclose(other.logprob, whole.logprob[order], atol=1e-4)
        np.testing.assert_array_equal(other.tokens, whole.tokens[order])


def test_missing_options_are_nan_and_have_no_tokens(llama):
    scores = score(llama, REQUESTS)
    assert scores.logprob.shape == scores.tokens.shape == (5, 3)
    np.testing.assert_array_equal(np.isnan(scores.logprob), scores.tokens == 0)
    assert np.isnan(scores.logprob).sum(axis=1).tolist() == [0, 0, 1, 1, 2]


def test_spaces_at_the_end_of_the_prompt_belong_to_the_option(llama):
    scores = score(llama, REQUESTS)
    np.testing.assert_array_equal(scores.logprob[2], scores.logprob[3])


def test_equal_sequences_are_computed_once_and_equal(llama):
    rows = []

    def count(value, hook):
        rows.append(len(value))

    with llama.hooks(fwd_hooks=[("blocks.0.hook_in", count)]):
        scores = score(llama, REQUESTS)
    assert sum(rows) == 8  # 11 options; "yes" and "no" and one sentence appear twice
    assert scores.logprob[0, 0] == scores.logprob[4, 0]


def test_attached_hooks_change_the_scores_and_leave_no_trace(llama):
    base = score(llama, REQUESTS)
    with llama.hooks(fwd_hooks=[("blocks.1.mlp.hook_post", lambda value, hook: value * 3)]):
        scaled = score(llama, REQUESTS)
    assert np.nanmax(np.abs(scaled.logprob - base.logprob)) > 0.01
    np.testing.assert_array_equal(score(llama, REQUESTS).logprob, base.logprob)


def test_gradients_work_after_scoring():
    model = tiny_bridge("gemma2")
    score(model, REQUESTS)
    caught = []

    def leaf(value, hook):
        caught.append(value.detach().requires_grad_())
        return caught[0]

    tokens = torch.tensor([model.tokenizer(PROMPT)["input_ids"]])
    hooks = [("blocks.0.mlp.hook_post", leaf)]
    model.run_with_hooks(tokens, return_type="logits", fwd_hooks=hooks)[0, -1, 0].backward()
    assert caught[0].grad.abs().sum() > 0


def test_bos_where_the_tokenizer_adds_it():
    model = tiny_bridge("llama", add_bos=True)
    bos = [model.tokenizer.bos_token_id]
    prompt = model.tokenizer(PROMPT, add_special_tokens=False)["input_ids"]
    scores = score(model, [Request(PROMPT, (" home",)), Request(BOS + PROMPT, (" home",))])
    expected, tokens = plain(model, bos + prompt, " home")
    assert scores.logprob[:, 0] == pytest.approx(expected, abs=1e-4)
    assert scores.tokens[:, 0].tolist() == [tokens, tokens]
    empty = score(model, [Request("", ("He was good.",))]).logprob[0, 0]
    assert empty == pytest.approx(plain(model, bos, "He was good.")[0], abs=1e-4)


def test_an_empty_prompt_is_eos_where_there_is_no_bos():
    model = tiny_bridge("llama")
    model.tokenizer.bos_token = None
    found = score(model, [Request("", ("He was good.",))]).logprob[0, 0]
    eos = model.tokenizer.eos_token_id
    assert found == pytest.approx(plain(model, [eos], "He was good.")[0], abs=1e-4)
    model.tokenizer.eos_token = None
    with pytest.raises(ValueError, match="BOS or EOS"):
        score(model, [Request("", ("He was good.",))])


def test_a_text_that_begins_with_bos_gets_no_second_one(llama):
    scores = score(llama, [Request("", ("He was good.", BOS + "He was good."))])
    assert scores.logprob[0, 0] == scores.logprob[0, 1]
    assert scores.tokens[0, 0] == scores.tokens[0, 1]


@pytest.mark.parametrize("request_", [Request("Is it?", ("",)), Request("", ("", " no"))])
def test_an_option_without_tokens_is_an_error(llama, request_):
    with pytest.raises(ValueError, match="item 1: the option '' has no token"):
        score(llama, [REQUESTS[0], request_])


def test_a_text_longer_than_the_context_is_an_error(llama):
    with pytest.raises(ValueError, match=rf"item 1 has \d+ tokens .* context is {N_CTX}"):
        score(llama, [REQUESTS[0], Request("", ("z" * (N_CTX + 5),))])


def test_a_score_that_is_not_finite_is_an_error(llama):
    hooks = [("blocks.1.mlp.hook_post", lambda value, hook: value * float("nan"))]
    with llama.hooks(fwd_hooks=hooks), pytest.raises(ValueError, match="not finite"):
        score(llama, REQUESTS)


def test_nothing_to_score_is_an_error(llama):
    with pytest.raises(ValueError, match="got no requests"):
        score(llama, [])
    with pytest.raises(ValueError, match="batch_tokens must be at least 1"):
        score(llama, REQUESTS, batch_tokens=0)
    with pytest.raises(ValueError, match="at least one option"):
        Request("prompt", ())
