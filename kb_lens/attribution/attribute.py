"""Integrated gradients over MLP neurons: how much each one adds to the right answer.

Second step of the method (paper, section 3.2). For each question, layer and neuron

    Attr(h_i) = h_i * integral over gamma from 0 to 1 of dF(gamma * h) / dh_i

where h are the layer's activations at the last prompt position, the baseline is 0, the other
layers compute freely, and F is the probability of the right answer's token. Summed over a layer's
neurons that is F(h) - F(0): the completeness gap tells how far the numbers are from it.
"""

from __future__ import annotations

import hashlib
import json
import os
import warnings
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path as FilePath
from typing import Any, cast, get_args

import psutil
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from tqdm.auto import tqdm

from kb_lens.attribution import quadrature
from kb_lens.attribution.attributions import _FORMAT, _TENSORS, Attributions, Engine, Rule, Settings
from kb_lens.attribution.path_gradients import (
    JoinedPath,
    Objective,
    ObjectiveKind,
    Path,
    PerLayerPath,
    UncoveredError,
)
from kb_lens.files import moved_whole
from kb_lens.knowledge import AnswerStyle, Knowledge, check_knowledge
from kb_lens.models.hooked import Site, fingerprint, model_name, site_hooks
from kb_lens.models.prompts import PromptTemplate
from kb_lens.passes.matrix_products import fast_products
from kb_lens.questions import Question

_PER_LAYER_ROWS = 32


def attribute(
    model: Any,
    questions: Sequence[Question],
    *,
    site: Site = "post",
    rule: Rule = "adaptive",
    n_steps: int | None = None,
    tol: float | None = None,
    objective: ObjectiveKind = "probability",
    template: PromptTemplate | None = None,
    answer_style: AnswerStyle = "model",
    knowledge: Knowledge | None = None,
    engine: Engine = "auto",
    batch_size: int | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    progress: bool = True,
) -> Attributions:
    """Attribute the right answer to every MLP neuron, for every question.

    ``rule="riemann", n_steps=20, answer_style="release", site="pre"`` is what the authors' release
    computes.

    Args:
        model: A `TransformerBridge` or `HookedTransformer`.
        questions: The bias-knowledge questions.
        site: ``post`` (input of the down projection) or ``pre`` (input of the activation).
        rule: ``adaptive`` spends nodes until each layer's error is below `tol`;
            ``gauss-legendre`` and ``riemann`` use `n_steps` nodes everywhere.
        n_steps: Nodes of a fixed rule; default 20.
        tol: Relative L2 error allowed in each layer by the adaptive rule; default 1e-3, and 2e-2
            for a model in bfloat16 or float16, whose rounding hides more.
        objective: ``probability`` (the paper's), ``log_probability``, or ``logit_difference`` of
            the right and the wrong answer.
        template: The words around each question; default the paper's.
        answer_style: ``model`` takes the spelling of yes and no that this model prefers over these
            questions, ``release`` lower-case ``yes`` and ``no``.
        knowledge: What `check_knowledge` found for these questions with this template and style;
            asked here if not given.
        engine: ``joined`` (all layers in one pass), ``per-layer`` (the slow reference), or
            ``auto``: joined where the model allows it.
        batch_size: Most rows in one forward pass, which bounds the memory; by default as
            many as a quarter of the free memory holds.
        cache_dir: Where finished questions are kept; the same call continues from there.
        progress: Whether to show progress bars.

    Raises:
        ValueError: For settings that are not allowed, a model without MLP neurons (mixture of
            experts), or answers that are not single tokens.
    """
    check_settings(
        site=site,
        rule=rule,
        n_steps=n_steps,
        tol=tol,
        objective=objective,
        engine=engine,
        batch_size=batch_size,
    )
    template = template or PromptTemplate()
    asked = knowledge or check_knowledge(
        model, questions, template=template, answer_style=answer_style, progress=progress
    )
    settings = Settings(
        model=model_name(model),
        fingerprint=fingerprint(model),
        dtype=str(model.cfg.dtype).removeprefix("torch."),
        site=site,
        rule=rule,
        n_steps=None if rule == "adaptive" else n_steps or 20,
        tol=_tolerance(model, tol) if rule == "adaptive" else None,
        objective=objective,
        engine=engine,
        spelling=asked.spelling,
        template=template,
    )
    settings = replace(settings, engine=_choose_engine(model, questions[0], settings))
    rows = batch_size or _default_rows(model, settings.engine)
    store = _Store(cache_dir)
    results = []
    for question in tqdm(questions, desc="attributing", unit="question", disable=not progress):
        tokens = template.tokens(model, question.text)
        found = store.read(settings, question, tokens)
        if found is None:
            with fast_products(model):
                found = _attribute_one(model, question, tokens, settings, rows)
            _check_finite(found["scores"], question)
            store.write(settings, question, tokens, found)
        results.append(found)
    stacked = {name: torch.stack([result[name] for result in results]) for name in _TENSORS}
    attributions = Attributions(**stacked, questions=tuple(questions), settings=settings)
    _warn_if_rough(attributions)
    return attributions


