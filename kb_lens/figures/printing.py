"""PNG, SVG and PDF of figures, drawn in a browser in their own font and at their printed size.

Kaleido drives a Chromium and makes an SVG of a figure. What it makes of an SVG itself is an image,
which a page's fonts do not reach; so the SVG becomes part of a page here, which is printed. One
browser serves all figures of a call, and it is closed on every way out.
"""

from __future__ import annotations

import asyncio
import base64
import re
from collections.abc import Mapping
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from importlib.util import find_spec
from threading import Thread
from typing import TYPE_CHECKING, Any

import plotly.graph_objects as go
import psutil

from kb_lens.extras import install_command
from kb_lens.figures.fonts import style_sheet

if TYPE_CHECKING:
    from choreographer import Tab

DPI = 300
"""Pixels an inch of a PNG."""
_CSS_DPI = 96
"""What CSS calls an inch."""
_WITHOUT_MARGINS = dict.fromkeys(("marginTop", "marginBottom", "marginLeft", "marginRight"), 0)


@dataclass(frozen=True)
class Drawing:
    """A figure, and how wide it is in print."""

    figure: go.Figure
    """Laid out in pixels."""
    inches: float
    """Its width."""

    @property
    def height_inches(self) -> float:
        """Its height."""
        layout: Any = self.figure.layout
        return self.inches * layout.height / layout.width


def what_is_needed() -> str:
    """What static figures need, and how to install it."""
    return (
        f"PNG, SVG and PDF need kaleido and a browser: `{install_command('figures')}`, and a "
        "Chromium or Chrome (`apt-get install chromium`, or `kaleido_get_chrome`)."
    )


def render(drawings: Mapping[str, Drawing], formats: list[str]) -> tuple[dict[str, bytes], str]:
    """Draw figures in some of ``png``, ``svg`` and ``pdf``.

    Returns:
        File name -> content, and in one line what is missing and why.
    """
    if not drawings or not formats:
        return {}, ""
    if find_spec("kaleido") is None:
        return {}, what_is_needed()
    others, rendering = _processes(), Future[tuple[dict[str, bytes], str]]()
    # A thread of its own: a notebook's thread already runs an event loop. A daemon, as are the
    # threads that it starts: those that wait for a browser which was interrupted never end.
    Thread(target=_fulfil, args=(rendering, drawings, formats), daemon=True).start()
    try:
        return rendering.result()
    except KeyboardInterrupt:
        for browser in _processes() - others:
            with suppress(psutil.NoSuchProcess):
                browser.kill()
        raise


def _fulfil(
    rendering: Future[tuple[dict[str, bytes], str]],
    drawings: Mapping[str, Drawing],
    formats: list[str],
) -> None:
    try:
        rendering.set_result(asyncio.run(_rendered(drawings, formats)))
    except BaseException as error:  # it is the other thread's to raise
        rendering.set_exception(error)


def _processes() -> set[psutil.Process]:
    """What this process has started."""
    return set(psutil.Process().children(recursive=True))


async def _rendered(
    drawings: Mapping[str, Drawing], formats: list[str]
) -> tuple[dict[str, bytes], str]:
    import kaleido
    from choreographer.errors import ChromeNotFoundError

    class WithFont(kaleido.PageGenerator):
        """The page that kaleido draws in; plotly measures text there, so the font is loaded."""

        def generate_index(self) -> str:
            page: str = super().generate_index()
            return page.replace("</head>", f"<style>{style_sheet()}</style></head>")

    images: dict[str, bytes] = {}
    trouble = what_is_needed()
    # MathJax would come from the network, and no figure has formulas; plotly.js comes with plotly.
    offline: Any = WithFont(mathjax=False)
    try:
        async with kaleido.Kaleido(page_generator=offline) as browser:
            trouble = "Not every PNG, SVG and PDF could be rendered."
            page = await browser.create_tab("about:blank")
            for name, drawing in drawings.items():
                spec: Any = {"format": "svg"}
                svg = (await browser.calc_fig(drawing.figure, opts=spec)).decode()
                printed = await _printed(page, _own(svg, drawing), drawing, formats)
                images |= {f"{name}.{extension}": data for extension, data in printed.items()}
    except ChromeNotFoundError:
        return images, what_is_needed()
    except Exception as error:  # kaleido's and the browser's errors have no common base
        lines = str(error).strip().splitlines() or [type(error).__name__]
        return images, f"{trouble} ({lines[0]})"
    return images, ""


def _own(svg: str, drawing: Drawing) -> str:
    """The SVG with its font in it, as wide as it is in print."""
    inches = f'width="{drawing.inches:g}in" height="{drawing.height_inches:.4f}in"'
    tag, end, rest = svg.partition(">")
    tag = re.sub(r'width="[\d.]+" height="[\d.]+"', inches, tag)
    return f"{tag}{end}<style>{style_sheet()}</style>{rest}"


async def _printed(page: Tab, svg: str, drawing: Drawing, formats: list[str]) -> dict[str, bytes]:
    """Format -> the figure."""
    printed: dict[str, bytes] = {}
    if "svg" in formats:
        printed["svg"] = svg.encode()
    if "png" in formats or "pdf" in formats:
        await _show(page, svg, drawing)
    if "png" in formats:
        printed["png"] = await _screenshot(page, drawing)
    if "pdf" in formats:
        paper: Any = {"paperWidth": drawing.inches, "paperHeight": drawing.height_inches}
        options = paper | _WITHOUT_MARGINS | {"printBackground": True, "pageRanges": "1"}
        printed["pdf"] = await _data(page, "Page.printToPDF", options)
    return {extension: printed[extension] for extension in formats}


async def _show(page: Tab, svg: str, drawing: Drawing) -> None:
    """A page of the figure's size with the figure alone, its font loaded."""
    layout: Any = drawing.figure.layout
    # The paper may be a fraction of a point wider than the figure, which nobody should see.
    background = layout.paper_bgcolor or layout.template.layout.paper_bgcolor
    style = f"body {{margin: 0; background: {background}}} svg {{display: block}}"
    tree = await page.send_command("Page.getFrameTree")
    frame = tree["result"]["frameTree"]["frame"]["id"]
    html = f"<!doctype html><style>{style}</style>{svg}"
    await page.send_command("Page.setDocumentContent", {"frameId": frame, "html": html})
    # The layout asks for the font, and only then is there anything to wait for.
    loaded = "document.body.offsetHeight; document.fonts.ready.then(() => true)"
    await page.send_command("Runtime.evaluate", {"expression": loaded, "awaitPromise": True})


async def _screenshot(page: Tab, drawing: Drawing) -> bytes:
    clip = {"x": 0, "y": 0, "scale": DPI / _CSS_DPI}
    clip["width"] = _CSS_DPI * drawing.inches
    clip["height"] = _CSS_DPI * drawing.height_inches
    options = {"clip": clip, "captureBeyondViewport": True}
    return await _data(page, "Page.captureScreenshot", options)


async def _data(page: Tab, command: str, options: dict[str, Any]) -> bytes:
    """What the browser makes, or a `RuntimeError` with what it says."""
    answer = await page.send_command(command, options)
    if "result" not in answer:
        raise RuntimeError(str(answer.get("error", answer)))
    return base64.b64decode(answer["result"]["data"])
