"""A run's folder: the record of how it came about, and everything in it read back."""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import pandas as pd

from kb_lens.attribution import Attributions
from kb_lens.evaluation import EvaluationResult, load_results
from kb_lens.files import write_text
from kb_lens.knowledge import Knowledge
from kb_lens.models import fingerprint, model_name
from kb_lens.neurons import NeuronSet
from kb_lens.specificity import Specificity

WRITTEN = (
    *("attributions.safetensors", "neurons.json", "knowledge.json", "summary.csv", "results.json"),
    *("checks.json", "specificity.csv", "stability.csv", "control_knowledge.json"),
    *("neurons", "evaluations", "items", "figures", "development", "test", "tuning.json"),
    *("development.csv", "test.csv", "study.json", "results.parquet", "control_tests.parquet"),
    *("ranks.parquet", "sets.parquet", "answered_right.parquet", "effects.safetensors"),
    *("effects.csv", "tokens.csv", "texts.csv", "report.html"),
)
"""What a run writes and --overwrite removes; the attribution cache is keyed by its settings."""
_TOKENS = ("layer", "index", "side", "rank", "token")
_CHECKS = ("check", "status", "finding", "advice")
"""Columns of ``tokens.csv`` and ``checks.json`` that are needed."""
PACKAGES = (
    *("kb-lens", "torch", "transformer-lens", "transformers", "lm-eval"),
    *("plotly", "pandas", "numpy"),
)


@dataclass
class RunLog:
    """What ``run.json`` says: how a folder came about."""

    folder: Path
    """The folder of the run."""
    command: str
    """The command's name."""
    arguments: Mapping[str, Any]
    """The command's arguments."""
    overwrite: bool = False
    """Whether a run with other arguments may be replaced."""
    seconds: dict[str, float] = field(default_factory=dict)
    """Wall time of each stage."""
    model: dict[str, Any] = field(default_factory=dict)
    """The model's name, fingerprint and place."""

    def check(self) -> None:
        """Refuse a folder that holds another run. Nothing is changed.

        Raises:
            ValueError: Names the argument that differs.
        """
        before = self._before()
        if self.overwrite or not before:
            return
        mine = {"command": self.command, **self._plain_arguments(), **self._weights()}
        theirs = {"command": before["command"], **before["arguments"]}
        theirs |= {key: before["model"].get(key) for key in self._weights()}
        for key, value in mine.items():
            if theirs.get(key) != value:
                raise ValueError(
                    f"'{self.folder}' holds a run with {key} {theirs.get(key)!r}, now {value!r}. "
                    "Choose another --out, or --overwrite to replace it."
                )

    def begin(self, model: Any) -> None:
        """Note the model, check again, empty the folder if it is to be replaced, write."""
        self.model = {
            "name": model_name(model),
            "fingerprint": fingerprint(model),
            "device": str(model.cfg.device),
            "dtype": str(model.cfg.dtype).removeprefix("torch."),
        }
        self.check()
        if self.overwrite:
            for name in WRITTEN:
                path = self.folder / name
                shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        self.write()

    def _weights(self) -> dict[str, Any]:
        return {key: self.model[key] for key in ("fingerprint", "dtype") if key in self.model}

    def _before(self) -> dict[str, Any] | None:
        path = self.folder / "run.json"
        if not path.is_file():
            return None
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            return {key: content[key] for key in ("command", "arguments", "model")}
        except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError) as error:
            if self.overwrite:
                return None
            raise ValueError(
                f"'{path}' is damaged. Choose another --out, or --overwrite to replace the run."
            ) from error

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time a stage."""
        start = time.perf_counter()
        yield
        self.seconds[name] = round(time.perf_counter() - start, 2)

    def _plain_arguments(self) -> dict[str, Any]:
        return {key: _plain(value) for key, value in self.arguments.items()}

    def write(self) -> None:
        """Write ``run.json``."""
        content = {
            "command": self.command,
            "arguments": self._plain_arguments(),
            "model": self.model,
            "seconds": self.seconds,
            "versions": {name: _version(name) for name in PACKAGES},
            "python": platform.python_version(),
            "platform": platform.platform(),
            "cpus": os.cpu_count(),
        }
        write_text(self.folder / "run.json", json.dumps(content, indent=2) + "\n")


def _plain(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    return value if isinstance(value, str | int | float | bool | None) else str(value)


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


@dataclass(frozen=True)
class RunFolder:
    """What ``run``, ``identify`` or ``doctor`` wrote; parts that are not there are empty."""

    attributions: Attributions | None
    """The scores."""
    sets: Mapping[str, NeuronSet]
    """The neurons of each dimension; else the joined set as ``all``."""
    results: Mapping[str, list[EvaluationResult]]
    """Condition -> its results."""
    knowledge: Knowledge | None
    """What the model answers."""
    specificity: Specificity | None = None
    """What else selects the neurons, if ``doctor --specificity`` wrote the folder."""
    neurons: NeuronSet | None = None
    """The dimensions' neurons, aggregated."""
    tokens: pd.DataFrame | None = None
    """What the neurons promote: `kb_lens.neuron_meaning.promoted_tokens`."""
    checks: pd.DataFrame | None = None
    """The checks of `kb_lens.doctor`: check, status, finding, advice."""
    record: Mapping[str, Any] = field(default_factory=dict)
    """What ``run.json`` says."""

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> RunFolder:
        """Read a folder.

        Raises:
            ValueError: If it has nothing of a run, or a damaged file.
        """
        folder = Path(folder)
        scores, answers = folder / "attributions.safetensors", folder / "knowledge.json"
        attributions = Attributions.load(scores) if scores.is_file() else None
        knowledge = Knowledge.load(answers) if answers.is_file() else None
        sets, results = _load_sets(folder, attributions), _load_conditions(folder)
        if not (attributions or sets or results or knowledge):
            raise ValueError(f"'{folder}' has no results: expected what `kb-lens run` wrote.")
        there = (folder / "specificity.csv").is_file()
        specificity = Specificity.load(folder) if there else None
        joined = folder / "neurons.json"
        return cls(
            attributions,
            sets,
            results,
            knowledge,
            specificity,
            neurons=NeuronSet.load(joined) if joined.is_file() else None,
            tokens=_load_tokens(folder / "tokens.csv"),
            checks=_load_checks(folder / "checks.json"),
            record=load_record(folder),
        )


