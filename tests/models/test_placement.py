"""A model over several devices, on disk or packed gives what the whole one gives, or is refused."""

from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch
from checkpoint_files import saved
from pretended_devices import PretendedDevices, place_of, spread
from test_loading_kinds import MULTIMODAL, TEXT
from tiny_models import random_model, tiny_hf_model, tiny_tokenizer
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

import kb_lens as kb
from kb_lens.attribution import engines
from kb_lens.benchmarks.requests import Request
from kb_lens.checks.controls import influence, random_neurons
from kb_lens.checks.neuron_effects import neuron_effects
from kb_lens.checks.neuron_meaning import output_directions, promoted_tokens, top_prompts
from kb_lens.evaluation.scoring import option_logprobs
from kb_lens.interventions.fairsteer import FairSteer
from kb_lens.interventions.folding import export
from kb_lens.interventions.projection import Projection
from kb_lens.interventions.scaling import Scaling
from kb_lens.interventions.steering import Steering
from kb_lens.interventions.trained import Trained
from kb_lens.models import placement
from kb_lens.models.devices import check_unmixed
from kb_lens.models.hooked import fingerprint, form, model_name, weights_digest
from kb_lens.models.loading import _bridge
from kb_lens.models.placement import Placement, on_gpu
from kb_lens.runs.execution import Execution, RunExecution
from kb_lens.runs.record import RunLog
from kb_lens.runs.settings import ModelChoice, RunSettings, with_keywords

TOKENS = torch.tensor([[5, 6, 7, 8, 9, 10]])
BLOCKS = {"llama": "model.layers", "gpt2": "transformer.h"}
ENDS = {
    "llama": ("model.embed_tokens", "model.rotary_emb", "model.norm", "lm_head"),
    "gpt2": ("transformer.wte", "transformer.wpe", "transformer.ln_f", "lm_head"),
}
FAMILIES = pytest.mark.parametrize("family", BLOCKS)


def questions():
    return kb.load_questions()[:3]


def attributed(model, **options):
    return kb.attribute(model, questions(), progress=False, **options).scores


def neurons_of(model):
    return kb.select_neurons(kb.attribute(model, questions(), progress=False), 0.3, 0.1)


def blocks_on(family, place):
    """The last two of three blocks somewhere else than the rest."""
    names = dict.fromkeys((*ENDS[family], f"{BLOCKS[family]}.0"), "cpu")
    return names | {f"{BLOCKS[family]}.{layer}": place for layer in (1, 2)}


@pytest.mark.slow
@FAMILIES
@pytest.mark.parametrize("everything", [True, False])
def test_weights_on_disk_give_what_the_whole_model_gives(tmp_path, family, everything):
    saved(tmp_path, tiny_hf_model(family))
    whole = kb.load_model(tmp_path)
    device_map = {"": "disk"} if everything else blocks_on(family, "disk")
    split = kb.load_model(tmp_path, device_map=device_map)
    assert any(weight.is_meta for weight in split.parameters())
    assert split.cfg.device == "cpu"
    assert fingerprint(split) == fingerprint(whole)
    assert torch.equal(attributed(split), attributed(whole))
    neurons = neurons_of(whole)
    with kb.scale_neurons(whole, neurons, lam=2.0), kb.scale_neurons(split, neurons, lam=2.0):
        assert torch.equal(split(TOKENS), whole(TOKENS))
    assert promoted_tokens(split, neurons).equals(promoted_tokens(whole, neurons))
    folded = kb.fold_neurons(split, neurons, lam=2.0)
    with torch.no_grad(), kb.scale_neurons(whole, neurons, lam=2.0):
        torch.testing.assert_close(folded(TOKENS).logits, whole(TOKENS))


def test_a_model_on_disk_writes_and_is_measured(tmp_path):
    saved(tmp_path, tiny_hf_model())
    whole, split = kb.load_model(tmp_path), kb.load_model(tmp_path, device_map={"": "disk"})
    benchmark = kb.load_benchmark("over_correction", limit=6)
    first, second = (
        kb.evaluate(model, benchmark, progress=False).items for model in (whole, split)
    )
    assert first.equals(second)
    export(split, neurons_of(whole), tmp_path / "out", lam=2.0)
    assert fingerprint(kb.load_model(tmp_path / "out")) != fingerprint(whole)


