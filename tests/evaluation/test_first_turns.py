"""What the model answers first stands in front of what it is asked, and decides the scores."""

import hashlib
from dataclasses import replace

import chat_templates
import numpy as np
import pandas as pd
import pytest
import torch
from tiny_models import CHATML, N_CTX, tiny_bridge

from kb_lens.benchmarks.benchmark import Benchmark
from kb_lens.benchmarks.requests import SYSTEM, Against, Excerpt, Request
from kb_lens.evaluation import first_turns, slices
from kb_lens.evaluation.encoding import prompt_tokens, sample_tokens
from kb_lens.evaluation.first_turns import answered
from kb_lens.evaluation.scoring import option_logprobs
from kb_lens.evaluation.slices import benchmark_scores
from kb_lens.models.prompts import chat_text
from kb_lens.statistics import Formulas
from kb_lens.store import Store

WORDS = ("city", "girl", "chess", "player", "street")
ASKED = Request("Is it bias?", ("Yes", "No"), chat=True)
TOLD = replace(ASKED, first=("The girl is walking.", "Why?"), first_write=6)


def alone(model, text, most):
    """Greedy writing, one forward pass a token."""
    ids = model.tokenizer(text, add_special_tokens=False)["input_ids"]
    written = []
    for _ in range(most):
        token = int(model(torch.tensor([ids + written]), return_type="logits")[0, -1].argmax())
        if token == model.tokenizer.eos_token_id:
            break
        written.append(token)
    return model.tokenizer.decode(written, skip_special_tokens=True).strip()


def made_up(requests):
    """A benchmark with an item a request."""
    items = pd.DataFrame({"item": [f"item {k}" for k in range(len(requests))]})
    formulas = Formulas(lambda table: None, lambda statistics: {}, None, (), {})
    return Benchmark(
        *("made_up", "instructed", "here", items, tuple(requests), ()),
        lambda items, scores: items,
        formulas,
    )


def told_about(words=WORDS):
    return made_up([replace(TOLD, first=(f"What of the {word}?",)) for word in words])


def scores_of(model, benchmark, store=None):
    return benchmark_scores(model, benchmark, store, progress=False)[0]


@pytest.mark.parametrize("template", [CHATML, chat_templates.PLAIN])
def test_the_prompt_has_what_the_model_wrote(template):
    model = tiny_bridge("llama")
    model.tokenizer.chat_template = template

    def chat(*turns):
        roles = ("system", *("user", "assistant") * 3)
        messages = [
            {"role": r, "content": c} for r, c in zip(roles, (SYSTEM, *turns), strict=False)
        ]
        return model.tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=True
        )

    (done,) = answered(model, [TOLD])
    (one, two) = TOLD.first
    wrote = alone(model, chat(one), 6)
    wrote_then = alone(model, chat(one, wrote, two), 6)
    assert wrote
    assert wrote_then
    assert done.history == (
        *(("user", one), ("assistant", wrote)),
        *(("user", two), ("assistant", wrote_then)),
    )
    assert not done.first
    expected = model.tokenizer(
        chat(one, wrote, two, wrote_then, "Is it bias?"), add_special_tokens=False
    )
    assert prompt_tokens(model.tokenizer, done) == expected["input_ids"]


@pytest.mark.parametrize("template", [chat_templates.USER_ALONE, chat_templates.LAST_ALONE, None])
def test_where_a_template_has_no_such_turns_they_are_told_in_the_last(template):
    model = tiny_bridge("llama")
    model.tokenizer.chat_template = template
    (done,) = answered(model, [TOLD])
    wrote = alone(model, chat_text(model.tokenizer, SYSTEM, TOLD.first[0]), 6)
    text = model.tokenizer.decode(prompt_tokens(model.tokenizer, done))
    order = [text.find(part) for part in (TOLD.first[0], wrote, "Why?", "Is it bias?")]
    assert min(order) >= 0
    assert order == sorted(order)
    assert f"Answer: {wrote}" in text


def test_a_benchmark_is_scored_behind_what_was_written(llama):
    benchmark = told_about()
    scores = scores_of(llama, benchmark)
    expected = option_logprobs(llama, answered(llama, benchmark.requests), progress=False)
    np.testing.assert_allclose(scores.logprob, expected.logprob, atol=1e-4)
    untold = scores_of(llama, made_up([request.last_turn() for request in benchmark.requests]))
    assert np.all(np.abs(scores.logprob - untold.logprob) > 1e-4)
    assert np.ptp(scores.logprob[:, 0]) > 1e-4, "what was written differs from item to item"


def test_what_is_written_behind_the_answer_stands_behind_it(llama):
    requests = [replace(request, write=5) for request in told_about().requests]
    scores = scores_of(llama, made_up(requests))
    for request, text in zip(answered(llama, requests), scores.texts, strict=True):
        prompt = llama.tokenizer.decode(prompt_tokens(llama.tokenizer, request))
        assert text.strip() == alone(llama, prompt, 5)


