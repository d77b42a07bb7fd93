"""Scaling one neuron: the same as scaling a set of one, whatever the way that it runs."""

import math
from dataclasses import replace

import pytest
import torch
from tiny_models import FAMILIES, tiny_bridge

import kb_lens as kb
from kb_lens.checks.neuron_effects import neuron_effects
from kb_lens.models.hooked import fingerprint, model_name
from kb_lens.passes.one_token_rows import OneTokenRows


def some_neurons(model, site="post", members=((0, 3), (0, 5), (1, 7), (2, 1))):
    neurons = tuple(kb.Neuron(*member) for member in members)
    return kb.NeuronSet(neurons, model_name(model), fingerprint(model), site, 3, 48)


def one_at_a_time(model, neurons, questions, spelling, lam, positions):
    """P(right) and logit difference [question, neuron] by whole prompts and `scale_neurons`."""
    rows = []
    for question in questions:
        tokens = kb.PromptTemplate().tokens(model, question.text)
        right, wrong = spelling.tokens(question.answer)
        for neuron in neurons:
            alone = replace(neurons, neurons=(neuron,))
            with kb.scale_neurons(model, alone, lam=lam, positions=positions):
                logits = model(tokens)[0, -1]
            rows.append((logits.softmax(-1)[right], logits[right] - logits[wrong]))
    return torch.tensor(rows).view(len(questions), len(neurons), 2).unbind(-1)


def agrees(model, questions, site, positions, lam=0.0):
    neurons = some_neurons(model, site)
    found = neuron_effects(
        model, neurons, questions, lams=(1.0, lam), positions=positions, progress=False
    )
    expected = one_at_a_time(model, neurons, questions, found.settings.spelling, lam, positions)
    assert found.logit_change[..., 1].abs().max() > 1e-3, "the neurons do something"
    assert found.prob_change[..., 0].abs().max() < 1e-6
    assert found.logit_change[..., 0].abs().max() < 1e-4
    assert torch.allclose(found.prob[..., 1], expected[0], atol=1e-6, rtol=1e-4)
    assert torch.allclose(found.logit_diff[..., 1], expected[1], atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("positions", ["last", "all"])
@pytest.mark.parametrize("site", ["post", "pre"])
def test_each_neuron_alone_is_scaled_as_a_set_of_one(model, questions, site, positions):
    agrees(model, questions, site, positions)
    agrees(model, questions[:1], site, positions, lam=2.5)


@pytest.mark.parametrize("positions", ["last", "all"])
@pytest.mark.parametrize("family", FAMILIES)
def test_in_every_family(family, questions, positions):
    agrees(tiny_bridge(family), questions[:1], "post", positions)


def test_the_base_is_the_unchanged_model(model, questions):
    knowledge = kb.check_knowledge(model, questions, progress=False)
    table = knowledge.table
    right = table["p_yes"].where(table["answer"].eq("yes"), table["p_no"]).tolist()
    for positions in ("last", "all"):
        found = neuron_effects(
            model,
            some_neurons(model),
            questions,
            positions=positions,
            knowledge=knowledge,
            progress=False,
        )
        assert found.base_prob.tolist() == pytest.approx(right, rel=1e-4)
        assert found.settings.spelling == knowledge.spelling


@pytest.mark.parametrize("positions", ["last", "all"])
@pytest.mark.parametrize("batch_size", [1, 3])
def test_the_batch_size_changes_nothing(llama, questions, positions, batch_size):
    settings = {"lams": (0, 2, 3), "positions": positions, "progress": False}
    whole = neuron_effects(llama, some_neurons(llama), questions, **settings)
    parts = neuron_effects(llama, some_neurons(llama), questions, batch_size=batch_size, **settings)
    assert torch.allclose(parts.prob, whole.prob, atol=1e-6)
    assert torch.allclose(parts.logit_diff, whole.logit_diff, atol=1e-4)


def test_a_model_that_is_not_covered_runs_whole_prompts(llama, questions):
    whole = neuron_effects(llama, some_neurons(llama), questions, progress=False)
    hook = ("blocks.0.attn.hook_pattern", lambda pattern, hook: None)
    with llama.hooks(fwd_hooks=[hook]), pytest.warns(UserWarning, match="Whole prompts run"):
        found = neuron_effects(llama, some_neurons(llama), questions, progress=False)
    assert torch.allclose(found.prob, whole.prob, atol=1e-6)
    assert torch.allclose(found.logit_diff, whole.logit_diff, atol=1e-4)


def test_a_bug_is_no_reason_for_another_way(llama, questions, monkeypatch):
    def broken(*arguments, **options):
        raise RuntimeError("a bug")

    monkeypatch.setattr(OneTokenRows, "attend", broken)
    with pytest.raises(RuntimeError, match="a bug"):
        neuron_effects(llama, some_neurons(llama), questions[:1], progress=False)


def test_rows_with_other_logits_are_not_taken(llama, questions, monkeypatch):
    expected = neuron_effects(llama, some_neurons(llama), questions[:1], progress=False)
    attend = OneTokenRows.attend

    def wrong(self, *arguments, **options):
        mixed, pattern = attend(self, *arguments, **options)
        return 2 * mixed, pattern

    monkeypatch.setattr(OneTokenRows, "attend", wrong)
    with pytest.warns(UserWarning, match="their logits are off by"):
        effects = neuron_effects(llama, some_neurons(llama), questions[:1], progress=False)
    assert torch.allclose(effects.prob, expected.prob, atol=1e-6)


def test_no_hook_is_left(llama, questions):
    tokens = kb.PromptTemplate().tokens(llama, "Is it?")
    before = llama(tokens)
    for positions in ("last", "all"):
        neuron_effects(
            llama, some_neurons(llama), questions[:1], positions=positions, progress=False
        )
        assert torch.equal(llama(tokens), before)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"lams": ()}, "one or more different factors"),
        ({"lams": (0, 0.0)}, "one or more different factors"),
        ({"lams": (math.inf,)}, "any finite number"),
        ({"positions": "first"}, "allowed are 'all' and 'last'"),
        ({"batch_size": 0}, "integers from 1"),
    ],
)
def test_bad_settings(llama, questions, settings, message):
    """Plain calls: a shape checker would speak up before kb_lens does."""
    unchecked = getattr(neuron_effects, "__wrapped__", neuron_effects)
    with pytest.raises(ValueError, match=message):
        unchecked(llama, some_neurons(llama), questions[:1], progress=False, **settings)


