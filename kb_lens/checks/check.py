"""One question about a result, answered."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Status = Literal["ok", "warning", "failed", "not checked"]


@dataclass(frozen=True)
class Check:
    """One question about a result, answered."""

    name: str
    """What is asked."""
    status: Status
    """The answer."""
    finding: str
    """The numbers behind it."""
    advice: str = ""
    """What to do; empty if nothing."""


def unchecked(name: str, material: str) -> Check:
    """A check that lacks what it reads."""
    return Check(name, "not checked", f"needs {material}.")


def judged(name: str, status: Status, finding: str, advice: str) -> Check:
    """A check whose advice counts unless all is well."""
    return Check(name, status, finding, "" if status == "ok" else advice)
