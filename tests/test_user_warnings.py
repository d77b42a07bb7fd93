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
