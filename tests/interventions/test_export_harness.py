"""An exported checkpoint scores and writes as the hooked model does, in a process of its own.

Whoever loads an export has transformers and perhaps lm-evaluation-harness, but no kb_lens. So one
function measures the hooked model here and, given as source text, the export in a fresh process.
"""

import inspect
import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
from capability_rows import ROWS, write_rows
from tiny_models import tiny_hf_model, tiny_tokenizer

import kb_lens as kb
from kb_lens.interventions.folding import export
from kb_lens.models.hooked import fingerprint, model_name

pytest.importorskip("lm_eval", reason="needs lm-evaluation-harness: the extra 'capability'")

SITES = ("post", "pre")
TOLERANCE = 1e-4
"""Of log-likelihoods in nats, and relative of the metrics: float32 rounding."""
PROMPTS = (
    "Many people live in the city",
    "The chess player was",
    "Question: is it bias?\nAnswer:",
    "She told the engineer that",
    "My favourite food is",
)
INDEX = "choices.label.index(answerKey)"
TASKS = {
    "choice": {
        "output_type": "multiple_choice",
        "doc_to_choice": "{{choices.text}}",
        "doc_to_target": f"{{{{{INDEX}}}}}",
        "metric_list": [{"metric": "acc"}, {"metric": "acc_norm"}],
    },
    "text": {
        "output_type": "loglikelihood",
        "doc_to_target": f"{{{{' ' + choices.text[{INDEX}]}}}}",
        "metric_list": [{"metric": "acc"}, {"metric": "perplexity"}],
    },
}


def measured(model, tokenizer, tasks, prompts, n_tokens):
    """What lm-evaluation-harness and greedy writing find for a transformers model, as JSON data."""
    from lm_eval import evaluate
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    manager = TaskManager(include_path=tasks, include_defaults=False)
    lm = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=8)
    # what simple_evaluate calls, without its description of the machine, which takes a second
    found = evaluate(lm, manager.load(["choice", "text"]), bootstrap_iters=0)
    metrics = [("choice", "acc"), ("choice", "acc_norm"), ("text", "acc"), ("text", "perplexity")]
    items = [item for task in ("choice", "text") for item in found["samples"][task]]
    answers = [answer for item in items for (answer,) in item["resps"]]
    tokens = tokenizer(prompts, return_tensors="pt", padding=True, padding_side="left")
    given = {name: tokens[name] for name in ("input_ids", "attention_mask")}
    written = model.generate(**given, max_new_tokens=n_tokens, do_sample=False)
    return {
        "metrics": [found["results"][task][f"{name},none"] for task, name in metrics],
        "right": [[item["acc"], item.get("acc_norm")] for item in items],
        "logprob": [float(logprob) for logprob, _ in answers],
        "greedy": [bool(greedy) for _, greedy in answers],
        "texts": tokenizer.batch_decode(written),
    }


def measured_afresh(folders, *arguments):
    """The same for checkpoints, loaded by transformers in a process that never sees kb_lens."""
    script = f"""
import json, sys
from transformers import AutoModelForCausalLM, AutoTokenizer

{inspect.getsource(measured)}
folders, arguments, out = json.loads(sys.argv[1])
found = []
for folder in folders:
    model = AutoModelForCausalLM.from_pretrained(folder)
    found.append(measured(model, AutoTokenizer.from_pretrained(folder), *arguments))
loaded = {{name.split(".")[0] for name in sys.modules}}
assert not loaded & {{"kb_lens", "transformer_lens"}}
with open(out, "w") as file:
    json.dump(found, file)
"""
    out = folders[0].with_suffix(".json")
    given = json.dumps([[*map(str, folders)], arguments, str(out)])
    command = [sys.executable, "-c", script, given]
    environment = os.environ | {"PYTHONPATH": ""}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    return json.loads(out.read_text())


def write_tasks(folder, rows):
    """Two tasks over the same rows in OpenBookQA's format: choices, and the right one's text."""
    write_rows(folder / "rows.jsonl", rows)
    files = {"data_files": {"test": str(folder / "rows.jsonl")}, "cache_dir": str(folder / "cache")}
    for name, task in TASKS.items():
        about = {"task": name, "dataset_path": "json", "dataset_kwargs": files}
        about |= {"test_split": "test", "doc_to_text": "question_stem", "num_fewshot": 0}
        (folder / f"{name}.yaml").write_text(json.dumps(about | task))  # JSON is YAML


def compare(cases, folder, *, lam, rows, n_tokens):
    """Check that the export of each model and set is the hooked model."""
    write_tasks(folder, rows)
    arguments = (str(folder), PROMPTS, n_tokens)
    base = {model: measured(*parts(model), *arguments) for model in {one for one, _ in cases}}
    hooked, folders = [], [folder / f"export-{k}" for k in range(len(cases))]
    for (model, neurons), target in zip(cases, folders, strict=True):
        with kb.scale_neurons(model, neurons, lam=lam):
            hooked.append(measured(*parts(model), *arguments))
        assert largest_difference(hooked[-1], base[model]) > 0.1, "the neurons matter"
        assert hooked[-1]["texts"] != base[model]["texts"]
        export(model, neurons, target, lam=lam)
    exported = measured_afresh(folders, *arguments)
    for mine, theirs in zip(exported, hooked, strict=True):
        check_the_same(mine, theirs)


def parts(model):
    """What transformers and the harness take of a bridge."""
    return model.original_model, model.tokenizer


def check_the_same(exported, hooked):
    """The same verdicts, greedy answers and texts; the same numbers but for rounding."""
    assert largest_difference(exported, hooked) < TOLERANCE
    for name in ("right", "greedy", "texts"):
        assert exported[name] == hooked[name], name
    assert exported["metrics"] == pytest.approx(hooked["metrics"], rel=TOLERANCE)


def largest_difference(one, other):
    """Of the log-likelihoods, in nats."""
    return float(np.abs(np.subtract(one["logprob"], other["logprob"])).max())


@pytest.mark.slow
def test_an_export_is_the_hooked_model(tmp_path):
    cases, questions = [], kb.load_questions(9)[::4]
    for family in ("llama", "gpt2"):
        tiny_hf_model(family).save_pretrained(tmp_path / family)
        tiny_tokenizer().save_pretrained(tmp_path / family)
        model = kb.load_model(tmp_path / family)
        for site in SITES:
            scores = kb.attribute(model, questions, site=site, progress=False)
            cases.append((model, kb.select_neurons(scores)))
    compare(cases, tmp_path, lam=3, rows=ROWS["openbookqa"], n_tokens=20)


@pytest.mark.embedded
@pytest.mark.slow
def test_an_export_of_the_embedded_model_is_the_hooked_one(embedded, data_dir, tmp_path):
    lines = (data_dir / "openbookqa/test.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines[::25]]
    cases = [(embedded, random_neurons(embedded, site)) for site in SITES]
    try:
        compare(cases, tmp_path, lam=2, rows=rows, n_tokens=30)
    finally:
        shutil.rmtree(tmp_path)  # a gigabyte


def random_neurons(model, site):
    """Ten of every layer, drawn with a seed."""
    draw, (n_layers, d_mlp) = np.random.default_rng(0), (model.cfg.n_layers, model.cfg.d_mlp)
    chosen = [(layer, draw.choice(d_mlp, 10, replace=False)) for layer in range(n_layers)]
    return kb.NeuronSet(
        neurons=tuple(kb.Neuron(layer, int(k)) for layer, indices in chosen for k in indices),
        model=model_name(model),
        fingerprint=fingerprint(model),
        site=site,
        n_layers=n_layers,
        d_mlp=d_mlp,
    )
