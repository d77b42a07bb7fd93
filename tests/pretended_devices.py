"""GPUs that are not there: tensors on the CPU that each know on which GPU they are to be.

Whatever torch does goes through `PretendedDevices`: a tensor says that it is on its GPU, what is
computed from it is there too, and an operation on tensors of two devices fails as on a machine that
has them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from unittest.mock import patch

import torch
from accelerate.hooks import AlignDevicesHook, add_hook_to_module
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

_CPU = torch.device("cpu")
_MAY_MIX = {Tensor.copy_, Tensor.__getitem__, Tensor.__setitem__, Tensor.to, Tensor.cpu}
"""Copies, and indices on the CPU, which torch brings along."""


def place_of(tensor: Tensor) -> torch.device:
    """Where a tensor is to be."""
    return getattr(tensor, "place", _CPU)


def put(tensor: Tensor, place: torch.device) -> Tensor:
    """Let a tensor be somewhere."""
    tensor.place = place
    return tensor


class PretendedDevices(TorchFunctionMode):
    """Inside, tensors may be on GPUs that are not there."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        if function == Tensor.device.__get__:  # a new object at every access
            return place_of(args[0])
        if function is torch.autograd.grad:
            return self._gradients(*args, **kwargs)
        asked = kwargs.pop("device", None)
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        if function is Tensor.cpu:
            function, asked = Tensor.view_as, _CPU
            args = (args[0], args[0])
        if function is Tensor.to:
            args, asked = self._to(args, asked)
        places = {place_of(tensor) for tensor in tensors if tensor.ndim} or {
            place_of(tensor) for tensor in tensors
        }
        if function not in _MAY_MIX and asked is None and len(places) > 1:
            raise RuntimeError(f"{function} got tensors on {sorted(map(str, places))}")
        result = function(*args, **kwargs)
        if asked is None:
            place = place_of(tensors[0]) if function in _MAY_MIX else next(iter(places), _CPU)
        else:
            place = torch.device("cuda", asked) if isinstance(asked, int) else torch.device(asked)
        for tensor in tree_leaves(result):
            # what was changed in place stays where it is
            if isinstance(tensor, Tensor) and not any(tensor is given for given in tensors):
                put(tensor, place)
        return result

    @staticmethod
    def _to(args, asked):
        """`Tensor.to` of a device, a type, both, or another tensor."""
        tensor, *rest = args
        kept = [tensor.view_as(tensor)]
        asked = place_of(tensor) if asked is None else asked
        for argument in rest:
            if isinstance(argument, Tensor):
                asked = place_of(argument)
                kept.append(argument.dtype)
            elif isinstance(argument, torch.dtype):
                kept.append(argument)
            elif argument is not None and not isinstance(argument, bool):
                asked = argument
        return tuple(kept), asked

    @staticmethod
    def _gradients(outputs, inputs, grad_outputs=None, **kwargs):
        """A gradient is where its tensor is, and begins where the output is."""
        inputs = [inputs] if isinstance(inputs, Tensor) else list(inputs)
        if isinstance(outputs, Tensor) and isinstance(grad_outputs, Tensor):
            assert place_of(outputs) == place_of(grad_outputs)
        gradients = torch.autograd.grad(outputs, inputs, grad_outputs, **kwargs)
        return tuple(put(g, place_of(t)) for g, t in zip(gradients, inputs, strict=True))


@contextmanager
def spread(hf_model, device_map: dict[str, int]) -> Iterator[None]:
    """Inside, a transformers model is spread over pretended GPUs by accelerate's hooks."""
    with PretendedDevices(), patch.object(nn.Parameter, "__new__", _new_parameter):
        # as `accelerate.dispatch_model`, which moves the weights as well
        for name, module in hf_model.named_modules():
            if (device := _device_of(name, device_map)) is not None:
                add_hook_to_module(module, AlignDevicesHook(execution_device=device), append=True)
        ends = AlignDevicesHook(execution_device=_device_of("", {"": 0}), io_same_device=True)
        add_hook_to_module(hf_model, ends, append=True)
        hf_model.hf_device_map = device_map
        for name, tensor in [*hf_model.named_parameters(), *hf_model.named_buffers()]:
            put(tensor, _device_of(name, device_map))
        yield


_plain_new = nn.Parameter.__new__


def _new_parameter(cls, data=None, requires_grad=True):
    """A parameter that is where its data is."""
    parameter = _plain_new(cls, data, requires_grad)
    return parameter if data is None else put(parameter, place_of(data))


def _device_of(name: str, device_map: dict[str, int]) -> torch.device | None:
    numbers = [n for prefix, n in device_map.items() if name.startswith(prefix)]
    return torch.device("cuda", numbers[0]) if numbers else None
