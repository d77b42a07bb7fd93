"""A model's answers, and the verdict whether it knows.

The method presupposes a model that answers the bank right. Raw accuracy does not show a model that
always gives the same answer. So balanced accuracy and AUC are reported, with their intervals and
the share of probability on yes and no. In the bank the right answer is a function of the question's
kind. The form questions are plain questions of the same kinds with both answers: they separate a
model that knows from one that answers by the form (docs/specificity.md).
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
import pandas as pd

from kb_lens.intervals import interval_text
from kb_lens.knowledge.answer_files import KnowledgeFile, table_of
from kb_lens.knowledge.measures import answer_measures, not_taught
from kb_lens.models.answers import Spelling
from kb_lens.models.prompts import PromptTemplate
from kb_lens.records.objects import read_json, write_json
from kb_lens.statistics import Metric

Outcome = Literal["KNOWS", "KNOWS THE FORM", "DOES NOT KNOW", "CANNOT TELL"]
"""The first words of a verdict."""

LEAST_MASS = 0.1
"""With a smaller share of the probability on yes and no the model answers something else."""
CHANCE = {"balanced_accuracy": 50.0, "auc": 0.5}
_GOOD = {"balanced_accuracy": 75.0, "auc": 0.75}
"""An interval that contains both chance and this value decides nothing."""
_CONSEQUENCE: dict[Outcome, str] = {
    "KNOWS": "The method's precondition holds.",
    "KNOWS THE FORM": (
        "It tells the questions of the bank apart, but not plain true statements from false ones "
        "in the same forms: it answers by the form of a question, which gives away the bank's "
        "answer. The method's precondition does not hold."
    ),
    "DOES NOT KNOW": (
        "The method needs a model that answers these questions right. The neurons found in this "
        "one are not neurons that know what bias is, and no debiasing can be expected. What "
        "follows shows the procedure, not an effect."
    ),
    "CANNOT TELL": "",  # the obstacle says what to do
}
_CAUSES = (
    "Usual causes: the chat template is missing, or a base model has no worked examples; thinking "
    "is on; yes and no are spelled differently; float16 overflows."
)


@dataclass(frozen=True, eq=False)
class Knowledge:
    """What a model answers to a set of questions."""

    model: str
    """The model's name."""
    spelling: Spelling
    """The spelling that is scored."""
    table: pd.DataFrame
    """One row a question: dimension, kind, concept, text, answer, p_yes and p_no (in the chosen
    spelling), mass (all spellings of both), said (the likelier answer), right, and lesson: whether
    the model names the question among those that it was taught (`kb_lens.models.lessons`)."""
    forms: pd.DataFrame | None = None
    """The same for the form questions: plain facts with both answers in every kind. None if they
    were not asked: then the verdict says "form not checked"."""
    next_tokens: Sequence[tuple[str, float]] = ()
    """The likeliest tokens after a question, and their mean probability over the questions."""
    fingerprint: str = ""
    """The model's weights (`kb_lens.models.hooked.fingerprint`); empty in older files."""
    template: PromptTemplate | None = None
    """The words around each question; None in older files."""

    @property
    def all_answers(self) -> pd.DataFrame:
        """The rows of `table`, followed by those of `forms`; a copy."""
        tables = [self.table] if self.forms is None else [self.table, self.forms]
        return pd.concat(tables, ignore_index=True)

    @property
    def balanced_accuracy(self) -> Metric:
        """On questions that were not lessons, in percent (50 is chance), with its 95 % interval."""
        return self._measures[0]

    @property
    def auc(self) -> Metric:
        """AUC of P(yes) against P(no) on the same questions (0.5 is chance), with its interval."""
        return self._measures[1]

    @property
    def form_balanced_accuracy(self) -> Metric | None:
        """On the form questions, within a kind, the mean over kinds; None if not checked."""
        return self._form_measures and self._form_measures[0]

    @property
    def form_auc(self) -> Metric | None:
        """On the form questions, within a kind, the mean over kinds; None if not checked."""
        return self._form_measures and self._form_measures[1]

    @cached_property
    def _measures(self) -> tuple[Metric, Metric]:
        return answer_measures(not_taught(self.table))

    @cached_property
    def _form_measures(self) -> tuple[Metric, Metric] | None:
        return None if self.forms is None else answer_measures(self.forms, within_kinds=True)

    def summary(self, by: str | None = None) -> pd.DataFrame:
        """Accuracy over all questions, or over each value of `by` (``dimension``, ``kind``).

        Returns:
            n, right, counted (questions that were not lessons), balanced_accuracy (percent; 50 is
            chance), auc (of P(yes) over P(no); 0.5 is chance), both with the ends of their
            intervals (``_low``, ``_high``), said_yes and said_no (percent), p_right and mass
            (means). Balanced accuracy and AUC are of the questions counted, and NaN if all of these
            have the same answer or a probability is not known.
        """
        return _summaries(self.table, by)

    def form_summary(self) -> pd.DataFrame:
        """The same for the form questions, by kind; no rows if they were not asked."""
        if self.forms is None:
            return self.summary().iloc[:0]
        return _summaries(self.forms, "kind").rename(index="form: {}".format)

    @property
    def knows(self) -> bool:
        """Whether the method's precondition holds, as far as it was checked.

        True if the verdict is KNOWS. With "form not checked" this rests on `table` alone.
        """
        return self.outcome == "KNOWS"

    @property
    def outcome(self) -> Outcome:
        """The first words of the verdict, by the lower ends of the intervals.

        KNOWS: balanced accuracy and AUC are above chance on the questions, and on the form
        questions if those were asked; KNOWS THE FORM: on the questions only; CANNOT TELL: the
        probabilities or the questions do not allow an answer.
        """
        if self._obstacle():
            return "CANNOT TELL"
        if not _above_chance(self._measures):
            return "DOES NOT KNOW"
        if self._form_measures is None or _above_chance(self._form_measures):
            return "KNOWS"
        return "KNOWS THE FORM"

    def finding(self) -> str:
        """The outcome and its numbers."""
        sentences = (f"{self.outcome}.", self._obstacle(), self._figures())
        return " ".join(filter(None, sentences))

    def verdict(self) -> str:
        """The result in plain words: the outcome, its numbers, and what follows from it."""
        consequence = _CONSEQUENCE[self.outcome]
        if self.knows and self.forms is None:
            consequence = "As far as these questions tell, the method's precondition holds."
        return f"{self.finding()} {consequence}".rstrip()

    def _obstacle(self) -> str:
        """Why no verdict is possible; empty if one is."""
        answers = self.all_answers
        total = (answers["p_yes"] + answers["p_no"]).to_numpy(np.float64)
        unknown = ~(np.isfinite(total) & (total > 0))
        if unknown.any():
            return (
                f"The probability of both answers is zero or not finite on {unknown.sum()} of "
                f"{len(answers)} questions. {self._tokens()}"
            )
        mass = _mean(self.table["mass"])
        if mass < LEAST_MASS:
            return f"Only {100 * mass:.2g} % of the probability is on yes and no. {self._tokens()}"
        judged = not_taught(self.table)
        if judged.empty:
            return "All of these questions were lessons of the model: ask others."
        if len(set(judged["answer"])) < 2:
            return (
                "All right answers are the same, so a model that always gives this answer cannot "
                "be told from one that knows. Ask questions with both answers."
            )
        undecided = [
            measure.low <= CHANCE[name] and measure.high >= _GOOD[name]
            for name, measure in zip(CHANCE, self._measures, strict=True)
        ]
        # If the AUC cannot be good the model does not know, however many answers are right.
        if any(undecided) and self.auc.high >= _GOOD["auc"]:
            return "Too few questions: an interval contains both chance and a good value. Ask more."
        return ""

    def _tokens(self) -> str:
        listed = ", ".join(f"{token!r} {100 * share:.0f} %" for token, share in self.next_tokens)
        return (f"The likeliest next tokens: {listed}. " if listed else "") + _CAUSES

    def _figures(self) -> str:
        total = self.summary().iloc[0]
        common = "no" if total["said_no"] >= total["said_yes"] else "yes"
        text = (
            f"{self.model} answers {total['right']:.0f} of {total['n']:.0f} questions right; it "
            f"says {common} to {total['said_' + common]:.0f} % of them. {self._lessons()}"
            f"{measures_text(*self._measures)} 95 % intervals; {100 * total['mass']:.0f} % of the "
            f"probability is on yes and no, spelled {self.spelling.yes!r} and {self.spelling.no!r}."
        )
        if self._form_measures is None or self.forms is None:
            return f"{text} On plain questions: form not checked."
        form = measures_text(*self._form_measures)
        return f"{text} Within forms, on {len(self.forms)} plain questions: {form}"

    def _lessons(self) -> str:
        """How many questions were lessons; empty if none were."""
        n_new = len(not_taught(self.table))
        if n_new == len(self.table):
            return ""
        return f"{len(self.table) - n_new} were its lessons and are not counted below. "

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the answers as JSON."""
        measures = {"balanced_accuracy": self.balanced_accuracy, "auc": self.auc}
        measures |= {"form_balanced_accuracy": self.form_balanced_accuracy}
        measures |= {"form_auc": self.form_auc}
        content: dict[str, Any] = {
            "model": self.model,
            "fingerprint": self.fingerprint,
            "template": self.template and asdict(self.template),
            "spelling": asdict(self.spelling),
            "knows": self.knows,
            "verdict": self.verdict(),
            **{name: measure and asdict(measure) for name, measure in measures.items()},
            "next_tokens": self.next_tokens,
            "table": self.table.to_dict("records"),
            "forms": None if self.forms is None else self.forms.to_dict("records"),
        }
        write_json(path, content, indent=1)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Knowledge:
        """Read a file that `save` wrote.

        Raises:
            ValueError: If the file is missing, damaged or of another kind.
        """
        # a model that overflows gives NaN as probabilities
        content: KnowledgeFile = read_json(path, KnowledgeFile, what="knowledge", finite=False)
        return cls(
            content.model,
            content.spelling,
            table_of(content.table),
            None if content.forms is None else table_of(content.forms),
            content.next_tokens,
            content.fingerprint,
            content.template,
        )


def measures_text(accuracy: Metric, auc: Metric) -> str:
    """Balanced accuracy and AUC with their intervals, as a sentence."""
    if np.isnan(auc.value):
        return "Balanced accuracy and AUC do not exist."
    percent = interval_text(accuracy.value, accuracy.low, accuracy.high, ".0f")
    area = interval_text(auc.value, auc.low, auc.high)
    return f"Balanced accuracy {percent} % (chance 50), AUC {area} (chance 0.5)."


def _above_chance(measures: tuple[Metric, Metric]) -> bool:
    pairs = zip(CHANCE.values(), measures, strict=True)
    return all(measure.low > chance for chance, measure in pairs)


def _summaries(table: pd.DataFrame, by: str | None) -> pd.DataFrame:
    groups = table.groupby(by, sort=False) if by else [("all", table)]
    rows = {str(name): _summary(group) for name, group in groups}
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis(by or "questions")


def _summary(group: pd.DataFrame) -> dict[str, float]:
    is_yes = group["answer"].eq("yes").to_numpy()
    said_yes = group["said"].eq("yes").to_numpy()
    row: dict[str, float] = {"n": len(group), "right": int((said_yes == is_yes).sum())}
    counted = not_taught(group)
    row["counted"] = len(counted)
    for name, measure in zip(CHANCE, answer_measures(counted), strict=True):
        row |= {name: measure.value, f"{name}_low": measure.low, f"{name}_high": measure.high}
    return row | {
        "said_yes": 100 * _mean(said_yes),
        "said_no": 100 * _mean(~said_yes),
        "p_right": _mean(np.where(is_yes, group["p_yes"], group["p_no"])),
        "mass": _mean(group["mass"]),
    }


def _mean(values: Any) -> float:
    return float(np.asarray(values, np.float64).mean())
