"""Change activations while a model runs, at every position of a pass or only at the last one.

Scaling and steering share this: hooks are set in a ``with`` block, scoring is told about
interventions on last positions, and a hook that did not fire is an error.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from functools import partial
from threading import local
from typing import Any, Literal, NoReturn, get_args

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from kb_lens.models.exclusive_use import exclusive_use, root_of
from kb_lens.models.hooked import Hook, HookedModel, model_name
from kb_lens.passes import last_position

Positions = Literal["all", "last"]
"""``all`` positions of every forward pass, or the ``last`` of each."""

Activation = Float[Tensor, "*pos d"]
"""[batch, pos, d], or the positions of all rows in one dimension."""


_LEAVE_ALONE = (
    "Do not remove hooks (reset_hooks) or replace parts of the model before the block has ended."
)


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
    """Replace activations by what the changes return, inside a ``with`` block.

    Args:
        model: The model that runs in the block.
        changes: Hook name -> activation to changed activation, of the same shape.
        positions: The positions that are changed.

    Yields:
        The model.

    Raises:
        ValueError: If a hook did not fire in the block or in one of its passes, hooks were removed
            or the model was copied inside, or another thread changes or measures the model.
    """
    announced = last_position.asking(model) if positions == "last" else nullcontext()
    with exclusive_use(model) as use, announced:
        hooks = _BlockHooks(model, changes, positions)
        with hooks.attached(model), use.checked_by(hooks.check):
            yield model
            hooks.check()
    hooks.check_fired()


class _BlockHooks:
    """The hooks of one block: they must fire in every pass, and the model must not be copied.

    A hook that is never reached would look like "the neurons have no effect".
    """

    def __init__(
        self,
        model: HookedModel,
        changes: Mapping[str, Callable[[Tensor], Tensor]],
        positions: Positions,
    ) -> None:
        self._model = model_name(model)
        self._root = root_of(model)
        self._changes = changes
        self._positions = positions
        self._fired: set[str] = set()
        # text may be streamed from another thread, which has its own passes
        self._pass = local()
        self._numbers: dict[str, tuple[Any, set[int]]] = {}

    @contextmanager
    def attached(self, model: HookedModel) -> Iterator[None]:
        """Inside, the hooks are set, and every pass is watched."""
        if unknown := sorted(self._changes.keys() - model.hook_dict.keys()):
            raise ValueError(f"the model has no hook {unknown[0]!r}: its hook_dict lists all.")
        points = {name: model.hook_dict[name] for name in self._changes}
        before = {name: set(point._forward_hooks) for name, point in points.items()}
        hooks: list[Hook] = [(name, partial(self._changed, name=name)) for name in points]
        with ExitStack() as stack:
            stack.enter_context(model.hooks(fwd_hooks=hooks))
            stack.callback(self._root.register_forward_pre_hook(self._begin_pass).remove)
            watch = self._root.register_forward_hook(self._end_pass, with_kwargs=True)
            stack.callback(watch.remove)
            for name, point in points.items():
                self._numbers[name] = point, set(point._forward_hooks) - before[name]
            yield

    def _changed(self, activation: Activation, hook: Any, *, name: str) -> Activation:
        self._fired.add(name)
        getattr(self._pass, "fired", set[str]()).add(name)
        result = self._changes[name](activation)
        if self._positions == "all":
            return result
        return torch.where(_last_positions(activation), result, activation)

    def _begin_pass(self, root: Any, inputs: Any) -> None:
        self._pass.fired = set[str]()

    def _end_pass(self, root: Any, inputs: Any, options: Mapping[str, Any], output: Any) -> None:
        """Refuse a pass in which a hook did not fire, if the pass went through all layers."""
        if options.get("stop_at_layer") is not None or options.get("start_at_layer") is not None:
            return
        if silent := [name for name in self._changes if name not in self._pass.fired]:
            raise ValueError(
                f"the hook {silent[0]!r} did not fire in a pass of {self._model} inside the block, "
                f"so its output is that of the unchanged model. {_LEAVE_ALONE}"
            )

    def check(self) -> None:
        """Raise `ValueError` if a hook was removed."""
        for name, (point, numbers) in self._numbers.items():
            if not numbers <= point._forward_hooks.keys():
                raise ValueError(
                    f"the hook {name!r} of {self._model} was removed inside the block, so later "
                    f"passes are those of the unchanged model. {_LEAVE_ALONE}"
                )

    def check_fired(self) -> None:
        """Raise `ValueError` if a hook never fired."""
        if silent := [name for name in self._changes if name not in self._fired]:
            raise ValueError(
                f"the hook {silent[0]!r} never fired: {self._model} did not run in this "
                "block, or skips that layer. Run this model inside the block."
            )

    def __deepcopy__(self, memo: object) -> NoReturn:
        """Refuse a copy: it would stay changed after the block and keep the fingerprint."""
        raise ValueError(
            f"cannot copy {self._model} inside a block that changes it: the copy would stay "
            "changed. Copy it outside of the block, or use fold_neurons."
        )

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        """Pickling a model copies it."""
        self.__deepcopy__(protocol)


def _last_positions(activation: Activation) -> Bool[Tensor, "*#pos 1"]:
    """A mask of last positions, to be broadcast over the activation."""
    marked = last_position.marked()
    if marked is None:  # this pass is not several packed ones
        n_pos = activation.shape[-2]
        return (torch.arange(n_pos, device=activation.device) == n_pos - 1)[:, None]
    return marked.to(activation.device).view(*activation.shape[:-1], 1)
