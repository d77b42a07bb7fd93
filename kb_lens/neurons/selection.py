"""Select the neurons that are salient and consistent, and measure the overlap of sets.

Third step of the method (paper, sections 3.3 and 3.4): for each dimension keep the neurons whose
score passes tau in more than a share beta of the questions, then join the dimensions.
"""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from itertools import combinations

import pandas as pd
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from kb_lens.attribution.attributions import Attributions
from kb_lens.neurons.names import Neuron
from kb_lens.neurons.sets import NeuronSet, check_thresholds, share


def select_neurons(
    attributions: Attributions,
    tau: float = 0.10,
    beta: float = 0.10,
    *,
    minus: Attributions | None = None,
) -> NeuronSet:
    """The neurons that are salient in enough of the questions.

    A neuron is salient for a question if its score is above tau times the question's largest score
    over all layers and neurons. It is selected if it is salient in more than beta times the number
    of questions. Both are strict (paper, equations 4 and 5). A question whose largest score is not
    positive has no salient neurons.

    Args:
        attributions: The scores of one dimension's questions, or of all (pooled).
        tau: Saliency threshold, 0 <= tau < 1.
        beta: Consistency threshold, 0 <= beta < 1.
        minus: Scores of other questions (plain factual ones, say) on the same model; the neurons
            that they select at the same thresholds are left out (contrastive selection).

    Raises:
        ValueError: For a threshold out of range or scores that are not finite.
    """
    if minus is not None:
        return select_neurons(attributions, tau, beta) - select_neurons(minus, tau, beta)
    check_thresholds(tau, beta)
    counts = saliency_counts(attributions, tau)
    needed = Fraction(str(beta)) * len(attributions)  # exact, so that "more than" is strict
    chosen = (counts > float(needed)).nonzero().tolist()
    return NeuronSet(
        neurons=tuple(Neuron(*pair) for pair in chosen),
        model=attributions.settings.model,
        fingerprint=attributions.settings.fingerprint,
        form=attributions.settings.form,
        site=attributions.settings.site,
        n_layers=attributions.scores.shape[1],
        d_mlp=attributions.scores.shape[2],
        tau=tau,
        beta=beta,
        origin=attributions.origin,
    )


def saliency_counts(attributions: Attributions, tau: float) -> Float[Tensor, "layer d_mlp"]:
    """In how many questions each neuron's score is above tau times the question's largest."""
    return salient(attributions, tau).sum(0).to(torch.float32)


def salient(attributions: Attributions, tau: float) -> Bool[Tensor, "question layer d_mlp"]:
    """Whether a neuron's score is above tau times the question's largest, which is positive."""
    scores = attributions.scores
    if not bool(scores.isfinite().all()):
        raise ValueError("the scores are not finite: the model overflowed. Load it in float32.")
    largest = scores.amax(dim=(1, 2), keepdim=True)
    return (scores > tau * largest) & (largest > 0)


def overlap(sets: Mapping[str, NeuronSet]) -> pd.DataFrame:
    """How much each pair of named sets shares.

    Returns:
        One row a pair: a, b, size_a, size_b, shared, jaccard, share_of_a and share_of_b (the share
        of each set that is in the other).
    """
    columns = ["a", "b", "size_a", "size_b", "shared", "jaccard", "share_of_a", "share_of_b"]
    rows: list[tuple[str | float, ...]] = []
    for (name_a, a), (name_b, b) in combinations(sets.items(), 2):
        shared = len(a & b)
        sizes = (len(a), len(b))
        shares = (share(shared, size) for size in sizes)
        rows.append((name_a, name_b, *sizes, shared, a.jaccard(b), *shares))
    return pd.DataFrame(rows, columns=columns)