def test_a_trained_checkpoint_is_put_where_the_model_is(tmp_path):
    saved(tmp_path / "base", packable())
    saved(tmp_path / "trained", packable(seed=1))
    for options in ({"device_map": {"": "disk"}}, {"quantization": "4bit"}):
        model = kb.load_model(tmp_path / "base", **options)
        trained = Trained.of(model, tmp_path / "trained")
        with trained.applied(model) as other:
            assert form(other) == form(model)
            disk = [[weight.is_meta for weight in one.parameters()] for one in (model, other)]
            assert disk[0] == disk[1]


def test_a_map_of_one_device_is_that_device(tmp_path):
    saved(tmp_path, tiny_hf_model())
    if torch.cuda.is_available():
        pytest.skip("auto is the GPU")
    model = kb.load_model(tmp_path, device_map="auto", max_memory={"cpu": "1GiB"})
    assert {weight.device.type for weight in model.parameters()} == {"cpu"}
    assert torch.equal(model(TOKENS), kb.load_model(tmp_path)(TOKENS))


# --- several GPUs, which are pretended: see `pretended_devices` ---------------------------------


def changed(make):
    """The logits under a change that `make` makes for a model."""

    def logits(model):
        change = make(model, model_name(model), fingerprint(model))
        with change.applied(model):
            return model(TOKENS).cpu()

    return logits


def unit(seed):
    vector = torch.randn(32, generator=torch.Generator().manual_seed(seed))
    return vector / vector.norm()


def packable(**changes):
    """A tiny model whose rows are multiples of the 64 weights that share a scale in 4 bits."""
    return tiny_hf_model(hidden_size=64, intermediate_size=128, **changes)


def first_neurons(model):
    members = tuple(kb.Neuron(layer, index) for layer in range(3) for index in range(5))
    return kb.NeuronSet(members, model_name(model), fingerprint(model), "post", 3, model.cfg.d_mlp)


def measured(model):
    return kb.evaluate(model, kb.load_benchmark("over_correction", limit=4), progress=False).items


def logprobs(model):
    return torch.from_numpy(np.array(option_logprobs(model, REQUESTS, progress=False).logprob))


TEXTS = ["One text of some words.", "Another one."]
REQUESTS = [
    Request(f"What is {thing}? It is", options=(" a tool.", " a toy of mine.", " nothing"))
    for thing in ("a saw", "a ball", "this")
]


WORK = {
    "attribution": lambda model: attributed(model, batch_size=64),
    "attribution at pre": lambda model: attributed(model, batch_size=64, site="pre"),
    "attribution layer by layer": lambda model: attributed(model, engine="per-layer"),
    "knowledge": lambda model: kb.check_knowledge(model, questions(), progress=False).table,
    "written answers": measured,
    "scored texts": lambda model: logprobs(model),
    "scaling": changed(lambda model, *_: Scaling(first_neurons(model), 2.0)),
    "scaling last": changed(lambda model, *_: Scaling(first_neurons(model), 2.0, "last")),
    "steering": changed(lambda _, *whose: Steering(unit(0), 2, *whose)),
    "projection": changed(lambda _, *whose: Projection(unit(1)[None], 2, *whose)),
    "fairsteer": changed(lambda _, *whose: FairSteer(unit(2), unit(3), 0.0, 2, *whose)),
    "folding": lambda model: kb.fold_neurons(model, first_neurons(model), lam=2.0)(
        TOKENS
    ).logits.detach(),
    "influence": lambda model: influence(model, TEXTS, progress=False),
    "texts": lambda model: top_prompts(model, first_neurons(model), TEXTS, progress=False),
    "tokens": lambda model: promoted_tokens(model, first_neurons(model)),
    "effects": lambda model: neuron_effects(
        model, first_neurons(model), questions(), progress=False
    ).table(),
}


