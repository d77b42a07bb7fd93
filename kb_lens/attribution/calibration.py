"""How finely each layer's path has to be cut, learned from one prompt.

Whether a layer is steep depends more on the model than on the prompt. So one prompt, always the
same, is integrated more finely than asked, and every question begins with the intervals that it
ended with: most of them then take one pass. What they begin with follows from the model and the
settings, whatever is attributed beside them.
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
"""Of the tolerance: a smaller one costs nodes in every pass, a larger one more second passes."""
_EDGES: WeakKeyDictionary[HookedModel, dict[str, Sequence[Edges] | None]] = WeakKeyDictionary()


def first_edges(
    model: HookedModel, question: Question | Completion, settings: Settings, max_rows: int
) -> Sequence[Edges] | None:
    """The intervals that a question begins with in each layer; None for the rule's own.

    They are remembered as long as no weight changes, and not learned where hooks change the model.
    """
    if settings.rule != "adaptive" or settings.engine == "per-layer":
        return None  # a pass a layer: a second one costs no more than its rows do
    if any(point.fwd_hooks for point in model.hook_dict.values()):
        return None
    if isinstance(question, Completion):  # nor do the questions beside it count
        settings = replace(settings, template=None, spelling=None)
    key = entry_key([asdict(settings), weights_digest(model)])
    remembered = _EDGES.setdefault(model, {})
    if key not in remembered:
        remembered[key] = _calibrated(model, settings, max_rows)
    return remembered[key]


def _calibrated(model: HookedModel, settings: Settings, max_rows: int) -> Sequence[Edges] | None:
    try:
        tokens, objective = _prompt(model, settings)
    except ValueError:  # it is longer than a small model's context
        return None
    try:
        path = JoinedPath(model, tokens, objective, site=settings.site, max_rows=max_rows)
        tol = cast(float, settings.tol)
        # in half precision a finer tolerance would be cut into rounding
        return adaptive(path, tol if is_half(model) else _FINER * tol, settings.eps).edges
    except UncoveredError:  # each question's pass finds out for itself
        return None


def _prompt(model: HookedModel, settings: Settings) -> tuple[Int[Tensor, "1 pos"], Objective]:
    """A question with its right answer; for completions its text, and what is likeliest then."""
    if settings.spelling is not None:
        tokens = prompt_tokens(model, Question(_TEXT, "yes", "gender"), settings)
        return tokens, Objective(*settings.spelling.tokens("yes"), settings.objective)
    tokens = Completion(_TEXT, "Yes").prompt_tokens(model)
    with torch.no_grad():
        logits = model(tokens, return_type="logits")[0, -1]
    right, wrong = logits.topk(2).indices.tolist()
    return tokens, Objective(right, wrong, settings.objective)
