"""The command ``kb-lens``: which commands there are, and what is said when one fails.

A command is imported when it is called: ``kb-lens --help`` must not wait for torch.
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

app = App(
    "kb-lens",
    help="Find the neurons of a language model that know what bias is, enhance them, and measure "
    "what changes.",
    help_format="plaintext",
    version=lambda: version("kb-lens"),
    version_flags="--version",
    suppress_keyboard_interrupt=False,  # what ended the command is said, and how to go on
    config=(read_config, split_commas, check_whole_numbers),
    # A flag has no --no-FLAG beside it, and a list is shown as a user types it.
    default_parameter=Parameter(negative="", show_default=default_text),
)

COMMANDS = {
    "run": ("jobs", "The whole job: find neurons, enhance them, measure before and after, draw."),
    "identify": ("jobs", "Find the know-bias neurons of a model."),
    "evaluate": ("jobs", "Measure a model, with or without scaled neurons."),
    "compare": (
        "pages",
        "Set saved results beside one another: paired differences from the first, and ranks.",
    ),
    "export": (
        "jobs",
        "Write a checkpoint that has the scaled neurons in its weights and needs no kb_lens.",
    ),
    "figures": ("pages", "Draw every figure again from saved results."),
    "report": (
        "pages",
        "Everything in a folder of results on one page that needs nothing else.",
    ),
    "push": (
        "pages",
        "Upload a folder of results to the Hugging Face hub, as a data set with a card.",
    ),
    "experiment": (
        "studies",
        "One of the paper's studies, or all methods side by side; interrupted, it goes on.",
    ),
    "paper": (
        "studies",
        "The paper's table for one model: published, by the release's protocol, and by ours.",
    ),
    "tune": ("studies", "Choose lambda on one half of the items and report on the other."),
    "neurons": (
        "studies",
        "What each neuron does by itself: its effect, its dose-response, its tokens, its texts.",
    ),
    "doctor": (
        "studies",
        "Should the results be believed? The known ways to fail, checked, with advice.",
    ),
    "tasks": (
        "tasks",
        "Write benchmarks as task files of lm-evaluation-harness, which need no kb_lens.",
    ),
}
"""Name -> the file it is in and what it does; in the order of docs/commands.md."""

for number, (command, (file, summary)) in enumerate(COMMANDS.items()):
    app.command(f"kb_lens.cli.{file}:{command}", name=command, help=summary, sort_key=number)
app.register_install_completion_command(
    help="Let the shell complete commands and options; writes to its startup file."
)


def main() -> None:
    """Run the command; what a user got wrong is one line and exit status 2."""
    # A batch system ends a job by SIGTERM and kills it soon after: it ends as by Ctrl-C.
    with suppress(ValueError):  # only the main thread may say so
        signal.signal(signal.SIGTERM, _terminate)
    warnings.formatwarning = warning_line
    try:
        app(sys.argv[1:], exit_on_error=False, print_error=False, result_action="return_value")
    except Terminated as error:
        _stop("terminated; the same command goes on from here.", 128 + signal.SIGTERM, error)
    except KeyboardInterrupt as error:
        _stop("interrupted; the same command goes on from here.", 130, error)
    except Exception as error:
        if os.environ.get(TRACEBACK_VARIABLE):
            raise
        _stop(f"error: {in_words(error)}", 2, error)
    raise SystemExit(0)


class Terminated(KeyboardInterrupt):
    """SIGTERM came."""


def _terminate(*signal_and_frame: object) -> NoReturn:
    raise Terminated


def _stop(message: str, status: int, error: BaseException) -> NoReturn:
    """Say in one line why the command ends."""
    sys.stderr.write(f"kb-lens: {' '.join(message.split())}\n")
    raise SystemExit(status) from error


if __name__ == "__main__":
    main()