@pytest.mark.slow
@FAMILIES
@pytest.mark.parametrize("work", WORK.values(), ids=WORK)
def test_layers_on_two_gpus_give_what_one_device_gives(family, work, monkeypatch):
    one = Placement(torch.device("cpu"), torch.float32)
    expected = work(_bridge("tiny", tiny_hf_model(family), tiny_tokenizer(), one))
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (1 << 30, 1 << 31))
    with spread(hf_model := tiny_hf_model(family), two_gpus(family)):
        mapped = Placement(None, torch.float32, device_map=two_gpus(family))
        split = _bridge("tiny", hf_model, tiny_tokenizer(), mapped)
        assert {str(place_of(weight)) for weight in split.parameters()} == {"cuda:0", "cuda:1"}
        result = work(split)
    if isinstance(expected, torch.Tensor):
        torch.testing.assert_close(result, expected)
    else:
        pd.testing.assert_frame_equal(result, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.filterwarnings("ignore:.*end at the rounding of bfloat16")
def test_half_precision_on_two_gpus_is_that_of_one():
    one = Placement(torch.device("cpu"), torch.bfloat16)
    whole = _bridge("tiny", tiny_hf_model().bfloat16(), tiny_tokenizer(), one)
    expected = attributed(whole, batch_size=64)
    with spread(hf_model := tiny_hf_model().bfloat16(), two_gpus("llama")):
        mapped = Placement(None, torch.bfloat16, device_map="auto")
        split = _bridge("tiny", hf_model, tiny_tokenizer(), mapped)
        torch.testing.assert_close(attributed(split, batch_size=64), expected)


def two_gpus(family):
    """The last two of three blocks and what follows on the second GPU."""
    tied = family == "gpt2"  # its embedding is its unembedding
    embedding, positions, norm, head = ENDS[family]
    blocks = {f"{BLOCKS[family]}.{layer}": min(layer, 1) for layer in range(3)}
    return {embedding: 0, positions: 0, **blocks, norm: 1, head: 0 if tied else 1}


def test_tensors_on_two_pretended_gpus_cannot_be_added():
    with PretendedDevices():
        first, second = (torch.ones(2, device=f"cuda:{number}") for number in (0, 1))
        with pytest.raises(RuntimeError, match=r"cuda:0.*cuda:1"):
            first + second
        assert (first.to(second.device) + second).device == torch.device("cuda", 1)


# --- packed ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("quantization", "bits"), [("4bit", 4), ("8bit", 8)])
def test_packed_weights_are_those_of_their_checkpoint(tmp_path, quantization, bits):
    saved(tmp_path, packable())
    whole, packed = kb.load_model(tmp_path), kb.load_model(tmp_path, quantization=quantization)
    assert fingerprint(packed) == fingerprint(whole)
    assert form(packed) == f"float32, packed by bitsandbytes in {bits} bits"
    difference = float((packed(TOKENS) - whole(TOKENS)).abs().max())
    assert 1e-3 < difference < float(whole(TOKENS).abs().max())
    with pytest.raises(ValueError, match="packed"):
        kb.fold_neurons(packed, first_neurons(packed), lam=2.0)


@pytest.mark.parametrize("quantization", ["4bit", "8bit"])
def test_weights_that_differ_in_their_scales_alone_are_others(tmp_path, quantization):
    hf_model = packable()
    saved(tmp_path / "one", hf_model)
    for block in hf_model.model.layers:
        block.mlp.up_proj.weight *= 2  # the packed integers stay as they were
    saved(tmp_path / "other", hf_model)
    one, other = (kb.load_model(tmp_path / n, quantization=quantization) for n in ("one", "other"))
    assert not torch.equal(one(TOKENS), other(TOKENS))
    assert weights_digest(one) != weights_digest(other)


@pytest.mark.parametrize(("quantization", "tolerance"), [("4bit", 0.2), ("8bit", 0.01)])
def test_what_needs_the_down_projection_unpacks_it(tmp_path, quantization, tolerance):
    saved(tmp_path, packable())
    whole, packed = kb.load_model(tmp_path), kb.load_model(tmp_path, quantization=quantization)
    expected, found = output_directions(whole, 1), output_directions(packed, 1)
    assert found.shape == expected.shape
    assert float((found - expected).norm() / expected.norm()) < tolerance
    packed(TOKENS)  # bitsandbytes moves its scales
    assert torch.equal(output_directions(packed, 1), found)
    kept = random_neurons(
        first_neurons(packed), seed=0, influence=influence(packed, TEXTS, progress=False)
    )
    assert len(kept) == 15


def test_a_packed_multimodal_model_says_so(tmp_path):
    kind = "Gemma3ForConditionalGeneration"
    text = TEXT | {"hidden_size": 64, "intermediate_size": 128, "head_dim": 16}
    # The image tower, whose rows are narrow, is not used.
    saved(tmp_path, random_model(kind, **MULTIMODAL[kind] | {"text_config": text}))
    model = kb.load_model(tmp_path, quantization="4bit")
    assert form(model) == "float32, packed by bitsandbytes in 4 bits"
    assert placement.placed_like(model)["quantization"] == "4bit"


def test_a_trained_checkpoint_in_another_form_is_refused(tmp_path):
    config = BitsAndBytesConfig(load_in_4bit=True)
    saved(tmp_path / "whole", packable())
    packed = AutoModelForCausalLM.from_pretrained(
        tmp_path / "whole", quantization_config=config, device_map={"": "cpu"}
    )
    saved(tmp_path / "packed", packed)
    with pytest.raises(ValueError, match="the effect of packing would count as the method's"):
        Trained.of(kb.load_model(tmp_path / "packed"), tmp_path / "whole")


def test_a_run_is_not_gone_on_with_in_another_form(tmp_path):
    saved(tmp_path / "m", packable())
    packed, whole = (kb.load_model(tmp_path / "m", quantization=q) for q in ("4bit", None))
    log = partial(RunLog, tmp_path / "out", "run", execution=Execution())
    log(settings=ModelChoice().of(packed)).begin(packed)
    for settings in (ModelChoice().of(whole), ModelChoice().of(packed)):
        with pytest.raises(ValueError, match=r"with (quantization '4bit'|form 'float32, packed)"):
            log(settings=settings).begin(whole)
    log(settings=ModelChoice().of(packed)).begin(packed)


def test_both_ways_of_attribution_agree_on_four_bits(tmp_path):
    saved(tmp_path, packable())
    model = kb.load_model(tmp_path, quantization="4bit")
    joined, plain = attributed(model, engine="joined"), attributed(model, engine="per-layer")
    torch.testing.assert_close(joined, plain)


def test_what_cannot_be_packed_is_refused(tmp_path):
    saved(tmp_path, tiny_hf_model("gpt2", n_embd=64, n_inner=128))
    with pytest.raises(ValueError, match="cannot split a fused QKV projection") as caught:
        kb.load_model(tmp_path, quantization="4bit")
    assert "\n" not in str(caught.value)


def test_without_its_package_packing_is_refused(monkeypatch):
    monkeypatch.setattr(placement, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"needs bitsandbytes: `pip install 'bitsandbytes"):
        kb.load_model(quantization="4bit")


# --- what is asked for -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"device": "cpu", "device_map": "auto"}, "device and device_map are both given"),
        ({"max_memory": {0: "1GiB"}}, "max_memory needs a device_map"),
        ({"device_map": "evenly"}, "device_map is 'evenly': allowed are auto, balanced"),
        ({"device_map": {}}, "device_map is {}: allowed are"),
        ({"device_map": {"model": True}}, "device_map puts 'model' where it cannot be"),
        ({"device_map": {"model": "cuda:99"}}, "device_map puts 'model'.*no device 'cuda:99'"),
        ({"device_map": "auto", "max_memory": {"cpu": "much"}}, "max_memory is 'much' for 'cpu'"),
        ({"device_map": {"": "cpu"}, "max_memory": {"cpu": "1GiB"}}, "that is 'auto' or another"),
        ({"device_map": "auto", "max_memory": {}}, "max_memory is"),
        ({"device_map": "auto", "max_memory": {99: "1GiB"}}, "max_memory is '1GiB' for 99"),
        ({"quantization": "4bit", "device_map": {"": "disk"}}, "cannot be on disk"),
        ({"quantization": "4bit", "dtype": torch.float64}, "not in float64"),
        ({"dtype": "float"}, "dtype is 'float': allowed are auto, torch.float32"),
        ({"quantization": "2bit"}, "quantization is '2bit': allowed are '4bit' and '8bit'"),
    ],
)
def test_a_placement_that_cannot_be_is_refused_in_one_line(options, reason):
    with pytest.raises(ValueError, match=reason) as caught:
        kb.load_model("no/such-model", **options)
    assert "\n" not in str(caught.value)


