"""Calls of the Python API with arguments that it does not take."""

from functools import cache
from types import SimpleNamespace

import torch
from bad_inputs import BadInput
from tiny_models import tiny_bridge

import kb_lens as kb
from kb_lens.interventions.conditions import Condition
from kb_lens.interventions.scaling import Scaling

NAN, INF = float("nan"), float("inf")
NO_COUNTS = (0, -1, 1.5, NAN, True, "3", [])
NO_SHARES = (-0.1, 1, NAN, INF, True, "0.1", None)
NO_FACTORS = (NAN, INF, True, "2", None, [2])
NO_SEEDS = (-1, 1.5, NAN, True, "0", 2**32, None)
NO_NEURONS = (7, None, [], {}, "", "x", "L0", [7], [None], ["L0.N1", "L0.N1"], [(0,)], [(0, 1, 2)],
              [(0.5, 1)], [(True, 1)], "L9.N0", "L0.N48", [(-1, 0)])  # fmt: skip
NO_TEXTS = (7, None, [], [7], "", [""], {}, ["a " * 999])
NOTHING_ASKED = SimpleNamespace(applied=print, describe=dict)
"""Of a change's methods it lacks `asked`."""
NO_PATHS = (7, None, b"x", "", "/none/x", "/", "x\0y")


@cache
def _model():
    return tiny_bridge("llama")


def _scores(made):
    return kb.Attributions.load(made.world / "run/attributions.safetensors")


def _neurons(made):
    return kb.NeuronSet.load(made.world / "run/neurons.json")


def _base(made):
    return next(iter(kb.EvaluationResult.load(made.world / "base/results.json").values()))


def _scaled(made, **options):
    with kb.scale_neurons(_model(), _neurons(made), **options):
        return "scaled"


def _neuronpedia(made, **options):
    given = {"neurons": "L0.N1", "texts": "a text", "model_id": "tiny", "source_set": "set"}
    given |= {"folder": made.here / "out", "progress": False}
    return kb.export_neuronpedia(_model(), **(given | options))


