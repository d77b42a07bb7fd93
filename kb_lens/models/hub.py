"""Upload folders to the Hugging Face hub and download files from it, only on request."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

HUB = "hf://"
"""The beginning of a file's address on the hub: ``hf://USER/NAME[@REVISION][/FILE]``."""
_ADDRESS = re.compile(
    r"hf://(?P<repository>[^/@]+/[^/@]+)(@(?P<revision>[^/]+))?(/(?P<file>.+))?", re.DOTALL
)


def check_push(repository: str, what: str = "the repository") -> None:
    """Refuse a name that cannot be a repository on the hub, and a push in offline mode.

    Args:
        repository: ``USER/NAME``.
        what: Its name in the message.

    Raises:
        ValueError: Says which.
    """
    from huggingface_hub.constants import HF_HUB_OFFLINE
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(repository or "")  # it accepts None
        if "/" not in repository:
            raise ValueError("It names no user or organization.")
    except ValueError as error:
        raise ValueError(
            f"{what} is {repository!r}, not a repository of the hub: write USER/NAME. {error}"
        ) from error
    if HF_HUB_OFFLINE:
        raise ValueError(f"cannot push to {repository!r}: HF_HUB_OFFLINE is set. Unset it.")


def push_folder(
    folder: str | os.PathLike[str], repository: str, *, leave_out: tuple[str, ...] = ()
) -> str:
    """Upload a folder; a missing repository is created, private.

    Args:
        folder: What is uploaded.
        repository: ``USER/NAME``.
        leave_out: Patterns of files that are not uploaded.

    Returns:
        Its address.

    Raises:
        ValueError: If the hub cannot be reached or refuses.
    """
    from huggingface_hub import HfApi

    check_push(repository)
    with _pushing(repository):
        # private: making it public is a second step, since the checkpoint was not measured
        address = HfApi().create_repo(repository, private=True, exist_ok=True)
        HfApi().upload_folder(
            repo_id=repository, folder_path=Path(folder), ignore_patterns=list(leave_out)
        )
    return str(address)


def push_data_set(
    folder: str | os.PathLike[str],
    repository: str,
    *,
    private: bool = True,
    overwrite: bool = False,
) -> str:
    """Upload a folder as a data set, in one commit; a missing data set is created.

    Args:
        folder: What is uploaded.
        repository: ``USER/NAME``.
        private: Whether a new data set is private.
        overwrite: Whether the folder replaces the files that are there. The data set's history
            keeps them.

    Returns:
        Its address.

    Raises:
        ValueError: If the hub cannot be reached or refuses, or there are files already.
    """
    from huggingface_hub import HfApi

    check_push(repository)
    where: dict[str, Any] = {"repo_id": repository, "repo_type": "dataset"}
    with _pushing(repository):
        address = HfApi().create_repo(**where, private=private, exist_ok=True)
        present = set(HfApi().list_repo_files(**where)) - {".gitattributes"}  # the hub's own
    if present and not overwrite:
        raise ValueError(
            f"data set {repository!r} has files already, such as {min(present)!r}: choose another "
            "name, or overwrite (--overwrite) to replace them."
        )
    # results of two runs in one folder would be read as one run
    stale = "*" if present else None
    with _pushing(repository):
        HfApi().upload_folder(**where, folder_path=Path(folder), delete_patterns=stale)
    return str(address)


@contextmanager
def _pushing(repository: str) -> Iterator[None]:
    """Say in one line why the hub did not accept a push."""
    try:
        yield
    except Exception as error:  # the client raises many kinds
        raise ValueError(
            f"could not be pushed to {repository!r}: {_reason(error)}. Check the network and "
            "`hf auth login`."
        ) from error


def from_hub(address: str, file: str) -> Path:
    """A file of the hub, downloaded or from the cache of the hub's client.

    Args:
        address: ``hf://USER/NAME[@REVISION][/FILE]``.
        file: Its name if the address has none.

    Raises:
        ValueError: If it is not an address, or the file cannot be downloaded.
    """
    from huggingface_hub import hf_hub_download

    match = _ADDRESS.fullmatch(address)
    if match is None:
        raise ValueError(f"{address!r} is not a file of the hub: write hf://USER/NAME[@REVISION].")
    try:
        path = hf_hub_download(
            match["repository"], match["file"] or file, revision=match["revision"]
        )
    except Exception as error:  # the client raises many kinds
        raise ValueError(
            f"cannot get {match['file'] or file!r} of {match['repository']!r} from the hub: "
            f"{_reason(error)}. Check the name, the network and `hf auth login`."
        ) from error
    return Path(path)


def _reason(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
