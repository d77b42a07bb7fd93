"""The record of how a folder was made: ``run.json``."""

from __future__ import annotations

import hashlib
import json
import os
import platform
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
from kb_lens.neurons.sets import Neurons, neurons_of
from kb_lens.passes.matrix_products import product_library
from kb_lens.records.objects import read_json, write_json
from kb_lens.records.tables import Belongs
from kb_lens.runs.execution import Execution
from kb_lens.runs.holders import Holder, holding, step
from kb_lens.runs.settings import ModelChoice, defaults, dtype_name
from kb_lens.written import delete_noted, has_notes, noting

RECORD = "run.json"
_WEIGHTS = ("fingerprint", "dtype", "form", "also")
"""The fields of ``run.json`` that identify the weights."""


@dataclass
class RunLog:
    """The content of ``run.json``: how a folder was made."""

    folder: Path
    """The folder of the run."""
    command: str
    """The command's name."""
    settings: ModelChoice
    """What the results depend on: ``arguments`` in the file, compared with an existing run."""
    execution: Execution
    """How they are computed: ``execution`` in the file, never compared."""
    seconds: dict[str, float] = field(default_factory=dict)
    """Wall time of each stage."""
    model: dict[str, Any] = field(default_factory=dict)
    """The model's name, fingerprint, device, type and form."""
    also: str | None = None
    """Names and weights of other checkpoints that are measured: compared, but not their paths."""
    items: dict[str, str] = field(default_factory=dict)
    """Result's key -> file and digest of the user's own items (`own_sources`): compared."""

    @contextmanager
    def claimed(self) -> Iterator[RunLog]:
        """Register as working in the folder inside the block, and note what is written there.

        Raises:
            ValueError: If it holds another run (the message names the argument that differs), or a
                process that does not share the folder works there (the message names it).
        """
        content = json.dumps([self.command, self._compared()], sort_keys=True)
        settings = hashlib.sha256(content.encode()).hexdigest()
        holder = Holder(self.command, settings, alone=self.execution.overwrite)
        with holding(self.folder, holder), noting(self.folder):
            self.check()
            yield self

    def check(self) -> None:
        """Refuse a folder that holds another run; change nothing.

        Raises:
            ValueError: If it does; the message names the argument that differs.
        """
        before = self._before()
        if self.execution.overwrite or before is None:
            return
        present = {"command": self.command, **self._compared(), **self._weights()}
        # A run that is older than an option was made with the option's default.
        former = _plain(defaults(self.settings)) | before["arguments"] | before.get("items", {})
        former |= {"command": before["command"]}
        former |= {key: before["model"].get(key) for key in self._weights()}
        for key, value in present.items():
            if key == "dtype" and "auto" in (value, former.get(key)):
                continue  # the type is known when the model is loaded
            if key == "form" and _unnamed(former.get(key)) in (None, _unnamed(value)):
                continue  # an older version did not write it
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
        neurons: Neurons | None = None,
    ) -> HookedModel:
        """Load the model of the settings, unless `model` is given, and `begin`.

        Raises:
            ValueError: If there is no such model, `neurons` are of another one, or the folder
                holds a run with other weights.
        """
        if isinstance(model, str | os.PathLike):
            with self.stage("load the model"):
                model = self.settings.load(self.execution)
        if neurons is not None:  # checked before the folder is emptied
            neurons_of(model, neurons)
        self.begin(model)
        return model

    def begin(self, model: HookedModel) -> None:
        """Note the model, check again, empty the folder if it is to be replaced, write."""
        self.note(model)
        # The weights may differ under the same name: a checkpoint that was trained again.
        self.check()
        # There may be notes without run.json: a process was killed while it replaced a run.
        holds_run = (self.folder / RECORD).is_file() or has_notes(self.folder)
        if self.execution.overwrite and holds_run:
            delete_noted(self.folder)
        self.write()

    def note(self, model: HookedModel) -> None:
        """Note the model."""
        self.model = {
            "name": model_name(model),
            "fingerprint": fingerprint(model),
            "device": str(model.cfg.device),
            "dtype": dtype_name(model),
            "form": form(model),
            "products": product_library(model.cfg),
        }
        if self.also is not None:
            self.model["also"] = self.also

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time a stage."""
        start = time.perf_counter()
        yield
        self.seconds[name] = round(time.perf_counter() - start, 2)

    def write(self) -> None:
        """Write ``run.json``."""
        with step(self.folder):
            write_text(self.folder / RECORD, self.text())

    def text(self) -> str:
        """The text of ``run.json``."""
        content = {
            "command": self.command,
            "arguments": self._arguments(),
            "execution": _plain(asdict(self.execution)),
            "model": self.model,
            **({"items": self.items} if self.items else {}),
            "seconds": self.seconds,
            "versions": {name: _version(name) for name in PACKAGES},
            "python": platform.python_version(),
            "platform": platform.platform(),
            "cpus": os.cpu_count(),
        }
        return json.dumps(content, indent=2) + "\n"

    def _arguments(self) -> dict[str, Any]:
        return _plain(asdict(self.settings))

    def _compared(self) -> dict[str, Any]:
        """What results depend on: arguments (for other checkpoints their weights) and own items."""
        arguments = {key: value for key, value in self._arguments().items() if key != "also"}
        return arguments | self.items

    def _weights(self) -> dict[str, Any]:
        """The fields that identify the weights; empty before the model is loaded."""
        return {key: self.model.get(key) for key in _WEIGHTS} if self.model else {}

    def _before(self) -> dict[str, Any] | None:
        """The part of the folder's ``run.json`` that is compared."""
        try:
            return load_record(self.folder) or None
        except ValueError as error:
            if self.execution.overwrite:  # a file that will be replaced may be damaged
                return None
            raise ValueError(
                f"{error} Choose another --out, or --overwrite to replace the run."
            ) from error


