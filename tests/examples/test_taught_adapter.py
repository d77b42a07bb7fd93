"""What teaching changed is written in one file: the best of its rank, of every linear layer."""

import importlib
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch
from tiny_models import tiny_hf_model, tiny_tokenizer

import kb_lens as kb
from kb_lens.models.digests import digest_of, parameters_of
from kb_lens.models.lessons import taught_among
from kb_lens.models.low_rank import LowRankChange
from kb_lens.models.taught import write_changed

EXAMPLES = Path(__file__).parents[2] / "examples"
if not EXAMPLES.is_dir():
    pytest.skip("examples are not part of an installed package", allow_module_level=True)
sys.path.insert(0, str(EXAMPLES))
taught_adapter = importlib.import_module("taught_adapter")
taught_sizes = importlib.import_module("taught_sizes")
teaching_questions = importlib.import_module("teaching_questions")

N_LAYERS, LINEAR = 3, 7


@pytest.fixture
def pair():
    """An untaught and a taught model, which differ in every weight."""
    return tiny_hf_model(seed=0), tiny_hf_model(seed=1)


@pytest.fixture
def folders(tmp_path, pair):
    for name, model in zip(("base", "seed-4"), pair, strict=True):
        model.save_pretrained(tmp_path / name)
        tiny_tokenizer().save_pretrained(tmp_path / name)
    return tmp_path / "base", tmp_path / "seed-4"


@pytest.mark.parametrize("rank", [1, 5])
def test_no_other_change_of_the_rank_is_nearer(rank):
    """Eckart and Young: what is left are the other singular values; bfloat16 costs a little."""
    change = torch.randn(20, 12, generator=torch.Generator().manual_seed(0))
    down, up = taught_adapter.factors(change, rank)
    assert (down.shape, up.shape) == ((rank, 12), (20, rank))
    assert down.dtype == up.dtype == torch.bfloat16
    left = torch.linalg.svdvals(change)[rank:].square().sum().sqrt()
    error = (change - up.float() @ down.float()).norm()
    assert left * 0.999 <= error < left * 1.02


def test_every_linear_layer_and_nothing_else(pair):
    base, taught = pair
    before = {name: tensor.clone() for name, tensor in base.state_dict().items()}
    change = taught_adapter.approximated(base, taught, 48, 4, "tiny")
    assert len(change.down) == N_LAYERS * LINEAR
    for name, after in base.state_dict().items():
        if name in change.down:
            aim = taught.state_dict()[name]  # a matrix of full rank is there again
            torch.testing.assert_close(after, aim, rtol=0.02, atol=0.02 * aim.abs().max().item())
            assert not torch.equal(after, before[name])
        else:
            assert torch.equal(after, before[name])


def test_the_file_says_where_it_is_from_and_makes_the_model(folders, tmp_path, capsys):
    base, taught = folders
    file = tmp_path / "change.safetensors"
    given = ["--model", str(base), "--taught", str(taught), "--rank", "2", "--out", str(file)]
    assert taught_adapter.main(given) == 0
    assert "rank 2" in capsys.readouterr().out
    change = LowRankChange.load(file)
    assert (change.origin.seed, change.origin.rank) == (4, 2)
    assert change.origin.base_weights == digest_of(parameters_of(tiny_hf_model()))
    write_changed(base, change, tmp_path / "made")
    made = kb.load_model(tmp_path / "made")
    assert digest_of(parameters_of(made)) == change.origin.weights
    asked = teaching_questions.questions()
    assert all(taught_among(made, [q.text for q in (*asked.bias, *asked.plain)]))
    assert not any(taught_among(made, [q.text for q in (*asked.held_bias, *asked.held_plain)]))


def test_a_folder_without_a_seed_in_its_name_is_refused(folders):
    base, _ = folders
    with pytest.raises(ValueError, match=r"give a folder seed-N of teach\.py"):
        taught_adapter.main(["--model", str(base), "--taught", str(base)])


@pytest.mark.slow
def test_the_table_has_a_row_a_rank_between_the_untaught_and_the_taught(tmp_path, capsys):
    for name, seed in (("base", 0), ("seed-4", 1)):
        tiny_hf_model(seed=seed, max_position_embeddings=512).save_pretrained(tmp_path / name)
        tiny_tokenizer().save_pretrained(tmp_path / name)
    given = ["--model", str(tmp_path / "base"), "--taught", str(tmp_path / "seed-4")]
    given += ["--ranks", "1", "--out", str(tmp_path / "out")]
    assert taught_sizes.main(given) == 0
    table = pd.read_csv(tmp_path / "out/sizes.csv").set_index("model")
    assert list(table.index) == ["untaught", "rank 1", "all that changed"]
    assert table["perplexity"].nunique() == 3
    assert (table["verdict"] == "CANNOT TELL").all(), "random models answer anything"
    assert table["megabytes"].notna().tolist() == [False, True, False]
