"""One checkpoint is the same in every type and place; a changed weight is another model."""

import accelerate
import pytest
import torch
from tiny_models import FAMILIES, tiny_bridge, tiny_hf_model, tiny_tokenizer
from torch import nn

import kb_lens as kb
from kb_lens.models.digests import digest_of, parameters_of, same_weights
from kb_lens.models.hooked import carry_fingerprint, fingerprint, form, model_name, weights_digest

TYPES = (torch.float32, torch.float16, torch.bfloat16)


def saved(folder, family="llama", dtype=torch.float32):
    tiny_hf_model(family).to(dtype).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture
def llama():
    return tiny_bridge("llama")


def values(seed=0):
    """Ordinary weights, and what each type rounds to zero, to infinity or to a subnormal."""
    generator = torch.Generator().manual_seed(seed)
    odd = torch.tensor([0.0, -0.0, 1e-9, -1e-9, 3e-6, 1e-40, 7e4, -1e38])
    return torch.cat([torch.randn(1000, generator=generator), odd])


@pytest.mark.parametrize("source", TYPES)
@pytest.mark.parametrize("copy", TYPES)
def test_copies_in_another_type_are_the_same(source, copy):
    original = values().to(source)
    assert same_weights(digest_of([original.to(copy)]), digest_of([original]))
    assert not same_weights(digest_of([values(seed=1).to(copy)]), digest_of([original]))


@pytest.mark.parametrize("source", [torch.float16, torch.bfloat16])
def test_all_copies_of_a_half_precision_original_are_the_same(source):
    original = values().to(source)
    digests = [digest_of([original.to(copy)]) for copy in TYPES]
    assert all(same_weights(a, b) for a in digests for b in digests)


def test_tensors_that_are_equal_count_once_and_their_order_counts():
    tensors = [values(seed) for seed in range(3)]
    assert digest_of([*tensors, tensors[1].clone()]) == digest_of(tensors)
    assert not same_weights(digest_of(tensors[::-1]), digest_of(tensors))
    assert not same_weights(digest_of([torch.cat(tensors)]), digest_of(tensors))


@pytest.mark.parametrize("distance", [1, 8191, 1 << 12])
def test_swapped_values_show(distance):
    original = values().repeat(20)
    swapped = original.clone()
    swapped[[3, 3 + distance]] = original[[3 + distance, 3]]
    assert not torch.equal(swapped, original)
    assert not same_weights(digest_of([swapped]), digest_of([original]))


def test_packed_weights_have_a_digest_of_their_bytes():
    packed = torch.arange(200, dtype=torch.uint8)
    assert digest_of([packed]) != digest_of([packed.flip(0)])


@pytest.mark.parametrize("stored", TYPES)
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_a_checkpoint_has_one_fingerprint_in_whatever_type_it_is_loaded(tmp_path, family, stored):
    saved(tmp_path, family, stored)
    loaded = [fingerprint(kb.load_model(tmp_path, dtype=dtype)) for dtype in TYPES]
    assert all(same_weights(a, b) for a in loaded for b in loaded)
    if stored == torch.float32:
        assert len(set(loaded)) == 1


def test_what_is_kept_depends_on_the_weights_as_they_are(tmp_path):
    exact, rounded = (kb.load_model(saved(tmp_path), dtype=dtype) for dtype in TYPES[:2])
    assert fingerprint(exact) == fingerprint(rounded)
    assert weights_digest(exact) != weights_digest(rounded)


@pytest.mark.parametrize("dtype", TYPES)
def test_a_weight_that_changes_after_loading_is_another_model(tmp_path, dtype):
    model = kb.load_model(saved(tmp_path), dtype=dtype)
    before = fingerprint(model)
    weight = model.original_model.model.layers[1].mlp.down_proj.weight
    with torch.no_grad():
        weight[:, 7] *= 2
        assert not same_weights(fingerprint(model), before)
        weight[:, 7] /= 2
    assert same_weights(fingerprint(model), before)