def check_settings(
    *,
    site: str = "post",
    rule: str = "adaptive",
    n_steps: int | None = None,
    tol: float | None = None,
    objective: str = "probability",
    engine: str = "auto",
    batch_size: int | None = None,
    **others: Any,
) -> None:
    """Raise `ValueError` for arguments that `attribute` would refuse; cheap, before long work."""
    del others
    for name, value, allowed in (
        ("site", site, get_args(Site)),
        ("rule", rule, get_args(Rule)),
        ("objective", objective, get_args(ObjectiveKind)),
        ("engine", engine, get_args(Engine)),
    ):
        if value not in allowed:
            raise ValueError(f"{name} is {value!r}: allowed are {', '.join(allowed)}.")
    if rule == "adaptive" and n_steps is not None:
        raise ValueError("the adaptive rule takes tol, not n_steps: give a fixed rule or drop it.")
    for name, count in (("n_steps", n_steps), ("batch_size", batch_size)):
        if count is not None and (not isinstance(count, int) or count < 1):
            raise ValueError(f"{name} is {count!r}: allowed are integers from 1.")
    if tol is not None and not 0 < tol < 1:
        raise ValueError(f"tol is {tol}: allowed is 0 < tol < 1.")


def _tolerance(model: Any, tol: float | None) -> float:
    if tol is not None:
        return tol
    return 1e-3 if model.cfg.dtype in (torch.float32, torch.float64) else 2e-2


def _attribute_one(
    model: Any, question: Question, tokens: Tensor, settings: Settings, rows: int
) -> dict[str, Tensor]:
    try:
        path = _path(model, question, tokens, settings, rows)
        integral = _integrate(path, settings)
    except UncoveredError as error:
        warnings.warn(f"{question.text!r}: {error}; run layer by layer.", stacklevel=2)
        plain = replace(settings, engine="per-layer")
        path = _path(model, question, tokens, plain, _PER_LAYER_ROWS)
        integral = _integrate(path, plain)
    scores = path.activations * integral.gradients
    change = path.value - integral.at_zero
    return {
        "scores": scores.cpu(),
        "answer_prob": torch.tensor(path.value),
        "output_change": change,
        "completeness_gap": scores.sum(-1) - change,
        "error": integral.error,
        "nodes": integral.nodes,
    }


def _path(model: Any, question: Question, tokens: Tensor, settings: Settings, rows: int) -> Path:
    objective = Objective(*settings.spelling.tokens(question.answer), settings.objective)
    way = PerLayerPath if settings.engine == "per-layer" else JoinedPath
    return way(model, tokens, objective, site=settings.site, max_rows=rows)


def _integrate(path: Path, settings: Settings) -> quadrature.Integral:
    if settings.rule == "adaptive":
        return quadrature.adaptive(path, cast(float, settings.tol))
    return quadrature.fixed(path, settings.rule, cast(int, settings.n_steps))


