"""Adapters (LoRA) are merged into the weights of the model that they were trained on."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

from kb_lens.extras import install_command
from kb_lens.models.completeness import check_weights, read_object


def adapter_base(source: str, revision: str | None = None) -> str | None:
    """The name of an adapter's base model; None if there is no adapter.

    Args:
        source: A folder or a hub name.
        revision: A branch, tag or commit on the hub.

    Raises:
        ValueError: If the adapter names no base model, names code to be run, or may be merged
            already.
    """
    from transformers.utils.peft_utils import find_adapter_config_file  # seconds to import

    path = find_adapter_config_file(source, revision=revision)
    if path is None:
        return None
    if Path(source, "config.json").is_file():
        raise ValueError(
            f"'{source}' has a config.json and an adapter_config.json, and does not say whether "
            "the adapter is merged. Delete adapter_config.json if it is, config.json if it is not."
        )
    config = read_object(Path(path))
    if config.get("megatron_config"):
        raise ValueError(
            f"the adapter '{source}' names a module to be imported (megatron_config in its "
            "adapter_config.json), and foreign code is not run. Train it without Megatron."
        )
    base = config.get("base_model_name_or_path")
    if not isinstance(base, str) or not base:
        raise ValueError(
            f"the adapter '{source}' does not name its base model: set base_model_name_or_path in "
            "its adapter_config.json."
        )
    return base


def check_peft(source: str, base: str) -> None:
    """Refuse an adapter if the package that merges it is not installed.

    Raises:
        ValueError: Names what to install.
    """
    if find_spec("peft") is None:
        raise ValueError(
            f"it is an adapter (LoRA) of {base!r}, not a whole model. To merge it install peft: "
            f"`{install_command('lora')}`."
        )


def merged(model: Any, source: str, revision: str | None = None) -> Any:
    """The base model with the adapter's change added to its weights.

    Raises:
        ValueError: If the adapter lacks tensors, has others, or cannot be merged.
    """
    import peft  # an extra  # pyright: ignore[reportMissingImports]

    config = peft.PeftConfig.from_pretrained(source, revision=revision)
    if config.is_prompt_learning:
        kind = getattr(config.peft_type, "value", config.peft_type)
        raise ValueError(f"it is a {kind} adapter, which cannot be merged into weights.")
    adapted = peft.PeftModel(model, config)
    report = adapted.load_adapter(source, "default", revision=revision)
    check_weights(
        adapted,
        {
            "missing_keys": report.missing_keys,
            "unexpected_keys": report.unexpected_keys,
            "mismatched_keys": [],
            "error_msgs": [],
        },
    )
    return adapted.merge_and_unload()
