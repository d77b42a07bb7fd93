"""What the site needs beside mkdocs.yml: files outside docs/, and links that work in both places.

A page links as on the repository's pages: to `../figures/demo/upset.png` from docs/, to
`docs/models.md` from the top. On the site such a link leads to the page or image there, or, where
the site has none, to the file in the repository.
"""

from __future__ import annotations

import logging
import posixpath
import re
import tomllib
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from nbconvert import MarkdownExporter
from nbconvert.preprocessors import TagRemovePreprocessor

ROOT = Path(__file__).resolve().parents[2]
PAGES = {
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
    "figures/README.md": "figures.md",
    "question_bank/README.md": "question_bank.md",
}
"""Pages from outside docs/. README.md is not one: docs/index.md takes its place."""
LINK = re.compile(r"(\]\(<?)(?!https?:|mailto:|#)([^)>#\s]+)")
log = logging.getLogger("mkdocs.hooks")


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Take the repository's address from the one file that has it."""
    urls = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["urls"]
    config.repo_url = urls["Repository"]
    config.repo_name = config.repo_url.removeprefix("https://github.com/")
    config.edit_uri = None
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the images, the pages from outside docs/ and the executed notebooks."""
    figures = ROOT / "figures"
    for image in sorted([*figures.rglob("*.png"), *figures.rglob("*.svg")]):
        files.append(File.generated(config, _of_root(image), abs_src_path=str(image)))
    for path, uri in PAGES.items():
        if not files.get_file_from_path(uri):
            files.append(File.generated(config, uri, abs_src_path=str(ROOT / path)))
    for notebook in sorted((ROOT / "notebooks").glob("*.ipynb")):
        for uri, content in _rendered(notebook).items():
            files.append(File.generated(config, uri, content=content))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Let each relative link lead to the site's file, or to the repository's."""
    uri = page.file.src_uri
    here = posixpath.dirname(uri)
    there = posixpath.dirname(_in_repository(uri))

    def link(match: re.Match[str]) -> str:
        start, target = match.groups()
        if files.get_file_from_path(posixpath.normpath(posixpath.join(here, target))):
            return match[0]
        path = posixpath.normpath(posixpath.join(there, target))
        if files.get_file_from_path(_on_site(path)):
            return start + posixpath.relpath(_on_site(path), here or ".")
        if (ROOT / path).exists():
            return f"{start}{config.repo_url}/blob/main/{path}"
        return match[0]  # for mkdocs to complain about

    return LINK.sub(link, markdown)


def _rendered(notebook: Path) -> dict[str, str | bytes]:
    """A notebook's page and its images, by their place on the site."""
    executed = ROOT / "out" / _of_root(notebook)
    if not executed.exists():
        log.warning("%s has not been executed: make notebooks", _of_root(notebook))
    exporter = MarkdownExporter(preprocessors=[TagRemovePreprocessor(remove_cell_tags={"colab"})])
    resources = {"output_files_dir": f"{notebook.stem}_files", "unique_key": notebook.stem}
    source = executed if executed.exists() else notebook
    page, found = exporter.from_filename(str(source), resources=resources)
    images = {f"notebooks/{name}": content for name, content in found["outputs"].items()}
    return {_on_site(_of_root(notebook)): page, **images}


def _of_root(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def _on_site(path: str) -> str:
    """Where the site has a file of the repository, if it has it."""
    if path.startswith("notebooks/"):
        return path.replace(".ipynb", ".md")
    return PAGES.get(path, path.removeprefix("docs/"))


def _in_repository(uri: str) -> str:
    """Where the repository has a page of the site."""
    if uri.startswith("notebooks/"):
        return uri
    return {page: path for path, page in PAGES.items()}.get(uri, f"docs/{uri}")