@pytest.mark.parametrize("family", FAMILIES)
def test_each_parameter_counts(family):
    model = tiny_bridge(family)
    before = fingerprint(model)
    for parameter in model.parameters():
        last = (-1,) * parameter.ndim
        value = parameter[last].item()
        parameter[last] = value + 1
        assert not same_weights(fingerprint(model), before)
        parameter[last] = value
    assert fingerprint(model) == before


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("way", ["memory", "disk"])
def test_offloaded_weights_are_read(tmp_path, way, tied):
    model = tiny_hf_model(tie_word_embeddings=tied)
    before = digest_of(parameters_of(model))
    if way == "memory":
        accelerate.cpu_offload(model, torch.device("cpu"))
    else:
        accelerate.disk_offload(model, tmp_path, torch.device("cpu"))
    assert all(parameter.is_meta for parameter in model.parameters())
    assert digest_of(parameters_of(model)) == before
    assert all(parameter.is_meta for parameter in model.parameters())


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_a_bridge_around_offloaded_weights_has_the_checkpoint_s_fingerprint(family, monkeypatch):
    def offloaded(*args):
        model = tiny_hf_model(*args)
        return accelerate.cpu_offload(model, torch.device("cpu"))

    expected = fingerprint(tiny_bridge(family))
    monkeypatch.setattr("tiny_models.tiny_hf_model", offloaded)
    model = tiny_bridge(family)
    assert any(parameter.is_meta for parameter in model.parameters())
    assert fingerprint(model) == expected


def test_weights_without_values_are_refused():
    with torch.device("meta"):
        empty = nn.Linear(3, 3)
    with pytest.raises(ValueError, match="has a shape but no values: load it with its weights"):
        digest_of(parameters_of(empty))


@torch.inference_mode()
def test_weights_made_in_inference_mode_have_a_fingerprint():
    """torch counts no changes of these, so nothing may be remembered."""
    model = tiny_bridge()
    before = fingerprint(model)
    assert before == fingerprint(tiny_bridge())
    next(model.parameters())[0, 0] += 1
    assert fingerprint(model) != before


def neurons_of(model):
    fields = {"site": "post", "n_layers": 3, "d_mlp": 48, "form": form(model)}
    return kb.NeuronSet((kb.Neuron(1, 2),), model_name(model), fingerprint(model), **fields)


@pytest.mark.parametrize("dtype", TYPES[1:])
def test_neurons_of_float32_work_in_half_precision_with_a_note(tmp_path, dtype):
    neurons = neurons_of(kb.load_model(saved(tmp_path)))
    model = kb.load_model(tmp_path, dtype=dtype)
    name = str(dtype).removeprefix("torch.")
    with pytest.warns(UserWarning, match=rf"belong to .* in float32, but .* is in {name} here\."):
        neurons.check_model(model)
    neurons_of(model).check_model(model)


def test_neurons_of_a_base_model_work_with_an_adapter_with_a_note(llama):
    """The base model's fingerprint is carried by what the adapter was merged into."""
    adapted = tiny_bridge("llama", seed=1)
    carry_fingerprint(adapted, fingerprint(llama), "a-lora")
    assert form(adapted) == "float32, with a-lora"
    with pytest.warns(UserWarning, match="is in float32, with a-lora"):
        neurons_of(llama).check_model(adapted)
    with torch.no_grad():
        next(adapted.parameters())[0, 0] += 1
    with pytest.raises(ValueError, match="Find the neurons of this model first"):
        neurons_of(llama).check_model(adapted)


def test_the_packing_is_part_of_the_form(llama):
    llama.original_model.config.quantization_config = {"quant_method": "awq"}
    assert form(llama) == "float32, packed by awq"


def test_sets_of_one_checkpoint_in_two_types_are_combined(llama):
    half = tiny_bridge()
    half.to(torch.float16)
    first, second = neurons_of(llama), neurons_of(half)
    assert first.fingerprint != second.fingerprint
    assert len(first | second) == 1
    with pytest.raises(ValueError, match="cannot combine"):
        first | neurons_of(tiny_bridge(seed=1))


def test_neurons_of_an_earlier_version_are_refused_with_that_reason(llama):
    old = kb.NeuronSet((kb.Neuron(1, 2),), "tiny", "0123456789abcdef", "post", 3, 48)
    with pytest.raises(ValueError, match="as an earlier version of kb_lens wrote them"):
        old.check_model(llama)
