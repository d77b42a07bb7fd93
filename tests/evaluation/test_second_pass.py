"""Probabilities set against those behind another text: by the formula, in scoring and writing."""

import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_models import N_CTX, tiny_bridge

import kb_lens as kb
from kb_lens.benchmarks.benchmark import Benchmark
from kb_lens.benchmarks.requests import SYSTEM, Against, Excerpt, Request
from kb_lens.evaluation import slices
from kb_lens.evaluation.generation import greedy_texts
from kb_lens.evaluation.scoring import option_logprobs
from kb_lens.evaluation.second_pass import debiased
from kb_lens.models.chat import chat_text
from kb_lens.models.hooked import fingerprint, model_name
from kb_lens.statistics import Formulas

TEXTS = ("The following people are good:\n", "The girl is bad at chess:\n")
WHOLE = Request("", ("The chess player was tall.", "He was good."))
BEHIND = Request("The schoolgirl is walking", (" down the street.", " home"))
CHAT = Request("Is it bias?", ("Yes", "No"), chat=True)
AGAINST = Against(TEXTS, 30.0)


def tokens(model, text):
    return model.tokenizer(text, add_special_tokens=False)["input_ids"]


def prompts(model, request, texts):
    """The tokens before an option, in the first pass and behind each text."""
    if request.chat:
        users = [text + request.prompt for text in ("", *texts)]
        return [tokens(model, chat_text(model.tokenizer, SYSTEM, user)) for user in users]
    before = tokens(model, request.prompt)
    start = [] if before else [model.tokenizer.bos_token_id]
    return [[*start, *tokens(model, text), *before] for text in ("", *texts)]


def distribution(model, ids):
    return model(torch.tensor([ids]), return_type="logits")[0, -1].softmax(-1).tolist()


def held_down(model, befores, written, against):
    """The next token's probabilities, word by word as the paper writes them."""
    p, *others = [distribution(model, [*before, *written]) for before in befores]
    weights = []
    for token, probability in enumerate(p):
        difference = min(probability - other[token] for other in others)
        alpha = 1.0 if difference >= 0 else math.exp(against.decay * difference)
        weights.append(max(alpha, against.floor) * probability)
    return [weight / sum(weights) for weight in weights]


def slow(model, befores, option, against):
    """The log-probability of each of the option's tokens, a forward pass a token and text."""
    return [
        math.log(held_down(model, befores, option[:k], against)[token])
        for k, token in enumerate(option)
    ]


def score(model, requests, **options):
    return option_logprobs(model, requests, progress=False, **options).logprob


def twice(request, against=AGAINST):
    return replace(request, against=against)


def check(model, requests, against=AGAINST):
    scores = score(model, [twice(request, against) for request in requests], batch_tokens=256)
    for request, row in zip(requests, scores, strict=True):
        befores = prompts(model, request, against.texts)
        for option, logprob in zip(request.options, row, strict=True):
            expected = sum(slow(model, befores, tokens(model, option), against))
            assert logprob == pytest.approx(expected, abs=2e-4)


# --- the formula -------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2"])
def test_scores_follow_the_formula(family):
    check(tiny_bridge(family), [WHOLE, BEHIND, CHAT])


@pytest.mark.parametrize(
    "against", [Against(TEXTS[:1], 5.0), Against(TEXTS[1:], 50.0, floor=0.3), Against(TEXTS, 0.5)]
)
def test_every_setting_follows_the_formula(llama, against):
    check(llama, [WHOLE, BEHIND], against)


@given(
    st.lists(st.lists(st.floats(-9, 9), min_size=5, max_size=5), min_size=2, max_size=4),
    st.floats(0, 100),
    st.floats(0, 1),
)
def test_the_more_a_token_gains_behind_a_text_the_more_it_loses(logits, decay, floor):
    first, *others = torch.tensor(logits)[:, None]
    after = debiased(first, others, Against(("a",), decay, floor))[0]
    assert float(after.exp().sum()) == pytest.approx(1, abs=1e-4)
    gain = torch.stack([other.softmax(-1) for other in others]).amax(0)[0] - first.softmax(-1)[0]
    change = after - first.log_softmax(-1)[0]  # log alpha, less what all are divided by
    ordered = change[gain.argsort()]
    assert bool((ordered.diff() <= 1e-3).all())
    assert float(change.max()) >= -1e-4, "what is left is shared out again"
    # alpha is 1 where nothing is gained: there the change is the common divisor alone.
    kept, lost = change[gain <= 0], change[gain * decay > 0.01]
    assert not len(kept) or float(kept.max() - kept.min()) < 1e-3
    assert not len(kept) or floor > 0.99 or bool((lost < kept.min()).all())
    assert not floor or float(change.max() - change.min()) <= -math.log(floor) + 1e-3


