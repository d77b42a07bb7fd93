"""Folding is hooking: the same logits, text and scores, from an ordinary checkpoint."""

import inspect

import pytest
import tiny_models
import torch
from folding_neurons import MEMBERS, TOKENS, some_neurons
from tiny_models import FAMILIES, tiny_bridge, tiny_hf_model

import kb_lens as kb
from kb_lens.interventions.folding import export, scale_weights
from kb_lens.models.hooked import fingerprint, model_name


@pytest.mark.parametrize("site", ["post", "pre"])
@pytest.mark.parametrize("family", FAMILIES)
def test_folded_is_hooked_for_every_family(family, site):
    model, original = tiny_bridge(family), tiny_hf_model(family)
    neurons, base = some_neurons(model, site), model(TOKENS)
    for lam in (0, 3):
        folded = kb.fold_neurons(model, neurons, lam=lam)
        with kb.scale_neurons(model, neurons, lam=lam):
            hooked = model(TOKENS)
        assert type(folded) is type(original)
        torch.testing.assert_close(folded(TOKENS).logits, hooked, rtol=1e-5, atol=1e-4)
        assert not torch.allclose(hooked, base, atol=1e-2)
    folded, weights = kb.fold_neurons(model, neurons, lam=1).state_dict(), original.state_dict()
    assert folded.keys() == weights.keys()
    assert all(torch.equal(folded[name], weights[name]) for name in weights)
    assert fingerprint(model) == neurons.fingerprint
    assert torch.equal(model(TOKENS), base)


@pytest.mark.parametrize("site", ["post", "pre"])
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_nothing_but_the_neurons_weights_changes(family, site):
    """The very entries that METHOD names: a column read by, or a row and bias written by."""
    model = tiny_bridge(family)
    folded = kb.fold_neurons(model, some_neurons(model, site), lam=2).state_dict()
    llama, gpt2 = "model.layers.{}.mlp.", "transformer.h.{}.mlp."
    rows, columns = (lambda w, i: w[i]), (lambda w, i: w[:, i])
    places = {
        ("llama", "post"): [(llama + "down_proj.weight", columns)],
        ("llama", "pre"): [(llama + "gate_proj.weight", rows)],
        ("gpt2", "post"): [(gpt2 + "c_proj.weight", rows)],
        ("gpt2", "pre"): [(gpt2 + "c_fc.weight", columns), (gpt2 + "c_fc.bias", rows)],
    }
    expected = tiny_hf_model(family).state_dict()
    for name, part in places[family, site]:
        for layer, index in MEMBERS:
            part(expected[name.format(layer)], index).mul_(2)
    assert all(torch.equal(folded[name], expected[name]) for name in expected)


def test_biases_before_a_gate_are_scaled():
    model = tiny_bridge("llama", mlp_bias=True)
    neurons = some_neurons(model, "pre")
    with kb.scale_neurons(model, neurons, lam=-2.5):
        hooked = model(TOKENS)
    folded = kb.fold_neurons(model, neurons, lam=-2.5)
    torch.testing.assert_close(folded(TOKENS).logits, hooked, rtol=1e-5, atol=1e-4)


def test_a_fused_gate_folds_at_post_alone(monkeypatch):
    monkeypatch.setitem(tiny_models.FAMILIES, "phi3", "Phi3ForCausalLM")
    model = tiny_bridge("phi3")
    with kb.scale_neurons(model, some_neurons(model), lam=3):
        hooked = model(TOKENS)
    folded = kb.fold_neurons(model, some_neurons(model), lam=3)
    torch.testing.assert_close(folded(TOKENS).logits, hooked, rtol=1e-5, atol=1e-4)
    with pytest.raises(ValueError, match=r"no module with its own weights\. Use scale_neurons"):
        kb.fold_neurons(model, some_neurons(model, "pre"), lam=3)


def test_greedy_text_is_the_same(model):
    neurons = some_neurons(model)
    with kb.scale_neurons(model, neurons, lam=6):
        hooked = model.original_model.generate(TOKENS[:1], max_new_tokens=12, do_sample=False)
    folded = kb.fold_neurons(model, neurons, lam=6)
    assert torch.equal(folded.generate(TOKENS[:1], max_new_tokens=12, do_sample=False), hooked)


