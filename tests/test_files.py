"""CSV is read as it is meant or refused in one line; names of files are names on any system."""

import errno
import os
import subprocess
import sys

import pytest
from damaged_files import check_read_or_refused, damaged_bytes, damaged_table, fuzzed
from hypothesis import given
from hypothesis import strategies as st

from kb_lens.files import (
    _HOST,
    check_file_name,
    folded_name,
    locked,
    moved_whole,
    write_text,
    writer_is_dead,
)
from kb_lens.rows import read_csv

COLUMNS = ("id", "text")
ROWS = (("a", "Is it, or not?"), ("b", "Is caf\u00e9 a drink?"))
PLAIN = 'id,text\na,"Is it, or not?"\nb,Is caf\u00e9 a drink?\n'


@pytest.mark.parametrize(
    "content",
    [
        PLAIN.encode(),
        PLAIN.encode("utf-8-sig"),
        PLAIN.rstrip().encode(),
        PLAIN.replace("\n", "\r\n").encode(),
        PLAIN.replace("\n", "\r").encode(),
        PLAIN.replace("\n", "\n\n \n").encode(),
        f"\n\r\n{PLAIN}".encode(),
        PLAIN.replace("id,", "id;").replace("a,", "a;").replace("b,", "b;").encode(),
        PLAIN.replace("id,", "id\t").replace("a,", "a\t").replace("b,", "b\t").encode(),
        PLAIN.replace("id,text", '" id ", "text"').replace(', "', ',"').encode(),
    ],
    ids=["plain", "bom", "end", "windows", "mac", "blank", "above", "semicolons", "tabs", "quoted"],
)
def test_what_editors_and_spreadsheets_write_is_read(tmp_path, content):
    path = tmp_path / "t.csv"
    path.write_bytes(content)
    table = read_csv(path)
    assert table.columns == COLUMNS
    assert [tuple(row.values()) for _, row in table.rows] == list(ROWS)


def test_a_column_s_name_may_have_another_delimiter_in_it(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text('"a, b, c, d";e\n1;2\n')
    assert read_csv(path).columns == ("a, b, c, d", "e")


def test_rows_are_numbered_as_a_spreadsheet_does(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text('id,text\n\na,"two\nlines"\n,\nb,x\n')
    assert [number for number, _ in read_csv(path).rows] == [3, 5]


FAULTS = {
    "cp1252": (PLAIN.encode("cp1252"), r"perhaps cp1252: line 3 has the byte 0xe9\)\. Save it"),
    "cp1252 after bom": (b"\xef\xbb\xbfid,text\n\xe9", "line 2 has the byte 0xe9"),
    "utf-16": (PLAIN.encode("utf-16"), "it seems to be UTF-16"),
    "utf-16 big": (b"\xfe\xff" + PLAIN.encode("utf-16-be"), "it seems to be UTF-16"),
    "utf-16 bare": ("id,text\n".encode("utf-16-le"), "a NUL byte; perhaps it is UTF-16"),
    "nul": (b"id,text\na,\0\n", "line 2 has a NUL byte"),
    "open quote": (b'id,text\na,x\nb,"y\nc,z\n', "line 3: .*Is a double quote missing"),
    "odd quote": (b'id,text\na,"x"y\n', "line 2: .*Is a double quote missing"),
    "huge": (b"id,text\na," + b"x" * 140_000, r"line 2: field larger than field limit"),
    "cell more": (b"id,text\na,x,\n", "row 2: 3 cells under 2 columns"),
    "cell less": (b"id,text\n\na\n", "row 3: 1 cells under 2 columns"),
    "column twice": (b"id,text,id\na,x,b\n", "row 1 has a column twice: 'id'"),
}


@pytest.mark.parametrize(("content", "message"), FAULTS.values(), ids=FAULTS)
def test_what_would_be_misread_is_refused(tmp_path, content, message):
    path = tmp_path / "t.csv"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"t\.csv'.*{message}"):
        read_csv(path)


def test_what_is_no_file_is_refused(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match=r"is a folder: give a CSV file"):
        read_csv(tmp_path)
    with pytest.raises(ValueError, match=r"no such CSV file: '.*none\.csv'"):
        read_csv(tmp_path / "none.csv")
    # Python 3.14 finds that there is no such file.
    with pytest.raises(ValueError, match=r"cannot be read: File name too long|no such CSV file"):
        read_csv(tmp_path / ("x" * 300))
    (tmp_path / "t.csv").write_text(PLAIN)

    def deny(path):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("pathlib.Path.read_bytes", deny)  # root may read everything
    with pytest.raises(ValueError, match=r"t\.csv' cannot be read: Permission denied"):
        read_csv(tmp_path / "t.csv")


@fuzzed
@given(content=st.binary() | damaged_bytes(PLAIN.encode()) | damaged_table([COLUMNS, *ROWS]))
def test_any_file_is_read_or_refused(tmp_path, content):
    path = tmp_path / "t.csv"
    path.write_bytes(content)
    check_read_or_refused(read_csv, path)


# --- names of files ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["gender", "sexual orientation", "lambda 1.5", ".x", "x" * 100, "\u5e74\u9f84", "R&D"]
)
def test_a_name_that_any_system_takes(tmp_path, name):
    check_file_name(name, "dimension")
    (tmp_path / f"{name}.json").touch()
    assert [path.name for path in tmp_path.iterdir()] == [f"{name}.json"]


