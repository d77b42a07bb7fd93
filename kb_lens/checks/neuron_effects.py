"""What one neuron does: the answer when that neuron alone is scaled.

`scale_neurons` scales a set as a whole; here every neuron of it is scaled by itself, by each of
some factors, and P(right answer) and the logit difference are read again. Factor 0 is the neuron's
ablation, the effect that its attribution score estimates; several factors make a dose-response
curve.

One forward pass tries many neurons: each row of the batch has its own neuron and factor. Where the
last position alone is scaled, a row is one token that reads the prompt's keys and values, which are
computed once, and it joins the batch at its own neuron's block.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from tqdm.auto import tqdm

from kb_lens.attribution.attributions import Attributions
from kb_lens.checks.scaled_rows import ScaledRows
from kb_lens.files import moved_whole
from kb_lens.interventions.scaling import Positions, check_factor
from kb_lens.knowledge import AnswerStyle, Knowledge, Spelling, check_knowledge
from kb_lens.models.hooked import Site, fingerprint, model_name
from kb_lens.models.prompts import PromptTemplate
from kb_lens.neurons import Neuron, NeuronSet
from kb_lens.passes.matrix_products import fast_products
from kb_lens.questions import Question
from kb_lens.statistics import Measure, Statistics, Sums, bootstrap

_FORMAT = "kb_lens neuron effects 1"
_TENSORS = ("prob", "logit_diff", "base_prob", "base_logit_diff")
_COLUMNS = 128
"""Means that are resampled at once, which bounds the memory."""


@dataclass(frozen=True)
class EffectSettings:
    """What the effects depend on, beside neurons, factors and questions."""

    model: str
    """The model's name."""
    fingerprint: str
    """The model's weights (`kb_lens.models.hooked.fingerprint`)."""
    dtype: str
    """The type that the model ran in."""
    site: Site
    """Where the neurons are scaled: ``post`` or ``pre``."""
    positions: Positions
    """Where in the prompt: its ``last`` position, or ``all``."""
    spelling: Spelling
    """How yes and no are spelled."""
    template: PromptTemplate
    """The words around each question."""


@dataclass(frozen=True, eq=False)
class NeuronEffects:
    """What the answers become when one neuron is scaled by one factor."""

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
            if (found := tuple(getattr(self, name).shape)) != expected:
                raise ValueError(f"{name} has shape {found}: expected {expected}.")

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
            One row a neuron and factor: layer, index, lam, prob_change, low, high (of P(right), in
            probability), logit_change, logit_low, logit_high, n (questions) and helps (share of
            the questions in which P(right) rises).
        """
        trials = [(*neuron, lam) for neuron in self.neurons for lam in self.lams]
        found = pd.DataFrame(trials, columns=["layer", "index", "lam"])
        found[["prob_change", "low", "high"]] = _means(self.prob_change)
        found[["logit_change", "logit_low", "logit_high"]] = _means(self.logit_change)
        found["n"] = len(self.questions)
        found["helps"] = (self.prob_change > 0).double().mean(0).flatten().numpy()
        return found

    def dose_response(self) -> pd.DataFrame:
        """The mean change of P(right) by factor; 1, which changes nothing, is always there.

        Returns:
            One row a neuron and factor, both ascending: layer, index, lam, prob_change, low, high.
        """
        keys = ["layer", "index", "lam"]
        found = self.table().loc[:, [*keys, "prob_change", "low", "high"]]
        if 1 not in self.lams:
            still = pd.DataFrame(self.neurons, columns=keys[:2])
            found = pd.concat([found, still.assign(lam=1.0, prob_change=0.0, low=0.0, high=0.0)])
        return found.sort_values(keys).reset_index(drop=True)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a safetensors file with everything else as JSON in its header."""
        others = {
            "settings": asdict(self.settings),
            "questions": [asdict(question) for question in self.questions],
            "neurons": self.neurons,
            "lams": self.lams,
        }
        header = {"format": _FORMAT} | {name: json.dumps(one) for name, one in others.items()}
        with moved_whole(path) as part:
            save_file({name: getattr(self, name).contiguous() for name in _TENSORS}, part, header)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> NeuronEffects:
        """Read a file that `save` wrote.

        Raises:
            ValueError: If the file is missing, damaged or something else.
        """
        if not Path(path).is_file():
            raise ValueError(f"no such file of neuron effects: '{path}'.")
        try:
            with safe_open(path, "pt") as file:
                header = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (SafetensorError, json.JSONDecodeError) as error:
            raise ValueError(f"'{path}' is no readable safetensors file: {error}") from error
        if (found := header.pop("format", None)) != _FORMAT:
            raise ValueError(f"'{path}' holds no neuron effects: its format is {found!r}.")
        try:
            parts = {name: json.loads(one) for name, one in header.items()}
            settings = parts["settings"]
            settings["spelling"] = Spelling(**settings["spelling"])
            settings["template"] = PromptTemplate(**settings["template"])
            return cls(
                **tensors,
                neurons=tuple(Neuron(*neuron) for neuron in parts["neurons"]),
                lams=tuple(parts["lams"]),
                questions=tuple(Question(**question) for question in parts["questions"]),
                settings=EffectSettings(**settings),
            )
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            raise ValueError(f"'{path}' is damaged: {error!r}.") from error


