"""Several neuron sets in one forward pass, or one after the other.

    python benchmarks_speed/sets_together.py                 # about 2 minutes on 2 cores

A batch of N texts under K sets takes either K passes of N rows, each with the hooks of one set, or
one pass of K x N rows, in which every row is scaled by its own set. Both compute the same logits.
The second saves passes, but no products: nothing that depends on a set can be shared, and with
neurons in the first layer everything depends on it. Compare the ratios, not the seconds.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

import kb_lens as kb
from kb_lens.models.hooked import site_hooks
from kb_lens.passes.matrix_products import fast_products

ROWS = (1, 4, 16, 64)


def say(text: str) -> None:
    """A line of the report."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def factors(model: Any, n_sets: int, n_neurons: int) -> Tensor:
    """The factor of each neuron in each set, 2 for the set's neurons: [set, layer, d_mlp]."""
    generator = torch.Generator().manual_seed(0)
    shape = (n_sets, model.cfg.n_layers, model.cfg.d_mlp)
    found = torch.ones(shape)
    own = torch.rand(n_sets, found[0].numel(), generator=generator).topk(n_neurons).indices
    return found.view(n_sets, -1).scatter(1, own, 2.0).view(shape).to(model.cfg.device)


def last_logits(model: Any, tokens: Tensor, scaled: Tensor) -> Tensor:
    """Logits of the last position under each set: [set, row, d_vocab], in one pass."""

    def scale(activation: Tensor, hook: Any, *, layer: int) -> Tensor:
        rows = activation.view(len(scaled), -1, activation.shape[-1])
        return (rows * scaled[:, layer, None]).view(activation.shape)

    names = enumerate(site_hooks(model, "post"))
    hooks = [(name, partial(scale, layer=layer)) for layer, name in names]
    with torch.no_grad(), model.hooks(fwd_hooks=hooks):
        logits = model(tokens.repeat(len(scaled), 1), return_type="logits")[:, -1]
    return logits.view(len(scaled), len(tokens), -1)


def one_by_one(model: Any, tokens: Tensor, scaled: Tensor) -> Tensor:
    """The same, a pass for each set."""
    return torch.cat([last_logits(model, tokens, one[None]) for one in scaled])


def seconds(work: Callable[[], Tensor]) -> float:
    """The seconds of some work."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(description="Several neuron sets in one forward pass.")
    parser.add_argument("--sets", type=int, default=4)
    parser.add_argument("--neurons", type=int, default=132, help="in each set")
    parser.add_argument("--tokens", type=int, default=20, help="in each text")
    parser.add_argument("--repeats", type=int, default=5)
    given = parser.parse_args()
    model = kb.load_model()
    scaled = factors(model, given.sets, given.neurons)
    say(f"{torch.get_num_threads()} threads, {given.sets} sets, {given.tokens} tokens per text")
    for rows in ROWS:
        tokens = torch.randint(model.cfg.d_vocab, (rows, given.tokens))
        ways = [partial(way, model, tokens, scaled) for way in (one_by_one, last_logits)]
        with fast_products(model.cfg):
            apart, together = (way() for way in ways)
            pairs = [[seconds(way) for way in ways] for _ in range(given.repeats)]
        gap = float((apart - together).abs().max())
        ratio = statistics.median(a / b for a, b in pairs)
        say(
            f"{rows:3d} texts: {statistics.median(a for a, _ in pairs):6.2f} s one by one, "
            f"{statistics.median(b for _, b in pairs):6.2f} s together, ratio {ratio:.2f} "
            f"(logits within {gap:.1e})"
        )


if __name__ == "__main__":
    main()
