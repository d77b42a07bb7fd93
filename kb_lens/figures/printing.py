"""PNG, SVG and PDF of figures, drawn in a browser with their own font and at their printed size.

Kaleido drives a Chromium and makes an SVG of a figure. Kaleido itself would print the SVG as an
image, which does not use a page's fonts. So here the SVG becomes part of a page, which is printed.
One browser serves all figures of a call, and it is always closed.
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
from kb_lens.figures.fonts import style_sheet, wait_for_fonts

if TYPE_CHECKING:
    from choreographer import Tab

DPI = 300
"""Pixels per inch of a PNG."""
_CSS_DPI = 96
"""Pixels per inch of CSS."""
_WITHOUT_MARGINS = dict.fromkeys(("marginTop", "marginBottom", "marginLeft", "marginRight"), 0)


@dataclass(frozen=True)
class Drawing:
    """A figure and its width in print."""

    figure: go.Figure
    """The figure, laid out in pixels."""
    inches: float
    """Its width in inches."""

    @property
    def height_inches(self) -> float:
        """Its height in inches."""
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
        File name -> content; and a line that says what is missing and why.
    """
    if not drawings or not formats:
        return {}, ""
    if find_spec("kaleido") is None:
        return {}, what_is_needed()
    others, rendering = _processes(), Future[tuple[dict[str, bytes], str]]()
    # In a new thread, since a notebook's thread already runs an event loop. It and its threads are
    # daemons: threads that wait for an interrupted browser never end.
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
    except BaseException as error:  # the waiting thread raises it
        rendering.set_exception(error)


def _processes() -> set[psutil.Process]:
    """The processes that this process has started."""
    return set(psutil.Process().children(recursive=True))


async def _rendered(
    drawings: Mapping[str, Drawing], formats: list[str]
) -> tuple[dict[str, bytes], str]:
    import kaleido
    from choreographer.errors import ChromeNotFoundError

    class WithFont(kaleido.PageGenerator):
        """The page in which kaleido draws; plotly measures text there, so it loads the font."""

        def generate_index(self) -> str:
            page: str = super().generate_index()
            script = wait_for_fonts("kaleido_scopes.plotly")
            fonts = f"<style>{style_sheet()}</style><script>{script}</script>"
            return page.replace("</head>", f"{fonts}</head>")

    images: dict[str, bytes] = {}
    trouble = what_is_needed()
    # No MathJax: it would come from the network, and no figure has formulas.
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
    """The SVG with its font in it and its printed size."""
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
    """A page of the figure's size that shows only the figure, with its font loaded."""
    layout: Any = drawing.figure.layout
    # The paper may be a fraction of a point wider than the figure: hide the difference.
    background = layout.paper_bgcolor or layout.template.layout.paper_bgcolor
    style = f"body {{margin: 0; background: {background}}} svg {{display: block}}"
    tree = await page.send_command("Page.getFrameTree")
    frame = tree["result"]["frameTree"]["frame"]["id"]
    html = f"<!doctype html><style>{style}</style>{svg}"
    await page.send_command("Page.setDocumentContent", {"frameId": frame, "html": html})
    # The layout requests the font; without it there would be nothing to wait for.
    loaded = "document.body.offsetHeight; document.fonts.ready.then(() => true)"
    await page.send_command("Runtime.evaluate", {"expression": loaded, "awaitPromise": True})


async def _screenshot(page: Tab, drawing: Drawing) -> bytes:
    clip = {"x": 0, "y": 0, "scale": DPI / _CSS_DPI}
    clip["width"] = _CSS_DPI * drawing.inches
    clip["height"] = _CSS_DPI * drawing.height_inches
    options = {"clip": clip, "captureBeyondViewport": True}
    return await _data(page, "Page.captureScreenshot", options)


async def _data(page: Tab, command: str, options: dict[str, Any]) -> bytes:
    """The browser's result, or a `RuntimeError` with its message."""
    answer = await page.send_command(command, options)
    if "result" not in answer:
        raise RuntimeError(str(answer.get("error", answer)))
    return base64.b64decode(answer["result"]["data"])
