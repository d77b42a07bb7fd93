"""Generate texts after prompts in batches, for answers that are parsed.

Generation is greedy, or samples if a request says how (`Sampling`). It is transformers' own
``generate``, so attached hooks fire.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial

import torch
from transformers import GenerationConfig, LogitsProcessorList

from kb_lens.benchmarks.requests import Request
from kb_lens.evaluation.encoding import batch_limit, other_prompts, prompt_tokens
from kb_lens.evaluation.sampling import sampling_processors
from kb_lens.evaluation.second_pass import SecondPassProcessor
from kb_lens.models.cache_name import hand_cache_on
from kb_lens.models.hooked import BridgedModel, HookedModel, is_bridge
from kb_lens.passes.out_of_memory import tried

CPU_BATCH_TOKENS, GPU_BATCH_TOKENS = 2048, 32768
"""Prompt tokens in a batch, with padding. More than in scoring, since each step of generation
computes one token for each prompt."""


def greedy_texts(
    model: HookedModel,
    requests: Sequence[Request],
    *,
    batch_tokens: int | None = None,
    advance: Callable[[int], object] | None = None,
) -> tuple[str, ...]:
    """The text that the model writes after each prompt, without special tokens.

    Equal requests are written once. Prompts of similar length are batched, padded on the left with
    an attention mask, which changes only rounding. A sampled text is the same in every batch too:
    the search is greedy over scores with the request's own noise.

    Args:
        model: A ``TransformerBridge``; attached hooks fire.
        requests: Those with ``write`` at 0 get an empty text.
        batch_tokens: At most this many prompt tokens in one batch; default by device.
        advance: Called after each batch with the number of different prompts done.

    Returns:
        One text for each request, in their order.

    Raises:
        ValueError: If prompt and generated text would be longer than the model's context, or the
            model is not a ``TransformerBridge``.
    """
    prompts = check_writable(model, requests)
    assert is_bridge(model)  # else it was refused
    hand_cache_on(model)
    limit = batch_limit(model, batch_tokens, cpu=CPU_BATCH_TOKENS, other=GPU_BATCH_TOKENS)
    texts: dict[Request, str] = dict.fromkeys(prompts, "")
    batches = list(_batches(prompts, limit))[::-1]
    while batches:
        batch = batches.pop()
        written = tried(partial(_write, model, batch, prompts), len(batch), "prompts a batch")
        if written is None:
            half = len(batch) // 2
            batches += [batch[half:], batch[:half]]
            continue
        texts.update(zip(batch, written, strict=True))
        if advance is not None:
            advance(len(batch))
    return tuple(texts[request] for request in requests)


def check_writable(model: HookedModel, requests: Sequence[Request]) -> dict[Request, list[int]]:
    """Each request's prompt as tokens; `ValueError` if the model cannot write after them."""
    if not is_bridge(model):
        raise ValueError("writing needs a TransformerBridge: load the model with load_model.")
    n_ctx = getattr(model.cfg, "n_ctx", None)
    prompts: dict[Request, list[int]] = {}
    for request in dict.fromkeys(requests):
        ids = prompt_tokens(model.tokenizer, request)
        prompts[request] = ids
        length = max(map(len, (ids, *other_prompts(model.tokenizer, request, ids))))
        if n_ctx is not None and length + request.write > n_ctx:
            raise ValueError(
                f"a prompt of {length} tokens leaves no room for {request.write} more in the "
                f"model's context of {n_ctx}: {request.prompt[:60]!r}. Use a model with a longer "
                "context."
            )
    return prompts


def _batches(
    prompts: Mapping[Request, Sequence[int]], batch_tokens: int
) -> Iterator[list[Request]]:
    """Batches of requests with the same settings, the longest prompts first."""
    writing = [request for request in prompts if request.write]
    writing.sort(key=lambda r: (r.write, repr(_manner(r)), len(prompts[r])))
    batch: list[Request] = []
    # The longest prompts first, so that a lack of memory shows at once.
    for request in reversed(writing):
        if batch:
            n_tokens = (len(batch) + 1) * len(prompts[batch[0]])
            if _manner(request) != _manner(batch[0]) or n_tokens > batch_tokens:
                yield batch
                batch = []
        batch.append(request)
    if batch:
        yield batch


def _manner(request: Request) -> tuple[object, ...]:
    """The settings that the requests of a batch share."""
    # Seeds may differ, since every row has its own noise.
    sampling = request.sampling and replace(request.sampling, seed=0)
    return request.write, request.against, sampling


def _write(
    model: BridgedModel, requests: Sequence[Request], prompts: Mapping[Request, list[int]]
) -> list[str]:
    """The texts for requests with the same settings."""
    tokenizer = model.tokenizer
    # Padding is masked, so any token can stand for a missing padding token.
    pad = next((t for t in (tokenizer.pad_token_id, tokenizer.eos_token_id) if t is not None), 0)
    width = max(len(prompts[request]) for request in requests)
    tokens = torch.full((len(requests), width), pad)
    mask = torch.zeros_like(tokens)
    for row, request in enumerate(requests):
        start = width - len(prompts[request])
        tokens[row, start:] = torch.tensor(prompts[request])
        mask[row, start:] = 1
    greedy = GenerationConfig(
        do_sample=False,
        max_new_tokens=requests[0].write,
        pad_token_id=pad,
        eos_token_id=_stops(model) or None,
        use_cache=True,
    )
    hf_model = model.original_model
    # `generate` fills gaps of a config from the model's own config, so that one is removed.
    config = hf_model.generation_config
    hf_model.generation_config = greedy
    try:
        with torch.no_grad():
            output = hf_model.generate(
                tokens.to(model.cfg.device),
                attention_mask=mask.to(model.cfg.device),
                logits_processor=_processors(model, requests, prompts, width),
            )
    finally:
        hf_model.generation_config = config
    return tokenizer.batch_decode(output[:, width:], skip_special_tokens=True)


def _processors(
    model: BridgedModel,
    requests: Sequence[Request],
    prompts: Mapping[Request, list[int]],
    width: int,
) -> LogitsProcessorList:
    """The processors of each step's logits: the second pass and the sampling, if any."""
    against = requests[0].against  # the same in a batch
    samplings = [request.sampling for request in requests if request.sampling]  # all or none
    ids = [prompts[request] for request in requests]
    processors = LogitsProcessorList()
    if against is not None:
        others = [other_prompts(model.tokenizer, r, p) for r, p in zip(requests, ids, strict=True)]
        processors.append(SecondPassProcessor(model, others, width, against))
    if samplings:
        processors.extend(sampling_processors(samplings, ids, width))
    return processors


def _stops(model: BridgedModel) -> list[int]:
    """Every token that ends the model's turn, by its tokenizer and its checkpoint.

    Other settings of the checkpoint are not used: a repetition penalty would not be greedy.
    """
    ends = model.original_model.generation_config.eos_token_id
    tokens = {model.tokenizer.eos_token_id, *(ends if isinstance(ends, list) else [ends])}
    return sorted(token for token in tokens if token is not None)
