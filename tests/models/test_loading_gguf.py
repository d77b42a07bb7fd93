"""A GGUF file is read whole, or refused; what is kept of it was checked."""

import json
import os

import gguf
import numpy as np
import pytest
import torch
from checkpoint_files import point
from tiny_models import D_MLP, D_MODEL, N_CTX, N_HEADS, N_LAYERS, tiny_hf_model, tiny_tokenizer

import kb_lens as kb
from kb_lens.files import _HOST
from kb_lens.models.gguf import cache_folder, converted

TOKENS = torch.tensor([[5, 6, 7]])
FACTORS = np.array([1, 2, 4, 8], dtype=np.float32)


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv("KB_LENS_CACHE", str(tmp_path / "cache"))


def _describe(writer) -> None:
    """The sizes of the tiny Llama and the tiny tokenizer."""
    writer.add_block_count(N_LAYERS)
    writer.add_context_length(N_CTX)
    writer.add_embedding_length(D_MODEL)
    writer.add_feed_forward_length(D_MLP)
    writer.add_head_count(N_HEADS)
    writer.add_head_count_kv(N_HEADS // 2)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_rope_freq_base(1e4)
    writer.add_rope_dimension_count(D_MODEL // N_HEADS)
    bpe = json.loads(tiny_tokenizer().backend_tokenizer.to_str())["model"]
    tokens = sorted(bpe["vocab"], key=bpe["vocab"].get)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokens)
    writer.add_token_types([1] * len(tokens))
    writer.add_token_merges([" ".join(pair) for pair in bpe["merges"]])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)


def _interleaved(weight, n_heads):
    """Rows of queries and keys in the order in which llama.cpp rotates them."""
    halves = weight.reshape(n_heads, 2, len(weight) // n_heads // 2, *weight.shape[1:])
    return halves.swapaxes(1, 2).reshape(weight.shape)


def written(path, without="nothing", extra=(), n_parts=None, stretched=None):
    """The tiny Llama as a GGUF file, less and more than whole where asked for."""
    writer = gguf.GGUFWriter(path, "llama")
    _describe(writer)
    if n_parts is not None:
        writer.add_uint16("split.count", n_parts)
    if stretched is not None:
        writer.add_rope_scaling_type(stretched)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, N_LAYERS)
    for key, tensor in tiny_hf_model().state_dict().items():
        module, _, kind = key.rpartition(".")
        name = f"{names.get_name(module)}.{kind}"
        weight = tensor.numpy()
        if "attn_q" in name or "attn_k" in name:
            weight = _interleaved(weight, N_HEADS if "attn_q" in name else N_HEADS // 2)
        if without not in name:
            writer.add_tensor(name, np.ascontiguousarray(weight))
    for name in extra:
        writer.add_tensor(name, FACTORS)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_a_whole_file_computes_what_its_model_computes(tmp_path):
    path = written(tmp_path / "tiny.gguf")
    torch.testing.assert_close(kb.load_model(path)(TOKENS), tiny_hf_model()(TOKENS).logits)
    assert len(list((cache_folder() / "models").glob("tiny-v2-*"))) == 1
    assert kb.load_model(path).cfg.n_layers == N_LAYERS, "from the cache"


def test_a_copy_is_not_converted_again_and_other_weights_are(tmp_path):
    path = written(tmp_path / "tiny.gguf")
    folder = converted(path)
    copy = tmp_path / "elsewhere" / "tiny.gguf"
    copy.parent.mkdir()
    copy.write_bytes(path.read_bytes())  # at another time, as each installation of a package
    assert converted(copy) == folder

    before = copy.stat()
    weights = np.memmap(copy, np.uint8, "r+")
    weights[-8] ^= 1  # one bit of the last weights; size and time stay
    weights.flush()
    os.utime(copy, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert converted(copy) != folder


@pytest.mark.parametrize("umask", [0o077, 0o022, 0o002])
def test_a_conversion_has_the_modes_of_the_umask(tmp_path, umask):
    path = written(tmp_path / "tiny.gguf")
    before = os.umask(umask)
    try:
        folder = converted(path)
    finally:
        os.umask(before)
    assert folder.stat().st_mode & 0o777 == 0o777 & ~umask
    assert {file.stat().st_mode & 0o777 for file in folder.iterdir()} == {0o666 & ~umask}


def test_a_conversion_that_was_killed_leaves_nothing(tmp_path, dead):
    path = written(tmp_path / "tiny.gguf")
    folder = converted(path)
    half = folder.with_name(f"{folder.name}.{_HOST}-{dead}-1.part")
    folder.rename(half)
    (half / "config.json").unlink()
    assert converted(path) == folder
    assert list(folder.parent.iterdir()) == [folder]


def test_rotary_factors_divide_the_frequencies(tmp_path):
    slowed = tiny_hf_model()
    slowed.model.rotary_emb.inv_freq /= torch.from_numpy(FACTORS)
    loaded = kb.load_model(written(tmp_path / "tiny.gguf", extra=["rope_freqs.weight"]))
    torch.testing.assert_close(loaded(TOKENS), slowed(TOKENS).logits)
    assert not torch.allclose(loaded(TOKENS), tiny_hf_model()(TOKENS).logits)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ({"without": "blk.1.ffn"}, "missing: model.layers.1.mlp.down_proj.weight"),
        ({"extra": ["blk.0.ffn_up.bias"]}, "left over: blk.0.ffn_up.bias"),
        ({"stretched": gguf.RopeScalingType.YARN}, "rope.scaling.type 'yarn' cannot be converted"),
        ({"n_parts": 2}, "is one of 2 parts of a model. Merge them: `llama-gguf-split --merge"),
    ],
)
def test_a_file_that_is_not_whole_is_refused_and_not_kept(tmp_path, fault, message):
    path = written(tmp_path / "tiny.gguf", **fault)
    with pytest.raises(ValueError, match=message) as caught:
        kb.load_model(path)
    assert "\n" not in str(caught.value)
    assert not list((cache_folder() / "models").iterdir())


