"""Gradients of the answer along the path from 0 to a layer's activations.

Second step of the method (docs/attribution.md). One layer's activations at the last position are
replaced by gamma * h, the other layers compute freely, and the objective is differentiated with
respect to the replaced activations. Two ways to the same numbers:

`PerLayerPath` is the plain one: for each layer a batch of whole prompts, one row a gamma. It runs
on every model with TransformerLens hooks and is what the other is tested against.

`JoinedPath` serves all layers with one forward pass of single tokens. Only the last position
changes, so the keys and values of the positions before it are computed once and every row reads
them. The pass starts with one clean row; at the entrance of each block, copies of the clean row
join the batch, and at the block's MLP site they are replaced by gamma * h. Older rows flow on.
One backward pass from all rows gives every gradient.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from kb_lens.models.hooked import Site, site_hooks
from kb_lens.passes.one_token_rows import OneTokenRows
from kb_lens.passes.shared_prefix import UncoveredError, cached, check_covered

ObjectiveKind = Literal["probability", "log_probability", "logit_difference"]

Nodes = Sequence[Float[Tensor, "_"]]
"""For each layer, the gammas at which its activations are scaled; may be empty."""


@dataclass(frozen=True)
class Objective:
    """What is differentiated: a number read off the logits of the last position."""

    right: int
    """Token id of the right answer."""
    wrong: int
    """Token id of the wrong answer; used by the logit difference alone."""
    kind: ObjectiveKind = "probability"
    """``probability`` P(right) (the paper's), ``log_probability`` or ``logit_difference``
    (right minus wrong)."""

    def value(self, logits: Float[Tensor, "row d_vocab"]) -> Float[Tensor, " row"]:
        """The objective of each row, differentiable."""
        if self.kind == "logit_difference":
            return logits[:, self.right] - logits[:, self.wrong]
        log_probability = logits.log_softmax(-1)[:, self.right]
        return log_probability.exp() if self.kind == "probability" else log_probability

    def value_and_gradient(
        self, logits: Float[Tensor, "row d_vocab"]
    ) -> tuple[Float[Tensor, " row"], Float[Tensor, "row d_vocab"]]:
        """`value` and its derivative in closed form, without autograd over the vocabulary."""
        if self.kind == "logit_difference":
            gradient = torch.zeros_like(logits)
            gradient[:, self.right], gradient[:, self.wrong] = 1.0, -1.0
            return self.value(logits), gradient
        gradient = logits.softmax(-1)
        probability = gradient[:, self.right].clone()
        if self.kind == "probability":
            gradient *= -probability[:, None]
            gradient[:, self.right] += probability
            return probability, gradient
        gradient = gradient.neg_()
        gradient[:, self.right] += 1
        return logits[:, self.right] - logits.logsumexp(-1), gradient


@runtime_checkable
class Path(Protocol):
    """Values and gradients of the objective at gamma * h, for one prompt."""

    activations: Float[Tensor, "layer d_mlp"]
    """The clean activations h at the last position, float32, on the CPU as all results."""
    value: float
    """The objective of the unchanged model."""

    def __call__(self, nodes: Nodes) -> tuple[list[Tensor], list[Tensor]]:
        """For each layer the values [step] and gradients [step, d_mlp] at its nodes."""
        ...


class PerLayerPath:
    """The reference: one batched forward and backward pass over the whole prompt for each layer."""

    def __init__(
        self,
        model: Any,
        tokens: Int[Tensor, "1 pos"],
        objective: Objective,
        *,
        site: Site = "post",
        max_rows: int = 64,
    ) -> None:
        self._model, self._tokens, self._objective = model, tokens, objective
        self._names, self._max_rows = site_hooks(model, site), max_rows
        with torch.no_grad():
            logits, cache = model.run_with_cache(
                tokens, names_filter=lambda name: name in self._names
            )
        self._h = [cache[name].reshape(-1, cache[name].shape[-1])[-1] for name in self._names]
        self.activations = torch.stack(self._h).float().cpu()
        self.value = float(objective.value(logits[:, -1].float()))

    def __call__(self, nodes: Nodes) -> tuple[list[Tensor], list[Tensor]]:
        """See `Path`."""
        results = [self._layer(layer, steps) for layer, steps in enumerate(nodes)]
        return [values for values, _ in results], [gradients for _, gradients in results]

    def _layer(self, layer: int, steps: Tensor) -> tuple[Tensor, Tensor]:
        parts = [self._rows(layer, part) for part in steps.split(self._max_rows) if len(part)]
        if not parts:
            return torch.empty(0), torch.empty(0, self.activations.shape[1])
        values, gradients = zip(*parts, strict=True)
        return torch.cat(values), torch.cat(gradients)

    def _rows(self, layer: int, steps: Tensor) -> tuple[Tensor, Tensor]:
        h = self._h[layer]
        leaf = (steps.to(h)[:, None] * h).requires_grad_()

        def replace(activation: Tensor, hook: Any) -> Tensor:
            rows = activation.reshape(len(leaf), -1, leaf.shape[-1])
            return torch.cat([rows[:, :-1], leaf[:, None]], dim=1).view(activation.shape)

        logits = self._model.run_with_hooks(
            self._tokens.expand(len(leaf), -1), fwd_hooks=[(self._names[layer], replace)]
        )
        values = self._objective.value(logits[:, -1].float())
        (gradient,) = torch.autograd.grad(values.sum(), leaf)
        return values.detach().cpu(), gradient.float().cpu()


class JoinedPath:
    """All layers and gammas in one forward pass of single tokens over a shared prefix."""

    def __init__(
        self,
        model: Any,
        tokens: Int[Tensor, "1 pos"],
        objective: Objective,
        *,
        site: Site = "post",
        max_rows: int = 1024,
    ) -> None:
        self._model, self._tokens, self._objective = model, tokens, objective
        self._names, self._max_rows = site_hooks(model, site), max_rows
        check_covered(model)
        self._clean_pass()

    def _clean_pass(self) -> None:
        """One pass over the prompt: clean activations, logits, and the prefix's keys, values."""
        seen: dict[str, Tensor] = {}

        def keep(activation: Tensor, hook: Any, name: str) -> None:
            seen[name] = activation.reshape(-1, activation.shape[-1])[-1].clone()

        hooks = [(name, partial(keep, name=name)) for name in self._names]
        with self._model.hooks(fwd_hooks=hooks):
            cache, output = cached(self._model, self._tokens)
        self._prefix = OneTokenRows(cache, self._tokens.shape[1] - 1)
        self._clean_logits = output.logits[:, -1].float()
        self.activations = torch.stack([seen[name] for name in self._names]).float().cpu()
        self.value = float(self._objective.value(self._clean_logits))

    def __call__(self, nodes: Nodes) -> tuple[list[Tensor], list[Tensor]]:
        """See `Path`."""
        values = [torch.empty(len(steps)) for steps in nodes]
        gradients = [torch.empty(len(steps), self.activations.shape[1]) for steps in nodes]
        for chunk in _chunks([len(steps) for steps in nodes], self._max_rows):
            part = {layer: nodes[layer][rows] for layer, rows in chunk.items()}
            for layer, (value, gradient) in self._pass(part).items():
                values[layer][chunk[layer]] = value
                gradients[layer][chunk[layer]] = gradient
        return values, gradients

    def _pass(self, nodes: dict[int, Tensor]) -> dict[int, tuple[Tensor, Tensor]]:
        """One forward and one backward pass for the rows of `nodes`."""
        leaves: dict[int, Tensor] = {}
        residual = self._forward(nodes, leaves)
        values, gradient = self._unembed(residual.detach().view(-1, residual.shape[-1]))
        gradients = torch.autograd.grad(residual, list(leaves.values()), gradient.view_as(residual))
        split = values[1:].split([len(leaf) for leaf in leaves.values()])
        return {
            layer: (value.cpu(), gradient.float().cpu())
            for layer, value, gradient in zip(leaves, split, gradients, strict=True)
        }

    def _forward(self, nodes: dict[int, Tensor], leaves: dict[int, Tensor]) -> Tensor:
        """The joined forward pass; fills `leaves`, returns the input of the unembedding."""
        final: list[Tensor] = []

        def join(residual: Tensor, hook: Any, rows: int) -> Tensor:
            copies = residual[:1].detach().expand(rows, *residual.shape[1:])
            return torch.cat([residual, copies])

        def replace(activation: Tensor, hook: Any, layer: int) -> Tensor:
            h = activation.reshape(-1, activation.shape[-1])[0].detach()
            leaf = leaves[layer] = (nodes[layer].to(h)[:, None] * h).requires_grad_()
            older = activation[: len(activation) - len(leaf)]
            return torch.cat([older, leaf.view(len(leaf), *activation.shape[1:])])

        def stop(residual: Tensor, hook: Any) -> Tensor:
            final.append(residual)
            return residual[:1]

        hooks: list[tuple[str, Callable]] = [("unembed.hook_in", stop)]
        for layer, steps in nodes.items():
            hooks.append((f"blocks.{layer}.hook_in", partial(join, rows=len(steps))))
            hooks.append((self._names[layer], partial(replace, layer=layer)))
        position = torch.tensor([[self._prefix.length]], device=self._tokens.device)
        with self._model.hooks(fwd_hooks=hooks):
            self._prefix.run(self._model, self._tokens[:, -1:], position)
        return final[0]

    def _unembed(
        self, residual: Float[Tensor, "row d_model"]
    ) -> tuple[Float[Tensor, " row"], Float[Tensor, "row d_model"]]:
        """Each row's objective and its gradient at the input of the unembedding."""
        unembed = self._model.original_model.get_output_embeddings()
        config = self._model.original_model.config.get_text_config()
        cap = getattr(config, "final_logit_softcapping", None)
        values, gradients = [], []
        with torch.no_grad():
            for rows in residual.split(_UNEMBED_ROWS):
                logits = F.linear(rows, unembed.weight, getattr(unembed, "bias", None)).float()
                if cap:
                    logits = cap * torch.tanh(logits / cap)
                if not values:
                    self._check(logits[:1])
                value, gradient = self._objective.value_and_gradient(logits)
                values.append(value)
                if cap:
                    gradient *= 1 - (logits / cap).square()
                gradients.append(gradient.to(unembed.weight.dtype) @ unembed.weight)
        return torch.cat(values), torch.cat(gradients)

    def _check(self, logits: Float[Tensor, "1 d_vocab"]) -> None:
        """The clean row must end in the logits of the whole forward pass."""
        difference = float((logits - self._clean_logits).abs().max())
        spread = float(self._clean_logits.max() - self._clean_logits.min())
        allowed = 1e-4 if self._model.cfg.dtype == torch.float32 else 0.05
        if not difference <= allowed * spread:
            raise UncoveredError(
                f"its one-token pass is off by {difference:.1e} in the logits (spread {spread:.0f})"
            )


_UNEMBED_ROWS = 1024


def _chunks(counts: Sequence[int], max_rows: int) -> Iterator[dict[int, slice]]:
    """Cut `counts[layer]` rows a layer into passes of at most `max_rows` rows."""
    chunk: dict[int, slice] = {}
    room = max_rows
    for layer, count in enumerate(counts):
        start = 0
        while start < count:
            stop = min(count, start + room)
            chunk[layer] = slice(start, stop)
            room -= stop - start
            start = stop
            if room == 0:
                yield chunk
                chunk, room = {}, max_rows
    if chunk:
        yield chunk
