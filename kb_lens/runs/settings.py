"""The options that jobs share, in groups: what a result depends on, and how it is computed.

A job's settings inherit from these groups, so that an option is one field in one place: it becomes
an option of the command line, it is written to ``run.json``, and `RunLog` compares it. Settings
that a result depends on are compared when a folder is resumed; an `Execution` never is.
"""

# No `from __future__ import annotations`: settings in other files inherit from these groups, and
# there the command line could not resolve annotations that are strings.
import os
from collections.abc import Mapping
from dataclasses import MISSING, Field, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

import torch

from kb_lens.arguments import check_seed, did_you_mean
from kb_lens.attribution.settings import Rule, check_settings
from kb_lens.benchmarks.catalogue import DEFAULT_BENCHMARKS, check_limit
from kb_lens.interventions.scaling import check_factor
from kb_lens.models.answers import AnswerStyle
from kb_lens.models.hooked import HookedModel, Site, loaded_name
from kb_lens.models.loading import EMBEDDED_MODEL, load_model
from kb_lens.models.placement import Quantization, check_quantization, placed_like, stored_dtype
from kb_lens.neurons.sets import check_thresholds
from kb_lens.passes.matrix_products import use_tuning
from kb_lens.runs.asking import Asking, Checked, Rendering
from kb_lens.runs.devices import Devices, as_option
from kb_lens.runs.execution import Execution

DType = Literal["auto", "float32", "bfloat16", "float16"]
Aggregation = Literal["union", "intersection", "at-least-two", "pooled"]


C = TypeVar("C", bound="ModelChoice")


@dataclass(frozen=True, kw_only=True)
class ModelChoice(Checked):
    """The model."""

    model: str = field(default=EMBEDDED_MODEL, kw_only=False)
    """Hub name, checkpoint folder, .gguf file, smollm2-135m-instruct or smollm2-135m-taught."""
    revision: str | None = None
    """Branch, tag or commit of a hub model, such as a training checkpoint."""
    dtype: DType | None = "auto"
    """Type of the weights; auto is the checkpoint's own on a GPU, float32 on a CPU."""
    quantization: Quantization | None = None
    """Pack the weights by bitsandbytes."""
    trust_remote_code: bool = False
    """Run Python code that comes with the checkpoint."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_quantization(self.quantization)

    def load(self, devices: Devices | None = None) -> HookedModel:
        """Load the model, in its checkpoint's own type if `dtype` is None."""
        devices = devices or Devices()
        if devices.tuning == "off":  # auto follows KB_LENS_TUNING
            use_tuning("off")
        return load_model(
            self.model,
            dtype=self._dtype(),
            quantization=self.quantization,
            revision=self.revision,
            trust_remote_code=self.trust_remote_code,
            **devices.arguments(),
        )

    def _dtype(self) -> torch.dtype | Literal["auto"]:
        if self.dtype is None:
            return stored_dtype(self.model, self.revision, self.trust_remote_code)
        return "auto" if self.dtype == "auto" else getattr(torch, self.dtype)

    def of(self: C, model: str | os.PathLike[str] | HookedModel) -> C:
        """These settings for a model, given by its name or loaded."""
        if isinstance(model, str | os.PathLike):
            return replace(self, model=os.fspath(model))
        dtype: Any = dtype_name(model)
        packed = placed_like(model).get("quantization")
        return replace(self, model=loaded_name(model), dtype=dtype, quantization=packed)


def dtype_name(model: HookedModel) -> str:
    """The type of a model's weights, as in ``--dtype``."""
    return str(model.cfg.dtype).removeprefix("torch.")


@dataclass(frozen=True, kw_only=True)
class Seeded(Checked):
    """The seed."""

    seed: int = 0
    """Seed of samples, bootstraps and random controls."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_seed(self.seed)


@dataclass(frozen=True, kw_only=True)
class Thresholds(Checked):
    """The thresholds that select neurons by their scores."""

    tau: float = 0.10
    """Saliency threshold as a share: 0.10 is 10 %."""
    beta: float = 0.10
    """Consistency threshold as a share of the questions."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_thresholds(self.tau, self.beta)


@dataclass(frozen=True, kw_only=True)
class Reading:
    """The site of the neurons, and the answer that is scored."""

    site: Site = "post"
    """MLP activations to read."""
    answer_style: AnswerStyle = "model"
    """Spelling of yes and no to score."""


