"""Neuron sets: which neurons are salient and consistent, and the algebra of such sets.

Third step of the method (paper, sections 3.3 and 3.4): per dimension keep the neurons whose score
passes tau in more than a share beta of the questions, then join the dimensions.
"""

from __future__ import annotations

import operator
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from fractions import Fraction
from functools import reduce
from itertools import chain, combinations
from operator import or_
from typing import Any, NamedTuple

import pandas as pd
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from kb_lens.arguments import check_count, check_number
from kb_lens.attribution.attributions import Attributions
from kb_lens.models.digests import same_weights
from kb_lens.models.hooked import HookedModel, Site, check_weights, mlp_width, model_name
from kb_lens.records.objects import read_json, write_json

_FORMAT = "kb_lens neurons 1"
"""Stands in every file; the number rises when an older file would be read wrong."""


class Neuron(NamedTuple):
    """One MLP neuron."""

    layer: int
    """The block, from 0."""
    # A tuple's method of this name is not needed: each neuron stands in a set once.
    index: int  # pyright: ignore[reportIncompatibleMethodOverride]
    """The index in the layer's d_mlp activations, from 0."""


@dataclass(frozen=True)
class NeuronSet:
    """A sorted set of neurons of one model at one site. Combine with ``|``, ``&`` and ``-``."""

    neurons: tuple[Neuron, ...]
    """The members, sorted by layer and index."""
    model: str = field(compare=False)
    """The name of the model that they belong to."""
    fingerprint: str
    """That model's weights (`kb_lens.models.hooked.fingerprint`)."""
    site: Site
    """``post`` or ``pre``: the activations that they index."""
    n_layers: int
    """The model's number of layers."""
    d_mlp: int
    """Neurons a layer."""
    tau: float | None = field(default=None, compare=False)
    """The saliency threshold that they passed."""
    beta: float | None = field(default=None, compare=False)
    """The consistency threshold that they passed."""
    origin: str = field(default="", compare=False)
    """How the set came about, in words."""
    form: str = field(default="", compare=False)
    """In which form the model had its weights (`kb_lens.models.hooked.form`)."""

    def __post_init__(self) -> None:
        for name in ("n_layers", "d_mlp"):
            if (size := getattr(self, name)) < 1:
                raise ValueError(f"{name} is {size}: a model has at least 1.")
        check_thresholds(self.tau or 0.0, self.beta or 0.0)
        members = tuple(sorted(set(map(_neuron, self.neurons))))
        object.__setattr__(self, "neurons", members)  # the way to set a field of a frozen class
        for neuron in members:
            if not (0 <= neuron.layer < self.n_layers and 0 <= neuron.index < self.d_mlp):
                raise ValueError(
                    f"{neuron} is out of range: {self.model} has layers 0 to {self.n_layers - 1} "
                    f"and neurons 0 to {self.d_mlp - 1}."
                )

    def __len__(self) -> int:
        return len(self.neurons)

    def __iter__(self) -> Iterator[Neuron]:
        return iter(self.neurons)

    def __contains__(self, neuron: object) -> bool:
        return neuron in self.neurons

    def __or__(self, other: NeuronSet) -> NeuronSet:
        return self._joined(other, set(self) | set(other), "|")

    def __and__(self, other: NeuronSet) -> NeuronSet:
        return self._joined(other, set(self) & set(other), "&")

    def __sub__(self, other: NeuronSet) -> NeuronSet:
        return self._joined(other, set(self) - set(other), "-")

    def _joined(self, other: NeuronSet, members: Iterable[Neuron], sign: str) -> NeuronSet:
        if not isinstance(other, NeuronSet):
            return NotImplemented
        if self._space() != other._space() or not same_weights(self.fingerprint, other.fingerprint):
            raise ValueError(
                f"cannot combine neurons of {self.model} ({self.site}) with neurons of "
                f"{other.model} ({other.site}): another model or site."
            )
        return replace(
            self,
            neurons=tuple(members),
            tau=self.tau if self.tau == other.tau else None,
            beta=self.beta if self.beta == other.beta else None,
            form=self.form if self.form == other.form else "",
            origin=f"({self.origin}) {sign} ({other.origin})",
        )

    def _space(self) -> tuple[str, int, int]:
        """What the neurons' numbers refer to."""
        return self.site, self.n_layers, self.d_mlp

    @staticmethod
    def union(sets: Iterable[NeuronSet]) -> NeuronSet:
        """The neurons of any set: the paper's aggregation over dimensions."""
        return NeuronSet.at_least(sets, 1)

    @staticmethod
    def intersection(sets: Iterable[NeuronSet]) -> NeuronSet:
        """The neurons that all sets share."""
        sets = list(sets)
        return NeuronSet.at_least(sets, len(sets))

    @staticmethod
    def at_least(sets: Iterable[NeuronSet], k: int) -> NeuronSet:
        """The neurons that are in at least `k` of the sets.

        Raises:
            ValueError: For no sets, sets of different models or sites, or a `k` out of range.
        """
        sets = list(sets)
        check_count("k", k)
        if not sets or k > len(sets):
            raise ValueError(f"cannot take neurons of at least {k} of {len(sets)} sets.")
        counts = Counter(chain.from_iterable(sets))
        joined = reduce(or_, sets)  # which checks that they belong together
        name = {len(sets): "intersection", 1: "union"}.get(k, f"at least {k}")
        return replace(
            joined,
            neurons=tuple(neuron for neuron, count in counts.items() if count >= k),
            origin=f"{name} of [{'; '.join(members.origin for members in sets)}]",
        )

    def jaccard(self, other: NeuronSet) -> float:
        """Size of the intersection over size of the union; NaN for two empty sets."""
        return _share(len(self & other), len(self | other))

    def by_layer(self) -> dict[int, list[int]]:
        """The neuron indices in each layer that has any."""
        layers: dict[int, list[int]] = {}
        for layer, index in self.neurons:
            layers.setdefault(layer, []).append(index)
        return layers

    def mask(self) -> Bool[Tensor, "layer d_mlp"]:
        """True at the members."""
        mask = torch.zeros(self.n_layers, self.d_mlp, dtype=torch.bool)
        for layer, indices in self.by_layer().items():
            mask[layer, indices] = True
        return mask

    def check_model(self, model: HookedModel) -> None:
        """Raise `ValueError` unless the set was found on these weights, in whichever form."""
        check_weights(
            model,
            self.fingerprint,
            self.form,
            what="these neurons belong",
            source=self.model,
            remedy="Find the neurons of this model first.",
        )
        sizes = int(model.cfg.n_layers), mlp_width(model)
        if sizes != (self.n_layers, self.d_mlp):
            raise ValueError(
                f"the set is of {self.n_layers} layers of {self.d_mlp} neurons, "
                f"{model_name(model)} has {sizes[0]} of {sizes[1]}. Find the neurons of this model."
            )

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the set as JSON."""
        fields = {name: getattr(self, name) for name in self.__dataclass_fields__}
        write_json(path, {"format": _FORMAT, **fields})

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> NeuronSet:
        """Read a set that `save` wrote.

        Raises:
            ValueError: If the file is missing, damaged or something else.
        """
        return read_json(path, cls, file_format=_FORMAT)


def _neuron(pair: Iterable[Any]) -> Neuron:
    """A layer and an index as a neuron; 1.7 or True is neither."""
    layer, index = pair
    if isinstance(layer, bool) or isinstance(index, bool):
        raise ValueError(f"{(layer, index)} is no neuron: give two whole numbers, layer and index.")
    try:
        return Neuron(operator.index(layer), operator.index(index))
    except TypeError as error:
        raise ValueError(f"{(layer, index)} is no neuron: {error}.") from error


def select_neurons(
    attributions: Attributions,
    tau: float = 0.10,
    beta: float = 0.10,
    *,
    minus: Attributions | None = None,
) -> NeuronSet:
    """The neurons that are salient in enough of the questions.

    A neuron is salient for a question when its score is above tau times the largest score over all
    layers and neurons for that question, and selected when it is salient in more than beta times
    the number of questions; both strictly (paper, equations 4 and 5). A question whose largest
    score is not positive has no salient neurons.

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


def check_thresholds(tau: float, beta: float) -> None:
    """Raise `ValueError` unless both are shares, 0 <= threshold < 1."""
    for name, value in (("tau", tau), ("beta", beta)):
        if not 0 <= check_number(name, value, f"0 <= {name} < 1") < 1:
            raise ValueError(f"{name} is {value}: allowed is 0 <= {name} < 1 (0.10 is 10 %).")


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
        One row a pair: a, b, size_a, size_b, shared, jaccard, share_of_a and share_of_b (the part
        of each set that lies in the other).
    """
    columns = ["a", "b", "size_a", "size_b", "shared", "jaccard", "share_of_a", "share_of_b"]
    rows: list[tuple[str | float, ...]] = []
    for (name_a, a), (name_b, b) in combinations(sets.items(), 2):
        shared = len(a & b)
        sizes = (len(a), len(b))
        shares = (_share(shared, size) for size in sizes)
        rows.append((name_a, name_b, *sizes, shared, a.jaccard(b), *shares))
    return pd.DataFrame(rows, columns=columns)


def _share(count: int, total: int) -> float:
    """A part of a total; NaN of nothing."""
    return count / total if total else float("nan")
