"""The figures: results in, `plotly.graph_objects.Figure` out. Nothing here shows or writes.

What was found and what it changed, as pictures; drawn by the files in `kb_lens.plots`, written to
disk by `kb_lens.export_figures`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from kb_lens.attribution import Attributions
from kb_lens.control_tests import saved_tests
from kb_lens.evaluation import EvaluationResult
from kb_lens.knowledge import Knowledge
from kb_lens.neurons import NeuronSet
from kb_lens.plots.attribution import attribution_heatmap, completeness
from kb_lens.plots.layers import layer_profile, shared_per_layer
from kb_lens.plots.methods import control_distribution, rank_figure, tuning_figure
from kb_lens.plots.neuron_effects import dose_response, effect_against_attribution
from kb_lens.plots.neurons import MAX_UPSET_SETS, neurons_per_layer, overlap_heatmap, upset
from kb_lens.plots.results import before_after, knowledge_plot
from kb_lens.plots.specificity import specificity_plot
from kb_lens.plots.studies import study_figures
from kb_lens.plots.themes import themed
from kb_lens.specificity import Specificity

__all__ = [
    "attribution_heatmap",
    "before_after",
    "completeness",
    "control_distribution",
    "dose_response",
    "draw_study",
    "effect_against_attribution",
    "knowledge_plot",
    "layer_profile",
    "make_all",
    "neurons_per_layer",
    "overlap_heatmap",
    "rank_figure",
    "shared_per_layer",
    "specificity_plot",
    "study_figures",
    "themed",
    "tuning_figure",
    "upset",
]


def make_all(
    attributions: Attributions | None,
    sets: Mapping[str, NeuronSet],
    results: Mapping[str, Sequence[EvaluationResult]] | None = None,
    knowledge: Knowledge | None = None,
    specificity: Specificity | None = None,
) -> dict[str, go.Figure]:
    """Every figure that the results allow.

    Args:
        attributions: The scores; None leaves out the four figures drawn from them.
        sets: Name -> neurons, usually one a dimension. With fewer than 2 there is no
            ``shared_per_layer``, ``overlap`` and ``upset``, with more than 5 no ``upset``.
        results: Condition -> its results, for ``before_after``.
        knowledge: What the model answers, for ``knowledge``.
        specificity: What else selects the neurons, for ``specificity``.

    Returns:
        Name -> figure, in the order of the method.

    Raises:
        ValueError: For anything that the figure's own function refuses.
    """
    figures = {}
    if knowledge is not None:
        figures["knowledge"] = knowledge_plot(knowledge)
    if attributions is not None:
        figures["attribution_heatmap"] = attribution_heatmap(attributions)
        figures["attribution_by_question"] = attribution_heatmap(attributions, view="questions")
        figures["layer_profile"] = layer_profile(attributions)
        figures["completeness"] = completeness(attributions)
    if sets:
        figures["neurons_per_layer"] = neurons_per_layer(sets)
    if len(sets) >= 2:
        figures["shared_per_layer"] = shared_per_layer(sets)
        figures["overlap"] = overlap_heatmap(sets)
    if 2 <= len(sets) <= MAX_UPSET_SETS:
        figures["upset"] = upset(sets)
    if specificity is not None:
        figures["specificity"] = specificity_plot(specificity)
    if results:
        figures["before_after"] = before_after(results)
    return figures


def draw_study(
    name: str, tables: Mapping[str, pd.DataFrame], settings: Mapping[str, Any]
) -> dict[str, go.Figure]:
    """Every figure of a study; see `kb_lens.experiments.Experiment` for the arguments."""
    figures = study_figures(name, tables, settings)
    if "ranks" in tables:
        figures["ranks"] = rank_figure(tables["ranks"])
        figures["controls"] = control_distribution(saved_tests(tables, "enhancement"))
    return figures
