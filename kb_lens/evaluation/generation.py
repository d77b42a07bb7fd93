"""What the model writes after a prompt: greedily, in batches, for answers that are parsed.

The writing is transformers' own ``generate``; hooks that are attached to the model fire in it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from tqdm.auto import tqdm
from transformers import GenerationConfig

from kb_lens.benchmarks.requests import Request
from kb_lens.models.prompts import request_tokens

CPU_BATCH_TOKENS, GPU_BATCH_TOKENS = 2048, 32768
"""Prompt tokens (padding included) that are written on from at once."""


def greedy_texts(
    model: Any,
    requests: Sequence[Request],
    *,
    batch_tokens: int | None = None,
    progress: bool = True,
) -> tuple[str, ...]:
    """What the model writes after each prompt, without special tokens.

    Equal requests are written once. Prompts of similar length go together, padded on the left
    under an attention mask, which changes nothing but rounding.

    Args:
        model: A ``TransformerBridge``; attached hooks fire.
        requests: Those with ``write`` at 0 get an empty text.
        batch_tokens: At most this many prompt tokens in one batch; default by device.
        progress: Whether to show a progress bar, in prompts.

    Returns:
        One text a request, in their order.

    Raises:
        ValueError: If a prompt with what is to be written is longer than the model's context, or
            the model is no ``TransformerBridge``.
    """
    prompts = check_writable(model, requests)
    if batch_tokens is None:
        on_cpu = torch.device(model.cfg.device).type == "cpu"
        batch_tokens = CPU_BATCH_TOKENS if on_cpu else GPU_BATCH_TOKENS
    asked = sorted((r for r in prompts if r.write), key=lambda r: (r.write, len(prompts[r])))
    texts: dict[Request, str] = dict.fromkeys(prompts, "")
    with tqdm(total=len(asked), desc="writing", unit="prompt", disable=not progress) as bar:
        for batch in _batches(asked[::-1], prompts, batch_tokens):
            written = _write(model, [prompts[request] for request in batch], batch[0].write)
            texts.update(zip(batch, written, strict=True))
            bar.update(len(batch))
    return tuple(texts[request] for request in requests)


def check_writable(model: Any, requests: Sequence[Request]) -> dict[Request, list[int]]:
    """Each request's prompt as tokens; `ValueError` if the model cannot write after them."""
    if not hasattr(model, "original_model"):
        raise ValueError("writing needs a TransformerBridge: load the model with load_model.")
    prompts = {r: request_tokens(model.tokenizer, r.prompt, r.system, r.chat) for r in requests}
    n_ctx = getattr(model.cfg, "n_ctx", None)
    for request, ids in prompts.items():
        if n_ctx is not None and len(ids) + request.write > n_ctx:
            raise ValueError(
                f"a prompt of {len(ids)} tokens leaves no room for {request.write} more in the "
                f"model's context of {n_ctx}: {request.prompt[:60]!r}. Use a model with a longer "
                "context."
            )
    return prompts


def _batches(
    requests: Sequence[Request], prompts: dict[Request, list[int]], batch_tokens: int
) -> Iterator[list[Request]]:
    """Cut requests that are sorted by falling length into batches that write equally much."""
    batch: list[Request] = []
    for request in requests:
        width = len(prompts[batch[0]]) if batch else 0
        if batch and (request.write != batch[0].write or (len(batch) + 1) * width > batch_tokens):
            yield batch
            batch = []
        batch.append(request)
    if batch:
        yield batch


def _write(model: Any, prompts: Sequence[list[int]], most: int) -> list[str]:
    tokenizer = model.tokenizer
    width = max(len(ids) for ids in prompts)
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    pad = 0 if pad is None else pad
    tokens = torch.tensor([[pad] * (width - len(ids)) + ids for ids in prompts])
    mask = torch.tensor([[0] * (width - len(ids)) + [1] * len(ids) for ids in prompts])
    greedy = GenerationConfig(
        do_sample=False,
        max_new_tokens=most,
        pad_token_id=pad,
        eos_token_id=_stops(model) or None,
        use_cache=True,
    )
    hf_model = model.original_model
    own, hf_model.generation_config = hf_model.generation_config, greedy
    try:
        with torch.no_grad():
            output = hf_model.generate(
                tokens.to(model.cfg.device), attention_mask=mask.to(model.cfg.device)
            )
    finally:
        hf_model.generation_config = own
    return tokenizer.batch_decode(output[:, width:], skip_special_tokens=True)


def _stops(model: Any) -> list[int]:
    """Every token that ends the model's turn: its tokenizer's and its checkpoint's.

    Nothing else of the checkpoint's settings is used: a repetition penalty, say, is not greedy.
    """
    own = model.original_model.generation_config.eos_token_id
    found = {model.tokenizer.eos_token_id, *(own if isinstance(own, list) else [own])}
    return sorted(token for token in found if token is not None)
