"""FairSteer, a baseline: steer towards fairness, but only where a probe detects bias.

Li et al., "FairSteer: Inference Time Debiasing for LLMs with Dynamic Activation Steering", arXiv
2504.14492:

1. Biased activation detection: for each layer, train a linear classifier on the activations of the
   last token of biased and of unbiased texts. The layer is chosen by accuracy on held-out texts.
2. Debiasing steering vector: at that layer, the mean of the activations of fair texts minus that
   of biased ones, over contrastive pairs.
3. Dynamic activation steering: in each forward pass the classifier reads the last position. If it
   detects bias the vector is added, otherwise nothing is changed.

Differences. The paper trains its classifiers on the model's answers to items in the style of BBQ.
BBQ is measured here, so classifier and vector use the bank's statements, stereotypes and their
denials. Accuracy is cross-validated over pairs: no statement is judged by a classifier that was
trained on it or its counterpart. The classifier is logistic regression.
"""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from kb_lens.arguments import check_count, check_number, check_seed
from kb_lens.benchmarks.benchmark import Benchmark
from kb_lens.interventions.linear_probe import LinearProbe, fit_probe
from kb_lens.interventions.positions import Positions, changing_activations, check_positions
from kb_lens.interventions.residual import block_output, last_residuals, shift_for, shifted
from kb_lens.interventions.steering import StatementPair
from kb_lens.models.bridge_check import as_the_checkpoint
from kb_lens.models.hooked import HookedModel, check_weights, fingerprint, model_name
from kb_lens.progress import progress_bar
from kb_lens.records.tensors import build_from, write_tensors

_FORMAT = "kb_lens fairsteer 1"


@dataclass(frozen=True)
class FairSteerSettings:
    """What FairSteer depends on apart from the statements."""

    layer: int | None = None
    """The block whose output is read and changed; None for the block with the best probe."""
    strength: float = 1.0
    """The factor of the vector."""
    penalty: float = 1.0
    """L2 penalty of the probes, see `fit_probe`."""
    n_folds: int = 5
    """Folds for the cross-validated accuracy of a probe."""
    positions: Positions = "last"
    """The positions that the probe reads and the vector is added to: the ``last`` of each pass, as
    in the paper, or ``all``."""

    def __post_init__(self) -> None:
        if not math.isfinite(check_number("strength", self.strength)):
            raise ValueError(f"strength is {self.strength}: allowed is any finite number.")
        check_count("n_folds", self.n_folds, 2)
        check_positions(self.positions)


