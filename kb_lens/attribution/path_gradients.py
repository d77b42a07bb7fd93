"""Gradients of the answer along the path from 0 to a layer's activations.

One layer's activations at the last position are replaced by gamma * h, the other layers compute
freely, and the objective is differentiated with respect to the replaced activations. Two routines
give the same numbers.

`PerLayerPath` is the plain one: for each layer a batch of whole prompts, one row for each gamma. It
runs on every model with TransformerLens hooks, and the other one is tested against it.

`JoinedPath` serves all layers with one forward pass of single tokens (docs/attribution.md):

1. The prompt runs once. It gives h of every layer, the objective, and the keys and values of all
   positions before the last. Only the last position will change, so every row can read these.
2. A pass of single tokens begins with one clean row. At the entrance of each block, copies of the
   clean row join the batch.
3. At the block's MLP site the new rows become gamma * h. Older rows pass unchanged. The clean row
   is every layer's row with gamma 1.
4. Before the unembedding the rows are taken out, since the objective's gradient has a closed form
   there (`head`; in half precision before the last norm, and in float32 from there on). If the
   clean row does not end in the logits of step 1, the model is not covered.
5. One backward pass from all rows gives every gradient.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from kb_lens.attribution.head import backward, check_logits, is_half, narrow_head, wide_head
from kb_lens.attribution.objective import Objective
from kb_lens.models.hooked import Hook, HookedModel, Site, site_hooks
from kb_lens.passes.one_token_rows import OneTokenRows
from kb_lens.passes.shared_prefix import UncoveredError, cached, check_covered

Nodes = Sequence[Float[Tensor, "_"]]
"""For each layer, the gammas at which its activations are scaled; may be empty."""

_FIXED_ROWS = ("gpt_bigcode",)
"""Model types whose code reshapes to the initial number of rows at its end."""


@runtime_checkable
class Path(Protocol):
    """Values and gradients of the objective at gamma * h, for one prompt."""

    activations: Float[Tensor, "layer d_mlp"]
    """The clean activations h at the last position, in float32 on the CPU, like all results."""
    value: float
    """The objective of the unchanged model."""

    def __call__(self, nodes: Nodes) -> tuple[list[Tensor], list[Tensor]]:
        """For each layer the values [step] and gradients [step, d_mlp] at its nodes."""
        ...


class PerLayerPath:
    """The reference: one batched forward and backward pass over the whole prompt for each layer."""

    def __init__(
        self,
        model: HookedModel,
        tokens: Int[Tensor, "1 pos"],
        objective: Objective,
        *,
        site: Site = "post",
        max_rows: int = 64,
    ) -> None:
        self._model = model
        self._tokens = tokens
        self._objective = objective
        self._names = site_hooks(model, site)
        self._max_rows = max_rows
        head = wide_head(model)
        names = (*self._names, head.hook) if head else self._names
        with torch.no_grad():
            logits, cache = model.run_with_cache(tokens, names_filter=lambda name: name in names)
        self._h = [_flat(cache[name])[-1] for name in self._names]
        self.activations = torch.stack([h.float().cpu() for h in self._h])
        logits = logits[:, -1].float()
        self._head = None
        if head and head.computes(row := _flat(cache[head.hook])[-1:], logits):
            self._head = head
            logits = head.logits(head.normed(row))
        self.value = float(objective.value(logits))

    def __call__(self, nodes: Nodes) -> tuple[list[Tensor], list[Tensor]]:
        """See `Path`."""
        results = [self._layer(layer, steps) for layer, steps in enumerate(nodes)]
        return [values for values, _ in results], [gradients for _, gradients in results]

    def _layer(self, layer: int, steps: Tensor) -> tuple[Tensor, Tensor]:
        if not len(steps):
            return torch.empty(0), torch.empty(0, self.activations.shape[1])
        batches = [self._rows(layer, batch) for batch in steps.split(self._max_rows)]
        values, gradients = zip(*batches, strict=True)
        return torch.cat(values), torch.cat(gradients)

    @torch.enable_grad()
    def _rows(self, layer: int, steps: Tensor) -> tuple[Tensor, Tensor]:
        h = self._h[layer]
        leaf = _scaled(h, steps).requires_grad_()

        def replace(activation: Tensor, hook: Any) -> Tensor:
            rows = activation.reshape(len(leaf), -1, leaf.shape[-1])
            return torch.cat([rows[:, :-1], leaf[:, None]], dim=1).view(activation.shape)

        hooks: list[Hook] = [(self._names[layer], replace)]
        ends: list[Tensor] = []
        if self._head:
            hooks.append((self._head.hook, lambda residual, hook: ends.append(residual)))
        logits = self._model.run_with_hooks(self._tokens.expand(len(leaf), -1), fwd_hooks=hooks)
        if self._head:
            rows = ends[0].view(len(leaf), -1, ends[0].shape[-1])[:, -1]
            values, gradient, _ = self._head.value_and_gradient(rows, self._objective)
            (gradient,) = backward(rows, gradient, [leaf], [torch.arange(len(leaf))])
        else:
            values = self._objective.value(logits[:, -1].float())
            (gradient,) = torch.autograd.grad(values.sum(), leaf)
        return values.detach().cpu(), gradient.float().cpu()


class JoinedPath:
    """All layers and gammas in one forward pass of single tokens over a shared prefix."""

    def __init__(
        self,
        model: HookedModel,
        tokens: Int[Tensor, "1 pos"],
        objective: Objective,
        *,
        site: Site = "post",
        max_rows: int = 1024,
    ) -> None:
        self._names = site_hooks(model, site)
        self._model = check_covered(model)
        narrow = narrow_head(self._model)
        if narrow is None:
            raise UncoveredError("it has no output embeddings to take the gradient through")
        self._head = narrow
        config = self._model.original_model.config.get_text_config()
        if config.model_type in _FIXED_ROWS:
            raise UncoveredError("its number of rows cannot change within a pass")
        self._tokens = tokens
        self._objective = objective
        self._max_rows = max_rows
        self._clean_pass()

    def _clean_pass(self) -> None:
        """Step 1: clean activations, logits, and the prefix's keys and values."""
        clean: dict[str, Tensor] = {}

        def copy(activation: Tensor, hook: Any, name: str) -> None:
            clean[name] = _flat(activation)[-1].clone()

        wide = wide_head(self._model)
        names = (*self._names, wide.hook) if wide else self._names
        hooks: list[Hook] = [(name, partial(copy, name=name)) for name in names]
        with self._model.hooks(fwd_hooks=hooks):
            cache, output = cached(self._model, self._tokens)
        self._prefix = OneTokenRows(cache, self._tokens.shape[1] - 1)
        self._clean_logits = output.logits[:, -1].float()
        if wide and wide.computes(row := clean[wide.hook][None], self._clean_logits):
            self._head = wide
            self._clean_logits = wide.logits(wide.normed(row))
        self.activations = torch.stack([clean[name].float().cpu() for name in self._names])
        self._h = [clean[name] for name in self._names]
        logits = self._clean_logits
        if is_half(self._model):  # the rows are rounded differently from the whole prompt
            rows = _flat(self._forward({}, {}).detach())
            logits = self._head.logits(self._head.normed(rows))
        self.value = float(self._objective.value(logits))

    def __call__(self, nodes: Nodes) -> tuple[list[Tensor], list[Tensor]]:
        """See `Path`."""
        values = [torch.empty(len(steps)) for steps in nodes]
        gradients = [torch.empty(len(steps), self.activations.shape[1]) for steps in nodes]
        for chunk in _chunks([len(steps) for steps in nodes], self._max_rows):
            steps = {layer: nodes[layer][rows] for layer, rows in chunk.items()}
            for layer, (value, gradient) in self._pass(steps).items():
                values[layer][chunk[layer]] = value
                gradients[layer][chunk[layer]] = gradient
        return values, gradients

    @torch.enable_grad()
    def _pass(self, nodes: dict[int, Tensor]) -> dict[int, tuple[Tensor, Tensor]]:
        """One forward and one backward pass for the rows of `nodes`."""
        scaled: dict[int, Tensor] = {}
        residual = self._forward(nodes, scaled)
        rows = _flat(residual)
        values, gradient, logits = self._head.value_and_gradient(rows, self._objective)
        check_logits(logits, self._clean_logits, half=is_half(self._model))
        # Step 5. The closed form's gradient takes the place of a loss.
        chosen = [_rows_of(nodes[layer], len(rows)) for layer, rows in scaled.items()]
        gradients = backward(rows, gradient, list(scaled.values()), chosen)
        return {
            layer: (values[index.to(values.device)].cpu(), gradient.cpu())
            for layer, index, gradient in zip(scaled, chosen, gradients, strict=True)
        }

    def _forward(self, nodes: dict[int, Tensor], scaled: dict[int, Tensor]) -> Tensor:
        """Steps 2 and 3; fills `scaled` with each layer's rows, returns the head's input."""
        joining = {layer: steps[steps != 1] for layer, steps in nodes.items()}
        final: list[Tensor] = []

        def join(residual: Tensor, hook: Any, rows: int) -> Tensor:
            copies = residual[:1].detach().expand(rows, *residual.shape[1:])
            return torch.cat([residual, copies])

        def replace(activation: Tensor, hook: Any, layer: int) -> Tensor:
            h = self._h[layer] if is_half(self._model) else _flat(activation)[0].detach()
            new = _scaled(h, joining[layer])
            older = _flat(activation)[: len(activation) - len(new)]
            rows = torch.cat([older, new])
            scaled[layer] = rows if rows.requires_grad else rows.requires_grad_()
            return scaled[layer].view(activation.shape)

        def stop(residual: Tensor, hook: Any) -> Tensor:
            final.append(residual)
            return residual[:1]  # so that the model's own unembedding runs on one row only

        hooks: list[Hook] = [(self._head.hook, stop)]
        for layer, steps in joining.items():
            hooks.append((f"blocks.{layer}.hook_in", partial(join, rows=len(steps))))
            hooks.append((self._names[layer], partial(replace, layer=layer)))
        position = torch.tensor([[self._prefix.length]], device=self._tokens.device)
        with self._model.hooks(fwd_hooks=hooks):
            self._prefix.run(self._model, self._tokens[:, -1:], position)
        return final[0]


def _flat(activation: Tensor) -> Tensor:
    """[row, d] from [row, pos, d], or from rows that the model has flattened (OPT)."""
    return activation.reshape(-1, activation.shape[-1])


def _scaled(h: Float[Tensor, " d_mlp"], steps: Float[Tensor, " step"]) -> Tensor:
    """Gamma * h; in half precision the product is rounded, not gamma."""
    return (steps.to(h.device)[:, None] * h).to(h.dtype)


def _rows_of(steps: Float[Tensor, " step"], n_rows: int) -> Int[Tensor, " step"]:
    """The clean row for a gamma of 1, the last rows for the others."""
    others = steps != 1
    rows = torch.zeros(len(steps), dtype=torch.long)
    rows[others] = torch.arange(n_rows - int(others.sum()), n_rows)
    return rows


def _chunks(counts: Sequence[int], max_rows: int) -> Iterator[dict[int, slice]]:
    """Split `counts[layer]` rows of each layer into passes of at most `max_rows` rows."""
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
