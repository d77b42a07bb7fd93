"""Good files, damaged in the ways in which files get damaged: a reader reads them or refuses."""

import copy
import json
import os

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

EXAMPLES = int(os.environ.get("KB_LENS_FUZZ", "50"))
"""Damaged files a reader and kind of damage; KB_LENS_FUZZ=1000 looks longer."""

fuzzed = settings(
    max_examples=EXAMPLES,
    deadline=None,
    # Each file replaces the one before in the test's folder.
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)

_SNIPPETS = (
    *(b"\x00", b'"', b",", b";", b"\t", b"\n", b"\r", b"\r\n\r\n", b"\\", b"\xe9", b"\xff\xfe"),
    *(b"\xef\xbb\xbf", b"{", b"}", b"[", b"]", b"[" * 10_000, b"1" * 5_000, b"NaN", b"-Infinity"),
    *(b"1e999", b"\\ud800", b"\\u0000", b"x" * 140_000, "\u2028".encode(), "\u202e".encode()),
)
_VALUES = (
    *(None, True, False, 0, 1, -1, 7, 1.5, 10**400, "", " ", "yes", "0", "A", "a\nb", "../x"),
    *("x" * 200, [], {}, [None], [""], ["a", "b", "c", "d"], [[]], {"a": 1}),
    *({"text": [], "label": []}, {"text": "abcd", "label": "ABCD"}, {"ans0": []}),
)


@st.composite
def damaged_bytes(draw, data):
    """Bytes flipped, cut out, doubled, put in; or the rest of the file lost."""
    for _ in range(draw(st.integers(1, 3))):
        start = draw(st.integers(0, len(data)))
        end = start + draw(st.integers(0, 60))
        before, middle, after = data[:start], data[start:end], data[end:]
        flipped = bytes(byte ^ draw(st.sampled_from((1, 32, 128))) for byte in middle[:1])
        snippet = draw(st.sampled_from(_SNIPPETS) | st.binary(max_size=4))
        data = draw(
            st.sampled_from(
                (
                    before + flipped + middle[1:] + after,
                    before + after,
                    before + middle + middle + after,
                    before + snippet + middle + after,
                    before,
                )
            )
        )
    return data


@st.composite
def damaged_rows(draw, rows):
    """JSON lines with a value of another type, a key lost or renamed, or a row lost or doubled."""
    rows = copy.deepcopy(rows)
    for _ in range(draw(st.integers(1, 3))):
        row = draw(st.sampled_from(rows))
        holder, key = draw(st.sampled_from([(row, key) for key in row] + list(_inside(row))))
        change = draw(st.sampled_from(("value", "value", "lost", "double")))
        if change == "value":
            holder[key] = copy.deepcopy(draw(st.sampled_from(_VALUES)))
        elif change == "double":
            rows.append(copy.deepcopy(row))
        elif isinstance(holder, dict) and len(holder) > 1:
            holder[f"{key}s"] = holder.pop(key)
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def _inside(value):
    """Every place of a value inside a row: what holds it, and its key or index."""
    inner = value.values() if isinstance(value, dict) else value
    for nested in inner:
        if isinstance(nested, dict | list):
            yield from ((nested, key) for key in (nested if isinstance(nested, dict) else ()))
            yield from ((nested, k) for k in range(len(nested)) if isinstance(nested, list))
            yield from _inside(nested)


@st.composite
def damaged_table(draw, table):
    """CSV with a cell or column lost, doubled or of another kind, or a row lost or doubled."""
    n_columns = len(table[0])
    table = [list(row) for row in table]
    delimiter = draw(st.sampled_from(",;\t"))
    for _ in range(draw(st.integers(1, 3))):
        row = draw(st.sampled_from(table))
        column = draw(st.integers(0, n_columns - 1))
        change = draw(st.sampled_from(("cell", "cell", "lost", "double", "column", "row")))
        for changed in table if change == "column" else [row]:
            _change_cell(draw, changed, column, change)
        if change == "row":
            table.append(list(row))
    quoted = (delimiter.join(map(_quoted, row)) for row in table)
    return (draw(st.sampled_from(("\n", "\r\n", "\n\n"))).join(quoted) + "\n").encode()


def _change_cell(draw, row, column, change):
    if column >= len(row) or change == "row":
        return
    if change == "cell":
        row[column] = draw(st.sampled_from([str(value) for value in _VALUES]))
    elif change == "lost":
        del row[column]
    else:
        row.insert(column, row[column])


def _quoted(cell):
    return f'"{cell.replace(chr(34), chr(34) * 2)}"'


def check_read_or_refused(read, path):
    """A reader reads a file, or says in one line that names it what is wrong."""
    try:
        read(path)
    except ValueError as error:
        message = str(error)
        assert path.name in message, message
        assert len(message.splitlines()) == 1, message
        assert len(message) < 2_000, message
