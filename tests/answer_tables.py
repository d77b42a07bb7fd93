"""Tables of answers as a model would have given them."""

import numpy as np
import pandas as pd

import kb_lens as kb
from kb_lens.files import bank_folder
from kb_lens.knowledge.verdict import Knowledge
from kb_lens.models.answers import Spelling

BANK = kb.load_questions(None)
FORMS = kb.load_questions(None, path=bank_folder() / "forms.csv")


def table_of(questions, p_yes, mass=0.9) -> pd.DataFrame:
    """The rows of these questions, with so much of the mass on yes."""
    table = pd.DataFrame([vars(question) for question in questions])
    table["p_yes"] = mass * np.asarray(p_yes, float)
    table["p_no"] = mass - table["p_yes"]
    table["mass"] = mass
    table["said"] = np.where(table["p_yes"] > table["p_no"], "yes", "no")
    table["right"] = table["said"] == table["answer"]
    table["lesson"] = False
    return table


def right(questions) -> list[float]:
    """P(yes) of a model that knows."""
    return [0.8 if question.answer == "yes" else 0.2 for question in questions]


def by_form(questions) -> list[float]:
    """P(yes) of a model that goes by the form, as the bank's answers do."""
    return [0.2 if question.kind == "causal_rejection" else 0.8 for question in questions]


def knowledge_of(p_yes, form_p_yes=None, questions=BANK, mass=0.9, **fields) -> Knowledge:
    """What a model knows; without the form questions unless their P(yes) is given."""
    forms = None if form_p_yes is None else table_of(FORMS, form_p_yes)
    table = table_of(questions, p_yes, mass)
    return Knowledge("made", Spelling("Yes", "No", 0, 1), table, forms, **fields)
