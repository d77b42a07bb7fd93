"""Enhancement for good: the scaling folded into the weights, and saved as an ordinary checkpoint.

The last step of the method without hooks. Multiplying a neuron by lambda at every position is
multiplying weights: for a ``post`` neuron the weights that read it (its column of the down
projection), for a ``pre`` neuron the weights and the bias that write it (its row of the gate
projection, or of the up projection where there is no gate).
"""

from __future__ import annotations

import copy
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from kb_lens.files import write_text
from kb_lens.interventions.checkpoint import RECORD, Export, check_target, put_in_place
from kb_lens.interventions.scaling import check_factor, scale_neurons
from kb_lens.models.hooked import fingerprint, model_name, site_hooks
from kb_lens.models.loading import EMBEDDED_MODEL, load_model
from kb_lens.neurons import NeuronSet

_PROMPT = "The nurse and the engineer met after work, and they talked about their day."
_PLAIN_TYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
_TOLERANCE = {torch.float32: 1e-3, torch.float64: 1e-3}
"""How far folded and hooked logits may lie apart, as a share of the largest; else 0.1."""


def fold_neurons(model: Any, neurons: NeuronSet, *, lam: float) -> Any:
    """A plain Hugging Face model whose weights contain the scaling.

    It computes what `model` computes inside ``scale_neurons(model, neurons, lam=lam)``, up to
    rounding, needs no hooks and no kb_lens, and is independent of `model`, which is left as it is.
    For a moment both are in memory.

    Args:
        model: The ``TransformerBridge`` that the neurons were found on; or what `load_model` takes
            (a hub name, a folder, a .gguf file, the embedded model's name), which is loaded in the
            type that its checkpoint has.
        neurons: What is scaled, at the site of the set.
        lam: The factor. ``1`` leaves every weight as it is, ``0`` removes the neurons.

    Returns:
        A transformers model in evaluation mode, of the type and on the device of `model`.

    Raises:
        ValueError: If the set is empty or belongs to another model, `lam` is not finite, or the
            weights cannot be scaled: packed (quantized), shared between layers, fused with others,
            or too large for their type afterwards.
    """
    check_factor(lam)
    if not len(neurons):
        raise ValueError("the neuron set is empty: there is nothing to fold.")
    bridge = _bridge(model)
    neurons.check_model(bridge)
    outline = _outline(bridge)
    modules = projections(bridge, neurons, outline)
    plain = _plain_copy(bridge, outline)
    for layer, indices in neurons.by_layer().items():
        scale_weights(plain, modules[layer], neurons, indices, lam)
    return plain


def stored_dtype(name: str | os.PathLike[str]) -> torch.dtype:
    """The type of the weights in a checkpoint: what `load_model` should load it as to keep it."""
    from transformers import AutoConfig

    name = str(Path(name).expanduser())
    if name == EMBEDDED_MODEL or name.endswith(".gguf"):
        return torch.float32
    try:
        found = getattr(AutoConfig.from_pretrained(name), "dtype", None)
    except (OSError, ValueError):
        return torch.float32  # `load_model` says what is wrong with the name
    return found if found in _PLAIN_TYPES else torch.float32


def _bridge(model: Any) -> Any:
    if isinstance(model, str | os.PathLike):
        return load_model(model, dtype=stored_dtype(model))
    if not hasattr(model, "original_model"):
        raise ValueError(
            f"cannot fold into a {type(model).__name__}: it holds no Hugging Face model. Give a "
            "TransformerBridge (kb.load_model) or the model's name."
        )
    return model


def _outline(bridge: Any) -> Any:
    """The Hugging Face model without weights, as it is where no bridge has wrapped its parts."""
    with torch.device("meta"):
        return type(bridge.original_model)(copy.deepcopy(bridge.original_model.config))


