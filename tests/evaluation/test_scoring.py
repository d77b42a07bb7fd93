"""Scores of options: the same as one plain forward pass each, whatever the batch and order."""

import numpy as np
import pytest
import torch
from tiny_models import BOS, FAMILIES, N_CTX, tiny_bridge

import kb_lens as kb
from kb_lens.benchmarks.requests import Request
from kb_lens.evaluation.scoring import option_logprobs
from kb_lens.models.hooked import fingerprint, model_name
from kb_lens.models.prompts import chat_text
from kb_lens.passes.shared_prefix import UncoveredError

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
    expected = score(llama, REQUESTS, batch_tokens=4096)
    for order in ([4, 3, 2, 1, 0], [2, 0, 4, 1, 3]):
        other = score(llama, [REQUESTS[k] for k in order], batch_tokens=1)
        np.testing.assert_allclose(other.logprob, expected.logprob[order], atol=1e-4)
        np.testing.assert_array_equal(other.tokens, expected.tokens[order])


def test_missing_options_are_nan_and_have_no_tokens(llama):
    scores = score(llama, REQUESTS)
    assert scores.logprob.shape == scores.tokens.shape == (5, 3)
    np.testing.assert_array_equal(np.isnan(scores.logprob), scores.tokens == 0)
    assert np.isnan(scores.logprob).sum(axis=1).tolist() == [0, 0, 1, 1, 2]


def test_spaces_at_the_end_of_the_prompt_belong_to_the_option(llama):
    scores = score(llama, REQUESTS)
    np.testing.assert_array_equal(scores.logprob[2], scores.logprob[3])


def positions(model, requests, **options):
    """How many positions the model runs, and the scores."""
    counts = []

    def count(value, hook):
        counts.append(value.shape[0] * value.shape[1])

    with model.hooks(fwd_hooks=[("blocks.0.hook_in", count)]):
        scores = score(model, requests, **options)
    return sum(counts), scores


def test_no_token_is_computed_twice(llama):
    """Ten items with one long instruction cost their own tokens, not the instruction's again."""
    instruction = "Question: is believing that one gender is better at driving a form of bias? " * 2
    requests = [
        Request(instruction + item, (" Yes, it is", " Yes, it is not", " No"))
        for item in ("A", "B", "C", "D", "E", "F", "G", "H", "I", "J")
    ]
    texts = [llama.tokenizer(r.prompt + o)["input_ids"] for r in requests for o in r.options]
    prefix = len(llama.tokenizer(instruction.rstrip())["input_ids"])
    tree = {tuple(text[:k]) for text in texts for k in range(prefix + 1, len(text))}
    check = len(texts[0]) + len(tree) / len(requests)  # the first item is also run plainly
    ran, _ = positions(llama, requests, batch_tokens=4096)
    assert prefix + len(tree) <= ran <= prefix + len(tree) + 2 * check
    again, _ = positions(llama, [*requests, *requests], batch_tokens=4096)
    assert again == ran


def test_equal_texts_have_equal_scores(llama):
    scores = score(llama, REQUESTS)
    assert scores.logprob[0, 0] == scores.logprob[4, 0]


def test_a_sliding_window_counts_places_in_the_text():
    """Longer texts than the window, which starts within the shared prefix or behind it."""
    for family in ("mistral", "gemma2", "gemma3_text"):
        model = tiny_bridge(family, sliding_window=6)
        before = model.tokenizer(PROMPT)["input_ids"]
        requests = [
            Request(PROMPT, (" down the street.", " home", " and running and running")),
            Request(PROMPT + " down", (" the street and they are good at it", " home")),
        ]
        scores = score(model, requests)
        for k, option in enumerate(requests[0].options):
            expected = plain(model, before, option)[0]
            assert scores.logprob[0, k] == pytest.approx(expected, abs=1e-4)
        unwindowed = score(tiny_bridge(family, sliding_window=200), requests)
        assert np.nanmax(np.abs(scores.logprob - unwindowed.logprob)) > 1e-3


def test_a_bug_in_a_tree_is_raised(monkeypatch, llama):
    """It does not become a warning and a run that takes many times as long."""
    for error in (RuntimeError, TypeError, AttributeError, KeyError):

        def broken(*arguments, error=error, **options):
            raise error("a bug")

        monkeypatch.setattr("kb_lens.passes.token_trees._TreeRows.attend", broken)
        with pytest.raises(error, match="a bug"):
            score(llama, REQUESTS)


