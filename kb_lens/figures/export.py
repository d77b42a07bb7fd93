"""Write figures to files: standalone HTML always, PNG, SVG and PDF where a browser is there.

Static files are rendered by kaleido, which drives a Chromium. One browser serves all figures of a
call, and it is closed on every way out.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, get_args

import plotly.graph_objects as go

from kb_lens.figures.column import caption, in_column
from kb_lens.figures.style import BACKGROUND
from kb_lens.figures.themes import DARK, Theme, themed
from kb_lens.files import moved_whole

FORMATS = ("html", "png", "svg", "pdf")
"""What can be written."""
Width = Literal["page", "column"]
"""A page's text width, or one column of two."""
_SCALE = {"png": 3}  # 700 pixels wide become 2100: 300 dots an inch over 7 inches
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
    ready, wide = _ready(figures, theme, width)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    if "html" in formats:
        for name, figure in ready.items():
            files.append(_write(folder / f"{name}.html", _page(figure, theme).encode("utf-8")))
    static = [extension for extension in formats if extension != "html"]
    images, note = _render(ready, static)
    files += [_write(folder / name, content) for name, content in images.items()]
    for name in figures if width == "column" else ():
        text = caption(figures[name]).encode("utf-8")
        files += [] if name in wide else [_write(folder / f"{name}.txt", text)]
    notes = [note, f"Page width is needed by: {', '.join(wide)}." if wide else ""]
    return Written(tuple(files), " ".join(text for text in notes if text))


def _ready(
    figures: Mapping[str, go.Figure], theme: Theme, width: Width
) -> tuple[dict[str, go.Figure], list[str]]:
    """Name of the file -> what is drawn there, and the names of figures too wide for a column."""
    narrow = {name: in_column(one) if width == "column" else None for name, one in figures.items()}
    ready = {}
    for name, figure in figures.items():
        column = narrow[name]
        words = [name, *["dark"] * (theme == "dark"), *["column"] * (column is not None)]
        ready[".".join(words)] = themed(column or figure, theme)
    return ready, [name for name, one in narrow.items() if one is None and width == "column"]


def _page(figure: go.Figure, theme: Theme) -> str:
    """A whole HTML page, of the figure's colour around it."""
    page = figure.to_html(include_plotlyjs=True, config={"displaylogo": False})
    around = DARK[BACKGROUND] if theme == "dark" else BACKGROUND
    return page.replace("<body>", f'<body style="background: {around}">', 1)


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


def _write(path: Path, content: bytes) -> Path:
    with moved_whole(path) as part:
        part.write_bytes(content)
    return path


def _render(figures: Mapping[str, go.Figure], formats: list[str]) -> tuple[dict[str, bytes], str]:
    """File name -> content, and in one line what is missing."""
    if not figures or not formats:
        return {}, ""
    if find_spec("kaleido") is None:
        return {}, INSTALL
    with ThreadPoolExecutor(1) as pool:  # a notebook's own thread already runs an event loop
        return pool.submit(asyncio.run, _rendered(figures, formats)).result()


async def _rendered(
    figures: Mapping[str, go.Figure], formats: list[str]
) -> tuple[dict[str, bytes], str]:
    import kaleido
    from choreographer.errors import ChromeNotFoundError

    images: dict[str, bytes] = {}
    trouble = INSTALL
    offline: Any = kaleido.PageGenerator(mathjax=False)  # plotly.js comes with plotly
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
