"""The record of how a folder came about: ``run.json``."""

from __future__ import annotations

import json
import os
import platform
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from kb_lens.files import write_text
from kb_lens.models.hooked import fingerprint, model_name


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


WRITTEN = (
    *("attributions.safetensors", "neurons.json", "knowledge.json", "summary.csv", "results.json"),
    *("checks.json", "specificity.csv", "stability.csv", "control_knowledge.json"),
    *("neurons", "evaluations", "items", "figures", "development", "test", "tuning.json"),
    *("development.csv", "test.csv", "study.json", "results.parquet", "control_tests.parquet"),
    *("ranks.parquet", "sets.parquet", "answered_right.parquet", "effects.safetensors"),
    *("effects.csv", "tokens.csv", "texts.csv", "report.html"),
)
"""What a run writes and --overwrite removes; the attribution cache is keyed by its settings."""

PACKAGES = (
    *("kb-lens", "torch", "transformer-lens", "transformers", "lm-eval"),
    *("plotly", "pandas", "numpy"),
)


def _plain(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    return value if isinstance(value, str | int | float | bool | None) else str(value)


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


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
