"""Folders of results, made by hand, for the tests of the report."""

import json
from dataclasses import replace
from pathlib import Path

import pandas as pd
from test_comparison import crows
from test_figures import answered, attributed, chosen

import kb_lens as kb
from kb_lens.checks.doctor import as_table, examine
from kb_lens.evaluation.results import ConditionInfo, save_results
from kb_lens.files import write_text
from kb_lens.studies.tables import Experiment

EVIL = "</script><img src=x onerror=\"document.title='owned'\">"
"""What must be shown and never run."""
SCORES = attributed([[[0.0, 0.1, 0.0], [0.0, 0.0, 0.2]]] * 4, model=EVIL)
"""Neuron 1 of layer 0 has half of the largest score, which is neuron 2's of layer 1."""
TOKENS = ("NA", EVIL, " the", "null", "'", "left out")
"""What every neuron promotes, the first first."""
ARGUMENTS = {"lam": [2.0, 3.0], "tau": 0.1, "aggregation": "union", "seed": 0, "bank": None}


def run_folder(folder: Path, *, parts: bool = True, **n_more: int) -> Path:
    """What ``run`` writes; `n_more` are stereotyping pairs of 200: ``base=160, lambda_2=100``."""
    knowledge, sets = _found(folder)
    results = {}
    for name, n in ((name.replace("_", " "), n) for name, n in n_more.items()):
        results[name] = [replace(crows(n, 200), condition=condition_info(name), model=EVIL)]
    for name, several in results.items():
        save_results(folder / "evaluations" / name, several)
    write_record(folder, "run")
    if parts:
        enhanced, control = (results.get(name, []) for name in ("lambda 2", "random lambda 2"))
        material = {"base": results.get("base", []), "enhanced": enhanced, "control": control}
        checks = examine(knowledge=knowledge, attributions=SCORES, sets=sets, **material)
        write_text(folder / "checks.json", json.dumps(as_table(checks).to_dict("records")))
        token_table().to_csv(folder / "tokens.csv", index=False)
    return folder


def condition_info(name: str) -> ConditionInfo:
    """What `kb-lens run` says of a condition that it calls so."""
    method = name.removeprefix("random ")
    if name == "base":
        return ConditionInfo(name, "base")
    if name == method:
        return ConditionInfo(name, "method", intervention={"lam": 2.0})
    change = {"lam": 2.0, "origin": "random, matched in everything (seed 0), for [x]"}
    return ConditionInfo(name, "control", method, 0, change)


def _found(folder: Path):
    """What ``identify`` writes."""
    knowledge = answered()
    knowledge.table.loc[0, "text"] = f"Is {EVIL} < `b` & c?"
    knowledge = replace(knowledge, model=EVIL)
    same = {"n_layers": 2, "d_mlp": 3, "tau": 0.1, "beta": 0.1, "model": EVIL}
    sets = {"gender": chosen((0, 1), (1, 2), **same), "race": chosen((1, 2), **same)}
    SCORES.save(folder / "attributions.safetensors")
    knowledge.save(folder / "knowledge.json")
    for name, one in sets.items():
        one.save(folder / "neurons" / f"{name}.json")
    kb.NeuronSet.union(sets.values()).save(folder / "neurons.json")
    return knowledge, sets


def token_table() -> pd.DataFrame:
    """Six tokens a neuron and side."""
    rows = [
        (layer, index, side, rank, token, rank, 1.0)
        for layer, index in ((0, 1), (1, 2))
        for side in ("promotes", "suppresses")
        for rank, token in enumerate(TOKENS, 1)
    ]
    columns = ["layer", "index", "side", "rank", "token", "token_id", "logit"]
    return pd.DataFrame(rows, columns=columns)


def write_record(folder: Path, command: str) -> None:
    """A ``run.json``."""
    content = {
        "command": command,
        "arguments": ARGUMENTS,
        "model": {"name": EVIL, "fingerprint": "f", "device": "cpu", "dtype": "float32"},
        "seconds": {"identify": 1.5},
        "versions": {"torch": "2.13.0", "lm-eval": None},
        "python": "3.11.7",
        "platform": "Linux",
        "cpus": 2,
    }
    write_text(folder / "run.json", json.dumps(content))


def study_folder(folder: Path, *differences: tuple[float, float, float], draws: int = 99) -> Path:
    """What ``experiment aggregation`` would write: base model, a case a difference, tests."""
    columns = ["aggregation", "n_neurons", "benchmark", "metric", "value", "low", "high", "n"]
    columns += ["difference", "difference_low", "difference_high"]
    where = ("crows_pairs", "stereotype_share")
    rows = [(None, None, *where, 60.0, 55.0, 65.0, 200, None, None, None)]
    for k, (change, low, high) in enumerate(differences):
        rows.append((f"case {k}", 9, *where, 60 + change, 50.0, 70.0, 200, change, low, high))
    results = pd.DataFrame(rows, columns=columns)
    results.insert(2, "role", ["base", *["method"] * len(differences)])
    results[["control_of", "draw"]] = None
    settings = {"model": EVIL, "n_questions": 9, "tau": 0.1, "beta": 0.1, "lam": None}
    settings |= {"benchmarks": {"crows_pairs": {"items": 200, "source": "made", "digest": "d"}}}
    tests = pd.DataFrame(
        {"benchmark": ["crows_pairs"], "metric": ["stereotype_share"], "method": ["case 0"]}
        | {"gain": [9.0], "low": [1.0], "high": [12.0], "n": [200], "control_mean": [0.0]}
        | {"control_low": [-1.0], "control_high": [1.0], "rank": [1]}
        | {"p": [1 / (1 + draws)], "q": [1 / (1 + draws)]}
        | {"n_controls": [draws], "control": ["layer"], "plain_text perplexity change": [1.0]}
    )
    tables = {"results": results, "control_tests": tests}
    Experiment("aggregation", settings, tables).save(folder)
    write_record(folder, "experiment")
    return folder
