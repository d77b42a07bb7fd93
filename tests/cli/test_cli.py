"""The command as a user types it: folders, run.json, and one line for every mistake."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace

import pandas as pd
import pytest
import torch
from tiny_models import tiny_hf_model, tiny_tokenizer

import kb_lens as kb
from kb_lens.cli import main as cli
from kb_lens.evaluation.results import load_results

pytestmark = pytest.mark.slow  # whole commands, on a tiny model


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tiny random model as a checkpoint folder."""
    path = tmp_path_factory.mktemp("model")
    tiny_hf_model().save_pretrained(path)
    tiny_tokenizer().save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def bank(tmp_path_factory):
    """Nine questions of our own."""
    path = tmp_path_factory.mktemp("bank") / "bank.csv"
    questions = kb.load_questions(9)
    pd.DataFrame([vars(question) for question in questions]).to_csv(path, index=False)
    return path


FAST = ("--rule", "gauss-legendre", "--n-steps", 3)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Benchmark files in their authors' formats, a few rows each."""
    path = tmp_path_factory.mktemp("data")
    rows = [
        {
            "type": kind,
            "bias_type": bias,
            "target": f"t{i}",
            "context": f"He is here {i}.",
            "stereotype": f"He is bad {i}.",
            "anti-stereotype": f"He is good {i}.",
            "unrelated": f"The street {i}.",
        }
        for i, (kind, bias) in enumerate(
            [("intrasentence", "gender"), ("intersentence", "race")] * 4
        )
    ]
    (path / "stereoset").mkdir()
    (path / "stereoset/dev.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (path / "crows_pairs").mkdir()
    pairs = pd.DataFrame(
        {
            "sent_more": [f"She is bad {i}." for i in range(6)],
            "sent_less": [f"He is bad {i}." for i in range(6)],
            "stereo_antistereo": ["stereo", "antistereo"] * 3,
            "bias_type": ["gender", "age"] * 3,
        }
    )
    pairs.to_csv(path / "crows_pairs/crows_pairs_anonymized.csv")
    (path / "openbookqa").mkdir()
    items = [
        {
            "question_stem": f"Question {i} is",
            "answerKey": "B",
            "choices": {"text": ["one", "two", "six", "ten"], "label": ["A", "B", "C", "D"]},
        }
        for i in range(5)
    ]
    (path / "openbookqa/test.jsonl").write_text("\n".join(map(json.dumps, items)))
    return path


def call(monkeypatch, *arguments):
    """Run the command in this process; returns the exit status."""
    monkeypatch.setattr(sys, "argv", ["kb-lens", *map(str, arguments)])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    return stop.value.code or 0


def test_identify_then_evaluate(monkeypatch, tmp_path, folder, bank, data, capsys):
    found = tmp_path / "found"
    assert call(monkeypatch, "identify", folder, "--bank", bank, "--out", found) == 0
    neurons = kb.NeuronSet.load(found / "neurons.json")
    scores = kb.Attributions.load(found / "attributions.safetensors")
    sets = {d: kb.select_neurons(part) for d, part in scores.by_dimension().items()}
    assert neurons == kb.NeuronSet.union(sets.values())
    for dimension, one in sets.items():
        assert kb.NeuronSet.load(found / "neurons" / f"{dimension}.json") == one
    assert "CANNOT TELL" in capsys.readouterr().out

    log = json.loads((found / "run.json").read_text())
    assert log["arguments"]["tau"] == 0.1
    assert log["model"]["fingerprint"] == neurons.fingerprint
    assert log["versions"]["torch"].startswith(torch.__version__.split("+")[0])
    assert set(log["seconds"]) == {"load the model", "identify"}

    for name, scaling in {
        "base": (),
        "enhanced": ("--neurons", found / "neurons.json", "--lam", 4),
    }.items():
        out = tmp_path / name
        assert (
            call(monkeypatch, "evaluate", folder, *scaling, "--data-dir", data, "--out", out) == 0
        )
        assert {path.stem for path in (out / "items").iterdir()} == set(load_results(out))
    base = json.loads((tmp_path / "base" / "results.json").read_text())
    enhanced = json.loads((tmp_path / "enhanced" / "results.json").read_text())
    assert set(base["benchmarks"]) == {"stereoset", "crows_pairs", "openbookqa"}
    assert base["intervention"] is None
    assert enhanced["intervention"]["lam"] == 4
    assert set(base["benchmarks"]["stereoset"]["icat"]) == {
        *("value", "low", "high", "n"),
        "clusters",
    }
    assert base["benchmarks"] != enhanced["benchmarks"]


def test_the_command_is_the_library(monkeypatch, tmp_path, folder, bank, data):
    """What the command measures under --neurons is what a `with` block measures."""
    found = tmp_path / "found"
    call(monkeypatch, "identify", folder, "--bank", bank, *FAST, "--out", found)
    out = tmp_path / "enhanced"
    arguments = ("--neurons", found / "neurons.json", "--lam", 3, "--benchmarks", "stereoset")
    call(monkeypatch, "evaluate", folder, *arguments, "--data-dir", data, "--out", out)
    model = kb.load_model(folder)
    benchmark = kb.load_benchmark("stereoset", data_dir=data)
    with kb.scale_neurons(model, kb.NeuronSet.load(found / "neurons.json"), lam=3):
        expected = kb.evaluate(model, benchmark, progress=False)
    measured = load_results(out)["stereoset"]
    pd.testing.assert_frame_equal(measured.items, expected.items)
    assert measured.metrics == expected.metrics


def test_a_folder_with_another_run_is_not_overwritten(monkeypatch, tmp_path, folder, bank, capsys):
    out = tmp_path / "found"
    arguments = ("identify", folder, "--bank", bank, *FAST, "--out", out)
    assert call(monkeypatch, *arguments) == 0
    before = (out / "neurons.json").read_text()
    assert call(monkeypatch, *arguments, "--tau", 0.5) == 2
    assert "holds a run with tau 0.1, now 0.5" in capsys.readouterr().err
    assert (out / "neurons.json").read_text() == before
    assert call(monkeypatch, *arguments, "--tau", 0.5, "--overwrite") == 0
    assert len(kb.NeuronSet.load(out / "neurons.json")) < len(json.loads(before)["neurons"])
    assert call(monkeypatch, *arguments, "--tau", 0.5) == 0


def test_doctor(monkeypatch, tmp_path, folder, bank, capsys):
    out = tmp_path / "doctor"
    assert call(monkeypatch, "doctor", folder, "--bank", bank, "--out", out) == 0
    found = kb.Knowledge.load(out / "knowledge.json")
    assert len(found.table) == 9
    assert found.verdict() in " ".join(capsys.readouterr().out.split("\n"))
    assert 'src="plotly.min.js"' in (out / "figures" / "knowledge.html").read_text("utf-8")
    assert (out / "figures" / "plotly.min.js").stat().st_size > 1e6


@pytest.mark.slow
def test_doctor_examines_a_run(monkeypatch, tmp_path, folder, bank, data, capsys):
    """With controls and results every check is judged, and what it says is written."""
    run, out = tmp_path / "run", tmp_path / "doctor"
    arguments = ("--bank", bank, "--data-dir", data, "--lam", 2, "--out", run)
    assert call(monkeypatch, "run", folder, *arguments) == 0
    arguments = ("--bank", bank, "--specificity", "--results", run, "--out", out)
    assert call(monkeypatch, "doctor", folder, *arguments) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "What else selects the know-bias neurons" in shown
    checks = pd.DataFrame(json.loads((out / "checks.json").read_text())).set_index("check")
    assert len(checks) == 10
    assert "not checked" not in set(checks["status"])
    assert checks.loc["answers the questions right", "status"] == "failed"
    assert {"specificity.csv", "stability.csv"} <= {path.name for path in out.iterdir()}
    assert (out / "figures" / "specificity.html").is_file()
    arguments = ("--bank", bank, "--results", run, "--out", tmp_path / "other")
    assert call(monkeypatch, "doctor", folder, *arguments, "--lam", 7) == 2
    assert "has no 'lambda 7'; its conditions: base, lambda 2" in capsys.readouterr().err
    for option, value in {"--system": "Be brief.", "--dimensions": "gender"}.items():
        assert call(monkeypatch, "doctor", folder, *arguments, option, value) == 2
        assert f"drop {'--system' if option == '--system' else '--questions'}" in (
            capsys.readouterr().err
        )


def test_protocols_side_by_side_and_compared(monkeypatch, tmp_path, folder, bank, data, capsys):
    found = tmp_path / "found"
    call(monkeypatch, "identify", folder, "--bank", bank, *FAST, "--out", found)
    names = "stereoset,crows_pairs:instructed,crows_pairs:original"
    options = ("--benchmarks", names, "--data-dir", data)
    scaling = ("--neurons", found / "neurons.json", "--lam", 9)
    for name, more in {"base": (), "enhanced": scaling}.items():
        arguments = (*options, *more, "--out", tmp_path / name)
        assert call(monkeypatch, "evaluate", folder, *arguments) == 0
    keys = {"stereoset", "crows_pairs", "crows_pairs_instructed"}
    assert set(load_results(tmp_path / "base")) == keys
    assert {path.stem for path in (tmp_path / "base/items").iterdir()} == keys
    capsys.readouterr()
    folders, out = (tmp_path / "base", tmp_path / "enhanced"), tmp_path / "compared"
    assert call(monkeypatch, "compare", *folders, "--out", out) == 0
    assert "Ranks" in capsys.readouterr().out
    table, ranks = pd.read_csv(out / "comparison.csv"), pd.read_csv(out / "ranks.csv")
    assert set(table["benchmark"]) == keys
    assert table.loc[table["condition"] == "enhanced", "difference"].notna().all()
    assert set(ranks["method"]) == {"base", "enhanced"}
    assert call(monkeypatch, "compare", folders[0]) == 2
    assert "nothing to compare: got base" in capsys.readouterr().err
    assert call(monkeypatch, "compare", *folders, folders[0]) == 2
    assert f"both '{folders[0]}' and '{folders[0]}' have a condition 'base'. A single" in (
        capsys.readouterr().err
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("identify", "no/such-model"), "cannot load the model 'no/such-model'"),
        (("identify", "MODEL", "--bank", "none.csv"), "no such question file: 'none.csv'"),
        (("identify", "MODEL", "--questions", 10), "multiples of 9 up to 225"),
        (("identify", "MODEL", "--tau", 1), "tau is 1.0: allowed is 0 <= tau < 1"),
        (("identify", "MODEL", "--beta", -1), "beta is -1.0"),
        (
            ("identify", "MODEL", "--bank", "BANK", "--tau", 0.999, "--beta", 0.999),
            "no neuron passes",
        ),
        (("identify", "MODEL", "--n-steps", 5), "takes tol, not n_steps"),
        (("evaluate", "MODEL", "--lam", 2), "--neurons and --lam belong together"),
        (("evaluate", "MODEL", "--neurons", "none.json", "--lam", 2), "no such neurons file"),
        (("evaluate", "MODEL", "--benchmarks", "glue"), "unknown benchmark 'glue'"),
        (("evaluate", "MODEL", "--benchmarks", "bbq_weight"), "unknown benchmark 'bbq_weight'"),
        (("evaluate", "MODEL", "--benchmarks", "bbq"), "no file for bbq"),
        (("evaluate", "MODEL", "--benchmarks", "arc_easy:instructed"), "no protocol 'instructed'"),
        (("identify", "MODEL", "--dimensions", "age,wealth"), "no dimension 'wealth'"),
        (("identify", "MODEL", "--language", "fr"), "language is 'fr'"),
        (("doctor", "MODEL", "--lam", 2), "--lam names a condition of --results"),
        (("doctor", "MODEL", "--results", "none"), "'none' has no results"),
        (("evaluate", "MODEL", "--limit", 0), "limit must be a whole number of at least 1"),
        (("evaluate", "MODEL", "--data-dir", "/none"), "/none"),
        (("run", "MODEL", "--lam", "nan"), "lam is nan: allowed is any finite number"),
        (("identify", "MODEL", "--device", "gpu"), "no device 'gpu' here"),
        (
            ("identify", "MODEL", "--site", "mid"),
            'Invalid value "mid" for --site. Choose from: "post", "pre"',
        ),
        (("identify", "MODEL", "--nope"), "Unknown option: --nope"),
        (("run", "MODEL", "--lam", 2, "--lam", 2), "--lam has a factor twice: 2, 2"),
        (("evaluate", "MODEL", "--benchmarks", "stereoset,stereoset"), "has a name twice"),
        (("figures", "none"), "'none' has no results"),
    ],
)
def test_mistakes_are_one_line_and_status_2(
    monkeypatch, tmp_path, folder, bank, data, capsys, arguments, message
):
    names = {"MODEL": folder, "BANK": bank}
    arguments = [names.get(argument, argument) for argument in arguments]
    if arguments[0] != "figures":
        arguments += ["--out", tmp_path / "out"]
    if arguments[0] in ("evaluate", "run") and "--data-dir" not in arguments:
        arguments += ["--data-dir", data]
    assert call(monkeypatch, *arguments) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if "kb-lens: error:" in line]
    assert len(lines) == 1
    assert message in lines[0]


