"""Two commands in one folder: with the same settings they share it, with others one is refused."""

import json
import signal
import time
from pathlib import Path

import pytest
from commands import COMMANDS, Command
from folders import contents, difference, litter

from kb_lens.evaluation.results import load_results
from kb_lens.runs.folder import load_conditions

pytestmark = pytest.mark.slow
_SLOW = 0.5
"""Seconds a pass of the model: the first is still at work when the second comes."""


def measuring(items, *, overwrite=False):
    """Measure so many items."""
    more = "--overwrite " if overwrite else ""
    names = f"--benchmarks stereoset@{items} --data-dir {{W}}/data"
    return Command(f"evaluate {{W}}/model {names} {more}--out {{OUT}}")


def until(condition, seconds=60):
    """Wait for something that a process does."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.01)


def at_work(shop, command, out, **circumstances):
    """A command that has begun to measure, and takes long."""
    process = shop.processes.start(shop.job(command, out, slowed=_SLOW, **circumstances))
    until(lambda: (out / "run.json").is_file() or process.ended() is not None)
    assert process.ended() is None, process.text()
    return process


def run_to_end(shop, command, out):
    """A second command's status, and what it said."""
    process = shop.processes.start(shop.job(command, out))
    return process.wait(), process


def check_agreement(out, items):
    """run.json tells what the results are of."""
    assert json.loads((out / "run.json").read_text())["arguments"]["benchmarks"] == [
        f"stereoset@{items}"
    ]
    assert len(load_results(out)["stereoset"].items) == items


@pytest.mark.parametrize(
    ("second", "reason"),
    [
        (measuring(6, overwrite=True), "its results depend on other settings"),
        (measuring(12, overwrite=True), "--overwrite needs the folder for itself"),
        (measuring(6), "holds a run with benchmarks|its results depend on other settings"),
        (COMMANDS["identify"], "holds a run with command|its results depend on other settings"),
    ],
    ids=["other items", "the same, overwriting", "without --overwrite", "another command"],
)
def test_who_would_spoil_the_first_is_refused(shop, tmp_path, second, reason):
    out = tmp_path / "shared"
    first = at_work(shop, measuring(12), out)
    status, process = run_to_end(shop, second, out)
    assert first.ended() is None
    assert status == 2
    line = process.error()
    assert any(words in line for words in reason.split("|"))
    if "holds a run" not in line:
        assert f"process {first.number} on " in line
    assert first.wait() == 0
    check_agreement(out, 12)
    assert not litter(out)


def test_the_same_command_twice_ends_twice(shop, tmp_path):
    usual, out = tmp_path / "usual" / "shared", tmp_path / "shared"
    shop.finish(measuring(12), usual)
    first = at_work(shop, measuring(12), out)
    status, process = run_to_end(shop, measuring(12), out)
    assert (status, first.wait()) == (0, 0), process.text()
    assert not difference(usual, out)
    check_agreement(out, 12)
    assert not litter(out)


SHARED = ("run", "identify", "evaluate", "neurons", "tune", "experiment", "paper")


@pytest.mark.parametrize("name", SHARED)
def test_every_command_is_shared_by_two(shop, tmp_path, name):
    out = tmp_path / name
    both = [shop.start(name, out, slowed=0.05) for _ in range(2)]
    assert [process.wait() for process in both] == [0, 0], both[0].text() + both[1].text()
    usual = shop.undisturbed(name).out
    assert difference(usual, out) in ("", "run.json")
    assert not litter(out)


@pytest.mark.parametrize("name", ["run", "neurons"])
def test_a_command_is_done_by_workers_of_ray(shop, tmp_path, name):
    pytest.importorskip("ray", reason="Ray is not installed (the extra ray)")
    usual, out = shop.undisturbed(name).out, tmp_path / name
    shop.finish(Command(f"{COMMANDS[name].text} --engine ray --workers 2"), out)
    assert json.loads((out / "run.json").read_text())["execution"]["engine"] == "ray"
    files = [{name for name in contents(each) if "store/" not in name} for each in (usual, out)]
    assert files[0] == files[1]
    assert not litter(out)
    # The server's slices are shorter, so passes round otherwise, and a factor that they lead to.
    for condition, expected in load_conditions(usual).items():
        for result, other in zip(expected, load_conditions(out)[condition], strict=True):
            for metric, value in result.metrics.items():
                assert other.metrics[metric].value == pytest.approx(
                    value.value, abs=1e-3, nan_ok=True
                )
    if name == "neurons":
        assert (out / "effects.csv").read_bytes() == (usual / "effects.csv").read_bytes()


def test_the_killed_hold_nothing(shop, tmp_path):
    out = tmp_path / "shared"
    first = at_work(shop, measuring(12), out)
    until(lambda: list((out / ".kb_lens" / "holders").glob("*.json")))
    assert first.kill() == -9
    status, process = run_to_end(shop, measuring(6, overwrite=True), out)
    assert status == 0, process.text()
    check_agreement(out, 6)
    assert not litter(out)


def test_a_stopped_process_holds_its_folder(shop, tmp_path):
    """A laptop's lid may be closed: who sleeps is alive."""
    out = tmp_path / "shared"
    first = at_work(shop, measuring(12), out)
    first.send(signal.SIGSTOP)
    status, process = run_to_end(shop, measuring(6, overwrite=True), out)
    first.send(signal.SIGCONT)
    assert status == 2
    assert f"process {first.number}" in process.error()
    assert first.wait() == 0
    check_agreement(out, 12)


def test_two_identify_share_the_store(shop, tmp_path):
    usual, out = shop.undisturbed("identify"), tmp_path / "identify"
    both = [shop.start("identify", out, slowed=0.05) for _ in range(2)]
    assert [process.wait() for process in both] == [0, 0], both[1].text()
    assert not difference(usual.out, out)
    entries = [path for path in (out / "store").iterdir() if path.is_file()]
    assert len(entries) == len([name for name in contents(out) if name.startswith("store/")])
    assert not litter(out)


def test_two_exports_into_one_folder_leave_a_whole_one(shop, tmp_path):
    usual, out = shop.undisturbed("export"), tmp_path / "export"
    both = [shop.start("export", out) for _ in range(2)]
    statuses = {process.wait() for process in both}
    assert 0 in statuses, both[0].text()
    assert statuses <= {0, 2}
    assert not difference(usual.out, out)
    assert not [path for path in Path(out.parent).iterdir() if path != out]
