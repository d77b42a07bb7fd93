import subprocess
import sys

PROGRAM = """
import torch
from kb_lens.intervals import warn_of_few

@torch.no_grad()
def mine(measure):
    measure({"accuracy": 3}, "exam", None)  # line 7

mine(warn_of_few)
"""


def test_a_warning_names_the_line_that_called_kb_lens():
    """In a process of its own: the tests' checks of types put frames around every function."""
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True)
    assert done.stderr.startswith("<string>:7: FewClustersWarning: exam: few clusters (item)")


REPEATED = """
import warnings
from kb_lens.intervals import warn_of_few
from kb_lens.user_warnings import each_once

@each_once()
def work():
    for _ in range(3):
        with warnings.catch_warnings():
            pass  # as libraries do: python forgets what it has shown
        warn_of_few({"accuracy": 3}, "exam", None)
        each_once()(warn_of_few)({"accuracy": 4}, "exam", None)

work()
work()
"""


def test_what_would_be_repeated_is_shown_once():
    done = subprocess.run([sys.executable, "-c", REPEATED], capture_output=True, text=True)
    assert done.stderr.count("FewClustersWarning") == 4