def test_neurons_of_another_model(monkeypatch, tmp_path, folder, data, capsys):
    neurons = kb.NeuronSet(
        neurons=(kb.Neuron(0, 1),),
        model="other",
        fingerprint="0",
        site="post",
        n_layers=3,
        d_mlp=48,
    )
    neurons.save(tmp_path / "other.json")
    arguments = ("--neurons", tmp_path / "other.json", "--lam", 2, "--data-dir", data)
    assert call(monkeypatch, "evaluate", folder, *arguments, "--out", tmp_path / "out") == 2
    assert "these neurons belong to other" in capsys.readouterr().err


@pytest.mark.slow
def test_a_mistake_in_a_real_process_has_no_traceback(tmp_path):
    command = [sys.executable, "-m", "kb_lens.cli.main", "figures", str(tmp_path / "none")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("kb-lens: error: '")
    assert done.stderr.count("\n") == 1


def test_the_whole_run(monkeypatch, tmp_path, folder, bank, data, capsys):
    """Every stage's files; a second call repeats nothing and ends in the same summary."""
    out = tmp_path / "run"
    arguments = ("run", folder, "--bank", bank, "--data-dir", data, "--limit", 4, "--out", out)
    assert call(monkeypatch, *arguments) == 0
    shown = capsys.readouterr().out
    assert "random lambda 3" in shown
    assert "CANNOT TELL" in shown
    summary = pd.read_csv(out / "summary.csv")
    conditions = ["base", "lambda 2", "lambda 3", "random lambda 2", "random lambda 3"]
    assert list(dict.fromkeys(summary["condition"])) == conditions
    assert summary.loc[summary["condition"] == "base", "difference"].isna().all()
    flips = summary[summary["metric"] == "to_stereotype"]
    assert set(flips["condition"]) == set(conditions) - {"base"}
    assert summary.loc[summary["condition"] != "base", "difference"].notna().all()
    assert {"before_after", "attribution_heatmap", "upset", "knowledge"} <= {
        path.stem for path in (out / "figures").glob("*.html")
    }
    monkeypatch.setattr("kb_lens.runs.units.evaluate", lambda *a, **k: pytest.fail("repeated"))
    monkeypatch.setattr(
        "kb_lens.attribution.attribute.attribute_question", lambda *a: pytest.fail("repeated")
    )
    assert call(monkeypatch, *arguments) == 0
    pd.testing.assert_frame_equal(pd.read_csv(out / "summary.csv"), summary)
    before = {path.name for path in (out / "figures").iterdir()}
    assert call(monkeypatch, "figures", out, "--out", tmp_path / "again", "--formats", "html") == 0
    assert {path.name for path in (tmp_path / "again").iterdir()} == {
        name for name in before if name.endswith((".html", ".js"))
    }


@pytest.mark.slow
def test_a_benchmark_without_data_is_named(monkeypatch, tmp_path, folder, bank, data, capsys):
    (tmp_path / "data").symlink_to(data)
    partial = tmp_path / "partial"
    (partial / "stereoset").mkdir(parents=True)
    (partial / "stereoset/dev.jsonl").write_text((data / "stereoset/dev.jsonl").read_text())
    out = tmp_path / "run"
    arguments = ("run", folder, "--bank", bank, "--data-dir", partial, "--out", out, "--lam", 2)
    assert call(monkeypatch, *arguments) == 0
    assert "LEFT OUT: crows_pairs." in capsys.readouterr().err
    assert set(pd.read_csv(out / "summary.csv")["benchmark"]) == {"stereoset"}


def test_a_mistake_with_overwrite_loses_nothing(monkeypatch, tmp_path, folder, bank, capsys):
    out = tmp_path / "found"
    assert call(monkeypatch, "identify", folder, "--bank", bank, *FAST, "--out", out) == 0
    before = sorted(path.name for path in out.rglob("*"))
    assert call(monkeypatch, "identify", "no/such-model", "--out", out, "--overwrite") == 2
    assert sorted(path.name for path in out.rglob("*")) == before


def test_another_command_does_not_take_a_folder_over(monkeypatch, tmp_path, folder, bank, capsys):
    out = tmp_path / "found"
    assert call(monkeypatch, "identify", folder, "--bank", bank, *FAST, "--out", out) == 0
    assert call(monkeypatch, "doctor", folder, "--bank", bank, "--out", out) == 2
    assert "holds a run with command 'identify', now 'doctor'" in capsys.readouterr().err


def test_a_retrained_checkpoint_is_another_model(monkeypatch, tmp_path, bank, capsys):
    model, out = tmp_path / "model", tmp_path / "found"
    tiny_tokenizer().save_pretrained(model)
    tiny_hf_model(seed=0).save_pretrained(model)
    assert call(monkeypatch, "doctor", model, "--bank", bank, "--out", out) == 0
    tiny_hf_model(seed=1).save_pretrained(model)
    assert call(monkeypatch, "doctor", model, "--bank", bank, "--out", out) == 2
    assert "holds a run with fingerprint" in capsys.readouterr().err


def test_a_malformed_data_file_stops_the_run(monkeypatch, tmp_path, folder, bank, data, capsys):
    bad = tmp_path / "data" / "stereoset"
    bad.mkdir(parents=True)
    (bad / "dev.jsonl").write_text("{not json")
    arguments = ("run", folder, "--bank", bank, "--data-dir", tmp_path / "data")
    assert call(monkeypatch, *arguments, "--out", tmp_path / "out") == 2
    assert "line 1: not JSON" in capsys.readouterr().err


def test_results_of_other_neurons_are_not_taken(monkeypatch, tmp_path, folder, bank, data, capsys):
    """The same command with another content of its neurons file is another intervention."""
    found, out = tmp_path / "found", tmp_path / "enhanced"
    call(monkeypatch, "identify", folder, "--bank", bank, *FAST, "--out", found)
    neurons = kb.NeuronSet.load(found / "neurons.json")
    scaling = ("--neurons", found / "neurons.json", "--lam", 3, "--benchmarks", "stereoset")
    arguments = ("evaluate", folder, *scaling, "--data-dir", data, "--out", out)
    assert call(monkeypatch, *arguments) == 0
    before = (out / "results.json").read_text()
    replace(neurons, neurons=neurons.neurons[:1]).save(found / "neurons.json")
    assert call(monkeypatch, *arguments) == 2
    assert "is of another intervention" in capsys.readouterr().err
    assert (out / "results.json").read_text() == before


def test_changed_texts_are_measured_again(monkeypatch, tmp_path, folder, data):
    """CrowS-Pairs' items are numbers: what they say may change under them."""
    own, out = tmp_path / "data", tmp_path / "base"
    shutil.copytree(data, own)
    names = ("--benchmarks", "crows_pairs")
    arguments = ("evaluate", folder, *names, "--data-dir", own, "--out", out)
    assert call(monkeypatch, *arguments) == 0
    before = load_results(out)["crows_pairs"].items
    path = own / "crows_pairs/crows_pairs_anonymized.csv"
    path.write_text(path.read_text().replace("bad 1", "good 1"))
    assert call(monkeypatch, *arguments) == 0
    after = load_results(out)["crows_pairs"].items
    assert after["item"].tolist() == before["item"].tolist()
    assert after["logprob_more"].tolist() != before["logprob_more"].tolist()


@pytest.mark.slow
def test_doctor_refuses_results_of_another_model(monkeypatch, tmp_path, folder, bank, data, capsys):
    run, model = tmp_path / "run", tmp_path / "other"
    more = ("--data-dir", data, "--lam", 2, "--benchmarks", "stereoset", *FAST)
    assert call(monkeypatch, "run", folder, "--bank", bank, *more, "--out", run) == 0
    tiny_tokenizer().save_pretrained(model)
    tiny_hf_model(seed=5).save_pretrained(model)
    arguments = ("doctor", model, "--results", run, "--out", tmp_path / "doctor")
    assert call(monkeypatch, *arguments) == 2
    assert "are of another model" in capsys.readouterr().err


@pytest.mark.slow
def test_a_protocol_for_the_default_benchmarks(monkeypatch, tmp_path, folder, bank, data, capsys):
    """What has the protocol is asked in it, the rest in its own; an unknown one is an error."""
    out = tmp_path / "run"
    more = ("--bank", bank, "--data-dir", data, "--lam", 2, *FAST, "--out", out)
    assert call(monkeypatch, "run", folder, *more, "--protocol", "spoken") == 2
    assert "has no protocol 'spoken'" in capsys.readouterr().err
    assert call(monkeypatch, "run", folder, *more, "--protocol", "instructed") == 0
    keys = set(pd.read_csv(out / "summary.csv")["benchmark"])
    assert keys == {"stereoset_instructed", "crows_pairs_instructed", "openbookqa"}


def test_damaged_results_are_measured_again(monkeypatch, tmp_path, folder, data):
    out = tmp_path / "base"
    arguments = ("evaluate", folder, "--data-dir", data, "--benchmarks", "stereoset", "--out", out)
    assert call(monkeypatch, *arguments) == 0
    before = load_results(out)["stereoset"]
    (out / "items" / "stereoset.parquet").write_bytes(b"damaged")
    assert call(monkeypatch, *arguments) == 0
    pd.testing.assert_frame_equal(load_results(out)["stereoset"].items, before.items)


def test_a_warning_is_one_line_as_well():
    """It says what kb_lens says, without the place in the code; other warnings are Python's."""
    program = (
        "import warnings; from kb_lens.cli import main as cli; "
        "cli.app = lambda *args, **options: [warnings.warn('few\\nclusters'), "
        "warnings.warn('old', FutureWarning)]; cli.main()"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    first, rest = done.stderr.split("\n", 1)
    assert done.returncode == 0
    assert first == "WARNING: few clusters"
    assert "<string>:1: FutureWarning: old" in rest
