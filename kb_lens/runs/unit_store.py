"""Results of small units of work, kept so that a study can be killed at any moment and go on.

A unit (one condition of a model on one benchmark) is named by what is asked, its file by what was
answered: ``<key>-<digest of the content>.parquet``. A file is there whole or not at all, and one
that a disk or a hand has altered is known by its name.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from filelock import FileLock, Timeout

from kb_lens.evaluation.results import EvaluationResult
from kb_lens.files import moved_whole
from kb_lens.statistics import Metric

_METADATA = b"kb_lens"
"""Under which name the schema of a file carries the metrics and details."""


def unit_key(content: Any) -> str:
    """The name of a unit: 32 hex digits of the SHA-256 of its description.

    Args:
        content: JSON data that says everything the result depends on.

    Raises:
        ValueError: If it holds a number that is not finite.
    """
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


@dataclass(frozen=True)
class UnitStore:
    """A folder of finished units; any number of processes may share it."""

    folder: str | os.PathLike[str]
    """Where the files are; made when something is written."""

    def write(self, key: str, result: EvaluationResult) -> Path:
        """Write a unit's result into a file of its own, and return its path."""
        content = _to_bytes(result)
        path = Path(self.folder) / f"{key}-{_digest(content)}.parquet"
        with moved_whole(path) as part:
            part.write_bytes(content)
        return path

    def read(self, key: str) -> EvaluationResult | None:
        """The result of a unit, as it was written; None if there is no whole file of it.

        A damaged file gets ``.damaged`` behind its name, with a warning: the unit is to be redone.
        """
        content = self._whole(key)
        return None if content is None else _from_bytes(content)

    def __contains__(self, key: str) -> bool:
        """Whether the unit has a whole file; a damaged one is treated as by `read`."""
        return self._whole(key) is not None

    def _whole(self, key: str) -> bytes | None:
        for path in sorted(Path(self.folder).glob(f"{key}-*.parquet")):
            with suppress(FileNotFoundError):  # another process has moved it aside meanwhile
                content = path.read_bytes()
                if path.stem == f"{key}-{_digest(content)}":
                    return content
                path.replace(f"{path}.damaged")
                warnings.warn(
                    f"'{path}' is damaged: it was moved to '{path.name}.damaged' and the unit has "
                    "to be done again.",
                    stacklevel=3,
                )
        return None

    @contextmanager
    def claimed(self, key: str) -> Iterator[bool]:
        """Yield True if nobody else is at the unit, who then has to wait; False if somebody is.

        The claim is a lock of the operating system: it ends with the process, however that ends.
        """
        folder = Path(self.folder)
        (folder / "locks").mkdir(parents=True, exist_ok=True)
        with ExitStack() as stack:
            mine = True
            try:
                stack.enter_context(FileLock(folder / "locks" / f"{key}.lock", timeout=0))
            except Timeout:
                mine = False
            if mine:  # what a holder who was killed has left half-written
                for part in folder.glob(f"{key}-*.part"):
                    part.unlink(missing_ok=True)
            yield mine


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


def _to_bytes(result: EvaluationResult) -> bytes:
    """A parquet file of the items, with all the rest as JSON in the metadata of its schema."""
    names = {field.name for field in fields(result)} - {"items", "metrics"}
    rest = {name: getattr(result, name) for name in sorted(names)} | {"metrics": result.to_json()}
    table = pa.Table.from_pandas(result.items)
    metadata = {**(table.schema.metadata or {}), _METADATA: json.dumps(rest)}
    file = io.BytesIO()
    pq.write_table(table.replace_schema_metadata(metadata), file)
    return file.getvalue()


def _from_bytes(content: bytes) -> EvaluationResult:
    table = pq.read_table(pa.BufferReader(content))
    rest = json.loads(table.schema.metadata[_METADATA])
    metrics = {name: Metric(**metric) for name, metric in rest.pop("metrics").items()}
    return EvaluationResult(metrics=metrics, items=table.to_pandas(), **rest)
