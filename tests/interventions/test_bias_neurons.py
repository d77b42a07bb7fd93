"""CRISPR: the neurons are those with the highest mean attribution, and are set to 0."""

from dataclasses import replace

import pytest
import torch

import kb_lens as kb
from kb_lens.attribution.attribute import attribute
from kb_lens.interventions.bias_neurons import (
    BiasNeuronSettings,
    bias_neurons,
    statement_questions,
    top_neurons,
)
from kb_lens.interventions.scaling import Scaling
from kb_lens.interventions.steering import StatementPair, load_statements
from kb_lens.models.answers import Spelling
from kb_lens.models.prompts import PromptTemplate

PAIRS = (
    StatementPair("gender", "running", "Girls are not good at running.", "Girls are good at it."),
    StatementPair("race", "chess", "The city is bad.", "The city is not bad at all."),
)
SETTINGS = BiasNeuronSettings(5, ("Answer yes or no.", "Is it so? Say yes or no."))
QUICK = {"rule": "gauss-legendre", "n_steps": 3, "progress": False}


def test_every_statement_is_asked_with_the_biased_answer():
    questions = statement_questions(load_statements("race"))
    assert len(questions) == 40
    assert [question.answer for question in questions[:2]] == ["yes", "no"]
    first = load_statements("race")[0]
    assert questions[0].text == f"Is the following statement true? {first.biased}"
    assert questions[1].text.endswith(first.fair)


def test_ranks_are_those_of_the_mean_attribution(model):
    found = bias_neurons(model, PAIRS, settings=SETTINGS, **QUICK)
    spelling = None
    rows = []
    for instruction in SETTINGS.instructions:
        template = PromptTemplate(instruction=instruction)
        scores = attribute(
            model, statement_questions(PAIRS), template=template, spelling=spelling, **QUICK
        )
        spelling = scores.settings.spelling
        rows.append(scores.scores)
    mean = torch.cat(rows).mean(0)
    assert len(found) == 5
    assert mean[found.mask()].min() > mean[~found.mask()].max()
    assert not torch.equal(rows[0].mean(0), rows[1].mean(0)), "both wordings count"
    assert found.origin.endswith("over 4 questions and 2 instructions")


def test_the_change_sets_exactly_these_neurons_to_zero(model):
    found = bias_neurons(model, PAIRS, settings=SETTINGS, **QUICK)
    tokens = torch.tensor([[5, 6, 7, 8]])
    inputs = {}

    def catch(value, hook):
        inputs[hook.name] = value.clone()

    read = [(f"blocks.{layer}.mlp.out.hook_in", catch) for layer in range(3)]
    with Scaling(found, 0.0).applied(model):
        model.run_with_hooks(tokens, fwd_hooks=read)
    removed = torch.stack([value[0].eq(0).all(0) for value in inputs.values()])
    assert torch.equal(removed, found.mask())


def test_attributions_that_cannot_be_averaged(model):
    scores = attribute(model, statement_questions(PAIRS), **QUICK)
    other = replace(scores.settings, spelling=Spelling("YES", "NO", 1, 2))
    with pytest.raises(ValueError, match="cannot average these attributions: spelling"):
        top_neurons([scores, replace(scores, settings=other)], 3)
    with pytest.raises(ValueError, match=r"n_neurons is 144, but only \d+ neurons add"):
        top_neurons([scores], scores.scores[0].numel())


def test_bad_settings():
    with pytest.raises(ValueError, match="n_neurons is 0"):
        BiasNeuronSettings(0)
    with pytest.raises(ValueError, match="give a tuple of texts"):
        BiasNeuronSettings(instructions=())


def test_the_neurons_are_a_set_like_any_other(model, tmp_path):
    found = bias_neurons(model, PAIRS, settings=SETTINGS, **QUICK)
    found.save(tmp_path / "neurons.json")
    assert kb.NeuronSet.load(tmp_path / "neurons.json") == found