def projections(bridge: Any, neurons: NeuronSet, outline: Any) -> dict[int, str]:
    """The module of the Hugging Face model whose weights each layer's neurons are scaled in.

    It is the one whose input (``post``) or output (``pre``) passes through the very hook that
    `scale_neurons` uses, so no family's names are needed.

    Args:
        bridge: The model.
        neurons: What is to be scaled.
        outline: The Hugging Face model as it is without the bridge; its weights do not matter.

    Raises:
        ValueError: If a layer's hook belongs to no module of the model (the gate may be one half of
            a module), or its weights are packed.
    """
    if getattr(bridge.original_model.config, "quantization_config", None) is not None:
        raise _packed(bridge, "its config has a quantization_config")
    end = "hook_in" if neurons.site == "post" else "hook_out"
    wrappers = {id(getattr(one, end, None)): one for one in bridge.modules() if _original(one)}
    paths = {id(one): _plain_name(name) for name, one in bridge.original_model.named_modules()}
    known = {name for name, _ in outline.named_modules()}
    hooks, found = site_hooks(bridge, neurons.site), {}
    for layer in neurons.by_layer():
        module = _original(wrappers.get(id(bridge.hook_dict[hooks[layer]])))
        path = paths.get(id(module), "")
        if module is None or path not in known:
            raise ValueError(
                f"cannot fold neurons at {neurons.site!r} of {model_name(bridge)}: {hooks[layer]!r}"
                " belongs to no module with weights of its own. Use scale_neurons."
            )
        found[layer] = path
        if (kind := getattr(module.weight, "dtype", None)) not in _PLAIN_TYPES:
            raise _packed(bridge, f"{path} has {str(kind).removeprefix('torch.')}")
    return found


def _original(wrapper: Any) -> Any:
    """The linear layer in a bridge's wrapper; None for anything else."""
    module = getattr(wrapper, "original_component", None)
    linear = hasattr(module, "in_features") or type(module).__name__ == "Conv1D"
    return module if linear else None


def _plain_name(name: str) -> str:
    """A module's or tensor's name in the Hugging Face model that the bridge wrapped."""
    return ".".join(part for part in name.split(".") if part != "_original_component")


def _packed(bridge: Any, why: str) -> ValueError:
    return ValueError(
        f"the weights of {model_name(bridge)} are packed (quantized): {why}. Folding needs "
        "float32, bfloat16 or float16: use the checkpoint that is not quantized, or scale_neurons."
    )


def _plain_copy(bridge: Any, outline: Any) -> Any:
    """The model that the bridge wrapped, made anew from its config and weights, without hooks."""
    original, names = bridge.original_model, list(outline.state_dict())
    config = copy.deepcopy(original.config)
    held = {_plain_name(name): tensor for name, tensor in original.state_dict().items()}
    state = {name: held[name].to("cpu", copy=True) for name in names if name in held}
    plain = type(original).from_pretrained(
        None, config=config, state_dict=state, dtype=bridge.cfg.dtype
    )
    plain.generation_config = copy.deepcopy(original.generation_config)
    for name, tensor in plain.state_dict().items():
        if name not in state or not torch.equal(tensor, state[name].to(tensor.dtype)):
            raise ValueError(
                f"cannot copy the weights of {model_name(bridge)}: {name} is not what it was. "
                "Use scale_neurons."
            )
    return plain.to(bridge.cfg.device).eval()


@torch.no_grad()
def scale_weights(
    plain: Any, path: str, neurons: NeuronSet, indices: Sequence[int], lam: float
) -> None:
    """Multiply one layer's weights by `lam` where they read or write the neurons, in place.

    Raises:
        ValueError: If the weights are used elsewhere too, have other sizes, or overflow.
    """
    module = plain.get_submodule(path)
    tensors = {"weight": module.weight}
    if neurons.site == "pre" and getattr(module, "bias", None) is not None:
        tensors["bias"] = module.bias
    for name, tensor in tensors.items():
        _check_own(plain, f"{path}.{name}", tensor)
        axis = _neuron_axis(module, tensor, neurons)
        if tensor.shape[axis] != neurons.d_mlp:
            raise ValueError(
                f"{path}.{name} has {tensor.shape[axis]} neurons, the set has {neurons.d_mlp}."
            )
        where: list[Any] = [slice(None)] * tensor.ndim
        where[axis] = torch.tensor(indices, device=tensor.device)
        tensor[tuple(where)] *= lam
        if not bool(tensor[tuple(where)].isfinite().all()):
            raise ValueError(f"lam = {lam:g} is too large: {path}.{name} overflows {tensor.dtype}.")


