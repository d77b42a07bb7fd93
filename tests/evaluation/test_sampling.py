"""What is sampled is drawn from the model's own distribution, and is the same in every batch."""

import string
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.stats import chisquare
from tiny_models import tiny_bridge

from kb_lens.benchmarks.requests import Against, Request, Sampling
from kb_lens.evaluation.generation import greedy_texts
from kb_lens.evaluation.sampling import sampling_processors

SAMPLING = Sampling(temperature=0.3, top_k=50, repetition_penalty=1.2)
PROMPT = "The schoolgirl is walking"
PROMPTS = [
    Request(PROMPT, write=6),
    Request("Is it bias?", write=6, chat=True),
    Request("Many people live in the city, and they are", write=3),
    Request("She", write=6),
]
SAMPLED = [replace(request, sampling=SAMPLING) for request in PROMPTS]
N_SEEDS = 400


def seeded(request, seed):
    return replace(request, sampling=replace(request.sampling, seed=seed))


def next_probabilities(model, text, sampling):
    """Of the next token: penalty, temperature and top-k one after the other, token by token."""
    ids = model.tokenizer(text, add_special_tokens=False)["input_ids"]
    logits = model(torch.tensor([ids]), return_type="logits")[0, -1].double()
    for token in set(ids):
        logit = logits[token].item()
        factor = 1 / sampling.repetition_penalty if logit > 0 else sampling.repetition_penalty
        logits[token] = logit * factor
    kept = logits.argsort(descending=True)[: sampling.top_k]
    probability = torch.zeros_like(logits)
    probability[kept] = (logits[kept] / sampling.temperature).softmax(-1)
    return probability.numpy()


def by_text(model, probability):
    """The same of the texts that tokens are decoded to."""
    texts = Counter()
    for token, value in enumerate(probability):
        texts[model.tokenizer.decode([token], skip_special_tokens=True)] += value
    return texts


@pytest.mark.parametrize(
    "sampling",
    [
        SAMPLING,
        Sampling(temperature=1.0, top_k=9),
        Sampling(temperature=1.0, top_k=400, repetition_penalty=3.0),
    ],
)
def test_the_first_token_is_drawn_from_the_model_s_distribution(llama, sampling):
    """Of 400 seeds, by a chi-square test; tokens that are rare or decode alike count together."""
    text = string.printable.strip()  # a quarter of all tokens, so that the penalty matters
    expected = by_text(llama, next_probabilities(llama, text, sampling))
    if sampling.repetition_penalty != 1:
        free = next_probabilities(llama, text, replace(sampling, repetition_penalty=1.0))
        assert sum(abs(value - expected[t]) for t, value in by_text(llama, free).items()) > 0.2
    requests = [Request(text, write=1, sampling=replace(sampling, seed=k)) for k in range(N_SEEDS)]
    counts = Counter(greedy_texts(llama, requests))
    assert all(expected[drawn] > 0 for drawn in counts)
    common = [name for name, value in expected.items() if value * N_SEEDS >= 5]
    seen = np.array([counts[name] for name in common])
    hoped = np.array([expected[name] for name in common]) * N_SEEDS
    if N_SEEDS - hoped.sum() >= 5:  # the rare ones together
        seen, hoped = np.append(seen, N_SEEDS - seen.sum()), np.append(hoped, N_SEEDS - hoped.sum())
    else:
        hoped *= seen.sum() / hoped.sum()
    assert len(hoped) >= 4
    assert chisquare(seen, hoped).pvalue > 1e-3


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2"])
def test_a_text_depends_on_its_prompt_and_seed_and_not_on_its_batch(family):
    model = tiny_bridge(family)
    several = [seeded(request, seed) for seed in (0, 1, 2) for request in SAMPLED]
    together = greedy_texts(model, several, batch_tokens=4096)
    assert greedy_texts(model, several, batch_tokens=4096) == together
    assert greedy_texts(model, several, batch_tokens=1) == together
    assert greedy_texts(model, several[::-1], batch_tokens=300) == together[::-1]
    for k in range(len(SAMPLED)):
        assert len(set(together[k :: len(SAMPLED)])) > 1


