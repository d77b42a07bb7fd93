"""What cannot be loaded is refused at once, in one line that names the model and the fault."""

import json
import pickle

import pytest
import torch
from checkpoint_files import change_config, change_weights, saved
from tiny_models import tiny_hf_model

import kb_lens as kb
from kb_lens.models.completeness import check_files


@pytest.fixture
def folder(tmp_path):
    return saved(tmp_path / "tiny", tiny_hf_model())


def refusal(name, **options) -> str:
    """What `load_model` says about it, without the beginning; one line."""
    with pytest.raises(ValueError, match="cannot load the model") as caught:
        kb.load_model(name, **options)
    message = str(caught.value)
    beginning = f"cannot load the model {str(name)!r}: "
    assert message.startswith(beginning)
    assert message.isprintable(), "a line break or a terminal's colour"
    return message.removeprefix(beginning)


@pytest.mark.parametrize("device", ["meta", "xla", "", "cuda:99", "cpu ", "hpu", "mkldnn"])
def test_a_device_on_which_nothing_is_computed(folder, device):
    assert f"no device {device!r} here" in refusal(folder, device=device)
    assert "Allowed are cpu" in refusal(folder, device=device)


SIZES = ("hidden_size", "num_hidden_layers", "num_attention_heads", "vocab_size", "head_dim")


@pytest.mark.parametrize("value", [0, -1, 10**30, "32", "x", 1.5, True, [], {}])
@pytest.mark.parametrize("name", SIZES)
def test_a_size_that_is_no_number_above_0(folder, name, value):
    change_config(folder, **{name: value})
    assert name in refusal(folder)
    assert "config" in refusal(folder) or "field" in refusal(folder)


@pytest.mark.parametrize("name", [*SIZES, "intermediate_size"])
def test_a_size_beyond_all_bounds_takes_no_time(folder, name):
    change_config(folder, **{name: 10**9})
    assert "config.json" in refusal(folder) or "multiple" in refusal(folder)


@pytest.mark.parametrize(
    "changes",
    [
        {"hidden_size": None},
        {"num_attention_heads": None},
        {"hidden_act": "no"},
        {"hidden_act": 3},
        {"rope_parameters": "no"},
        {"rope_parameters": {"rope_type": "no"}},
        {"model_type": ["llama"]},
        {"model_type": None},
        {"architectures": 3},
        {"dtype": "float99"},
        {"quantization_config": "no"},
        {"text_config": "no"},
        {"pad_token_id": 10**9},
        {"layer_types": ["no"]},
    ],
)
def test_other_values_of_a_wrong_type(folder, changes):
    change_config(folder, **changes)
    assert refusal(folder)


NESTED = {"brackets": "[" * 100_000, "braces": '{"a":' * 100_000}
TEXTS = {"empty": "", "words": "hello", "half": '{"a": ', "list": "[1]", "digits": "9" * 99_999}
FILES = ("config.json", "tokenizer_config.json", "generation_config.json", "tokenizer.json")


@pytest.mark.parametrize("text", [*NESTED, *TEXTS])
@pytest.mark.parametrize("name", FILES)
def test_a_file_that_is_no_json_object_is_named(folder, name, text):
    (folder / name).write_text((NESTED | TEXTS)[text])
    assert str(folder / name) in refusal(folder)


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_is_no_text_is_named(folder, name):
    (folder / name).write_bytes(b"\xff\xfe\x00")
    assert str(folder / name) in refusal(folder)


@pytest.mark.parametrize(
    "content",
    [{}, {"model": {"type": "No"}}, {"model": 3}, {"added_tokens": [], "model": {"type": "BPE"}}],
)
def test_a_tokenizer_that_is_none(folder, content):
    (folder / "tokenizer.json").write_text(json.dumps(content))
    assert "its tokenizer cannot be read" in refusal(folder)


def test_a_folder_without_a_tokenizer(folder):
    for path in folder.glob("tokenizer*"):
        path.unlink()
    assert "its tokenizer cannot be read: the folder has none. Save it there" in refusal(folder)


@pytest.mark.parametrize("kind", ["AutoModel", "AutoConfig", "AutoModelForCausalLM"])
def test_a_tokenizer_class_that_makes_something_else(folder, kind):
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": kind}))
    assert "which is not a tokenizer" in refusal(folder)


