"""Work that is killed and shared ends with the same results.

The pieces here are numbers, and the work makes an entry from a number. Killed processes are forked
from a server that has imported kb_lens once.
"""

import multiprocessing
import random
import threading
import time
from functools import partial

import numpy as np
import pandas as pd
import pytest

from kb_lens.evaluation.entries import SUFFIX, result_from_bytes, result_to_bytes
from kb_lens.evaluation.results import EvaluationResult
from kb_lens.shared_work import Progress, entries, naming, watcher, work_off
from kb_lens.statistics import Metric
from kb_lens.store import Store, entry_key

QUIET = {"progress": False}


def some_units(n=30):
    return {entry_key({"unit": k}): k for k in range(n)}


def some_entry(number):
    draw = np.random.default_rng(number)
    items = pd.DataFrame({"item": [f"{number}-{k}" for k in range(50)], "x": draw.normal(size=50)})
    metrics = {"x": Metric(*draw.normal(size=3).tolist(), n=50)}
    result = EvaluationResult("fake", "original", "nowhere", "none", metrics, items, 10, 0, 0.0)
    return result_to_bytes(result)


def logged(number, log, seconds=0.0):
    """The work: a line in the log, some time, a result."""
    with log.open("a") as file:
        file.write(f"{number}\n")
    time.sleep(seconds)
    return some_entry(number)


def study(folder, log, seconds=0.0, begun=None):
    """A whole study, as a process does it."""
    if begun is not None:
        begun.set()
    work_off(
        some_units(), Store(folder, SUFFIX), partial(logged, log=log, seconds=seconds), **QUIET
    )


def hold(folder, key, begun):
    """Claim a unit and do nothing more."""
    with Store(folder, SUFFIX).claimed(key):
        begun.set()
        time.sleep(600)


def kill_after(process, log, n_units):
    """Kill a process when so many units were begun."""
    while not log.exists() or len(executed(log)) < n_units:
        time.sleep(0.01)
    process.kill()
    process.join()


def table(folder, units=None):
    """All results as the bytes of one CSV file, by key."""
    store = Store(folder, SUFFIX)
    results = {key: result_from_bytes(store.read(key)) for key in sorted(units or some_units())}
    items = pd.concat({key: result.items for key, result in results.items()})
    metrics = [(key, *result.to_json()["x"].values()) for key, result in results.items()]
    return (items.to_csv() + pd.DataFrame(metrics).to_csv()).encode()


def executed(log):
    return [int(line) for line in log.read_text().split()]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """The table of a study that nothing happened to."""
    folder = tmp_path_factory.mktemp("undisturbed")
    study(folder / "units", folder / "log")
    assert executed(folder / "log") == list(range(30))
    return table(folder / "units")


