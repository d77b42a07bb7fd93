"""The options of commands that ask: read once, refused early, the same in every command."""

import json
from dataclasses import replace

import pytest
from own_banks import write_bank
from test_cli import bank, call, data, folder  # noqa: F401  # fixtures

import kb_lens as kb
from kb_lens.runs.asking import Asking, Wording
from kb_lens.runs.diagnose import DoctorSettings
from kb_lens.runs.evaluate import EvaluateSettings
from kb_lens.runs.neurons import NeuronsSettings
from kb_lens.runs.settings import IdentifySettings, RunSettings
from kb_lens.studies.choose_lambda import TuneSettings
from kb_lens.studies.run_study import ExperimentSettings

ASK = (IdentifySettings, RunSettings, DoctorSettings, NeuronsSettings, ExperimentSettings)
MEASURE = (RunSettings, EvaluateSettings, ExperimentSettings, TuneSettings)
WORDS = {"system", "instruction", "examples", "template_option", "date"}


@pytest.mark.parametrize("settings", ASK, ids=lambda settings: settings.__name__)
def test_every_command_that_asks_takes_banks_and_words(settings):
    options = settings.__dataclass_fields__
    assert {"bank", "dimensions", "language", "questions", "revision"} | WORDS <= set(options)


@pytest.mark.parametrize("settings", MEASURE, ids=lambda settings: settings.__name__)
def test_every_command_that_measures_takes_options_of_the_chat_template(settings):
    assert {"template_option", "date", "revision"} <= set(settings.__dataclass_fields__)


def test_without_options_the_template_is_the_default():
    assert Wording().template() == kb.PromptTemplate()


def test_options_become_the_template_s(tmp_path):
    path = tmp_path / "examples.csv"
    path.write_text("question,answer\nIs snow white?,Yes\n")
    options = ("enable_thinking=true", "effort=low", "budget=3")
    words = Wording(
        system="", instruction="Say it.", examples=path, template_option=options, date="2020-02-29"
    )
    expected = {"enable_thinking": True, "effort": "low", "budget": 3}
    assert words.template() == kb.PromptTemplate(
        "", "Say it.", (("Is snow white?", "Yes"),), expected, "2020-02-29"
    )


@pytest.mark.parametrize("text", ["enable_thinking", "=true", ""])
def test_an_option_without_a_value_is_refused(text):
    with pytest.raises(ValueError, match=r"--template-option is .*: write KEY=VALUE"):
        Wording(template_option=(text,)).template()


def test_a_bank_of_one_s_own_is_taken_whole_unless_told_otherwise(tmp_path):
    questions = kb.load_questions(18)
    own = Asking(bank=write_bank(tmp_path / "bank.csv", questions[:7]))
    assert len(own.load_questions()) == 7
    whole = Asking(bank=write_bank(tmp_path / "whole.csv", questions))
    assert len(replace(whole, questions=9).load_questions()) == 9
    assert {q.dimension for q in replace(whole, dimensions=("race",)).load_questions()} == {"race"}
    with pytest.raises(ValueError, match="--language chooses a part of the package's bank"):
        replace(whole, language="de").load_questions()


@pytest.mark.parametrize(
    ("asking", "n"),
    [
        (Asking(), 45),
        (Asking(dimensions=("gender",)), 15),
        (Asking(dimensions=("gender", "age")), 30),
        (Asking(questions=0), 225),
        (Asking(questions=18), 18),
    ],
)
def test_the_package_s_bank_gives_five_concepts_of_each_kind(asking, n):
    assert len(asking.load_questions()) == n


def test_the_words_reach_the_model_and_the_record(monkeypatch, tmp_path, folder, bank, capsys):  # noqa: F811
    examples = tmp_path / "examples.csv"
    examples.write_text("question,answer\nIs snow white?,Yes\n")
    words = ("--system", "Be brief.", "--instruction", "Yes or no?", "--examples", examples)
    quick = ("--rule", "gauss-legendre", "--n-steps", 3, "--tau", 0.05)
    command = ("identify", folder, "--bank", bank, "--out", tmp_path / "out", *words, *quick)
    assert call(monkeypatch, *command) == 0
    template = kb.Attributions.load(tmp_path / "out/attributions.safetensors").settings.template
    assert template == kb.PromptTemplate("Be brief.", "Yes or no?", (("Is snow white?", "Yes"),))
    arguments = json.loads((tmp_path / "out/run.json").read_text())["arguments"]
    assert arguments["system"] == "Be brief."
    assert arguments["date"] == template.date
    capsys.readouterr()
    assert call(monkeypatch, *command, "--date", "2020-01-01") == 2
    assert "holds a run with date" in capsys.readouterr().err


def test_an_option_that_the_template_does_not_read_is_one_line(
    monkeypatch,
    tmp_path,
    folder,  # noqa: F811
    bank,  # noqa: F811
    capsys,
):
    command = ("doctor", folder, "--bank", bank, "--out", tmp_path / "out")
    assert call(monkeypatch, *command, "--template-option", "enable_thinkin=true") == 2
    *_, last_line = capsys.readouterr().err.splitlines()
    assert "kb-lens: error: the chat template reads no option 'enable_thinkin'" in last_line
