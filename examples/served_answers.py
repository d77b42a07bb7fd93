"""A benchmark on a model that a server runs, with the same prompts, parser and table.

    kb-lens export out/run --out folded
    vllm serve folded
    python examples/served_answers.py folded bbq_religion --protocol generated --out out/served

vLLM writes many long answers faster than transformers does. It cannot scale neurons in a running
model, but it can serve an exported checkpoint. The server needs OpenAI's ``/v1/completions`` with
prompts as tokens; log-probabilities are read from ``echo``. It writes greedily, without penalties,
up to kb_lens's end tokens. vLLM computes in the checkpoint's own type and in another order than
kb_lens, so single answers can differ.
"""

from __future__ import annotations

import argparse
import json
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from tqdm.auto import tqdm
from transformers import AutoConfig, AutoTokenizer, GenerationConfig

import kb_lens as kb
from kb_lens.benchmarks.requests import Request
from kb_lens.evaluation.encoding import encode, prompt_tokens
from kb_lens.evaluation.evaluate import recompute
from kb_lens.evaluation.scoring import different_texts, option_scores


@dataclass(frozen=True)
class Server:
    """An OpenAI-compatible server, and the tokenizer of the model that it runs."""

    url: str
    model: str
    """The model's name on the server."""
    tokenizer: Any
    cfg: Any
    """``n_ctx``: the most tokens that the model takes."""
    ends: tuple[int, ...]
    """Tokens that end an answer."""
    batch: int = 256
    """Prompts per call; the server divides them further."""

    def written(self, requests: Sequence[Request]) -> tuple[str, ...]:
        """The model's text after each prompt."""
        texts: dict[Request, str] = {}
        for n_tokens in sorted({request.write for request in requests}):
            alike = [r for r in dict.fromkeys(requests) if r.write == n_tokens]
            prompts = [prompt_tokens(self.tokenizer, request) for request in alike]
            choices = self._choices(prompts, max_tokens=n_tokens, stop_token_ids=self.ends)
            texts |= zip(alike, (choice["text"] for choice in choices), strict=True)
        return tuple(texts[request] for request in requests)

    def scores(self, requests: Sequence[Request]) -> Any:
        """The log-probabilities of their options."""
        asked = encode(self, requests)
        texts = sorted(different_texts(asked))
        choices = self._choices([text.ids for text in texts], max_tokens=1, echo=True, logprobs=1)
        of_token = [choice["logprobs"]["token_logprobs"] for choice in choices]
        options = [
            each[text.start : len(text.ids)] for text, each in zip(texts, of_token, strict=True)
        ]
        return option_scores(asked, dict(zip(texts, options, strict=True)))

    def _choices(self, prompts: Sequence[Sequence[int]], **options: Any) -> list[Any]:
        """The server's choices, one per prompt, in the prompts' order."""
        fixed = {"model": self.model, "temperature": 0, "repetition_penalty": 1.0, **options}
        choices: list[Any] = []
        for start in tqdm(range(0, len(prompts), self.batch), unit="batch"):
            batch = [list(prompt) for prompt in prompts[start : start + self.batch]]
            answer = _post(f"{self.url}/v1/completions", fixed | {"prompt": batch})["choices"]
            if len(answer) != len(batch):
                raise SystemExit(f"sent {len(batch)} prompts, but got {len(answer)} answers.")
            choices += sorted(answer, key=lambda choice: choice["index"])
        return choices


def _post(url: str, content: dict[str, Any]) -> Any:
    data = json.dumps(content).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request) as answer:
            return json.load(answer)
    except urllib.error.HTTPError as error:
        raise SystemExit(f"{url} refuses: {error.read()[:500].decode(errors='replace')}") from error
    except urllib.error.URLError as error:
        raise SystemExit(f"{url} does not answer: {error.reason}. Is the server up?") from error


def evaluate(server: Server, benchmark: kb.Benchmark) -> kb.EvaluationResult:
    """The same as `kb.evaluate`, by a server."""
    requests = benchmark.requests
    if any(request.first or request.against or request.sampling for request in requests):
        raise SystemExit(
            f"{benchmark.key} holds a conversation, reads a text twice or samples: here a server "
            "can only give one greedy answer or log-probabilities."
        )
    start = time.perf_counter()
    scores = server.scores(requests)
    if any(request.write for request in requests):
        scores = replace(scores, texts=server.written(requests))
    result = kb.EvaluationResult(
        benchmark=benchmark.name,
        protocol=benchmark.protocol,
        source=benchmark.source,
        model=server.model,
        metrics={},
        items=benchmark.tabulate(benchmark.items, scores),
        n_bootstrap=1000,
        seed=0,
        seconds=time.perf_counter() - start,
        digest=benchmark.digest,
        chat_format=benchmark.chat_format and benchmark.chat_format.to_json(),
    )
    return replace(result, metrics=recompute(result))


def connect(folder: str, url: str, name: str | None) -> Server:
    """The server that runs a checkpoint; the checkpoint's tokenizer and settings are read here."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    config = AutoConfig.from_pretrained(folder).get_text_config()
    try:
        ends = GenerationConfig.from_pretrained(folder).eos_token_id
    except OSError:  # the checkpoint has none
        ends = None
    several = ends if isinstance(ends, list) else [ends]
    ids = {end for end in (tokenizer.eos_token_id, *several) if isinstance(end, int)}
    cfg = SimpleNamespace(n_ctx=getattr(config, "max_position_embeddings", None))
    return Server(url.rstrip("/"), name or folder, tokenizer, cfg, tuple(sorted(ids)))


def main(arguments: Sequence[str] | None = None) -> None:
    """Evaluate, save and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("checkpoint", help="the folder that the server runs")
    parser.add_argument("benchmark", help="bbq_religion, over_correction, stereoset, ...")
    parser.add_argument("--protocol")
    parser.add_argument("--limit", type=int)
    parser.add_argument("--server", default="http://localhost:8000")
    parser.add_argument("--name", help="the model's name on the server; default the folder")
    parser.add_argument("--out", type=Path, default=Path("out/served"))
    given = parser.parse_args(arguments)
    options = {"protocol": given.protocol, "limit": given.limit}
    chosen = {name: value for name, value in options.items() if value is not None}
    benchmark = kb.load_benchmark(given.benchmark, **chosen)
    result = evaluate(connect(given.checkpoint, given.server, given.name), benchmark)
    result.save(given.out)
    for name, metric in result.metrics.items():
        tqdm.write(f"{name}: {metric.value:.3g} (n {metric.n})")


if __name__ == "__main__":
    main()