@dataclass(frozen=True, kw_only=True)
class Attributing(Reading):
    """How neurons are scored."""

    rule: Rule = "adaptive"
    """Quadrature rule."""
    n_steps: int | None = None
    """Number of nodes of a fixed rule."""
    tol: float | None = None
    """Error bound of the adaptive rule; default 1e-3 in float32."""


@dataclass(frozen=True, kw_only=True)
class Finding(Attributing, Thresholds):
    """How neurons are found."""

    aggregation: Aggregation = "union"
    """How to join the dimensions' neurons."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_settings(**values_of(Attributing, self))
        if self.aggregation not in get_args(Aggregation):
            allowed = ", ".join(get_args(Aggregation))
            raise ValueError(f"aggregation is {self.aggregation!r}: allowed are {allowed}.")


@dataclass(frozen=True, kw_only=True)
class Items(Rendering):
    """The items of a benchmark and how they are scored."""

    limit: int | None = None
    """Items per benchmark, balanced; default all."""
    protocol: str = "original"
    """How items are scored."""
    data_dir: Path | None = None
    """Folder with the benchmarks' files."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_limit(self.limit)

    def limit_of(self, benchmark: str) -> int | None:
        """Number of items of a benchmark that is named without a number; None for all."""
        del benchmark  # the same for each, unless a job overrides this
        return self.limit


@dataclass(frozen=True, kw_only=True)
class Measuring(Items):
    """The benchmarks to measure."""

    benchmarks: tuple[str, ...] = DEFAULT_BENCHMARKS
    """Comma-separated: NAME[=FILE][:PROTOCOL][@ITEMS], else --protocol, --limit."""


# The last group's options come first on the command line, so that MODEL is positional.
@dataclass(frozen=True, kw_only=True)
class IdentifySettings(Seeded, Finding, Asking, ModelChoice):
    """What the neurons of ``identify`` depend on."""


@dataclass(frozen=True, kw_only=True)
class RunSettings(Measuring, IdentifySettings):
    """What the results of the main job depend on."""

    lam: tuple[float, ...] = (2.0, 3.0)
    """Factor; several with commas or repeated."""
    limit: int | None = 200
    """Items per benchmark, balanced."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.lam:
            raise ValueError("--lam has no factor: give at least one.")
        for factor in self.lam:
            check_factor(factor, self.dtype)
        names = [f"{factor:g}" for factor in self.lam]
        if len(set(names)) < len(names):
            raise ValueError(f"--lam has a factor twice: {', '.join(names)}.")


_Settings = TypeVar("_Settings", bound=ModelChoice)
_Execution = TypeVar("_Execution", bound=Execution)


def with_keywords(
    settings: _Settings, execution: _Execution, keywords: Mapping[str, Any]
) -> tuple[_Settings, _Execution]:
    """Replace fields by plain keywords, each in the dataclass that has it.

    Raises:
        ValueError: If a keyword is not a field, or a value is not allowed.
    """
    # The model is an argument of its own.
    for_settings = {option.name: option for option in fields(settings) if option.name != "model"}
    for_execution = {option.name: option for option in fields(execution)}
    options = {**for_settings, **for_execution}
    # A misspelt setting must not silently leave the default.
    unknown = [name for name in keywords if name not in options]
    if unknown:
        raise ValueError(
            f"no setting {unknown[0]!r}: allowed are {', '.join(options)}."
            f"{did_you_mean(unknown[0], options)}"
        )
    values = {name: _as_listed(options[name], value) for name, value in keywords.items()}
    return (
        replace(settings, **{name: values[name] for name in values if name in for_settings}),
        replace(execution, **{name: values[name] for name in values if name in for_execution}),
    )


def _as_listed(option: Field[Any], value: Any) -> Any:
    """The value as a tuple if the option is one: ``"a,b"``, a single number and a list all work."""
    if not isinstance(option.default, tuple):
        return as_option(option.name, value)
    if isinstance(value, str):
        return tuple(text.strip() for text in value.split(","))
    return (value,) if isinstance(value, int | float) else tuple(value)


def defaults(settings: ModelChoice) -> dict[str, Any]:
    """The optional fields of some settings -> their default values."""
    return {
        option.name: option.default for option in fields(settings) if option.default is not MISSING
    }


def values_of(group: type[Any], settings: Any) -> dict[str, Any]:
    """The fields of one group -> their values in settings that inherit from it."""
    return {option.name: getattr(settings, option.name) for option in fields(group)}
