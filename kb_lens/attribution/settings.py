"""The settings that the scores depend on, and the checks of `attribute`'s arguments."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch

from kb_lens.arguments import check_count, check_number
from kb_lens.attribution.objective import ObjectiveKind
from kb_lens.models.answers import Spelling
from kb_lens.models.hooked import HookedModel, Site, fingerprint, form, model_name
from kb_lens.models.prompts import PromptTemplate

Rule = Literal["adaptive", "gauss-legendre", "riemann"]
"""How the nodes of the quadrature are chosen (`kb_lens.attribution.quadrature`)."""

Engine = Literal["auto", "joined", "per-layer"]
"""All layers in one pass, one pass for each layer, or the first if the model allows it."""

RELEASE_STEPS = 20
"""The default number of nodes of a fixed rule: the release's."""


@dataclass(frozen=True)
class Settings:
    """Everything that the scores depend on, apart from the questions."""

    model: str
    """The model's name."""
    fingerprint: str
    """The model's weights (`kb_lens.models.hooked.fingerprint`)."""
    dtype: str
    """The type that the model ran in."""
    site: Site
    """Where the neurons are read: ``post`` or ``pre``."""
    rule: Rule
    """The quadrature rule."""
    n_steps: int | None
    """Nodes of a fixed rule."""
    tol: float | None
    """Tolerance of the adaptive rule."""
    objective: ObjectiveKind
    """What was differentiated."""
    engine: str
    """The routine that ran: ``joined`` or ``per-layer``."""
    spelling: Spelling | None
    """How yes and no are spelled; None where only completions were attributed."""
    template: PromptTemplate | None
    """The words around each question; None likewise."""
    form: str = ""
    """In which form the model had its weights (`kb_lens.models.hooked.form`)."""

    @property
    def eps(self) -> float:
        """The unit of rounding of the type that the model ran in."""
        return torch.finfo(getattr(torch, self.dtype)).eps


def resolve(
    model: HookedModel,
    *,
    site: Site,
    rule: Rule,
    n_steps: int | None,
    tol: float | None,
    objective: ObjectiveKind,
    engine: str,
    spelling: Spelling | None,
    template: PromptTemplate | None,
) -> Settings:
    """The settings with their defaults filled in, and the model that they are for."""
    # A finer tolerance is below half precision's rounding.
    finest = 1e-3 if model.cfg.dtype in (torch.float32, torch.float64) else 2e-2
    adaptive = rule == "adaptive"
    return Settings(
        model=model_name(model),
        fingerprint=fingerprint(model),
        dtype=str(model.cfg.dtype).removeprefix("torch."),
        site=site,
        rule=rule,
        n_steps=None if adaptive else n_steps or RELEASE_STEPS,
        tol=(tol or finest) if adaptive else None,
        objective=objective,
        engine=engine,
        spelling=spelling,
        template=template,
        form=form(model),
    )


def check_settings(
    *,
    site: str = "post",
    rule: str = "adaptive",
    n_steps: object = None,
    tol: object = None,
    objective: str = "probability",
    engine: str = "auto",
    batch_size: object = None,
    **others: Any,
) -> None:
    """Raise `ValueError` for arguments that `attribute` would refuse; cheap, before long work."""
    del others  # callers hand on all options of a command
    _check_choice("site", site, Site)
    _check_choice("rule", rule, Rule)
    _check_choice("objective", objective, ObjectiveKind)
    _check_choice("engine", engine, Engine)
    if rule == "adaptive" and n_steps is not None:
        raise ValueError(
            "the adaptive rule takes tol, not n_steps: give a fixed rule or leave it out."
        )
    if rule != "adaptive" and tol is not None:
        raise ValueError(
            f"the rule {rule!r} takes n_steps, not tol: leave it out, or use 'adaptive'."
        )
    if n_steps is not None:
        check_count("n_steps", n_steps)
    if batch_size is not None:
        check_count("batch_size", batch_size)
    if tol is not None and not 0 < check_number("tol", tol, "0 < tol < 1") < 1:
        raise ValueError(f"tol is {tol}: allowed is 0 < tol < 1.")


def _check_choice(name: str, value: str, choices: Any) -> None:
    allowed = get_args(choices)
    if value not in allowed:
        raise ValueError(f"{name} is {value!r}: allowed are {', '.join(allowed)}.")
