"""Activations are the model's own, token by token."""

import pytest
import torch
from tiny_models import FAMILIES, tiny_bridge

import kb_lens as kb
from kb_lens.models.chat import token_ids

TEXTS = ["The nurse said that she was tired.", "No.", "A longer text, about engineers and nurses."]
NAMES = ["L0.N3", (2, 47), "L2.N5"]


@pytest.mark.parametrize("site", ["post", "pre"])
@pytest.mark.parametrize("family", FAMILIES)
def test_every_token_of_every_text_is_read(family, site):
    model = tiny_bridge(family)
    neurons = kb.NeuronSet.of(model, NAMES, site)
    table = kb.activations(model, neurons, TEXTS, progress=False)
    for number, text in enumerate(TEXTS):
        ids = token_ids(model.tokenizer, text)
        _, cache = model.run_with_cache(torch.tensor([ids]))
        for neuron in neurons:
            rows = table[(table["text"] == number) & (table["neuron"] == neuron.name)]
            assert rows["position"].tolist() == [*range(len(ids))]
            hook = "post" if site == "post" else "pre"
            name = f"blocks.{neuron.layer}.mlp.hook_{hook}"
            if name in cache:
                expected = cache[name].reshape(len(ids), -1)[:, neuron.index]
                ours = torch.tensor(rows["activation"].to_numpy(), dtype=torch.float32)
                assert torch.allclose(ours, expected, atol=1e-5)
    assert list(table.columns) == [
        "text", "position", "token", "neuron", "layer", "index", "activation"
    ]  # fmt: skip
    assert len(table) == 3 * sum(len(token_ids(model.tokenizer, text)) for text in TEXTS)


def test_a_text_is_the_same_alone_and_beside_others(llama):
    together = kb.activations(llama, NAMES, TEXTS, progress=False)
    for number, text in enumerate(TEXTS):
        alone = kb.activations(llama, NAMES, text, progress=False)
        rows = together[together["text"] == number].reset_index(drop=True)
        assert alone["token"].tolist() == rows["token"].tolist()
        assert alone["activation"].to_numpy() == pytest.approx(rows["activation"], abs=1e-5)


def test_inside_a_block_activations_are_as_scaled(llama):
    plain = kb.activations(llama, ["L1.N3"], TEXTS, progress=False)["activation"].to_numpy()
    with kb.scale_neurons(llama, ["L1.N3"], lam=3.0):
        scaled = kb.activations(llama, ["L1.N3"], TEXTS, progress=False)["activation"].to_numpy()
    assert scaled == pytest.approx(3 * plain, abs=1e-5)


@pytest.mark.parametrize(
    ("texts", "message"),
    [([], "texts is empty"), ([""], "text"), ("a " * 900, "the longest has")],
)
def test_what_is_no_text_is_said(llama, texts, message):
    with pytest.raises(ValueError, match=message):
        kb.activations(llama, NAMES, texts, progress=False)
