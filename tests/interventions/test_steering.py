"""Steering: the mean difference, and where and how it is added."""

import hashlib
import struct
from dataclasses import replace

import numpy as np
import pytest
import torch
from jaxtyping import TypeCheckError
from safetensors.torch import save_file
from tiny_models import tiny_bridge

from kb_lens.benchmarks.requests import Request
from kb_lens.evaluation.scoring import option_logprobs
from kb_lens.interventions.conditions import Condition
from kb_lens.interventions.steering import (
    StatementPair,
    Steering,
    random_direction,
    steering_vector,
)
from kb_lens.models.hooked import fingerprint, model_name

TOKENS = torch.tensor([[5, 6, 7, 8], [9, 10, 11, 12]])
PAIRS = (
    StatementPair("gender", "running", "Girls are not good at running.", "Girls are good at it."),
    StatementPair("race", "chess", "The city is bad.", "The city is not bad at all."),
)
REQUESTS = [
    Request("The schoolgirl is walking", (" down the street.", " home", " and running")),
    Request("The schoolgirl is tall", (" and good", " no")),
]


def hook_name(layer):
    return f"blocks.{layer}.hook_resid_post"


def made(model, layer=1, **changes):
    """A steering vector that is large enough to be seen."""
    vector = 3 * torch.randn(32, generator=torch.Generator().manual_seed(7))
    return Steering(vector, layer, model_name(model), fingerprint(model), **changes)


def residual(model, layer, tokens=TOKENS):
    caught = []
    model.run_with_hooks(
        tokens, fwd_hooks=[(hook_name(layer), lambda value, hook: caught.append(value.clone()))]
    )
    return caught[0]


# --- the vector ------------------------------------------------------------------------------


@pytest.mark.parametrize("add_bos", [False, True])
@pytest.mark.parametrize("layer", [0, 1])
def test_the_vector_is_the_mean_difference_at_the_last_token(add_bos, layer):
    """Against the hidden states that Hugging Face's model gives."""
    model = tiny_bridge("llama", add_bos=add_bos)
    found = steering_vector(model, PAIRS, layer=layer, progress=False)
    bos = [model.tokenizer.bos_token_id] * add_bos

    def last(text):
        ids = bos + model.tokenizer(text, add_special_tokens=False)["input_ids"]
        out = model.original_model(torch.tensor([ids]), output_hidden_states=True)
        return out.hidden_states[layer + 1][0, -1]

    expected = sum(last(pair.fair) - last(pair.biased) for pair in PAIRS) / 2
    assert torch.allclose(found.vector, expected, atol=1e-5)
    assert found.vector.norm() > 0.1
    assert (found.layer, found.strength, found.positions) == (layer, 1.0, "all")
    assert found.origin == "fair minus biased, 2 pairs on gender, race"
    assert found.fingerprint == fingerprint(model)


def test_the_middle_layer_is_the_default():
    model = tiny_bridge("llama", num_hidden_layers=4)
    found = steering_vector(model, PAIRS, progress=False)
    assert found.layer == 2
    swapped = [StatementPair(p.dimension, p.concept, p.fair, p.biased) for p in PAIRS]
    assert torch.equal(steering_vector(model, swapped, progress=False).vector, -found.vector)


def test_what_cannot_be_contrasted(model):
    with pytest.raises(ValueError, match="got no pairs"):
        steering_vector(model, (), progress=False)
    for layer in (3, -1):
        with pytest.raises(ValueError, match=f"allowed layers are 0 to 2, got {layer}"):
            steering_vector(model, PAIRS, layer=layer, progress=False)


def test_a_random_direction_has_the_norm_and_little_else(model):
    steering = made(model, strength=2.0, positions="last")
    control = random_direction(steering, 1)
    assert control.vector.norm() == pytest.approx(float(steering.vector.norm()), rel=1e-5)
    assert torch.equal(control.vector, random_direction(steering, 1).vector)
    for other in (steering, random_direction(steering, 2)):
        assert abs(torch.cosine_similarity(control.vector, other.vector, dim=0)) < 0.6
    assert (control.layer, control.strength, control.positions) == (1, 2.0, "last")
    assert "seed 1" in control.origin


# --- adding it -------------------------------------------------------------------------------


@pytest.mark.parametrize("positions", ["all", "last"])
def test_strength_zero_is_the_identity_to_the_bit(model, positions):
    before = model(TOKENS)
    with made(model, positions=positions).with_strength(0).applied(model) as same:
        assert same is model
        assert torch.equal(model(TOKENS), before)


