"""A model, its neurons and its results judged, in one folder."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from kb_lens.attribution.attributions import Attributions
from kb_lens.checks.doctor import Check, as_table, examine
from kb_lens.checks.specificity import TAUS, Specificity, gather, specificity
from kb_lens.evaluation.results import (
    ConditionInfo,
    EvaluationResult,
    conditions_of,
    damage_matched,
)
from kb_lens.knowledge.verdict import Knowledge
from kb_lens.models.hooked import HookedModel
from kb_lens.models.prompts import PromptTemplate
from kb_lens.neurons.sets import NeuronSet
from kb_lens.questions import Question
from kb_lens.records.objects import write_json
from kb_lens.records.tables import Belongs
from kb_lens.runs.asking import Asking, ControlBank
from kb_lens.runs.execution import AttributeExecution
from kb_lens.runs.folder import RunFolder
from kb_lens.runs.identify import answered, select_by_dimension
from kb_lens.runs.record import RunLog, belongs_to
from kb_lens.runs.settings import ModelChoice, Reading, Seeded, Thresholds, values_of

Results = Sequence[EvaluationResult]


@dataclass(frozen=True, kw_only=True)
class DoctorSettings(Seeded, Reading, Thresholds, ControlBank, Asking, ModelChoice):
    """What the verdicts of ``doctor`` depend on."""

    questions: int | None = 0
    """Number of questions, balanced over dimensions and kinds; 0 for all."""
    with_specificity: Annotated[bool, Parameter("--specificity")] = False
    """Also attribute the control questions; takes minutes instead of seconds."""
    results: Path | None = None
    """A folder of `run`, whose results are examined too."""
    lam: float | None = None
    """The lambda of --results to examine; default the first."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.lam is not None and self.results is None:
            raise ValueError("--lam names a condition of --results: give both.")
        if self.control_bank is not None and not self.with_specificity:
            raise ValueError("--control-bank needs --specificity: give both or neither.")


@dataclass(frozen=True)
class Compared:
    """The results that `examine` compares."""

    base: Results = ()
    """Results of the unchanged model."""
    enhanced: Results = ()
    """Results with the neurons enhanced."""
    control: Results = ()
    """Results with random neurons of like influence enhanced by the same factor."""
    same_damage: Results = ()
    """Results with random neurons enhanced by the factor that does the same damage."""


@dataclass(frozen=True)
class Diagnosis:
    """The result of `diagnose`."""

    knowledge: Knowledge
    """The model's answers."""
    specificity: Specificity | None
    """The result of `specificity`; None if it was not requested."""
    checks: list[Check]
    """Every check with its status, numbers and advice."""


def diagnose_model(
    out: str | os.PathLike[str], settings: DoctorSettings, execution: AttributeExecution
) -> Diagnosis:
    """Check a model and, if a run's folder is given, its neurons and results.

    Args:
        out: The folder.
        settings: Model, questions, the folder of the run.
        execution: Device and batch size.

    Raises:
        ValueError: As `diagnose`, or if a folder holds another run or lacks the lambda.
    """
    log = RunLog(Path(out), "doctor", settings, execution)
    log.check()
    questions = settings.load_questions()
    settings.load_control()  # raises before the model is loaded
    options: dict[str, Any] = {"template": settings.template()}
    if settings.results is not None:
        folder = RunFolder.load(settings.results)
        settings = _as_found(folder, settings)
        options |= {"sets": folder.sets, "results": compared(folder.results, settings.lam)}
        if folder.attributions is not None:
            _check_asked_alike(settings, questions, options["template"], folder.attributions)
            questions = folder.attributions.yes_no_questions
            options["attributions"] = folder.attributions
            quadrature = folder.attributions.settings
            options |= {
                name: getattr(quadrature, name) for name in ("rule", "n_steps", "tol", "template")
            }
    options |= {"batch_size": execution.batch_size, "progress": execution.progress}
    with log.claimed():
        model = log.load_model()
        with log.stage("examine"):
            diagnosis = diagnose(model, questions, out, settings, **options)
        log.write()
        return diagnosis


def _check_asked_alike(
    settings: DoctorSettings,
    questions: Sequence[Question],
    template: PromptTemplate,
    attributions: Attributions,
) -> None:
    """Raise `ValueError` if options choose other questions or wording than those of a run."""
    if template not in (PromptTemplate(), attributions.settings.template):
        raise ValueError(
            "--results has attributions of questions in other words: drop --system, --instruction, "
            "--examples, --template-option and --date."
        )
    names = ("questions", "dimensions", "language", "bank")
    chosen = any(getattr(settings, name) != getattr(DoctorSettings(), name) for name in names)
    if chosen and not set(attributions.questions) <= set(questions):
        raise ValueError(
            "--results has attributions of other questions: drop --questions, --dimensions, "
            "--language and --bank."
        )


