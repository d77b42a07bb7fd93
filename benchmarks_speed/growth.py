"""Seconds and memory as models and work grow, and one model that fills the memory.

    python benchmarks_speed/growth.py --out figures/demo      # a table and a figure, 15 minutes
    python benchmarks_speed/growth.py --large                 # the shape of Llama 3.1 8B, 16 GB

Every measurement runs in a new process, to measure its peak memory. Models are random Llamas in
float32, except the large one (bfloat16) and the embedded model, on which questions and items grow.
Random weights cost as much as trained ones, except for the number of nodes of the adaptive rule.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
import plotly.graph_objects as go
import torch
from machine import machine
from plotly.subplots import make_subplots
from transformers import LlamaConfig, LlamaForCausalLM

import kb_lens as kb
from kb_lens.figures.export import write_figure
from kb_lens.figures.style import COLOURS, GREY, finish


@dataclass(frozen=True)
class Case:
    """One measurement: a model and its work."""

    axis: str
    """What grows."""
    size: int
    """Its size."""
    layers: int = 8
    width: int = 512
    mlp_width: int | None = None
    heads: int | None = None
    vocabulary: int = 49152
    dtype: str = "float32"
    embedded: bool = False
    questions: int = 0
    items: int = 0


BASE = Case("", 0, questions=4)
CASES = (
    *(replace(BASE, axis="layers", size=n, layers=n) for n in (4, 8, 16, 32, 64)),
    *(replace(BASE, axis="width", size=n, width=n) for n in (256, 512, 1024, 2048)),
    *(
        replace(BASE, axis="questions", size=n, embedded=True, questions=n)
        for n in (9, 27, 81, 225)
    ),
    *(
        replace(BASE, axis="items", size=n, embedded=True, questions=0, items=n)
        for n in (100, 300, 900, 2700)
    ),
)
LARGE = Case(
    "large",
    1,
    layers=32,
    width=4096,
    mlp_width=14336,
    heads=32,
    vocabulary=128256,
    dtype="bfloat16",
    questions=1,
    items=1,
)
LABELS = {
    "layers": "layers<br>(d_model 512)",
    "width": "d_model<br>(8 layers)",
    "questions": "questions<br>(SmolLM2-135M)",
    "items": "StereoSet items<br>(SmolLM2-135M)",
}
_SECONDS = [0.5, 1, 2, 5, 10, 20, 50, 100, 200]


def main() -> None:
    """Print a row per case; draw the figure if a folder is given."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--large", action="store_true")
    parser.add_argument("--layers", type=int, default=LARGE.layers, help="of the large model")
    parser.add_argument("--out", type=Path, help="folder for growth.csv and growth.png")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.measure:
        sys.stdout.write(json.dumps(measured(Case(**json.loads(given.measure)))))
        return
    cases = (replace(LARGE, layers=given.layers),) if given.large else CASES
    rows: list[dict[str, Any]] = []
    for case in cases:
        rows.append(in_a_process(case))
        sys.stdout.write(f"{json.dumps(rows[-1])}\n")
        sys.stdout.flush()
    table = pd.DataFrame(rows)
    sys.stdout.write(f"{machine()}\n")
    sys.stdout.write(f"{table.to_markdown(index=False)}\n")
    if given.out and not given.large:
        given.out.mkdir(parents=True, exist_ok=True)
        table.to_csv(given.out / "growth.csv", index=False)
        write_figure(growth_figure(table), given.out / "growth", ("png", "svg"))


