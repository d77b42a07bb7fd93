"""Write the report of a folder of results: the findings, the methods and the checks.

Reads a folder of ``kb-lens run``, ``identify``, ``doctor`` or ``experiment``; needs no model.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import plotly.graph_objects as go

from kb_lens.figures.study_panels import TITLES
from kb_lens.figures.style import shown_model
from kb_lens.files import write_text
from kb_lens.report.page import Section, render, setting_text
from kb_lens.report.run import run_sections
from kb_lens.report.study import study_sections
from kb_lens.runs.folder import RunFolder
from kb_lens.runs.record import load_record
from kb_lens.studies.tables import Experiment


def write_report(
    folder: str | os.PathLike[str],
    figures: Mapping[str, go.Figure],
    path: str | os.PathLike[str],
) -> Section:
    """Write the page of a folder.

    Args:
        folder: A folder of ``run``, ``identify``, ``doctor`` or ``experiment``.
        figures: Name -> figure, from `kb_lens.figures.folders.draw_folder`.
        path: The HTML file; missing folders are created.

    Returns:
        Its summary: the answer in a sentence, and the headline metrics.

    Raises:
        ValueError: If the folder has no results, or a damaged file.
    """
    record = load_record(folder)
    command = record.get("command", "run")
    model = record.get("model", {}).get("name", "a model")
    # `experiment methods` writes evaluations like `run`: it is a study all the same.
    if (Path(folder) / "study.json").exists():
        study = Experiment.load(folder)
        title = TITLES.get(study.name, study.name)
        command = f"experiment {study.name}"
        sections = study_sections(study, figures)
    else:
        title = "Know-bias neurons"
        sections = run_sections(RunFolder.load(folder), figures)
    lead = f"{shown_model(model)}, by kb-lens {command}"
    write_text(path, render(title, lead, [*sections, _provenance(record)]))
    return sections[0]


def _provenance(record: Mapping[str, Any]) -> Section:
    """How the folder was made; unknown without ``run.json``."""
    if not record:
        unknown = "This folder has no run.json: it is not known how it was made."
        return Section("Provenance", words=[unknown])
    machine = {"python": "?", "platform": "?", "cpus": "?", **record}
    model = record.get("model", {})
    versions = record.get("versions", {})
    installed = {package: version for package, version in versions.items() if version}
    facts = {
        "command": f"kb-lens {record.get('command')}",
        **{f"model's {name}": setting_text(value) for name, value in model.items()},
        "arguments": setting_text(record.get("arguments")),
        "versions": setting_text(installed),
        "machine": "Python {python}, {platform}, {cpus} CPUs".format_map(machine),
        "seconds": setting_text(record.get("seconds")),
    }
    return Section("Provenance", facts=facts)
