"""Folders of results: which conditions they have, and what is said of folders that have none."""

import shutil

import pytest
from report_folders import run_folder

from kb_lens.runs.folder import read_conditions


def test_conditions_of_one_name_are_compared_as_the_message_says(tmp_path):
    first, second = (run_folder(tmp_path / n, base=160, lambda_2=100) for n in ("one", "two"))
    base = first / "evaluations/base"
    advice = f"Give single conditions, such as '{base}'.*copy a folder under another name"
    with pytest.raises(ValueError, match=f"both '{first}' and '{second}' have .*'base'. {advice}"):
        read_conditions([first, second])
    singles = [base, first / "evaluations/lambda 2", second / "evaluations/lambda 2"]
    with pytest.raises(ValueError, match=f"both '{singles[1]}' and '{singles[2]}'.*'lambda 2'. A"):
        read_conditions(singles)
    singles[2] = shutil.copytree(singles[2], tmp_path / "two, lambda 2")
    assert list(read_conditions(singles)) == ["base", "lambda 2", "two, lambda 2"]