class Foreign:
    """Unpickled, it would write a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def with_bin(folder, content):
    """The checkpoint with these bytes, or this object, as its weights."""
    (folder / "model.safetensors").unlink()
    path = folder / "pytorch_model.bin"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        torch.save(content, path)
    return path


def test_python_objects_in_the_weights_are_not_made(folder, tmp_path):
    objects = {"weight": Foreign(tmp_path / "ran")}
    for content in (objects, pickle.dumps(objects)):
        saved(folder, tiny_hf_model())
        assert str(with_bin(folder, content)) in refusal(folder)
    assert "holds Python objects, which could run any code" in refusal(folder)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "content", [b"", b"no" * 99, b"PK\x03\x04" + b"x" * 99, [1], torch.ones(3)]
)
def test_a_bin_file_that_is_no_checkpoint_is_named(folder, content):
    assert str(with_bin(folder, content)) in refusal(folder)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.safetensors"])
@pytest.mark.parametrize("kept", [0, 3, 100, -5000])
def test_a_cut_off_file_is_named(folder, name, kept):
    path = folder / name
    if name.endswith(".bin"):
        path = with_bin(folder, tiny_hf_model().state_dict())
    path.write_bytes(path.read_bytes()[:kept])
    assert f"'{path}'" in refusal(folder)


def test_tensors_of_other_shapes_are_told_with_both(folder):
    change_weights(folder, lambda tensors: {k: v[:8].clone() for k, v in tensors.items()})
    assert "of another size: lm_head.weight [8, 32] for [400, 32]" in refusal(folder)


@pytest.mark.parametrize("files", [(), ("model.safetensors",), ("config.json.bak",)])
def test_a_folder_without_a_config(tmp_path, files):
    for name in files:
        (tmp_path / name).touch()
    assert f"'{tmp_path}' has no config.json" in refusal(tmp_path)


@pytest.fixture
def shards(folder):
    """The checkpoint's shards; its weights are in these files alone."""
    (folder / "model.safetensors").unlink()
    tiny_hf_model().save_pretrained(folder, max_shard_size="20KB")
    return sorted(folder.glob("model-*.safetensors"))


def test_a_missing_shard_is_named(folder, shards):
    n = len(shards)
    shards[1].unlink()
    said = f"1 of {n} files that '{folder}/model.safetensors.index.json' lists is missing: "
    assert f"{said}{shards[1].name}. Download again" in refusal(folder)
    for path in shards[2:]:
        path.unlink()
    assert f"{n - 1} of {n} files" in refusal(folder)


def test_shards_without_their_index_are_named(folder, shards):
    index = folder / "model.safetensors.index.json"
    for content in ("{}", '{"weight_map": [1]}', '{"weight_map": {"a": 1}}'):
        index.write_text(content)
        assert f"'{index}' has no weight_map of file names" in refusal(folder)
    index.unlink()
    assert "has shards (model-*-of-*.safetensors) without model.safetensors.index.json" in (
        refusal(folder)
    )
    for path in shards:
        path.rename(folder / f"pytorch_{path.stem}.bin")
    assert "without pytorch_model.bin.index.json" in refusal(folder)


def test_an_index_that_transformers_does_not_read_is_not_looked_at(folder, shards):
    index = {"weight_map": {"a": "pytorch_model-00001-of-00002.bin"}}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    check_files(folder)
    (folder / "model.safetensors.index.json").unlink()
    with pytest.raises(ValueError, match="1 of 1 files that"):
        check_files(folder)
    saved(folder, tiny_hf_model())
    check_files(folder)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_file_in_place_of_a_folder(folder, name):
    assert "it is a file. Give a .gguf file, or the folder" in refusal(folder / name)


@pytest.mark.parametrize(
    "name",
    ["", " ", "my model", "a\nb", "a\0b", "\x1b[31m", "a" * 5000, "a?b", "-a/-b", "é", "a//b"],
)
def test_a_name_that_nothing_can_have(name):
    assert refusal(name)


def test_a_name_that_the_hub_does_not_give(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert "not in the cache, and the hub does not have it" in refusal("nobody/nothing")
