"""Benchmarks as task files of lm-evaluation-harness, for machines where kb_lens is not.

A task is two files. The YAML file is one of those in ``harness_forms/``, with what is known of the
items at its end. The file of items, one JSON object a line, has every text that the model reads and
is scored on (`Benchmark.requests`), and the columns that metrics are made of. What counts as what
is in `harness_functions.py`, which is copied beside them together with `caution.py`. A README.md
says how to run the tasks; its first line lists the files, so that those alone are replaced later.

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
"""What is written unless told otherwise: all that can be."""

COLUMNS = {
    "stereoset": ("item", "kind", "bias_type", "target"),
    "stereoset_instructed": ("item", "kind", "bias_type", "target"),
    "over_correction": ("item", "kind", "dimension"),
}
"""Key of a benchmark that can be a task -> the columns of its items that the task keeps."""

_SOURCES = Path(__file__).parent
_PYTHON = {"kb_lens_tasks.py": "harness_functions.py", "caution.py": "caution.py"}
"""Python file of the tasks -> the file here that it is a copy of."""
_README = "README.md"
_MARK = "<!-- Written by kb-lens tasks: "


def write_tasks(folder: str | os.PathLike[str], benchmarks: Sequence[Benchmark]) -> list[str]:
    """Write benchmarks as tasks of lm-evaluation-harness.

    Tasks that were written into the folder before are replaced, all of them.

    Args:
        folder: Of the files; made if it is not there.
        benchmarks: What `load_benchmark` returned.

    Returns:
        The names of the tasks.

    Raises:
        ValueError: If a benchmark cannot be a task, the folder is a file, or it holds a file of one
            of these names that is not from here.
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
    # First: it says whose the others are, if this is killed in between.
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
    """Which of the forms a benchmark has: items of the user's own have the benchmark's."""
    return result_key(benchmark.name, benchmark.protocol)


def _types(benchmark: Benchmark) -> list[str]:
    """The bias types of the user's own items; none of a benchmark's, which its form has."""
    own = benchmark.dataset is not None and "bias_type" in benchmark.items
    return sorted(benchmark.items["bias_type"].unique()) if own else []


def _with_types(form: str, types: Sequence[str]) -> str:
    """A form whose lines of bias types are of other ones."""
    first, *others = (f"_{name}," for name in BIAS_TYPES)
    lines: list[str] = []
    for line in form.splitlines(keepends=True):
        if first in line:
            before, _, metric = line.partition("{metric: ")
            metric, _, rest = metric.partition(first)
            # quoted as JSON, which is YAML: a type may have a space in it
            names = (json.dumps(f"{metric}_{name}", ensure_ascii=False) for name in types)
            lines += [f"{before}{{metric: {name},{rest}" for name in names]
        elif not any(other in line for other in others):
            lines.append(line)
    return "".join(lines)


def _source(name: str) -> str:
    return (_SOURCES / name).read_text(encoding="utf-8")


def _definition(task: str, benchmark: Benchmark) -> str:
    """The YAML file: what the task is, and at its end what is known of its items."""
    about = {
        "items": len(benchmark.items),
        "source": benchmark.source,
        "digest": benchmark.digest,  # as in kb_lens' results.json: what is asked is the same
    }
    lines = [f"  {name}: {json.dumps(value)}\n" for name, value in about.items()]  # which is YAML
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
    """The files of a folder that are from here, by its README.md."""
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"'{folder}' is a file: give a folder that is new or empty.")
    path = folder / _README
    if not path.is_file():
        return set()
    with path.open(encoding="utf-8", errors="replace") as file:
        first = file.readline()
    if not first.startswith(_MARK):
        return set()
    # A name alone: whatever the line says, nothing outside the folder is touched.
    return {Path(name).name for name in first.removeprefix(_MARK).split() if name != "-->"}


def _check_free(folder: Path, names: Sequence[str]) -> None:
    for name in names:
        if os.path.lexists(folder / name):
            raise ValueError(
                f"'{folder / name}' is there and not from `kb-lens tasks`: choose another --out."
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

- Each YAML file begins with what its metrics are. They are kb_lens' own, in percent; those that
  divide by a number of tokens are not here, since the harness does not say how many there are.
- Leave `--apply_chat_template` out for a model without a chat template: chats are plain text then.
  `kb_lens_stereoset` is bare text with it as without. A thinking model needs
  `--model_args pretrained=MODEL,enable_thinking=False`.
- The harness gives no standard error. kb_lens has intervals over clusters of items.
"""