def test_gpus_beside_cpu_or_disk_are_refused():
    with pytest.raises(ValueError, match="spread over GPUs and cpu and disk"):
        check_unmixed([0, "cpu", "disk", 1])
    check_unmixed([0, 1])
    check_unmixed(["cpu", "disk"])


def test_the_type_is_the_checkpoint_s_on_a_gpu_and_float32_on_a_cpu(tmp_path):
    saved(tmp_path, tiny_hf_model().bfloat16())
    assert kb.load_model(tmp_path).cfg.dtype == torch.float32
    assert kb.load_model(tmp_path, device_map={"": "disk"}).cfg.dtype == torch.float32
    assert kb.load_model(tmp_path, dtype=torch.float16).cfg.dtype == torch.float16
    assert placement.stored_dtype(tmp_path) == torch.bfloat16
    assert on_gpu(torch.device("cuda", 1), None)
    assert on_gpu(None, {"model": 0})
    assert not on_gpu(None, {"model": "cpu", "lm_head": "disk"})
    assert not on_gpu(torch.device("cpu"), None)


def test_rows_a_pass_are_those_of_the_fullest_gpu(monkeypatch):
    room = {"cuda:0": 1 << 34, "cuda:1": 1 << 27}
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (room[str(device)], 1 << 40))
    with spread(hf_model := tiny_hf_model(), two_gpus("llama")):
        mapped = Placement(None, torch.float32, device_map="auto")
        split = _bridge("tiny", hf_model, tiny_tokenizer(), mapped)
        assert engines._free_memory(split) == 1 << 27


