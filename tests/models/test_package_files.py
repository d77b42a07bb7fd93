"""What is built for users has the files that the package reads."""

import subprocess
import sys
import tarfile
import zipfile
from importlib.util import find_spec
from pathlib import Path

import pytest

from kb_lens.models.taught import CHANGE_FILE

ROOT = Path(__file__).parents[2]
INSIDE = f"kb_lens/models/{CHANGE_FILE.name}"
BUILD = "import sys; from hatchling import build; print(getattr(build, sys.argv[1])(sys.argv[2]))"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not (find_spec("hatchling") and find_spec("hatch_fancy_pypi_readme")),
        reason="what builds the package is not installed (hatchling, hatch-fancy-pypi-readme)",
    ),
    pytest.mark.skipif(not (ROOT / "pyproject.toml").is_file(), reason="not a checkout"),
]


def built(kind, folder):
    """The file that hatchling makes of the checkout."""
    command = [sys.executable, "-c", BUILD, kind, str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return folder / done.stdout.strip().splitlines()[-1]


def test_the_wheel_has_the_taught_model_s_change(tmp_path):
    with zipfile.ZipFile(built("build_wheel", tmp_path)) as wheel:
        assert wheel.read(INSIDE) == CHANGE_FILE.read_bytes()
        assert "kb_lens/_question_bank/forms.csv" in wheel.namelist()


def test_the_sdist_has_it_too(tmp_path):
    path = built("build_sdist", tmp_path)
    with tarfile.open(path) as sdist:
        file = sdist.extractfile(f"{path.name.removesuffix('.tar.gz')}/{INSIDE}")
        assert file is not None
        assert file.read() == CHANGE_FILE.read_bytes()