@dataclass(frozen=True, eq=False)
class FairSteer:
    """A direction that is added to the residual stream where a probe detects bias.

    It is a `kb_lens.interventions.conditions.Change`.
    """

    vector: Float[Tensor, " d_model"]
    """The vector at strength 1, fair minus biased, float32 on the CPU."""
    weight: Float[Tensor, " d_model"]
    """The probe's weight: its product with an activation plus the bias is above 0 for bias."""
    bias: float
    """The probe's bias."""
    layer: int
    """The block whose output is read and changed, from 0."""
    model: str
    """The name of the model that it belongs to."""
    fingerprint: str
    """That model's weights (`kb_lens.models.hooked.fingerprint`)."""
    accuracies: tuple[float, ...] = ()
    """The probe's accuracy on held-out statements in each layer; 0.5 is chance."""
    strength: float = 1.0
    """The factor of the vector."""
    positions: Positions = "last"
    """The positions that the probe reads: the ``last`` of each pass, or ``all``."""
    origin: str = ""
    """How it was made, in words."""

    def __post_init__(self) -> None:
        for name in ("vector", "weight"):
            # a copy: the caller's tensor may change later
            row = getattr(self, name).detach().to("cpu", torch.float32, copy=True)
            object.__setattr__(self, name, row)
            if row.shape != self.vector.shape or row.ndim != 1 or not bool(row.isfinite().all()):
                raise ValueError(
                    f"{name} (shape {tuple(row.shape)}) must be one row of finite numbers, with "
                    "vector and weight equally long."
                )
        for name in ("bias", "strength"):
            if not math.isfinite(check_number(name, getattr(self, name))):
                raise ValueError(f"{name} is {getattr(self, name)}: allowed is any finite number.")
        object.__setattr__(self, "accuracies", tuple(self.accuracies))  # JSON has lists
        check_positions(self.positions)

    @contextmanager
    def applied(self, model: HookedModel) -> Iterator[HookedModel]:
        """Steer where the probe detects bias, inside a ``with`` block.

        Yields:
            The model.

        Raises:
            ValueError: If vector and probe belong to another model, the vector is too large for
                its type, or as in `scale_neurons`.
        """
        check_weights(
            model,
            self.fingerprint,
            "",  # a vector of another type is rounded to the model's
            what="this FairSteer belongs",
            source=self.model,
            remedy="Find that of this model first.",
        )
        name = block_output(model, self.layer)
        shift = shift_for(model, self.vector, self.strength)
        wide = torch.promote_types(model.cfg.dtype, torch.float32)
        probe = LinearProbe(self.weight.to(model.cfg.device, wide), self.bias)
        steered = partial(_steered, shift, probe)
        with changing_activations(model, {name: steered}, self.positions):
            yield model

    def asked(self, benchmark: Benchmark) -> Benchmark:
        """The benchmark itself."""
        return benchmark

    def describe(self) -> dict[str, Any]:
        """Everything but the numbers of probe and vector, which are given by their SHA-256."""
        numbers = torch.cat([self.vector, self.weight, torch.tensor([self.bias])])
        return {
            "layer": self.layer,
            "strength": float(self.strength),
            "positions": self.positions,
            "accuracies": list(self.accuracies),
            "numbers_sha256": hashlib.sha256(numbers.numpy().tobytes()).hexdigest(),
            "origin": self.origin,
        }

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a safetensors file with everything but the tensors as JSON in its header."""
        settings = {name: getattr(self, name) for name in _Settings.__dataclass_fields__}
        tensors = {"vector": self.vector, "weight": self.weight}
        write_tensors(path, tensors, _FORMAT, {"settings": settings})

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> FairSteer:
        """Read a file that `save` wrote.

        Raises:
            ValueError: If the file is missing, damaged or of another kind.
        """
        return build_from(
            lambda tensors, header: cls(**tensors, **vars(header.settings)),
            path,
            ("vector", "weight"),
            _FORMAT,
            _Header,
        )


@dataclass(frozen=True)
class _Settings:
    """The fields of `FairSteer` that are not tensors."""

    bias: float
    layer: int
    model: str
    fingerprint: str
    accuracies: tuple[float, ...]
    strength: float
    positions: Positions
    origin: str


@dataclass(frozen=True)
class _Header:
    """Everything in a file but the tensors."""

    settings: _Settings


def _steered(
    shift: Float[Tensor, " d_model"],
    probe: LinearProbe,
    activation: Float[Tensor, "*pos d_model"],
) -> Float[Tensor, "*pos d_model"]:
    """The activation, shifted where the probe detects bias and bit-identical elsewhere."""
    biased = probe.detects(activation.to(probe.weight.dtype))[..., None]
    return torch.where(biased, shifted(shift, activation), activation)


@as_the_checkpoint
def fair_steer(
    model: HookedModel,
    pairs: Sequence[StatementPair],
    *,
    settings: FairSteerSettings | None = None,
    seed: int = 0,
    progress: bool = True,
) -> FairSteer:
    """Train the probes, choose the layer, and take the mean difference there.

    Args:
        model: A `TransformerBridge` or `HookedTransformer`.
        pairs: Biased and fair statements, see `load_statements`.
        settings: Layer, strength, probes, positions.
        seed: Of the folds.
        progress: Whether to show a progress bar, in pairs.

    Returns:
        The change; its probe is trained on all pairs. Of layers with equal accuracy the first is
        used. `FairSteer.accuracies` shows whether any probe detects bias.

    Raises:
        ValueError: For fewer pairs than folds, a layer that the model does not have, or activations
            that are not finite.
    """
    settings = FairSteerSettings() if settings is None else settings
    check_seed(seed)
    if len(pairs) < settings.n_folds:
        raise ValueError(
            f"n_folds is {settings.n_folds}, but there are {len(pairs)} pairs of statements: give "
            "at least as many pairs, or use fewer folds."
        )
    if settings.layer is not None:
        block_output(model, settings.layer)  # refuses a wrong layer before work
    layers = range(int(model.cfg.n_layers))
    residuals = torch.stack(
        [
            torch.stack([last_residuals(model, layers, text) for text in (pair.biased, pair.fair)])
            for pair in progress_bar(pairs, desc="FairSteer", unit="pair", shown=progress)
        ]
    )
    accuracies = tuple(
        held_out_accuracy(residuals[:, :, layer], settings.n_folds, settings.penalty, seed)
        for layer in layers
    )
    layer = max(layers, key=accuracies.__getitem__) if settings.layer is None else settings.layer
    chosen = residuals[:, :, layer]
    probe = fit_probe(*_rows(chosen), settings.penalty)
    dimensions = ", ".join(dict.fromkeys(pair.dimension for pair in pairs))
    return FairSteer(
        vector=(chosen[:, 1] - chosen[:, 0]).mean(0),  # fair minus biased
        weight=probe.weight,
        bias=probe.bias,
        layer=layer,
        model=model_name(model),
        fingerprint=fingerprint(model),
        accuracies=accuracies,
        strength=settings.strength,
        positions=settings.positions,
        origin=f"FairSteer, {len(pairs)} pairs on {dimensions}, seed {seed}, {asdict(settings)}",
    )


def held_out_accuracy(
    residuals: Float[Tensor, "item 2 d_model"], n_folds: int, penalty: float, seed: int
) -> float:
    """The share of statements that a probe trained on the other folds gets right.

    Args:
        residuals: For each pair the activations of the biased and the fair statement.
        n_folds: Number of random folds of pairs.
        penalty: L2 penalty of the probes.
        seed: Seed of the split.
    """
    order = torch.randperm(len(residuals), generator=torch.Generator().manual_seed(seed))
    n_right = 0.0
    for fold in order.tensor_split(n_folds):
        held_out = torch.zeros(len(residuals), dtype=torch.bool)
        held_out[fold] = True
        probe = fit_probe(*_rows(residuals[~held_out]), penalty)
        n_right += probe.accuracy(*_rows(residuals[held_out])) * len(fold)
    return n_right / len(residuals)


def _rows(
    residuals: Float[Tensor, "item 2 d_model"],
) -> tuple[Float[Tensor, "row d_model"], Bool[Tensor, " row"]]:
    """Every statement's activation, and whether it is biased."""
    return residuals.flatten(0, 1), torch.tensor([True, False]).repeat(len(residuals))
