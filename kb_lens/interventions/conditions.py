"""One interface for all changes of a model, so that methods can be compared.

A change defines how it is applied to the model, how it alters the requests (as a debiasing prompt
does), and how it is recorded. A condition is a change with a name. Base and changed model take the
same path through `evaluate`, on the same items.
"""

from __future__ import annotations

import json
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Protocol, get_args, runtime_checkable

from kb_lens.benchmarks.benchmark import Benchmark
from kb_lens.evaluation.results import ConditionInfo, Role
from kb_lens.files import check_file_name
from kb_lens.models.hooked import HookedModel
from kb_lens.records.objects import json_text


@runtime_checkable
class Change(Protocol):
    """Something done to a model."""

    def applied(self, model: HookedModel) -> AbstractContextManager[HookedModel]:
        """A ``with`` block that yields the changed model: the same one, or another in its place."""
        ...

    def asked(self, benchmark: Benchmark) -> Benchmark:
        """The benchmark as the changed model is asked it, with the same items."""
        ...

    def describe(self) -> dict[str, Any]:
        """A description as JSON data for ``results.json``; different changes differ in it."""
        ...


@dataclass(frozen=True)
class Condition:
    """A model under one change, and its role in a comparison."""

    name: str
    """Its name in tables, figures and the folder ``evaluations``."""
    change: Change | None = None
    """The change; None for the unchanged model."""
    role: Role | None = None
    """Its role in a comparison; by default ``base`` without a change and ``method`` with one."""
    control_of: str | None = None
    """For a control: the name of the condition that it is compared with."""
    draw: int | None = None
    """For one of several random controls: its number."""

    def __post_init__(self) -> None:
        check_file_name(self.name, "condition")
        if self.change is not None:
            _check_change(self.name, self.change)
        if self.role is None:  # sets a field of a frozen dataclass
            object.__setattr__(self, "role", "base" if self.change is None else "method")
        if self.role not in get_args(Role):
            raise ValueError(f"role is {self.role!r}: allowed are {', '.join(get_args(Role))}.")
        if self.control_of is not None and self.role != "control":
            raise ValueError(f"{self.name!r} is a {self.role}: only a control has a control_of.")

    def applied(self, model: HookedModel) -> AbstractContextManager[HookedModel]:
        """A ``with`` block that yields the changed model."""
        return nullcontext(model) if self.change is None else self.change.applied(model)

    def asked(self, benchmark: Benchmark) -> Benchmark:
        """The benchmark as the changed model is asked it."""
        return benchmark if self.change is None else self.change.asked(benchmark)

    def describe(self) -> dict[str, Any] | None:
        """The change as JSON data for ``results.json``; None for the unchanged model."""
        return None if self.change is None else json.loads(json_text(self.change.describe()))

    def info(self) -> ConditionInfo:
        """The description of this condition in a result."""
        return ConditionInfo(self.name, self.role, self.control_of, self.draw, self.describe())


def _check_change(name: str, change: object) -> None:
    """Raise `ValueError` if it is no `Change`, which else would show when it is measured."""
    if isinstance(change, type):
        raise ValueError(
            f"the change of {name!r} is the class {change.__name__}: give an object of it."
        )
    methods = ("applied", "asked", "describe")
    if missing := [name for name in methods if not callable(getattr(change, name, None))]:
        raise ValueError(
            f"the change of {name!r} has no method {', '.join(missing)} (it is a "
            f"{type(change).__name__}): a change needs {', '.join(methods)}."
        )