def _neuron_axis(module: Any, tensor: Tensor, neurons: NeuronSet) -> int:
    """Which axis runs over the neurons; a Conv1D (GPT-2) has its input first, a Linear last."""
    if tensor.ndim == 1:
        return 0
    reads = neurons.site == "post"
    return int(reads) if hasattr(module, "in_features") else int(not reads)


def _check_own(plain: Any, name: str, tensor: Tensor) -> None:
    """Weights that another module uses as well cannot be scaled for one of them."""
    everywhere = plain.named_parameters(remove_duplicate=False)
    if others := [other for other, one in everywhere if one is tensor and other != name]:
        raise ValueError(
            f"{name} is shared with {others[0]}: scaling it would scale both. Use scale_neurons."
        )


def export(
    model: Any,
    neurons: NeuronSet,
    folder: str | os.PathLike[str],
    *,
    lam: float,
    overwrite: bool = False,
) -> float:
    """Write the folded model as an ordinary checkpoint that needs no kb_lens.

    Writes safetensors, config and tokenizer, ``kb_lens.json`` (what was done to which model) and
    ``README.md`` (a model card). All of it is written beside `folder` and put in its place at the
    end, so what is at `folder` is always whole.

    Args:
        model: As in `fold_neurons`; a name is loaded in its checkpoint's own type.
        neurons: What is scaled.
        folder: Where; it may be there if it is empty.
        lam: The factor.
        overwrite: Whether an earlier export at `folder` may be replaced.

    Returns:
        The largest difference between the logits of the hooked and of the written model on a short
        prompt.

    Raises:
        ValueError: As in `fold_neurons`; if something else is at `folder`; or if the folded model
            does not compute what the hooked one computes.
    """
    folder = check_target(folder, overwrite)
    check_factor(lam)
    bridge = _bridge(model)
    plain = fold_neurons(bridge, neurons, lam=lam)
    difference = _difference(bridge, plain, neurons, lam)
    done = Export(
        model_name(bridge), fingerprint(bridge), bridge.cfg.dtype, neurons, lam, difference
    )
    with put_in_place(folder) as part:
        plain.save_pretrained(part)
        _tokenizer(bridge).save_pretrained(part)
        write_text(part / RECORD, done.record())
        write_text(part / "README.md", done.card())
    return difference


@torch.no_grad()
def _difference(bridge: Any, plain: Any, neurons: NeuronSet, lam: float) -> float:
    """The largest difference of logits between hooked and folded.

    Raises:
        ValueError: If it is more than rounding.
    """
    ids = bridge.tokenizer(_PROMPT)["input_ids"]
    tokens: Int[Tensor, "1 pos"] = torch.tensor([ids], device=bridge.cfg.device)
    with scale_neurons(bridge, neurons, lam=lam):
        hooked: Float[Tensor, "1 pos d_vocab"] = bridge(tokens).float()
    found = float((plain(tokens).logits.float() - hooked).abs().max())
    if not found <= _TOLERANCE.get(bridge.cfg.dtype, 0.1) * float(hooked.abs().max()):
        raise ValueError(
            f"folding is not exact for {model_name(bridge)} at lambda {lam:g}: logits differ by "
            f"{found:.3g} from the hooked model's. Nothing was written; use scale_neurons."
        )
    return found


def _tokenizer(bridge: Any) -> Any:
    """The tokenizer as it came; the bridge gives its own a BOS and a padding token."""
    from transformers import AutoTokenizer

    source = bridge.original_model.config.name_or_path
    if not source:  # the model was made in memory
        return bridge.tokenizer
    trusted = type(bridge.tokenizer).__module__.startswith("transformers_modules")
    try:
        return AutoTokenizer.from_pretrained(source, trust_remote_code=trusted)
    except (OSError, ValueError) as error:
        raise ValueError(f"cannot read the tokenizer of '{source}' again: {error}") from error
