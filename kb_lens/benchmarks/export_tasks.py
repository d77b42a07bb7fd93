"""Write benchmarks as task files of lm-evaluation-harness, for machines without kb_lens.

A task is two files. The YAML file is one of ``harness_forms/`` with the items' metadata at its end.
The file of items, one JSON object a line, has every text that the model reads and is scored on
(`Benchmark.requests`), and the columns for the metrics. The metrics are in `harness_functions.py`,
which is copied beside them together with `caution.py`. A README.md says how to run the tasks; its
first line lists the files, so that only these are replaced later.

The files are for lm-evaluation-harness 0.4.13 (Gao et al., The Language Model Evaluation Harness);
writing them does not need it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kb_lens.benchmarks.benchmark import Benchmark, result_key
from kb_lens.benchmarks.stereoset import BIAS_TYPES
from kb_lens.benchmarks.stereoset_metrics import KINDS
from kb_lens.files import write_text

DEFAULT_TASKS = ("stereoset", "stereoset:instructed", "over_correction")
"""The default: all benchmarks that can be tasks."""

COLUMNS = {
    "stereoset": ("item", "kind", "bias_type", "target"),
    "stereoset_instructed": ("item", "kind", "bias_type", "target"),
    "over_correction": ("item", "kind", "dimension"),
}
"""Key of a benchmark that can be a task -> the item columns that the task keeps."""

_SOURCES = Path(__file__).parent
_PYTHON = {"kb_lens_tasks.py": "harness_functions.py", "caution.py": "caution.py"}
"""Python file of the tasks -> the file here that it is a copy of."""
_README = "README.md"
_MARK = "<!-- Written by kb-lens tasks: "


def write_tasks(folder: str | os.PathLike[str], benchmarks: Sequence[Benchmark]) -> list[str]:
    """Write benchmarks as tasks of lm-evaluation-harness.

    All tasks that were written into the folder before are replaced.

    Args:
        folder: The folder of the files; created if it is missing.
        benchmarks: Results of `load_benchmark`.

    Returns:
        The names of the tasks.

    Raises:
        ValueError: If a benchmark cannot be a task, the folder is a file, or it has a file of
            one of these names that kb_lens did not write.
    """
    folder = Path(folder)
    tasks = {_task(benchmark): benchmark for benchmark in benchmarks}
    texts = {name: _source(file) for name, file in _PYTHON.items()}
    for task, benchmark in tasks.items():
        texts[f"{task}.yaml"] = _definition(task, benchmark)
        texts[f"{task}.jsonl"] = "".join(map(_line, _documents(benchmark)))
    earlier = _written(folder)
    _check_free(folder, [name for name in (_README, *texts) if name not in earlier])
    for name in earlier - texts.keys() - {_README}:
        (folder / name).unlink(missing_ok=True)
    # First: it lists the other files, in case this is killed in between.
    write_text(folder / _README, _readme(tasks, [_README, *texts]))
    for name, text in texts.items():
        write_text(folder / name, text)
    return list(tasks)


def _task(benchmark: Benchmark) -> str:
    if _form(benchmark) not in COLUMNS:
        raise ValueError(
            f"--benchmarks: kb_lens writes no task of {benchmark.name}:{benchmark.protocol}; "
            f"allowed: {', '.join(DEFAULT_TASKS)}."
        )
    return f"kb_lens_{benchmark.key}"


def _form(benchmark: Benchmark) -> str:
    """The name of a benchmark's form; own items have the form of their benchmark."""
    return result_key(benchmark.name, benchmark.protocol)


def _types(benchmark: Benchmark) -> list[str]:
    """The bias types of own items; empty for a benchmark's items, whose types are in the form."""
    own = benchmark.dataset is not None and "bias_type" in benchmark.items
    return sorted(benchmark.items["bias_type"].unique()) if own else []


