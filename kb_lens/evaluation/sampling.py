"""Sampling that can be repeated: greedy search over scores to which seeded noise is added.

Of scores with independent standard Gumbel noise, the largest one's token is a draw from the scores'
softmax (Maddison, Tarlow and Minka, A* Sampling, NeurIPS 2014, arXiv 1411.0030, section 2). So a
greedy search samples. What happens to the logits before is transformers' own, in its order: the
repetition penalty, over the tokens of the prompt and of what is written; the temperature; top-k.

Each row has its own generator, seeded by its prompt's tokens and the seed. What is written after a
prompt is therefore the same in every batch, up to rounding of the logits, and interventions are
compared under the same noise.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

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
    """What turns a greedy search into sampling, in the order in which it is applied.

    Args:
        samplings: Row -> how its tokens are drawn; alike but for the seeds.
        prompts: Row -> the tokens of its prompt.
        width: Tokens of a row before what is written, padding on the left included.
    """
    sampling = samplings[0]
    # A row's first tokens are padding, which it has not said: no penalty for it.
    padding = torch.tensor([width - len(prompt) for prompt in prompts])
    return [
        RepetitionPenaltyLogitsProcessor(float(sampling.repetition_penalty), padding),
        TemperatureLogitsWarper(float(sampling.temperature)),
        TopKLogitsWarper(sampling.top_k),
        GumbelNoise([_generator(p, s.seed) for p, s in zip(prompts, samplings, strict=True)]),
    ]


class GumbelNoise(LogitsProcessor):
    """Adds standard Gumbel noise to the scores of each step, each row's from its own generator."""

    def __init__(self, generators: Sequence[torch.Generator]) -> None:
        """Keep the generators.

        Args:
            generators: One a row, on the CPU, so that every device gets the same noise.
        """
        self.generators = generators

    def __call__(
        self, input_ids: Int[Tensor, "row pos"], scores: Float[Tensor, "row d_vocab"]
    ) -> Float[Tensor, "row d_vocab"]:
        """The scores of the next token with noise; what is ruled out (minus infinity) stays so."""
        noise = torch.stack([_gumbel(g, scores.shape[1]) for g in self.generators])
        return scores + noise.to(scores.dtype).to(scores.device)


def _gumbel(generator: torch.Generator, n: int) -> Float[Tensor, " d_vocab"]:
    # In float64: of millions of draws in float32 some are 0, whose noise would be infinite.
    return -torch.empty(n, dtype=torch.float64).exponential_(generator=generator).log()


def _generator(prompt: Sequence[int], seed: int) -> torch.Generator:
    content = repr((int(seed), *prompt)).encode()
    return torch.Generator().manual_seed(int(hashlib.sha256(content).hexdigest()[:16], 16))
