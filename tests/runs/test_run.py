"""The main job as a function, what is compared when it is gone on with, and what is written."""

import json
from dataclasses import asdict, fields, replace

import pytest
import torch
from test_cli import bank, call, data, folder  # noqa: F401  # fixtures
from tiny_models import tiny_bridge, tiny_hf_model, tiny_tokenizer

import kb_lens as kb
from kb_lens.evaluation.results import conditions_of
from kb_lens.interventions.scaling import Scaling
from kb_lens.runs import run as run_module
from kb_lens.runs.diagnose import Compared, compared
from kb_lens.runs.execution import Execution, JobExecution, RunExecution
from kb_lens.runs.random_controls import conditions
from kb_lens.runs.record import RunLog, later_stage, load_record
from kb_lens.runs.same_damage import damage_texts
from kb_lens.runs.settings import IdentifySettings, RunSettings

QUICK = {"rule": "gauss-legendre", "n_steps": 3, "benchmarks": "stereoset", "lam": 2}


@pytest.fixture(scope="module")
def run_of(folder, bank, data, tmp_path_factory):  # noqa: F811
    """A finished run with one factor, and what it told."""
    lines = []
    out = tmp_path_factory.mktemp("runs") / "run"
    options = {**QUICK, "bank": bank, "data_dir": data, "progress": False}
    return kb.run(folder, out, tell=lines.append, left_out=lines.append, **options), out, lines


def test_the_folder_is_read_back(run_of):
    run, out, lines = run_of
    assert list(run.results) == ["base", "lambda 2", "random lambda 2"]
    assert run.checks is not None
    assert run.tokens is not None
    assert (out / "summary.csv").is_file()
    assert not {"report.html", "figures"} & {path.name for path in out.iterdir()}
    assert run.knowledge.verdict() in lines[0]
    assert lines[1].startswith("Neurons: gender ")
    assert lines[2].startswith("LEFT OUT: random neurons of the same damage. The passages")
    assert [line.strip() for line in lines[3:]] == [f"Evaluating: {', '.join(run.results)}"]


def test_conditions_say_their_part(run_of):
    infos = conditions_of(run_of[0].results)
    assert [info.role for info in infos.values()] == ["base", "method", "control"]
    control = infos["random lambda 2"]
    assert (control.control_of, control.draw) == ("lambda 2", 0)
    assert control.intervention["lam"] == infos["lambda 2"].intervention["lam"] == 2.0


def test_the_folder_says_what_was_asked_and_how(run_of, bank):  # noqa: F811
    record = load_record(run_of[1])
    assert set(record["arguments"]) == {option.name for option in fields(RunSettings)}
    assert record["arguments"]["lam"] == [2.0]
    assert record["arguments"]["bank"] == str(bank)
    assert set(record["execution"]) == {option.name for option in fields(JobExecution)}
    assert record["execution"]["progress"] is False


def test_a_loaded_model_goes_on_where_its_name_stopped(run_of, folder, bank, data, monkeypatch):  # noqa: F811
    first, out, _ = run_of
    monkeypatch.setattr("kb_lens.runs.units.evaluate", lambda *a, **k: pytest.fail("repeated"))
    settings = RunSettings(
        rule="gauss-legendre",
        n_steps=3,
        benchmarks=("stereoset",),
        lam=(2.0,),
        bank=bank,
        data_dir=data,
    )
    options = {"left_out": lambda reason: None}
    again = kb.run(kb.load_model(folder), out, settings, RunExecution(progress=False), **options)
    assert again.neurons == first.neurons
    with pytest.raises(ValueError, match="holds a run with seed 0, now 1"):
        kb.run(folder, out, settings, seed=1)


def test_unknown_keywords_are_named():
    with pytest.raises(ValueError, match=r"no setting 'lambda_': .* revision, dtype, .*'lam'"):
        kb.run(lambda_=2)
    with pytest.raises(ValueError, match="--lam has a factor twice: 2, 2"):
        kb.run(lam=(2, 2))
    with pytest.raises(ValueError, match="batch_size is 0"):
        kb.run(batch_size=0)


@pytest.mark.slow
def test_memory_that_ran_out_leaves_a_run(monkeypatch, tmp_path, folder, bank, data, capsys):  # noqa: F811
    """What is advised is taken: the same command with smaller passes, without --overwrite."""
    arguments = ("run", folder, "--bank", bank, "--data-dir", data, "--benchmarks", "stereoset")
    arguments += ("--rule", "gauss-legendre", "--n-steps", 3, "--lam", 2, "--out", tmp_path / "out")
    monkeypatch.setattr("kb_lens.cli.jobs.save_figures", lambda *a, **k: None)

    def run_out(*arguments, **options):
        raise torch.OutOfMemoryError("CUDA out of memory")

    with monkeypatch.context() as context:
        context.setattr("kb_lens.runs.units.evaluate", run_out)
        assert call(monkeypatch, *arguments) == 2
    assert "out of memory, with the smallest possible batches" in capsys.readouterr().err
    assert call(monkeypatch, *arguments, "--batch-tokens", 256) == 0
    assert call(monkeypatch, *arguments, "--batch-size", 8, "--device", "cpu") == 0
    assert load_record(tmp_path / "out")["execution"]["batch_size"] == 8
    assert "figures" in load_record(tmp_path / "out")["seconds"]


def log_of(path, settings, **execution):
    return RunLog(path, "identify", settings, Execution(**execution))


