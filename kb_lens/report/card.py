"""The card of a folder of results on the hub: what was measured, and how to read it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from kb_lens.evaluation.comparison import summarize
from kb_lens.evaluation.markdown import summary_table
from kb_lens.evaluation.results import load_results
from kb_lens.records.tables import Belongs
from kb_lens.report.page import setting_text
from kb_lens.report.study import label_columns
from kb_lens.runs.folder import RunFolder
from kb_lens.runs.record import load_record
from kb_lens.studies.tables import Experiment

_CARD = """---
{head}
---

# {title}

Results of `kb-lens {command}` for {whose}.

{found}

## How it was made

{arguments}

Versions: {versions}. `run.json` has the rest.

## How to read it

The data viewer shows its tables. To read the whole folder:

```sh
hf download {repository} --repo-type dataset --local-dir results
{read}
```

No licence is stated here: the owner of this data set chooses one.
"""
_TABLE = """Headline metrics with 95 % intervals over clusters of items; differences are paired,
from the base model.

{table}"""
_NO_TABLE = "No benchmark was run."
_READ = {
    "experiment": "kb-lens report results",
    "evaluate": "kb-lens compare results ANOTHER_FOLDER",
}
"""Command -> the command that reads its folder."""


@dataclass(frozen=True)
class _Results:
    """The content of a folder's card."""

    command: str
    """The command that wrote it."""
    whose: Belongs
    """The model."""
    summary: pd.DataFrame
    """A table as of `summarize`; empty if no benchmark was run."""
    found: str = ""
    """The text beside the table."""


def results_card(folder: Path, repository: str) -> str:
    """A data set card: the front matter that the hub reads, and a short text.

    Args:
        folder: A folder of ``run``, ``identify``, ``doctor``, ``evaluate`` or ``experiment``.
        repository: ``USER/NAME``.

    Raises:
        ValueError: If the folder has no results, or a damaged file.
    """
    from huggingface_hub import DatasetCardData

    record = load_record(folder)
    results = _read(folder, record)
    title = _line(f"{results.whose.model or 'A model'}, by kb-lens {results.command}")
    head = DatasetCardData(
        pretty_name=title, tags=["kb_lens", "interpretability"], configs=_configs(folder) or None
    )
    table = summary_table(results.summary)
    measured = _NO_TABLE if results.summary.empty else _TABLE.format(table=table)
    return _CARD.format(
        head=head.to_yaml(),
        title=title,
        command=results.command,
        whose=results.whose,
        found=f"{results.found}\n\n{measured}".strip(),
        arguments=_listed(record.get("arguments", {})) or "The folder does not say.",
        versions=_versions(record.get("versions", {})),
        repository=repository,
        read=_READ.get(results.command.split()[0], "kb-lens report results"),
    )


def _read(folder: Path, record: Mapping[str, Any]) -> _Results:
    if (folder / "study.json").exists():
        study = Experiment.load(folder)
        whose = Belongs.stated_in(study.settings)
        return _Results(f"experiment {study.name}", whose, _study_summary(study))
    command = str(record.get("command", "run"))
    if (folder / "results.json").exists():
        measured = list(load_results(folder).values())
        name = measured[0].condition.name or "results"
        return _Results(command, Belongs.of(measured[0]), summarize({name: measured}))
    run = RunFolder.load(folder)
    summary = summarize(run.results) if run.results else pd.DataFrame()
    return _Results(command, run.whose(folder), summary, _found(run))


def _found(run: RunFolder) -> str:
    """The verdict on the model's knowledge, and the number of neurons."""
    paragraphs = [] if run.knowledge is None else [_line(run.knowledge.verdict())]
    if run.neurons is not None:
        counts = ", ".join(f"{name} {len(neurons)}" for name, neurons in run.sets.items())
        paragraphs.append(f"{len(run.neurons)} neurons were selected ({_line(counts)}).")
    return "\n\n".join(paragraphs)


def _study_summary(study: Experiment) -> pd.DataFrame:
    """The headline metrics of the base model and every case; random draws are in the tables."""
    if "results" not in study.tables:
        return pd.DataFrame()
    rows = study.headline().query("role != 'control'")
    labels = rows[label_columns(rows)].itertuples(index=False)
    cases = [", ".join(map(str, label)) for label in labels]
    is_base = rows["role"] == "base"  # the base model has no labels
    return rows.assign(condition=pd.Series(cases, index=rows.index).where(~is_base, "base"))


def _configs(folder: Path) -> list[dict[str, Any]]:
    """The tables, named as the hub's data viewer needs them.

    The viewer reads files of one kind in a data set: CSV if there are any, else parquet, with one
    table of items per benchmark and a split per condition.
    """
    configs: dict[str, list[dict[str, str]]] = {}
    paths = list(folder.rglob("*.csv")) or list(folder.rglob("*.parquet"))
    for path in sorted(path.relative_to(folder) for path in paths):
        is_items = path.parent.name == "items"
        above = path.parent.parent if is_items else path.parent
        name, split = path.stem, "table"
        if is_items:
            name, split = f"items {name}", above.name or split
            above = above.parent
        name = " ".join([*(part for part in above.parts if part != "evaluations"), name])
        # the characters that a split's name may have
        split = re.sub(r"[^\w.]", "_", split)
        configs.setdefault(name, []).append({"split": split, "path": path.as_posix()})
    return [{"config_name": name, "data_files": files} for name, files in configs.items()]


def _listed(arguments: Mapping[str, Any]) -> str:
    """Every argument that is set, a line each."""
    is_said = {name: value for name, value in arguments.items() if value not in (None, [], {})}
    return "\n".join(f"- {name}: {_line(setting_text(value))}" for name, value in is_said.items())


def _versions(versions: Mapping[str, str | None]) -> str:
    installed = [f"{name} {version}" for name, version in versions.items() if version]
    return ", ".join(installed) or "not known"


def _line(text: str) -> str:
    return " ".join(text.split())
