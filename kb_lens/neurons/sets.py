"""Sets of neurons of one model: set operations (paper, section 3.4) and files."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import reduce
from itertools import chain
from operator import or_
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from jaxtyping import Bool
from torch import Tensor

from kb_lens.arguments import check_count, check_number
from kb_lens.files import write_text
from kb_lens.models.digests import same_weights
from kb_lens.models.hooked import (
    HookedModel,
    Site,
    check_weights,
    fingerprint,
    form,
    mlp_width,
    model_name,
    site_hooks,
)
from kb_lens.models.hub import HUB, check_push, from_hub, push_folder
from kb_lens.neurons.card import card
from kb_lens.neurons.names import Neuron, NeuronName, named_neurons, neuron_of
from kb_lens.records.objects import read_json, write_json

_FILE = "neurons.json"
"""Its name on the hub."""
_FORMAT = "kb_lens neurons 1"
"""The format in every file; the number rises when older files would be read wrong."""


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
    """How the set was made, in words."""
    form: str = field(default="", compare=False)
    """In which form the model had its weights (`kb_lens.models.hooked.form`)."""

    def __post_init__(self) -> None:
        for name in ("n_layers", "d_mlp"):
            if (size := getattr(self, name)) < 1:
                raise ValueError(f"{name} is {size}: a model has at least 1.")
        check_thresholds(self.tau or 0.0, self.beta or 0.0)
        members = tuple(sorted(set(map(neuron_of, self.neurons))))
        object.__setattr__(self, "neurons", members)  # the way to set a field of a frozen class
        for neuron in members:
            if not (0 <= neuron.layer < self.n_layers and 0 <= neuron.index < self.d_mlp):
                raise ValueError(
                    f"{neuron} is out of range: {self.model} has layers 0 to {self.n_layers - 1} "
                    f"and neurons 0 to {self.d_mlp - 1}."
                )

    @classmethod
    def of(
        cls, model: HookedModel, neurons: str | Iterable[NeuronName], site: Site = "post"
    ) -> NeuronSet:
        """Neurons that are named by hand.

        Args:
            model: The model that they belong to.
            neurons: ``["L26.N1371", (28, 1095)]``, or one text, ``"L26.N1371,L28.N1095"``.
            site: ``post`` or ``pre``.

        Raises:
            ValueError: If a name is not a neuron of this model, or a neuron is named twice.
        """
        return cls(
            neurons=named_neurons(neurons),
            model=model_name(model),
            fingerprint=fingerprint(model),
            form=form(model),
            site=site,
            n_layers=len(site_hooks(model, site)),
            d_mlp=mlp_width(model),
            origin="named by hand",
        )

    def __len__(self) -> int:
        return len(self.neurons)

    def __repr__(self) -> str:
        layers = len({neuron.layer for neuron in self.neurons})
        origin = f", {self.origin}" if self.origin else ""
        return f"NeuronSet({len(self)} neurons in {layers} layers of {self.model}{origin})"

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
        joined = reduce(or_, sets)  # it checks that they belong together
        name = {len(sets): "intersection", 1: "union"}.get(k, f"at least {k}")
        return replace(
            joined,
            neurons=tuple(neuron for neuron, count in counts.items() if count >= k),
            origin=f"{name} of [{'; '.join(members.origin for members in sets)}]",
        )

    def jaccard(self, other: NeuronSet) -> float:
        """Size of the intersection over size of the union; NaN for two empty sets."""
        return share(len(self & other), len(self | other))

    def by_layer(self) -> dict[int, list[int]]:
        """The neuron indices in each layer that has any."""
        layers: dict[int, list[int]] = {}
        for layer, index in self.neurons:
            layers.setdefault(layer, []).append(index)
        return layers

    def mask(self) -> Bool[Tensor, "layer d_mlp"]:
        """A mask that is True at the members."""
        mask = torch.zeros(self.n_layers, self.d_mlp, dtype=torch.bool)
        for layer, indices in self.by_layer().items():
            mask[layer, indices] = True
        return mask

    def check_model(self, model: HookedModel) -> None:
        """Raise `ValueError` unless the set was found on these weights, in any form."""
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
                f"but {model_name(model)} has {sizes[0]} of {sizes[1]}. Find the neurons of this "
                "model."
            )

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the set as JSON."""
        fields = {name: getattr(self, name) for name in self.__dataclass_fields__}
        write_json(path, {"format": _FORMAT, **fields})

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> NeuronSet:
        """Read a set that `save` wrote, or `push_to_hub`: ``hf://USER/NAME[@REVISION]``.

        Raises:
            ValueError: If the file is missing, damaged or of another kind.
        """
        if isinstance(path, str) and path.startswith(HUB):
            path = from_hub(path, _FILE)
        return read_json(path, cls, file_format=_FORMAT)

    def push_to_hub(self, repository: str) -> str:
        """Upload the set to the Hugging Face hub, with a card; a new repository is private.

        Args:
            repository: ``USER/NAME``; ``NeuronSet.load("hf://USER/NAME")`` reads it back.

        Returns:
            Its address.

        Raises:
            ValueError: If the hub cannot be reached or refuses.
        """
        check_push(repository)
        with TemporaryDirectory() as folder:
            self.save(Path(folder) / _FILE)
            write_text(Path(folder) / "README.md", card(self, repository))
            return push_folder(folder, repository)


Neurons = NeuronSet | str | Sequence[NeuronName]
"""A set, or neurons named by hand."""


def neurons_of(model: HookedModel, neurons: Neurons) -> NeuronSet:
    """The set, or `NeuronSet.of` of the names; checked to be of this model.

    Raises:
        ValueError: If there is none, or it belongs to another model.
    """
    check_neurons(neurons)
    if not isinstance(neurons, NeuronSet):
        return NeuronSet.of(model, neurons)
    neurons.check_model(model)
    return neurons


def check_neurons(neurons: Neurons) -> None:
    """Raise `ValueError` for an empty set or a bad name, before a model is loaded."""
    if not isinstance(neurons, NeuronSet):
        named_neurons(neurons)
    elif not len(neurons):
        raise ValueError(
            "the neuron set is empty, so there is nothing to measure or change. Lower tau or beta, "
            "or join sets."
        )


def share(count: int, total: int) -> float:
    """A share of a total; NaN if the total is 0."""
    return count / total if total else float("nan")


def check_thresholds(tau: float, beta: float) -> None:
    """Raise `ValueError` unless both are shares, 0 <= threshold < 1."""
    for name, value in (("tau", tau), ("beta", beta)):
        if not 0 <= check_number(name, value, f"0 <= {name} < 1") < 1:
            raise ValueError(f"{name} is {value}: allowed is 0 <= {name} < 1 (0.10 is 10 %).")
