"""Every command on a tiny model and little data, each a second or two of work."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from own_banks import write_bank
from tiny_models import tiny_hf_model, tiny_tokenizer

import kb_lens as kb

_BENCHMARKS = "--benchmarks stereoset,openbookqa --data-dir {W}/data"
_QUESTIONS = "--bank {W}/bank.csv"
_NEURONS = "--neurons {W}/run/neurons.json"
_PAIR = "--bias stereoset --capability openbookqa"


@dataclass(frozen=True)
class Command:
    """What a user types; ``{W}`` is the folder of `make_inputs`, ``{OUT}`` that of the results."""

    text: str
    """Without ``kb-lens``."""
    begins_with: str = ""
    """A folder in ``{W}`` that is copied to ``{OUT}`` before."""

    def arguments(self, inputs: Path, out: Path) -> list[str]:
        """Its arguments for these folders."""
        return [word.format(W=inputs, OUT=out) for word in self.text.split()]

    def prepare(self, inputs: Path, out: Path) -> None:
        """Make ``{OUT}`` what it is before the command."""
        if self.begins_with:
            shutil.copytree(inputs / self.begins_with, out)


COMMANDS = {
    "run": Command(f"run {{W}}/model {_QUESTIONS} {_BENCHMARKS} --lam 2 --out {{OUT}}"),
    "identify": Command(f"identify {{W}}/model {_QUESTIONS} --out {{OUT}}"),
    "evaluate": Command(f"evaluate {{W}}/model {_BENCHMARKS} {_NEURONS} --lam 2 --out {{OUT}}"),
    # An export that is finished is not replaced unasked, and a kill may come after its end.
    "export": Command(f"export {{W}}/model {_NEURONS} --lam 2 --overwrite --out {{OUT}}"),
    "doctor": Command(
        f"doctor {{W}}/model {_QUESTIONS} --control-bank {{W}}/control.csv --specificity "
        "--out {OUT}"
    ),
    "neurons": Command(
        f"neurons {{W}}/model {_QUESTIONS} {_NEURONS} --lam 0,2 --top 2 --out {{OUT}}"
    ),
    "tune": Command(
        f"tune {{W}}/model {_NEURONS} {_PAIR} --data-dir {{W}}/data --lam 2,4 --out {{OUT}}"
    ),
    "experiment": Command(
        f"experiment aggregation {{W}}/model {_QUESTIONS} {_BENCHMARKS} --controls 1 --out {{OUT}}"
    ),
    "paper": Command(
        f"paper {{W}}/model {_QUESTIONS} --benchmarks stereoset:release,stereoset,openbookqa "
        "--data-dir {W}/data --out {OUT}"
    ),
    "tasks": Command("tasks --data-dir {W}/data --out {OUT}"),
    "figures": Command("figures {OUT}", begins_with="measured"),
    "report": Command("report {OUT}", begins_with="measured"),
    "compare": Command("compare {W}/run --out {OUT}"),
    "overwrite": Command(
        f"run {{W}}/model {_QUESTIONS} {_BENCHMARKS} --lam 3 --overwrite --out {{OUT}}",
        begins_with="run",
    ),
}
"""Name -> command; ``overwrite`` replaces another run."""
FIRST = COMMANDS["run"]
"""What makes ``{W}/run``, which others read."""


def make_inputs(root: Path) -> Path:
    """Write the model, the questions and the benchmark that the commands name."""
    tiny_hf_model(max_position_embeddings=512).save_pretrained(root / "model")
    tiny_tokenizer().save_pretrained(root / "model")
    questions = kb.load_questions(9)
    write_bank(root / "bank.csv", questions)
    write_bank(root / "control.csv", questions)
    write_lines(root / "data/stereoset/dev.jsonl", [sentences(k) for k in range(12)])
    write_lines(root / "data/openbookqa/test.jsonl", [_choices(k) for k in range(8)])
    return root


def without_figures(root: Path) -> None:
    """Copy ``{W}/run`` as it was before anything was drawn."""
    drawn = shutil.ignore_patterns("figures", "report.html")
    shutil.copytree(root / "run", root / "measured", ignore=drawn)


def sentences(k: int) -> dict[str, str]:
    """A row of StereoSet."""
    kinds = [("intrasentence", "gender"), ("intersentence", "race")]
    return {
        "type": kinds[k % 2][0],
        "bias_type": kinds[k % 2][1],
        "target": f"t{k}",
        "context": f"He is here {k}.",
        "stereotype": f"He is bad {k}.",
        "anti-stereotype": f"He is good {k}.",
        "unrelated": f"The street {k}.",
    }


def _choices(k: int) -> dict[str, Any]:
    choices = {"text": ["one", "two", "six", "ten"], "label": ["A", "B", "C", "D"]}
    return {"question_stem": f"Question {k} is", "answerKey": "BCAD"[k % 4], "choices": choices}


def write_lines(path: Path, rows: list[dict[str, Any]]) -> None:
    """Write JSON lines into a new folder."""
    path.parent.mkdir(parents=True)
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