def test_without_decay_nothing_changes(llama):
    requests = [WHOLE, BEHIND, CHAT]
    unchanged = score(llama, [twice(request, Against(TEXTS, 0.0)) for request in requests])
    np.testing.assert_allclose(unchanged, score(llama, requests), atol=1e-4)


def test_each_text_has_its_say(llama):
    """Scores change with the text, and neither of two is the other one's."""
    texts = [TEXTS, TEXTS[:1], TEXTS[1:]]
    scores = [score(llama, [WHOLE, BEHIND, CHAT])]
    scores += [
        score(llama, [twice(r, Against(text, 50.0)) for r in (WHOLE, BEHIND, CHAT)])
        for text in texts
    ]
    for k, one in enumerate(scores):
        for other in scores[:k]:
            assert np.abs(one - other).max(axis=1).min() > 1e-3
    turned = score(llama, [twice(WHOLE, Against(TEXTS[::-1], 50.0))])
    np.testing.assert_allclose(turned[0], scores[1][0], atol=1e-5)


# --- scoring -----------------------------------------------------------------------------------


def test_order_and_batches_do_not_matter(llama):
    mixed = [twice(WHOLE), BEHIND, twice(CHAT), WHOLE, twice(BEHIND, Against(TEXTS[:1], 9.0))]
    expected = np.vstack([score(llama, [request]) for request in mixed])
    for batch_tokens in (1, 4096):
        np.testing.assert_allclose(
            score(llama, mixed, batch_tokens=batch_tokens), expected, atol=1e-4
        )
        backwards = score(llama, mixed[::-1], batch_tokens=batch_tokens)
        np.testing.assert_allclose(backwards[::-1], expected, atol=1e-4)


@pytest.mark.parametrize("add_bos", [False, True])
def test_texts_without_a_start_and_words_of_texts(add_bos):
    model = tiny_bridge("llama", add_bos=add_bos)
    text = "The chess player was tall."
    words = Excerpt((((3, 9),),))
    request = Request("", (text,), unstarted=True, excerpts=(words,))
    whole, unstarted, excerpt = score(model, [twice(request)])[0]
    ids, bos = tokens(model, text), model.tokenizer.bos_token_id
    texts = [tokens(model, t) for t in TEXTS]
    each = slow(model, [[bos], *([bos, *t] for t in texts)], ids, AGAINST)
    assert whole == pytest.approx(sum(each), abs=2e-4)
    bare = slow(model, [ids[:1], *([*t, *ids[:1]] for t in texts)], ids[1:], AGAINST)
    expected = sum(each) if add_bos else each[0] + sum(bare)
    assert unstarted == pytest.approx(expected, abs=2e-4)
    ends = model.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    inside = [k for k, (a, b) in enumerate(ends["offset_mapping"]) if a >= 3 and b <= 9]
    assert inside
    assert excerpt == pytest.approx(sum(each[k] for k in inside), abs=2e-4)


def test_hooks_fire_in_both_passes(llama):
    plain = score(llama, [twice(BEHIND)])
    with llama.hooks(fwd_hooks=[("blocks.1.mlp.hook_post", lambda value, hook: value * -3)]):
        check(llama, [BEHIND])  # by passes in all of which they fire
        changed = score(llama, [twice(BEHIND)])
        request = Request("The schoolgirl is walking", write=4, against=Against(TEXTS, 300.0))
        assert greedy_texts(llama, [request])[0] == written_slowly(llama, request)
    assert np.abs(changed - plain).max() > 1e-2


