"""Neurons of the tiny models that are folded in the tests."""

import torch

import kb_lens as kb
from kb_lens.models.hooked import fingerprint, model_name

TOKENS = torch.tensor([[5, 6, 7, 8], [9, 10, 11, 12]])
MEMBERS = (kb.Neuron(0, 3), kb.Neuron(0, 5), kb.Neuron(2, 47))


def some_neurons(model, site="post", members=MEMBERS):
    return kb.NeuronSet(
        neurons=members,
        model=model_name(model),
        fingerprint=fingerprint(model),
        site=site,
        n_layers=model.cfg.n_layers,
        d_mlp=48,
        tau=0.1,
        beta=0.2,
        origin="4 questions on gender",
    )
