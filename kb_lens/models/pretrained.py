"""Read a checkpoint as a complete causal transformers model; of a multimodal one the text part."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from kb_lens.models.completeness import check_weights
from kb_lens.models.config_sizes import check_room, check_sizes, check_weight_files
from kb_lens.models.devices import check_names, check_unmixed
from kb_lens.models.gguf import BUGS, first_line
from kb_lens.models.placement import Placement, loading_arguments


def read_model(source: str, placement: Placement, options: dict[str, Any]) -> Any:
    """Read a checkpoint.

    Args:
        source: A folder or a hub name.
        placement: Where the weights go, and in which type; packed (quantized) ones stay packed.
        options: ``trust_remote_code`` and ``revision``.

    Returns:
        A transformers model in evaluation mode. It may be multimodal; see `text_model`.

    Raises:
        ValueError: If it is not a causal language model, or its weights are incomplete.
        Exception: Whatever transformers raises if it cannot read something.
    """
    from transformers import AutoConfig  # seconds to import

    if (path := Path(source, "config.json")).is_file():
        check_sizes(path)
    with _naming("its config.json cannot be used"):
        config = AutoConfig.from_pretrained(source, **options)
        model_class = _model_class(config)
        check_room(config, model_class, Path(source), options)
    packing = getattr(config, "quantization_config", None)
    if packing is not None and placement.quantization is not None:
        raise ValueError("its weights are packed (quantized) already: leave quantization out.")
    try:
        model, report = model_class.from_pretrained(
            source,
            attn_implementation="eager",
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # they are refused below, by name
            **loading_arguments(placement, packed=packing is not None),
            **options,
        )
    except ImportError as error:
        if packing is None:
            raise
        method = packing.get("quant_method")
        raise ValueError(
            f"its weights are packed ({method}), and a package is missing: {first_line(error)}"
        ) from error
    except SafetensorError as error:
        check_weight_files(Path(source))
        raise ValueError(
            f"a .safetensors file is cut off or damaged ({error}). Download it again."
        ) from error
    except ValueError as error:
        raise ValueError(_placing_fault(error)) from error
    except Exception:  # torch's, pickle's or zip's error for a .bin file
        check_weight_files(Path(source))
        raise
    check_weights(model, report)
    check_names(model, placement.device_map)
    spread = getattr(model, "hf_device_map", None)
    if spread is None:
        model = model.to(placement.device)
    else:
        check_unmixed(spread.values())
    return model.eval()


def _placing_fault(error: ValueError) -> str:
    """The fault of a map, without the thousands of names in transformers' message."""
    reason = first_line(error)
    if "offload_folder" in reason:
        return "weights on disk need .safetensors files, which it does not have: use another map."
    _, told, names = reason.partition("any device for the following parameters: ")
    return f"device_map has no device for {names.split(', ')[0]}." if told else reason


@contextmanager
def _naming(what: str) -> Iterator[None]:
    """Name what transformers could not read, if its own message does not.

    Raises:
        ValueError: In place of other errors, except clear ones about files and code.
    """
    try:
        yield
    except ValueError as error:
        if type(error) is ValueError:
            raise
        raise ValueError(f"{what}: {first_line(error)}") from error
    except (*BUGS, RecursionError) as error:
        raise ValueError(f"{what}: {first_line(error)}") from error


def _model_class(config: Any) -> Any:
    """The class that reads a checkpoint.

    Raises:
        ValueError: If it is not a causal language model.
    """
    from transformers import AutoModelForCausalLM, AutoModelForImageTextToText
    from transformers.models.auto import modeling_auto

    name = f"{', '.join(config.architectures or [])} ({config.model_type})".strip()
    if config.is_encoder_decoder:
        raise ValueError(f"{name} is an encoder-decoder: kb_lens needs a causal language model.")
    masked = type(config) in modeling_auto.MODEL_FOR_MASKED_LM_MAPPING
    if masked and not getattr(config, "is_decoder", True):
        raise ValueError(f"{name} is an encoder: kb_lens needs a causal language model.")
    images = type(config) in modeling_auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING
    if config.get_text_config() is not config and images:
        return AutoModelForImageTextToText
    own_code = "AutoModelForCausalLM" in (getattr(config, "auto_map", None) or {})
    if type(config) not in modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING and not own_code:
        raise ValueError(
            f"{name} is not a causal language model: transformers has no class for it."
        )
    return AutoModelForCausalLM


def text_model(model: Any) -> Any:
    """The causal language model in a multimodal one; any other model as it is.

    For a multimodal model TransformerLens would load an image processor and install packages for
    it.

    Raises:
        ValueError: If transformers has no class for the text model alone.
    """
    from transformers import AutoModelForCausalLM
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

    config = model.config.get_text_config()
    if config is model.config:
        return model
    name = f"the text model ({config.model_type}) of the multimodal {type(model).__name__}"
    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        raise ValueError(f"{name} has no class of its own in transformers. Use a text-only model.")
    with torch.device("meta"):  # its weights are those of `model`
        text = AutoModelForCausalLM.from_config(
            config, attn_implementation="eager", trust_remote_code=False
        )
    if type(text.base_model) is not type(model.get_decoder()):
        raise ValueError(f"{name} cannot be separated from it. Use a text-only model.")
    setattr(text, text.base_model_prefix, model.get_decoder())
    text.set_output_embeddings(model.get_output_embeddings())
    text.generation_config = model.generation_config
    text.config.name_or_path = model.config.name_or_path
    if (packing := getattr(model.config, "quantization_config", None)) is not None:
        text.config.quantization_config = packing
    return text.eval()
