"""Scaling: an identity at 1, an ablation at 0, right positions, and gone afterwards."""

import pytest
import torch
from tiny_models import tiny_bridge

import kb_lens as kb
from kb_lens.models.hooked import fingerprint, model_name, site_hooks

TOKENS = torch.tensor([[5, 6, 7, 8], [9, 10, 11, 12]])


def some_neurons(model, site="post"):
    return kb.NeuronSet(
        neurons=(kb.Neuron(0, 3), kb.Neuron(0, 5), kb.Neuron(2, 1)),
        model=model_name(model),
        fingerprint=fingerprint(model),
        site=site,
        n_layers=3,
        d_mlp=48,
    )


def test_one_is_the_identity_to_the_bit(model):
    before = model(TOKENS)
    for positions in ("all", "last"):
        with kb.scale_neurons(model, some_neurons(model), lam=1, positions=positions):
            assert torch.equal(model(TOKENS), before)
    assert torch.equal(model(TOKENS), before)


@pytest.mark.parametrize("site", ["post", "pre"])
def test_zero_is_ablation(model, site):
    names = site_hooks(model, site)

    def ablate(activation, hook, indices):
        activation = activation.clone()
        activation[..., indices] = 0
        return activation

    hooks = [
        (names[0], lambda a, hook: ablate(a, hook, [3, 5])),
        (names[2], lambda a, hook: ablate(a, hook, [1])),
    ]
    expected = model.run_with_hooks(TOKENS, fwd_hooks=hooks)
    with kb.scale_neurons(model, some_neurons(model, site), lam=0):
        assert torch.equal(model(TOKENS), expected)


def test_scaling_a_post_neuron_is_scaling_its_row_of_w_out(llama):
    model = tiny_bridge("llama")
    with kb.scale_neurons(llama, some_neurons(llama), lam=2.5):
        expected = llama(TOKENS)
    for layer, indices in some_neurons(llama).by_layer().items():
        down = model.original_model.model.layers[layer].mlp.down_proj
        with torch.no_grad():
            down.weight[:, indices] *= 2.5
    assert torch.allclose(model(TOKENS), expected, atol=1e-4)


def test_last_changes_the_last_position_alone(model):
    before = model(TOKENS)
    with kb.scale_neurons(model, some_neurons(model), lam=3, positions="last"):
        after = model(TOKENS)
    assert torch.equal(after[:, :-1], before[:, :-1])
    assert not torch.allclose(after[:, -1], before[:, -1])
    with kb.scale_neurons(model, some_neurons(model), lam=3):
        everywhere = model(TOKENS)
    assert not torch.allclose(everywhere[:, 0], before[:, 0])


def test_generation_with_a_cache_is_generation_without(model):
    """With `all`, every generated token sees the scaling; the cache must not hide it."""
    neurons = some_neurons(model)
    with kb.scale_neurons(model, neurons, lam=6):
        cached = model.generate(
            TOKENS[:1],
            max_new_tokens=6,
            do_sample=False,
            use_past_kv_cache=True,
            verbose=False,
            stop_at_eos=False,
            return_type="tokens",
        )
        tokens = TOKENS[:1]
        for _ in range(6):
            tokens = torch.cat([tokens, model(tokens)[:, -1:].argmax(-1)], dim=1)
    assert torch.equal(cached, tokens)


def test_nested_blocks_multiply(model):
    neurons = some_neurons(model)
    with kb.scale_neurons(model, neurons, lam=6):
        expected = model(TOKENS)
    with kb.scale_neurons(model, neurons, lam=2), kb.scale_neurons(model, neurons, lam=3):
        assert torch.allclose(model(TOKENS), expected, atol=1e-5)


def test_hooks_are_gone_after_an_exception(model):
    before = model(TOKENS)
    with (
        pytest.raises(KeyError, match="mine"),
        kb.scale_neurons(model, some_neurons(model), lam=5),
    ):
        raise KeyError("mine")
    assert torch.equal(model(TOKENS), before)
    assert not any(point.fwd_hooks for point in model.hook_dict.values())


def test_hooks_of_the_user_stay(model):
    name = site_hooks(model, "post")[0]
    with model.hooks(fwd_hooks=[(name, lambda a, hook: a + 1)]):
        before = model(TOKENS)
        with kb.scale_neurons(model, some_neurons(model), lam=2):
            assert not torch.allclose(model(TOKENS), before)
        assert torch.equal(model(TOKENS), before)


def test_bad_arguments(model):
    neurons = some_neurons(model)
    for lam in (float("nan"), float("inf")):
        with pytest.raises(ValueError, match="allowed is any finite number"):
            kb.scale_neurons(model, neurons, lam=lam).__enter__()
    with pytest.raises(ValueError, match="the neuron set is empty"):
        kb.scale_neurons(model, neurons - neurons, lam=2).__enter__()
    with pytest.raises(ValueError, match="these neurons belong to"):
        kb.scale_neurons(tiny_bridge("llama", seed=9), neurons, lam=2).__enter__()


def test_a_block_in_which_the_model_did_not_run(model):
    with (
        pytest.raises(ValueError, match="never fired"),
        kb.scale_neurons(model, some_neurons(model), lam=2),
    ):
        tiny_bridge("llama")(TOKENS)