def _as_found(folder: RunFolder, settings: DoctorSettings) -> DoctorSettings:
    """The settings, with those that found the neurons of a run."""
    # The controls must be selected as the neurons were, whatever the options say.
    changes: dict[str, Any] = {}
    if folder.attributions is not None:
        changes["site"] = folder.attributions.settings.site
    for neurons in folder.sets.values():
        thresholds = {"tau": neurons.tau, "beta": neurons.beta}
        changes |= {name: value for name, value in thresholds.items() if value is not None}
    return replace(settings, **changes)


def compared(results: Mapping[str, Results], lam: float | None = None) -> Compared:
    """The results of the base model, one lambda and its controls.

    Args:
        results: Condition -> its results.
        lam: The factor; default that of the first condition that has one.

    Raises:
        ValueError: If no method has that factor.
    """
    infos = conditions_of(results)
    methods = [name for name, info in infos.items() if info.role == "method"]
    scaled = [name for name in methods if _is_scaled(infos[name], lam)]
    if not scaled:
        if lam is None:
            return Compared()
        conditions = ", ".join(results) or "none"
        raise ValueError(f"--results has no 'lambda {lam:g}'; its conditions: {conditions}.")
    method = scaled[0]
    base = [name for name, info in infos.items() if info.role == "base"]
    controls = [name for name, info in infos.items() if info.control_of == method]
    damaging = [name for name in damage_matched(infos) if name in controls]
    alike = [name for name in controls if name not in damaging]
    return Compared(
        base=results[base[0]] if base else (),
        enhanced=results[method],
        # Only the first of several random draws is used.
        control=results[alike[0]] if alike else (),
        same_damage=results[damaging[0]] if damaging else (),
    )


def _is_scaled(info: ConditionInfo, lam: float | None) -> bool:
    """Whether neurons were multiplied by this factor; by any if `lam` is None."""
    change: Mapping[str, Any] = info.intervention or {}
    return "lam" in change and lam in (None, change["lam"])


def diagnose(
    model: HookedModel,
    questions: Sequence[Question],
    out: str | os.PathLike[str],
    settings: DoctorSettings,
    *,
    attributions: Attributions | None = None,
    sets: Mapping[str, NeuronSet] | None = None,
    results: Compared | None = None,
    **options: Any,
) -> Diagnosis:
    """Check a model and, if given, its neurons and results: `kb_lens.checks.doctor`.

    Writes ``knowledge.json`` and ``checks.json``; with controls ``specificity.csv``,
    ``stability.csv`` and ``control_knowledge.json``.

    Args:
        model: A `TransformerBridge` or `HookedTransformer`.
        questions: The bias-knowledge questions.
        out: The folder.
        settings: Thresholds, and whether to attribute wrong answers, plain facts and logits too.
        attributions: The attributions of these questions; computed if controls need them.
        sets: The neurons of each dimension.
        results: The results with and without the neurons, see `compared`.
        options: Further arguments of `attribute`.

    Raises:
        ValueError: If an argument is not allowed, or attributions or results are of another model.
    """
    sides = values_of(Compared, results or Compared())
    # before any question is asked: results of another model cannot be used
    _check_same_model(model, attributions, list(chain(*sides.values())))
    options |= values_of(Reading, settings)
    knowledge = answered(model, questions, out, options)
    selectivity = None
    if settings.with_specificity:
        options |= {"knowledge": knowledge, "cache_dir": Path(out) / "store"}
        control = settings.load_control()
        evidence = gather(model, questions, control, bias=attributions, **options)
        taus = sorted({*TAUS, settings.tau})
        selectivity = specificity(evidence, taus=taus, beta=settings.beta, seed=settings.seed)
        selectivity.save(out)
        attributions = evidence.bias
        sets = sets or select_by_dimension(attributions, settings)
    findings = {"attributions": attributions, "sets": sets, "specificity": selectivity}
    materials: dict[str, Any] = {**findings, **sides}
    checks = examine(knowledge=knowledge, tau=settings.tau, **materials)
    save_checks(checks, out, model)
    return Diagnosis(knowledge, selectivity, checks)


def save_checks(
    checks: Sequence[Check], folder: str | os.PathLike[str], model: HookedModel
) -> None:
    """Write ``checks.json``; each row names its model."""
    whose = asdict(belongs_to(model))
    rows = [row | whose for row in as_table(checks).to_dict("records")]
    write_json(Path(folder) / "checks.json", rows, indent=1)


def _check_same_model(
    model: HookedModel, attributions: Attributions | None, results: Results
) -> None:
    present = belongs_to(model)
    if attributions is not None:
        _check_is_of(Belongs.of(attributions.settings), present, "the attributions")
    for result in results:
        _check_is_of(Belongs.of(result), present, "the results")


def _check_is_of(stated: Belongs, present: Belongs, what: str) -> None:
    if not stated.may_be(present):
        raise ValueError(
            f"{what} are of another model: {stated}, not {present}. Examine a model with its own."
        )
