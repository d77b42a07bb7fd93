"""All figures of a folder of results, whichever command wrote it."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from kb_lens.attribution.attributions import Attributions
from kb_lens.checks.control_tests import saved_tests
from kb_lens.checks.effects import NeuronEffects
from kb_lens.checks.neuron_cards import NeuronCards
from kb_lens.checks.specificity import Specificity
from kb_lens.evaluation.results import EvaluationResult
from kb_lens.figures.attribution import attribution_heatmap
from kb_lens.figures.completeness import completeness
from kb_lens.figures.knowledge import knowledge_plot
from kb_lens.figures.layers import layer_profile, shared_per_layer
from kb_lens.figures.methods import control_distribution, rank_figure
from kb_lens.figures.neuron_card import drawn_card
from kb_lens.figures.neuron_effects import dose_response
from kb_lens.figures.neurons import (
    MAX_UPSET_SETS,
    layer_heatmap,
    neurons_per_layer,
    overlap_heatmap,
    upset,
)
from kb_lens.figures.paper import paper_figure
from kb_lens.figures.results import before_after_pages
from kb_lens.figures.results_panels import Key
from kb_lens.figures.specificity import specificity_plot
from kb_lens.figures.studies import study_figures
from kb_lens.figures.tuning import tuning_figure
from kb_lens.knowledge.verdict import Knowledge
from kb_lens.neurons.sets import NeuronSet
from kb_lens.records.tables import Belongs
from kb_lens.runs.folder import RunFolder
from kb_lens.runs.record import check_record
from kb_lens.studies.paper_table import table_of
from kb_lens.studies.tables import Experiment
from kb_lens.studies.tuned import Tuning


def draw_folder(
    folder: str | os.PathLike[str], *, metrics: Iterable[Key] | None = None
) -> dict[str, go.Figure]:
    """Draw all figures of a folder of results, whichever command wrote it.

    `effect_against_attribution` is left out: it needs a second folder.

    Args:
        folder: The folder with the results.
        metrics: What ``before_after`` and a study's panels show: (result's key, metric) pairs;
            default the headline metrics.

    Returns:
        Name -> figure, in the light theme.

    Raises:
        ValueError: If the folder has no results, if they are damaged, or if they lack the metrics.
    """
    folder = Path(folder)
    # Each command is recognised by a file that no other command writes.
    if (folder / "study.json").exists():
        study = Experiment.load(folder)
        check_record(folder, Belongs.stated_in(study.settings))
        return draw_study(study.name, study.tables, study.settings, metrics=metrics)
    if (folder / "tuning.json").exists():
        tuning = Tuning.load(folder)
        check_record(folder, Belongs.stated_in(tuning.settings))
        return {"tuning": tuning_figure(tuning)}
    path = folder / "effects.safetensors"
    if path.exists():
        effects = NeuronEffects.load(path)
        check_record(folder, Belongs.of(effects.settings))
        return {"dose_response": dose_response(effects)}
    run = RunFolder.load(folder)
    figures = make_all(
        run.attributions,
        run.sets,
        run.results,
        run.knowledge,
        run.specificity,
        metrics=metrics,
    )
    if (folder / "cards").exists():
        cards = NeuronCards.load(folder / "cards")
        Belongs.of(cards.effects.settings).check(run.whose(folder), f"'{folder / 'cards'}'")
        for number, neuron in enumerate(cards.effects.neurons, 1):
            figures[f"neuron_card_{number}"] = drawn_card(cards, neuron)
    if run.record.get("command") == "paper":
        table = table_of(run)
        if len(table):
            figures["paper"] = paper_figure(table)
    return figures


def make_all(
    attributions: Attributions | None,
    sets: Mapping[str, NeuronSet],
    results: Mapping[str, Sequence[EvaluationResult]] | None = None,
    knowledge: Knowledge | None = None,
    specificity: Specificity | None = None,
    *,
    metrics: Iterable[Key] | None = None,
) -> dict[str, go.Figure]:
    """Every figure that can be drawn from the results.

    Args:
        attributions: The scores; None leaves out the four figures drawn from them.
        sets: Name -> neurons, usually one per dimension. ``shared_per_layer`` and ``overlap`` need
            2 sets or more, ``upset`` 2 to 5.
        results: Condition -> its results, for ``before_after``.
        knowledge: The model's answers, for ``knowledge``.
        specificity: The result of `specificity`, for ``specificity``.
        metrics: (result's key, metric) pairs for ``before_after``; default the headline metrics.

    Returns:
        Name -> figure, in the order of the method.

    Raises:
        ValueError: For anything that the figure's own function refuses.
    """
    figures: dict[str, go.Figure] = {}
    if knowledge is not None:
        figures["knowledge"] = knowledge_plot(knowledge)
    if attributions is not None:
        figures |= _score_figures(attributions)
    figures |= _set_figures(sets)
    if specificity is not None:
        figures["specificity"] = specificity_plot(specificity)
    if results:
        figures |= before_after_pages(results, metrics=metrics)
    return figures


def _score_figures(attributions: Attributions) -> dict[str, go.Figure]:
    return {
        "attribution_heatmap": attribution_heatmap(attributions),
        "attribution_by_question": attribution_heatmap(attributions, view="questions"),
        "layer_profile": layer_profile(attributions),
        "completeness": completeness(attributions),
    }


def _set_figures(sets: Mapping[str, NeuronSet]) -> dict[str, go.Figure]:
    figures: dict[str, go.Figure] = {}
    if sets:
        figures["neurons_per_layer"] = neurons_per_layer(sets)
        figures["layer_heatmap"] = layer_heatmap(sets)
    if len(sets) >= 2:
        figures["shared_per_layer"] = shared_per_layer(sets)
        figures["overlap"] = overlap_heatmap(sets)
    if 2 <= len(sets) <= MAX_UPSET_SETS:
        figures["upset"] = upset(sets)
    return figures


def draw_study(
    name: str,
    tables: Mapping[str, pd.DataFrame],
    settings: Mapping[str, Any],
    *,
    metrics: Iterable[Key] | None = None,
) -> dict[str, go.Figure]:
    """Every figure of a study; see `study_figures` for the arguments."""
    figures = study_figures(name, tables, settings, metrics=metrics)
    # All methods are ranked, but only enhancement has random controls to draw.
    if "ranks" in tables:
        figures["ranks"] = rank_figure(tables["ranks"])
        figures["controls"] = control_distribution(saved_tests(tables, "enhancement"))
    return figures
