"""A run's folder: the record of how it came about, and everything in it read back."""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from kb_lens.attribution import Attributions
from kb_lens.evaluation import EvaluationResult, load_results
from kb_lens.knowledge import Knowledge
from kb_lens.models import fingerprint, model_name
from kb_lens.neurons import NeuronSet

PACKAGES = ("kb-lens", "torch", "transformer-lens", "transformers", "plotly", "pandas", "numpy")


@dataclass
class RunLog:
    """What ``run.json`` says: how a folder came about."""

    arguments: Mapping[str, Any]
    """The command's arguments."""
    seconds: dict[str, float] = field(default_factory=dict)
    """Wall time of each stage."""
    model: dict[str, Any] = field(default_factory=dict)
    """The model's name, fingerprint and place."""

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time a stage."""
        start = time.perf_counter()
        yield
        self.seconds[name] = round(time.perf_counter() - start, 2)

    def note_model(self, model: Any) -> None:
        """Write down which model ran, and where."""
        self.model = {
            "name": model_name(model),
            "fingerprint": fingerprint(model),
            "device": str(model.cfg.device),
            "dtype": str(model.cfg.dtype).removeprefix("torch."),
        }

    def check(self, folder: str | os.PathLike[str], *, overwrite: bool = False) -> None:
        """Refuse a folder that holds a run with other arguments, or empty it of that run.

        Raises:
            ValueError: Names the argument that differs; nothing was changed.
        """
        path = Path(folder) / "run.json"
        if not path.is_file():
            return
        before = json.loads(path.read_text(encoding="utf-8"))["arguments"]
        for key, value in self._plain_arguments().items():
            if before.get(key, value) == value:
                continue
            if not overwrite:
                raise ValueError(
                    f"'{folder}' holds a run with {key} {before[key]!r}, now {value!r}. Choose "
                    "another --out, or --overwrite to replace it."
                )
            for stale in ("evaluations", "neurons", "figures", "items"):
                shutil.rmtree(Path(folder) / stale, ignore_errors=True)
            (Path(folder) / "results.json").unlink(missing_ok=True)

    def _plain_arguments(self) -> dict[str, Any]:
        return {key: _plain(value) for key, value in self.arguments.items()}

    def write(self, folder: str | os.PathLike[str]) -> None:
        """Write ``run.json`` into the folder."""
        content = {
            "arguments": self._plain_arguments(),
            "model": self.model,
            "seconds": self.seconds,
            "versions": {name: _version(name) for name in PACKAGES},
            "python": platform.python_version(),
            "platform": platform.platform(),
            "cpus": os.cpu_count(),
        }
        Path(folder).mkdir(parents=True, exist_ok=True)
        path = Path(folder) / "run.json"
        path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


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
    """What ``kb-lens run`` or ``kb-lens identify`` wrote; parts that are not there are empty."""

    attributions: Attributions | None
    """The scores."""
    sets: Mapping[str, NeuronSet]
    """The neurons of each dimension; else the joined set as ``all``."""
    results: Mapping[str, list[EvaluationResult]]
    """Condition -> its results."""
    knowledge: Knowledge | None
    """What the model answers."""

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
        return cls(attributions, sets, results, knowledge)


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


def _natural(name: str) -> list[tuple[int, float, str]]:
    parts = re.split(r"(\d+(?:\.\d+)?)", name)
    return [(1, float(part), "") if i % 2 else (0, 0.0, part) for i, part in enumerate(parts)]
