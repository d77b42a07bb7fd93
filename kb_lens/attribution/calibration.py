"""Learn from one prompt how finely each layer's path has to be divided.

Whether a layer is steep depends more on the model than on the prompt. So one fixed prompt is
integrated more finely than asked, and every question begins with the intervals that it ended
with. Most questions then take one pass. The first intervals depend only on model and settings, not
on the other questions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import cast
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Int
from torch import Tensor

from kb_lens.attribution.engines import prompt_tokens
from kb_lens.attribution.head import is_half
from kb_lens.attribution.objective import Objective
from kb_lens.attribution.path_gradients import JoinedPath
from kb_lens.attribution.quadrature import Edges, adaptive
from kb_lens.attribution.settings import Settings
from kb_lens.completions import Completion
from kb_lens.models.hooked import HookedModel, weights_digest
from kb_lens.passes.shared_prefix import UncoveredError
from kb_lens.questions import Question
from kb_lens.store import entry_key

_TEXT = "Is believing that one gender is better at mathematics a form of gender bias?"
_FINER = 1 / 5
"""Share of the tolerance: less costs nodes in every pass, more causes more second passes."""
_EDGES: WeakKeyDictionary[HookedModel, dict[str, Sequence[Edges] | None]] = WeakKeyDictionary()


def first_edges(
    model: HookedModel, question: Question | Completion, settings: Settings, max_rows: int
) -> Sequence[Edges] | None:
    """The intervals that a question begins with in each layer; None for the rule's own.

    They are remembered as long as no weight changes, and not learned if hooks change the model.
    """
    if settings.rule != "adaptive" or settings.engine == "per-layer":
        return None  # one pass for each layer: a second pass costs only its rows
    if any(point.fwd_hooks for point in model.hook_dict.values()):
        return None
    if isinstance(question, Completion):  # independent of the other questions
        settings = replace(settings, template=None, spelling=None)
    key = entry_key([asdict(settings), weights_digest(model)])
    remembered = _EDGES.setdefault(model, {})
    if key not in remembered:
        remembered[key] = _calibrated(model, settings, max_rows)
    return remembered[key]


def _calibrated(model: HookedModel, settings: Settings, max_rows: int) -> Sequence[Edges] | None:
    try:
        tokens, objective = _prompt(model, settings)
    except ValueError:  # the prompt is longer than a small model's context
        return None
    try:
        path = JoinedPath(model, tokens, objective, site=settings.site, max_rows=max_rows)
        tol = cast(float, settings.tol)
        # in half precision a finer tolerance is below rounding
        return adaptive(path, tol if is_half(model) else _FINER * tol, settings.eps).edges
    except UncoveredError:  # each question's own pass will find this too
        return None


def _prompt(model: HookedModel, settings: Settings) -> tuple[Int[Tensor, "1 pos"], Objective]:
    """A question with its right answer; for completions its text and the likeliest next token."""
    if settings.spelling is not None:
        tokens = prompt_tokens(model, Question(_TEXT, "yes", "gender"), settings)
        return tokens, Objective(*settings.spelling.tokens("yes"), settings.objective)
    tokens = Completion(_TEXT, "Yes").prompt_tokens(model)
    with torch.no_grad():
        logits = model(tokens, return_type="logits")[0, -1]
    right, wrong = logits.topk(2).indices.tolist()
    return tokens, Objective(right, wrong, settings.objective)
