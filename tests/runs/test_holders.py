"""A folder is shared by processes with the same settings, and by no others."""

import json
import multiprocessing
import os
import signal
import time
from dataclasses import replace

import pytest

from kb_lens.files import write_text
from kb_lens.runs.execution import Execution
from kb_lens.runs.holders import Holder, holding, step
from kb_lens.runs.record import RunLog
from kb_lens.runs.settings import IdentifySettings
from kb_lens.written import delete_noted, noting

SPAWN = multiprocessing.get_context("spawn")
HOLDER = Holder("run", "a digest")


def hold(folder, ready):
    with holding(folder, HOLDER):
        ready.set()
        time.sleep(60)


@pytest.fixture
def living(tmp_path):
    """A process that is at work in the folder."""
    ready = SPAWN.Event()
    process = SPAWN.Process(target=hold, args=(tmp_path, ready))
    process.start()
    assert ready.wait(60)
    yield process
    process.kill()
    process.join()


@pytest.mark.slow
def test_the_same_settings_share_a_folder(tmp_path, living):
    with holding(tmp_path, HOLDER), holding(tmp_path, HOLDER):
        pass


@pytest.mark.slow
@pytest.mark.parametrize(
    ("other", "reason"),
    [
        (replace(HOLDER, settings="others"), "its results depend on other settings"),
        (replace(HOLDER, alone=True), "--overwrite needs the folder for itself"),
    ],
)
def test_others_are_refused_while_the_holder_lives(tmp_path, living, other, reason):
    with pytest.raises(ValueError, match=reason) as caught, holding(tmp_path, other):
        pass
    assert f"process {living.pid}" in str(caught.value)
    os.kill(living.pid, signal.SIGKILL)
    living.join()
    with holding(tmp_path, other):  # the dead hold nothing
        pass


def test_two_in_one_process_are_two(tmp_path):
    others = replace(HOLDER, settings="others")
    with holding(tmp_path, HOLDER):
        with pytest.raises(ValueError, match="is in use by"), holding(tmp_path, others):
            pass
        with holding(tmp_path, HOLDER):
            pass
    with holding(tmp_path, replace(HOLDER, settings="others")):
        pass


def test_a_folder_in_which_nothing_was_done_is_gone(tmp_path):
    with holding(tmp_path / "new", HOLDER):
        assert (tmp_path / "new").is_dir()
    assert not (tmp_path / "new").exists()
    with holding(tmp_path / "new", HOLDER):
        (tmp_path / "new" / "notes.txt").write_text("mine")
    assert (tmp_path / "new" / "notes.txt").read_text() == "mine"


def test_litter_of_the_killed_goes_at_the_next_start(tmp_path, dead):
    from kb_lens.files import _HOST

    mine = tmp_path / "thesis.part"
    mine.write_text("mine")
    litter = [
        tmp_path / f"results.json.{_HOST}-{dead}-7.part",
        tmp_path / "evaluations" / "base" / f"results.json.{_HOST}-{dead}-7.part",
        tmp_path / f"run.json.elsewhere-{os.getpid()}-7.part",
    ]
    for path in litter:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("half")
    with holding(tmp_path, HOLDER):
        assert not any(path.exists() for path in litter)
        assert mine.exists()


def count(path, n):
    for _ in range(n):
        with step(path):
            file = path / "count.json"
            number = json.loads(file.read_text())
            file.write_text(json.dumps(number + 1))


@pytest.mark.slow
def test_a_step_is_of_one_at_a_time(tmp_path):
    (tmp_path / "count.json").write_text("0")
    processes = [SPAWN.Process(target=count, args=(tmp_path, 100)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert json.loads((tmp_path / "count.json").read_text()) == 300


def overwriting(path):
    return RunLog(path, "identify", IdentifySettings(model="m"), Execution(overwrite=True))


def test_overwrite_deletes_what_was_written_and_nothing_else(tmp_path, llama):
    log = RunLog(tmp_path, "identify", IdentifySettings(model="m", tau=0.2), Execution())
    with log.claimed():
        log.begin(llama)
        for name in ("neurons.json", "neurons/gender.json", "figures/overlap.html"):
            write_text(tmp_path / name, "written")
    notes = ["notes.txt", "neurons/notes.json", "figures/mine.png", "evaluations/mine/results.json"]
    for name in notes:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("mine")
    again = overwriting(tmp_path)
    with again.claimed():
        again.begin(llama)
    left = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()}
    assert {name for name in left if not name.startswith(".kb_lens")} == {*notes, "run.json"}


def test_what_is_not_known_is_not_deleted(tmp_path, llama):
    """A folder from before the files were noted."""
    RunLog(tmp_path, "identify", IdentifySettings(model="m", tau=0.2), Execution()).begin(llama)
    again = overwriting(tmp_path)
    with again.claimed(), pytest.raises(ValueError, match="does not say which of its files"):
        again.begin(llama)


def begun(path, llama, **settings):
    log = RunLog(path, "identify", IdentifySettings(model="m", **settings), Execution())
    with log.claimed():
        log.begin(llama)
        write_text(path / "neurons.json", "written")


def test_a_replacement_that_was_killed_goes_on_deleting(tmp_path, llama):
    """What says whose the folder is goes last, and what is left without it goes too."""
    begun(tmp_path, llama, tau=0.2)
    noted = (tmp_path / ".kb_lens" / "written.jsonl").read_text()
    assert noted.splitlines() == ['"run.json"', '"neurons.json"']
    (tmp_path / "run.json").unlink()
    again = overwriting(tmp_path)
    with again.claimed():
        again.begin(llama)
    assert not (tmp_path / "neurons.json").exists()


def test_a_note_that_a_full_disk_cut_off_spoils_no_other(tmp_path, llama):
    begun(tmp_path, llama, tau=0.2)
    with (tmp_path / ".kb_lens" / "written.jsonl").open("a") as file:
        file.write('"neurons/gen')
    with noting(tmp_path):
        write_text(tmp_path / "tokens.csv", "written")
    delete_noted(tmp_path)
    assert not [path for path in tmp_path.iterdir() if path.is_file()]
