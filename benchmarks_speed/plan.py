"""What the studies would cost on a larger model: a plan from counted work, not a measurement.

    python benchmarks_speed/plan.py --billions 3 8 --tflops 60
    python benchmarks_speed/plan.py --billions 0.135 --tflops 0.25     # this machine: check it

A forward pass takes 2 floating-point operations a parameter and token. Counted are the tokens of
every benchmark (a text that options share once), the conditions of every committed study, and the
rows that the adaptive rule needed for a question on SmolLM2-135M. What cannot be counted is how
many operations a second a device reaches: `--tflops` says it, for all.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import pandas as pd
from transformers import AutoTokenizer

import kb_lens as kb
from kb_lens.models.loading import EMBEDDED_MODEL, checkpoint_source

RESULTS = Path(__file__).parents[1] / "figures/results"
BENCHMARKS = ("stereoset", "crows_pairs", "openbookqa", "plain_text")
ROWS, PROMPT = 265, 75
"""One-token rows that a question takes, counted as if each ran through all layers (422 begin, most
of them higher up), and the tokens of its prompt. A row's backward pass costs two forward passes."""
GPU_BYTES = 2
"""Bytes a parameter, in bfloat16."""


def tokens(tokenizer: Any, name: str, limit: int | None) -> int:
    """Tokens of a benchmark's texts, a prompt that options share counted once."""
    requests = kb.load_benchmark(name, limit=limit).requests
    texts = [text for request in requests for text in (request.prompt, *request.options) if text]
    return sum(len(ids) for ids in tokenizer(texts, add_special_tokens=False)["input_ids"])


def conditions(study: Path) -> int:
    """Conditions that a study measures, the base model among them."""
    table = pd.read_parquet(study / "results.parquet")
    return int(table.groupby(["benchmark", "metric"]).size().iloc[0])


def main() -> None:
    """Count and report."""
    parser = argparse.ArgumentParser(description="What the studies cost on a larger model.")
    parser.add_argument("--billions", type=float, nargs="+", default=[3.0, 8.0])
    parser.add_argument("--tflops", type=float, default=60.0, help="reached by one device")
    parser.add_argument("--limit", type=int, help="items of each benchmark; default all")
    given = parser.parse_args()
    tokenizer = AutoTokenizer.from_pretrained(checkpoint_source(EMBEDDED_MODEL))
    counts = {name: tokens(tokenizer, name, given.limit) for name in BENCHMARKS}
    rows = [
        {"study": study.name, "conditions": conditions(study)}
        for study in sorted(RESULTS.iterdir())
        if (study / "study.json").is_file() and study.name != "methods"
    ]
    table = pd.DataFrame(rows)
    total = sum(counts.values())
    asked = 225 * (PROMPT + 3 * ROWS)
    for billions in given.billions:
        speed = given.tflops * 1e12 / (2e9 * billions)  # tokens a second
        table[f"{billions:g}B h, 1"] = table["conditions"] * total / speed / 3600
        table[f"{billions:g}B h, 8"] = -(-table["conditions"] // 8) * total / speed / 3600
        sys.stdout.write(
            f"{billions:g}B: weights {billions * GPU_BYTES:.0f} GB, {speed:,.0f} tokens a second, "
            f"{total / speed / 60:.1f} min a condition, {asked / speed / 60:.1f} min to attribute "
            "225 questions\n"
        )
    sys.stdout.write(f"tokens: {counts}\n{table.round(2).to_string(index=False)}\n")


if __name__ == "__main__":
    main()
