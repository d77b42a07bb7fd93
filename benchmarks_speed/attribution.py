"""Seconds per question for integrated gradients: kb_lens and other ways to compute them.

    python benchmarks_speed/attribution.py                 # side by side, about 7 minutes
    python benchmarks_speed/attribution.py --site post     # kb_lens alone, at the default site

All ways run in one process, question by question; compare the ratios, not the seconds.
The errors are relative L2 distances over all layers from a converged reference.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import captum.attr
import torch
import torch.nn.functional as F
from machine import machine
from torch import Tensor
from transformers import AutoModelForCausalLM

import kb_lens as kb
from kb_lens.attribution import quadrature
from kb_lens.attribution.path_gradients import JoinedPath, Objective, PerLayerPath
from kb_lens.models.hooked import Site, site_hooks
from kb_lens.passes.matrix_products import fast_products

STEPS = 20


def say(text: str) -> None:
    """A line of the report."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def row(*cells: str) -> None:
    """A row of a table."""
    say(f"| {' | '.join(cells)} |")


def head(*cells: str) -> None:
    """The head of a table."""
    say("")
    row(*cells)
    row(*["---"] * len(cells))


def timed(work: Callable[[], Tensor]) -> tuple[float, Tensor]:
    """Seconds and result."""
    start = time.perf_counter()
    result = work()
    return time.perf_counter() - start, result


def joined(
    model: Any, questions: Sequence[kb.Question], spelling: Any, rule: Any, site: Site
) -> Tensor:
    """kb_lens: every layer and gamma in one pass, as a user calls it."""
    options: dict[str, Any] = {"rule": rule, "site": site, "spelling": spelling}
    return kb.attribute(model, questions, **options, progress=False).scores


def per_layer(model: Any, tokens: Tensor, objective: Objective) -> Tensor:
    """Plain TransformerLens: hooks, one layer at a time, its gammas in one batch."""
    path = PerLayerPath(model, tokens, objective, site="pre", max_rows=STEPS)
    return path.activations * quadrature.fixed(path, "riemann", STEPS).gradients


def with_captum(model: Any, tokens: Tensor, objective: Objective) -> Tensor:
    """Captum's IntegratedGradients over the injected activation, 20 points, baseline 0."""
    scores = []
    for name in site_hooks(model, "pre"):
        _, cache = model.run_with_cache(tokens, names_filter=name)
        h = cache[name][:, -1].detach()

        def forward(rows: Tensor, name: str = name) -> Tensor:
            def replace(activation: Tensor, hook: Any) -> Tensor:
                return torch.cat([activation[:, :-1], rows[:, None]], dim=1)

            hooks = [(name, replace)]
            logits = model.run_with_hooks(tokens.expand(len(rows), -1), fwd_hooks=hooks)
            return objective.value(logits[:, -1])

        method = captum.attr.IntegratedGradients(forward)
        scores.append(method.attribute(h, torch.zeros_like(h), n_steps=STEPS)[0])
    return torch.stack(scores)


def release(hf_model: Any, tokens: Tensor, objective: Objective) -> Tensor:
    """The algorithm of the authors' release: batch 1, whole prompt, all logits."""
    scores = []
    for layer in hf_model.model.layers:
        projection, seen = layer.mlp.gate_proj, []
        handle = projection.register_forward_hook(lambda m, i, o, keep=seen.append: keep(o[0, -1]))
        hf_model(tokens)
        handle.remove()
        h = seen[0].detach()
        total = torch.zeros_like(h)
        for gamma in torch.linspace(0, 1, STEPS):
            leaf = (gamma * h).requires_grad_()

            def replace(module: Any, inputs: Any, output: Tensor, leaf: Tensor = leaf) -> Tensor:
                return torch.cat([output[:, :-1], leaf.view(1, 1, -1)], dim=1)

            handle = projection.register_forward_hook(replace)
            probability = objective.value(hf_model(tokens).logits[:, -1])
            handle.remove()
            total += torch.autograd.grad(probability.sum(), leaf)[0]
        scores.append(h * total / STEPS)
    return torch.stack(scores)


def matmul_peak(rows: int, d_in: int, d_out: int) -> float:
    """FLOP/s of a matrix product of the size of those in the joined pass."""
    a, b = torch.randn(rows, d_in), torch.randn(d_out, d_in)
    best = 0.0
    with fast_products(SimpleNamespace(device="cpu", dtype=torch.float32)):
        for _ in range(5):
            seconds, _ = timed(lambda: torch.stack([F.linear(a, b)[0] for _ in range(20)]))
            best = max(best, 20 * 2 * rows * d_in * d_out / seconds)
    return best


def counted_flops(config: Any, nodes: Sequence[int], n_tokens: int) -> float:
    """FLOPs of the necessary matrix products of the joined pass.

    Row r of layer l runs through the blocks from l on and the unembedding, forward and (for the
    gradient of activations) backward: 4 FLOPs per weight. The prefix runs forward once.
    """
    d_head = config.hidden_size // config.num_attention_heads
    attention = 2 * config.hidden_size**2
    attention += 2 * config.hidden_size * d_head * config.num_key_value_heads
    block = attention + 3 * config.hidden_size * config.intermediate_size
    n_layers = config.num_hidden_layers
    passes = sum(rows * (n_layers - layer) for layer, rows in enumerate(nodes))
    unembed = sum(nodes) * config.hidden_size * config.vocab_size
    return 4 * (passes * block + unembed) + 2 * n_tokens * n_layers * block


