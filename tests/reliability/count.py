"""Try the whole table and print it, kind by kind: ``python -m tests.reliability.count``."""

import os
import sys
from collections import Counter
from pathlib import Path

import pytest


class Count:
    """How many inputs of each kind were tried, and how many were handled."""

    def __init__(self):
        self.tried, self.handled = Counter(), Counter()

    def pytest_runtest_logreport(self, report):
        kind = dict(report.user_properties).get("kind")
        if report.when == "call" and kind is not None:
            self.tried[kind] += 1
            self.handled[kind] += report.passed

    def table(self):
        """Markdown, a row a kind."""
        rows = [(kind, n, self.handled[kind]) for kind, n in self.tried.items()]
        rows.append(("all", self.tried.total(), self.handled.total()))
        head = ("| Kind | Tried | Handled |", "|---|---:|---:|")
        return "\n".join((*head, *(f"| {kind} | {n} | {good} |" for kind, n, good in rows)))


def main():
    """Run the table's test, with more arguments of pytest; the exit status is its."""
    os.environ["KB_LENS_AS_FOR_USERS"] = "1"
    count = Count()
    table = Path(__file__).with_name("test_bad_inputs.py")
    status = pytest.main(["-q", str(table), *sys.argv[1:]], [count])
    sys.stdout.write(f"{count.table()}\n")
    return status


if __name__ == "__main__":
    raise SystemExit(main())
