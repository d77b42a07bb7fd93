"""A LoRA folder is merged into its base model, or called what it is."""

import json
from importlib.util import find_spec

import pytest
import torch
from checkpoint_files import saved
from safetensors.torch import load_file, save_file
from tiny_models import tiny_hf_model

import kb_lens as kb
from kb_lens.models.digests import same_weights
from kb_lens.models.hooked import fingerprint, form, weights_digest

# peft asks transformers for it
pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated")

RANK, SCALE = 2, 2.0
UPDATED = "model.layers.1.mlp.down_proj"


@pytest.fixture
def base(tmp_path):
    return saved(tmp_path / "base", tiny_hf_model())


@pytest.fixture
def adapter(tmp_path, base):
    """A LoRA of one down projection, as peft writes it."""
    folder = tmp_path / "adapter"
    folder.mkdir()
    config = {
        "base_model_name_or_path": str(base),
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "r": RANK,
        "lora_alpha": RANK * SCALE,
        "target_modules": [UPDATED],
    }
    (folder / "adapter_config.json").write_text(json.dumps(config))
    prefix = f"base_model.model.{UPDATED}"
    generator = torch.Generator().manual_seed(0)
    tensors = {
        f"{prefix}.lora_A.weight": torch.randn(RANK, 48, generator=generator),
        f"{prefix}.lora_B.weight": torch.randn(32, RANK, generator=generator),
    }
    save_file(tensors, folder / "adapter_model.safetensors")
    return folder


def test_without_peft_it_is_called_an_adapter(adapter, base, monkeypatch):
    monkeypatch.setattr("kb_lens.models.adapters.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"an adapter \(LoRA\) of .*pip install 'peft"):
        kb.load_model(adapter)


def test_a_merged_checkpoint_beside_its_adapter_is_ambiguous(adapter, base):
    (adapter / "config.json").write_text((base / "config.json").read_text())
    with pytest.raises(ValueError, match="does not say whether the adapter is merged"):
        kb.load_model(adapter)


def test_an_adapter_without_a_base_is_refused(adapter):
    (adapter / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    with pytest.raises(ValueError, match="does not name its base model"):
        kb.load_model(adapter)


@pytest.mark.skipif(not find_spec("peft"), reason="peft is not installed")
def test_the_merged_weight_is_the_base_s_plus_the_product(adapter, base):
    name = f"{UPDATED}.weight"
    tensors = load_file(adapter / "adapter_model.safetensors")
    down, up = (tensors[f"base_model.model.{UPDATED}.lora_{x}.weight"] for x in "AB")
    expected = load_file(base / "model.safetensors")[name] + SCALE * up @ down
    model = kb.load_model(adapter).original_model
    torch.testing.assert_close(model.model.layers[1].mlp.down_proj.weight, expected)


@pytest.mark.skipif(not find_spec("peft"), reason="peft is not installed")
def test_an_adapter_with_a_hole_is_refused(adapter):
    path = adapter / "adapter_model.safetensors"
    tensors = load_file(path)
    tensors.popitem()
    save_file(tensors, path)
    with pytest.raises(ValueError, match=r"missing: .*lora_"):
        kb.load_model(adapter)


@pytest.mark.skipif(not find_spec("peft"), reason="peft is not installed")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_merged_model_has_its_base_s_fingerprint_and_another_form(adapter, base, dtype):
    plain, merged = kb.load_model(base), kb.load_model(adapter, dtype=dtype)
    assert fingerprint(merged) == fingerprint(plain)
    assert not same_weights(weights_digest(merged), weights_digest(plain))
    assert form(merged).endswith(f", with {adapter}")
