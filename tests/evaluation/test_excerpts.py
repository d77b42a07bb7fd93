"""Words of a text that are scored by themselves, and texts without a start token."""

import random
from functools import partial
from itertools import pairwise

import numpy as np
import pytest
import torch
from other_tokenizers import (
    AcrossSpaces,
    byte_tokenizer,
    llama_2_tokenizer,
    phrase_tokenizer,
)
from tiny_models import tiny_bridge, tiny_tokenizer

from kb_lens.benchmarks.requests import Excerpt, Request
from kb_lens.evaluation.encoding import encode
from kb_lens.evaluation.excerpts import as_whole_texts, excerpt_tokens, token_spans
from kb_lens.evaluation.scoring import option_logprobs
from kb_lens.interventions.scaling import scale_neurons
from kb_lens.models.hooked import fingerprint, model_name
from kb_lens.neurons.names import Neuron
from kb_lens.neurons.sets import NeuronSet

MORE, LESS = "The old man ran home.", "The man ran home."
SHARED = Excerpt((((0, 3), (7, 11), (11, 15), (15, 21)), ((0, 3), (3, 7), (7, 11), (11, 17))), True)
OLD = Excerpt((((3, 7),), ()))


def score(model, *requests):
    return option_logprobs(model, list(requests), progress=False)


def take(model, tokenizer):
    """Give a bridge another tokenizer; without the entry it would load one with BOS instead."""
    tokenizer.init_kwargs["add_bos_token"] = True
    model.tokenizer = tokenizer
    return model


def logprobs(model, ids):
    """Log-probability of each token but the first, in one plain forward pass."""
    table = model(torch.tensor([ids]), return_type="logits")[0].log_softmax(-1)
    return [table[k, token].item() for k, token in enumerate(ids[1:])]


def following(model, before, token):
    """Log-probability of a token behind others, the last of which predicts it."""
    return model(torch.tensor([before]), return_type="logits")[0, -1].log_softmax(-1)[token].item()


# --- which tokens --------------------------------------------------------------------------------


def spans_of(text, cuts):
    ends = [0, *cuts, len(text)]
    return list(pairwise(ends))


def test_a_token_in_two_words_is_of_neither_and_in_no_option():
    apart = spans_of(LESS, (3, 7, 11))
    together = spans_of(MORE, (3, 11, 15))  # " old man"
    assert excerpt_tokens(SHARED, (MORE, LESS), (together, apart)) == [[0, 2, 3], [0, 2, 3]]
    assert excerpt_tokens(OLD, (MORE, LESS), (together, apart)) == [[], []]
    assert excerpt_tokens(OLD, (MORE, LESS), (spans_of(MORE, (3, 7)), apart)) == [[1], []]


def test_a_token_in_two_shared_words_is_shared():
    """As long as nothing that it touches is lost in the other option."""
    both = spans_of(LESS, (3, 11))
    apart = spans_of(MORE, (3, 7, 11, 15))
    assert excerpt_tokens(SHARED, (MORE, LESS), (apart, both)) == [[0, 2, 3, 4], [0, 1, 2]]
    across = spans_of(MORE, (3, 11, 15))  # " old man": " man ran" is lost with it
    assert excerpt_tokens(SHARED, (MORE, LESS), (across, both)) == [[0, 3], [0, 2]]


def test_spaces_are_of_no_word_and_a_token_of_nothing_else_is_of_the_next():
    text = "a  b"
    excerpt = Excerpt((((1, 4),),))
    assert excerpt_tokens(excerpt, (text,), (spans_of(text, (1,)),)) == [[1]]
    assert excerpt_tokens(excerpt, (text,), (spans_of(text, (1, 2, 3)),)) == [[1, 2, 3]]
    assert excerpt_tokens(excerpt, (text,), (spans_of(text, (2, 3)),)) == [[1, 2]]  # "a " is a's
    no_letter = [(0, 0), (0, 1), (1, 4)]  # the mark of a beginning, where a space is put
    assert excerpt_tokens(excerpt, (text,), (no_letter,)) == [[2]]


