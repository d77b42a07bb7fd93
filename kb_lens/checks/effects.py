"""The effects of scaling single neurons: tables, a file, a comparison with attribution scores."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass

import numpy as np
import pandas as pd
from jaxtyping import Float
from torch import Tensor

from kb_lens.attribution.attributions import Attributions
from kb_lens.interventions.positions import Positions
from kb_lens.models.answers import Spelling
from kb_lens.models.digests import same_weights
from kb_lens.models.hooked import Site
from kb_lens.models.prompts import PromptTemplate
from kb_lens.neurons.names import Neuron
from kb_lens.questions import Question
from kb_lens.records.tensors import build_from, write_tensors
from kb_lens.resampling import means
from kb_lens.statistics import Statistics, bootstrap

_FORMAT = "kb_lens neuron effects 1"
_TENSORS = ("prob", "logit_diff", "base_prob", "base_logit_diff")
# 10,000 resamples of so many means are 10 MB
_COLUMNS = 128
"""Means that are resampled at once, to limit the memory."""


@dataclass(frozen=True)
class EffectSettings:
    """What the effects depend on besides neurons, factors and questions."""

    model: str
    """The model's name."""
    fingerprint: str
    """The model's weights (`kb_lens.models.hooked.fingerprint`)."""
    dtype: str
    """The data type of the model."""
    site: Site
    """Where the neurons are scaled: ``post`` or ``pre``."""
    positions: Positions
    """The scaled positions of the prompt: ``last`` or ``all``."""
    spelling: Spelling
    """How yes and no are spelled."""
    template: PromptTemplate
    """The words around each question."""


