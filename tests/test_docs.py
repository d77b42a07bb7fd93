"""The pages: their links lead somewhere, the reference is whole, the repository has one address."""

from __future__ import annotations

import json
import re
import tomllib
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from markdown_it import MarkdownIt
from markdown_it.token import Token

import kb_lens as kb

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
PAGES = [
    *sorted(ROOT.glob("*.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
    ROOT / "figures/README.md",
    ROOT / "question_bank/README.md",
    *NOTEBOOKS,
]
REPOSITORY = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["urls"]["Repository"]


def cells(notebook: Path, kind: str) -> list[str]:
    found = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    return ["".join(cell["source"]) for cell in found if cell["cell_type"] == kind]


@cache
def tokens(page: Path) -> list[Token]:
    text = page.read_text(encoding="utf-8")
    if page.suffix == ".ipynb":
        text = "\n\n".join(cells(page, "markdown"))
    return MarkdownIt("commonmark").enable("table").parse(text)


def links(page: Path) -> Iterator[str]:
    """The targets of links and images."""
    for token in tokens(page):
        for child in token.children or ():
            target = child.attrs.get("href") or child.attrs.get("src")
            if target:
                yield str(target)


@cache
def anchors(page: Path) -> set[str]:
    """The headings' anchors: the repository's pages and the site make them alike."""
    found: Counter[str] = Counter()
    names: set[str] = set()
    for heading, inside in zip(tokens(page), tokens(page)[1:], strict=False):
        if heading.type == "heading_open":
            words = "".join(child.content for child in inside.children or ())
            name = re.sub(r"[^\w\- ]", "", words.lower()).replace(" ", "-")
            names.add(f"{name}-{found[name]}" if found[name] else name)
            found[name] += 1
    return names


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_relative_link_leads_somewhere(page: Path):
    broken: list[str] = []
    for link in links(page):
        if link.startswith(("http://", "https://", "mailto:")):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(link)
    assert not broken


def reference_names() -> list[str]:
    pages = (ROOT / "docs/reference").glob("*.md")
    text = "\n".join(page.read_text(encoding="utf-8") for page in pages)
    return re.findall(r"^::: kb_lens\.(\S+)$", text, flags=re.MULTILINE)


def test_every_public_name_stands_on_one_page_of_the_reference():
    # `figures` is a module: its names stand there, and it has none itself.
    public = [name for name in kb.__all__ if name not in ("figures", "__version__")]
    public += [f"figures.{name}" for name in kb.figures.__all__]
    times = Counter(reference_names())
    assert {name: times[name] for name in public if times[name] != 1} == {}
    assert max(times.values()) == 1


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda notebook: notebook.stem)
def test_a_notebook_opens_in_colab_and_installs_nothing_by_itself(notebook: Path):
    slug = REPOSITORY.removeprefix("https://github.com/")
    colab = f"https://colab.research.google.com/github/{slug}/blob/main/notebooks/{notebook.name}"
    assert f"({colab})" in cells(notebook, "markdown")[0]
    install = cells(notebook, "code")[0]
    assert f"git clone {REPOSITORY} " in install
    assert all(line.startswith("#") for line in install.splitlines())


def test_the_site_takes_the_repositorys_address_from_pyproject():
    site = [ROOT / "mkdocs.yml", *(ROOT / "docs/_site").glob("*.py")]
    assert not any(REPOSITORY in page.read_text(encoding="utf-8") for page in site)
