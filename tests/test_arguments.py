"""Arguments that are not what they should be are refused by name, in one line."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_models import FAMILIES, tiny_bridge

import kb_lens as kb
from kb_lens.arguments import check_count, check_number, check_seed, check_texts
from kb_lens.attribution.settings import check_settings
from kb_lens.checks.controls import influence_ratio
from kb_lens.checks.neuron_effects import check_effects, neuron_effects
from kb_lens.checks.neuron_meaning import promoted_tokens, top_prompts
from kb_lens.interventions.scaling import Scaling, check_factor
from kb_lens.interventions.steering import Steering, random_direction
from kb_lens.models.hooked import fingerprint, mlp_width, model_name
from kb_lens.runs.evaluate import EvaluateSettings
from kb_lens.runs.export import ExportSettings
from kb_lens.runs.neurons import NeuronsSettings
from kb_lens.runs.settings import RunSettings
from kb_lens.statistics import check_resampling
from kb_lens.studies.choose_lambda import TuneSettings
from kb_lens.studies.run_study import ExperimentSettings

FILE = Path("neurons.json")
NAN, INFINITY = float("nan"), float("inf")


def refused(name, call, *arguments, **options):
    """The call raises one line that names the argument."""
    with pytest.raises(ValueError, match=re.escape(name)) as error:
        call(*arguments, **options)
    assert "\n" not in str(error.value)


def some_neurons(model, **changes):
    members = (kb.Neuron(0, 3), kb.Neuron(2, 1))
    sizes = {"n_layers": 3, "d_mlp": 48} | changes
    return kb.NeuronSet(members, model_name(model), fingerprint(model), "post", **sizes)


@pytest.mark.parametrize("count", [0, -1, 1.5, 2.0, NAN, True, "2", None, np.float64(2)])
def test_what_counts_nothing(count):
    refused("top is", check_count, "top", count)
    refused("n_bootstrap", check_resampling, count, 0)
    if count is not None:  # which is the default
        refused("batch_size", check_settings, batch_size=count)
        refused("n_steps", check_settings, rule="riemann", n_steps=count)
        refused("batch_size", check_effects, (1.0,), count)


@pytest.mark.parametrize("seed", [-1, 2**32, 0.0, NAN, True, "0", None])
def test_what_is_no_seed(seed):
    refused("seed is", check_seed, seed)
    refused("seed is", check_resampling, 10, seed)


def test_what_counts_and_seeds():
    for seed in (0, 2**32 - 1, np.int64(3)):
        check_seed(seed)
    check_count("k", np.int32(1))
    assert check_number("tau", np.float32(0.5)) == 0.5


@pytest.mark.parametrize("seed", [-1, 2**32, True])
def test_a_seed_reaches_no_draw(llama, seed):
    neurons = some_neurons(llama)
    direction = Steering(torch.ones(32), 1, "m", "f")
    refused("seed is", kb.random_neurons, neurons, seed=seed)
    refused("seed is", random_direction, direction, seed)
    refused("seed is", kb.load_benchmark, "plain_text", seed=seed)
    benchmark = kb.load_benchmark("over_correction", limit=2)
    refused("seed is", benchmark.split, 0.5, seed)
    refused("seed is", kb.evaluate, llama, benchmark, seed=seed, progress=False)
    refused("seed is", kb.rank_table, {}, seed=seed)


@pytest.mark.parametrize("value", ["0.1", None, True, 0.1j, torch.tensor(0.1), [0.1]])
def test_what_is_no_number(value):
    refused("lam is", check_factor, value)
    refused("lam is", check_effects, [1.0, value], None)
    refused("strength is", check_number, "strength", value)
    if value is not None:
        refused("tol is", check_settings, tol=value)


@pytest.mark.parametrize("tol", [0, 1, -0.1, NAN, INFINITY])
def test_what_is_no_tolerance(tol):
    refused("tol is", check_settings, tol=tol)


def test_a_tolerance_of_a_fixed_rule_is_no_tolerance():
    refused("not tol", check_settings, rule="riemann", tol=0.1)


@pytest.mark.parametrize("lams", [2.0, "0,2", (), (1, 1.0), (0.0, -0.0), None])
def test_what_are_no_factors(lams):
    refused("lam", check_effects, lams, None)


LIMITS = {"float32": 1e39, "bfloat16": 1e39, "float16": 1e5}


@pytest.mark.parametrize("dtype", LIMITS)
def test_a_factor_that_the_type_does_not_hold(dtype):
    for factor in (LIMITS[dtype], -LIMITS[dtype]):
        check_factor(factor)
        for name in (dtype, getattr(torch, dtype)):
            message = f"lam = {factor:g} is too large for {dtype} (at most "
            refused(message, check_factor, factor, name)
        check_factor(torch.finfo(getattr(torch, dtype)).max, dtype)


SETTINGS = {
    "run": lambda lam, dtype: RunSettings(lam=(2.0, lam), dtype=dtype),
    "evaluate": lambda lam, dtype: EvaluateSettings(neurons=FILE, lam=lam, dtype=dtype),
    "export": lambda lam, dtype: ExportSettings(neurons=FILE, lam=lam, dtype=dtype),
    "tune": lambda lam, dtype: TuneSettings(neurons=FILE, lam=(1.0, lam), dtype=dtype),
    "experiment": lambda lam, dtype: ExperimentSettings(name="lambda", lam=lam, dtype=dtype),
    "neurons": lambda lam, dtype: NeuronsSettings(neurons=FILE, lam=(1.0, lam), dtype=dtype),
}


@pytest.mark.parametrize("job", SETTINGS)
@pytest.mark.parametrize("dtype", LIMITS)
def test_a_job_whose_factor_the_type_does_not_hold(job, dtype):
    refused("is too large for", SETTINGS[job], LIMITS[dtype], dtype)
    SETTINGS[job](3.0, dtype)
    if job != "export":  # no checkpoint's type holds more than float32
        SETTINGS[job](LIMITS[dtype], None)  # the checkpoint's type is not known yet


def test_a_factor_that_the_model_does_not_hold(llama, questions):
    neurons = some_neurons(llama)
    message = "lam = 1e+39 is too large for float32"
    refused(message, kb.scale_neurons(llama, neurons, lam=1e39).__enter__)
    refused(message, Scaling(neurons, 1e39).applied(llama).__enter__)
    refused(message, kb.fold_neurons, llama, neurons, lam=1e39)
    refused(message, neuron_effects, llama, neurons, questions, lams=(0.0, 1e39))
    for lam in (NAN, INFINITY):
        refused("lam is", Scaling, neurons, lam)


def test_float64_holds_a_factor_that_float32_does_not(llama):
    model = tiny_bridge("llama").to(torch.float64)
    model.cfg.dtype = torch.float64
    with kb.scale_neurons(model, some_neurons(model), lam=1e39):
        model(torch.tensor([[5, 6, 7]]))


def test_a_steering_vector_that_the_model_does_not_hold():
    model = tiny_bridge("llama").to(torch.float16)
    model.cfg.dtype = torch.float16
    steering = Steering(torch.ones(32), 1, model_name(model), fingerprint(model), strength=1e6)
    refused("strength = 1e+06", steering.applied(model).__enter__)


INFLUENCES = {
    "a NaN": torch.full((3, 48), NAN),
    "an infinity": torch.full((3, 48), INFINITY),
    "negative": -torch.ones(3, 48),
    "another shape": torch.ones(3, 47),
    "turned": torch.ones(48, 3),
    "float64": torch.ones(3, 48, dtype=torch.float64),
    "bfloat16": torch.ones(3, 48, dtype=torch.bfloat16),
    "another device": torch.ones(3, 48, device="meta"),
}


@pytest.mark.parametrize("influence", INFLUENCES.values(), ids=INFLUENCES)
def test_what_is_no_influence(llama, influence):
    neurons = some_neurons(llama)
    refused("influence ", kb.random_neurons, neurons, influence=influence)
    refused("influence ", influence_ratio, neurons, neurons, influence)


def test_influence_that_has_gradients_is_influence(llama):
    table = torch.ones(3, 48, requires_grad=True)
    assert len(kb.random_neurons(some_neurons(llama), influence=table)) == 2


@pytest.mark.parametrize("texts", ["one text", b"one", ["fine", ""], ["fine", None], [1], 3])
def test_what_are_no_texts(texts):
    refused("texts ", check_texts, texts)
    refused("texts ", check_texts, {"mine": ["fine"], "yours": texts})


def test_one_text_is_not_read_letter_by_letter(llama):
    neurons = some_neurons(llama)
    refused("texts is", kb.influence, llama, "Yes, she can.", progress=False)
    refused("texts is", top_prompts, llama, neurons, "Yes, she can.", progress=False)
    refused("texts is", top_prompts, llama, neurons, {"mine": "Yes, she can."}, progress=False)
    for k in (0, -1, True):
        refused("k is", promoted_tokens, llama, neurons, k)
        refused("k is", top_prompts, llama, neurons, k=k, progress=False)


def test_neurons_of_a_table_that_is_not_the_models(llama):
    for changes in ({"n_layers": 4}, {"d_mlp": 49}, {"n_layers": 30, "d_mlp": 1536}):
        neurons = some_neurons(llama, **changes)
        sizes = f"the set is of {neurons.n_layers} layers of {neurons.d_mlp} neurons"
        refused(sizes, neurons.check_model, llama)
        refused(sizes, kb.scale_neurons(llama, neurons, lam=2).__enter__)
        refused(sizes, kb.fold_neurons, llama, neurons, lam=2)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_width_is_that_of_the_activations(family):
    model = tiny_bridge(family)
    assert mlp_width(model) == 48
    some_neurons(model).check_model(model)


@pytest.mark.parametrize("k", [0, -1, 3, True])
def test_neurons_of_at_least_so_many_sets(llama, k):
    sets = [some_neurons(llama)] * 2
    refused("k is" if k != 3 else "at least 3 of 2", kb.NeuronSet.at_least, sets, k)


def test_evaluate_is_given_a_benchmark(llama):
    for options in ({"batch_tokens": 0}, {"batch_tokens": True}, {"n_bootstrap": 0}):
        benchmark = kb.load_benchmark("over_correction", limit=2)
        refused(next(iter(options)), kb.evaluate, llama, benchmark, progress=False, **options)