def neuron_effects(
    model: Any,
    neurons: NeuronSet,
    questions: Sequence[Question],
    *,
    lams: Sequence[float] = (0.0, 2.0),
    positions: Positions = "last",
    knowledge: Knowledge | None = None,
    template: PromptTemplate | None = None,
    answer_style: AnswerStyle = "model",
    batch_size: int | None = None,
    progress: bool = True,
) -> NeuronEffects:
    """Scale each neuron alone, by each factor, and read off the answer to every question.

    Args:
        model: A `TransformerBridge` or `HookedTransformer`.
        neurons: The neurons, at the site of the set.
        questions: What is asked.
        lams: The factors: 0 ablates, 1 changes nothing.
        positions: ``last``: the last position of the prompt alone, where attributions are taken;
            one-token rows over a shared prefix where the model allows it. ``all``: every position
            of the prompt; whole prompts as rows, slower by about the prompt's length.
        knowledge: What `check_knowledge` found for these questions with this template and style;
            asked here if not given.
        template: The words around each question; default the paper's.
        answer_style: As in `attribute`.
        batch_size: Most neurons x factors in one forward pass; default 256 one-token rows or 32
            whole prompts.
        progress: Whether to show progress bars.

    Raises:
        ValueError: If the set is empty or belongs to another model, a factor is not finite or
            comes twice, or `positions` or `batch_size` is not allowed.
    """
    _check(neurons, questions, lams, positions, batch_size)
    neurons.check_model(model)
    template = template or PromptTemplate()
    asked = knowledge or check_knowledge(
        model, questions, template=template, answer_style=answer_style, progress=progress
    )
    spelling = asked.spelling
    trials = [(layer, index, float(lam)) for layer, index in neurons for lam in lams]
    found = []
    with torch.no_grad(), fast_products(model):
        for question in tqdm(questions, "scaling neurons", unit="question", disable=not progress):
            rows = ScaledRows(model, neurons.site, template.tokens(model, question.text), positions)
            answers = spelling.tokens(question.answer)
            found.append(rows.values(trials, *answers, batch_size or rows.most))
    prob, logit_diff = torch.stack(found, 1)  # [question, 1 + trial] each
    if not bool(logit_diff.isfinite().all()):
        raise ValueError(f"the model overflows at a factor of {lams}: load it in float32.")
    shape = (len(questions), len(neurons), len(lams))
    return NeuronEffects(
        prob=prob[:, 1:].reshape(shape),
        logit_diff=logit_diff[:, 1:].reshape(shape),
        base_prob=prob[:, 0],
        base_logit_diff=logit_diff[:, 0],
        neurons=neurons.neurons,
        lams=tuple(map(float, lams)),
        questions=tuple(questions),
        settings=EffectSettings(
            model=model_name(model),
            fingerprint=fingerprint(model),
            dtype=str(model.cfg.dtype).removeprefix("torch."),
            site=neurons.site,
            positions=positions,
            spelling=spelling,
            template=template,
        ),
    )