CALLS = {
    ("load_questions", "n"): (
        (-1, 0, 1.5, 10, 10**9, NAN, True, "3", "all", []),
        lambda made, value: kb.load_questions(value),
    ),
    ("load_questions", "dimension"): (
        (7, "", [], ["x"], "x", [None], True),
        lambda made, value: kb.load_questions(dimension=value),
    ),
    ("load_questions", "kind"): (
        (7, "", "x", ["x"], True),
        lambda made, value: kb.load_questions(kind=value),
    ),
    ("load_questions", "language"): (
        (7, "", "fr", None, ["en"]),
        lambda made, value: kb.load_questions(language=value),
    ),
    ("load_questions", "file"): (
        tuple(path for path in NO_PATHS if path is not None),
        lambda made, value: kb.load_questions(path=value),
    ),
    ("NeuronSet.load", "file"): (NO_PATHS, lambda made, value: kb.NeuronSet.load(value)),
    ("Attributions.load", "file"): (NO_PATHS, lambda made, value: kb.Attributions.load(value)),
    ("Knowledge.load", "file"): (NO_PATHS, lambda made, value: kb.Knowledge.load(value)),
    ("select_neurons", "tau"): (
        NO_SHARES, lambda made, value: kb.select_neurons(_scores(made), tau=value),
    ),
    ("select_neurons", "beta"): (
        NO_SHARES, lambda made, value: kb.select_neurons(_scores(made), beta=value),
    ),
    ("random_neurons", "seed"): (
        NO_SEEDS, lambda made, value: kb.random_neurons(_neurons(made), seed=value),
    ),
    ("NeuronSet.at_least", "k"): (
        NO_COUNTS, lambda made, value: kb.NeuronSet.at_least([_neurons(made)], value),
    ),
    ("NeuronSet.of", "neuron"): (
        NO_NEURONS, lambda made, value: kb.NeuronSet.of(_model(), value),
    ),
    ("NeuronSet.of", "site"): (
        ("x", "", None, 7, "POST"), lambda made, value: kb.NeuronSet.of(_model(), "L0.N1", value),
    ),
    ("fold_neurons", "neuron"): (
        NO_NEURONS, lambda made, value: kb.fold_neurons(_model(), value, lam=2.0),
    ),
    ("activations", "neuron"): (
        NO_NEURONS, lambda made, value: kb.activations(_model(), value, "a text"),
    ),
    ("activations", "text"): (
        NO_TEXTS, lambda made, value: kb.activations(_model(), "L0.N1", value, progress=False),
    ),
    ("export_neuronpedia", "neuron"): (
        NO_NEURONS, lambda made, value: _neuronpedia(made, neurons=value),
    ),
    ("export_neuronpedia", "text"): (
        (*NO_TEXTS, "a"), lambda made, value: _neuronpedia(made, texts=value),
    ),
    ("export_neuronpedia", "k"): (
        NO_COUNTS, lambda made, value: _neuronpedia(made, k=value),
    ),
    ("export_neuronpedia", "model_id"): (
        ("", "A", "a b", "a/b", 7, None), lambda made, value: _neuronpedia(made, model_id=value),
    ),
    ("export_neuronpedia", "source_set"): (
        ("", "A", "a b", "../b", 7, None), lambda made, value: _neuronpedia(made, source_set=value),
    ),
    ("push_results", "repository"): (
        ("", "a b", "a/b/c", 7, None), lambda made, value: kb.push_results(made.world, value),
    ),
    ("ablation_study", "neuron"): (
        NO_NEURONS, lambda made, value: kb.ablation_study(_model(), value, prompts=["a"]),
    ),
    ("ablation_study", "prompt"): (
        (None, [], {}, ["a", "a"]),
        lambda made, value: kb.ablation_study(_model(), "L0.N1", prompts=value, progress=False),
    ),
    ("ablation_study", "text"): (
        (7, [7], "", [""], "a text", ["a " * 999]),
        lambda made, value: kb.ablation_study(_model(), "L0.N1", prompts=value, progress=False),
    ),
    ("ablation_study", "benchmark"): (
        ("stereoset", 7, {}), lambda made, value: kb.ablation_study(
            _model(), "L0.N1", prompts=["a"], benchmark=value, progress=False
        ),
    ),
    ("ablation_study", "n_bootstrap"): (
        NO_COUNTS, lambda made, value: kb.ablation_study(
            _model(), "L0.N1", prompts=["a"], n_bootstrap=value, progress=False
        ),
    ),
    ("ablation_study", "seed"): (
        NO_SEEDS, lambda made, value: kb.ablation_study(
            _model(), "L0.N1", prompts=["a"], seed=value, progress=False
        ),
    ),
    ("next_tokens", "k"): (
        NO_COUNTS, lambda made, value: kb.figures.next_tokens(_model(), "L0.N1", "a", k=value),
    ),
    ("next_tokens", "text"): (
        (7, None, "", [7]), lambda made, value: kb.figures.next_tokens(_model(), "L0.N1", value),
    ),
    ("neuron_card", "k"): (
        NO_COUNTS, lambda made, value: kb.figures.neuron_card(
            _model(), "L0.N1", texts=["a text"], k=value, progress=False
        ),
    ),
    ("interventions.conditions.Condition", "change"): (
        (7, "x", {}, Scaling, NOTHING_ASKED), lambda made, value: Condition("half", value),
    ),
    ("NeuronSet.union", "sets"): (([], ()), lambda made, value: kb.NeuronSet.union(value)),
    ("load_benchmark", "benchmark"): (
        ("", "x", None, 7, "STEREOSET", ["stereoset"]),
        lambda made, value: kb.load_benchmark(value, data_dir=made.world / "data"),
    ),
    ("load_benchmark", "limit"): (
        NO_COUNTS,
        lambda made, value: kb.load_benchmark(
            "stereoset", data_dir=made.world / "data", limit=value
        ),
    ),
    ("load_benchmark", "file"): (
        tuple(path for path in NO_PATHS if path is not None),
        lambda made, value: kb.load_benchmark("stereoset", path=value),
    ),
    ("load_benchmark", "protocol"): (
        ("", "x", None, 7),
        lambda made, value: kb.load_benchmark(
            "stereoset", data_dir=made.world / "data", protocol=value
        ),
    ),
    ("load_benchmark", "seed"): (
        NO_SEEDS,
        lambda made, value: kb.load_benchmark(
            "stereoset", data_dir=made.world / "data", limit=2, seed=value
        ),
    ),
    ("run", "lam"): (
        ((), NAN, "x", (NAN,), (2, 2), True),
        lambda made, value: kb.run(made.world / "model", made.here / "out", lam=value),
    ),
    ("run", "tau"): (
        (NAN, "x", 1, True),
        lambda made, value: kb.run(made.world / "model", made.here / "out", tau=value),
    ),
    ("run", "seed"): (
        NO_SEEDS,
        lambda made, value: kb.run(made.world / "model", made.here / "out", seed=value),
    ),
    ("run", "setting"): (
        ("nonesuch", "Lam", "model_"),
        lambda made, value: kb.run(made.world / "model", made.here / "out", **{value: 1}),
    ),
    ("load_model", "device"): (
        ("x", "", "cuda:99", "meta"),
        lambda made, value: kb.load_model(made.world / "model", device=value),
    ),
    ("load_model", "device_map"): (
        (["cpu"], 5, {}, {"": 99}, {"": None}, {0: "cpu"}, "x"),
        lambda made, value: kb.load_model(made.world / "model", device_map=value),
    ),
    ("load_model", "max_memory"): (
        ("cpu=1GiB", {}, {"cpu": True}, {"cpu": "x"}, {99: "1GiB"}),
        lambda made, value: kb.load_model(
            made.world / "model", device_map="auto", max_memory=value
        ),
    ),
    ("load_model", "dtype"): (
        (None, "x", "", 16, torch.int8),
        lambda made, value: kb.load_model(made.world / "model", dtype=value),
    ),
    ("load_model", "quantization"): (
        ("2bit", "", 4, True),
        lambda made, value: kb.load_model(made.world / "model", quantization=value),
    ),
    ("PromptTemplate", "date"): (
        ("today", "", None, 7, "2024-13-01"), lambda made, value: kb.PromptTemplate(date=value),
    ),
    ("Question", "answer"): (
        ("maybe", "", None, True, "Yes "),
        lambda made, value: kb.Question(text="Is it?", answer=value, dimension="x"),
    ),
    ("Question", "text"): (
        ("", " ", None, 7),
        lambda made, value: kb.Question(text=value, answer="no", dimension="x"),
    ),
}  # fmt: skip
"""Function and argument -> what it does not take, and a call."""
MODEL_CALLS = {
    ("attribute", "questions"): (
        ([], "x", [7]), lambda made, value: kb.attribute(_model(), value, progress=False),
    ),
    ("attribute", "n_steps"): (
        NO_COUNTS,
        lambda made, value: kb.attribute(
            _model(), kb.load_questions(9)[:1], rule="riemann", n_steps=value
        ),
    ),
    ("attribute", "tol"): (
        (0, 1, -1, NAN, True, "x"),
        lambda made, value: kb.attribute(_model(), kb.load_questions(9)[:1], tol=value),
    ),
    ("attribute", "batch_size"): (
        NO_COUNTS,
        lambda made, value: kb.attribute(_model(), kb.load_questions(9)[:1], batch_size=value),
    ),
    ("attribute", "rule"): (
        ("x", "", None),
        lambda made, value: kb.attribute(_model(), kb.load_questions(9)[:1], rule=value),
    ),
    ("scale_neurons", "lam"): (NO_FACTORS, lambda made, value: _scaled(made, lam=value)),
    ("scale_neurons", "positions"): (
        ("x", "", None), lambda made, value: _scaled(made, lam=2, positions=value),
    ),
    ("evaluate", "batch_tokens"): (
        NO_COUNTS,
        lambda made, value: kb.evaluate(
            _model(), kb.load_benchmark("stereoset", data_dir=made.world / "data"),
            batch_tokens=value, progress=False,
        ),
    ),
    ("check_knowledge", "questions"): (
        ([], "x", [7]), lambda made, value: kb.check_knowledge(_model(), value),
    ),
}  # fmt: skip
"""The same of functions that need a model."""


def _calls(table, slow):
    for (function, argument), (values, call) in table.items():
        for value in values:
            yield BadInput(
                "Python",
                f"kb.{function}({argument}={value!r})",
                (argument.removesuffix("s"),),
                call=lambda made, call=call, value=value: call(made, value),
                slow=slow,
            )


CALL_CASES = (*_calls(CALLS, slow=False), *_calls(MODEL_CALLS, slow=True))