def _with_types(form: str, types: Sequence[str]) -> str:
    """A form with the lines of its bias types replaced by those of `types`."""
    first, *others = (f"_{name}," for name in BIAS_TYPES)
    lines: list[str] = []
    for line in form.splitlines(keepends=True):
        if first in line:
            before, _, metric = line.partition("{metric: ")
            metric, _, rest = metric.partition(first)
            # quoted as JSON, which is valid YAML: a type may have a space
            names = (json.dumps(f"{metric}_{name}", ensure_ascii=False) for name in types)
            lines += [f"{before}{{metric: {name},{rest}" for name in names]
        elif not any(other in line for other in others):
            lines.append(line)
    return "".join(lines)


def _source(name: str) -> str:
    return (_SOURCES / name).read_text(encoding="utf-8")


def _definition(task: str, benchmark: Benchmark) -> str:
    """The YAML file: the task, and at its end the metadata of its items."""
    about = {
        "items": len(benchmark.items),
        "source": benchmark.source,
        "digest": benchmark.digest,  # as in kb_lens' results.json: the same requests
    }
    lines = [f"  {name}: {json.dumps(value)}\n" for name, value in about.items()]  # valid YAML
    form_name = f"kb_lens_{_form(benchmark)}"
    form = _source(f"harness_forms/{form_name}.yaml").replace(form_name, task)
    if types := _types(benchmark):
        form = _with_types(form, types)
    return form + "".join(lines)


def _documents(benchmark: Benchmark) -> list[dict[str, Any]]:
    """An item's columns, its prompts, and the options of each prompt."""
    columns = COLUMNS[_form(benchmark)]
    types = _types(benchmark)
    groups = {"groups": [*types, *KINDS]} if types else {}
    each = len(benchmark.requests) // len(benchmark.items)
    documents: list[dict[str, Any]] = []
    for number, row in enumerate(benchmark.items.to_dict(orient="records")):
        requests = benchmark.requests[number * each : (number + 1) * each]
        texts = {
            "prompts": [request.prompt for request in requests],
            "options": [list(request.options) for request in requests],
        }
        documents.append({column: row[column] for column in columns} | groups | texts)
    return documents


def _line(document: dict[str, Any]) -> str:
    return f"{json.dumps(document, ensure_ascii=False)}\n"


def _written(folder: Path) -> set[str]:
    """The files that kb_lens wrote into a folder, by its README.md."""
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"'{folder}' is a file: give a new or empty folder.")
    path = folder / _README
    if not path.is_file():
        return set()
    with path.open(encoding="utf-8", errors="replace") as file:
        first = file.readline()
    if not first.startswith(_MARK):
        return set()
    # Only the name: whatever the line says, nothing outside the folder is touched.
    return {Path(name).name for name in first.removeprefix(_MARK).split() if name != "-->"}


def _check_free(folder: Path, names: Sequence[str]) -> None:
    for name in names:
        if os.path.lexists(folder / name):
            raise ValueError(
                f"'{folder / name}' is there but not from `kb-lens tasks`: choose another --out."
            )


def _readme(tasks: dict[str, Benchmark], names: Sequence[str]) -> str:
    rows = [f"| `{t}` | {len(b.items)} | {b.source} |" for t, b in tasks.items()]
    return f"""{_MARK}{" ".join(names)} -->
# Bias benchmarks of kb_lens for lm-evaluation-harness

For lm-evaluation-harness 0.4.13; kb_lens need not be installed. In this folder:

```
lm_eval --model hf --model_args pretrained=MODEL --include_path . --apply_chat_template \\
    --tasks {",".join(tasks)}
```

| task | items | source |
|---|---|---|
{chr(10).join(rows)}

- Each YAML file begins with a description of its metrics. They are kb_lens' own, in percent.
  Metrics a token are not here, since the harness does not give the number of tokens.
- Leave `--apply_chat_template` out for a model without a chat template: chats are then plain text.
  `kb_lens_stereoset` is bare text with or without it. A thinking model needs
  `--model_args pretrained=MODEL,enable_thinking=False`.
- The harness gives no standard errors here. kb_lens gives intervals over clusters of items.
"""
