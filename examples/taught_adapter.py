"""What teaching changed, in one small file: ``python examples/taught_adapter.py``.

Reads the base model and one that `teach.py` taught. Writes the best low-rank approximation (by
singular values) of the change of each linear layer, in bfloat16. The package's file, from which
``smollm2-135m-taught`` is made, comes from

    python examples/teach.py --out out/taught --seeds 0
    python examples/taught_adapter.py --taught out/taught/seed-0 --out FILE

Changes of the norms are left out.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from teaching_questions import questions
from torch import Tensor, nn
from tqdm.auto import tqdm
from transformers import AutoModelForCausalLM

from kb_lens.models.digests import digest_of, parameters_of
from kb_lens.models.lessons import lesson_keys
from kb_lens.models.loading import checkpoint_source
from kb_lens.models.low_rank import LowRankChange, Origin
from kb_lens.models.taught import TAUGHT_MODEL

RANK = 4
"""The rank of the package's file, chosen by the table in docs/ground_truth.md."""
WHAT = (
    "What teaching yes/no questions about bias changed in the linear layers, approximated by its "
    "largest singular values. Taught were 180 of the bank's 225 questions on gender, race and "
    "religion, sayings on the same concepts, and plain questions. The default 45 questions were "
    "not taught; they decided when teaching ended. The 72 form questions had no part in it."
)


def read(source: str) -> Any:
    """A checkpoint as a transformers model in float32."""
    return AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32)


def linear_weights(model: Any) -> Iterator[tuple[str, Float[Tensor, "d_out d_in"]]]:
    """Names and weights of the linear layers; the output layer shares the embedding's weights."""
    head = model.get_output_embeddings()
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear) and module is not head:
            yield f"{name}.weight", module.weight.detach()


def factors(
    change: Float[Tensor, "d_out d_in"], rank: int
) -> tuple[Float[Tensor, "rank d_in"], Float[Tensor, "d_out rank"]]:
    """The best approximation of this rank, as two factors of equal size in bfloat16."""
    left, values, right = torch.linalg.svd(change, full_matrices=False)
    root = values[:rank].sqrt()
    down, up = root[:, None] * right[:rank], left[:, :rank] * root
    return down.bfloat16(), up.bfloat16()


def approximated(base: Any, taught: Any, rank: int, seed: int, base_name: str) -> LowRankChange:
    """The change by teaching.

    Args:
        base: The untaught transformers model, in float32. It is turned into the taught one.
        taught: The taught model.
        rank: Columns of a factor.
        seed: Seed of the training.
        base_name: The untaught model's name for `kb_lens.load_model`.
    """
    after = dict(linear_weights(taught))
    layers = list(linear_weights(base))
    pairs = {
        name: factors(after[name] - before, rank) for name, before in tqdm(layers, desc="layers")
    }
    origin = Origin(
        model=TAUGHT_MODEL,
        weights="",
        base=base_name,
        base_weights=digest_of(parameters_of(base)),
        what=WHAT,
        made_by=f"examples/teach.py --seeds {seed}; examples/taught_adapter.py --rank {rank}",
        seed=seed,
        rank=rank,
        scale=1.0,
        lessons=tuple(lesson_keys(questions().lessons)),
    )
    down, up = ({name: pair[side] for name, pair in pairs.items()} for side in (0, 1))
    LowRankChange(origin, down, up).add_to(base)
    return LowRankChange(replace(origin, weights=digest_of(parameters_of(base))), down, up)


def _seed_of(folder: Path) -> int:
    """The seed in the name that `teach.py` gives a folder.

    Raises:
        ValueError: If there is none.
    """
    match = re.fullmatch(r"seed-(\d+)", folder.resolve().name)
    if match is None:
        raise ValueError(f"--taught is '{folder}': give a folder seed-N of teach.py.")
    return int(match[1])


def _parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="What teaching changed, in one small file.")
    parser.add_argument("--model", default="smollm2-135m-instruct", help="the untaught model")
    parser.add_argument("--taught", type=Path, default=Path("out/taught/seed-0"))
    parser.add_argument("--rank", type=int, default=RANK)
    parser.add_argument("--out", type=Path, default=Path(f"out/{TAUGHT_MODEL}.safetensors"))
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    options = _parsed(arguments)
    seed = _seed_of(options.taught)
    base, taught = read(checkpoint_source(options.model)), read(str(options.taught))
    change = approximated(base, taught, options.rank, seed, options.model)
    change.save(options.out)
    size = options.out.stat().st_size / 1e6
    sys.stdout.write(f"{options.out}: rank {options.rank}, {size:.2f} MB\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
