"""INLP, a baseline: repeatedly remove the direction by which a linear classifier separates groups.

Ravfogel et al., "Null It Out: Guarding Protected Attributes by Iterative Nullspace Projection",
arXiv 2004.07667:

1. Train a linear classifier that predicts from a representation which group it is about.
2. Project the representations onto its nullspace, where it is at chance.
3. Repeat n times on the projected representations; apply the product of the projections.

Each classifier is trained after the earlier projections, so its weight is orthogonal to the earlier
ones. The product is therefore the projection that removes all weights, as is done here.
Representations are the residual stream at the output of one block, at a text's last token. At
inference the projection is applied there at every position, as Meade et al. (arXiv 2110.08527) did
for language models (after the final norm, with 80 iterations on about ten thousand sentences of
Wikipedia).

The bank has few texts, about 70 on a dimension: fewer than d_model, so many directions separate
them. A probe is at chance on them only after about as many iterations as there are texts. Therefore
the default is 8 iterations. All classifiers have two classes, the sides of the pairs of words, also
for race and religion, where the source has a class for each group.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from kb_lens.arguments import check_count
from kb_lens.interventions.group_texts import TextPair
from kb_lens.interventions.linear_probe import fit_probe
from kb_lens.interventions.positions import Positions, check_positions
from kb_lens.interventions.projection import Projection, orthonormal
from kb_lens.interventions.residual import block_output, last_residuals
from kb_lens.models.bridge_check import as_the_checkpoint
from kb_lens.models.hooked import HookedModel, fingerprint, model_name
from kb_lens.progress import progress_bar


@dataclass(frozen=True)
class INLPSettings:
    """What INLP depends on apart from the texts."""

    n_iterations: int = 8
    """Most classifiers for each dimension; fewer if one is at chance."""
    penalty: float = 1.0
    """L2 penalty of the classifiers, see `fit_probe`."""
    layer: int | None = None
    """The block whose output is read and changed; None for the last one."""
    positions: Positions = "all"
    """The positions at which the directions are removed."""

    def __post_init__(self) -> None:
        check_count("n_iterations", self.n_iterations)
        check_positions(self.positions)


@as_the_checkpoint
def inlp(
    model: HookedModel,
    pairs: Sequence[TextPair],
    *,
    settings: INLPSettings | None = None,
    progress: bool = True,
) -> Projection:
    """The projection onto the nullspace of all classifiers of all dimensions.

    Nothing is random: the classifiers have a unique solution.

    Args:
        model: A `TransformerBridge` or `HookedTransformer`.
        pairs: The same text about two groups, see `load_group_texts`. Mixed pairs are left out,
            since their texts name both groups. The directions of several dimensions are joined
            (`orthonormal`).
        settings: How many iterations, and where.
        progress: Whether to show a progress bar, in pairs.

    Raises:
        ValueError: If no pair names one group, no classifier beats chance, the model has no such
            layer, or activations are not finite.
    """
    settings = INLPSettings() if settings is None else settings
    pairs = [pair for pair in pairs if not pair.mixed]
    if not pairs:
        raise ValueError("there is nothing to classify: no pair of texts names one group.")
    layer = int(model.cfg.n_layers) - 1 if settings.layer is None else settings.layer
    block_output(model, layer)  # refuses a wrong layer before work
    rows: dict[str, list[Tensor]] = {}
    for pair in progress_bar(pairs, desc="INLP", unit="pair", shown=progress):
        texts = (pair.first, pair.second)
        rows.setdefault(pair.dimension, []).extend(
            last_residuals(model, [layer], text)[0] for text in texts
        )
    found = {
        name: classifier_directions(
            torch.stack(of_dimension),
            torch.tensor([True, False]).repeat(len(of_dimension) // 2),
            settings.n_iterations,
            settings.penalty,
        )
        for name, of_dimension in rows.items()
    }
    counts = ", ".join(f"{len(directions)} on {name}" for name, directions in found.items())
    return Projection(
        directions=orthonormal(found.values()),
        layer=layer,
        model=model_name(model),
        fingerprint=fingerprint(model),
        positions=settings.positions,
        origin=f"INLP, {len(pairs)} pairs, directions {counts}, {asdict(settings)}",
    )


def classifier_directions(
    activations: Float[Tensor, "row d_model"],
    labels: Bool[Tensor, " row"],
    n_iterations: int,
    penalty: float = 1.0,
) -> Float[Tensor, "component d_model"]:
    """The orthonormal weights of classifiers, each trained after the earlier projections.

    There are fewer than `n_iterations` if a classifier is no better on its own rows than the share
    of the larger class: then there is nothing left to remove.
    """
    share = float(labels.float().mean())
    directions = torch.zeros(0, activations.shape[1], dtype=torch.float64)
    left = activations.double()
    for _ in range(n_iterations):
        probe = fit_probe(left, labels, penalty)
        if probe.accuracy(left.float(), labels) <= max(share, 1 - share):
            break
        directions = torch.cat([directions, probe.weight.double()[None]])
        basis = orthonormal([directions]).double()
        left = activations - (activations.double() @ basis.T) @ basis
    return orthonormal([directions]) if len(directions) else directions.float()
