"""Write figures to files: HTML always, PNG, SVG and PDF where a browser is there."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import plotly.graph_objects as go
from plotly.offline import get_plotlyjs

from kb_lens.figures.column import caption, in_column
from kb_lens.figures.fonts import style_sheet, wait_for_fonts
from kb_lens.figures.layout import PAGE_INCHES, TALLEST, without_title
from kb_lens.figures.printing import Drawing, render
from kb_lens.figures.style import BACKGROUND
from kb_lens.figures.themes import DARK, Theme, themed
from kb_lens.figures.widths import PAGE, Printed, printed_width
from kb_lens.files import moved_whole

FORMATS = ("html", "png", "svg", "pdf")
"""The file formats."""
SCRIPT = "plotly.min.js"
"""The script that the HTML figures of a folder need beside them."""
_EDGE = 10
"""Pixels above a figure whose title is in the caption."""


@dataclass(frozen=True)
class Written:
    """What was written, and what was not."""

    files: tuple[Path, ...]
    """The files, in order."""
    note: str = ""
    """One line: why formats are missing and what to install, and which figures are wider or taller
    than requested; empty if there is nothing to say."""


def write_figure(
    figure: go.Figure,
    path: str | os.PathLike[str],
    formats: Sequence[str] = FORMATS,
    *,
    theme: Theme = "light",
    width: str = PAGE,
) -> Written:
    """Write one figure in several formats; its HTML needs no other file.

    For many figures `write_figures` is faster, and its pages are smaller.

    Args:
        figure: The figure.
        path: Folder and name, without the ending: ``figures/overlap``.
        formats: Any of `FORMATS`.
        theme: As `write_figures`.
        width: As `write_figures`.

    Raises:
        ValueError: If a format, theme or width is unknown, or the path is a folder.
    """
    path = Path(path)
    drawings = _drawings({path.name: figure}, _check(formats, [path.name]), theme, width)
    return _write(drawings, path.parent, alone=True)


def write_figures(
    figures: Mapping[str, go.Figure],
    folder: str | os.PathLike[str],
    formats: Sequence[str] = FORMATS,
    *,
    theme: Theme = "light",
    width: str = PAGE,
) -> Written:
    """Write figures as ``<folder>/<name>.<format>``, with one browser for all of them.

    The dark theme is ``<name>.dark.<format>``, a column ``<name>.column.<format>``, another width
    ``<name>.5_5in.<format>``, so that one folder can hold all. The title and the note of a printed
    figure are in ``<name>.txt``, for the caption. The HTML figures share one ``plotly.min.js``.
    Without a browser only the HTML is written, and the result's `note` says what to install.

    Args:
        figures: Name -> figure, in the light theme.
        folder: The folder; created if missing.
        formats: Any of `FORMATS`.
        theme: ``light``, or ``dark`` for a dark page.
        width: ``page`` for a figure with its title. ``column`` (3.3 inches) or a length such as
            ``5.5in``, ``14cm`` for a printed figure: its title goes to the caption, and PDF and SVG
            have this width. Below 4.6 inches panels are one below the other. Figures that need a
            page's width keep it, and `note` names them.

    Raises:
        ValueError: If a format, theme or width is unknown, or a name is not a file name.
    """
    drawings = _drawings(figures, _check(formats, figures), theme, width)
    return _write(drawings, folder, alone=False)


@dataclass(frozen=True)
class _Drawings:
    """Figures in their final layout."""

    theme: Theme
    formats: list[str]
    by_name: Mapping[str, Drawing]
    """Name of the file, without its ending -> the figure."""
    captions: Mapping[str, str]
    """Name of the figure -> its title and note, for figures without them."""
    note: str
    """What differs from the request."""


def _drawings(
    figures: Mapping[str, go.Figure], formats: list[str], theme: Theme, width: str
) -> _Drawings:
    asked = printed_width(width)
    dark = ".dark" if theme == "dark" else ""
    by_name: dict[str, Drawing] = {}
    captions: dict[str, str] = {}
    wide: list[str] = []
    tall: list[str] = []
    for name, figure in figures.items():
        printed, inches, suffix = _laid_out(figure, asked), asked.inches, asked.suffix
        if printed is None:
            wide.append(name)
            printed, inches, suffix = figure, PAGE_INCHES, ""
        elif not asked.has_title:
            captions[name] = caption(figure)
        drawing = Drawing(themed(printed, theme), inches)
        if drawing.height_inches > TALLEST:
            tall.append(name)
        by_name[f"{name}{dark}{suffix}"] = drawing
    notes = [f"These need the page's width: {', '.join(wide)}."] if wide else []
    if tall:
        notes.append(f"Higher than a page: {', '.join(tall)}.")
    return _Drawings(theme, formats, by_name, captions, " ".join(notes))


def _laid_out(figure: go.Figure, asked: Printed) -> go.Figure | None:
    """The figure laid out for the width; None if it needs the page's width."""
    if asked.has_title:
        return figure
    return in_column(figure) if asked.narrow else without_title(figure, _EDGE)


def _write(drawings: _Drawings, folder: str | os.PathLike[str], *, alone: bool) -> Written:
    """Write the files; with `alone` the HTML includes plotly.js."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    files: list[Path] = []
    if "html" in drawings.formats and drawings.by_name:
        if not alone:
            _put(folder / SCRIPT, get_plotlyjs())
        for name, drawing in drawings.by_name.items():
            page = _page(drawing.figure, drawings.theme, alone)
            files.append(_put(folder / f"{name}.html", page))
    # The HTML is written first: it does not need the browser.
    static = [extension for extension in drawings.formats if extension != "html"]
    images, note = render(drawings.by_name, static)
    files += [_put(folder / name, image) for name, image in images.items()]
    files += [_put(folder / f"{name}.txt", text) for name, text in drawings.captions.items()]
    return Written(tuple(files), " ".join(filter(None, [note, drawings.note])))


def _put(path: Path, content: str | bytes) -> Path:
    with moved_whole(path) as unfinished:
        unfinished.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def _page(figure: go.Figure, theme: Theme, alone: bool) -> str:
    """A whole HTML page that needs no network, in the figure's background colour."""
    page = figure.to_html(include_plotlyjs=True if alone else SCRIPT, config={"displaylogo": False})
    background = DARK[BACKGROUND] if theme == "dark" else BACKGROUND
    style = f"<style>{style_sheet()} body {{background: {background}}}</style></head>"
    before, tag, drawing = page.replace("</head>", style, 1).rpartition("<script")
    return f"{before}<script>{wait_for_fonts('Plotly.newPlot')}</script>{tag}{drawing}"


def _check(formats: Iterable[str], names: Iterable[str]) -> list[str]:
    formats = [formats] if isinstance(formats, str) else list(dict.fromkeys(formats))
    for extension in formats:
        if extension not in FORMATS:
            raise ValueError(f"format is {extension!r}: allowed are {', '.join(FORMATS)}.")
    for name in names:
        if not name or Path(name).name != name:
            raise ValueError(f"{name!r} is not a file name for a figure: give one like 'overlap'.")
    return formats
