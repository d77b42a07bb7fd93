"""Write files whole, and refuse file names that some system would misread."""

from __future__ import annotations

import errno
import glob
import os
import platform
import re
import shutil
import threading
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path, PurePath

import psutil
from filelock import FileLock, Timeout

from kb_lens.rows import shown
from kb_lens.user_warnings import warn_user
from kb_lens.written import note

_HOST = re.sub(r"\W", "_", platform.node())
_UNFINISHED = re.compile(r"\.(?P<host>\w*)-(?P<process>\d+)-\d+\.part$")
"""The end of an unfinished file's name; it names the writer."""
_ERROR_NUMBER = re.compile(r"\(os error (\d+)\)")
"""How libraries written in Rust report a system error."""
_NOT_IN_NAMES = '/\\:*?"<>|'
"""Characters that Windows or Unix refuse in a file name, or read as something else."""
_DEVICES = {
    "con",
    "prn",
    "aux",
    "nul",
    *(f"{port}{n}" for port in ("com", "lpt") for n in range(10)),
}
"""Names that Windows reserves for devices, with any suffix."""
_LONGEST_NAME = 100
_NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP)
"""The errors by which a file system says that it has no locks."""


@contextmanager
def moved_whole(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a path beside `path` to write to; it replaces `path` if the block succeeds."""
    path = Path(path)
    unfinished = unfinished_name(path)
    with naming_file(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        note(path)  # first, so that the file is noted even if the process is killed here
        delete_abandoned_beside(path)
        try:
            unfinished.touch()
            # Some libraries write files that only their owner can read: the umask decides here.
            mode = unfinished.stat().st_mode
            yield unfinished
            unfinished.chmod(mode)
            unfinished.replace(path)
        finally:
            unfinished.unlink(missing_ok=True)


@contextmanager
def folder_moved_whole(folder: Path) -> Iterator[Path]:
    """Yield a new folder, which becomes `folder` unless another process was faster."""
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
    """Give the files the read rights that the umask gave the folder."""
    mode = folder.stat().st_mode & 0o666
    for path in folder.rglob("*"):
        if path.is_file():
            path.chmod(mode)


@contextmanager
def naming_file(path: Path) -> Iterator[None]:
    """Name the file in system errors: those of a full disk and of many libraries do not."""
    try:
        yield
    except OSError as error:
        is_known = error.filename and not str(error.filename).endswith(".part")
        if error.errno is not None and not is_known:  # an error without a number is a text
            error.filename = str(path)
        raise
    except Exception as error:  # libraries written in Rust raise their own kinds
        number = _ERROR_NUMBER.search(str(error))
        if number is None:
            raise
        raise OSError(int(number[1]), os.strerror(int(number[1])), str(path)) from error


def unfinished_name(path: Path) -> Path:
    """A name beside `path` for the unfinished file, different for every thread and machine."""
    writer = f"{_HOST}-{os.getpid()}-{threading.get_native_id()}"
    return path.with_name(f"{path.name}.{writer}.part")


def delete_abandoned(folder: str | os.PathLike[str], *, alone: bool = False) -> None:
    """Delete the half-written files of killed processes in a folder and below it.

    Args:
        folder: Where to look.
        alone: Whether no other process can be writing there. Then files from other machines, whose
            processes cannot be checked here, are deleted too.
    """
    for path in Path(folder).rglob("*.part"):
        if writer_is_dead(path) or (alone and _UNFINISHED.search(path.name)):
            delete(path)


def delete_abandoned_beside(path: Path) -> None:
    """Delete what killed processes left of one file or folder."""
    for unfinished in path.parent.glob(f"{glob.escape(path.name)}.*.part"):
        if writer_is_dead(unfinished):
            delete(unfinished)


def writer_is_dead(path: Path) -> bool:
    """Whether a half-written file's writer was a process of this machine that has ended."""
    writer = _UNFINISHED.search(path.name)
    if writer is None or writer["host"] != _HOST:
        return False
    try:
        # A killed process keeps its number until its parent waits for it: in some containers never.
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

    The lock is the operating system's: it ends with the process, however that ends. On a file
    system without locks no process waits, and a warning says so.

    Args:
        path: The file of the lock; it is made and stays.
        timeout: Seconds to wait for it; -1 waits for ever.

    Yields:
        Whether the lock was obtained.
    """
    path = Path(path)
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        before = path.stat()
        # By default FileLock takes away the group's right to lock, and on a file system without
        # locks it waits for a file that nobody deletes.
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
            warn_user(
                f"'{path.parent}' is on a file system without locks: let one process at a time "
                "work there.",
            )
            yield True
            return
        try:
            # The last holder may have deleted the file: then this lock protects nothing.
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
    """A text that can be shared: of a path its last part, without home folder and user name."""
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
    fault = "it is not a text" if not isinstance(name, str) else _fault_of_name(name)
    if fault:
        article = "an" if what[0] in "aeiou" else "a"
        raise ValueError(
            f"{shown(name)} cannot name {article} {what}: it becomes the name of a file or folder, "
            f"and {fault}. Allowed are up to {_LONGEST_NAME} characters without any of "
            f"{' '.join(_NOT_IN_NAMES)}, no space or dot at the end, and not CON, NUL and the like."
        )


def _fault_of_name(name: str) -> str:
    """Why a text cannot be a file's name; empty if it can."""
    if not name.strip(". "):
        return "it is empty or only dots"
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
    """A file name as macOS and Windows compare it: names with the same result are one file."""
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", name).casefold())


def bank_folder() -> Path:
    """The bank's folder: inside an installed wheel, beside the package in a checkout."""
    spec = find_spec("kb_lens")
    package = Path(spec.origin).parent if spec and spec.origin else Path(__file__).parent
    installed = package / "_question_bank"
    return installed if installed.is_dir() else package.parent / "question_bank"