@pytest.mark.parametrize("seed", range(40))
def test_aligned_words_count_in_both_options_or_in_none(seed):
    draw = random.Random(seed)
    numbers = draw.sample(range(10), 5)
    texts, words = [], []
    for _ in range(2):
        text, spans = "", []
        for number in numbers:
            text += " zz" * draw.randint(0, 1)
            start = len(text)
            text += f" w{number}"
            spans.append((start, len(text)))
        texts.append(text)
        words.append(tuple(spans))
    tokens = [spans_of(t, sorted(draw.sample(range(1, len(t)), len(t) // 2))) for t in texts]
    chosen = excerpt_tokens(Excerpt(tuple(words), aligned=True), texts, tokens)
    counted = []
    for text, spans, ends, kept in zip(texts, words, tokens, chosen, strict=True):
        letters = {k for t in kept for k in range(*ends[t]) if text[k] != " "}
        inside = {k for n, span in enumerate(spans) for k in range(*span) if text[k] != " "}
        assert letters <= inside
        whole = {n for n, span in enumerate(spans) if letters & set(range(*span))}
        assert letters == {k for n in whole for k in range(*spans[n]) if text[k] != " "}
        counted.append(whole)
    assert counted[0] == counted[1]


# --- where tokens stand --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "tokenizer",
    [tiny_tokenizer(), llama_2_tokenizer(), phrase_tokenizer([MORE, LESS] * 9), byte_tokenizer()],
    ids=["bytes of words", "Llama 2", "across spaces", "slow"],
)
def test_tokens_in_the_words_spell_them(tokenizer):
    """Decoded, the tokens of the word that differs are that word, or none where one runs over."""
    request = Request("", (MORE, LESS), excerpts=(SHARED, OLD))
    spans = token_spans(tokenizer, [request])
    tokens = [spans[text] for text in request.options]
    (old, nothing) = excerpt_tokens(OLD, request.options, tokens)
    ids = tokenizer(MORE, add_special_tokens=False)["input_ids"]
    assert tokenizer.decode([ids[k] for k in old]).strip() in ("old", "")
    assert nothing == []
    shared = excerpt_tokens(SHARED, request.options, tokens)
    texts = [
        tokenizer.decode([tokenizer(t, add_special_tokens=False)["input_ids"][k] for k in chosen])
        for t, chosen in zip(request.options, shared, strict=True)
    ]
    assert texts[0].split() == texts[1].split()
    assert set(texts[0].split()) <= {"The", "man", "ran", "home."}


def test_a_token_across_spaces_is_found_where_beginnings_fail():
    """The pieces of a beginning are not those of the text: " man" and " ran" become one."""
    tokenizer = phrase_tokenizer([" man ran"] * 9 + list("Theoldman ran."))
    text = tokenizer(LESS, add_special_tokens=False)["input_ids"]
    beginning = tokenizer("The man", add_special_tokens=False)["input_ids"]
    assert text[: len(beginning)] != beginning
    request = Request("", (MORE, LESS), excerpts=(SHARED,))
    spans = token_spans(tokenizer, [request])
    (_, less) = excerpt_tokens(SHARED, request.options, [spans[t] for t in request.options])
    assert tokenizer.decode([text[k] for k in less]).replace(" ", "") == "Themanranhome."


def test_a_slow_tokenizer_that_runs_across_a_border_is_refused():
    request = Request("", (MORE, LESS), excerpts=(SHARED,))
    with pytest.raises(ValueError, match=r"splits 'The old man' differently if more follows") as e:
        token_spans(AcrossSpaces(), [request])
    assert "\n" not in str(e.value)


def test_a_tokenizer_that_does_not_tell_its_places_is_refused():
    request = Request("", ("He né",), excerpts=(Excerpt((((2, 5),),)),))
    with pytest.raises(ValueError, match="does not say where its tokens are in 'He né': it gi"):
        token_spans(phrase_tokenizer([MORE]), [request])  # it has no piece for the last letter


# --- sums ----------------------------------------------------------------------------------------


def test_excerpts_are_sums_over_their_tokens(model):
    scores = score(model, Request("", (MORE, LESS), excerpts=(SHARED, OLD)))
    bos = model.tokenizer.bos_token_id
    for k, text in enumerate((MORE, LESS)):
        encoded = model.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        tokens = logprobs(model, [bos, *encoded["input_ids"]])
        ends = [end for _, end in encoded["offset_mapping"]]
        for column, excerpt in ((2 + k, SHARED), (4 + k, OLD)):
            inside = [any(a < end <= b for a, b in excerpt.words[k]) for end in ends]
            expected = sum(p for p, is_in in zip(tokens, inside, strict=True) if is_in)
            assert scores.logprob[0, column] == pytest.approx(expected, abs=1e-3)
            assert scores.tokens[0, column] == sum(inside)
        assert scores.logprob[0, k] == pytest.approx(sum(tokens), abs=1e-3)
    np.testing.assert_allclose(scores.logprob[0, 2] + scores.logprob[0, 4], scores.logprob[0, 0])
    assert scores.logprob[0, 5] == 0  # no word, no token
    assert scores.tokens[0, 5] == 0


def test_excerpts_cost_no_position(llama):
    counts = []
    hook = ("blocks.0.hook_in", lambda value, hook: counts.append(value.shape[:2].numel()))
    with llama.hooks(fwd_hooks=[hook]):
        score(llama, Request("", (MORE, LESS)))
        plain = sum(counts)
        score(llama, Request("", (MORE, LESS), excerpts=(SHARED, OLD)))
    assert sum(counts) == 2 * plain


# --- without a start -----------------------------------------------------------------------------


@pytest.mark.parametrize("positions", ["all", "last"])
def test_the_start_stands_before_the_first_token_alone(llama, positions):
    """And so it is inside an intervention."""
    bos = llama.tokenizer.bos_token_id
    request = Request("", (MORE, "a"), unstarted=True)
    members = tuple(Neuron(layer, index) for layer, index in ((0, 3), (1, 7), (2, 40)))
    sizes = {"n_layers": 3, "d_mlp": 48}
    neurons = NeuronSet(members, model_name(llama), fingerprint(llama), "post", **sizes)
    with scale_neurons(llama, neurons, lam=3.0, positions=positions):
        scores = score(llama, request)
        for k, text in enumerate(request.options):
            ids = llama.tokenizer(text, add_special_tokens=False)["input_ids"]
            beginnings = [[bos], *(ids[:n] for n in range(1, len(ids)))]
            expected = sum(map(partial(following, llama), beginnings, ids))
            assert scores.logprob[0, 2 + k] == pytest.approx(expected, abs=1e-3)
            assert scores.tokens[0, 2 + k] == scores.tokens[0, k] == len(ids)
    assert scores.logprob[0, 2] != scores.logprob[0, 0]


def test_a_tokenizer_that_begins_every_text_with_bos_keeps_it():
    model = tiny_bridge("llama", add_bos=True)
    ((whole, unstarted),) = encode(model, [Request("", (MORE,), unstarted=True)])
    assert whole == unstarted
    scores = score(model, Request("", (MORE,), unstarted=True))
    assert scores.logprob[0, 0] == scores.logprob[0, 1]


def test_without_bos_the_first_token_follows_eos_and_without_both_nothing():
    tokenizer = byte_tokenizer()
    model = take(tiny_bridge("llama"), tokenizer)
    scores = score(model, Request("", ("ab",), unstarted=True))
    ids = tokenizer("ab", add_special_tokens=False)["input_ids"]
    expected = logprobs(model, [tokenizer.eos_token_id, ids[0]]) + logprobs(model, ids)
    assert scores.logprob[0, 1] == pytest.approx(sum(expected), abs=1e-3)
    model = tiny_bridge("llama")
    model.tokenizer.bos_token = model.tokenizer.eos_token = None
    with pytest.raises(ValueError, match="needs a BOS or EOS token"):
        score(model, Request("", ("ab",), unstarted=True))


def test_plain_passes_give_the_same(llama):
    request = Request("", (MORE, LESS), unstarted=True, excerpts=(SHARED, OLD))
    in_trees = score(llama, request)
    hook = ("blocks.0.attn.hook_pattern", lambda pattern, hook: None)
    with llama.hooks(fwd_hooks=[hook]), pytest.warns(UserWarning, match="not as trees"):
        plain = score(llama, request)
    np.testing.assert_allclose(in_trees.logprob, plain.logprob, atol=1e-4)
    np.testing.assert_array_equal(in_trees.tokens, plain.tokens)


# --- behind a prompt -----------------------------------------------------------------------------


@pytest.mark.parametrize("prompt", ["Be fair to all. ", "Be fair to all.", "Be "])
@pytest.mark.parametrize("tokenizer", [tiny_tokenizer(), phrase_tokenizer([MORE, LESS] * 9)])
def test_words_behind_a_prompt_are_scored_given_the_prompt(prompt, tokenizer):
    model = take(tiny_bridge(), tokenizer)
    words = ((0, 3), (7, 11)), ((0, 3),)
    scores = score(model, Request(prompt, (MORE, LESS), unstarted=True, excerpts=(Excerpt(words),)))
    plain = encode(model, [Request(prompt, (MORE, LESS))])[0]
    for which, option in enumerate((MORE, LESS)):
        ((text, _),) = plain[which]
        values = logprobs(model, text.ids)[text.start - 1 :]
        spans = tokenizer(prompt + option, return_offsets_mapping=True)["offset_mapping"]
        inside = {len(prompt) + k for span in words[which] for k in range(*span)}
        inside |= {*range(len(prompt.rstrip()), len(prompt))}  # the first word's space
        letters = [
            {k for k in range(*span) if (prompt + option)[k] != " "} or {span[0]}
            for span in spans[-text.n_scored :]
        ]
        within = [value for value, of in zip(values, letters, strict=True) if of <= inside]
        whole, unstarted, excerpt = scores.logprob[0, which::2]
        assert whole == unstarted == pytest.approx(sum(values), abs=1e-4)
        assert excerpt == pytest.approx(sum(within), abs=1e-4)


def test_the_space_before_an_option_belongs_to_its_first_word():
    request = Request("Be fair.", (f" {LESS}",), excerpts=(Excerpt((((1, 4),),)),))
    moved = as_whole_texts(request, [("Be fair.", f" {LESS}")])
    assert moved.excerpts[0].words == (((9, 12),),)
    request = Request("Be fair. ", (LESS,), excerpts=(Excerpt((((0, 3), (3, 7)),)),))
    moved = as_whole_texts(request, [("Be fair.", f" {LESS}")])
    assert moved.options == (f"Be fair. {LESS}",)
    assert moved.excerpts[0].words == (((8, 12), (12, 16)),)


# --- requests ------------------------------------------------------------------------------------


def test_requests_that_cannot_be_scored_so_are_refused():
    with pytest.raises(ValueError, match="not answers in a chat: got 'Say: '"):
        Request("Say: ", (MORE,), chat=True, unstarted=True)
    with pytest.raises(ValueError, match="needs the words of 1 options"):
        Request("", (MORE,), excerpts=(SHARED,))
    with pytest.raises(ValueError, match=r"equally many words, got \[0, 1\]"):
        Excerpt((((0, 1),), ()), aligned=True)
    assert Request("", (MORE, LESS), unstarted=True, excerpts=(SHARED,)).n_scores == 6