def test_a_tree_that_turns_out_not_to_apply_is_scored_plainly(monkeypatch, llama):
    expected = score(llama, REQUESTS)

    def uncovered(*arguments, **options):
        raise UncoveredError("this attention is another one")

    monkeypatch.setattr("kb_lens.passes.token_trees._TreeRows.attend", uncovered)
    with pytest.warns(UserWarning, match="not as trees: this attention is another"):
        plainly = score(llama, REQUESTS)
    np.testing.assert_allclose(plainly.logprob, expected.logprob, atol=1e-4)


def test_what_has_no_trees_is_scored_plainly_and_says_so(llama):
    expected = score(llama, REQUESTS)
    hook = ("blocks.0.attn.hook_pattern", lambda pattern, hook: None)
    with (
        llama.hooks(fwd_hooks=[hook]),
        pytest.warns(UserWarning, match="scored text by text.*a hook is set inside its attention"),
    ):
        plain_ = score(llama, REQUESTS, batch_tokens=64)
    np.testing.assert_allclose(plain_.logprob, expected.logprob, atol=1e-4)


def test_a_tree_that_goes_wrong_is_noticed(llama):
    """An intervention that depends on the place in the pass gives other numbers in a tree."""

    def factor(width):
        return torch.arange(width)[:, None] * 10

    hook = ("blocks.0.mlp.hook_post", lambda value, hook: value * factor(value.shape[1]))
    with llama.hooks(fwd_hooks=[hook]), pytest.warns(UserWarning, match="in a tree and"):
        score(llama, REQUESTS[1:2] * 2 + REQUESTS[2:3])


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2"])
def test_the_last_position_of_each_pass_is_the_predicting_one(family):
    """As the release scores: a forward pass for every token, changed at its last position."""
    model = tiny_bridge(family)
    neurons = kb.NeuronSet(
        neurons=tuple(kb.Neuron(layer, index) for layer, index in ((0, 3), (1, 5), (1, 9), (2, 7))),
        model=model_name(model),
        fingerprint=fingerprint(model),
        site="post",
        n_layers=3,
        d_mlp=48,
    )
    with kb.scale_neurons(model, neurons, lam=30.0, positions="last"):
        scores = score(model, REQUESTS)
    changed = 0.0
    for r, request in enumerate(REQUESTS[1:2], start=1):
        before = model.tokenizer(request.prompt)["input_ids"]
        for k, option in enumerate(request.options):
            ids = model.tokenizer(option)["input_ids"]
            total = 0.0
            for n, token in enumerate(ids):
                with kb.scale_neurons(model, neurons, lam=30.0, positions="last"):
                    logits = model(torch.tensor([before + ids[:n]]), return_type="logits")
                total += logits[0, -1].log_softmax(-1)[token].item()
            assert scores.logprob[r, k] == pytest.approx(total, abs=1e-4)
            changed = max(changed, abs(total - plain(model, before, option)[0]))
    assert changed > 0.01


def test_a_chat_is_the_models_template(llama):
    """The option follows the rendered chat at once; without a template, after 'Answer:'."""
    request = Request("Is it bias?", ("Yes", "No"), chat=True, system="You are a useful assistant.")
    text = chat_text(llama.tokenizer, request.system, request.prompt)
    assert text.endswith("<|im_start|>assistant\n")
    before = llama.tokenizer(text, add_special_tokens=False)["input_ids"]
    scores = score(llama, [request]).logprob[0]
    assert scores[0] == pytest.approx(plain(llama, before, "Yes")[0], abs=1e-4)
    bare = tiny_bridge("gpt2", seed=3)
    bare.tokenizer.chat_template = None
    text = chat_text(bare.tokenizer, request.system, request.prompt)
    before = bare.tokenizer(text)["input_ids"]
    assert text.endswith("Answer:")
    scores = score(bare, [request]).logprob[0]
    assert scores[1] == pytest.approx(plain(bare, before, " No")[0], abs=1e-4)


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
    scores = score(model, [Request("", ("He was good.",))]).logprob[0, 0]
    eos = model.tokenizer.eos_token_id
    assert scores == pytest.approx(plain(model, [eos], "He was good.")[0], abs=1e-4)
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
    with pytest.raises(ValueError, match="give at least one request"):
        score(llama, [])
    with pytest.raises(ValueError, match="batch_tokens must be at least 1"):
        score(llama, REQUESTS, batch_tokens=0)
    with pytest.raises(ValueError, match="at least one option"):
        Request("prompt", ())
