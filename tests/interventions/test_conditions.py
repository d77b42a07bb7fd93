"""One interface for everything that is done to a model."""

from dataclasses import replace

import pytest
import torch
from tiny_models import tiny_bridge

import kb_lens as kb
from kb_lens.benchmarks.requests import Request
from kb_lens.interventions.conditions import Condition
from kb_lens.interventions.prompting import Prompting
from kb_lens.interventions.scaling import Scaling
from kb_lens.models.hooked import fingerprint, model_name


@pytest.fixture(scope="module")
def plain():
    return kb.load_benchmark("plain_text", limit=2)


def some(model, *neurons):
    return kb.NeuronSet(
        neurons=neurons or (kb.Neuron(0, 1), kb.Neuron(1, 3)),
        model=model_name(model),
        fingerprint=fingerprint(model),
        site="post",
        n_layers=model.cfg.n_layers,
        d_mlp=model.cfg.d_mlp,
    )


def test_a_prompt_begins_every_text_and_keeps_the_items(plain):
    asked = Prompting("Be fair.").asked(plain)
    assert asked.items is plain.items
    assert asked.digest != plain.digest
    for before, after in zip(plain.requests, asked.requests, strict=True):
        assert after.prompt == f"Be fair. {before.prompt}"
        assert after.options == before.options


def test_a_prompt_is_the_system_text_of_a_chat(plain):
    chat = replace(plain, requests=(Request("Who?", ("a", "b"), chat=True),) * 2)
    for one in Prompting("Be fair.").asked(chat).requests:
        assert (one.system, one.prompt) == ("Be fair.", "Who?")


def test_an_empty_prompt_is_refused():
    with pytest.raises(ValueError, match="nothing to tell"):
        Prompting(" ")


def test_scaling_is_scale_neurons(llama):
    tokens, neurons = torch.tensor([[3, 5, 7]]), some(llama)
    with kb.scale_neurons(llama, neurons, lam=3):
        expected = llama(tokens)
    with Condition("x", Scaling(neurons, 3)).applied(llama):
        assert torch.equal(llama(tokens), expected)
    with Condition("base").applied(llama):
        assert not torch.equal(llama(tokens), expected)


def test_what_differs_is_described_differently(plain):
    model = tiny_bridge("llama")
    changes = [
        Scaling(some(model), 2),
        Scaling(some(model), 3),
        Scaling(some(model), 2, "last"),
        Scaling(some(model, kb.Neuron(0, 0)), 2),
        Prompting("Be fair."),
        Prompting("Be just."),
    ]
    described = [str(change.describe()) for change in changes]
    assert len(set(described)) == len(changes)
    assert Condition("base").describe() is None
    assert Condition("base").asked(plain) is plain