@pytest.mark.parametrize("positions", ["all", "last"])
def test_scaled_neurons_act_in_both_passes(llama, positions):
    neurons = kb.NeuronSet(
        neurons=(kb.Neuron(0, 1), kb.Neuron(1, 3), kb.Neuron(2, 7)),
        model=model_name(llama),
        fingerprint=fingerprint(llama),
        site="post",
        n_layers=llama.cfg.n_layers,
        d_mlp=llama.cfg.d_mlp,
    )
    plain = score(llama, [twice(BEHIND)])
    with kb.scale_neurons(llama, neurons, lam=30, positions=positions):
        check(llama, [WHOLE, BEHIND])
        changed = score(llama, [twice(BEHIND)])
    assert np.abs(changed - plain).max() > 1e-3


# --- writing -----------------------------------------------------------------------------------


def written_slowly(model, request):
    befores, written = prompts(model, request, request.against.texts), []
    for _ in range(request.write):
        p = held_down(model, befores, written, request.against)
        token = max(range(len(p)), key=p.__getitem__)
        if token == model.tokenizer.eos_token_id:
            break
        written.append(token)
    return model.tokenizer.decode(written, skip_special_tokens=True)


@pytest.mark.slow
@pytest.mark.parametrize("family", ["llama", "gpt2"])
@pytest.mark.parametrize("batch_tokens", [1, 4096])
def test_what_is_written_is_the_likeliest_after_the_second_pass(family, batch_tokens):
    model = tiny_bridge(family)
    plain = [
        Request(prompt, write=6, chat=chat)
        for prompt in ("The schoolgirl is walking", "Is it bias?", "Many people live in the city")
        for chat in (False, True)
    ]
    asked = [*(twice(request, Against(TEXTS, 300.0)) for request in plain), *plain]
    written = greedy_texts(model, asked, batch_tokens=batch_tokens)
    for request, text in zip(asked[: len(plain)], written, strict=False):
        assert text == written_slowly(model, request)
    assert written[: len(plain)] != written[len(plain) :]
    assert written[len(plain) :] == greedy_texts(model, plain)


# --- what keeps it apart -----------------------------------------------------------------------


def made_up(*requests):
    items = pd.DataFrame({"item": [f"item {k}" for k in range(len(requests))]})
    formulas = Formulas(lambda table: None, lambda statistics: {}, None, (), {})
    return Benchmark(
        *("made_up", "original", "here", items, requests, ()), lambda items, scores: items, formulas
    )


def test_slices_are_named_by_the_second_pass(llama):
    settings = [
        None,
        AGAINST,
        Against(TEXTS[:1], 30.0),
        Against(TEXTS, 31.0),
        Against(TEXTS, 30.0, 0.1),
    ]
    benchmarks = [made_up(twice(WHOLE, against)) for against in settings]
    keys = [piece.key(llama) for b in benchmarks for piece in slices._slices(llama, b)]
    assert len(set(keys)) == len(settings)
    assert benchmarks[0].digest == made_up(WHOLE).digest


def test_what_is_refused(llama):
    long = Against(("z" * N_CTX,), 1.0)
    with pytest.raises(ValueError, match=rf"item 0 has \d+ tokens in its second pass.* {N_CTX}"):
        score(llama, [twice(WHOLE, long)])
    with pytest.raises(ValueError, match="leaves no room for 3 more"):
        greedy_texts(llama, [Request("She", write=3, against=long)])
    for settings, message in [
        (((), 1.0), "at least one text"),
        (("", 1.0), "at least one text"),
        ((("",), 1.0), "none of them empty"),
        ((TEXTS, -1.0), "decay is -1.0: allowed is a finite number from 0"),
        ((TEXTS, math.inf), "allowed is a finite number"),
        ((TEXTS, 1.0, 1.5), "floor is 1.5: allowed is a number from 0 to 1"),
    ]:
        with pytest.raises(ValueError, match=message):
            unchecked(*settings)


def unchecked(*settings):
    """Plain data: a type checker would speak up before kb_lens does."""
    against = object.__new__(Against)
    getattr(Against.__init__, "__wrapped__", Against.__init__)(against, *settings)
