"""Does a GPU give the CPU's results, how fast is it, what fits in it? Ten minutes on one GPU.

    python benchmarks_speed/gpu.py                                   # the embedded model, on cuda
    python benchmarks_speed/gpu.py --model meta-llama/Llama-3.2-3B-Instruct --no-cpu
    python benchmarks_speed/gpu.py --device cpu --questions 1 --items 8 --tokens 4    # a trial

1. Loading, in float32 and in bfloat16.
2. Attribution: seconds per question, and the largest difference from the float32 scores of the CPU,
   as a share of the largest score; the Jaccard index of the selected neurons.
3. Scoring StereoSet: seconds per item, and the largest difference of a log-probability from the
   CPU's.
4. Writing: seconds per token.
5. The most rows in a pass of attribution, doubled until memory runs out.

``--no-cpu`` leaves out the CPU, for models that are too slow on it.
"""

from __future__ import annotations

import argparse
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pandas as pd
import torch

import kb_lens as kb

_MOST_ROWS = 65_536


@dataclass(frozen=True)
class Work:
    """The work of every model."""

    questions: list[kb.Question]
    items: kb.Benchmark
    tokens: int


@dataclass
class Done:
    """Its results."""

    scores: kb.Attributions
    result: kb.EvaluationResult
    row: dict[str, Any]

    def neurons(self) -> kb.NeuronSet:
        """The neurons of the default thresholds."""
        return kb.select_neurons(self.scores)


def main() -> None:
    """Print a table with a row per device and type."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--model", default="smollm2-135m-instruct")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--questions", type=int, default=9)
    parser.add_argument("--items", type=int, default=400)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--no-cpu", action="store_true")
    given = parser.parse_args()
    work = Work(
        kb.load_questions(225)[: given.questions],
        kb.load_benchmark("stereoset", limit=given.items),
        given.tokens,
    )
    on_cpu = None if given.no_cpu else done(given.model, "cpu", torch.float32, work)
    rows = [] if on_cpu is None else [on_cpu.row]
    for dtype in (torch.float32, torch.bfloat16):
        on_device = done(given.model, given.device, dtype, work)
        rows.append(on_device.row | ({} if on_cpu is None else against(on_device, on_cpu)))
    name = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    sys.stdout.write(
        f"{given.model} on {given.device} ({name}; torch {torch.__version__}, "
        f"{torch.get_num_threads()} threads)\n{pd.DataFrame(rows).T.to_string()}\n"
    )


def done(name: str, device: str, dtype: torch.dtype, work: Work) -> Done:
    """Load a model and let it do everything."""
    row: dict[str, Any] = {"device": device, "type": str(dtype).removeprefix("torch.")}
    if device.startswith("cuda"):
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)  # forget the peak of the type before
    with timed(row, "load, s"):
        model = kb.load_model(name, device=device, dtype=dtype)
    knowledge = kb.check_knowledge(model, work.questions, forms=(), progress=False)
    options: dict[str, Any] = {"knowledge": knowledge, "progress": False}
    kb.attribute(model, work.questions[:1], **options)  # the first pass takes longer
    with timed(row, "a question, s", len(work.questions)):
        scores = kb.attribute(model, work.questions, **options)
    row["nodes a question"] = float(scores.nodes.sum(1).float().mean())
    with timed(row, "an item, s", len(work.items.items)):
        result = kb.evaluate(model, work.items, progress=False)
    with timed(row, "a written token, s", work.tokens):
        model.generate("The nurse said", max_new_tokens=work.tokens, do_sample=False, verbose=False)
    if device.startswith("cuda"):
        row["memory, GB"] = torch.cuda.max_memory_allocated(device) / 1e9
        row["rows a pass"] = most_rows(model, work.questions[:1], options)
    return Done(scores, result, row)


@contextmanager
def timed(row: dict[str, Any], name: str, count: int = 1) -> Iterator[None]:
    """Note the seconds of a block divided by `count`; wait for the GPU."""
    start = time.perf_counter()
    yield
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    row[name] = (time.perf_counter() - start) / count


def most_rows(model: Any, questions: list[kb.Question], options: dict[str, Any]) -> int:
    """The most rows that fit in a pass; `_MOST_ROWS` means that memory did not run out."""
    rows = 64
    while rows < _MOST_ROWS:
        steps = 3 * rows // model.cfg.n_layers + 1  # enough to fill the pass that is tried
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            try:
                kb.attribute(
                    model, questions, rule="riemann", n_steps=steps, batch_size=2 * rows, **options
                )
            except torch.OutOfMemoryError:
                break
        if any("memory ran out" in str(warning.message) for warning in said):
            break
        rows *= 2
    return rows


def against(this: Done, cpu: Done) -> dict[str, float]:
    """The differences of a device's results from the CPU's."""
    scores, reference = this.scores.scores, cpu.scores.scores
    logprobs = [
        result.items.filter(regex="logprob").select_dtypes("number")
        for result in (this.result, cpu.result)
    ]
    both = this.neurons() & cpu.neurons()
    return {
        "scores, of the largest": float((scores - reference).abs().max() / reference.abs().max()),
        "Jaccard of the neurons": len(both) / max(1, len(this.neurons() | cpu.neurons())),
        "log-probability": float((logprobs[0] - logprobs[1]).abs().max().max()),
    }


if __name__ == "__main__":
    main()
