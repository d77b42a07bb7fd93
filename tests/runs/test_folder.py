"""Folders of results: which conditions they have, and what is said of folders that have none."""

import shutil

import pytest
from report_folders import run_folder, write_record

from kb_lens.runs.folder import RunFolder, read_conditions


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


@pytest.mark.parametrize(
    ("command", "file", "advice"),
    [
        ("evaluate", "results.json", "give it to `kb-lens compare`, after the base's folder"),
        ("tune", "tuning.json", "give it to `kb-lens figures`"),
        ("neurons", "effects.safetensors", "give it to `kb-lens figures`"),
        ("experiment", "study.json", "give it to `kb-lens figures` or `kb-lens report`"),
        ("export", "kb_lens.json", "give it to `kb-lens evaluate` as the model"),
    ],
)
def test_a_folder_of_another_command_names_the_command_that_reads_it(
    tmp_path, command, file, advice
):
    (tmp_path / file).touch()
    with pytest.raises(ValueError, match=f"it is of .*`kb-lens {command}`: {advice}\\.$"):
        RunFolder.load(tmp_path)


def test_a_folder_without_results_yet_names_the_command_to_give_again(tmp_path):
    with pytest.raises(ValueError, match="has no results: expected what `kb-lens run` wrote"):
        RunFolder.load(tmp_path)
    write_record(tmp_path, "identify")
    with pytest.raises(ValueError, match="no results yet: `kb-lens identify` did not finish"):
        RunFolder.load(tmp_path)
