"""Bars for who watches, lines for a log."""

import sys
from contextlib import suppress

import pytest

from kb_lens import progress
from kb_lens.models.library_bars import no_library_bars
from kb_lens.progress import duration, progress_bar


@pytest.fixture
def clock(monkeypatch):
    """A clock that the test moves; standard error is a log."""
    now = [0.0]
    monkeypatch.setattr(progress, "monotonic", lambda: now[0])
    monkeypatch.setattr(progress, "_is_watched", lambda: False)
    return now


def test_a_log_has_a_line_every_half_minute_and_one_at_the_end(clock, capsys):
    for _ in progress_bar(range(90), desc="scoring", mininterval=0):
        clock[0] += 1
    lines = ["scoring: 30/90, 30 s", "scoring: 60/90, 60 s", "scoring: 90/90, 90 s", ""]
    assert capsys.readouterr().err.split("\n") == lines


def test_a_line_says_what_is_at_work_and_the_last_one_how_far_it_came(clock, capsys):
    with progress_bar(total=4, initial=1, desc="units", mininterval=0) as bar:
        clock[0] += 200
        bar.set_postfix_str("waiting for another process")
        bar.update(2)
    bar.close()  # a second time says nothing
    assert capsys.readouterr().err.splitlines() == [
        "units: 1/4, 3 min, waiting for another process",
        "units: 3/4, 3 min",
    ]


def test_what_was_interrupted_says_where(clock, capsys):
    with suppress(KeyError), progress_bar(total=9, desc="units") as bar:
        bar.update(2)
        raise KeyError
    assert capsys.readouterr().err == "units: 2/9, 0 s\n"


def test_bars_may_be_off(clock, capsys, monkeypatch):
    assert list(progress_bar("abc", shown=False)) == ["a", "b", "c"]
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(progress, "_is_watched", lambda: True)
    assert list(progress_bar("abc", shown=True, desc="letters")) == ["a", "b", "c"]
    assert "\rletters: 100%" in capsys.readouterr().err


@pytest.mark.parametrize(("stream", "watched"), [(True, True), (False, False)])
def test_a_terminal_is_watched_and_a_file_is_not(stream, watched, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: stream, raising=False)
    assert progress._is_watched() is watched
    monkeypatch.setitem(sys.modules, "ipykernel", sys)
    assert progress._is_watched()


def test_times_are_said_as_people_do():
    assert [duration(s) for s in (0.4, 35, 119, 600, 12000)] == [
        *("0 s", "35 s", "119 s", "10 min", "3 h 20 min"),
    ]


def test_transformers_shows_no_bar_while_a_model_is_read(capsys):
    from transformers.utils import logging

    with no_library_bars(), no_library_bars():
        list(logging.tqdm("abc", desc="Loading weights"))
    assert capsys.readouterr().err == ""
    list(logging.tqdm("abc", desc="Loading weights"))
    assert "Loading weights" in capsys.readouterr().err
