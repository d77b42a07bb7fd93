"""Integrated gradients over MLP neurons: how much each neuron adds to the right answer.

Second step of the method (paper, section 3.2). For each question (or any other prompt and token,
`Completion`), layer and neuron

    Attr(h_i) = h_i * integral over gamma from 0 to 1 of dF(gamma * h) / dh_i

where h are the layer's activations at the last prompt position, the baseline is 0, the other
layers compute freely, and F is the probability of the right answer's token.

1. Choose the spelling of yes and no, and the routine that follows the path (`engines`).
2. For each question, integrate the gradient from 0 to h (`path_gradients`, `quadrature`).
3. Multiply by h. The sum over a layer's neurons should be F(h) - F(0); the completeness gap is the
   difference.

Only the last position is attributed. Other positions also reach the answer through the keys and
values of later positions, which the joined pass takes as given. Attention heads and the residual
stream are not attributed either.

``rule="riemann", n_steps=20, answer_style="release", site="pre"`` is the authors' release.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path as Folder
from typing import Any, cast

import torch
from safetensors.torch import load, save
from torch import Tensor

from kb_lens.attribution import quadrature
from kb_lens.attribution.attributions import TENSORS, Attributions
from kb_lens.attribution.calibration import first_edges
from kb_lens.attribution.engines import (
    PER_LAYER_ROWS,
    answer_tokens,
    check_gradients,
    choose_engine,
    default_rows,
    path_for,
    prompt_tokens,
)
from kb_lens.attribution.objective import ObjectiveKind
from kb_lens.attribution.path_gradients import Path
from kb_lens.attribution.settings import Engine, Rule, Settings, check_settings, resolve
from kb_lens.completions import Completion, check_completions
from kb_lens.knowledge.check import answer_spelling, check_questions
from kb_lens.knowledge.verdict import Knowledge
from kb_lens.models.answers import AnswerStyle, Spelling
from kb_lens.models.bridge_check import as_the_checkpoint
from kb_lens.models.hooked import HookedModel, Site, weights_digest
from kb_lens.models.prompts import PromptTemplate
from kb_lens.passes.matrix_products import fast_products
from kb_lens.passes.out_of_memory import tried
from kb_lens.passes.shared_prefix import UncoveredError
from kb_lens.questions import Question
from kb_lens.shared_work import entries
from kb_lens.store import Store, entry_key
from kb_lens.user_warnings import warn_user

_ENTRY = "kb_lens attribution 2"
"""Part of a stored question's key; the number rises when the same settings give other scores."""


@as_the_checkpoint
def attribute(
    model: HookedModel,
    questions: Sequence[Question | Completion],
    *,
    site: Site = "post",
    rule: Rule = "adaptive",
    n_steps: int | None = None,
    tol: float | None = None,
    objective: ObjectiveKind = "probability",
    template: PromptTemplate | None = None,
    answer_style: AnswerStyle = "model",
    knowledge: Knowledge | None = None,
    spelling: Spelling | None = None,
    engine: Engine = "auto",
    batch_size: int | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    progress: bool = True,
) -> Attributions:
    """Attribute the right answer to every MLP neuron, for every question.

    Args:
        model: A `TransformerBridge` or `HookedTransformer`.
        questions: The bias-knowledge questions, or completions: any prompts and targets.
        site: ``post`` (input of the down projection) or ``pre`` (input of the activation).
        rule: ``adaptive`` (nodes until `tol` is met), ``gauss-legendre``, ``riemann`` (released).
        n_steps: Nodes of a fixed rule; default 20.
        tol: Relative L2 error allowed in a layer; default 1e-3, and 2e-2 in half precision.
        objective: ``probability`` (the paper's), ``log_probability`` or ``logit_difference`` (from
            the wrong answer, or a completion's foil).
        template: The words around each question; default the paper's. Completions have none.
        answer_style: ``model``: yes and no as the model spells them; ``release``: lower case.
        knowledge: The result of `check_knowledge` for these questions (and perhaps more) with this
            template; asked here if not given.
        spelling: In its place, the spelling of yes and no, for example of other attributions.
        engine: ``joined`` (all layers in one pass), ``per-layer`` (slow), or ``auto``.
        batch_size: Most rows in a pass; default as many as fit into a quarter of the memory.
        cache_dir: Folder of finished questions; the same call continues from there. It identifies
            the model by its weights, so it is refused while hooks change the model.
        progress: Whether to show progress bars.

    Raises:
        ValueError: If a setting or the model is not allowed, `knowledge` is of another model,
            template or questions, an answer has several tokens or probability 0, an argument for
            questions is given without questions, or inside `torch.inference_mode`.
    """
    check_gradients(model)
    options: dict[str, Any] = {"site": site, "rule": rule, "n_steps": n_steps, "tol": tol}
    options |= {"objective": objective, "engine": engine}
    check_settings(**options, batch_size=batch_size)
    check_cache(cache_dir, model)
    asked = _only_questions(model, questions, objective)
    if asked or not questions:
        template = PromptTemplate() if template is None else template
        style: dict[str, Any] = {"answer_style": answer_style, "progress": progress}
        spelling = answer_spelling(model, asked, template, knowledge, spelling, **style)
    else:
        own_style = None if answer_style == "model" else answer_style
        given = {"template": template, "answer_style": own_style, "knowledge": knowledge}
        _check_unused(**given, spelling=spelling)
    settings = resolve(model, **options, spelling=spelling, template=template)
    settings = replace(settings, engine=choose_engine(model, questions[0], settings))
    return _attribute_all(model, questions, settings, batch_size, cache_dir, progress)


