"""A file of questions as a user would write one."""

import csv
from dataclasses import asdict


def write_bank(path, questions):
    """The questions as a CSV file; returns its path."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, ["id", "dimension", "kind", "concept", "text", "answer"])
        writer.writeheader()
        writer.writerows(map(asdict, questions))
    return path
