"""Every figure that a folder of saved results allows, whichever command wrote the folder."""

from __future__ import annotations

import os
from pathlib import Path

import plotly.graph_objects as go

from kb_lens.experiments import Experiment
from kb_lens.figures import dose_response, draw_study, make_all, tuning_figure
from kb_lens.neuron_effects import NeuronEffects
from kb_lens.run_folder import RunFolder
from kb_lens.tuning import Tuning


def draw_folder(folder: str | os.PathLike[str]) -> dict[str, go.Figure]:
    """Draw what ``run``, ``identify``, ``doctor``, ``experiment``, ``tune`` or ``neurons`` wrote.

    What needs a second folder (`effect_against_attribution`) is left out.

    Args:
        folder: Where the results are.

    Returns:
        Name -> figure, in the light theme.

    Raises:
        ValueError: If the folder has no results, or damaged ones.
    """
    folder = Path(folder)
    if (folder / "study.json").is_file():
        study = Experiment.load(folder)
        return draw_study(study.name, study.tables, study.settings)
    if (folder / "tuning.json").is_file():
        return {"tuning": tuning_figure(Tuning.load(folder))}
    if (folder / "effects.safetensors").is_file():
        return {"dose_response": dose_response(NeuronEffects.load(folder / "effects.safetensors"))}
    run = RunFolder.load(folder)
    return make_all(run.attributions, run.sets, run.results, run.knowledge, run.specificity)