@pytest.fixture
def former(tmp_path, llama):
    """A folder's run.json from before an option was there."""
    settings = IdentifySettings(model="m", tau=0.2)
    log_of(tmp_path, settings).begin(llama)
    content = json.loads((tmp_path / "run.json").read_text())
    del content["execution"], content["arguments"]["language"]
    (tmp_path / "run.json").write_text(json.dumps(content))
    return settings


def test_a_folder_of_before_goes_on(tmp_path, former):
    log_of(tmp_path, former).check()
    with pytest.raises(ValueError, match="holds a run with language 'en', now 'de'"):
        log_of(tmp_path, replace(former, language="de")).check()
    with pytest.raises(ValueError, match=r"holds a run with dimensions \[\], now \['gender'\]"):
        log_of(tmp_path, replace(former, dimensions=("gender",))).check()
    log_of(tmp_path, replace(former, language="de"), overwrite=True).check()


def test_only_settings_are_compared(tmp_path, llama):
    settings = IdentifySettings(model="m")
    log_of(tmp_path, settings, device="cpu").begin(llama)
    log_of(tmp_path, settings, device=None, progress=False).check()
    for option, value in {"seed": 1, "site": "pre", "model": "n", "beta": 0.3}.items():
        with pytest.raises(ValueError, match=f"holds a run with {option} "):
            log_of(tmp_path, replace(settings, **{option: value})).check()


def test_a_later_stage_is_timed_too(tmp_path, llama):
    log_of(tmp_path, IdentifySettings()).begin(llama)
    with later_stage(tmp_path, "figures"):
        pass
    assert list(load_record(tmp_path)["seconds"]) == ["figures"]


def test_what_is_examined_is_found_by_its_part(run_of):
    """Whatever the conditions are called."""
    results = run_of[0].results
    renamed = {"a": results["base"], "c": results["random lambda 2"], "b": results["lambda 2"]}
    chosen = compared(renamed, 2.0)
    assert (chosen.base, chosen.enhanced, chosen.control) == tuple(renamed[k] for k in "abc")
    assert compared(renamed) == chosen
    assert compared({"a": results["base"]}) == Compared()
    with pytest.raises(ValueError, match="has no 'lambda 3'; its conditions: a, c, b"):
        compared(renamed, 3.0)


def test_every_condition_of_a_run(run_of):
    neurons = run_of[0].neurons
    random = kb.random_neurons(neurons, seed=3)
    made = conditions(neurons, random, (1.0, 1.5, 2.0), {2.0: 2.7})
    assert [condition.name for condition in made] == [
        *("base", "lambda 1", "lambda 1.5", "lambda 2"),
        *("random lambda 1.5", "random lambda 2", "random, damage of lambda 2"),
    ]
    assert [asdict(condition.info())["control_of"] for condition in made[4:]] == [
        *("lambda 1.5", "lambda 2", "lambda 2")
    ]
    assert made[-1].change == Scaling(random, 2.7)


def test_random_neurons_are_of_like_influence(run_of, folder):  # noqa: F811
    run = run_of[0]
    model = kb.load_model(folder)
    sizes = kb.influence(model, progress=False)
    drawn = kb.random_neurons(run.neurons, seed=0, influence=sizes)
    used = conditions_of(run.results)["random lambda 2"].intervention
    assert used == Scaling(drawn, 2.0).describe()


@pytest.fixture(scope="module")
def with_room(tmp_path_factory):
    """A model whose context holds the passages that damage is measured on."""
    path = tmp_path_factory.mktemp("model")
    tiny_hf_model(max_position_embeddings=1024).save_pretrained(path)
    tiny_tokenizer().save_pretrained(path)
    return path


@pytest.mark.slow
def test_a_control_does_the_same_damage_or_is_left_out(with_room, bank, data, tmp_path):  # noqa: F811
    reasons = []
    options = {**QUICK, "lam": (3.0, 9.0), "bank": bank, "data_dir": data, "progress": False}
    run = kb.run(with_room, tmp_path, left_out=reasons.append, **options)
    infos = conditions_of(run.results)
    model, texts = kb.load_model(with_room), damage_texts(0)
    before = kb.evaluate(model, texts, progress=False).metrics["logprob_per_token"].value

    def damage_of(name):
        scaled = infos[name].intervention
        neurons = replace(run.neurons, neurons=tuple(kb.Neuron(*n) for n in scaled["neurons"]))
        with kb.scale_neurons(model, neurons, lam=scaled["lam"]):
            after = kb.evaluate(model, texts, progress=False)
        return after.metrics["logprob_per_token"].value - before

    for lam in ("3", "9"):
        name = f"random, damage of lambda {lam}"
        unreached = [reason for reason in reasons if f"damage as lambda {lam}, " in reason]
        assert (name in run.results) != bool(unreached)
        if name in run.results:
            assert damage_of(name) == pytest.approx(damage_of(f"lambda {lam}"), rel=0.02)
    chosen = compared(run.results, 9.0)
    assert chosen.control == run.results["random lambda 9"]
    assert chosen.same_damage == run.results.get("random, damage of lambda 9", ())


def test_an_item_that_is_too_long_is_refused_before_anything_is_attributed(tmp_path, monkeypatch):
    monkeypatch.setattr(run_module, "identify", lambda *_, **__: pytest.fail("attributed"))
    model = tiny_bridge("llama", max_position_embeddings=40)
    with pytest.raises(ValueError, match=r"base, plain_text: item \d+ has \d+ tokens"):
        kb.run(model, tmp_path / "out", benchmarks=("plain_text@2",))
