"""A baseline is trained by a few lines, and stands in for the model that it came from."""

import importlib
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from tiny_models import tiny_hf_model, tiny_tokenizer

import kb_lens as kb
from kb_lens.interventions.counterfactuals import load_word_pairs
from kb_lens.interventions.trained import Trained

EXAMPLES = Path(__file__).parents[2] / "examples"
if not EXAMPLES.is_dir():
    pytest.skip("examples are not part of an installed package", allow_module_level=True)
sys.path.insert(0, str(EXAMPLES))
train_baseline = importlib.import_module("train_baseline")

TOKENS = torch.tensor([[3, 5, 7, 11]])
PEFT = pytest.mark.skipif(find_spec("peft") is None, reason="peft is not installed")
# peft asks transformers for it
pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated")


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "base"
    tiny_hf_model().save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


def trained(base, out, *more):
    return train_baseline.main(["--model", str(base), "--out", str(out), "--steps", "2", *more])


def test_every_text_stands_beside_its_counterfactual(tmp_path):
    texts = ["The man can drive.", "Ice is cold."]
    pairs = load_word_pairs()
    expected = ["The man can drive.", "The woman can drive.", "Ice is cold."]
    assert train_baseline.augmented(texts, pairs) == expected
    assert train_baseline.augmented(expected, pairs) == expected, "each is there once"
    file = tmp_path / "texts.txt"
    file.write_text("The man can drive.\n\n  Ice is cold.\n", encoding="utf-8")
    assert train_baseline.read_texts(file) == texts


def test_the_default_texts_are_fair_and_most_name_a_group():
    texts = train_baseline.read_texts(None)
    measured = {*kb.load_benchmark("plain_text").items["text"]}
    assert len(texts) == 60
    assert measured.isdisjoint(texts)
    assert len(train_baseline.augmented(texts, load_word_pairs())) > 100


def test_a_pass_has_every_text_once_in_an_order_of_the_seed():
    texts = [str(k) for k in range(10)]
    drawn = [train_baseline.batches(texts, 4, seed) for seed in (0, 0, 1)]
    passes = [[text for _ in range(3) for text in next(of)] for of in drawn]
    assert sorted(passes[0]) == sorted(texts)
    assert passes[0] == passes[1] != passes[2]


@PEFT
def test_the_adapter_stands_in_for_its_base(base, tmp_path, capsys):
    assert trained(base, tmp_path / "cda") == 0
    said = capsys.readouterr().out
    assert f"kb-lens experiment methods {base} --also cda={tmp_path / 'cda'}" in said
    model = kb.load_model(base)
    change = Trained.of(model, str(tmp_path / "cda"))
    before = model(TOKENS)
    with change.applied(model) as measured:
        assert not torch.equal(measured(TOKENS), before)
    assert torch.equal(model(TOKENS), before)


@PEFT
def test_the_seed_decides_the_adapter(base, tmp_path):
    for name, seed in (("a", "0"), ("b", "0"), ("c", "1")):
        trained(base, tmp_path / name, "--seed", seed)
    one, same, another = (
        (tmp_path / name / "adapter_model.safetensors").read_bytes() for name in "abc"
    )
    assert one == same != another


@PEFT
def test_training_lowers_the_loss(base):
    options = train_baseline.argparse.Namespace(steps=20, batch=4, rate=1e-2, seed=0)
    model, tokenizer = train_baseline.adapted(str(base), 0), tiny_tokenizer()
    texts = ["The man can drive.", "The woman can drive.", "Ice is cold."]
    batch = tokenizer(texts[:2], return_tensors="pt", padding=True)
    labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)

    def loss():
        with torch.no_grad():
            return float(model(**batch, labels=labels).loss)

    before = loss()
    train_baseline.train(model, tokenizer, texts, options)
    assert loss() < before - 0.5


def test_without_peft_one_line_says_so(base, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(train_baseline, "find_spec", lambda name: None)
    with pytest.raises(SystemExit):
        trained(base, tmp_path / "cda")
    last = capsys.readouterr().err.splitlines()[-1]
    assert "peft is not installed: pip install 'peft" in last
    assert not (tmp_path / "cda").exists()


@PEFT
def test_an_adapter_that_is_there_is_kept(base, tmp_path, capsys):
    with pytest.raises(SystemExit):
        trained(base, tmp_path)
    assert "choose another" in capsys.readouterr().err
