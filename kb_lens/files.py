"""Whole files: none is left half-written, and none has a name that a system would misread."""

from __future__ import annotations

import errno
import glob
import os
import platform
import re
import shutil
import threading
import unicodedata
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path, PurePath

import psutil
from filelock import FileLock, Timeout

from kb_lens.rows import shown
from kb_lens.written import note

_HOST = re.sub(r"\W", "_", platform.node())
_UNFINISHED = re.compile(r"\.(?P<host>\w*)-(?P<process>\d+)-\d+\.part$")
"""The end of the name of what is not whole yet: who writes it."""
_ERROR_NUMBER = re.compile(r"\(os error (\d+)\)")
"""How libraries that are written in Rust tell of an error of the system."""
_NOT_IN_NAMES = '/\\:*?"<>|'
"""What Windows or Unix refuse in the name of a file, or read as something else."""
_DEVICES = {
    "con",
    "prn",
    "aux",
    "nul",
    *(f"{port}{n}" for port in ("com", "lpt") for n in range(10)),
}
"""Names that Windows keeps for devices, whatever their ending."""
_LONGEST_NAME = 100
_NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP)
"""How a file system says that it has no locks."""


@contextmanager
def moved_whole(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a path beside `path` to write to; it takes the place of `path` when all went well."""
    path = Path(path)
    unfinished = unfinished_name(path)
    with naming_file(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        note(path)  # before it is there: whoever is killed in between has noted it
        delete_abandoned_beside(path)
        try:
            unfinished.touch()
            # What the umask allows: some libraries write files that their owner alone can read.
            mode = unfinished.stat().st_mode
            yield unfinished
            unfinished.chmod(mode)
            unfinished.replace(path)
        finally:
            unfinished.unlink(missing_ok=True)


@contextmanager
def folder_moved_whole(folder: Path) -> Iterator[Path]:
    """Yield a new folder beside `folder`, which it becomes unless another process was faster."""
    unfinished = unfinished_name(folder)
    with naming_file(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        delete_abandoned_beside(folder)
        try:
            unfinished.mkdir()
            yield unfinished
            as_the_umask_allows(unfinished)
            if not folder.exists():
                unfinished.rename(folder)
        finally:
            delete(unfinished)


def as_the_umask_allows(folder: Path) -> None:
    """Let others read the files as far as the folder's mode, which the umask gave it, allows."""
    mode = folder.stat().st_mode & 0o666
    for path in folder.rglob("*"):
        if path.is_file():
            path.chmod(mode)


@contextmanager
def naming_file(path: Path) -> Iterator[None]:
    """Say of which file an error of the system is: a full disk does not, nor do many libraries."""
    try:
        yield
    except OSError as error:
        is_known = error.filename and not str(error.filename).endswith(".part")
        if error.errno is not None and not is_known:  # without a number it is a text
            error.filename = str(path)
        raise
    except Exception as error:  # what is written in Rust raises kinds of its own
        number = _ERROR_NUMBER.search(str(error))
        if number is None:
            raise
        raise OSError(int(number[1]), os.strerror(int(number[1])), str(path)) from error


def unfinished_name(path: Path) -> Path:
    """A name beside `path` for what is not whole yet; no two threads anywhere have the same."""
    writer = f"{_HOST}-{os.getpid()}-{threading.get_native_id()}"
    return path.with_name(f"{path.name}.{writer}.part")


def delete_abandoned(folder: str | os.PathLike[str], *, alone: bool = False) -> None:
    """Delete what processes that were killed left half-written in a folder and below it.

    Args:
        folder: Where to look.
        alone: Whether nobody else can be writing there: then what was written on other machines,
            whose processes cannot be looked for here, goes too.
    """
    for path in Path(folder).rglob("*.part"):
        if writer_is_dead(path) or (alone and _UNFINISHED.search(path.name)):
            delete(path)


def delete_abandoned_beside(path: Path) -> None:
    """Delete what killed processes left half-written of one file or folder."""
    for unfinished in path.parent.glob(f"{glob.escape(path.name)}.*.part"):
        if writer_is_dead(unfinished):
            delete(unfinished)


def writer_is_dead(path: Path) -> bool:
    """Whether a half-written file's writer was a process of this machine that is no more."""
    writer = _UNFINISHED.search(path.name)
    if writer is None or writer["host"] != _HOST:
        return False
    try:
        # Killed, it keeps its number until its parent has looked: in some containers for ever.
        return psutil.Process(int(writer["process"])).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True
    except psutil.AccessDenied:
        return False


def delete(path: Path) -> None:
    """Delete a file, or a folder and all that is in it, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


@contextmanager
def locked(path: str | os.PathLike[str], timeout: float = -1) -> Iterator[bool]:
    """Hold the lock of a name inside the block, so that other processes wait for each other.

    The lock is the operating system's: it ends with the process, however that ends. Where a file
    system has none, nobody waits for anybody, and a warning says so.

    Args:
        path: The file of the lock; it is made and stays.
        timeout: Seconds to wait for it; -1 waits for ever.

    Yields:
        Whether it was to be had.
    """
    path = Path(path)
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        before = path.stat()
        # FileLock would take the right to lock from a group that the umask gives it to. In place of
        # a lock that a file system does not have it would watch for a file that nobody deletes.
        mode = before.st_mode & 0o777
        lock = FileLock(path, timeout=timeout, mode=mode, fallback_to_soft=False)
        try:
            lock.acquire()
        except Timeout:
            yield False
            return
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
            warnings.warn(
                f"'{path.parent}' is on a file system without locks: let one process at a time "
                "work there.",
                stacklevel=3,  # the block
            )
            yield True
            return
        try:
            # Who had it before may have deleted the file: then it is the lock of nothing.
            if path.exists() and path.stat().st_ino == before.st_ino:
                yield True
                return
        finally:
            lock.release()


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write UTF-8 text; folders are made."""
    with moved_whole(path) as unfinished:
        unfinished.write_text(text, encoding="utf-8")


def shared_name(text: str) -> str:
    """A text as it may be shared: of a path its last part, without home folder and user name."""
    is_path = text.startswith(("/", "~", ".", "\\")) or text[1:3] in (":\\", ":/")
    if is_path:
        return PurePath(os.path.abspath(text).replace("\\", "/")).name or text  # noqa: PTH100
    home = os.path.expanduser("~")  # noqa: PTH111 - Path.home() fails where there is none
    return text.replace(home, "~") if len(home) > 1 else text


def check_file_name(name: object, what: str) -> None:
    """Check a text that becomes the name of a file or folder on any system.

    Args:
        name: The text.
        what: What it is the name of, for the message: ``condition``.

    Raises:
        ValueError: If the text leads to another folder, or Windows, macOS or Linux would refuse it
            or read it as something else.
    """
    fault = "it is no text" if not isinstance(name, str) else _fault_of_name(name)
    if fault:
        article = "an" if what[0] in "aeiou" else "a"
        raise ValueError(
            f"{shown(name)} cannot name {article} {what}: it becomes the name of a file or folder, "
            f"and {fault}. Allowed are up to {_LONGEST_NAME} characters without any of "
            f"{' '.join(_NOT_IN_NAMES)}, no space or dot at the end, and not CON, NUL and the like."
        )


def _fault_of_name(name: str) -> str:
    """Why a text cannot be a file's name; nothing if it can."""
    if not name.strip(". "):
        return "it is empty, or dots alone"
    if refused := [character for character in name if character in _NOT_IN_NAMES]:
        return f"it has {refused[0]!r} in it"
    if not name.isprintable():
        return "it has a character in it that cannot be printed"
    if name[-1] in ". " or name[0] == " ":
        return "it begins or ends with a space, or ends with a dot"
    if name.partition(".")[0].strip().casefold() in _DEVICES:
        return "Windows has a device of that name"
    # In some scripts a character has up to four bytes; file systems allow 255, suffix included.
    if len(name) > _LONGEST_NAME or len(name.encode()) > 2 * _LONGEST_NAME:
        return f"it is too long ({len(name)} characters, {len(name.encode())} bytes)"
    return ""


def folded_name(name: str) -> str:
    """What macOS and Windows take a file's name for: names that fold to the same are one file."""
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", name).casefold())


def bank_folder() -> Path:
    """The bank's folder: inside an installed wheel, beside the package in a checkout."""
    spec = find_spec("kb_lens")
    package = Path(spec.origin).parent if spec and spec.origin else Path(__file__).parent
    installed = package / "_question_bank"
    return installed if installed.is_dir() else package.parent / "question_bank"
