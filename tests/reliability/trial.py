"""A bad input tried: what is wrong with how it was refused."""

import contextlib
import os
import shlex
from unittest import mock

from bad_inputs import Made
from world import call, places

UNFORESEEN = "was not expected"
_NO_MODEL = mock.patch(
    "kb_lens.runs.settings.ModelChoice.load",
    side_effect=AssertionError("not refused before the model is loaded"),
)
"""What can be refused without a model is refused before it is loaded, which may take minutes."""


def faults(case, made: Made) -> list[str]:
    """Give a bad input; what is wrong with the answer, nothing if it was refused as it should."""
    if case.spoil is not None:
        case.spoil(made)
    before = _contents(made.here)
    with contextlib.chdir(made.here):
        lines, wrong = _asked(case, made)
    if not wrong:
        wrong = _faults_of_line(case, lines)
    return wrong + _changes(made.here, before)


def _asked(case, made):
    """What was said to it; and what is wrong if it was not refused."""
    if case.call is not None:
        try:
            value = case.call(made)
        except ValueError as error:
            return [f"kb-lens: error: {error}"], []
        except Exception as error:  # whatever it is, it is the wrong one
            return [], [f"raised {error!r}"]
        return [], [f"was accepted: {value!r}"[:200]]
    arguments = [part.format(**places(made)) for part in shlex.split(case.line, comments=True)]
    with contextlib.nullcontext() if case.slow else _NO_MODEL:
        status, said = call(*arguments)
    if status != 2:
        return [], [f"exit status {status}: {said[-300:]}"]
    # A progress bar ends without a newline.
    return [said[said.index("kb-lens: error:") :]] if "kb-lens: error:" in said else [said], []


def _faults_of_line(case, lines):
    text = lines[0].rstrip("\n")
    wrong = []
    if not text.startswith("kb-lens: error: ") or "\n" in text:
        wrong.append(f"is not one line: {text[:2000]!r}")
    plain = _plain(text)
    wrong += [f"does not name {w!r}: {text}" for w in case.words if _plain(w) not in plain]
    if UNFORESEEN in text:
        wrong.append(text)
    if len(text) > 2000:
        wrong.append(f"is {len(text)} characters long")
    return wrong


def _plain(text):
    """--batch-size of the command is batch_size in Python."""
    return text.replace("-", "_").replace(" ", "_").lower()


def _contents(folder):
    """File -> its bytes."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {path: path.read_bytes() if os.access(path, os.R_OK) else b"" for path in files}


def _changes(folder, before):
    """What is not as it was, but for new files in --out."""
    after = _contents(folder)
    changed = [path for path in before if after.get(path) != before[path]]
    new = [path for path in after if path not in before and "out" not in path.parts]
    return [f"changed or new: {path}" for path in (*changed, *new)]
