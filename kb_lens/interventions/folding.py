"""Fold the scaling into the weights, and save the model as an ordinary checkpoint.

This is the last step of the method without hooks. Multiplying a neuron by lambda at every position
equals multiplying weights: for a ``post`` neuron the weights that read it (its column of the down
projection), for a ``pre`` neuron the weights and the bias that write it (its row of the gate
projection, or of the up projection if there is no gate).
"""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from kb_lens.files import write_text
from kb_lens.interventions.checkpoint import Export, Measured
from kb_lens.interventions.export_folder import RECORD, check_target, digests, put_in_place
from kb_lens.interventions.scaling import check_factor, scale_neurons
from kb_lens.interventions.weights import projections, scale_weights
from kb_lens.models.bridge_check import plain_name, plain_outline
from kb_lens.models.evaluation_mode import evaluation_mode
from kb_lens.models.foreign_code import never_asked
from kb_lens.models.hooked import BridgedModel, HookedModel, fingerprint, is_bridge, model_name
from kb_lens.models.library_bars import no_library_bars
from kb_lens.models.loading import load_model
from kb_lens.models.offloaded import at_hand
from kb_lens.models.placement import is_spread, stored_dtype
from kb_lens.neurons.sets import Neurons, NeuronSet, check_neurons, neurons_of

# any sentence that is long enough to show a difference in every layer
_PROMPT = "The nurse and the engineer met after work, and they talked about their day."
# rounding is about 1e-6 in float32; two bytes a number keep two or three digits a layer
_TOLERANCE = {torch.float32: 1e-3, torch.float64: 1e-3}
"""How far folded and hooked logits may differ, as a share of the largest; else 0.1."""

Source = HookedModel | str | os.PathLike[str]
"""A model, or what `load_model` takes."""


@no_library_bars()
def fold_neurons(
    model: Source, neurons: Neurons, *, lam: float, trust_remote_code: bool = False
) -> Any:
    """A plain Hugging Face model whose weights contain the scaling.

    Up to rounding it computes the same as `model` inside ``scale_neurons(model, neurons,
    lam=lam)``. It needs neither hooks nor kb_lens. `model` is not changed; both are in memory for a
    moment.

    Args:
        model: The ``TransformerBridge`` that the neurons were found on, or a name for `load_model`
            (a hub name, a folder, a .gguf file, the embedded model), which is loaded in the type of
            its checkpoint.
        neurons: The neurons to scale, as in `scale_neurons`.
        lam: The factor. ``1`` leaves every weight as it is, ``0`` removes the neurons.
        trust_remote_code: As in `load_model`, if `model` is a name.

    Returns:
        A transformers model in evaluation mode, of the type and on the device of `model`.

    Raises:
        ValueError: If the set is empty or belongs to another model, `lam` is not finite, or the
            weights cannot be scaled: packed (quantized), shared between layers, fused with others,
            or too large for their type afterwards.
    """
    check_factor(lam)
    check_neurons(neurons)
    bridge = _bridge(model, trust_remote_code)
    check_factor(lam, bridge.cfg.dtype)
    neurons = neurons_of(bridge, neurons)
    outline = plain_outline(bridge)
    modules = projections(bridge, neurons, outline)
    plain = _plain_copy(bridge, outline)
    for layer, indices in neurons.by_layer().items():
        scale_weights(plain, modules[layer], neurons, indices, lam)
    return plain


def _bridge(model: Any, trust_remote_code: bool) -> BridgedModel:
    loaded = model
    if isinstance(model, str | os.PathLike):
        dtype = stored_dtype(model, trust_remote_code=trust_remote_code)
        loaded = load_model(model, dtype=dtype, trust_remote_code=trust_remote_code)
    if not is_bridge(loaded):
        raise ValueError(
            f"cannot fold into a {type(model).__name__}: it wraps no Hugging Face model. Give "
            "a TransformerBridge (kb.load_model) or the model's name."
        )
    return loaded


