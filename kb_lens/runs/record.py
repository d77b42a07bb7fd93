"""The record of how a folder came about: ``run.json``."""

from __future__ import annotations

import json
import os
import platform
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from kb_lens.files import write_text
from kb_lens.models.digests import same_weights
from kb_lens.models.hooked import HookedModel, fingerprint, form, model_name
from kb_lens.neurons import NeuronSet
from kb_lens.runs.settings import Execution, ModelChoice, defaults, dtype_name

RECORD = "run.json"


@dataclass
class RunLog:
    """What ``run.json`` says: how a folder came about."""

    folder: Path
    """The folder of the run."""
    command: str
    """The command's name."""
    settings: ModelChoice
    """What the results depend on: ``arguments`` in the file, compared with a run that is there."""
    execution: Execution
    """How they are computed: ``execution`` in the file, never compared."""
    seconds: dict[str, float] = field(default_factory=dict)
    """Wall time of each stage."""
    model: dict[str, Any] = field(default_factory=dict)
    """The model's name, fingerprint, device, type and form."""

    def check(self) -> None:
        """Refuse a folder that holds another run. Nothing is changed.

        Raises:
            ValueError: Names the argument that differs.
        """
        before = self._before()
        if self.execution.overwrite or before is None:
            return
        present = {"command": self.command, **self._arguments(), **self._weights()}
        # A run that is older than an option was made with what is the option's default today.
        former = _plain(defaults(self.settings)) | before["arguments"]
        former |= {"command": before["command"]}
        former |= {key: before["model"].get(key) for key in self._weights()}
        for key, value in present.items():
            if key == "fingerprint" and same_weights(str(former[key]), value):
                continue
            if value != former.get(key):
                raise ValueError(
                    f"'{self.folder}' holds a run with {key} {former.get(key)!r}, now {value!r}. "
                    "Choose another --out, or --overwrite to replace it."
                )

    def load_model(
        self,
        model: str | os.PathLike[str] | HookedModel = "",
        *,
        neurons: NeuronSet | None = None,
    ) -> HookedModel:
        """Load the model of the settings, unless `model` is loaded already, and `begin`.

        Raises:
            ValueError: If there is no such model, `neurons` are of another one, or as `check`.
        """
        if isinstance(model, str | os.PathLike):
            with self.stage("load the model"):
                model = self.settings.load(self.execution.device)
        if neurons is not None:
            neurons.check_model(model)
        self.begin(model)
        return model

    def begin(self, model: HookedModel) -> None:
        """Note the model, check again, empty the folder if it is to be replaced, write."""
        self.model = {
            "name": model_name(model),
            "fingerprint": fingerprint(model),
            "device": str(model.cfg.device),
            "dtype": dtype_name(model),
            "form": form(model),
        }
        # The name may be the same and the weights others: a checkpoint that was trained again.
        self.check()
        if self.execution.overwrite:
            for name in WRITTEN:
                path = self.folder / name
                if path.is_dir():
                    shutil.rmtree(path)
                else:
                    path.unlink(missing_ok=True)
        self.write()

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time a stage."""
        start = time.perf_counter()
        yield
        self.seconds[name] = round(time.perf_counter() - start, 2)

    def write(self) -> None:
        """Write ``run.json``."""
        content = {
            "command": self.command,
            "arguments": self._arguments(),
            "execution": _plain(asdict(self.execution)),
            "model": self.model,
            "seconds": self.seconds,
            "versions": {name: _version(name) for name in PACKAGES},
            "python": platform.python_version(),
            "platform": platform.platform(),
            "cpus": os.cpu_count(),
        }
        _write(self.folder, content)

    def _arguments(self) -> dict[str, Any]:
        return _plain(asdict(self.settings))

    def _weights(self) -> dict[str, Any]:
        """What tells the weights; nothing before the model is loaded."""
        return {key: self.model[key] for key in ("fingerprint", "dtype") if key in self.model}

    def _before(self) -> dict[str, Any] | None:
        """What the folder's ``run.json`` says that is compared."""
        path = self.folder / RECORD
        try:
            content = read_json(path)
            if content is None:
                return None
            return {key: content[key] for key in ("command", "arguments", "model")}
        except (ValueError, KeyError, TypeError) as error:
            # What is to be replaced may be damaged.
            if self.execution.overwrite:
                return None
            raise ValueError(
                f"'{path}' is damaged. Choose another --out, or --overwrite to replace the run."
            ) from error


WRITTEN = (
    *("attributions.safetensors", "neurons.json", "knowledge.json", "summary.csv", "results.json"),
    *("checks.json", "specificity.csv", "stability.csv", "control_knowledge.json"),
    *("neurons", "evaluations", "items", "figures", "development", "test", "tuning.json"),
    *("development.csv", "test.csv", "study.json", "results.parquet", "control_tests.parquet"),
    *("ranks.parquet", "sets.parquet", "answered_right.parquet", "effects.safetensors"),
    *("effects.csv", "tokens.csv", "texts.csv", "report.html"),
)
"""What a run writes and --overwrite removes; the attribution cache and the store stay, their
entries are known by their content."""

PACKAGES = (
    *("kb-lens", "torch", "transformer-lens", "transformers", "lm-eval"),
    *("plotly", "pandas", "numpy"),
)
"""What the numbers and figures come from: their versions are noted."""


@contextmanager
def later_stage(folder: str | os.PathLike[str], name: str) -> Iterator[None]:
    """Time a stage that follows a finished job, into the job's ``run.json``."""
    start = time.perf_counter()
    yield
    content = load_record(folder)
    content.setdefault("seconds", {})[name] = round(time.perf_counter() - start, 2)
    _write(folder, content)


def load_record(folder: str | os.PathLike[str]) -> dict[str, Any]:
    """What ``run.json`` says; empty if there is none.

    Raises:
        ValueError: If it is damaged.
    """
    path = Path(folder) / RECORD
    content = read_json(path, {})
    mappings = ("arguments", "model", "seconds", "versions")
    if not isinstance(content, dict) or any(
        not isinstance(content.get(name, {}), dict) for name in mappings
    ):
        raise ValueError(f"'{path}' is not what kb_lens writes.")
    return content


def read_json(path: Path, absent: Any = None) -> Any:
    """The content of a JSON file; `absent` if there is no file.

    Raises:
        ValueError: If it is damaged.
    """
    if not path.is_file():
        return absent
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"'{path}' is damaged: {error}.") from error


def _write(folder: str | os.PathLike[str], content: dict[str, Any]) -> None:
    write_text(Path(folder) / RECORD, json.dumps(content, indent=2) + "\n")


def _plain(value: Any) -> Any:
    """As JSON gives it back."""
    return json.loads(json.dumps(value, default=str))


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
