"""The command ``kb-lens``: its commands, and the messages when one fails.

A command is imported when it is called, so that ``kb-lens --help`` does not wait for torch.
"""

from __future__ import annotations

import os
import signal
import sys
import warnings
from contextlib import suppress
from importlib.metadata import version
from typing import NoReturn

from cyclopts import App, Parameter

from kb_lens.cli.config import read_config
from kb_lens.cli.errors import TRACEBACK_VARIABLE, in_words, warning_line
from kb_lens.cli.parsing import check_whole_numbers, default_text, split_commas
from kb_lens.user_warnings import each_once

app = App(
    "kb-lens",
    help="Find the neurons of a language model that know what bias is, enhance them, and measure "
    "what changes.",
    help_format="plaintext",
    version=lambda: version("kb-lens"),
    version_flags="--version",
    suppress_keyboard_interrupt=False,  # `main` says what ended the command and how to resume
    config=(read_config, split_commas, check_whole_numbers),
    # A flag has no --no-FLAG, and a list is shown as a user types it.
    default_parameter=Parameter(negative="", show_default=default_text),
)

COMMANDS = {
    "run": ("jobs", "The whole job: find neurons, enhance them, measure before and after, draw."),
    "identify": ("jobs", "Find the know-bias neurons of a model."),
    "evaluate": ("jobs", "Measure a model, with or without scaled neurons."),
    "compare": (
        "pages",
        "Compare saved results: paired differences from the first, and ranks.",
    ),
    "export": (
        "jobs",
        "Write a checkpoint that has the scaled neurons in its weights and needs no kb_lens.",
    ),
    "figures": ("pages", "Draw every figure again from saved results."),
    "report": (
        "pages",
        "Write one self-contained HTML page with everything in a folder of results.",
    ),
    "push": (
        "pages",
        "Upload a folder of results to the Hugging Face hub, as a data set with a card.",
    ),
    "experiment": (
        "studies",
        "One of the paper's studies, or all methods side by side; it can be resumed.",
    ),
    "paper": (
        "studies",
        "The paper's table for one model: published, by the release's protocol, and by ours.",
    ),
    "tune": ("studies", "Choose lambda on one half of the items and report on the other."),
    "neurons": (
        "studies",
        "Each neuron by itself: its effect, its dose-response, its tokens, its texts.",
    ),
    "doctor": (
        "studies",
        "Should the results be believed? Checks of known ways to fail, with advice.",
    ),
    "tasks": (
        "tasks",
        "Write benchmarks as task files of lm-evaluation-harness, which need no kb_lens.",
    ),
}
"""Name -> its file and its help; in the order of docs/commands.md."""

for number, (command, (file, summary)) in enumerate(COMMANDS.items()):
    app.command(f"kb_lens.cli.{file}:{command}", name=command, help=summary, sort_key=number)
app.register_install_completion_command(
    help="Let the shell complete commands and options; writes to its startup file."
)


def main() -> None:
    """Run the command; a user's mistake gives one line and exit status 2."""
    # A batch system sends SIGTERM and kills the job soon after: treat it like Ctrl-C.
    with suppress(ValueError):  # only possible in the main thread
        signal.signal(signal.SIGTERM, _terminate)
    warnings.formatwarning = warning_line
    try:
        with each_once():
            app(sys.argv[1:], exit_on_error=False, print_error=False, result_action="return_value")
    except Terminated as error:
        _stop("terminated; the same command resumes from here.", 128 + signal.SIGTERM, error)
    except KeyboardInterrupt as error:
        _stop("interrupted; the same command resumes from here.", 130, error)
    except Exception as error:
        if os.environ.get(TRACEBACK_VARIABLE):
            raise
        _stop(f"error: {in_words(error)}", 2, error)
    raise SystemExit(0)


class Terminated(KeyboardInterrupt):
    """The process received SIGTERM."""


def _terminate(*signal_and_frame: object) -> NoReturn:
    raise Terminated


def _stop(message: str, status: int, error: BaseException) -> NoReturn:
    """Print one line that says why the command ends, and end."""
    sys.stderr.write(f"kb-lens: {' '.join(message.split())}\n")
    raise SystemExit(status) from error


if __name__ == "__main__":
    main()
