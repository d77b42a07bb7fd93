"""Attribution in half precision and in float32: nodes, seconds, neurons.

Run: ``python benchmarks_speed/bfloat16.py [--questions 9] [--dtype bfloat16] [--dtype float16]``.
Seconds depend on the processor, whose name is printed: one without units for bfloat16 multiplies it
eight times slower than float32.
"""

from __future__ import annotations

import argparse
import sys
import time
import warnings

import torch
from machine import machine

import kb_lens as kb


def say(text: str) -> None:
    """A line of the report."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def attributed(dtype: torch.dtype, questions: list[kb.Question]) -> tuple[kb.Attributions, float]:
    """The embedded model's attributions, and seconds per question."""
    model = kb.load_model(dtype=dtype)
    knowledge = kb.check_knowledge(model, questions, forms=(), progress=False)
    start = time.perf_counter()
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        scores = kb.attribute(model, questions, knowledge=knowledge, progress=False)
    seconds = (time.perf_counter() - start) / len(questions)
    for warning in told:
        say(f"{dtype}: {warning.message}")
    return scores, seconds


def neurons(scores: kb.Attributions) -> kb.NeuronSet:
    """The union over the dimensions."""
    return kb.NeuronSet.union(kb.select_neurons(part) for part in scores.by_dimension().values())


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--questions", type=int, default=9)
    parser.add_argument("--dtype", action="append", choices=["bfloat16", "float16"])
    arguments = parser.parse_args()
    questions = kb.load_questions(arguments.questions)
    exact, exact_seconds = attributed(torch.float32, questions)
    say(f"\n{machine()}, {len(questions)} questions")
    say("| type | nodes | times float32's | seconds | times float32's | worst gap | Jaccard |")
    say("|---|---|---|---|---|---|---|")
    for name in ["float32", *(arguments.dtype or ["bfloat16"])]:
        scores, seconds = exact, exact_seconds
        if name != "float32":
            scores, seconds = attributed(getattr(torch, name), questions)
        nodes = float(scores.nodes.sum(1).mean())
        say(
            f"| {name} | {nodes:.0f} | {nodes / float(exact.nodes.sum(1).mean()):.2f} "
            f"| {seconds:.1f} | {seconds / exact_seconds:.1f} "
            f"| {float(scores.relative_gap.max()):.1e} "
            f"| {neurons(scores).jaccard(neurons(exact)):.2f} |",
        )


if __name__ == "__main__":
    main()
