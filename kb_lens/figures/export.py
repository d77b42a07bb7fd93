"""Write figures to files: standalone HTML always, PNG, SVG and PDF where a browser is there.

Static files are rendered by kaleido, which drives a Chromium. One browser serves all figures of a
call, and it is closed on every way out.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from threading import Thread
from typing import Any, Literal, get_args

import plotly.graph_objects as go
import psutil

from kb_lens.figures.column import caption, in_column
from kb_lens.figures.style import BACKGROUND
from kb_lens.figures.themes import DARK, Theme, themed
from kb_lens.files import moved_whole

FORMATS = ("html", "png", "svg", "pdf")
"""What can be written."""
Width = Literal["page", "column"]
"""A page's text width, or one column of two."""
# 700 pixels wide become 2100: 300 dots an inch over the 7 inches of a page's text.
_SCALE = {"png": 3}
INSTALL = (
    "PNG, SVG and PDF need kaleido and a browser: `pip install kb-lens[figures]`, and a Chromium "
    "or Chrome (`apt-get install chromium`, or `kaleido_get_chrome`)."
)


@dataclass(frozen=True)
class Written:
    """What was written, and what was not."""

    files: tuple[Path, ...]
    """The files, in order."""
    note: str = ""
    """In one line: why formats are missing and what to install, which figures are wider than a
    column; empty if all is as it was asked for."""


def write_figure(
    figure: go.Figure,
    path: str | os.PathLike[str],
    formats: Sequence[str] = FORMATS,
    *,
    theme: Theme = "light",
    width: Width = "page",
) -> Written:
    """Write one figure in several formats; for many figures `write_figures` is faster.

    Args:
        figure: What is written.
        path: Folder and name, without the ending: ``figures/overlap``.
        formats: Any of `FORMATS`.
        theme: As `write_figures`.
        width: As `write_figures`.

    Raises:
        ValueError: For an unknown format, theme or width, or a path that is a folder.
    """
    path = Path(path)
    return write_figures({path.name: figure}, path.parent, formats, theme=theme, width=width)


def write_figures(
    figures: Mapping[str, go.Figure],
    folder: str | os.PathLike[str],
    formats: Sequence[str] = FORMATS,
    *,
    theme: Theme = "light",
    width: Width = "page",
) -> Written:
    """Write figures as ``<folder>/<name>.<format>``, with one browser for all of them.

    The dark theme is ``<name>.dark.<format>``, a column ``<name>.column.<format>``, and a dark
    column ``<name>.dark.column.<format>``, so that one folder has room for all. What a column
    leaves to the caption, title and note, is in ``<name>.txt``. Where static export is impossible
    the HTML is written all the same and the result's `note` says, once, what to install.

    Args:
        figures: Name -> figure, in the light theme.
        folder: Where to; made if it is not there.
        formats: Any of `FORMATS`.
        theme: ``light``, or ``dark`` for a dark page.
        width: ``page``, or ``column`` for a paper's column; figures that need a page's width keep
            it, and `note` names them.

    Raises:
        ValueError: For an unknown format, theme or width, or a name that is no file name.
    """
    formats = _check(formats, figures, width)
    in_columns = _columns(figures) if width == "column" else {}
    themed_figures = _themed(figures, in_columns, theme)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    files: list[Path] = []
    if "html" in formats:
        for name, figure in themed_figures.items():
            files.append(_write(folder / f"{name}.html", _page(figure, theme)))
    static = [extension for extension in formats if extension != "html"]
    images, note = _render(themed_figures, static)
    files += [_write(folder / name, image) for name, image in images.items()]
    files += [_write(folder / f"{name}.txt", caption(figures[name])) for name in in_columns]
    wide = [name for name in figures if name not in in_columns] if width == "column" else []
    wide_note = f"Page width is needed by: {', '.join(wide)}." if wide else ""
    return Written(tuple(files), f"{note} {wide_note}".strip())


def _columns(figures: Mapping[str, go.Figure]) -> dict[str, go.Figure]:
    """The figures that a column has room for, as it shows them."""
    columns = {name: in_column(figure) for name, figure in figures.items()}
    return {name: column for name, column in columns.items() if column is not None}