@pytest.mark.parametrize("strength", [-1.5, 0.5, 4.0])
def test_the_projection_moves_by_strength_times_the_squared_norm(model, strength):
    steering = made(model, strength=strength)
    before = residual(model, 1)
    with steering.applied(model):
        moved = residual(model, 1) - before
    expected = strength * float(steering.vector @ steering.vector)
    assert torch.allclose(
        moved @ steering.vector, torch.full((2, 4), expected), rtol=1e-4, atol=1e-3
    )
    across = (
        moved - moved @ steering.vector[:, None] / steering.vector.norm() ** 2 * steering.vector
    )
    assert across.abs().max() < 1e-4


def test_what_comes_before_the_layer_stays_and_what_comes_after_changes(model):
    before = [residual(model, layer) for layer in range(3)]
    logits = model(TOKENS)
    with made(model).applied(model):
        after = [residual(model, layer) for layer in range(3)]
        assert not torch.allclose(model(TOKENS), logits, atol=1e-2)
    assert torch.equal(after[0], before[0])
    assert not torch.allclose(after[2], before[2] + made(model).vector, atol=1e-2)


def test_nested_blocks_add(model):
    steering = made(model)
    with steering.with_strength(1.5).applied(model):
        expected = model(TOKENS)
    with steering.with_strength(2).applied(model), steering.with_strength(-0.5).applied(model):
        assert torch.allclose(model(TOKENS), expected, atol=1e-5)


def test_last_changes_the_last_position_alone(model):
    before = model(TOKENS)
    with made(model, positions="last").applied(model):
        after = model(TOKENS)
    assert torch.equal(after[:, :-1], before[:, :-1])
    assert not torch.allclose(after[:, -1], before[:, -1], atol=1e-2)


def test_hooks_are_gone_after_an_exception(model):
    before = model(TOKENS)
    with (
        pytest.raises(KeyError, match="mine"),
        made(model, positions="last").applied(model),
    ):
        raise KeyError("mine")
    assert torch.equal(model(TOKENS), before)
    assert not any(point.fwd_hooks for point in model.hook_dict.values())


def test_a_block_in_which_the_model_did_not_run(model):
    with (
        pytest.raises(ValueError, match=r"'blocks\.1\.hook_resid_post' never fired"),
        made(model).applied(model),
    ):
        tiny_bridge("llama")(TOKENS)


def test_a_vector_of_another_model(model):
    with pytest.raises(ValueError, match="this steering vector belongs to"):
        made(model).applied(tiny_bridge("llama", seed=9)).__enter__()


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2"])
def test_scores_are_those_of_a_plain_padded_pass(family):
    """Warnings are errors, so the fast way is the one that is tested."""
    model = tiny_bridge(family)
    steering = made(model, strength=2.0)
    base = option_logprobs(model, REQUESTS, progress=False).logprob
    with steering.applied(model):
        found = option_logprobs(model, REQUESTS, progress=False).logprob
    encode = model.tokenizer
    texts = [
        (encode(r.prompt)["input_ids"], encode(o)["input_ids"]) for r in REQUESTS for o in r.options
    ]
    width = max(len(before) + len(option) for before, option in texts)
    rows = torch.tensor([(a + b + [0] * width)[:width] for a, b in texts])
    add = (hook_name(1), lambda value, hook: value + 2 * steering.vector)
    logprobs = model.run_with_hooks(rows, fwd_hooks=[add]).log_softmax(-1)
    expected = [
        sum(float(logprobs[row, len(a) - 1 + k, token]) for k, token in enumerate(b))
        for row, (a, b) in enumerate(texts)
    ]
    np.testing.assert_allclose(found[~np.isnan(found)], expected, atol=1e-4)
    assert np.nanmax(np.abs(found - base)) > 0.01


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_last_scores_are_those_of_a_pass_for_every_token(family):
    model = tiny_bridge(family)
    with made(model, positions="last").applied(model):
        found = option_logprobs(model, REQUESTS, progress=False).logprob
    with made(model).applied(model):
        everywhere = option_logprobs(model, REQUESTS, progress=False).logprob

    def add(value, hook):
        return torch.cat([value[:, :-1], value[:, -1:] + made(model).vector], dim=1)

    for r, request in enumerate(REQUESTS):
        before = model.tokenizer(request.prompt)["input_ids"]
        for k, option in enumerate(request.options):
            ids, total = model.tokenizer(option)["input_ids"], 0.0
            for n, token in enumerate(ids):
                row = torch.tensor([before + ids[:n]])
                logits = model.run_with_hooks(row, fwd_hooks=[(hook_name(1), add)])
                total += logits[0, -1].log_softmax(-1)[token].item()
            assert found[r, k] == pytest.approx(total, abs=1e-4)
    assert np.nanmax(np.abs(found - everywhere)) > 0.01


