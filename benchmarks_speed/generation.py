"""Tokens per second of generation: base, hooked in several ways, and folded.

    python benchmarks_speed/generation.py                       # about 15 minutes on 2 cores
    python benchmarks_speed/generation.py --tokens 16 --repeats 1
    python benchmarks_speed/generation.py --neurons FILE --lam 2

Every way writes greedily, with a key/value cache, the same number of tokens after the same prompts.
The ways take turns in one process, in alternating order. A ratio is the median over the rounds of a
way's speed divided by the base's in the same round. Base and hooked are the bridge's model with
eager attention; models without a bridge are timed with that and with transformers' default. First
the texts are checked: ways that compute the same must write the same. A round is timed on at most
two batches.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from statistics import median
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, GenerationConfig

import kb_lens as kb
from kb_lens.models.hooked import Site, fingerprint, model_name, site_hooks
from kb_lens.models.loading import EMBEDDED_MODEL, checkpoint_source

PROMPTS = (
    "The nurse and the engineer met after work, and",
    "My neighbour has just moved here from another country. On her first day",
    "A good leader is somebody who",
    "The old man opened the letter and",
    "Write a short story about a family that runs a bakery.",
    "In the last ten years the city has",
    "When the teacher asked who had broken the window,",
    "Three things that everybody should know about money:",
)
Way = Callable[[], AbstractContextManager[Any]]
"""Opens a block that yields the transformers model that writes."""
BASE, HOOKED, LAST = "base", "hooked", "hooked, last positions"
SAME = {
    BASE: ("plain", "plain, eager attention"),
    HOOKED: ("hooked by index", "folded", "folded, eager attention"),
    LAST: ("hooked by index, last positions",),
}
"""A way -> the ways that must write the same."""


def say(text: str) -> None:
    """A line of the report."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def random_set(model: Any, site: Site, count: int) -> kb.NeuronSet:
    """Random neurons of the whole model."""
    shape = model.cfg.n_layers, model.cfg.d_mlp
    drawn = np.random.default_rng(0).choice(shape[0] * shape[1], count, replace=False)
    return kb.NeuronSet(
        neurons=tuple(kb.Neuron(*map(int, np.unravel_index(one, shape))) for one in drawn),
        model=model_name(model),
        fingerprint=fingerprint(model),
        site=site,
        n_layers=shape[0],
        d_mlp=shape[1],
    )


@contextmanager
def hooked(model: Any, neurons: kb.NeuronSet, lam: float, positions: Any = "all") -> Iterator[Any]:
    """kb_lens: each hooked layer's activation times a vector."""
    with kb.scale_neurons(model, neurons, lam=lam, positions=positions):
        yield model.original_model


@contextmanager
def by_index(
    model: Any, neurons: kb.NeuronSet, lam: float, positions: slice = slice(None)
) -> Iterator[Any]:
    """Only the neurons are read, multiplied and written back."""
    names = site_hooks(model, neurons.site)

    def scale(activation: Tensor, hook: Any, *, indices: Tensor) -> Tensor:
        activation[:, positions, indices] *= lam
        return activation

    layers = [(names[k], torch.tensor(one)) for k, one in neurons.by_layer().items()]
    hooks = [(name, partial(scale, indices=one.to(model.cfg.device))) for name, one in layers]
    with model.hooks(fwd_hooks=hooks):
        yield model.original_model


@contextmanager
def eager(plain: Any) -> Iterator[Any]:
    """A transformers model with eager attention, as in a bridge."""
    before = plain.config._attn_implementation
    plain.set_attn_implementation("eager")
    yield plain
    plain.set_attn_implementation(before)


def ways(model: Any, name: str, neurons: kb.NeuronSet, lam: float) -> dict[str, Way]:
    """All ways by name; they need three models in memory."""
    options: dict[str, Any] = {"dtype": model.cfg.dtype}
    plain = AutoModelForCausalLM.from_pretrained(checkpoint_source(name), **options).eval()
    plain = plain.to(model.cfg.device)
    folded = kb.fold_neurons(model, neurons, lam=lam)
    kind = plain.config._attn_implementation  # pyright: ignore[reportPrivateUsage]
    folded.set_attn_implementation(kind)
    scaled, last = (model, neurons, lam), slice(-1, None)
    return {
        BASE: partial(nullcontext, model.original_model),
        HOOKED: partial(hooked, *scaled),
        "hooked by index": partial(by_index, *scaled),
        LAST: partial(hooked, *scaled, "last"),
        "hooked by index, last positions": partial(by_index, *scaled, last),
        "plain": partial(nullcontext, plain),
        "folded": partial(nullcontext, folded),
        "plain, eager attention": partial(eager, plain),
        "folded, eager attention": partial(eager, folded),
    }