def effect_against_score(effects: NeuronEffects, attributions: Attributions) -> pd.DataFrame:
    """Each neuron's ablation beside its attribution score, means over the same questions.

    Returns:
        One row a neuron: layer, index, score, loss (P(right) of the unchanged model minus P(right)
        with the neuron ablated), low, high (of the loss) and n (questions).

    Raises:
        ValueError: If factor 0 was not measured, or the scores are of another model, site,
            spelling, template or objective, or lack a question.
    """
    if 0 not in effects.lams:
        raise ValueError(f"the factors are {effects.lams}: measure the ablation too (factor 0).")
    mine, theirs = effects.settings, attributions.settings
    for name in ("fingerprint", "site", "spelling", "template"):
        if (wanted := getattr(mine, name)) != (found := getattr(theirs, name)):
            raise ValueError(
                f"the attributions' {name} is {found}, the effects' {wanted}: compare like with "
                "like."
            )
    if theirs.objective != "probability":
        raise ValueError(f"the scores are of the {theirs.objective}: give those of probability.")
    places = {question: row for row, question in enumerate(attributions.questions)}
    if missing := [question for question in effects.questions if question not in places]:
        raise ValueError(f"there are no scores of the question {missing[0].text!r}.")
    scores = attributions.scores[[places[question] for question in effects.questions]].mean(0)
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


def rank_correlation(table: pd.DataFrame) -> float:
    """Spearman's rho of `score` and `loss`; NaN where one of them is the same for all neurons."""
    score, loss = (table[name].rank().to_numpy() for name in ("score", "loss"))
    constant = np.ptp(score) == 0 or np.ptp(loss) == 0
    return float("nan") if constant else float(np.corrcoef(score, loss)[0, 1])


def check_effects(lams: Sequence[float], batch_size: int | None) -> None:
    """Raise `ValueError` for factors or a batch size that `neuron_effects` does not take."""
    if not lams or len(set(lams)) < len(lams):
        raise ValueError(f"lams is {lams}: allowed are one or more different factors.")
    for lam in lams:
        check_factor(lam)
    if batch_size is not None and batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}: allowed are integers from 1.")


def _check(
    neurons: NeuronSet,
    questions: Sequence[Question],
    lams: Sequence[float],
    positions: str,
    batch_size: int | None,
) -> None:
    if positions not in get_args(Positions):
        raise ValueError(f"positions is {positions!r}: allowed are 'all' and 'last'.")
    check_effects(lams, batch_size)
    if not len(neurons) or not questions:
        what = "the neuron set is empty" if questions else "there are no questions"
        raise ValueError(f"{what}: there is nothing to measure.")


def _means(change: Float[Tensor, "question neuron lam"]) -> Float[np.ndarray, "trial 3"]:
    """The mean over the questions and its interval, neurons outermost."""
    values = pd.DataFrame(change.double().flatten(1).numpy()).rename(columns=str)
    every = pd.DataFrame({"all": np.ones(len(values), dtype=bool)})
    rows = []
    for start in range(0, values.shape[1], _COLUMNS):
        part = Statistics(values.iloc[:, start : start + _COLUMNS].assign(n=1.0), every)
        found = bootstrap(part, _mean)
        rows += [(metric.value, metric.low, metric.high) for metric in found.values()]
    return np.array(rows)


def _mean(sums: Sums) -> dict[str, Measure]:
    s = sums["all"]
    return {name: Measure(s[name] / s["n"], s["n"]) for name in s if name != "n"}
