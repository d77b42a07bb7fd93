"""The file ``knowledge.json``: which answers were given, by which model, to which questions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import pandas as pd

from kb_lens.models.answers import Spelling
from kb_lens.models.prompts import PromptTemplate
from kb_lens.statistics import Metric


@dataclass(frozen=True, kw_only=True)
class AnswerRow:
    """One question and what the model answered."""

    text: str
    answer: Literal["yes", "no"]
    dimension: str
    kind: str
    concept: str = ""
    id: str = ""
    p_yes: float
    p_no: float
    mass: float
    said: Literal["yes", "no"]
    right: bool
    lesson: bool = False  # missing in older files

    def __post_init__(self) -> None:
        if self.right != (self.said == self.answer):
            raise ValueError(
                f"right is {self.right}, but said is {self.said!r} and the answer {self.answer!r}"
            )
        for name in ("p_yes", "p_no", "mass"):
            value = getattr(self, name)
            # sums are rounded in the model's type, and a model that overflows gives NaN
            if value < 0 or value > 1.01:
                raise ValueError(f"{name} is {value}: allowed is 0 to 1")


@dataclass(frozen=True)
class KnowledgeFile:
    """The content of ``knowledge.json``."""

    model: str
    spelling: Spelling
    table: tuple[AnswerRow, ...]
    # older files, without form questions, have neither these two nor those below
    forms: tuple[AnswerRow, ...] | None = None
    next_tokens: tuple[tuple[str, float], ...] = ()
    fingerprint: str = ""
    template: PromptTemplate | None = None
    # for readers of the file; computed again from the answers when it is read
    knows: bool | None = None
    verdict: str = ""
    balanced_accuracy: Metric | None = None
    auc: Metric | None = None
    form_balanced_accuracy: Metric | None = None
    form_auc: Metric | None = None

    def __post_init__(self) -> None:
        if not self.table:
            raise ValueError("table has no rows")


def table_of(rows: Sequence[AnswerRow]) -> pd.DataFrame:
    """Rows as a table, a column a field."""
    return pd.DataFrame([vars(row) for row in rows])
