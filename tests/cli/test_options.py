"""What the options mean, whatever a command does with them; and what is imported for them."""

import subprocess
import sys
from dataclasses import fields
from importlib.metadata import version
from pathlib import Path

import pytest
from plotly.graph_objects import Figure

import kb_lens as kb
from kb_lens.cli.main import COMMANDS, app
from kb_lens.cli.pages import named_figures
from kb_lens.runs.diagnose import DoctorSettings
from kb_lens.runs.evaluate import EvaluateSettings
from kb_lens.runs.execution import Execution
from kb_lens.runs.export import ExportSettings
from kb_lens.runs.neurons import NeuronsSettings
from kb_lens.runs.settings import IdentifySettings, RunSettings
from kb_lens.studies.choose_lambda import TuneSettings
from kb_lens.studies.run_study import ExperimentSettings

SETTINGS = {
    "run": RunSettings,
    "identify": IdentifySettings,
    "evaluate": EvaluateSettings,
    "export": ExportSettings,
    "experiment": ExperimentSettings,
    "tune": TuneSettings,
    "neurons": NeuronsSettings,
    "doctor": DoctorSettings,
}
REQUIRED = {
    "export": ("--neurons", "n.json", "--lam", "2"),
    "tune": ("--neurons", "n.json"),
    "neurons": ("--neurons", "n.json"),
}


def parse(command, *arguments):
    """The settings that a command line stands for."""
    tokens = [command, *map(str, arguments), *REQUIRED.get(command, ())]
    _, bound, _ = app.parse_args(tokens, exit_on_error=False, print_error=False)
    return bound.arguments["settings"]


@pytest.mark.parametrize("command", SETTINGS)
def test_the_model_is_positional_and_an_option(command):
    name = ("lambda",) if command == "experiment" else ()
    settings = parse(command, *name, "tiny")
    assert settings.model == "tiny"
    assert parse(command, *name, "--model", "tiny") == settings
    assert parse(command, "--model", "tiny", *name) == settings


@pytest.mark.parametrize(
    ("command", "option", "values"),
    [
        ("run", "lam", (1.0, 2.5, 3.0)),
        ("run", "benchmarks", ("stereoset", "crows_pairs:instructed@20", "bbq")),
        ("run", "dimensions", ("gender", "race", "religion")),
        ("tune", "lam", (1.5, 2.0, 3.0)),
        ("neurons", "lam", (0.0, 1.0, 2.0)),
        ("experiment", "benchmarks", ("stereoset", "plain_text@3", "bbq")),
    ],
)
def test_lists_take_commas_and_repetition(command, option, values):
    name = ("lambda",) if command == "experiment" else ()
    first, second, third = values
    spellings = (
        (f"--{option}", f"{first},{second}, {third}"),
        (f"--{option}", first, f"--{option}", second, f"--{option}", third),
        (f"--{option}", f"{first},{second}", f"--{option}", third),
    )
    for spelling in spellings:
        assert getattr(parse(command, *name, *spelling), option) == values


def test_formats_too_and_a_path_may_have_a_comma():
    _, bound, _ = app.parse_args(["figures", "a,b", "--formats", "html,png", "--formats", "svg"])
    assert bound.arguments["folder"] == Path("a,b")
    assert bound.arguments["formats"] == ("html", "png", "svg")
    _, bound, _ = app.parse_args(["compare", "a,b", "c"])
    assert bound.arguments["folders"] == [Path("a,b"), Path("c")]


def test_no_option_is_of_both_kinds():
    """What a result depends on is compared, how it is computed is not."""
    executions = {Execution}
    for execution in executions:
        executions = executions | set(execution.__subclasses__())
    hows = {option.name for execution in executions for option in fields(execution)}
    for settings in SETTINGS.values():
        assert hows.isdisjoint(option.name for option in fields(settings))


def test_commands_are_listed_in_the_order_of_their_page(capsys):
    page = (Path(__file__).parents[2] / "docs/commands.md").read_text(encoding="utf-8")
    rows = [line.split()[2] for line in page.splitlines() if line.startswith("| `kb-lens ")]
    assert [row.strip("`") for row in rows] == list(COMMANDS)
    app(["--help"], result_action="return_value")
    lines = capsys.readouterr().out.splitlines()
    words = [line.split()[1] for line in lines if len(line.split()) > 2]
    assert [word for word in words if word in COMMANDS] == list(COMMANDS)


def test_what_a_command_does_is_said_alike_in_its_help(capsys):
    for command, (_, summary) in COMMANDS.items():
        assert " ".join((app[command].default_command.__doc__ or "").split()) == summary


@pytest.mark.parametrize("what", ["import kb_lens", "from kb_lens.cli.main import main; main()"])
def test_nothing_slow_is_imported_before_it_is_used(what):
    program = (
        "import atexit, sys\n"
        "slow = {'torch', 'transformers', 'pandas', 'transformer_lens', 'plotly'}\n"
        "atexit.register(lambda: print('imported:', *sorted(slow & set(sys.modules))))\n"
        f"{what}"
    )
    command = [sys.executable, "-c", program, "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "imported:"


def test_the_public_names_are_there():
    program = "import kb_lens as kb\nfor name in kb.__all__: getattr(kb, name)"
    subprocess.run([sys.executable, "-c", program], check=True)


def test_the_version_is_the_package_s():
    shown = subprocess.run(
        [sys.executable, "-m", "kb_lens.cli.main", "--version"], capture_output=True, text=True
    )
    assert shown.returncode == 0
    assert shown.stdout.strip() == kb.__version__ == version("kb-lens")


def test_a_misspelt_figure_is_told_the_nearest():
    with pytest.raises(ValueError, match=r"--only is 'tunning': .* Did you mean 'tuning'"):
        named_figures({"tuning": Figure(), "paper": Figure()}, ["tunning"])