def side_by_side(n_questions: int, site: Site, *, peers: bool) -> None:
    """Print the table of all ways; the peers run one question each, at site pre."""
    model: Any = kb.load_model()
    checkpoint = model.original_model.config.name_or_path
    hf_model: Any = AutoModelForCausalLM.from_pretrained(checkpoint)  # as the release loads it
    questions = kb.load_questions(45)[:: 45 // n_questions][:n_questions]
    spelling = kb.check_knowledge(model, questions, forms=(), progress=False).spelling
    work = prompts(model, questions, spelling)
    references = [reference(model, *one, site) for one in work]
    first, _ = timed(lambda: joined(model, questions[:1], spelling, "adaptive", site))
    again, _ = timed(lambda: joined(model, questions[:1], spelling, "adaptive", site))
    say(f"{machine()}, site {site}")
    say(f"calibration, once a model: {first - again:.2f} s")
    results: dict[str, tuple[float, float, float]] = {}
    for name, rule in (("kb_lens, 20 points", "riemann"), ("kb_lens, adaptive", "adaptive")):
        seconds, scores = timed(lambda r=rule: joined(model, questions, spelling, r, site))
        results[name] = judged(name, seconds / n_questions, scores, references)
    ways: dict[str, Callable[[Tensor, Objective], Tensor]] = {
        "TransformerLens hooks, a layer at a time": lambda t, o: per_layer(model, t, o),
        "captum IntegratedGradients": lambda t, o: with_captum(model, t, o),
        "the release's algorithm, batch 1": lambda t, o: release(hf_model, t, o),
    }
    for name, way in ways.items() if peers else ():
        seconds, scores = timed(lambda way=way: way(*work[0]))
        results[name] = judged(name, seconds, scores[None], references)
    grid, ours = results["kb_lens, 20 points"][0], results["kb_lens, adaptive"][0]
    columns = ("of ours at 20 points", "of ours, adaptive", "worst error of a layer")
    head("way", "s/question", *columns, "worst Jaccard at tau 10 %")
    for name, (seconds, error, agreement) in results.items():
        ratios = f"{seconds / grid:.2f}", f"{seconds / ours:.2f}"
        row(name, f"{seconds:.2f}", *ratios, f"{error:.1e}", f"{agreement:.3f}")
    bound(model.original_model.config, work, grid)


def judged(
    name: str, seconds: float, scores: Tensor, references: Sequence[Tensor]
) -> tuple[float, float, float]:
    """Seconds per question, the worst relative error of a layer, and the worst agreement."""
    pairs = list(zip(scores, references, strict=False))  # the peers run one question
    errors = [(mine - truth).norm(dim=-1) / truth.norm(dim=-1) for mine, truth in pairs]
    say(f"{name}: {seconds:.2f} s/question over {len(pairs)}")
    agreement = min(jaccard(salient(mine), salient(truth)) for mine, truth in pairs)
    return seconds, float(torch.stack(errors).max()), agreement


def prompts(
    model: Any, questions: Sequence[kb.Question], spelling: Any
) -> list[tuple[Tensor, Objective]]:
    """Tokens and objective of each question."""
    return [
        (kb.PromptTemplate().tokens(model, q.text), Objective(*spelling.tokens(q.answer)))
        for q in questions
    ]


def bound(config: Any, work: Sequence[tuple[Tensor, Objective]], seconds: float) -> None:
    """Compare the speed of the 20-point pass with that of the machine's matrix products."""
    n_layers = config.num_hidden_layers
    peak = matmul_peak(STEPS * n_layers, config.hidden_size, config.intermediate_size)
    flops = [counted_flops(config, [STEPS] * n_layers, tokens.shape[1]) for tokens, _ in work]
    least = sum(flops) / len(flops) / peak
    say(f"\nmatmul peak {peak / 1e9:.0f} GFLOP/s")
    say(f"FLOP bound {least:.2f} s at 20 points: {least / seconds:.0%} of it reached")


def salient(scores: Tensor) -> Tensor:
    """The neurons above 10 % of the largest score."""
    return scores > 0.1 * scores.max()


def jaccard(a: Tensor, b: Tensor) -> float:
    """The Jaccard index of two masks."""
    return int((a & b).sum()) / int((a | b).sum())


def reference(model: Any, tokens: Tensor, objective: Objective, site: Site) -> Tensor:
    """Converged scores: 512 Gauss nodes in each layer."""
    with fast_products(model.cfg):
        path = JoinedPath(model, tokens, objective, site=site)
        return path.activations * quadrature.fixed(path, "gauss-legendre", 512).gradients


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--questions", type=int, default=5, help="for kb_lens; the peers run one")
    parser.add_argument("--site", choices=("post", "pre"), help="kb_lens alone, at this site")
    given = parser.parse_args()
    side_by_side(given.questions, given.site or "pre", peers=given.site is None)