def test_what_may_not_fit_behind_the_answer_is_refused_before_anything_is_written(monkeypatch):
    benchmark = told_about()
    n_tokens = max(
        len(prompt_tokens(tiny_bridge().tokenizer, r.last_turn())) for r in benchmark.requests
    )
    model = tiny_bridge("llama", max_position_embeddings=n_tokens + 20)
    monkeypatch.setattr(slices, "answered", lambda *_, **__: pytest.fail("something is written"))
    with pytest.raises(ValueError, match=r"for the model's first answers and \d+ for its last"):
        scores_of(model, benchmark)


def test_the_answers_are_written_under_the_hooks(llama):
    (plain,) = answered(llama, [TOLD])
    with llama.hooks(fwd_hooks=[("blocks.1.mlp.hook_post", lambda value, hook: value * -20)]):
        (changed,) = answered(llama, [TOLD])
        wrote = alone(llama, chat_text(llama.tokenizer, SYSTEM, TOLD.first[0]), 6)
    assert changed.history[1] == ("assistant", wrote)
    assert changed.history != plain.history


def test_the_order_of_the_requests_does_not_matter(llama):
    requests = [*told_about().requests, ASKED, replace(TOLD, first_write=3)]
    forwards = scores_of(llama, made_up(requests))
    backwards = scores_of(llama, made_up(requests[::-1]))
    np.testing.assert_allclose(forwards.logprob, backwards.logprob[::-1], atol=1e-4)


def test_kept_slices_are_not_written_again(llama, monkeypatch, tmp_path):
    written = []

    def counted(model, requests, **options):
        written.append(len(requests))
        return greedy_texts(model, requests, **options)

    greedy_texts = first_turns.greedy_texts
    monkeypatch.setattr(first_turns, "greedy_texts", counted)
    monkeypatch.setattr(slices, "SLICE_ITEMS", 2)
    store, benchmark = Store(tmp_path, ".parquet"), told_about()
    first = scores_of(llama, benchmark, store)
    assert written == [2, 2, 1]
    again = scores_of(llama, benchmark, store)
    assert written == [2, 2, 1, 1]  # the last one is never kept
    np.testing.assert_array_equal(first.logprob, again.logprob)


def test_a_slice_is_named_by_what_is_said_first(llama):
    other = tiny_bridge("llama")
    other.tokenizer.chat_template = chat_templates.PLAIN
    benchmark = told_about()
    cases = [
        (llama, benchmark),
        (other, benchmark),
        (llama, told_about(WORDS[::-1])),
        (llama, made_up([request.last_turn() for request in benchmark.requests])),
        (llama, made_up([replace(request, first_write=7) for request in benchmark.requests])),
    ]
    keys = [piece.key(model) for model, asked in cases for piece in slices._slices(model, asked)]
    assert len(set(keys)) == len(cases)
    assert sample_tokens(llama, benchmark.requests)  # it needs no answers


def test_digests_of_benchmarks_without_such_turns_stay_as_they_were():
    """The formula of the first version: kept results are found by it."""
    words = (((0, 3),), ((0, 2),))
    plain = Request("", ("She is.", "He is."), unstarted=True, excerpts=(Excerpt(words),))
    further = repr((True, plain.excerpts))
    for requests, added in (([ASKED], ""), ([plain], further), ([ASKED, plain], further)):
        texts = "\n".join(map(repr, requests)) + added
        expected = hashlib.sha256(texts.encode()).hexdigest()[:16]
        assert made_up(requests).digest == expected
    assert repr(TOLD) == repr(ASKED)
    assert made_up([TOLD]).digest != made_up([ASKED]).digest
    assert made_up([TOLD, plain]).digest != made_up([ASKED, plain]).digest


def test_digests_know_whose_turns_they_are():
    other = replace(ASKED, prompt="Why?")
    for change in ({"first": ("Who?",), "first_write": 2}, {"against": Against(("Bad:",), 50)}):
        first, second = ([replace(ASKED, **change), other], [ASKED, replace(other, **change)])
        assert made_up(first).digest != made_up(second).digest


def test_what_is_refused(llama):
    with pytest.raises(
        ValueError, match=r"has not answered the first turn 'The girl is walking\.' yet"
    ):
        option_logprobs(llama, [TOLD], progress=False)
    long = replace(TOLD, first=("z" * N_CTX,))
    with pytest.raises(ValueError, match="leaves no room for 6 more"):
        scores_of(llama, made_up([ASKED, long]))
    with pytest.raises(ValueError, match="only a chat has turns"):
        Request("Who?", ("a",), first=("Why?",), first_write=2)
    with pytest.raises(ValueError, match="need room for the model's answers"):
        replace(ASKED, first=("Why?",))
    with pytest.raises(ValueError, match="need room for the model's answers"):
        replace(ASKED, first_write=3)
