"""``--config``: a file's options under those of the command line."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from cyclopts import CycloptsError

from kb_lens.cli.main import app
from kb_lens.runs.execution import JobExecution
from kb_lens.runs.record import RunLog
from kb_lens.runs.settings import RunSettings


def parse(command, *arguments):
    """The settings and the execution that a command line stands for."""
    tokens = [command, *map(str, arguments)]
    _, bound, _ = app.parse_args(tokens, exit_on_error=False, print_error=False)
    return bound.arguments.get("settings"), bound.arguments.get("execution")


@pytest.fixture
def write(tmp_path):
    """Writes a file and gives its path."""

    def written(text, name="options.yaml"):
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        return path

    return written


def record(settings, **execution):
    """The text of the run.json of a run."""
    return RunLog(Path("out"), "run", settings, JobExecution(**execution)).text()


def test_the_file_goes_before_the_defaults_and_the_line_before_the_file(write):
    file = write(
        "model: tiny\nlam: [2, 3.5]\ndata-dir: /data\nn_steps: 4\nrule: riemann\nlimit:\n"
        "benchmarks: [stereoset, 'crows_pairs@3,bbq']\ndate: 2024-05-06\nbatch-size: 3\n"
        "template-option: enable_thinking=true\nprogress: no\nsystem: ''\n"
    )
    settings, execution = parse("run", "--config", file)
    assert settings == RunSettings(
        "tiny",
        lam=(2.0, 3.5),
        data_dir=Path("/data"),
        n_steps=4,
        rule="riemann",
        limit=None,
        benchmarks=("stereoset", "crows_pairs@3", "bbq"),
        date="2024-05-06",
        template_option=("enable_thinking=true",),
        system="",
    )
    assert execution == JobExecution(batch_size=3, progress=False)
    settings, execution = parse(
        *("run", "other", "--limit", 7, "--lam", 9, "--batch-size", 5, "--progress"),
        *("--config", file),
    )
    assert (settings.model, settings.limit, settings.lam) == ("other", 7, (9.0,))
    assert settings.rule == "riemann"
    assert execution == JobExecution(batch_size=5)


def test_a_word_is_what_is_typed_and_no_number_of_yaml_s(write):
    file = write("run:\n  engine: ray\n  address: 12:34\n  revision: 1e3\n  system: yes\n")
    settings, execution = parse("run", "--config", file)
    assert (settings.revision, settings.system) == ("1e3", "yes")
    assert execution.address == "12:34"


def test_a_file_may_have_a_section_for_each_command(write):
    file = write("neurons:\n  neurons: n.json\n  lam: [0, 2]\nexport: {neurons: m.json, lam: 3}\n")
    settings, _ = parse("neurons", "--config", file)
    assert (settings.neurons, settings.lam) == (Path("n.json"), (0.0, 2.0))
    settings, _ = parse("export", "--config", file)
    assert (settings.neurons, settings.lam) == (Path("m.json"), 3.0)


def test_required_options_and_names_of_fields_may_be_in_the_file(write):
    file = write('{"name": "lambda", "model": "tiny", "system": "\\ud83d\\ude00"}', "options.json")
    settings, _ = parse("experiment", "--config", file)
    assert (settings.name, settings.model, settings.system) == ("lambda", "tiny", "\U0001f600")
    for name in ("specificity", "with_specificity"):
        settings, _ = parse("doctor", "--config", write(f"{name}: true\n"))
        assert settings.with_specificity


def test_a_misspelt_option_in_the_file_is_told_the_nearest(write):
    with pytest.raises(ValueError, match=r"not an option of `kb-lens run`.* Did you mean 'limit'"):
        parse("run", "--config", write("limits: 5\n"))


SETTINGS = (
    RunSettings(),
    RunSettings("m", dtype=None, limit=None, lam=(1e-05, -2.0), dimensions=("gender", "age")),
    RunSettings(
        *("m",),
        bank=Path("b,c.csv"),
        system="Zwölf \U0001f600\n: [",
        template_option=("a=1", "b=x"),
        rule="riemann",
        n_steps=3,
        tau=0.1 + 0.2,
    ),
)


@pytest.mark.parametrize("settings", SETTINGS)
def test_a_run_is_repeated_from_its_record(settings, write, capsys):
    repeated, execution = parse("run", "--config", write(record(settings), "run.json"))
    assert repeated == settings
    assert execution is None  # all is the default
    assert capsys.readouterr().err == ""


def test_how_a_run_was_done_is_said_and_not_taken(write, capsys):
    trusting = RunSettings("m", trust_remote_code=True)
    file = write(record(trusting, batch_size=4, device="cpu", overwrite=True), "run.json")
    settings, execution = parse("run", "--device", "cpu", "--config", file)
    assert settings == RunSettings("m")
    assert execution == JobExecution(device="cpu")
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    for option in ("--trust-remote-code True", "--batch-size 4", "--overwrite True"):
        assert option in said
    assert "--device" not in said


def edited(**changes):
    """A run.json with other entries."""
    return json.dumps(json.loads(record(RunSettings())) | changes)


BAD = {
    "lam: abc": ("lam", "abc", "options.yaml"),
    "seed: 1.5": ("--seed", "1.5", "options.yaml"),
    "seed: [1, 2]": ("seed", "list", "options.yaml"),
    "seed:": ("seed", "no value", "options.yaml"),
    "lam: [2, [3]]": ("lam", "options.yaml"),
    "lam: [2, null]": ("lam", "without a value", "options.yaml"),
    "lam: 2\nmax-memory: {0: 1GiB}": ("max-memory", "table", "options.yaml"),
    "lam: &a [*a]": ("lam", "options.yaml"),
    "nope: 3": ("'nope'", "data-dir", "options.yaml"),
    "config: a.yaml": ("'config'", "options.yaml"),
    "data-dir: x\ndata_dir: y": ("twice", "data_dir", "options.yaml"),
    "overwrite: maybe": ("overwrite", "maybe", "options.yaml"),
    "site: nowhere": ("site", "nowhere", "post", "options.yaml"),
    "trust-remote-code: true": ("--trust-remote-code", "command line", "options.yaml"),
    "run: {1: 2}": ("'1'", "options.yaml"),
    "doctor: {lam: 2}": ("no section run", "doctor", "options.yaml"),
    "- lam\n- seed": ("no options", "options.yaml"),
    "": ("no options", "options.yaml"),
    "lam: [2": ("not YAML", "line 1", "options.yaml"),
    "lam: !!python/object:os.system x": ("not YAML", "options.yaml"),
    "lam: !!timestamp 2024-13-01": ("not YAML", "options.yaml"),
    '{"lam": 2,}': ("not JSON", "run.json"),
    edited(command="evaluate"): ("kb-lens evaluate", "kb-lens run", "run.json"),
    edited(arguments={"later": 1}, versions={"kb-lens": "9.1"}): ("'later'", "9.1", "run.json"),
    edited(arguments={"later": 1}, versions=[]): ("'later'", "run.json"),
    edited(arguments={"seed": None}): ("seed", "no value", "run.json"),
}


@pytest.mark.parametrize("text", BAD)
def test_what_is_wrong_in_a_file_is_named(text, write):
    words = BAD[text]
    file = write(text, words[-1])
    with pytest.raises((ValueError, CycloptsError)) as caught:
        parse("run", "--config", file)
    assert [word for word in words if word not in str(caught.value)] == []


def test_a_missing_file_and_a_folder_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"no such file for --config"):
        parse("run", "--config", tmp_path / "none.yaml")
    with pytest.raises(ValueError, match="is a folder"):
        parse("run", "--config", tmp_path)


def test_a_push_is_not_repeated(write, capsys):
    content = {"neurons": "n.json", "lam": 2.0, "push_to": "me/model"}
    file = write(json.dumps({"command": "export", "arguments": content}), "run.json")
    settings, _ = parse("export", "--config", file)
    assert settings.push_to is None
    assert "--push me/model" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "replies"),
    [
        (("ev",), {"evaluate"}),
        (("run", "--con"), {"--config"}),
        (("run", "--site", ""), {"post", "pre"}),
        (("figures", "x", "--theme", "d"), {"dark"}),
    ],
)
def test_a_shell_completes_commands_options_and_values(words, replies, tmp_path):
    script = tmp_path / "kb-lens.bash"
    script.write_text(app.generate_completion(shell="bash"), encoding="utf-8")
    quoted = " ".join(f"'{word}'" for word in ("kb-lens", *words))
    program = (
        f". {script}; function=$(complete -p kb-lens | sed 's/.*-F \\([^ ]*\\).*/\\1/'); "
        f"COMP_WORDS=({quoted}); COMP_CWORD={len(words)}; $function; echo ${{COMPREPLY[@]}}"
    )
    done = subprocess.run(["bash", "-c", program], capture_output=True, text=True, check=True)
    assert set(done.stdout.split()) == replies


def test_nothing_is_imported_for_a_file_before_it_is_read():
    program = (
        "import sys, kb_lens.cli.main\n"
        "print(*{'yaml', 'cyclopts.config', 'tqdm'} & set(sys.modules), sep=',')"
    )
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