def _only_questions(
    model: HookedModel, questions: Sequence[Question | Completion], objective: ObjectiveKind
) -> Sequence[Question]:
    """The questions among the items; the completions are checked."""
    if isinstance(questions, str) or not isinstance(questions, Sequence):
        check_questions(questions)  # it says what was given instead
    completions = [item for item in questions if isinstance(item, Completion)]
    if objective == "logit_difference" and (bare := [c for c in completions if c.foil is None]):
        raise ValueError(
            f"objective is 'logit_difference', but the completion {bare[0].prompt[-40:]!r} + "
            f"{bare[0].target!r} has no foil: give one, or use another objective."
        )
    if completions:
        check_completions(model, completions, with_foils=objective == "logit_difference")
    return [item for item in questions if not isinstance(item, Completion)]


def _check_unused(**given: object) -> None:
    """Refuse arguments for questions if there are only completions."""
    for name, value in given.items():
        if value is not None:
            raise ValueError(
                f"{name} is for questions, but there are only completions, whose prompts and "
                "targets are used as they are: leave it out."
            )


def check_cache(folder: str | os.PathLike[str] | None, model: HookedModel) -> None:
    """Raise `ValueError` for a file where a folder is needed, or a model that hooks change."""
    if folder is None:
        return
    if Folder(folder).exists() and not Folder(folder).is_dir():
        raise ValueError(f"cache_dir is '{folder}', a file: give an existing or a new folder.")
    hooked = [name for name, point in model.hook_dict.items() if point.fwd_hooks or point.bwd_hooks]
    if hooked:
        raise ValueError(
            f"cache_dir keeps scores by the model's weights, but a hook is set on {hooked[0]}: "
            "leave cache_dir out, or use it outside the block that changes the model."
        )


def _attribute_all(
    model: HookedModel,
    questions: Sequence[Question | Completion],
    settings: Settings,
    batch_size: int | None,
    cache_dir: str | os.PathLike[str] | None,
    progress: bool,
) -> Attributions:
    """Every question's scores, from the store or computed."""
    store = Store(cache_dir, ".safetensors") if cache_dir is not None else None
    max_rows = batch_size or default_rows(model, settings.engine)
    asked = [_Asked(question, prompt_tokens(model, question, settings)) for question in questions]

    def key(each: _Asked) -> str:
        return each.key(model, settings)

    def work(each: _Asked) -> bytes:
        nonlocal max_rows
        attributed = partial(attribute_question, model, each.question, each.tokens, settings)
        while (done := tried(partial(attributed, max_rows), max_rows, "rows a pass")) is None:
            max_rows //= 2
        return save(done)

    def name(each: _Asked) -> str:
        text = each.question.text
        # as much as fits on the progress bar; many questions begin alike
        return text if len(text) <= 40 else f"...{text[-37:]}"

    kept = entries(asked, store, key, work, kind="question", name=name, progress=progress)
    results = [load(content) for content in kept]
    stacked = {name: torch.stack([result[name] for result in results]) for name in TENSORS}
    attributions = Attributions(questions=tuple(questions), settings=settings, **cast(Any, stacked))
    _warn_if_rough(attributions)
    return attributions


