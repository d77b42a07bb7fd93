"""Rebuild every figure from saved results: ``python figures/make_figures.py RESULTS_DIR``.

RESULTS_DIR is a folder of ``run``, ``identify``, ``doctor``, ``experiment``, ``tune`` or
``neurons``. Nothing is computed again; a figure without its results is left out.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from kb_lens.figures.export import FORMATS, write_figures
from kb_lens.figures.folders import draw_folder
from kb_lens.figures.themes import Theme

HERE = Path(__file__).parent


def make(results: Path, out: Path, formats: Sequence[str], theme: Theme, width: str) -> str:
    """Draw and write all figures of the folder's results.

    Returns:
        A line that says what was written.

    Raises:
        ValueError: If the folder has no results, or damaged ones, or a format is unknown.
    """
    figures = draw_folder(results)
    written = write_figures(figures, out, formats, theme=theme, width=width)
    return f"{len(figures)} figures, {len(written.files)} files in {out}. {written.note}".rstrip()


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(description="Rebuild every figure from saved results.")
    parser.add_argument("results", type=Path, metavar="RESULTS_DIR", help="a results folder")
    parser.add_argument("--out", type=Path, default=HERE, help="folder (default: %(default)s)")
    parser.add_argument(
        "--formats", nargs="+", choices=FORMATS, default=FORMATS, help="default: all"
    )
    parser.add_argument("--theme", choices=get_args(Theme), default="light")
    parser.add_argument(
        "--width", default="page", help="page, or for print column or a length such as 5.5in"
    )
    given = parser.parse_args(arguments)
    try:
        sys.stdout.write(make(**vars(given)) + "\n")
    except ValueError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
