"""Reproducible sampling: greedy search over scores with seeded noise.

If independent standard Gumbel noise is added to scores, the token with the largest score is a draw
from their softmax (Maddison, Tarlow and Minka, A* Sampling, NeurIPS 2014, arXiv 1411.0030, section
2). So a greedy search samples. Before that the logits pass transformers' own processors in its
order: the repetition penalty, over the tokens of the prompt and of the text so far; the
temperature; top-k.

Each row has its own generator, seeded by its prompt's tokens and the seed. So the text after a
prompt is the same in every batch, up to rounding of the logits, and interventions are compared
under the same noise.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import (
    LogitsProcessor,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
)

from kb_lens.benchmarks.requests import Sampling


def sampling_processors(
    samplings: Sequence[Sampling], prompts: Sequence[Sequence[int]], width: int
) -> list[LogitsProcessor]:
    """The processors that turn a greedy search into sampling, in order.

    Args:
        samplings: Row -> how its tokens are drawn; only the seeds may differ.
        prompts: Row -> the tokens of its prompt.
        width: Tokens of a row before the generated text, with padding on the left.
    """
    sampling = samplings[0]
    padding = [width - len(prompt) for prompt in prompts]
    return [
        RepetitionPenalty(float(sampling.repetition_penalty), padding),
        TemperatureLogitsWarper(float(sampling.temperature)),
        TopKLogitsWarper(sampling.top_k),
        GumbelNoise([_generator(p, s.seed) for p, s in zip(prompts, samplings, strict=True)]),
    ]


class RepetitionPenalty(LogitsProcessor):
    """transformers' penalty, which does not count a row's first tokens: they are padding."""

    def __init__(self, penalty: float, padding: Sequence[int]) -> None:
        """Make a processor for each row, since transformers before 5.21 ignores alike in all rows.

        Args:
            penalty: At least 1; 1 changes nothing.
            padding: Row -> its number of padding tokens.
        """
        self.rows: list[Any] = [RepetitionPenaltyLogitsProcessor(penalty, n) for n in padding]

    def __call__(
        self, input_ids: Int[Tensor, "row pos"], scores: Float[Tensor, "row d_vocab"]
    ) -> Float[Tensor, "row d_vocab"]:
        """The scores of the next token, lower for tokens that a row has already."""
        rows = zip(self.rows, input_ids.split(1), scores.split(1), strict=True)
        return torch.cat([penalty(ids, row) for penalty, ids, row in rows])


class GumbelNoise(LogitsProcessor):
    """Adds standard Gumbel noise to the scores of each step, each row's from its own generator."""

    def __init__(self, generators: Sequence[torch.Generator]) -> None:
        """Keep the generators.

        Args:
            generators: One for each row, on the CPU, so that every device gets the same noise.
        """
        self.generators = generators

    def __call__(
        self, input_ids: Int[Tensor, "row pos"], scores: Float[Tensor, "row d_vocab"]
    ) -> Float[Tensor, "row d_vocab"]:
        """The scores of the next token with noise; excluded tokens stay at minus infinity."""
        noise = torch.stack([_gumbel(g, scores.shape[1]) for g in self.generators])
        return scores + noise.to(scores.dtype).to(scores.device)


def _gumbel(generator: torch.Generator, n: int) -> Float[Tensor, " d_vocab"]:
    # In float64: among millions of float32 draws some are 0, whose noise would be infinite.
    return -torch.empty(n, dtype=torch.float64).exponential_(generator=generator).log()


def _generator(prompt: Sequence[int], seed: int) -> torch.Generator:
    content = repr((int(seed), *prompt)).encode()
    return torch.Generator().manual_seed(int(hashlib.sha256(content).hexdigest()[:16], 16))
