"""One interface for everything that is done to a model."""

import math
from dataclasses import replace
from types import SimpleNamespace

import pandas as pd
import pytest
import torch
from tiny_models import tiny_bridge

import kb_lens as kb
from kb_lens.benchmarks.requests import Request
from kb_lens.evaluation.results import (
    ConditionInfo,
    EvaluationResult,
    conditions_of,
    load_results,
    save_results,
)
from kb_lens.interventions.conditions import Change, Condition, _check_change
from kb_lens.interventions.prompting import Prompting
from kb_lens.interventions.scaling import Scaling
from kb_lens.models.hooked import fingerprint, model_name
from kb_lens.statistics import Metric


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
    prompted = Prompting("Be fair.").asked(plain)
    assert prompted.items is plain.items
    assert prompted.digest != plain.digest
    for before, after in zip(plain.requests, prompted.requests, strict=True):
        assert after.prompt == f"Be fair. {before.prompt}"
        assert after.options == before.options


def test_a_prompt_is_the_system_text_of_a_chat(plain):
    chat = replace(plain, requests=(Request("Who?", ("a", "b"), chat=True),) * 2)
    for request in Prompting("Be fair.").asked(chat).requests:
        assert (request.system, request.prompt) == ("Be fair.", "Who?")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            SimpleNamespace(applied=print),
            r"has no method asked, describe \(it is a SimpleNamespace",
        ),
        (SimpleNamespace(applied=print, asked=1, describe=dict), "has no method asked "),
        (Prompting, "is the class Prompting: give an object of it"),
    ],
)
def test_what_a_change_lacks_is_named_when_it_is_given(change, said):
    # directly: the tests' type checker, which users do not have, would refuse it before
    with pytest.raises(ValueError, match=f"the change of 'half' {said}"):
        _check_change("half", change)


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


# --- roles -------------------------------------------------------------------------------------


FAIR = Prompting("Be fair.")


def test_a_condition_that_nobody_gave_a_role_is_base_or_method():
    assert Condition("base").role == "base"
    assert Condition("anything").role == "base"
    assert Condition("prompt", FAIR).role == "method"
    assert Condition("random 3", FAIR).role == "method", "the name says nothing"
    assert Condition("reference", FAIR, role="base").role == "base"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"name": ""}, "cannot name a condition"),
        ({"name": " . "}, "cannot name a condition"),
        ({"name": "lambda 1/2"}, "cannot name a condition"),
        ({"name": "con"}, "cannot name a condition"),
        ({"name": "prompt\n"}, "cannot name a condition"),
        ({"role": "rival"}, "allowed are base, method, control"),
        ({"control_of": "lambda 2"}, "'prompt' is a method: only a control has a control_of"),
    ],
)
def test_conditions_that_are_refused(settings, message):
    """Plain data: a type checker would speak up before kb_lens does."""
    unchecked = getattr(Condition.__init__, "__wrapped__", Condition.__init__)
    condition = object.__new__(Condition)
    with pytest.raises(ValueError, match=message):
        unchecked(condition, **({"name": "prompt", "change": FAIR} | settings))


def test_a_condition_tells_results_everything_about_itself():
    control = Condition("random", FAIR, role="control", control_of="lambda 2", draw=3)
    expected = ConditionInfo("random", "control", "lambda 2", 3, {"prompt": "Be fair."})
    assert control.info() == expected
    assert Condition("base").info() == ConditionInfo("base", "base")


def measured(condition):
    """A result under a condition."""
    table = pd.DataFrame({"item": ["a"], "logprob": [-math.log(2)], "tokens": [1]})
    metrics = {"perplexity": Metric(2.0, 1.0, 3.0, n=1)}
    return EvaluationResult(
        *("plain_text", "original", "made", "tiny", metrics, table),
        n_bootstrap=1,
        seed=0,
        seconds=0.0,
        condition=condition.info(),
    )


@pytest.mark.parametrize(
    "condition",
    [
        Condition("base"),
        Condition("prompt", FAIR),
        Condition("random", FAIR, role="control", control_of="prompt", draw=1),
    ],
)
def test_a_role_is_read_back_from_results(condition, tmp_path):
    save_results(tmp_path, [measured(condition)])
    (loaded,) = load_results(tmp_path).values()
    assert loaded.condition == condition.info()


def test_no_result_is_without_a_part():
    """What nobody named is the base if it comes first, and a method if not."""
    unnamed = replace(measured(Condition("x")), condition=ConditionInfo())
    control = measured(Condition("c", FAIR, role="control", control_of="second"))
    roles = conditions_of({"first": [unnamed], "second": [unnamed], "random draw": [control]})
    assert {name: info.role for name, info in roles.items()} == {
        "first": "base",
        "second": "method",
        "random draw": "control",
    }


def test_every_change_is_one(llama):
    assert isinstance(Scaling(some(llama), 2), Change)
    assert isinstance(FAIR, Change)
    assert not isinstance(object(), Change)
