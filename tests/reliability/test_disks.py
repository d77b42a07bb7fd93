"""A full disk costs no result and a read-only one is read: both are said in one line."""

import shutil
import subprocess

import pytest
from commands import COMMANDS, Command
from folders import difference, litter

pytestmark = pytest.mark.slow
_PAGE = 4096
"""Bytes that the smallest file takes."""


@pytest.fixture
def disk(tmp_path):
    """A disk of 64 MB of our own."""
    path = tmp_path / "disk"
    path.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", path]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("mounting a small disk needs root")
    yield path
    subprocess.run(["umount", "--lazy", path], check=True)


def leave(disk, size):
    """Fill a disk but for so many bytes; the file that fills it."""
    filler = disk / "filler"
    with filler.open("wb") as file:
        file.truncate(0)
    free = shutil.disk_usage(disk).free - max(size, 0)
    subprocess.run(["fallocate", "--length", str(free), filler], check=True)
    return filler


def size_of(folder):
    """Bytes that a folder takes on a disk."""
    sizes = (path.stat().st_size for path in folder.rglob("*") if path.is_file())
    return sum(-(-size // _PAGE) * _PAGE for size in sizes)


@pytest.mark.parametrize("share", [0, 0.5])
@pytest.mark.parametrize("name", [name for name in COMMANDS if name != "overwrite"])
def test_a_full_disk(shop, disk, name, share):
    usual, out = shop.undisturbed(name), disk / name
    COMMANDS[name].prepare(shop.root, out)
    written = size_of(usual.out) - (size_of(out) if out.exists() else 0)
    filler = leave(disk, int(share * written))
    process = shop.start(name, out)
    assert process.wait() == 2, process.text()
    line = process.error()
    assert "The disk is full: make room, or choose another --out" in line
    assert f"'{disk}" in line
    assert ".part" not in line
    filler.unlink()
    shop.finish(COMMANDS[name], out)
    assert not difference(usual.out, out)
    filler.unlink(missing_ok=True)
    assert not litter(out)


@pytest.fixture
def read_only(shop, disk):
    """A disk with a finished run and a finished checkpoint, on which nothing can be written."""
    shutil.copytree(shop.root / "run", disk / "run")
    shutil.copytree(shop.undisturbed("export").out, disk / "export")
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    return disk


WRITING = (
    "run",
    "identify",
    "evaluate",
    "export",
    "doctor",
    "neurons",
    "tune",
    "experiment",
    "paper",
)


@pytest.mark.parametrize("name", [*WRITING, "compare", "tasks"])
def test_a_read_only_disk_is_said_in_a_line(shop, read_only, name):
    process = shop.start(name, read_only / "new")
    assert process.wait() == 2
    line = process.error()
    assert "Read-only file system" in line
    assert f"'{read_only}" in line
    assert "choose another --out" in line


@pytest.mark.parametrize("name", ["run", "figures", "report"])
def test_a_finished_folder_there_is_not_written_into(shop, read_only, name):
    process = shop.start(name, read_only / "run")
    assert process.wait() == 2
    assert "Read-only file system" in process.error()


READING = {
    "report": "report {RO}/run --out {OUT}/report.html",
    "figures": "figures {RO}/run --formats html --out {OUT}",
    "compare": "compare {RO}/run --out {OUT}",
    "compare without --out": "compare {RO}/run",
    "doctor": "doctor {W}/model --bank {W}/bank.csv --results {RO}/run --out {OUT}",
    "evaluate": "evaluate {RO}/export --benchmarks openbookqa --data-dir {W}/data --out {OUT}",
    "neurons": "neurons {W}/model --neurons {RO}/run/neurons.json --attributions "
    "{RO}/run/attributions.safetensors --lam 0,2 --top 1 --out {OUT}",
    "export": "export {W}/model --neurons {RO}/run/neurons.json --lam 2 --out {OUT}",
}


@pytest.mark.parametrize("text", READING.values(), ids=READING)
def test_what_is_read_need_not_be_written(shop, read_only, tmp_path, text):
    command = Command(text.replace("{RO}", str(read_only)))
    shop.finish(command, tmp_path / "out")
