"""The command ``kb-lens report``: one page from a folder of results."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from kb_lens.checks.doctor import as_table, examine
from kb_lens.checks.neuron_meaning import promoted_tokens
from kb_lens.evaluation.results import EvaluationResult
from kb_lens.figures.folders import draw_folder
from kb_lens.files import write_text
from kb_lens.report.write import write_report
from kb_lens.runs.identify import Identified


def report(
    folder: Annotated[
        Path, typer.Argument(help="What `run`, `identify`, `doctor` or `experiment` wrote.")
    ],
    out: Annotated[Path | None, typer.Option(help="The page; default FOLDER/report.html.")] = None,
) -> None:
    """Everything in a folder of results on one page that needs nothing else."""
    page = out or folder / "report.html"
    try:
        write_report(folder, draw_folder(folder), page)
    except (KeyError, TypeError) as error:  # a table without its columns
        raise ValueError(f"'{folder}' has a file that kb_lens did not write: {error!r}.") from error
    typer.echo(f"Written to {page}")


def write_reading(
    model: Any,
    found: Identified,
    results: Mapping[str, Sequence[EvaluationResult]],
    lam: float,
    folder: Path,
) -> None:
    """What a report needs beside the results: ``checks.json`` and ``tokens.csv``.

    Args:
        model: The model.
        found: Its neurons.
        results: Condition -> its results.
        lam: The factor that is examined.
        folder: Where to.
    """
    name = f"lambda {lam:g}"
    checks = examine(
        knowledge=found.knowledge,
        attributions=found.attributions,
        sets=found.sets,
        base=results["base"],
        enhanced=results[name],
        control=results[f"random {name}"],
    )
    table = as_table(checks).to_dict("records")
    write_text(folder / "checks.json", json.dumps(table, indent=1) + "\n")
    try:
        tokens = promoted_tokens(model, found.neurons)
    except ValueError as error:  # packed weights cannot be read
        typer.echo(f"LEFT OUT: the tokens that the neurons promote. {error}", err=True)
    else:
        write_text(folder / "tokens.csv", tokens.to_csv(index=False))
