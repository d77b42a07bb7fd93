"""How small can the file of a taught model be? ``python examples/taught_sizes.py``.

For each rank it makes the change of `taught_adapter.py`, adds it to the base model, asks the
questions and measures how well the model predicts plain text; and the same for the base model and
the whole change. Writes ``sizes.csv``. No question was a lesson; a check makes sure of it.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pandas as pd
from taught_adapter import approximated, read
from teach import measured
from teaching_questions import questions

from kb_lens import check_knowledge, load_model
from kb_lens.files import write_text
from kb_lens.models.loading import checkpoint_source
from kb_lens.models.taught import write_changed


def row_of(folder: Path | str) -> dict[str, Any]:
    """A checkpoint's knowledge (measures with their intervals, verdict) and its perplexity."""
    asked = questions()
    knowledge = check_knowledge(load_model(folder), asked.held_bias)
    lessons = set(asked.lessons) & {*knowledge.all_answers["text"]}
    if lessons:
        raise ValueError(f"{len(lessons)} of the questions asked were lessons: {min(lessons)!r}.")
    row: dict[str, Any] = {"verdict": knowledge.outcome}
    measures = {
        "held_bias_balanced_accuracy": knowledge.balanced_accuracy,
        "held_bias_auc": knowledge.auc,
        "forms_balanced_accuracy": knowledge.form_balanced_accuracy,
        "forms_auc": knowledge.form_auc,
    }
    for name, measure in measures.items():
        assert measure is not None  # the form questions come with those of the bank
        row |= {name: measure.value, f"{name}_low": measure.low, f"{name}_high": measure.high}
    found = measured(folder)
    for name in ("held_plain", "form_breakers"):
        row |= {f"{name}_{key}": value for key, value in found[name].items()}
    return row | {"perplexity": found["perplexity"]["value"]}


def row_of_rank(source: str, taught: Any, rank: int) -> dict[str, Any]:
    """The same for the base with a change of some rank, and the size of its file."""
    change = approximated(read(source), taught, rank, 0, source)
    with TemporaryDirectory() as folder:
        file, checkpoint = Path(folder, "change.safetensors"), Path(folder, "model")
        change.save(file)
        write_changed(Path(source), change, checkpoint)
        return {"model": f"rank {rank}", "megabytes": file.stat().st_size / 1e6} | row_of(
            checkpoint
        )


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(description="How small can the file of a taught model be?")
    parser.add_argument("--model", default="smollm2-135m-instruct", help="the untaught model")
    parser.add_argument("--taught", type=Path, default=Path("out/taught/seed-0"))
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--out", type=Path, default=Path("out/taught-sizes"))
    options = parser.parse_args(arguments)
    source, taught = checkpoint_source(options.model), read(str(options.taught))
    rows = [{"model": "untaught"} | row_of(source)]
    rows += [row_of_rank(source, taught, rank) for rank in options.ranks]
    rows.append({"model": "all that changed"} | row_of(options.taught))
    table = pd.DataFrame(rows)
    write_text(options.out / "sizes.csv", table.to_csv(index=False))
    sys.stdout.write(table.T.to_string() + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
