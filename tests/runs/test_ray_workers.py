"""Jobs on Ray's workers: they share the work, one that dies is started again, errors arrive."""

import os
import signal
import sys
import warnings
from functools import partial
from pathlib import Path

import pytest

from kb_lens.runs import ray_cluster, ray_workers
from kb_lens.runs.execution import RunExecution
from kb_lens.runs.ray_workers import by_workers, hands_out
from kb_lens.shared_work import naming, work_off
from kb_lens.store import Store, entry_key

TWO = RunExecution(engine="ray", workers=2, progress=False)


def counted(folder, count=12, tell=lambda text: None):
    """A job: so many numbers, written by whoever takes them."""

    def work(number):
        with (folder / "log").open("a") as log:
            log.write(f"{number} {os.getpid()}\n")
        with naming(str(number)):
            return trouble(number, folder)

    pieces = {entry_key({"number": k}): k for k in range(count)}
    tell(f"{count} numbers")
    work_off(pieces, Store(folder, ".txt"), work, progress=False)
    warnings.warn("a warning of a worker", stacklevel=2)
    return {k: Store(folder, ".txt").read(key) for key, k in pieces.items()}


def trouble(number, folder):
    """A number as bytes; from 13 on something is wrong with them."""
    if number == 13 and not (folder / "died").exists():
        (folder / "died").touch()
        os._exit(1)
    if number == 15:
        raise ValueError("too much")
    if number == 17:
        os._exit(1)
    return str(number).encode()


def done(folder):
    """The numbers in the order in which they were begun, and who began them."""
    lines = (folder / "log").read_text().splitlines()
    return [int(line.split()[0]) for line in lines], {line.split()[1] for line in lines}


def test_a_cluster_that_is_not_there_is_an_error():
    pytest.importorskip("ray", reason="Ray is not installed (the extra ray)")
    nowhere = RunExecution(engine="ray", address="127.0.0.1:1")
    with pytest.raises(ValueError, match=r"cannot join the cluster at '127\.0\.0\.1:1'"):
        by_workers(lambda: None, nowhere)


@pytest.fixture(scope="module")
def local_ray(tmp_path_factory):
    """Ray on this machine, whose workers get the functions of this file by value."""
    pytest.importorskip("ray", reason="Ray is not installed (the extra ray)")
    from ray import cloudpickle, is_initialized

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(tmp_path_factory.mktemp("home")))
        for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_USAGE_STATS_ENABLED"):
            patch.setenv(name, "")  # so that it is restored
            patch.delenv(name)
        cloudpickle.register_pickle_by_value(sys.modules[__name__])
        before = signal.getsignal(signal.SIGTERM)
        with ray_cluster.connected(None):
            assert signal.getsignal(signal.SIGTERM) is before
            yield
            assert is_initialized()  # only who started it stops it
            assert not Path("~/.ray").expanduser().exists()
        assert not is_initialized()
        cloudpickle.unregister_pickle_by_value(sys.modules[__name__])


@pytest.mark.slow
def test_two_workers_share_a_job_and_the_first_is_heard(local_ray, tmp_path):
    told = []
    with pytest.warns(UserWarning, match="a warning of a worker") as heard:
        numbers = by_workers(partial(counted, tmp_path), TWO, tell=told.append)
    assert numbers == {k: str(k).encode() for k in range(12)}
    assert told == ["12 numbers"]
    assert len(heard) == 1
    order, who = done(tmp_path)
    assert sorted(order) == list(range(12))
    assert len(who) <= 2
    assert str(os.getpid()) not in who


@pytest.mark.slow
def test_a_worker_that_dies_is_started_again_and_errors_name_their_piece(
    local_ray, tmp_path, monkeypatch
):
    one = RunExecution(engine="ray", workers=1, progress=False)
    with pytest.raises(ValueError, match=r"^15: too much$"):
        by_workers(partial(counted, tmp_path, 17), one)
    order, who = done(tmp_path)
    assert order == [*range(14), 13, 14, 15]
    assert len(who) == 2
    monkeypatch.setattr(ray_workers, "_DEATHS", 1)
    Store(tmp_path, ".txt").write(entry_key({"number": 15}), b"15")
    with pytest.raises(ValueError, match=r"^17: a worker died there 2 times.*ask for fewer"):
        by_workers(partial(counted, tmp_path, 18), one)
    with Store(tmp_path, ".txt").claimed(entry_key({"number": 17})) as free:
        assert free
    for workers in (1, None):
        many = RunExecution(engine="ray", workers=workers, gpus=999)
        with pytest.raises(ValueError, match="room for 0 workers of 999 GPU each"):
            by_workers(partial(counted, tmp_path), many)


def test_without_ray_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setattr(ray_cluster, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"^Ray is not installed: pip install 'ray[^']*'\.$"):
        by_workers(lambda: None, TWO)


def test_a_job_is_handed_out_once():
    assert hands_out(TWO)
    assert not hands_out(RunExecution())
    token = ray_workers._working.set(True)
    try:
        assert not hands_out(TWO)  # a worker does it
    finally:
        ray_workers._working.reset(token)


def test_the_devices_of_workers_are_looked_at_by_them():
    with pytest.raises(ValueError, match="cuda:7"):
        RunExecution(device="cuda:7")
    assert RunExecution(device="cuda:7", engine="ray").device == "cuda:7"


def note_gpus(folder):
    """A job: which GPUs this worker was given."""
    (folder / f"{os.getpid()}.gpus").write_text(os.environ.get("CUDA_VISIBLE_DEVICES", "none"))


@pytest.mark.slow
def test_every_worker_gets_a_gpu_of_its_own(local_ray, tmp_path):
    """Logical ones: Ray gives them out wherever it was told that they are."""
    import ray

    ray.shutdown()
    ray.init(**{**ray_cluster._OF_THIS_MACHINE, "num_gpus": 4, "log_to_driver": False})
    for gpus, expected in [("auto", {"0", "1", "2", "3"}), (2, {"0,1", "2,3"})]:
        folder = tmp_path / str(gpus)
        folder.mkdir()
        by_workers(partial(note_gpus, folder), RunExecution(engine="ray", gpus=gpus))
        assert {path.read_text() for path in folder.glob("*.gpus")} == expected
    folder = tmp_path / "two models over two each"
    folder.mkdir()
    split = RunExecution(engine="ray", workers=2, device_map="auto")
    by_workers(partial(note_gpus, folder), split)
    assert {path.read_text() for path in folder.glob("*.gpus")} == {"0,1", "2,3"}


@pytest.mark.parametrize("option", [{"workers": 3}, {"gpus": 1}, {"address": "HOST:6379"}])
def test_what_is_of_ray_alone_is_refused_without_it(option):
    (name,) = option
    with pytest.raises(ValueError, match=f"--{name} is for Ray's workers: give --engine ray"):
        RunExecution(**option)
    assert getattr(RunExecution(engine="ray", **option), name) == option[name]