@pytest.mark.parametrize("name", ["a-00001-of-00003.gguf", "a-00003-of-00003.gguf"])
def test_any_part_is_known_by_its_name_too(tmp_path, name):
    with pytest.raises(ValueError, match="is one of 3 parts"):
        kb.load_model(written(tmp_path / name))


def test_the_only_part_is_whole(tmp_path):
    path = written(tmp_path / "a-00001-of-00001.gguf", n_parts=1)
    assert kb.load_model(path).cfg.n_layers == N_LAYERS


@pytest.mark.parametrize("kept", [10, 3000, -5000, -4])
def test_a_cut_off_file_is_called_that(tmp_path, kept):
    path = written(tmp_path / "tiny.gguf")
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(ValueError, match="it is cut off or damaged"):
        kb.load_model(path)


def test_a_git_lfs_pointer_is_called_one(tmp_path):
    path = tmp_path / "tiny.gguf"
    point(path)
    with pytest.raises(ValueError, match="is a Git LFS pointer"):
        kb.load_model(path)


def headed(path, *keys, tensors=(), **options):
    """A file with some of the tiny Llama's header."""
    writer = gguf.GGUFWriter(path, "llama", **options)
    values = {"block_count": N_LAYERS, "embedding_length": D_MODEL, "head_count": N_HEADS}
    for key in keys:
        getattr(writer, f"add_{key}")(values[key])
    for name in tensors:
        writer.add_tensor(name, np.ones((400, D_MODEL), dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.mark.parametrize(
    ("keys", "missing"),
    [
        ((), "llama.block_count, llama.embedding_length, llama.feed_forward_length"),
        (("block_count",), "no llama.embedding_length, llama.feed_forward_length"),
        (("block_count", "embedding_length", "head_count"), "no llama.feed_forward_length"),
    ],
)
def test_a_header_without_sizes_is_refused_at_once(tmp_path, keys, missing):
    path = headed(tmp_path / "a.gguf", *keys, tensors=["token_embd.weight"])
    with pytest.raises(ValueError, match=f"cannot load the model .* has .*{missing}") as caught:
        kb.load_model(path)
    assert "\n" not in str(caught.value)


def test_a_file_without_tensors_is_called_that(tmp_path):
    with pytest.raises(ValueError, match="has no tensors"):
        kb.load_model(headed(tmp_path / "a.gguf", "block_count"))


def test_the_other_byte_order_is_called_that(tmp_path):
    options = {"endianess": gguf.GGUFEndian.BIG, "tensors": ["token_embd.weight"]}
    with pytest.raises(ValueError, match=r"big-endian.*gguf-convert-endian FILE little"):
        kb.load_model(headed(tmp_path / "a.gguf", **options))


def test_more_layers_than_tensors_are_refused_at_once(tmp_path):
    path = written(tmp_path / "a.gguf")
    key = b"llama.block_count" + (4).to_bytes(4, "little")  # of type uint32
    _patched(path, key + N_LAYERS.to_bytes(4, "little"), key + (10**9).to_bytes(4, "little"))
    with pytest.raises(ValueError, match="block_count = '1000000000': its 30 tensors allow"):
        kb.load_model(path)


def _patched(path, before: bytes, after: bytes):
    """The file with one run of bytes replaced, which stands in it once."""
    content = path.read_bytes()
    assert content.count(before) == 1
    path.write_bytes(content.replace(before, after))
    return path


def test_an_unknown_type_of_tensors_is_called_that(tmp_path):
    path = written(tmp_path / "a.gguf")
    name, dims = b"output_norm.weight", (1).to_bytes(4, "little")
    size = D_MODEL.to_bytes(8, "little")
    header = name + dims + size
    _patched(path, header + (0).to_bytes(4, "little"), header + (99).to_bytes(4, "little"))
    with pytest.raises(ValueError, match=r"has tensors of an unknown type .*Upgrade the package"):
        kb.load_model(path)


@pytest.mark.parametrize("content", [b"", b"GG", b"PK\x03\x04", b"hello world" * 9])
@pytest.mark.parametrize("name", ["a.gguf", "a.GGUF"])
def test_another_file_is_called_none(tmp_path, name, content):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(ValueError, match="is not a GGUF file"):
        kb.load_model(path)