def _themed(
    figures: Mapping[str, go.Figure], in_columns: Mapping[str, go.Figure], theme: Theme
) -> dict[str, go.Figure]:
    """Name of the file, without its ending -> what it shows."""
    themed_figures: dict[str, go.Figure] = {}
    for name, figure in figures.items():
        dark = ".dark" if theme == "dark" else ""
        column = ".column" if name in in_columns else ""
        themed_figures[name + dark + column] = themed(in_columns.get(name, figure), theme)
    return themed_figures


def _page(figure: go.Figure, theme: Theme) -> str:
    """A whole HTML page, of the figure's colour around it."""
    # plotly.js is written into the page, so that it opens without a network.
    page = figure.to_html(include_plotlyjs=True, config={"displaylogo": False})
    background = DARK[BACKGROUND] if theme == "dark" else BACKGROUND
    return page.replace("<body>", f'<body style="background: {background}">', 1)


def _check(formats: Iterable[str], figures: Mapping[str, go.Figure], width: Width) -> list[str]:
    formats = [formats] if isinstance(formats, str) else list(dict.fromkeys(formats))
    for extension in formats:
        if extension not in FORMATS:
            raise ValueError(f"format is {extension!r}: allowed are {', '.join(FORMATS)}.")
    if width not in get_args(Width):
        raise ValueError(f"width is {width!r}: allowed are {', '.join(get_args(Width))}.")
    for name in figures:
        if not name or Path(name).name != name:
            raise ValueError(f"{name!r} is no file name for a figure: expected one like 'overlap'.")
    return formats


def _write(path: Path, content: str | bytes) -> Path:
    data = content.encode("utf-8") if isinstance(content, str) else content
    with moved_whole(path) as temporary:
        temporary.write_bytes(data)
    return path


def _render(figures: Mapping[str, go.Figure], formats: list[str]) -> tuple[dict[str, bytes], str]:
    """File name -> content, and in one line what is missing."""
    if not figures or not formats:
        return {}, ""
    if find_spec("kaleido") is None:
        return {}, INSTALL
    others, rendering = _processes(), Future[tuple[dict[str, bytes], str]]()
    # A thread of its own: a notebook's thread already runs an event loop. A daemon, as are the
    # threads that it starts: those that wait for a browser which was interrupted never end.
    Thread(target=_fulfil, args=(rendering, figures, formats), daemon=True).start()
    try:
        return rendering.result()
    except KeyboardInterrupt:
        for browser in _processes() - others:
            with suppress(psutil.NoSuchProcess):
                browser.kill()
        raise


def _fulfil(
    rendering: Future[tuple[dict[str, bytes], str]],
    figures: Mapping[str, go.Figure],
    formats: list[str],
) -> None:
    try:
        rendering.set_result(asyncio.run(_rendered(figures, formats)))
    except BaseException as error:  # it is the other thread's to raise
        rendering.set_exception(error)


def _processes() -> set[psutil.Process]:
    """What this process has started."""
    return set(psutil.Process().children(recursive=True))


async def _rendered(
    figures: Mapping[str, go.Figure], formats: list[str]
) -> tuple[dict[str, bytes], str]:
    import kaleido
    from choreographer.errors import ChromeNotFoundError

    images: dict[str, bytes] = {}
    trouble = INSTALL
    # MathJax would come from the network, and no figure has formulas; plotly.js comes with plotly.
    offline: Any = kaleido.PageGenerator(mathjax=False)
    try:
        async with kaleido.Kaleido(page_generator=offline) as browser:
            trouble = "Not every PNG, SVG and PDF could be rendered."
            for name, figure in figures.items():
                for extension in formats:
                    options: Any = {"format": extension, "scale": _SCALE.get(extension, 1)}
                    image = await browser.calc_fig(figure, opts=options)
                    images[f"{name}.{extension}"] = image
    except ChromeNotFoundError:
        return images, INSTALL
    except Exception as error:  # kaleido's and the browser's errors have no common base
        lines = str(error).strip().splitlines() or [type(error).__name__]
        return images, f"{trouble} ({lines[0]})"
    return images, ""