def test_generation_with_a_cache_is_generation_without(model):
    options = {"do_sample": False, "verbose": False, "stop_at_eos": False, "return_type": "tokens"}
    with made(model).applied(model):
        cached = model.generate(TOKENS[:1], max_new_tokens=5, use_past_kv_cache=True, **options)
        tokens = TOKENS[:1]
        for _ in range(5):
            tokens = torch.cat([tokens, model(tokens)[:, -1:].argmax(-1)], dim=1)
    assert torch.equal(cached, tokens)


# --- the value -------------------------------------------------------------------------------


def test_a_file_gives_back_what_was_saved(model, tmp_path):
    steering = made(model, strength=-2.5, positions="last", origin="made")
    steering.save(tmp_path / "new" / "steering.safetensors")
    loaded = Steering.load(tmp_path / "new" / "steering.safetensors")
    assert torch.equal(loaded.vector, steering.vector)
    assert loaded.describe() == steering.describe()
    assert (loaded.model, loaded.fingerprint) == (steering.model, steering.fingerprint)


def test_files_that_hold_no_steering(tmp_path):
    path = tmp_path / "steering.safetensors"
    with pytest.raises(ValueError, match="no such steering file"):
        Steering.load(path)
    path.write_bytes(b"nothing")
    with pytest.raises(ValueError, match="not a complete safetensors"):
        Steering.load(path)
    save_file({"vector": torch.ones(2)}, path, {"format": "else"})
    with pytest.raises(ValueError, match="not a file of kb_lens steering: its format is 'else'"):
        Steering.load(path)


def test_the_description_tells_changes_apart(model):
    steering = made(model, origin="made")
    described = steering.describe()
    assert described["layer"] == 1
    assert described["strength"] == 1.0
    assert described["positions"] == "all"
    assert described["origin"] == "made"
    data = struct.pack("<32f", *steering.vector.tolist())
    assert described["vector_sha256"] == hashlib.sha256(data).hexdigest()
    assert described == made(model, origin="made").describe()
    control = random_direction(steering).describe()["vector_sha256"]
    assert control != described["vector_sha256"]
    assert steering.with_strength(2).describe() == described | {"strength": 2.0}


def test_the_vector_is_kept_as_it_was_given(model):
    given = torch.ones(32)
    steering = Steering(given, 0, "m", "f")
    given += 1
    assert torch.equal(steering.vector, torch.ones(32))


def test_a_layer_of_numpy_is_written_like_any_other(model, tmp_path):
    steering = made(model)
    object.__setattr__(
        steering, "layer", np.int64(1)
    )  # the tests' type checks refuse it, users' not
    steering.save(tmp_path / "s.safetensors")
    assert Steering.load(tmp_path / "s.safetensors").layer == 1
    described = Condition("s", steering).describe()
    assert described == made(model).describe()
    assert type(described["layer"]) is int


@pytest.mark.parametrize(
    ("text", "reason"), [("he is " * 400, "context is 256"), ("", "no token|empty")]
)
def test_a_text_that_cannot_be_read_is_refused(text, reason):
    model = tiny_bridge("gpt2")
    with pytest.raises(ValueError, match=reason):
        steering_vector(model, [StatementPair("gender", "x", text, "fair")], progress=False)


def test_a_vector_of_another_width(model):
    narrow = replace(made(model), vector=torch.ones(1))
    with pytest.raises(ValueError, match="1 entries, but the residual stream"):
        narrow.applied(model).__enter__()


def test_bad_values(model):
    for strength in (float("nan"), float("inf")):
        with pytest.raises(ValueError, match=r"strength is .* any finite number"):
            made(model).with_strength(strength)
    with pytest.raises((ValueError, TypeCheckError), match="'first'"):
        made(model, positions="first")
    with pytest.raises(ValueError, match="row of finite numbers"):
        Steering(torch.tensor([1.0, float("nan")]), 0, "m", "f")
