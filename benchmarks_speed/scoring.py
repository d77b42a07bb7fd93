"""Items per second on StereoSet: kb_lens, lm-evaluation-harness and the release's way.

    python benchmarks_speed/scoring.py            # both protocols, about 10 minutes on 2 cores
    python benchmarks_speed/scoring.py --items 60

All ways score the same texts in one process; compare the ratios, not the seconds. An item of the
instructed protocol has three chats (one per order of the list) with three options each; an item of
the original protocol has three sentences or three continuations. lm-evaluation-harness's HFLM and
the release's way run on transformers' model, without a bridge.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from lm_eval.api.instance import Instance
from lm_eval.models import huggingface
from transformers import AutoModelForCausalLM

import kb_lens as kb
from kb_lens.benchmarks.benchmark import Benchmark
from kb_lens.benchmarks.requests import Request
from kb_lens.evaluation.scoring import option_logprobs
from kb_lens.models.loading import EMBEDDED_MODEL, checkpoint_source
from kb_lens.models.prompts import chat_text

HFLM: Any = huggingface.HFLM
BATCH_SIZES = (1, 4, 8, 16, 32)
Pair = tuple[str, str]
"""The text before an option, and the option."""


def say(text: str) -> None:
    """A line of the report."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def pairs(tokenizer: Any, requests: Sequence[Request]) -> list[Pair]:
    """Every option with the text before it; chats are rendered."""
    before = [chat_text(tokenizer, r.system, r.prompt) if r.chat else r.prompt for r in requests]
    return [(text, o) for text, r in zip(before, requests, strict=True) for o in r.options]


def ours(model: Any, requests: Sequence[Request]) -> np.ndarray:
    """kb_lens: one shared instruction, trees of options."""
    return option_logprobs(model, requests, progress=False).logprob.ravel()


def harness(lm: Any, asked: Sequence[Pair]) -> np.ndarray:
    """lm-evaluation-harness: padded batches of whole texts."""
    instances = [
        Instance(request_type="loglikelihood", doc={}, arguments=pair, idx=0) for pair in asked
    ]
    return np.array([found[0] for found in lm.loglikelihood(instances, disable_tqdm=True)])


def token_by_token(model: Any, tokenizer: Any, asked: Sequence[Pair]) -> np.ndarray:
    """The release's way: a whole forward pass for every token of an option, no cache."""
    found = []
    for before, option in asked:
        ids = tokenizer(before or tokenizer.bos_token, add_special_tokens=False)["input_ids"]
        total = 0.0
        for token in tokenizer(option, add_special_tokens=False)["input_ids"]:
            with torch.no_grad():
                logits = model(torch.tensor([ids])).logits[0, -1]
            total += float(logits.float().log_softmax(-1)[token])
            ids = [*ids, token]
        found.append(total)
    return np.array(found)


def timed(work: Callable[[], np.ndarray]) -> tuple[float, np.ndarray]:
    """Seconds and scores."""
    start = time.perf_counter()
    found = work()
    return time.perf_counter() - start, found


def part(benchmark: Benchmark, n_items: int) -> Sequence[Request]:
    """The requests of the first items."""
    an_item = len(benchmark.requests) // len(benchmark.items)
    return benchmark.requests[: n_items * an_item]


def compare(protocol: str, n_items: int, model: Any, plain: Any) -> None:
    """Print the table of one protocol."""
    benchmark = kb.load_benchmark("stereoset", limit=n_items, protocol=protocol)
    n_items = len(benchmark.items)
    requests, tokenizer = benchmark.requests, model.tokenizer
    ours(model, part(benchmark, 2))  # warm up
    seconds, reference = timed(lambda: ours(model, requests))
    rate = n_items / seconds
    say(f"\nStereoSet, {protocol} protocol, {n_items} items, {reference.size} texts\n")
    say("| way | items | items/s | kb_lens is faster by | largest difference, nats |")
    say("| --- | --- | --- | --- | --- |")
    say(f"| kb_lens | {n_items} | {rate:.2f} | 1 | 0 |")

    def row(name: str, n: int, work: Callable[[Sequence[Pair]], np.ndarray]) -> None:
        asked = pairs(tokenizer, part(benchmark, n))
        taken, found = timed(lambda: work(asked))
        off = np.abs(found - reference[: len(found)]).max()
        say(f"| {name} | {n} | {n / taken:.2f} | {rate * taken / n:.1f} | {off:.1e} |")

    few = max(4, n_items // 4)
    for size in BATCH_SIZES:
        lm = HFLM(pretrained=plain, tokenizer=tokenizer, batch_size=size)
        row(f"HFLM, batch {size}", few, lambda asked, lm=lm: harness(lm, asked))
    row("a pass for each token", 2, lambda asked: token_by_token(plain, tokenizer, asked))
    again, _ = timed(lambda: ours(model, requests))
    say(f"| kb_lens, again | {n_items} | {n_items / again:.2f} | {again / seconds:.2f} | 0 |")


def main() -> None:
    """Print a table for each protocol."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--items", type=int, default=48, help="items for kb_lens")
    parser.add_argument("--model", default=EMBEDDED_MODEL)
    parser.add_argument("--protocols", nargs="+", default=["instructed", "original"])
    options = parser.parse_args()
    model = kb.load_model(options.model, device="cpu")
    plain = AutoModelForCausalLM.from_pretrained(
        checkpoint_source(options.model), dtype=torch.float32
    )
    say(f"{options.model}, float32, {torch.get_num_threads()} threads")
    for protocol in options.protocols:
        compare(protocol, options.items, model, plain.eval())


if __name__ == "__main__":
    main()
