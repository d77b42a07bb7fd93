"""Studies that are killed, shared and spread over workers end with the same results.

The units here are numbers, and the work makes an entry from a number. Killed processes are forked
from a server that has imported kb_lens once.
"""

import multiprocessing
import os
import random
import sys
import threading
import time
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from kb_lens.evaluation.entries import SUFFIX, result_from_bytes, result_to_bytes
from kb_lens.evaluation.results import EvaluationResult
from kb_lens.runs import ray_engine
from kb_lens.runs.engines import run_serial
from kb_lens.runs.ray_engine import run_ray
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
    run_serial(
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
    context.set_forkserver_preload(
        ["kb_lens.evaluation.entries", "kb_lens.runs.ray_engine", "pytest"]
    )
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
        if number == 2:
            raise raised
        return some_entry(number)

    store = Store(tmp_path / "units", SUFFIX)
    with pytest.raises(type(raised), match=match) as caught:
        run_serial(some_units(), store, work, **QUIET)
    if isinstance(raised, KeyError):
        assert caught.value.__notes__ == ["This happened in 2."]
    assert [key in store for key in some_units()] == [True, True, *[False] * 28]
    study(tmp_path / "units", tmp_path / "log")
    assert executed(tmp_path / "log") == list(range(2, 30))
    assert table(tmp_path / "units") == undisturbed


def test_the_progress_bar_counts_what_is_done_already(tmp_path, capsys):
    store = Store(tmp_path, SUFFIX)
    run_serial(some_units(2), store, some_entry, progress=True)
    capsys.readouterr()
    run_serial(some_units(3), store, some_entry, progress=True)
    lines = [line for line in capsys.readouterr().err.split("\r") if line.strip()]
    assert "2/3" in lines[0]
    assert "3/3" in lines[-1]
    assert lines[-1].rstrip().endswith(", 2]")  # the unit's name


def test_without_ray_the_error_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ValueError, match=r"kb-lens\[ray\]"):
        run_ray(some_units(), Store(tmp_path, SUFFIX), lambda: some_entry, address="auto")


@pytest.fixture(scope="module")
def need_ray():
    pytest.importorskip("ray", reason="Ray is not installed (the extra ray)")


def test_a_cluster_that_is_not_there_is_an_error(need_ray, tmp_path):
    with pytest.raises(ValueError, match=r"cannot join the cluster at '127\.0\.0\.1:1'"):
        run_ray(some_units(), Store(tmp_path, SUFFIX), lambda: some_entry, address="127.0.0.1:1")
    with pytest.raises(ValueError, match="workers is 0"):
        run_ray(some_units(), Store(tmp_path, SUFFIX), lambda: some_entry, workers=0)


@pytest.fixture(scope="module")
def local_ray(need_ray, tmp_path_factory):
    """Ray on this machine, whose workers get the functions of this file by value."""
    from ray import cloudpickle, is_initialized

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(tmp_path_factory.mktemp("home")))
        for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_USAGE_STATS_ENABLED"):
            patch.setenv(name, "")  # so that it is restored
            patch.delenv(name)
        cloudpickle.register_pickle_by_value(sys.modules[__name__])
        with ray_engine._ray(None):
            yield
            assert is_initialized()  # only who started it stops it
            assert not Path("~/.ray").expanduser().exists()
        assert not is_initialized()
        cloudpickle.unregister_pickle_by_value(sys.modules[__name__])


def some_work(folder):
    """A worker's work; some units above 30 go wrong."""

    def work(number):
        if number == 31 and not (folder / "died").exists():
            (folder / "died").touch()
            os._exit(1)
        if number == 33:
            raise ValueError("too much")
        if number == 35:
            os._exit(1)
        return logged(number, folder / "log", 0.02)

    (folder / f"worker-{os.getpid()}").touch()
    return work


@pytest.mark.slow
def test_two_workers_of_ray_give_the_same_results(local_ray, undisturbed, tmp_path):
    make = partial(some_work, tmp_path)
    run_ray(some_units(), Store(tmp_path / "units", SUFFIX), make, workers=2, **QUIET)
    assert table(tmp_path / "units") == undisturbed
    assert sorted(executed(tmp_path / "log")) == list(range(30))
    assert 1 <= len(list(tmp_path.glob("worker-*"))) <= 2  # each made its work once


@pytest.mark.slow
def test_a_worker_that_dies_is_replaced_and_errors_name_their_unit(
    local_ray, tmp_path, monkeypatch
):
    store, units = Store(tmp_path / "units", SUFFIX), some_units(36)
    keys = list(units)

    def run(*numbers, **options):
        some = {keys[k]: k for k in numbers}
        run_ray(some, store, partial(some_work, tmp_path), workers=1, **options, **QUIET)

    with pytest.raises(ValueError, match=r"^33: too much$"):
        run(30, 31, 32, 33, 34)
    assert (tmp_path / "died").exists()
    assert len(list(tmp_path.glob("worker-*"))) == 2
    assert executed(tmp_path / "log") == [30, 31, 32]
    assert [key in store for key in keys[30:]] == [True, True, True, False, False, False]
    monkeypatch.setattr(ray_engine, "_DEATHS", 1)
    with pytest.raises(ValueError, match=r"^35: 1 workers died of it.*ask for fewer workers"):
        run(35)
    with store.claimed(keys[35]) as free:
        assert free
    with pytest.raises(ValueError, match="room for 0 workers of 1000 GPU each"):
        run(35, num_gpus=1000)
