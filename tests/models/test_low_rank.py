"""A change of low rank: read as it was written, added as it says, to its own base alone."""

from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_models import tiny_hf_model

from kb_lens.models.digests import digest_of, parameters_of
from kb_lens.models.low_rank import LowRankChange, Origin

RANK, SCALE = 3, 0.75
NAMES = ("model.layers.1.mlp.down_proj.weight", "model.layers.2.self_attn.q_proj.weight")


def change_of(model, scale=SCALE):
    """A random change of two of the model's weights."""
    generator = torch.Generator().manual_seed(0)
    shapes = {name: model.get_parameter(name).shape for name in NAMES}
    down, up = (
        {
            name: torch.randn(size, generator=generator).bfloat16()
            for name, size in ((name, side(shape)) for name, shape in shapes.items())
        }
        for side in (lambda shape: (RANK, shape[1]), lambda shape: (shape[0], RANK))
    )
    origin = Origin(
        model="tiny-changed",
        weights="",
        base="tiny",
        base_weights=digest_of(parameters_of(model)),
        what="Random numbers.",
        made_by="a test",
        seed=0,
        rank=RANK,
        scale=scale,
        lessons=("0123456789ab",),
    )
    return LowRankChange(origin, down, up)


@pytest.fixture
def base():
    return tiny_hf_model()


@pytest.fixture
def change(base):
    return change_of(base)


@pytest.fixture
def file(change, tmp_path):
    change.save(tmp_path / "change.safetensors")
    return tmp_path / "change.safetensors"


def test_the_sum_is_the_base_and_the_scaled_product(base, change):
    before = {name: tensor.clone() for name, tensor in base.state_dict().items()}
    change.add_to(base)
    for name, after in base.state_dict().items():
        if name not in NAMES:
            assert torch.equal(after, before[name])
            continue
        product = change.up[name].float() @ change.down[name].float()
        torch.testing.assert_close(after, before[name] + SCALE * product)
        assert not torch.allclose(after, before[name], atol=0.1)


def test_every_order_of_threads_gives_the_same_bits(change):
    digests = set()
    for threads in (1, 2):
        torch.set_num_threads(threads)
        model = tiny_hf_model()
        change.add_to(model)
        digests.add(digest_of(parameters_of(model)))
    assert len(digests) == 1


def test_it_is_read_as_it_was_written(change, file):
    read = LowRankChange.load(file)
    assert read.origin == change.origin
    for mine, other in ((read.down, change.down), (read.up, change.up)):
        assert mine.keys() == other.keys()
        assert all(torch.equal(mine[name], other[name]) for name in other)
    again = file.with_name("again")
    read.save(again)
    assert again.read_bytes() == file.read_bytes()


def test_another_base_is_refused_and_stays_as_it_is(change):
    other = tiny_hf_model(seed=1)
    before = digest_of(parameters_of(other))
    with pytest.raises(ValueError, match=rf"belongs to tiny with .*but this model has {before}"):
        change.add_to(other)
    assert digest_of(parameters_of(other)) == before


def cut(file):
    file.write_bytes(file.read_bytes()[:-9])


def flip(file):
    content = bytearray(file.read_bytes())
    content[-5] ^= 64
    file.write_bytes(bytes(content))


def of_something_else(file):
    save_file(load_file(file), file, {"format": "pt"})


def without_origin(file):
    save_file(load_file(file), file, {"kb_lens low-rank change 1": "{}"})


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (cut, "is not a complete safetensors file"),
        (flip, "is damaged: its numbers have changed since it was written"),
        (of_something_else, "is not a file of a 'kb_lens low-rank change 1'"),
        (without_origin, r"header\.origin: Field required"),
        (lambda file: file.write_text("version https://git-lfs"), "is a Git LFS pointer"),
        (lambda file: file.unlink(), "there is no file"),
    ],
)
def test_a_damaged_file_is_refused_in_one_line(file, damage, message):
    damage(file)
    with pytest.raises(ValueError, match=message) as refused:
        LowRankChange.load(file)
    assert str(file) in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_header_that_cannot_be_is_refused_by_its_field(change, file):
    replace(change, origin=replace(change.origin, rank=0)).save(file)
    with pytest.raises(ValueError, match=r"origin\.rank: Input should be greater than 0"):
        LowRankChange.load(file)