def test_a_map_with_names_of_no_module_is_refused(tmp_path):
    saved(tmp_path, tiny_hf_model())
    with pytest.raises(
        ValueError, match=r"device_map names 'model\.layer\.0', which is not a module"
    ):
        kb.load_model(tmp_path, device_map={"": "cpu", "model.layer.0": "cpu"})
    with pytest.raises(ValueError, match=r"device_map has no device for lm_head") as caught:
        kb.load_model(tmp_path, device_map={"model": "disk"})
    assert len(str(caught.value)) < 200


def test_a_table_of_the_library_is_an_option_of_the_record():
    given = {"device_map": {"": "disk"}, "max_memory": None}
    _, execution = with_keywords(RunSettings(), RunExecution(), given)
    assert execution.device_map == '{"": "disk"}'
    assert execution.arguments()["device_map"] == {"": "disk"}
    memory = {"device_map": "auto", "max_memory": {"cpu": "1GiB"}}
    _, execution = with_keywords(RunSettings(), RunExecution(), memory)
    assert execution.arguments()["max_memory"] == {"cpu": "1GiB"}


def test_rows_that_would_be_unpacked_wrongly_are_refused(tmp_path):
    saved(tmp_path, tiny_hf_model())
    with pytest.raises(ValueError, match=r"has rows of 32 weights.*multiples of 64: use quant"):
        kb.load_model(tmp_path, quantization="4bit")


def test_a_pass_leaves_packed_weights_as_they_are(tmp_path):
    """On some processors bitsandbytes packs them again."""
    saved(tmp_path, packable())
    model = kb.load_model(tmp_path, quantization="4bit")
    before = {name: weight.clone() for name, weight in model.named_parameters()}
    digest = weights_digest(model)
    model(TOKENS)
    assert all(torch.equal(weight, before[name]) for name, weight in model.named_parameters())
    assert weights_digest(model) == digest