def _plain_copy(bridge: BridgedModel, outline: Any) -> Any:
    """The model that the bridge wraps, rebuilt from its config and weights, without hooks."""
    original = bridge.original_model
    config = copy.deepcopy(original.config)
    with at_hand(original):
        tensors = {plain_name(name): tensor for name, tensor in original.state_dict().items()}
        names = [name for name in outline.state_dict() if name in tensors]
        state = {name: tensors[name].to("cpu", copy=True) for name in names}
    with never_asked():
        plain = type(original).from_pretrained(
            None, config=config, state_dict=state, dtype=bridge.cfg.dtype
        )
    plain.generation_config = copy.deepcopy(original.generation_config)
    # transformers fills missing weights with random ones and only warns
    for name, tensor in plain.state_dict().items():
        if name not in state or not torch.equal(tensor, state[name].to(tensor.dtype)):
            raise ValueError(
                f"cannot copy the weights of {model_name(bridge)}: {name} has changed. "
                "Use scale_neurons."
            )
    # the copy is on one device, and a spread model may fit on no single device
    return plain.to("cpu" if is_spread(bridge) else bridge.cfg.device).eval()


@no_library_bars()
def export(
    model: Source,
    neurons: Neurons,
    folder: str | os.PathLike[str],
    *,
    lam: float,
    overwrite: bool = False,
    trust_remote_code: bool = False,
    also: Mapping[str, str] | None = None,
    measured: Measured | None = None,
) -> float:
    """Write the folded model as an ordinary checkpoint that needs no kb_lens.

    Writes safetensors, config and tokenizer, ``kb_lens.json`` (the change and the source model) and
    ``README.md`` (a model card). All is written beside `folder` and moved there at the end, so
    `folder` is always complete.

    Args:
        model: As in `fold_neurons`; a name is loaded in its checkpoint's own type.
        neurons: As in `scale_neurons`.
        folder: Where to write; an existing folder must be empty.
        lam: The factor.
        overwrite: Whether an earlier export at `folder` may be replaced. Other files are kept.
        trust_remote_code: As in `load_model`, if `model` is a name.
        also: Further files, name -> text.
        measured: Measurements of the scaled model, for the model card.

    Returns:
        The largest difference between the logits of the hooked and of the written model on a short
        prompt.

    Raises:
        ValueError: As in `fold_neurons`; if there is something else at `folder`; or if the folded
            model computes something else than the hooked one.
    """
    folder = check_target(folder, overwrite)
    check_factor(lam)
    check_neurons(neurons)
    bridge = _bridge(model, trust_remote_code)
    neurons = neurons_of(bridge, neurons)
    plain = fold_neurons(bridge, neurons, lam=lam)
    difference = _difference(bridge, plain, neurons, lam)
    exported = Export(
        model_name(bridge),
        fingerprint(bridge),
        bridge.cfg.dtype,
        neurons,
        lam,
        difference,
        measured,
    )
    with put_in_place(folder) as unfinished:
        plain.save_pretrained(unfinished)
        _tokenizer(bridge).save_pretrained(unfinished)
        write_text(unfinished / "README.md", exported.card())
        for name, text in (also or {}).items():
            write_text(unfinished / name, text)
        write_text(unfinished / RECORD, exported.record(digests(unfinished)))
    return difference


@torch.no_grad()
def _difference(bridge: BridgedModel, plain: Any, neurons: NeuronSet, lam: float) -> float:
    """The largest difference of logits between the hooked and the folded model.

    Raises:
        ValueError: If it is more than rounding.
    """
    ids = bridge.tokenizer(_PROMPT)["input_ids"]
    tokens: Int[Tensor, "1 pos"] = torch.tensor([ids], device=bridge.cfg.device)
    with evaluation_mode(bridge), scale_neurons(bridge, neurons, lam=lam):
        hooked: Float[Tensor, "1 pos d_vocab"] = bridge(tokens).float()
    folded = plain(tokens.to(plain.device)).logits.float()
    difference = float((folded - hooked.to(folded.device)).abs().max())
    allowed = _TOLERANCE.get(bridge.cfg.dtype, 0.1) * float(hooked.abs().max())
    if not difference <= allowed:  # "not": NaN is refused too
        raise ValueError(
            f"folding is not exact for {model_name(bridge)} at lambda {lam:g}: logits differ by "
            f"{difference:.3g} from the hooked model's. Nothing was written; use scale_neurons."
        )
    return difference


def _tokenizer(bridge: BridgedModel) -> Any:
    """The original tokenizer; the bridge adds a BOS and a padding token to its own."""
    from transformers import AutoTokenizer

    source = bridge.original_model.config.name_or_path
    if not source:  # the model was made in memory
        return bridge.tokenizer
    trusted = type(bridge.tokenizer).__module__.startswith("transformers_modules")
    try:
        with never_asked():
            return AutoTokenizer.from_pretrained(source, trust_remote_code=trusted)
    except (OSError, ValueError) as error:
        raise ValueError(f"cannot read the tokenizer of '{source}' again: {error}") from error