@pytest.mark.parametrize(
    "name",
    [
        *("", " ", ".", "..", " .. ", "/any/where", "../../x", "a/b", "a\\b", "a:b", "a*", "a?"),
        *("con", "CON", "nul.txt", "Com1", "lpt9", "a.", "a ", " a", "a\0b", "a\nb", "a\x7f"),
        *("a\u202eb", "\ud800", "a\u2028b", "x" * 101, "\u5e74" * 99, None, 5, ["a"]),
    ],
    ids=repr,
)
def test_a_name_that_some_system_would_misread(name):
    with pytest.raises(ValueError, match=r"cannot name an? (dimension|item)") as error:
        check_file_name(name, "dimension" if name else "item")
    assert len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize("pair", ["Race race", "stra\u00dfe STRASSE", "caf\u00e9 cafe\u0301"])
def test_names_that_macos_or_windows_takes_for_the_same(pair):
    first, second = map(folded_name, pair.split())
    assert first == second


# --- what the killed leave, and what a disk refuses ----------------------------------------------


def test_a_file_that_is_written_again_takes_what_the_killed_left_of_it(tmp_path, dead):
    left = tmp_path / f"a [1].csv.{_HOST}-{dead}-1.part"
    others = [
        tmp_path / f"a [1].csv.{_HOST}-{os.getpid()}-1.part",
        tmp_path / f"b.csv.{_HOST}-{dead}-1.part",
        tmp_path / "a [1].csv.part",
    ]
    for path in (left, *others):
        path.write_text("half")
    write_text(tmp_path / "a [1].csv", "whole")
    assert not left.exists()
    assert all(path.exists() for path in others)


def test_who_was_killed_and_has_a_number_yet_is_dead(tmp_path):
    """Until its parent has looked, the process is listed."""
    with subprocess.Popen([sys.executable, "-c", ""]) as child:
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        assert writer_is_dead(tmp_path / f"a.csv.{_HOST}-{child.pid}-1.part")
    assert not writer_is_dead(tmp_path / f"a.csv.{_HOST}-{os.getpid()}-1.part")


@pytest.mark.parametrize(
    ("error", "number"),
    [
        (OSError(errno.ENOSPC, "No space left"), errno.ENOSPC),
        (OSError(errno.EDQUOT, "Quota", "x.csv.host-1-1.part"), errno.EDQUOT),
        (Exception("No space left on device (os error 28)"), errno.ENOSPC),
        (RuntimeError("I/O error: Read-only file system (os error 30)"), errno.EROFS),
    ],
    ids=repr,
)
def test_an_error_of_the_system_names_its_file(tmp_path, error, number):
    with pytest.raises(OSError, match=r"t\.csv'") as caught, moved_whole(tmp_path / "t.csv"):
        raise error
    assert caught.value.errno == number
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("error", [KeyError("k"), OSError("no number")], ids=repr)
def test_what_is_no_error_of_the_system_stays_what_it_is(tmp_path, error):
    with pytest.raises(type(error)) as caught, moved_whole(tmp_path / "t.csv"):
        raise error
    assert caught.value is error


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_where_there_are_no_locks_nobody_waits_and_a_warning_says_so(tmp_path, monkeypatch, number):
    fcntl = pytest.importorskip("fcntl", reason="Windows has other locks")

    def refuse(descriptor, operation):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.warns(UserWarning, match="without locks: let one process at a time") as heard:
        held = [taken(tmp_path / "a.lock", timeout) for timeout in (0, -1)]
    assert held == [True, True]
    assert len(heard) == 2


def taken(path, timeout):
    """Whether a lock is to be had."""
    with locked(path, timeout=timeout) as free:
        return free


def test_another_error_of_a_lock_is_not_hidden(tmp_path, monkeypatch):
    fcntl = pytest.importorskip("fcntl", reason="Windows has other locks")

    def refuse(descriptor, operation):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(OSError, match="Input/output"), locked(tmp_path / "a.lock", timeout=0):
        pass
