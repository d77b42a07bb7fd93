"""The options that commands share, besides the groups of `kb_lens.runs.settings`."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter
from plotly.graph_objects import Figure

from kb_lens.figures.export import FORMATS, write_figures
from kb_lens.figures.themes import Theme

QUOTE = "'"
"""The quotation mark around commands on the terminal."""
FLAT = Parameter(name="*")
"""For a dataclass: its fields are the options."""
Out = Annotated[Path, Parameter(help="Folder for everything that is written.")]
Config = Annotated[
    Path | None,
    Parameter(help="File with further options: a run.json to repeat, or YAML with their names."),
]
"""Read by `kb_lens.cli.config` before the command is called; the command ignores it."""
DryRun = Annotated[
    bool,
    Parameter("--dry-run", help="Say what would be done and its estimated time; write nothing."),
]
ThemeOption = Annotated[Theme, Parameter("--theme", help="Theme of the figures.")]
WidthOption = Annotated[
    str,
    Parameter("--width", help="page with title; or for print: column, 5.5in, 14cm and so on."),
]


def tell(text: str) -> None:
    """Print a line for the user; `code` is put in quotation marks."""
    sys.stdout.write(f"{text.replace('`', QUOTE)}\n")


def left_out(text: str) -> None:
    """Print to standard error what cannot be done."""
    sys.stderr.write(f"{text}\n")


def save_figures(
    figures: Mapping[str, Figure], folder: Path, formats: Sequence[str] = FORMATS, **form: Any
) -> None:
    """Write figures and tell what was written; `form` as in `write_figures`."""
    # Without a browser there is only HTML; the note says so once for all figures.
    written = write_figures(figures, folder, formats, **form)
    count = "1 figure" if len(figures) == 1 else f"{len(figures)} figures"
    tell(f"{count} in {folder}. {written.note}".rstrip())