def in_a_process(case: Case) -> dict[str, Any]:
    """The result of `measured` in a new process."""
    command = [sys.executable, __file__, "--measure", json.dumps(asdict(case))]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{case}: {done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def measured(case: Case) -> dict[str, Any]:
    """Seconds, nodes and peak memory of one case."""
    start = time.perf_counter()
    model = kb.load_model() if case.embedded else random_llama(case)
    row: dict[str, Any] = {
        "axis": case.axis,
        "size": case.size,
        "parameters": sum(weight.numel() for weight in model.original_model.parameters()),
        "load s": time.perf_counter() - start,
    }
    if case.questions:
        row |= attributed(model, case)
    if case.items:
        items = kb.load_benchmark("stereoset", limit=case.items)
        start = time.perf_counter()
        kb.evaluate(model, items, progress=False)
        row["score s"] = time.perf_counter() - start
    row["peak GB"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    return {name: round(x, 2) if isinstance(x, float) else x for name, x in row.items()}


def attributed(model: Any, case: Case) -> dict[str, Any]:
    """Seconds and nodes per question, without the work done once per model."""
    questions = kb.load_questions(225)[:: 225 // case.questions][: case.questions]
    # the spelling of a random model's answers is meaningless
    options: dict[str, Any] = {"answer_style": "release", "progress": False}
    if case.axis != "large":
        kb.attribute(model, questions[:1], **options)
    start = time.perf_counter()
    scores = kb.attribute(model, questions, **options)
    return {
        "attribute s": time.perf_counter() - start,
        "nodes": float(scores.nodes.sum(1).mean()),
    }


def random_llama(case: Case) -> Any:
    """A random Llama, built in its final type so that the weights are never in memory twice."""
    from transformer_lens.model_bridge import TransformerBridge

    heads = case.heads or case.width // 64
    config = LlamaConfig(
        vocab_size=case.vocabulary,
        hidden_size=case.width,
        intermediate_size=case.mlp_width or 3 * case.width,
        num_hidden_layers=case.layers,
        num_attention_heads=heads,
        num_key_value_heads=heads // 4,
        tie_word_embeddings=case.mlp_width is None,
        max_position_embeddings=2048,
    )
    config.architectures = ["LlamaForCausalLM"]
    dtype = getattr(torch, case.dtype)
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        network = LlamaForCausalLM(config).requires_grad_(False)
    finally:
        torch.set_default_dtype(before)
    bridge: Any = TransformerBridge
    return bridge.boot_transformers(
        "random", hf_model=network, tokenizer=tokenizer(), device="cpu", dtype=dtype
    )


def tokenizer() -> Any:
    """The embedded model's tokenizer."""
    from transformers import AutoTokenizer

    from kb_lens.models.sources import EMBEDDED_MODEL, checkpoint_source

    return AutoTokenizer.from_pretrained(checkpoint_source(EMBEDDED_MODEL))


def growth_figure(table: pd.DataFrame) -> go.Figure:
    """Seconds above, memory below."""
    figure = make_subplots(2, len(LABELS), vertical_spacing=0.14, horizontal_spacing=0.09)
    for column, (axis, label) in enumerate(LABELS.items(), 1):
        rows = table.loc[table["axis"] == axis]
        size = rows["size"].to_numpy(dtype=float)
        done = "score s" if axis == "items" else "attribute s"
        for line, name in ((1, done), (2, "peak GB")):
            values = rows[name].to_numpy(dtype=float)
            place: dict[str, Any] = {"row": line, "col": column}
            if line == 1:
                grey = {"color": GREY, "dash": "dash"}
                proportional = values[0] * size / size[0]
                figure.add_scatter(x=size, y=proportional, mode="lines", line=grey, **place)
            figure.add_scatter(x=size, y=values, line_color=COLOURS[0], **place)
            ticks = [f"{x:g}" if x < 1000 else f"{x / 1000:.2g}k" for x in size]
            axis = {"type": "log", "tickvals": list(size), "ticktext": ticks, "tickangle": 0}
            figure.update_xaxes(**axis, **place)
            if line == 1:
                figure.update_yaxes(type="log", tickvals=_SECONDS, **place)
            else:
                figure.update_yaxes(rangemode="tozero", nticks=4, **place)
        figure.update_xaxes(title_text=label, row=2, col=column)
    figure.update_yaxes(title_text="seconds", row=1, col=1)
    figure.update_yaxes(title_text="peak GB", row=2, col=1)
    figure.update_layout(showlegend=False)
    note = (
        f"{machine()}, float32; 4 questions in the left panels. Dashed: in proportion to the "
        "first point. All axes but memory's are logarithmic."
    )
    return finish(figure, "Seconds and memory as models and work grow", note, height=520, top=14)


if __name__ == "__main__":
    main()
