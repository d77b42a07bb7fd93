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
from typing import Any

import plotly.graph_objects as go

from kb_lens.files import moved_whole

FORMATS = ("html", "png", "svg", "pdf")
"""What can be written."""
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
    """Why formats are missing and what to install, in one line; empty if nothing is missing."""


def write_figure(
    figure: go.Figure, path: str | os.PathLike[str], formats: Sequence[str] = FORMATS
) -> Written:
    """Write one figure in several formats; for many figures `write_figures` is faster.

    Args:
        figure: What is written.
        path: Folder and name, without the ending: ``figures/overlap``.
        formats: Any of `FORMATS`.

    Raises:
        ValueError: For an unknown format, or a path that is a folder.
    """
    path = Path(path)
    return write_figures({path.name: figure}, path.parent, formats)


def write_figures(
    figures: Mapping[str, go.Figure],
    folder: str | os.PathLike[str],
    formats: Sequence[str] = FORMATS,
) -> Written:
    """Write figures as ``<folder>/<name>.<format>``, with one browser for all of them.

    Where static export is impossible the HTML is written all the same and the result's `note`
    says, once, what to install.

    Args:
        figures: Name -> figure.
        folder: Where to; made if it is not there.
        formats: Any of `FORMATS`.

    Raises:
        ValueError: For an unknown format, or a name that is no file name.
    """
    formats = _check(formats, figures)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    if "html" in formats:
        for name, figure in figures.items():
            page = figure.to_html(include_plotlyjs=True, config={"displaylogo": False})
            files.append(_write(folder / f"{name}.html", page.encode("utf-8")))
    static = [extension for extension in formats if extension != "html"]
    images, note = _render(figures, static)
    files += [_write(folder / name, content) for name, content in images.items()]
    return Written(tuple(files), note)


def _check(formats: Iterable[str], figures: Mapping[str, go.Figure]) -> list[str]:
    formats = [formats] if isinstance(formats, str) else list(dict.fromkeys(formats))
    for extension in formats:
        if extension not in FORMATS:
            raise ValueError(f"format is {extension!r}: allowed are {', '.join(FORMATS)}.")
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
