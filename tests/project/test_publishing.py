"""What a release says of itself: one version, and a page on PyPI whose links lead somewhere."""

import re
import subprocess
import sys
import tomllib
from email.message import Message
from email.parser import Parser
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml
from markdown_it import MarkdownIt

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.skipif(not (ROOT / "Makefile").is_file(), reason="not a checkout")
METADATA = (
    "import sys; from hatchling.build import prepare_metadata_for_build_wheel as prepare; "
    "print(prepare(sys.argv[1]))"
)
BUILT = pytest.mark.skipif(
    not (find_spec("hatchling") and find_spec("hatch_fancy_pypi_readme")),
    reason="what builds the package is not installed (hatchling, hatch-fancy-pypi-readme)",
)


def project() -> dict:
    """What pyproject.toml says of the package."""
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


@pytest.fixture(scope="module")
def metadata(tmp_path_factory) -> Message:
    """What PyPI is told of the package."""
    folder = tmp_path_factory.mktemp("metadata")
    command = [sys.executable, "-c", METADATA, str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return Parser().parsestr((folder / done.stdout.split()[-1] / "METADATA").read_text())


def addresses(text: str, attribute: str) -> set[str]:
    """Where the links (``href``) or images (``src``) of a Markdown text lead."""
    tokens = [token for block in MarkdownIt().parse(text) for token in block.children or []]
    found = {str(token.attrs[attribute]) for token in tokens if attribute in token.attrs}
    return found | set(re.findall(rf"""{attribute}=["']([^"']*)""", text))


def test_the_citation_has_the_version():
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"] == project()["version"]


def test_the_newest_release_in_the_changelog_has_the_version():
    """Before the first release, and between two, what is new stands under "Unreleased"."""
    titles = re.findall(r"^## \[?([^\]\s]+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert titles
    released = [title for title in titles if title != "Unreleased"]
    assert released[:1] in ([], [project()["version"]])


@BUILT
@pytest.mark.parametrize(("attribute", "kind"), [("href", "blob"), ("src", "raw")])
def test_links_and_images_on_pypi_lead_to_files_of_the_release(metadata, attribute, kind):
    repository = project()["urls"]["Repository"]
    there = f"{repository}/{kind}/v{metadata['Version']}/"
    readme = addresses((ROOT / "README.md").read_text(), attribute)
    relative = {address for address in readme if not address.startswith("https://")}
    assert relative
    files = {address if address[0] != "#" else f"README.md{address}" for address in relative}
    shown = addresses(metadata.get_payload(), attribute)
    assert shown == readme - relative | {there + file for file in files}
    ours = {address for address in shown if address.startswith(f"{repository}/")}
    for address in ours:
        path = address.removeprefix(there).partition("#")[0]
        assert (ROOT / path).exists(), address
