"""What a user has after ``pip install``; ``make package`` runs it where only the wheel is.

The checkout is not on the path; the tests' tiny models are, for a model and a tokenizer at random.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from contextlib import chdir
from pathlib import Path

TESTS = Path(__file__).parents[1]
sys.path.append(str(TESTS))

import torch  # noqa: E402
from tiny_models import tiny_hf_model, tiny_tokenizer  # noqa: E402

import kb_lens as kb  # noqa: E402
from kb_lens.figures.fonts import style_sheet  # noqa: E402
from kb_lens.models.low_rank import LowRankChange  # noqa: E402
from kb_lens.models.taught import CHANGE_FILE  # noqa: E402


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    """What the installed command says."""
    program = shutil.which("kb-lens", path=str(Path(sys.executable).parent))
    assert program, "the package has no command"
    return subprocess.run([program, *arguments], capture_output=True, text=True)


def check_files() -> None:
    """What the package reads is in it."""
    assert Path(kb.__file__).is_relative_to(sys.prefix), kb.__file__
    assert not Path(kb.__file__).is_relative_to(TESTS.parent / "kb_lens")
    assert len(kb.load_questions(n=225)) == 225
    assert LowRankChange.load(CHANGE_FILE)
    assert style_sheet().count("woff2;base64") >= 3


def check_command() -> None:
    """The command helps, and refuses a folder that is not there in one line."""
    shown = command("--help")
    assert shown.returncode == 0, shown.stderr
    assert "doctor" in shown.stdout
    assert command("--version").stdout.strip() == kb.__version__
    refused = command("doctor", "./missing")
    assert (refused.returncode, refused.stdout) == (2, "")
    (line,) = refused.stderr.splitlines()
    assert "no such model folder: './missing'" in line, line


def check_method() -> None:
    """A random model is attributed, and other after its neurons were scaled."""
    with tempfile.TemporaryDirectory() as folder:
        tiny_hf_model().save_pretrained(folder)
        tiny_tokenizer().save_pretrained(folder)
        model = kb.load_model(folder)
    questions = kb.load_questions(n=9)
    scores = kb.attribute(model, questions, progress=False)
    assert scores.scores.shape == (9, 3, 48)
    neurons = kb.select_neurons(scores, tau=0.1, beta=0.1)
    tokens = torch.tensor([[5, 6, 7]])
    before = model(tokens)
    with kb.scale_neurons(model, neurons, lam=2.0):
        assert not torch.equal(model(tokens), before)
    assert torch.equal(model(tokens), before)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as elsewhere, chdir(elsewhere):
        check_files()
        check_command()
        check_method()
    sys.stdout.write(f"kb-lens {kb.__version__} works where nothing but its wheel is installed.\n")