def test_a_name_is_as_good_as_the_model(folder, bridge):
    neurons = some_neurons(bridge)
    by_name, by_model = (kb.fold_neurons(one, neurons, lam=2) for one in (str(folder), bridge))
    weights = by_model.state_dict()
    assert all(torch.equal(one, weights[name]) for name, one in by_name.state_dict().items())


def test_the_copy_is_independent(bridge):
    neurons = some_neurons(bridge)
    folded = kb.fold_neurons(bridge, neurons, lam=2)
    with torch.no_grad():
        for parameter in folded.parameters():
            parameter.zero_()
    assert fingerprint(bridge) == neurons.fingerprint


@pytest.mark.embedded
@pytest.mark.slow
def test_the_embedded_model(embedded):
    members = tuple(kb.Neuron(layer, 7 * layer) for layer in range(30))
    neurons = kb.NeuronSet(
        neurons=members,
        model=model_name(embedded),
        fingerprint=fingerprint(embedded),
        site="post",
        n_layers=30,
        d_mlp=1536,
    )
    tokens = kb.PromptTemplate().tokens(embedded, "Is that a form of gender bias?")
    with kb.scale_neurons(embedded, neurons, lam=4), torch.no_grad():
        hooked = embedded(tokens)
    folded = kb.fold_neurons("smollm2-135m-instruct", neurons, lam=4)
    assert folded.dtype == torch.float32
    with torch.no_grad():
        torch.testing.assert_close(folded(tokens).logits, hooked, rtol=1e-4, atol=1e-3)


def test_bad_arguments(bridge):
    neurons = some_neurons(bridge)
    for lam in (float("nan"), float("inf")):
        with pytest.raises(ValueError, match="allowed is any finite number"):
            kb.fold_neurons(bridge, neurons, lam=lam)
    with pytest.raises(ValueError, match="the neuron set is empty"):
        kb.fold_neurons(bridge, neurons - neurons, lam=2)
    with pytest.raises(ValueError, match="these neurons belong to"):
        kb.fold_neurons(tiny_bridge(seed=9), neurons, lam=2)
    with pytest.raises(ValueError, match="no such model folder"):
        kb.fold_neurons("./nowhere", neurons, lam=2)
    with pytest.raises(ValueError, match="cannot fold into a LlamaForCausalLM"):
        inspect.unwrap(kb.fold_neurons)(tiny_hf_model(), neurons, lam=2)  # as without type checks


def test_packed_weights_are_refused():
    model = tiny_bridge()
    packed = torch.nn.Parameter(torch.ones(32, 48, dtype=torch.int8), requires_grad=False)
    model.blocks[2].mlp.out.original_component.weight = packed
    with pytest.raises(ValueError, match=r"packed .*layers\.2\.mlp\.down_proj has int8"):
        kb.fold_neurons(model, some_neurons(model), lam=2)
    model = tiny_bridge()
    model.original_model.config.quantization_config = {"quant_method": "gptq"}
    with pytest.raises(ValueError, match=r"packed .*quantization_config"):
        kb.fold_neurons(model, some_neurons(model), lam=2)


def test_shared_weights_are_refused():
    plain, neurons = tiny_hf_model(), some_neurons(tiny_bridge())
    layers = plain.model.layers
    layers[1].mlp.down_proj.weight = layers[0].mlp.down_proj.weight
    before = layers[0].mlp.down_proj.weight.clone()
    with pytest.raises(ValueError, match=r"layers\.0\.mlp.* is shared with .*layers\.1\.mlp"):
        scale_weights(plain, "model.layers.0.mlp.down_proj", neurons, [3], 2)
    assert torch.equal(layers[0].mlp.down_proj.weight, before)


def test_a_factor_that_overflows(folder):
    model = kb.load_model(folder, dtype=torch.float16)
    with pytest.raises(ValueError, match="too large"):
        kb.fold_neurons(model, some_neurons(model), lam=1e7)


def test_a_fold_that_is_not_exact_is_not_written(bridge, tmp_path, monkeypatch):
    monkeypatch.setattr("kb_lens.interventions.folding.scale_weights", lambda *arguments: None)
    with pytest.raises(ValueError, match=r"folding is not exact for .* Nothing was written"):
        export(bridge, some_neurons(bridge), tmp_path / "out", lam=3)
    assert not list(tmp_path.iterdir())
