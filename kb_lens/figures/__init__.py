"""The figures: results in, `plotly.graph_objects.Figure` out. Nothing here shows or writes.

This file has the public names. Each other file draws one subject; `folders` draws all figures of a
folder of results, `export` writes figures to disk.
"""

from kb_lens.figures.ablation import ablation_figure
from kb_lens.figures.activations import activation_text
from kb_lens.figures.attribution import attribution_heatmap
from kb_lens.figures.completeness import completeness
from kb_lens.figures.folders import draw_folder, draw_study, make_all
from kb_lens.figures.knowledge import knowledge_plot
from kb_lens.figures.layers import layer_profile, shared_per_layer
from kb_lens.figures.methods import control_distribution, rank_figure
from kb_lens.figures.neuron_card import neuron_card
from kb_lens.figures.neuron_effects import dose_response, effect_against_attribution
from kb_lens.figures.neurons import layer_heatmap, neurons_per_layer, overlap_heatmap, upset
from kb_lens.figures.next_tokens import next_tokens
from kb_lens.figures.results import before_after
from kb_lens.figures.specificity import specificity_plot
from kb_lens.figures.studies import study_figures
from kb_lens.figures.themes import themed
from kb_lens.figures.tuning import tuning_figure
from kb_lens.figures.words import token_changes

__all__ = [
    "ablation_figure",
    "activation_text",
    "attribution_heatmap",
    "before_after",
    "completeness",
    "control_distribution",
    "dose_response",
    "draw_folder",
    "draw_study",
    "effect_against_attribution",
    "knowledge_plot",
    "layer_heatmap",
    "layer_profile",
    "make_all",
    "neuron_card",
    "neurons_per_layer",
    "next_tokens",
    "overlap_heatmap",
    "rank_figure",
    "shared_per_layer",
    "specificity_plot",
    "study_figures",
    "themed",
    "token_changes",
    "tuning_figure",
    "upset",
]