def _choose_engine(model: Any, question: Question, settings: Settings) -> str:
    """Try the joined pass once; it checks itself against the model's own logits."""
    if settings.engine == "per-layer":
        return settings.engine
    names = site_hooks(model, settings.site)
    tokens = settings.template.tokens(model, question.text)
    try:
        path = _path(model, question, tokens, settings, 64)
        path([torch.ones(1)] + [torch.empty(0)] * (len(names) - 1))
    except torch.OutOfMemoryError:
        raise
    except (UncoveredError, RuntimeError, TypeError, AttributeError, KeyError) as error:
        reason = f"{model_name(model)} is not covered by the joined pass: {error}."
        if settings.engine == "joined":
            raise ValueError(f"{reason} Use engine='auto'.") from error
        warnings.warn(f"{reason} The per-layer routine runs instead, slower.", stacklevel=3)
        return "per-layer"
    return "joined"


def _default_rows(model: Any, engine: str) -> int:
    """As many rows as a quarter of the free memory holds, from 32 to 4096."""
    if engine == "per-layer":
        return _PER_LAYER_ROWS
    config = model.cfg
    width = 16 * config.d_model + 8 * (config.d_mlp or 4 * config.d_model)
    numbers = config.n_layers * width / 2 + 3 * config.d_vocab  # saved by autograd; logits
    item = torch.finfo(config.dtype).bits // 8
    return int(min(4096, max(32, _free_memory(config.device) / 4 / (item * numbers))))


def _free_memory(device: Any) -> float:
    """Free bytes where the model runs."""
    if torch.device(device).type == "cuda":
        return torch.cuda.mem_get_info(torch.device(device))[0]
    return psutil.virtual_memory().available


def _warn_if_rough(attributions: Attributions) -> None:
    tol = attributions.settings.tol
    if tol is None:
        return
    allowed = tol * attributions.output_change.abs().amax(1, keepdim=True)
    rough = (attributions.error > tol) | (attributions.completeness_gap.abs() > allowed)
    if not bool(rough.any()):
        return
    warnings.warn(
        f"{int(rough.sum())} of {rough.numel()} layer integrals did not reach tol={tol:g} (worst "
        f"error {float(attributions.error.max()):.1e}, worst gap "
        f"{float(attributions.relative_gap.max()):.1e}); see Attributions.error.",
        stacklevel=3,
    )


def _check_finite(scores: Tensor, question: Question) -> None:
    if not bool(scores.isfinite().all()):
        raise ValueError(
            f"the scores of {question.text!r} are not finite: the model overflows. Load it in "
            "float32 or bfloat16."
        )


class _Store:
    """Finished questions on disk, one file each, named by all that the numbers depend on."""

    def __init__(self, folder: str | os.PathLike[str] | None) -> None:
        self._folder = FilePath(folder) if folder is not None else None
        if self._folder is not None:
            self._folder.mkdir(parents=True, exist_ok=True)

    def _file(self, settings: Settings, question: Question, tokens: Tensor) -> FilePath:
        assert self._folder is not None
        key = json.dumps([_FORMAT, asdict(settings), tokens.tolist(), question.answer])
        return self._folder / f"{hashlib.sha256(key.encode()).hexdigest()[:24]}.safetensors"

    def read(
        self, settings: Settings, question: Question, tokens: Tensor
    ) -> dict[str, Tensor] | None:
        """The stored tensors, or None where there are none or the file is damaged."""
        if self._folder is None:
            return None
        if not (file := self._file(settings, question, tokens)).is_file():
            return None
        try:
            with safe_open(file, "pt") as stored:
                return {name: stored.get_tensor(name) for name in _TENSORS}
        except SafetensorError:
            return None

    def write(
        self, settings: Settings, question: Question, tokens: Tensor, tensors: dict[str, Tensor]
    ) -> None:
        if self._folder is None:
            return
        with moved_whole(self._file(settings, question, tokens)) as part:
            save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, part)