def _unnamed(form: str | None) -> str | None:
    """A form without the adapter's name, since its path may change."""
    return form and form.partition(", with ")[0]


def belongs_to(model: HookedModel) -> Belongs:
    """The model that a table made with it belongs to."""
    return Belongs(model_name(model), fingerprint(model))


PACKAGES = (
    *("kb-lens", "torch", "transformer-lens", "transformers", "lm-eval"),
    *("plotly", "pandas", "numpy"),
)
"""The packages whose versions are noted."""


@contextmanager
def later_stage(folder: str | os.PathLike[str], name: str) -> Iterator[None]:
    """Time a stage after a finished job; note it and what it writes in the job's ``run.json``.

    A folder without ``run.json`` does not get one.
    """
    start = time.perf_counter()
    with noting(folder):
        yield
        with step(Path(folder)):
            content = load_record(folder)
            if content:
                content.setdefault("seconds", {})[name] = round(time.perf_counter() - start, 2)
                write_json(Path(folder) / RECORD, content, indent=2)


def load_record(folder: str | os.PathLike[str]) -> dict[str, Any]:
    """The content of ``run.json``; empty if there is none.

    Raises:
        ValueError: If it is damaged.
    """
    path = Path(folder) / RECORD
    if not path.exists():  # anything there that is not a file is refused
        return {}
    content = asdict(read_json(path, _File))
    return {name: value for name, value in content.items() if value is not None}


def check_record(folder: str | os.PathLike[str], whose: Belongs) -> None:
    """Raise `ValueError` if ``run.json`` is damaged, or of another model than `whose`."""
    if model := load_record(folder).get("model"):
        stated = Belongs(model.get("name") or "", model.get("fingerprint") or "")
        stated.check(whose, f"'{Path(folder) / RECORD}'")


@dataclass(frozen=True)
class _File:
    """The content of ``run.json``; fields that older versions did not write may be missing."""

    command: str
    arguments: dict[str, Any]
    model: dict[str, str | None]
    items: dict[str, str] | None = None
    execution: dict[str, Any] | None = None
    seconds: dict[str, float] | None = None
    versions: dict[str, str | None] | None = None
    python: str | None = None
    platform: str | None = None
    cpus: int | None = None


def _plain(value: Any) -> Any:
    """The value as JSON returns it."""
    return json.loads(json.dumps(value, default=str))


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