def load_record(folder: str | os.PathLike[str]) -> dict[str, Any]:
    """What ``run.json`` says; empty if there is none.

    Raises:
        ValueError: If it is damaged.
    """
    path = Path(folder) / "run.json"
    found = _load_json(path, {})
    parts = ("arguments", "model", "seconds", "versions")
    if not isinstance(found, dict) or any(not isinstance(found.get(p, {}), dict) for p in parts):
        raise ValueError(f"'{path}' is not what kb_lens writes.")
    return found


def _load_json(path: Path, otherwise: Any = None) -> Any:
    if not path.is_file():
        return otherwise
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"'{path}' is damaged: {error}.") from error


def _load_tokens(path: Path) -> pd.DataFrame | None:
    """A token may be spelled like a missing value (``NA``, ``null``) and is none."""
    if not path.is_file():
        return None
    return _with_columns(pd.read_csv(path, keep_default_na=False), _TOKENS, path)


def _load_checks(path: Path) -> pd.DataFrame | None:
    found = _load_json(path)
    return None if found is None else _with_columns(pd.DataFrame(found), _CHECKS, path)


def _with_columns(table: pd.DataFrame, columns: Sequence[str], path: Path) -> pd.DataFrame:
    if lacking := [name for name in columns if name not in table]:
        raise ValueError(f"'{path}' is not what kb_lens writes: no {lacking[0]!r}.")
    return table


def _load_sets(folder: Path, attributions: Attributions | None) -> dict[str, NeuronSet]:
    """The neurons of each dimension, in the order of the questions; else the joined set alone."""
    order = list(attributions.by_dimension()) if attributions is not None else []
    files = {path.stem: path for path in sorted((folder / "neurons").glob("*.json"))}
    names = [name for name in order if name in files]
    names += [name for name in files if name not in names]
    if names:
        return {name: NeuronSet.load(files[name]) for name in names}
    joined = folder / "neurons.json"
    return {"all": NeuronSet.load(joined)} if joined.is_file() else {}


def _load_conditions(folder: Path) -> dict[str, list[EvaluationResult]]:
    """Condition -> its results: base first, then by name, with lambda 2 before lambda 10."""
    folders = [path.parent for path in (folder / "evaluations").glob("*/results.json")]
    folders.sort(key=lambda path: (path.name != "base", _natural(path.name)))
    return {path.name: list(load_results(path).values()) for path in folders}


def read_conditions(
    folders: Sequence[str | os.PathLike[str]],
) -> dict[str, list[EvaluationResult]]:
    """Condition -> its results, from folders of ``evaluate`` or one of ``run``.

    Raises:
        ValueError: If a folder has no results, two have one name, or there are not two conditions.
    """
    found: dict[str, list[EvaluationResult]] = {}
    for folder in map(Path, folders):
        conditions = _load_conditions(folder)
        if not conditions:
            conditions = {folder.resolve().name: list(load_results(folder).values())}
        if twice := found.keys() & conditions.keys():
            raise ValueError(
                f"two folders are named {min(twice)!r}; rename one: it names the method."
            )
        found |= conditions
    if len(found) < 2:
        raise ValueError(
            f"nothing to compare: got {', '.join(found) or 'no folder'}. Name at least two folders "
            "of `kb-lens evaluate`, the base first, or one of `kb-lens run`."
        )
    return found


def _natural(name: str) -> list[tuple[int, float, str]]:
    parts = re.split(r"(\d+(?:\.\d+)?)", name)
    return [(1, float(part), "") if i % 2 else (0, 0.0, part) for i, part in enumerate(parts)]