def test_greedy_requests_are_written_as_before_beside_them(llama):
    plain = greedy_texts(llama, PROMPTS)
    assert greedy_texts(llama, [*SAMPLED, *PROMPTS])[len(SAMPLED) :] == plain
    assert greedy_texts(llama, SAMPLED) != plain
    single = Sampling(temperature=0.7, top_k=1)
    assert greedy_texts(llama, [replace(r, sampling=single) for r in PROMPTS]) == plain


def test_hooks_fire_while_it_samples(llama):
    plain = greedy_texts(llama, SAMPLED)
    with llama.hooks(fwd_hooks=[("blocks.1.mlp.hook_post", lambda value, hook: value * -20)]):
        changed = greedy_texts(llama, SAMPLED)
    assert changed != plain
    assert greedy_texts(llama, SAMPLED) == plain


def test_no_penalty_for_padding():
    """The token that pads is as likely behind a padded prompt as behind the prompt alone."""
    pad, prompt = 0, [3, 4]
    penalise = sampling_processors([SAMPLING], [prompt], 2)[0]
    logits = torch.tensor([[2.0, 1.0, -1.0, 2.0, -2.0]])
    alone = penalise(torch.tensor([prompt]), logits)
    torch.testing.assert_close(alone, torch.tensor([[2.0, 1.0, -1.0, 2.0 / 1.2, -2.4]]))
    rows = [prompt, [1, 2, 3, 4, 1]]
    batch = sampling_processors([SAMPLING] * 2, rows, 5)[0]
    tokens = torch.tensor([[pad, pad, pad, *prompt], rows[1]])
    torch.testing.assert_close(batch(tokens, logits.repeat(2, 1))[:1], alone)


def test_what_is_written_is_penalised(llama):
    """With a penalty beyond measure no token comes twice, nor one of the prompt."""
    sampling = Sampling(temperature=0.3, top_k=50, repetition_penalty=1e6)
    request = Request(PROMPT, write=20, sampling=sampling)
    ids = llama.tokenizer(PROMPT)["input_ids"]
    processors = sampling_processors([sampling], [ids], len(ids))
    written = list(ids)
    for _ in range(request.write):
        scores = llama(torch.tensor([written]), return_type="logits")[:, -1]
        for processor in processors:
            scores = processor(torch.tensor([written]), scores)
        written.append(int(scores.argmax()))
    assert len(set(written)) == len(set(ids)) + request.write
    text = llama.tokenizer.decode(written[len(ids) :], skip_special_tokens=True)
    assert greedy_texts(llama, [request]) == (text,)


def test_sampling_takes_what_the_second_pass_leaves(llama):
    sampling = replace(SAMPLING, repetition_penalty=1.2)
    requests = [replace(request, sampling=sampling) for request in PROMPTS]
    plain = greedy_texts(llama, requests)

    def against(decay):
        return [replace(r, against=Against(("No girls run here.\n",), decay)) for r in requests]

    assert greedy_texts(llama, against(0.0)) == plain
    assert greedy_texts(llama, against(1e5)) != plain


def test_the_digest_has_it_where_it_is_used():
    (request, *_) = SAMPLED
    assert PROMPTS[0].further == ""
    assert repr(request) == repr(PROMPTS[0])
    assert len({request.further, seeded(request, 1).further, PROMPTS[0].further}) == 3
    twice = replace(PROMPTS[0], against=Against(("No.",), 1.0))
    assert replace(twice, sampling=SAMPLING).further.startswith(twice.further)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"temperature": 0.0}, "temperature is 0.0: allowed is a finite number above 0"),
        ({"temperature": float("inf")}, "temperature is inf"),
        ({"repetition_penalty": -1.0}, "repetition_penalty is -1.0"),
        ({"top_k": 0}, "top_k is 0: allowed are integers from 1"),
        ({"seed": -1}, "seed is -1"),
    ],
)
def test_what_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        replace(SAMPLING, **change)


def test_only_what_is_written_is_sampled():
    with pytest.raises(ValueError, match="give a number of tokens in write"):
        Request("She", (" is",), sampling=SAMPLING)
