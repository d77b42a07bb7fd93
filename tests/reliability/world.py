"""A small world to spoil: a tiny model, its questions and data, and what every command wrote."""

import contextlib
import io
import sys
from pathlib import Path
from unittest import mock

import pandas as pd
from commands import sentences, write_lines
from own_banks import write_bank
from tiny_models import tiny_hf_model, tiny_tokenizer

import kb_lens as kb
from kb_lens.cli import main as cli

N_ITEMS = 6
N_CTX = 512
"""Tokens: the package's own texts fit."""


_NO_BROWSER = mock.patch("kb_lens.figures.export.render", return_value=({}, ""))
"""HTML alone: what is drawn is not what is tested."""


@contextlib.contextmanager
def _quiet(said):
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
        yield


def call(*arguments):
    """Run the command in this process; returns its exit status, and what it said of errors."""
    before, said = sys.argv, io.StringIO()
    sys.argv = ["kb-lens", *map(str, arguments)]
    try:
        with _quiet(said), _NO_BROWSER:
            cli.main()
    except SystemExit as stop:
        return stop.code or 0, said.getvalue()
    finally:
        sys.argv = before
    raise AssertionError("the command did not end")


def make_world(root: Path) -> Path:
    """Write everything that the table of bad inputs names in braces, {MODEL} is ``model``."""
    for name, seed in (("model", 0), ("other_model", 5)):
        tiny_hf_model(seed=seed, max_position_embeddings=N_CTX).save_pretrained(root / name)
        tiny_tokenizer().save_pretrained(root / name)
    questions = kb.load_questions(9)
    write_bank(root / "bank.csv", questions)
    write_bank(root / "control.csv", questions)
    examples = [{"question": "Is ice cold?", "answer": "yes"}]
    pd.DataFrame(examples).to_csv(root / "examples.csv", index=False)
    _write_data(root / "data")
    for arguments in _JOBS:
        status, said = call(*(part.format(W=root) for part in arguments.split()))
        if status:
            raise AssertionError(f"{arguments}: {said}")
    return root


_FAST = "--bank {W}/bank.csv --rule riemann --n-steps 2"
_DATA = "--data-dir {W}/data"
_NEURONS = "--neurons {W}/run/neurons.json"
_JOBS = (
    f"run {{W}}/model {_FAST} {_DATA} --benchmarks stereoset --lam 2 --out {{W}}/run",
    f"run {{W}}/other_model {_FAST} {_DATA} --benchmarks stereoset --lam 2 --out {{W}}/other_run",
    f"evaluate {{W}}/model {_DATA} --benchmarks stereoset --out {{W}}/base",
    f"evaluate {{W}}/model {_DATA} --benchmarks stereoset {_NEURONS} --lam 2 --out {{W}}/enhanced",
    f"tune {{W}}/model {_DATA} {_NEURONS} --lam 2 --out {{W}}/tune",
    f"neurons {{W}}/model {_NEURONS} --lam 0,2 --bank {{W}}/bank.csv --top 2 --out {{W}}/effects",
    "doctor {W}/model --bank {W}/bank.csv --control-bank {W}/control.csv --specificity "
    "--out {W}/doctor",
    f"experiment right-answers {{W}}/model {_DATA} --bank {{W}}/bank.csv --controls 1 "
    "--benchmarks stereoset --out {W}/studies",
)
"""What writes the folders; {W} is the world's."""


def _write_data(folder):
    """Two benchmarks in their authors' formats."""
    write_lines(folder / "stereoset/dev.jsonl", [sentences(k) for k in range(N_ITEMS)])
    choices = {"text": ["one", "two", "six", "ten"], "label": ["A", "B", "C", "D"]}
    rows = [
        {"question_stem": f"Question {k} is", "answerKey": "B", "choices": choices}
        for k in range(N_ITEMS)
    ]
    write_lines(folder / "openbookqa/test.jsonl", rows)


def places(made):
    """Name in a command line -> the path that it stands for."""
    world = made.world
    names = {name.upper(): world / name for name in ("model", "other_model", "data", "run", "base")}
    names |= {name.upper(): world / name for name in ("other_run", "enhanced", "tune", "effects")}
    names |= {"BANK": world / "bank.csv", "CONTROL": world / "control.csv", "HERE": made.here}
    return names | {"NEURONS": world / "run/neurons.json", "DOCTOR": world / "doctor"}