@dataclass(frozen=True, eq=False)
class NeuronEffects:
    """The answers when one neuron is scaled by one factor."""

    prob: Float[Tensor, "question neuron lam"]
    """P(right answer) with the neuron scaled."""
    logit_diff: Float[Tensor, "question neuron lam"]
    """Logit of the right answer minus the wrong one's, with the neuron scaled."""
    base_prob: Float[Tensor, " question"]
    """P(right answer) of the unchanged model."""
    base_logit_diff: Float[Tensor, " question"]
    """The unchanged model's logit difference."""
    neurons: tuple[Neuron, ...]
    """The neurons, in order."""
    lams: tuple[float, ...]
    """The factors, in order."""
    questions: tuple[Question, ...]
    """The questions, in order."""
    settings: EffectSettings
    """How the effects were measured."""

    def __post_init__(self) -> None:
        shape = (len(self.questions), len(self.neurons), len(self.lams))
        for name in _TENSORS:
            expected = shape[:1] if name.startswith("base") else shape
            if (actual := tuple(getattr(self, name).shape)) != expected:
                raise ValueError(f"{name} has shape {actual}: expected {expected}.")

    @property
    def prob_change(self) -> Float[Tensor, "question neuron lam"]:
        """`prob` minus the unchanged model's."""
        return self.prob - self.base_prob[:, None, None]

    @property
    def logit_change(self) -> Float[Tensor, "question neuron lam"]:
        """`logit_diff` minus the unchanged model's."""
        return self.logit_diff - self.base_logit_diff[:, None, None]

    def table(self) -> pd.DataFrame:
        """The mean effects over the questions, with their 95 % bootstrap intervals.

        Returns:
            One row per neuron and factor: layer, index, lam, prob_change, low, high (of P(right),
            in probability), logit_change, logit_low, logit_high, n (questions) and helps (share
            of the questions in which P(right) rises).
        """
        # in the order of the flattened tensors: factors innermost
        trials = [(*neuron, lam) for neuron in self.neurons for lam in self.lams]
        table = pd.DataFrame(trials, columns=["layer", "index", "lam"])
        table[["prob_change", "low", "high"]] = _means(self.prob_change)
        table[["logit_change", "logit_low", "logit_high"]] = _means(self.logit_change)
        table["n"] = len(self.questions)
        table["helps"] = (self.prob_change > 0).double().mean(0).flatten().numpy()
        return table

    def dose_response(self) -> pd.DataFrame:
        """The mean change of P(right) by factor; factor 1, which changes nothing, is included.

        Returns:
            One row per neuron and factor, ascending: layer, index, lam, prob_change, low, high.
        """
        keys = ["layer", "index", "lam"]
        curves = self.table().loc[:, [*keys, "prob_change", "low", "high"]]
        if 1 not in self.lams:  # known without a measurement
            unchanged = pd.DataFrame(self.neurons, columns=keys[:2])
            unchanged = unchanged.assign(lam=1.0, prob_change=0.0, low=0.0, high=0.0)
            curves = pd.concat([curves, unchanged])
        return curves.sort_values(keys).reset_index(drop=True)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a safetensors file; everything but the tensors is JSON in its header."""
        header = {
            "settings": asdict(self.settings),
            "questions": [asdict(question) for question in self.questions],
            "neurons": self.neurons,
            "lams": self.lams,
        }
        write_tensors(path, {name: getattr(self, name) for name in _TENSORS}, _FORMAT, header)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> NeuronEffects:
        """Read a file that `save` wrote.

        Raises:
            ValueError: If the file is missing, damaged or of another kind.
        """
        return build_from(
            lambda tensors, header: cls(**tensors, **vars(header)),
            path,
            _TENSORS,
            _FORMAT,
            _Header,
        )


@dataclass(frozen=True)
class _Header:
    """The part of a file that is not tensors."""

    settings: EffectSettings
    questions: tuple[Question, ...]
    neurons: tuple[Neuron, ...]
    lams: tuple[float, ...]


def effect_against_score(effects: NeuronEffects, attributions: Attributions) -> pd.DataFrame:
    """Each neuron's ablation effect and attribution score, as means over the same questions.

    Returns:
        One row per neuron: layer, index, score, loss (P(right) of the unchanged model minus
        P(right) with the neuron ablated), low, high (of the loss) and n (questions).

    Raises:
        ValueError: If factor 0 was not measured, or the scores are of another model, site,
            spelling, template or objective, or lack a question.
    """
    _check_comparable(effects, attributions)
    rows = {question: row for row, question in enumerate(attributions.questions)}
    if missing := [question for question in effects.questions if question not in rows]:
        raise ValueError(f"there are no scores of the question {missing[0].text!r}.")
    scores = attributions.scores[[rows[question] for question in effects.questions]].mean(0)
    ablated = effects.table().query("lam == 0").reset_index(drop=True)
    return pd.DataFrame(
        {
            **ablated[["layer", "index"]],
            "score": [float(scores[neuron]) for neuron in effects.neurons],
            "loss": -ablated["prob_change"],
            "low": -ablated["high"],
            "high": -ablated["low"],
            "n": ablated["n"],
        }
    )


def _check_comparable(effects: NeuronEffects, attributions: Attributions) -> None:
    if 0 not in effects.lams:
        raise ValueError(f"the factors are {effects.lams}: measure the ablation too (factor 0).")
    # the data type may differ: it changes scores only by rounding
    for name in ("fingerprint", "site", "spelling", "template"):
        expected = getattr(effects.settings, name)
        actual = getattr(attributions.settings, name)
        # a fingerprint has a digest for each type
        if actual != expected and not (name == "fingerprint" and same_weights(actual, expected)):
            raise ValueError(
                f"the attributions' {name} is {actual}, the effects' {expected}: both must be the "
                "same."
            )
    if (objective := attributions.settings.objective) != "probability":
        raise ValueError(f"the scores are of the {objective}: give those of probability.")


def rank_correlation(table: pd.DataFrame) -> float:
    """Spearman's rho of `score` and `loss`; NaN if one of them is equal for all neurons."""
    columns: pd.DataFrame = table.loc[:, ["score", "loss"]]
    return float(columns.corr(method="spearman").to_numpy()[0, 1])


def _means(change: Float[Tensor, "question neuron lam"]) -> Float[np.ndarray, "trial 3"]:
    """The mean over the questions and its interval, neuron by neuron."""
    values = pd.DataFrame(change.double().flatten(1).numpy()).rename(columns=str)
    groups = pd.DataFrame({"all": np.ones(len(values), dtype=bool)})
    rows: list[tuple[float, float, float]] = []
    for start in range(0, values.shape[1], _COLUMNS):
        columns = values.iloc[:, start : start + _COLUMNS]
        measured = bootstrap(Statistics(columns.assign(n=1.0), groups), means)
        rows += [(mean.value, mean.low, mean.high) for mean in measured.values()]
    return np.array(rows)
