"""The figures' font, which travels with them: letters are equally wide on every machine.

Arimo (https://github.com/googlefonts/arimo, SIL Open Font License: OFL.txt) has Arial's widths. The
files are the Latin subset of Fontsource's @fontsource/arimo 5.3.0; other scripts, as in tokens, are
drawn in what the machine has.
"""

from __future__ import annotations

import base64
from functools import cache
from importlib.resources import files

FAMILY = "Arimo"
_FACES = {
    "arimo-latin-400-normal.woff2": "",
    "arimo-latin-400-italic.woff2": "font-style:italic;",
    "arimo-latin-700-normal.woff2": "font-weight:700;",
}
"""File -> what is set in it."""
_LOADED = "Promise.allSettled(Array.from(document.fonts, (face) => face.load()))"


def wait_for_fonts(function: str) -> str:
    """A script that makes a function of JavaScript wait until the page has its fonts.

    plotly measures texts as it draws; in another font they would be wider, and be misplaced.
    """
    late = f"(...given) => {_LOADED}.then(() => draw(...given))"
    return f"{{const draw = {function}; {function} = {late};}}"


@cache
def style_sheet() -> str:
    """CSS that declares the font, the files themselves in it: 47 kB."""
    folder = files("kb_lens.figures.fonts")
    rules = []
    for name, style in _FACES.items():
        data = base64.b64encode(folder.joinpath(name).read_bytes()).decode()
        source = f"src:url(data:font/woff2;base64,{data}) format('woff2')"
        rules.append(f"@font-face{{font-family:{FAMILY};{style}{source}}}")
    return "".join(rules)
