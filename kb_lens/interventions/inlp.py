"""INLP, a baseline: what a linear classifier tells groups by is removed, again and again.

Ravfogel et al., "Null It Out: Guarding Protected Attributes by Iterative Nullspace Projection",
arXiv 2004.07667:

1. Train a linear classifier that tells from a representation which group it is about.
2. Project the representations onto its nullspace, where it knows nothing.
3. Again, on what is left, n times; the product of the projections is applied.

Each classifier is trained on what the earlier ones left, so its weight is orthogonal to theirs: the
product is the projection that removes all weights, which is what is done here. Representations are
the residual stream at the output of one block, at a text's last token; at inference the projection
is applied there at every position, as Meade et al. (arXiv 2110.08527) did for language models (they
behind the final norm, with 80 iterations on some ten thousand sentences of Wikipedia).

The bank's texts are few: about 70 on a dimension, which more numbers than texts separate in many
ways. Iterations therefore stop at 8 by default; on the texts themselves a probe is at chance only
after about as many iterations as there are texts. All classifiers have two classes, the sides of
the pairs of words, for race and religion too, where the source has one for each group.
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
    """What INLP depends on beside the texts."""

    n_iterations: int = 8
    """Classifiers that are trained for each dimension at most; fewer if one is at chance."""
    penalty: float = 1.0
    """L2 penalty of the classifiers, see `fit_probe`."""
    layer: int | None = None
    """The block whose output is read and changed; None for the last one."""
    positions: Positions = "all"
    """Where the directions are removed."""

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

    Nothing is drawn at random: the classifiers have one solution.

    Args:
        model: A `TransformerBridge` or `HookedTransformer`.
        pairs: The same text about two groups, see `load_group_texts`. Mixed pairs are left out,
            since their texts name no one group. The directions of several dimensions are joined
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
        raise ValueError("there is nothing to classify: got no pairs of texts about one group.")
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
    """The weights of classifiers, each trained on what the earlier ones left; orthonormal.

    There are fewer than `n_iterations` where one does no better on its own rows than the larger
    class would: it has found nothing that could be removed.
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