@pytest.fixture(scope="module")
def processes():
    """Makes processes that start fast."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["kb_lens.evaluation.entries", "kb_lens.shared_work", "pytest"])
    return context


@pytest.mark.slow
def test_a_study_that_is_killed_again_and_again_ends_the_same(processes, undisturbed, tmp_path):
    draw, kills = random.Random(0), 0
    arguments = (tmp_path / "units", tmp_path / "log", 0.02)
    for _ in range(20):
        begun = processes.Event()
        process = processes.Process(target=study, args=(*arguments, begun))
        process.start()
        assert begun.wait(60)
        time.sleep(draw.uniform(0, 0.05))
        process.kill()
        process.join()
        kills += process.exitcode == -9
    study(*arguments)
    assert kills > 10
    assert table(tmp_path / "units") == undisturbed
    assert len(executed(tmp_path / "log")) <= 30 + kills
    assert len(list((tmp_path / "units").glob("*-*"))) == 30  # and nothing half-written is left


@pytest.mark.slow
def test_two_processes_share_a_study(processes, undisturbed, tmp_path):
    arguments = (tmp_path / "units", tmp_path / "log", 0.02)
    both = [processes.Process(target=study, args=arguments) for _ in range(2)]
    for process in both:
        process.start()
    for process in both:
        process.join()
    assert [process.exitcode for process in both] == [0, 0]
    assert table(tmp_path / "units") == undisturbed
    assert sorted(executed(tmp_path / "log")) == list(range(30))


def test_the_units_of_one_that_died_are_done_by_another(processes, undisturbed, tmp_path):
    begun, key = processes.Event(), next(iter(some_units()))
    holder = processes.Process(target=hold, args=(tmp_path / "units", key, begun))
    holder.start()
    assert begun.wait(60)
    with Store(tmp_path / "units", SUFFIX).claimed(key) as free:
        assert not free
    killer = threading.Thread(target=kill_after, args=(holder, tmp_path / "log", 29))
    killer.start()
    study(tmp_path / "units", tmp_path / "log")
    killer.join()
    assert holder.exitcode == -9
    assert executed(tmp_path / "log") == [*range(1, 30), 0]
    assert table(tmp_path / "units") == undisturbed


def test_only_what_is_missing_or_damaged_is_done(undisturbed, tmp_path):
    study(tmp_path / "units", tmp_path / "log")
    lost, damaged = list(some_units())[3:5]
    next((tmp_path / "units").glob(f"{lost}-*")).unlink()
    next((tmp_path / "units").glob(f"{damaged}-*")).write_bytes(b"PAR1")
    with pytest.warns(UserWarning, match="is damaged"):
        study(tmp_path / "units", tmp_path / "again")
    assert executed(tmp_path / "again") == [3, 4]
    assert table(tmp_path / "units") == undisturbed


@pytest.mark.parametrize(
    ("raised", "match"),
    [(ValueError("too much"), "^2: too much$"), (KeyError("k"), "k"), (KeyboardInterrupt(), None)],
)
def test_what_was_finished_before_an_exception_stays(undisturbed, tmp_path, raised, match):
    def work(number):
        with naming(str(number)):
            if number == 2:
                raise raised
            return some_entry(number)

    store = Store(tmp_path / "units", SUFFIX)
    with pytest.raises(type(raised), match=match) as caught:
        work_off(some_units(), store, work, **QUIET)
    if isinstance(raised, KeyError):
        assert caught.value.__notes__ == ["This happened in 2."]
    assert [key in store for key in some_units()] == [True, True, *[False] * 28]
    study(tmp_path / "units", tmp_path / "log")
    assert executed(tmp_path / "log") == list(range(2, 30))
    assert table(tmp_path / "units") == undisturbed


def test_the_progress_bar_counts_what_is_done_already(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("kb_lens.progress._is_watched", lambda: True)
    store = Store(tmp_path, SUFFIX)
    work_off(some_units(2), store, some_entry, progress=True)
    capsys.readouterr()
    work_off(some_units(3), store, some_entry, progress=True)
    lines = [line for line in capsys.readouterr().err.split("\r") if line.strip()]
    assert "2/3" in lines[0]
    assert "3/3" in lines[-1]
    assert lines[-1].rstrip().endswith(", 2]")  # the unit's name


@pytest.mark.parametrize("stored", [True, False])
def test_entries_come_in_order_and_equal_pieces_are_done_once(tmp_path, stored):
    store, done = (Store(tmp_path, ".txt") if stored else None), []

    def work(number):
        done.append(number)
        return str(number).encode()

    def key(number):
        return entry_key({"unit": number})

    pieces = [3, 1, 3, 2]
    assert list(entries(pieces, store, key, work, **QUIET)) == [b"3", b"1", b"3", b"2"]
    assert done == ([3, 1, 2] if stored else pieces)
    assert list(entries(pieces[:2], store, key, work, **QUIET)) == [b"3", b"1"]
    assert len(done) == (3 if stored else 6)


def test_who_watches_is_told_of_every_piece(tmp_path):
    seen = []
    token = watcher.set(seen.append)
    try:
        work_off(some_units(2), Store(tmp_path, SUFFIX), some_entry, **QUIET)
    finally:
        watcher.reset(token)
    steps = [(0, "0"), (1, ""), (1, "1"), (2, "")]
    assert seen == [Progress("measurement", done, 2, current) for done, current in steps]