@dataclass(frozen=True, eq=False)
class _Asked:
    """A question and the tokens of its prompt."""

    question: Question | Completion
    tokens: Tensor

    def key(self, model: HookedModel, settings: Settings) -> str:
        """The key of its entry."""
        # The tokens depend on template and tokenizer, so the key does too.
        is_question = isinstance(self.question, Question)
        answer = (
            self.question.answer if is_question else answer_tokens(model, self.question, settings)
        )
        content = [_ENTRY, asdict(settings), self.tokens.tolist(), answer]
        return entry_key([*content, weights_digest(model)])


def attribute_question(
    model: HookedModel,
    question: Question | Completion,
    tokens: Tensor,
    settings: Settings,
    max_rows: int,
) -> dict[str, Tensor]:
    """The tensors of `Attributions` for one question, whose prompt has these tokens.

    Raises:
        ValueError: If a score is not finite, or the probability is 0 and has no gradient.
    """
    with fast_products(model.cfg):
        try:
            edges = first_edges(model, question, settings, max_rows)
            path = path_for(model, question, tokens, settings, max_rows)
            integral = _integrate(path, settings, edges)
        except UncoveredError as error:  # this prompt's pass has failed its own check
            warn_user(f"{question.text!r}: {error}; run layer by layer.")
            settings = replace(settings, engine="per-layer")
            path = path_for(model, question, tokens, settings, PER_LAYER_ROWS)
            integral = _integrate(path, settings, None)
    # A subnormal number has lost its digits.
    if settings.objective == "probability" and path.value < torch.finfo(torch.float32).tiny:
        raise ValueError(
            f"P(right answer) of {question.text!r} is exactly 0 in this precision, so it has no "
            "gradient. Use objective='log_probability', which has one."
        )
    scores = path.activations * integral.gradients
    if not bool(scores.isfinite().all()):
        raise ValueError(
            f"the scores of {question.text!r} are not finite: the model overflows. Load it in "
            "float32 or bfloat16."
        )
    change = path.value - integral.at_zero
    return {
        "scores": scores.contiguous(),
        "answer_prob": torch.tensor(path.value),
        "output_change": change,
        "completeness_gap": scores.sum(-1) - change,
        "error": integral.error,
        "nodes": integral.nodes,
    }


def _integrate(
    path: Path, settings: Settings, edges: Sequence[quadrature.Edges] | None
) -> quadrature.Integral:
    if settings.rule == "adaptive":
        return quadrature.adaptive(path, cast(float, settings.tol), settings.eps, edges)
    return quadrature.fixed(path, settings.rule, cast(int, settings.n_steps))


def _warn_if_rough(attributions: Attributions) -> None:
    tol = attributions.settings.tol
    if tol is None:
        return
    allowed = tol * attributions.output_change.abs().amax(1, keepdim=True)
    rough = (attributions.error > tol) | (attributions.completeness_gap.abs() > allowed)
    # A layer that stopped early above its tolerance has reached the type's rounding.
    floor = rough & (attributions.nodes < quadrature.MAX_NODES)
    reasons = {
        f"end at the rounding of {attributions.settings.dtype}, above tol={tol:g}": floor,
        f"did not reach tol={tol:g}": rough & ~floor,
    }
    for reason, layers in reasons.items():
        if bool(layers.any()):
            warn_user(
                f"{int(layers.sum())} of {rough.numel()} layer integrals {reason} (worst error "
                f"{float(attributions.error.max()):.1e}, worst gap "
                f"{float(attributions.relative_gap.max()):.1e}); see Attributions.error.",
            )
