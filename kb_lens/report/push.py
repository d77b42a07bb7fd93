"""A folder of results as a data set of the Hugging Face hub."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from kb_lens.files import shared_name, write_text
from kb_lens.models.hub import check_push, push_data_set
from kb_lens.records.objects import write_json
from kb_lens.report.card import results_card
from kb_lens.runs.record import RECORD, load_record

_CARD = "README.md"
_LEFT_HERE = (".*", "store", "*.part")
"""Files that are not shared: locks, pieces of work, half-written files."""
_TEXTS = ("system", "instruction")
"""Arguments that are not paths, even if they look like one."""


def push_results(
    folder: str | os.PathLike[str],
    repository: str,
    *,
    private: bool = True,
    overwrite: bool = False,
) -> str:
    """Upload a folder of results to the Hugging Face hub, as a data set with a card.

    ``run.json`` is uploaded without this machine's folders and without ``execution``; hidden files
    and ``store`` are not uploaded. The folder's ``README.md`` is the card; without one a card is
    written. ``hf download --repo-type dataset`` downloads the folder.

    Args:
        folder: A folder of ``run``, ``identify``, ``doctor``, ``evaluate`` or ``experiment``.
        repository: ``USER/NAME``.
        private: Whether a new data set is private; an existing one is not changed.
        overwrite: Whether the folder may replace existing files. The data set's history keeps them.

    Returns:
        The data set's address.

    Raises:
        ValueError: If the folder has no results or names your home folder, the data set has files
            already, or the hub cannot be reached or refuses.
    """
    check_push(repository)
    with TemporaryDirectory() as temporary:
        staged = Path(temporary) / "results"
        _copy(Path(folder), staged)
        card = results_card(staged, repository)
        if not (staged / _CARD).exists():
            write_text(staged / _CARD, card)
        _check_names(staged)
        return push_data_set(staged, repository, private=private, overwrite=overwrite)


def _copy(folder: Path, staged: Path) -> None:
    """Copy the shared files of a folder, every ``run.json`` without this machine's folders."""
    if not folder.is_dir():
        raise ValueError(f"no such folder: '{folder}'. Give one that kb-lens wrote.")
    shutil.copytree(folder, staged, ignore=shutil.ignore_patterns(*_LEFT_HERE))
    for path in staged.rglob(RECORD):
        record = load_record(path.parent)
        record.pop("execution", None)
        arguments = record["arguments"].items()
        record["arguments"] = {
            name: value if name in _TEXTS else _shared(value) for name, value in arguments
        }
        write_json(path, record, indent=2)


def _shared(value: Any) -> Any:
    """A value with paths reduced to file names."""
    if isinstance(value, list):
        return [_shared(item) for item in value]
    if isinstance(value, str):  # also NAME=PATH
        return "=".join(map(shared_name, value.split("=")))
    return value


def _check_names(folder: Path) -> None:
    """Raise `ValueError` if a file names the user's home folder: older versions wrote paths."""
    home = os.path.join(os.path.expanduser("~"), "")  # noqa: PTH111, PTH118 - as in shared_name
    for path in folder.rglob("*"):
        if len(home) > 1 and path.is_file() and home.encode() in path.read_bytes():
            raise ValueError(
                f"'{path.relative_to(folder)}' names your home folder, {home}: nothing was pushed. "
                "Measure again, or remove the path from it."
            )
