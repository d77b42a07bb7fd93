"""The choice of the routine along the path, and of its rows in a pass."""

from __future__ import annotations

from itertools import chain
from typing import cast

import psutil
import torch
from jaxtyping import Int
from torch import Tensor

from kb_lens.attribution.objective import Objective
from kb_lens.attribution.path_gradients import JoinedPath, Path, PerLayerPath
from kb_lens.attribution.settings import Settings
from kb_lens.completions import Completion
from kb_lens.models.hooked import HookedModel, is_bridge, model_name
from kb_lens.passes.shared_prefix import UncoveredError
from kb_lens.questions import Question
from kb_lens.user_warnings import warn_user

PER_LAYER_ROWS = 32
"""Whole prompts in a pass of the per-layer routine; more would help a CPU little."""
_FEWEST_ROWS, _MOST_ROWS = 32, 4096
"""With fewer rows a pass costs more than its rows; with more nothing gets faster."""


def check_gradients(model: HookedModel) -> None:
    """Raise `ValueError` if torch cannot differentiate here."""
    if torch.is_inference_mode_enabled():
        raise ValueError(
            "attribution needs gradients, which torch.inference_mode() forbids: call it outside "
            "of that. torch.no_grad() is fine."
        )
    modules = cast(torch.nn.Module, model.original_model if is_bridge(model) else model)
    if any(tensor.is_inference() for tensor in chain(modules.parameters(), modules.buffers())):
        raise ValueError(
            f"{model_name(model)} was made inside torch.inference_mode(), so its weights allow "
            "no gradients: load it outside of that."
        )


def choose_engine(model: HookedModel, question: Question | Completion, settings: Settings) -> str:
    """Choose the routine by trying the joined pass, which checks itself against the model's logits.

    Raises:
        ValueError: If ``joined`` was asked for and does not cover the model.
    """
    if settings.engine == "per-layer":
        return settings.engine
    tokens = prompt_tokens(model, question, settings)
    no_nodes = [torch.empty(0)] * (model.cfg.n_layers - 1)
    try:
        path_for(model, question, tokens, settings, 1)([torch.ones(1), *no_nodes])
    except UncoveredError as error:
        reason = f"{model_name(model)} is not covered by the joined pass: {error}."
        if settings.engine == "joined":
            raise ValueError(f"{reason} Use engine='auto'.") from error
        warn_user(f"{reason} The slower per-layer routine runs instead.")
        return "per-layer"
    return "joined"


def prompt_tokens(
    model: HookedModel, question: Question | Completion, settings: Settings
) -> Int[Tensor, "1 pos"]:
    """The prompt's tokens: a question in its template, a completion's prompt as it is."""
    if isinstance(question, Completion):
        return question.prompt_tokens(model)
    assert settings.template is not None  # there are questions
    return settings.template.tokens(model, question.text)


def answer_tokens(
    model: HookedModel, question: Question | Completion, settings: Settings
) -> tuple[int, int | None]:
    """The ids of the right and of the wrong answer, or of target and foil."""
    if isinstance(question, Completion):
        return question.answer_tokens(model.tokenizer)
    assert settings.spelling is not None  # there are questions
    return settings.spelling.tokens(question.answer)


def path_for(
    model: HookedModel,
    question: Question | Completion,
    tokens: Tensor,
    settings: Settings,
    max_rows: int,
) -> Path:
    """The path from 0 to the activations at the prompt's last position."""
    objective = Objective(*answer_tokens(model, question, settings), settings.objective)
    path_class = PerLayerPath if settings.engine == "per-layer" else JoinedPath
    return path_class(model, tokens, objective, site=settings.site, max_rows=max_rows)


def default_rows(model: HookedModel, engine: str) -> int:
    """As many rows as a quarter of the free memory holds, from 32 to 4096."""
    if engine == "per-layer":
        return PER_LAYER_ROWS
    config = model.cfg
    # In each block autograd saves about 16 vectors of the residual stream's width and 8 of the
    # MLP's. A row joins at its own layer, so it passes half of the blocks on average.
    block = 16 * config.d_model + 8 * (config.d_mlp or 4 * config.d_model)
    numbers = config.n_layers * block / 2
    # logits, their softmax, gradient: in float32, see `head`
    row_bytes = numbers * (torch.finfo(config.dtype).bits // 8) + 3 * 4 * config.d_vocab
    return int(min(_MOST_ROWS, max(_FEWEST_ROWS, _free_memory(model) / 4 / row_bytes)))


def _free_memory(model: HookedModel) -> float:
    """Free bytes on the model's device; of several devices the smallest number."""
    devices = {weight.device for weight in model.parameters() if not weight.is_meta}
    gpus = [_free_on(device) for device in devices if device.type == "cuda"]
    return min(gpus, default=psutil.virtual_memory().available)


def _free_on(gpu: torch.device) -> int:
    """Bytes that the driver has free, and those that torch has reserved but does not use."""
    kept = torch.cuda.memory_reserved(gpu) - torch.cuda.memory_allocated(gpu)
    return torch.cuda.mem_get_info(gpu)[0] + kept
