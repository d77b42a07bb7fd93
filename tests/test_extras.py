"""What a message says to install is what an extra needs, whatever kb_lens was installed from."""

import re
import shlex
import tomllib
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from kb_lens import extras

ROOT = Path(__file__).parents[1]
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
FILES = [
    path
    for folder in ("kb_lens", "examples", "figures", "benchmarks_speed")
    for path in (ROOT / folder).rglob("*.py")
]
NAMED = {
    extra
    for path in FILES
    for extra in re.findall(r"""install_command\(["'](\w+)""", path.read_text())
}
"""The extras that a message names."""


def test_five_messages_name_an_extra():
    assert {"figures", "capability", "ray", "lora", "quantization"} <= NAMED <= set(EXTRAS)


@pytest.mark.parametrize("extra", sorted(NAMED))
def test_the_command_installs_what_the_extra_needs(extra):
    pip, install, *words = shlex.split(extras.install_command(extra))
    assert (pip, install) == ("pip", "install")
    packages = list(map(Requirement, words))
    assert {package.name for package in packages} == {
        Requirement(entry).name for entry in EXTRAS[extra]
    }
    assert all(package.specifier for package in packages)


def test_a_source_tree_that_was_never_installed_installs_itself(monkeypatch):
    def missing(name):
        raise PackageNotFoundError(name)

    monkeypatch.setattr(extras, "requires", missing)
    assert extras.install_command("ray").startswith("pip install -e '.[ray]'")


def test_no_message_names_an_extra_of_a_package_on_an_index():
    assert [path for path in FILES if re.search(r"kb[-_]lens\[", path.read_text())] == []
