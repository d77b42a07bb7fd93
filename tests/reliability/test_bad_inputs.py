"""It stays so: every bad input of the table is refused in one line, and nothing else happens."""

import os

import pytest
import torch
from bad_calls import CALL_CASES
from bad_configs import CONFIG_CASES
from bad_files import BANK_CASES, MODEL_CASES, OUT_CASES, PATH_CASES
from bad_inputs import Made
from bad_options import (
    CHOICE_CASES,
    CHOICES,
    CONTRADICTION_CASES,
    LIST_CASES,
    LISTS,
    NUMBER_CASES,
    NUMBERS,
)
from bad_results import DAMAGED_CASES, EDITED_CASES, MIXED_CASES
from trial import faults
from world import make_world

from kb_lens.cli.main import COMMANDS, app

CASES = (
    *(*NUMBER_CASES, *CHOICE_CASES, *LIST_CASES, *CONTRADICTION_CASES),
    *(*PATH_CASES, *BANK_CASES, *CONFIG_CASES, *OUT_CASES, *MODEL_CASES),
    *(*DAMAGED_CASES, *EDITED_CASES, *MIXED_CASES, *CALL_CASES),
)
QUICK_OF = 6
"""`make test` tries every so many of the cases that need no model, `make test-all` tries all."""


pytestmark = [
    pytest.mark.filterwarnings("default"),  # for users they are no errors
    pytest.mark.skipif(
        not os.environ.get("KB_LENS_AS_FOR_USERS"),
        reason="shapes and types are checked: `make bad-inputs` tries the table as users have it",
    ),
]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """What a bad input is a damaged copy of."""
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)  # conftest's fixture comes after this one
    try:
        return make_world(tmp_path_factory.mktemp("world"))
    finally:
        torch.set_num_threads(n_threads)


def _parameters():
    for number, case in enumerate(CASES):
        is_slow = case.slow or number % QUICK_OF
        yield pytest.param(case, marks=[pytest.mark.slow] if is_slow else [], id=str(case)[:200])


@pytest.mark.parametrize("case", list(_parameters()))
def test_a_bad_input_is_refused_in_one_line(case, world, tmp_path, record_property):
    record_property("kind", case.kind)
    assert faults(case, Made(world, tmp_path)) == []


NO_CHOICE = {
    "system",
    "instruction",
    "overwrite",
    "public",
    "progress",
    "specificity",
    "trust-remote-code",
    "dry-run",
}
"""Options that take any text, or none."""
TRIED_ELSEWHERE = {"model", "folder", "folders", "name", "revision", "push", "out", "repository"}
FILES = {
    "config",
    "bank",
    "control-bank",
    "examples",
    "neurons",
    "attributions",
    "data-dir",
    "results",
}


@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_is_in_the_table(command):
    arguments = app[command].assemble_argument_collection()
    options = {argument.name.lstrip("-").lower() for argument in arguments if argument.parse}
    table = {
        option
        for options_of in (NUMBERS, LISTS)
        for option, (commands, _) in options_of.items()
        if command in commands.split()
    }
    table |= {option for option, commands in CHOICES.items() if command in commands.split()}
    assert options - table - NO_CHOICE - TRIED_ELSEWHERE - FILES - {"*"} == set()