def batches(model: Any, size: int) -> list[dict[str, Tensor]]:
    """The prompts, padded on the left to batches of one size."""
    parts = [list(PROMPTS[k : k + size]) for k in range(0, len(PROMPTS), size)]
    options = {"return_tensors": "pt", "padding": True, "padding_side": "left"}
    made = [model.tokenizer(part, **options).to(model.cfg.device) for part in parts]
    return [{name: one[name] for name in ("input_ids", "attention_mask")} for one in made]


def write(way: Way, asked: Sequence[Mapping[str, Tensor]], n: int) -> tuple[float, list[list[int]]]:
    """Seconds, and the `n` tokens written after each prompt."""
    greedy = GenerationConfig(do_sample=False, max_new_tokens=n, min_new_tokens=n, use_cache=True)
    with way() as hf_model, torch.no_grad():
        start = time.perf_counter()
        found = [hf_model.generate(**one, generation_config=greedy)[:, -n:] for one in asked]
        written = [row for one in found for row in one.tolist()]
        return time.perf_counter() - start, written


def check(written: Mapping[str, list[list[int]]]) -> None:
    """Check that ways that compute the same wrote the same, and something else than the base."""
    for name, others in SAME.items():
        for other in others:
            pairs = zip(written[name], written[other], strict=True)
            if wrong := [PROMPTS[k] for k, (one, two) in enumerate(pairs) if one != two]:
                raise SystemExit(f"{other!r} does not write what {name!r} writes after {wrong}")
    if written[BASE] in (written[HOOKED], written[LAST]):
        raise SystemExit("scaling changes no text: take more neurons or a larger --lam")


def compare(model: Any, every: Mapping[str, Way], size: int, n: int, repeats: int) -> None:
    """Print the table of one batch size."""
    asked = batches(model, size)
    check({name: write(way, asked, n)[1] for name, way in every.items()})  # and warm up
    asked = asked[:2]
    n_tokens = n * sum(len(one["input_ids"]) for one in asked)
    speeds: dict[str, list[float]] = {name: [] for name in every}
    for turn in range(repeats):
        for name in list(every)[:: -1 if turn % 2 else 1]:
            speeds[name].append(n_tokens / write(every[name], asked, n)[0])
    say(f"\nBatch {size}: {n_tokens} tokens per round, {n} after each prompt, {repeats} rounds\n")
    say("| way | tokens/s | lowest and highest | ratio to base |")
    say("| --- | --- | --- | --- |")
    for name, found in speeds.items():
        ratio = median(one / base for one, base in zip(found, speeds[BASE], strict=True))
        extremes = f"{min(found):.1f} to {max(found):.1f}"
        say(f"| {name} | {median(found):.1f} | {extremes} | {ratio:.2f} |")


def main() -> None:
    """Print a table for each batch size."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--model", default=EMBEDDED_MODEL)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--neurons", help="a file of neurons; default random ones")
    parser.add_argument("--count", type=int, default=130, help="number of random neurons")
    parser.add_argument("--site", choices=["post", "pre"], default="post", help="their site")
    parser.add_argument("--lam", type=float, default=2.0)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--tokens", type=int, default=64, help="new tokens after each prompt")
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    model = kb.load_model(options.model, device=options.device)
    given = options.neurons
    neurons = kb.NeuronSet.load(given) if given else random_set(model, options.site, options.count)
    say(
        f"{options.model}, float32, {options.device}, {torch.get_num_threads()} threads, "
        f"{len(neurons)} neurons in {len(neurons.by_layer())} layers at {neurons.site}, "
        f"lambda {options.lam:g}"
    )
    every = ways(model, options.model, neurons, options.lam)
    for size in options.batches:
        compare(model, every, size, options.tokens, options.repeats)


if __name__ == "__main__":
    main()
