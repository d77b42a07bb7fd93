"""Rebuild every figure from saved results: ``python figures/make_figures.py RESULTS_DIR``.

RESULTS_DIR is what ``kb-lens run``, ``identify`` or ``experiment`` made. Nothing is computed again;
a figure whose results are not there is left out.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from kb_lens.experiments import Experiment
from kb_lens.export_figures import FORMATS, write_figures
from kb_lens.figures import draw_study, make_all
from kb_lens.run_folder import RunFolder

HERE = Path(__file__).parent


def make(folder: Path, out: Path, formats: Sequence[str]) -> str:
    """Draw and write all that the folder has results for.

    Returns:
        What was done, in one line.

    Raises:
        ValueError: If the folder has no results, or damaged ones, or a format is unknown.
    """
    if (folder / "study.json").is_file():
        study = Experiment.load(folder)
        figures = draw_study(study.name, study.tables, study.settings)
    else:
        run = RunFolder.load(folder)
        figures = make_all(run.attributions, run.sets, run.results, run.knowledge, run.specificity)
    written = write_figures(figures, out, formats)
    return f"{len(figures)} figures, {len(written.files)} files in {out}. {written.note}".rstrip()


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(description="Rebuild every figure from saved results.")
    parser.add_argument("results", type=Path, metavar="RESULTS_DIR", help="what `kb-lens run` made")
    parser.add_argument("--out", type=Path, default=HERE, help="where to (default: %(default)s)")
    parser.add_argument(
        "--formats", nargs="+", choices=FORMATS, default=FORMATS, help="default: all"
    )
    given = parser.parse_args(arguments)
    try:
        sys.stdout.write(make(given.results, given.out, given.formats) + "\n")
    except ValueError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
