"""Files that others may read, an end when it is asked for, and nobody's name in what is shared."""

import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from commands import COMMANDS, FIRST, make_inputs, without_figures
from folders import litter
from kills import Workshop
from test_two_processes import until

pytestmark = pytest.mark.slow

# --- modes ---------------------------------------------------------------------------------------


def check_modes(folder, umask):
    """Every file and folder has what the umask allows, and no more."""
    wrong = {
        path.relative_to(folder).as_posix(): oct(path.stat().st_mode & 0o777)
        for path in [folder, *folder.rglob("*")]
        if path.stat().st_mode & 0o777 != (0o777 if path.is_dir() else 0o666) & ~umask
    }
    assert not wrong


SHARED = ("run", "export", "neurons", "doctor", "compare")
"""What a group of people writes together, tried on the commands that write each kind of file."""


@pytest.mark.parametrize(
    ("name", "umask"),
    [
        *((name, 0o077) for name in COMMANDS if name not in ("overwrite", "figures", "report")),
        *((name, 0o002) for name in SHARED),
    ],
)
def test_modes_follow_the_umask(shop, tmp_path, name, umask):
    out = tmp_path / "out" / name
    process = shop.start(name, out, umask=umask)
    assert process.wait() == 0, process.text()
    check_modes(out.parent, umask)


@pytest.mark.parametrize("name", SHARED)
def test_modes_follow_the_usual_umask(shop, name):
    check_modes(shop.undisturbed(name).out, 0o022)


# --- signals -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sign", "status", "word"),
    [(signal.SIGTERM, 143, "terminated"), (signal.SIGINT, 130, "interrupted")],
)
@pytest.mark.parametrize("name", ["run", "identify", "export", "tune"])
def test_a_signal_ends_a_command_in_a_line(shop, tmp_path, name, sign, status, word):
    out = tmp_path / name
    COMMANDS[name].prepare(shop.root, out)
    process = shop.start(name, out, slowed=0.5)
    time.sleep(1)  # it has begun, and is not at its end
    check_end(process, sign, status, word)
    assert not litter(out)


@pytest.mark.parametrize("seconds", [0.2, 2])
def test_a_signal_while_a_browser_draws(shop, tmp_path, seconds):
    """In a process of its own: it ends when no thread is left that waits for the browser."""
    if not any(map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))):
        pytest.skip("no Chromium: `make browser`")
    out = tmp_path / "figures"
    COMMANDS["figures"].prepare(shop.root, out)
    command = [sys.executable, "-m", "kb_lens.cli.main", "figures", out]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        until(lambda: len(list((out / "figures").glob("*.html"))) >= 10)
        time.sleep(seconds)
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=5)
    assert process.returncode == 143
    lines = [line for line in said.splitlines() if "kb-lens: " in line]
    assert lines == ["kb-lens: terminated; the same command resumes from here."]


def check_end(process, sign, status, word):
    """A signal is obeyed within five seconds."""
    start = time.monotonic()
    process.send(sign)
    assert process.wait(5) == status, process.text()
    assert process.error() == f"kb-lens: {word}; the same command resumes from here."
    assert time.monotonic() - start < 5


# --- names ---------------------------------------------------------------------------------------

USER = "annakowalska"
"""Whose home folder it is; no word of plotly.js."""
NOT_SHARED = ("run.json", ".kb_lens")


@pytest.fixture(scope="module")
def home(shop, tmp_path_factory):
    """All that the commands read, in somebody's home folder, and what they wrote there."""
    root = tmp_path_factory.mktemp("disk") / "home" / USER
    root.mkdir(parents=True)
    own = Workshop(make_inputs(root), shop.processes)
    who = {"HOME": str(root), "USER": USER, "LOGNAME": USER}
    run(own, FIRST, root / "run", who)
    without_figures(root)
    for name, command in COMMANDS.items():
        command.prepare(root, root / "results" / name)
        run(own, command, root / "results" / name, who)
    return root


def run(shop, command, out, environment):
    """A command to its end."""
    process = shop.processes.start(shop.job(command, out, environment=environment))
    assert process.wait() == 0, process.text()


@pytest.mark.parametrize("name", COMMANDS)
def test_nobody_is_named_in_what_is_shared(home, name):
    out = home / "results" / name
    named = [
        path.relative_to(out).as_posix()
        for path in out.rglob("*")
        if path.is_file()
        and not {*NOT_SHARED} & {*path.relative_to(out).parts}
        and names_somebody(path)
    ]
    assert not named


def names_somebody(path: Path) -> bool:
    """Whether a file has the user's name in it, in whatever case."""
    return USER.encode() in path.read_bytes().lower()
