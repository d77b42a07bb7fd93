"""One question about a result, answered."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Status = Literal["ok", "warning", "failed", "not checked"]


@dataclass(frozen=True)
class Check:
    """One question about a result, answered."""

    name: str
    """The question."""
    status: Status
    """The answer."""
    finding: str
    """The numbers behind it."""
    advice: str = ""
    """What to do; empty if nothing."""


def unchecked(name: str, material: str, remedy: str = "") -> Check:
    """A check without the data that it reads, and the option of ``doctor`` that gives them."""
    return Check(name, "not checked", f"needs {material}.", remedy)


def judged(name: str, status: Status, finding: str, advice: str) -> Check:
    """A check; its advice is dropped if the status is ok."""
    return Check(name, status, finding, "" if status == "ok" else advice)
