"""Change activations while a model runs, at every position of a pass or at the last one alone.

What scaling and steering share: the hooks are set in a ``with`` block, an intervention on last
positions tells scoring that it is one, and a hook that never fired is an error.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any, Literal, get_args

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from kb_lens.models.hooked import Hook, HookedModel, model_name
from kb_lens.passes import last_position

Positions = Literal["all", "last"]
"""``all`` positions of every forward pass, or the ``last`` of each."""

Activation = Float[Tensor, "*pos d"]
"""[batch, pos, d], or the positions of all rows in one dimension."""


def check_positions(positions: str) -> None:
    """Raise `ValueError` unless `positions` is one of `Positions`."""
    if positions not in get_args(Positions):
        raise ValueError(f"positions is {positions!r}: allowed are 'all' and 'last'.")


@contextmanager
def changing_activations(
    model: HookedModel,
    changes: Mapping[str, Callable[[Tensor], Tensor]],
    positions: Positions,
) -> Iterator[HookedModel]:
    """Put what the changes return in place of the activations, inside a ``with`` block.

    Args:
        model: What runs in the block.
        changes: Hook name -> activation to changed activation, of the same shape.
        positions: Where the changed activation counts; elsewhere it stays as it was.

    Yields:
        The model.

    Raises:
        ValueError: If a hook did not fire in the block.
    """
    # a hook that is set and not reached would be a silent nothing: "no effect of the neurons"
    fired: set[str] = set()

    def changed(activation: Activation, hook: Any, *, name: str) -> Activation:
        fired.add(name)
        result = changes[name](activation)
        if positions == "all":
            return result
        return torch.where(_last_positions(activation), result, activation)

    hooks: list[Hook] = [(name, partial(changed, name=name)) for name in changes]
    announced = last_position.asking(model) if positions == "last" else nullcontext()
    with announced, model.hooks(fwd_hooks=hooks):
        yield model
    if silent := [name for name in changes if name not in fired]:
        raise ValueError(
            f"the hook {silent[0]!r} never fired: {model_name(model)} did not run in this "
            "block, or runs past that layer. Run this very model inside the block."
        )


def _last_positions(activation: Activation) -> Bool[Tensor, "*#pos 1"]:
    """Where an activation belongs to a last position, to be broadcast over its numbers."""
    marked = last_position.marked()
    if marked is None:  # nobody packed several passes into this one
        n_pos = activation.shape[-2]
        return (torch.arange(n_pos, device=activation.device) == n_pos - 1)[:, None]
    return marked.to(activation.device).view(*activation.shape[:-1], 1)
