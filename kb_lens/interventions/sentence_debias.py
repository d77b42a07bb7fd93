"""SentenceDebias, a baseline: remove the directions in which groups differ.

Liang et al., "Towards Debiasing Sentence Representations", arXiv 2007.08100:

1. Take sentences with words that name groups, each with the sentence in which these words are
   replaced by their counterparts.
2. Subtract from the representations of each such set the set's mean.
3. The first k principal components of the result span the bias subspace.
4. Subtract a representation's projection onto that subspace.

Here the representation is the residual stream at the output of one block, at the sentence's last
token. Step 4 is done there at every position while the model runs, as Meade et al. (arXiv
2110.08527) did for language models, though after the final norm. The paper takes thousands of
sentences from five corpora; here they are the bank's, and sets are pairs for race and religion too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from kb_lens.arguments import check_count
from kb_lens.interventions.group_texts import TextPair
from kb_lens.interventions.positions import Positions, check_positions
from kb_lens.interventions.projection import Projection, orthonormal
from kb_lens.interventions.residual import block_output, last_residuals
from kb_lens.models.bridge_check import as_the_checkpoint
from kb_lens.models.hooked import HookedModel, fingerprint, model_name
from kb_lens.progress import progress_bar


@dataclass(frozen=True)
class SentenceDebiasSettings:
    """What SentenceDebias depends on apart from the texts."""

    n_components: int = 1
    """Number of removed principal components for each dimension."""
    layer: int | None = None
    """The block whose output is read and changed; None for the last one."""
    positions: Positions = "all"
    """The positions at which they are removed."""

    def __post_init__(self) -> None:
        check_count("n_components", self.n_components)
        check_positions(self.positions)


@as_the_checkpoint
def sentence_debias(
    model: HookedModel,
    pairs: Sequence[TextPair],
    *,
    settings: SentenceDebiasSettings | None = None,
    progress: bool = True,
) -> Projection:
    """The projection that removes each dimension's bias subspace.

    Args:
        model: A `TransformerBridge` or `HookedTransformer`.
        pairs: The same text about two groups, see `load_group_texts`; the subspaces of several
            dimensions are joined (`orthonormal`).
        settings: How many components, and where.
        progress: Whether to show a progress bar, in pairs.

    Raises:
        ValueError: For no pairs, fewer pairs of a dimension than components, a layer that the model
            does not have, or activations that are not finite.
    """
    settings = SentenceDebiasSettings() if settings is None else settings
    if not pairs:
        raise ValueError("there is nothing to contrast: got no pairs of texts.")
    layer = int(model.cfg.n_layers) - 1 if settings.layer is None else settings.layer
    block_output(model, layer)  # refuses a wrong layer before work
    differences: dict[str, list[Tensor]] = {}
    for pair in progress_bar(pairs, desc="SentenceDebias", unit="pair", shown=progress):
        first, second = (last_residuals(model, [layer], t)[0] for t in (pair.first, pair.second))
        # both texts minus their mean: half the difference, and its negative
        differences.setdefault(pair.dimension, []).append((first - second) / 2)
    subspaces = [
        _components(name, torch.stack(rows), settings.n_components)
        for name, rows in differences.items()
    ]
    return Projection(
        directions=orthonormal(subspaces),
        layer=layer,
        model=model_name(model),
        fingerprint=fingerprint(model),
        positions=settings.positions,
        origin=f"SentenceDebias, {len(pairs)} pairs on {', '.join(differences)}, "
        f"{asdict(settings)}",
    )


def _components(
    dimension: str, halves: Float[Tensor, "row d_model"], n_components: int
) -> Float[Tensor, "component d_model"]:
    """The first principal components of the rows and their negatives, whose mean is 0."""
    _, sizes, components = torch.linalg.svd(halves.double(), full_matrices=False)
    rank = int((sizes > 1e-6 * sizes[0]).sum())
    if rank < n_components:
        raise ValueError(
            f"n_components is {n_components}, but the texts on {dimension} differ in {rank} "
            "directions: use fewer components, or more texts."
        )
    return components[:n_components].float()