def test_a_model_that_overflows(llama, questions):
    hook = ("blocks.1.hook_out", lambda residual, hook: residual * float("inf"))
    with llama.hooks(fwd_hooks=[hook]), pytest.raises(ValueError, match="overflows"):
        neuron_effects(llama, some_neurons(llama), questions[:1], positions="all", progress=False)


def test_nothing_to_measure_and_neurons_of_another_model(llama, questions):
    with pytest.raises(ValueError, match="the neuron set is empty"):
        neuron_effects(llama, some_neurons(llama, members=()), questions)
    with pytest.raises(ValueError, match="there are no questions"):
        neuron_effects(llama, some_neurons(llama), [])
    with pytest.raises(ValueError, match="these neurons belong to"):
        neuron_effects(llama, some_neurons(tiny_bridge("gpt2")), questions)


def test_a_spelling_of_other_tokens_than_behind_the_prompt_is_refused(llama, questions):
    knowledge = kb.check_knowledge(llama, questions, forms=(), progress=False)
    other = replace(knowledge.spelling, yes_token=7, no_token=8)
    options = {"knowledge": replace(knowledge, spelling=other), "progress": False}
    refused = "have other tokens after a prompt that ends in"
    with pytest.raises(ValueError, match=refused):
        kb.attribute(llama, questions, **options)
    with pytest.raises(ValueError, match=refused):
        neuron_effects(llama, some_neurons(llama), questions, **options)
