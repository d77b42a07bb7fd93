"""Studies on a tiny model: every plan runs, survives damage and repeats itself to the byte."""

from dataclasses import replace

import pandas as pd
import pytest
from own_banks import write_bank
from tiny_models import tiny_bridge

import kb_lens as kb
from kb_lens.checks.control_tests import saved_tests
from kb_lens.evaluation.comparison import compare
from kb_lens.evaluation.entries import result_to_bytes
from kb_lens.interventions.conditions import Condition
from kb_lens.interventions.prompting import Prompting
from kb_lens.interventions.scaling import Scaling
from kb_lens.interventions.self_debiasing import SelfDebiasing
from kb_lens.models.hooked import fingerprint, model_name
from kb_lens.progress import duration
from kb_lens.runs.asking import Asking
from kb_lens.runs.benchmark_names import parse_name
from kb_lens.runs.units import Unit
from kb_lens.store import Store
from kb_lens.studies import methods as methods_module
from kb_lens.studies import plans as studies
from kb_lens.studies.experiments import BASE, EXPERIMENTS, experiment, n_controls
from kb_lens.studies.lab import Lab
from kb_lens.studies.run_study import ExperimentSettings
from kb_lens.studies.tables import Experiment


@pytest.fixture(scope="module")
def llama():
    """With room for the longest passage of plain text."""
    return tiny_bridge("llama", max_position_embeddings=1024)


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("attributions")


@pytest.fixture(scope="module")
def benchmarks():
    return [kb.load_benchmark("plain_text", limit=3), kb.load_benchmark("over_correction", limit=4)]


@pytest.fixture(autouse=True)
def _smaller(monkeypatch):
    """Few points: the plans are the same."""
    monkeypatch.setattr(studies, "LAMBDAS", (1.0, 3.0))
    monkeypatch.setattr(studies, "GRID", (0.05, 0.25))


@pytest.fixture
def asking(tmp_path):
    """A bank of 27 questions of our own, 9 of them by default."""
    bank = write_bank(tmp_path / "bank.csv", kb.load_questions(27))
    return Asking(bank=bank, questions=9)


@pytest.fixture
def lab(llama, cache, tmp_path, asking):
    quick = {"rule": "gauss-legendre", "n_steps": 3}
    sizes = {"asking": asking, "n_controls": 2, "progress": False}
    store = Store(tmp_path / "units", ".parquet")
    return Lab(llama, store=store, cache_dir=cache, options=quick, **sizes)


def saved(found: Experiment, folder) -> dict[str, bytes]:
    found.save(folder)
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


# The quick tests run the two plans without and with random controls that need least attributing.
@pytest.mark.parametrize(
    "name",
    [
        name if name in ("transfer", "lambda") else pytest.param(name, marks=pytest.mark.slow)
        for name in EXPERIMENTS
    ],
)
def test_every_study(name, lab, benchmarks, tmp_path):
    found = experiment(name, lab, benchmarks)
    table = found.tables["results"]
    labels = list(table.columns[: table.columns.get_loc("role")])
    rows = table.dropna(subset=labels, how="all")
    assert set(table["benchmark"]) == {one.key for one in benchmarks}
    assert rows["difference"].notna().all()
    assert not rows.duplicated([*labels, "benchmark", "metric"]).any()
    base = table[table["role"] == "base"]
    assert len(base)
    assert base[labels].isna().all(axis=None)
    assert base["difference"].isna().all()
    controls = table[table["role"] == "control"]
    assert controls["control_of"].notna().all()
    assert controls["draw"].notna().all()
    assert base["value"].notna().all()
    sure = rows.dropna(subset=["difference_low", "difference_high"])  # of several clusters
    assert len(sure)
    assert (sure["difference_low"] <= sure["difference_high"]).all()
    again = experiment(name, lab, benchmarks)
    assert saved(found, tmp_path / "a") == saved(again, tmp_path / "b")
    loaded = Experiment.load(tmp_path / "a")
    pd.testing.assert_frame_equal(loaded.tables["results"], table)
    assert set(loaded.headline()["metric"]) < set(table["metric"])
    assert name in kb.figures.draw_study(name, loaded.tables, loaded.settings)


def test_rows_are_paired_differences(lab, benchmarks):
    table = experiment("aggregation", lab, benchmarks[:1]).tables["results"]
    neurons = lab.union(lab.default())
    base = kb.evaluate(lab.model, benchmarks[0], progress=False)
    with kb.scale_neurons(lab.model, neurons, lam=lab.lam):
        other = kb.evaluate(lab.model, benchmarks[0], progress=False)
    row = table[(table["aggregation"] == "union") & (table["metric"] == "perplexity")].iloc[0]
    change = compare(base, other).set_index("metric").loc["perplexity"]
    assert row["difference"] == change["difference"]
    assert (row["difference_low"], row["difference_high"]) == (change["low"], change["high"])
    assert row["value"] == other.metrics["perplexity"].value
    assert row["n_neurons"] == len(neurons)


@pytest.mark.slow
def test_lambda_one_changes_nothing(lab, benchmarks):
    table = experiment("lambda", lab, benchmarks).tables["results"]
    identity = table[table["lam"] == 1]
    assert (identity["difference"] == 0).all()
    assert set(identity["role"]) == {"method"}, "whichever neurons it is of: none are drawn"
    assert (table[table["lam"] == 3]["difference"] != 0).any()


@pytest.mark.slow
def test_nothing_is_measured_twice(lab, benchmarks, monkeypatch):
    experiment("aggregation", lab, benchmarks)

    def never(self, model, store=None, **options):
        raise AssertionError(f"measured again: {self}")

    monkeypatch.setattr(Unit, "work", never)
    experiment("aggregation", lab, benchmarks)


@pytest.mark.slow
def test_a_damaged_unit_is_done_again(lab, benchmarks, tmp_path):
    first = saved(experiment("aggregation", lab, benchmarks), tmp_path / "a")
    victim = sorted((tmp_path / "units").glob("*.parquet"))[2]
    content = bytearray(victim.read_bytes())
    content[len(content) // 2] ^= 1
    victim.write_bytes(bytes(content))
    with pytest.warns(UserWarning, match="is damaged"):
        again = experiment("aggregation", lab, benchmarks)
    assert saved(again, tmp_path / "b") == first


@pytest.mark.slow
def test_without_a_store_the_tables_are_the_same(lab, benchmarks, tmp_path):
    first = saved(experiment("site", lab, benchmarks), tmp_path / "a")
    assert saved(experiment("site", replace(lab, store=None), benchmarks), tmp_path / "b") == first


def test_the_key_of_a_unit_is_its_content(llama, benchmarks):
    neurons = kb.random_neurons(_some(llama), seed=1)
    unit = Unit(Condition("a", Scaling(neurons, 2)), benchmarks[0])
    key = unit.key(llama)
    same = [
        Unit(Condition("b", Scaling(neurons, 2)), benchmarks[0]),
        Unit(Condition("a", Scaling(replace(neurons, origin="elsewhere"), 2)), benchmarks[0]),
    ]
    others = [
        Unit(Condition("a", Scaling(neurons, 3)), benchmarks[0]),
        Unit(Condition("a", Scaling(neurons, 2, "last")), benchmarks[0]),
        Unit(Condition("a", Scaling(_some(llama), 2)), benchmarks[0]),
        Unit(Condition("a"), benchmarks[0]),
        Unit(Condition("a", Prompting("Be fair.")), benchmarks[0]),
        Unit(Condition("a", Scaling(neurons, 2)), benchmarks[1]),
        Unit(Condition("a", Scaling(neurons, 2)), kb.load_benchmark("plain_text", limit=2)),
        Unit(Condition("a", Scaling(neurons, 2)), benchmarks[0], seed=1),
        Unit(Condition("a", Scaling(neurons, 2)), _other_labels(benchmarks[0])),
    ]
    assert {one.key(llama) for one in same} == {key}
    assert len({key, *(one.key(llama) for one in others)}) == len(others) + 1
    assert unit.key(tiny_bridge("llama", seed=5)) != key


def _other_labels(benchmark):
    return replace(benchmark, items=benchmark.items.assign(subject="another"))


def test_another_chat_template_is_another_key(benchmarks):
    model = tiny_bridge("llama")
    chat = replace(
        benchmarks[0],
        requests=tuple(replace(one, chat=True) for one in benchmarks[0].requests),
    )
    before = Unit(Condition("base"), chat).key(model)
    model.tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }}!{% endfor %}"
    assert Unit(Condition("base"), chat).key(model) != before


@pytest.mark.slow
@pytest.mark.parametrize("name", ["stereoset", "crows_pairs", "bbq_age", "openbookqa", "arc_easy"])
def test_every_benchmark_has_a_key(llama, data_dir, name):
    keys = [
        Unit(BASE, kb.load_benchmark(name, limit=n, data_dir=data_dir)).key(llama)
        for n in (4, 4, 5)
    ]
    assert keys[0] == keys[1] != keys[2]


def test_the_name_of_a_result_is_the_models_own(lab, benchmarks):
    unit = Unit(Condition("base"), benchmarks[0])
    entry = result_to_bytes(replace(unit.work(lab.model), model="elsewhere"))
    lab.store.write(unit.key(lab.model), entry)
    assert unit.measured(lab.model, lab.store).model == model_name(lab.model)


def test_a_study_needs_controls_and_balanced_questions(llama):
    with pytest.raises(ValueError, match="n_controls is 0"):
        Lab(llama, n_controls=0)
    with pytest.raises(ValueError, match="44"):
        Lab(llama, asking=Asking(questions=44))


def test_methods_need_a_benchmark_for_their_controls(lab, benchmarks):
    with pytest.raises(ValueError, match="give one of these"):
        experiment("methods", lab, benchmarks[1:])


def test_what_cannot_be_asked_is_refused_before_anything_is_found(lab, benchmarks, monkeypatch):
    monkeypatch.setattr(Lab, "default", lambda *_, **__: pytest.fail("neurons are looked for"))
    text = "Be fair. " * 200
    too_long = replace(lab, also={"a long prompt": Prompting(text)})
    with pytest.raises(ValueError, match=r"a long prompt, plain_text: item \d+ has \d+ tokens"):
        experiment("methods", too_long, benchmarks)
    chats = replace(lab, also={"in chats": SelfDebiasing()})
    with pytest.raises(ValueError, match=r"in chats, plain_text: .*chat"):
        experiment("methods", chats, benchmarks)


def test_methods_of_no_neuron_are_refused_at_once(lab, benchmarks, monkeypatch):
    monkeypatch.setattr(methods_module, "baselines", lambda lab: pytest.fail("went on"))
    with pytest.raises(ValueError, match=r"no neuron passes tau 0\.99 and beta 0\.99"):
        experiment("methods", replace(lab, tau=0.99, beta=0.99), benchmarks)


@pytest.mark.slow
def test_settings_say_what_holds(lab, benchmarks):
    assert experiment("thresholds", lab, benchmarks[:1]).settings["tau"] is None
    assert experiment("question-types", lab, benchmarks[:1]).settings["n_questions"] == 27


def _some(model):
    scores = (kb.Neuron(0, 1), kb.Neuron(1, 2), kb.Neuron(1, 5))
    sizes = {"n_layers": model.cfg.n_layers, "d_mlp": model.cfg.d_mlp}
    return kb.NeuronSet(scores, model_name(model), fingerprint(model), "post", **sizes)


@pytest.mark.slow
def test_methods_are_ranked_and_tested_against_controls(lab, benchmarks):
    found = experiment("methods", lab, benchmarks)
    ranks, tests = found.tables["ranks"], found.tables["control_tests"]
    assert {"base", "enhancement", "steering vector"} <= set(ranks["method"])
    assert (ranks["rank_low"] <= ranks["average_rank"]).all()
    assert (ranks["average_rank"] <= ranks["rank_high"]).all()
    draws = found.tables["results"].drop_duplicates("method").dropna(subset=["control"])
    count = draws["control"].value_counts()
    assert {"influence"} <= set(tests["control"]) <= {"influence", "damage"}
    assert (tests["n_controls"] == tests["control"].map(count)).all()
    assert set(tests["method"]) == {"enhancement"}
    assert tests["rank"].between(1, 3).all()
    assert tests[["p", "q"]].isna().all(axis=None), "two draws give no p"
    row = found.tables["damage"].iloc[0]
    assert row["matched"] == count.get("damage", 0)
    assert row["matched"] <= row["tried"] <= 3
    assert set(found.ranked) == set(ranks["method"])
    again = saved_tests(found.tables, "enhancement")
    own = tests[tests["method"] == "enhancement"].set_index(["benchmark", "metric", "control"])
    assert again
    for name, test in again.items():
        row = own.loc[(test.key, test.metric, name.rsplit(", ", 1)[1])]
        assert test.rank == row["rank"]
        assert test.control_mean == pytest.approx(row["control_mean"], abs=1e-9)
    assert {"ranks", "controls"} < set(
        kb.figures.draw_study("methods", found.tables, found.settings)
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in EXPERIMENTS if name != "methods"])
def test_few_draws_give_no_p(name, lab, benchmarks):
    tables = experiment(name, lab, benchmarks[1:]).tables
    columns = {"p", "q"}
    assert ("control_tests" in tables) == (name in ("lambda", "right-answers"))
    for key, table in tables.items():
        assert columns.isdisjoint(table) or (key == "control_tests" and lab.n_controls < 99)
        assert table[list(columns & set(table))].isna().all(axis=None)


@pytest.mark.slow
def test_a_study_says_what_it_will_do_and_how_long_it_takes(lab, benchmarks):
    told = []
    experiment("transfer", lab, benchmarks, tell=told.append)
    n_sets = len({case.neurons.neurons for case in studies.transfer(lab).cases})
    n_units = 2 * (1 + n_sets)
    assert told[0].startswith("transfer: finding the neurons")
    head, *lines = told[1].splitlines()
    assert head.startswith(f"transfer: {n_units} units of work")
    assert head.endswith("0 are done.")
    assert [line.split(" (")[0].strip() for line in lines] == [one.key for one in benchmarks]
    assert lines[1].endswith(f"(4 items): {1 + n_sets} conditions, {1 + n_sets} to do")
    assert told[2].startswith(f"{2 * n_sets} units are left, about ")
    again = []
    experiment("transfer", lab, benchmarks, tell=again.append)
    assert again[1].splitlines()[0].endswith(f"{n_units} are done.")
    assert again[2] == "Everything is measured already."


def test_about_how_long():
    words = [duration(seconds) for seconds in (0.2, 60, 119, 180, 3570, 3600, 72_000 + 1230)]
    assert words == ["0 s", "60 s", "119 s", "3 min", "1 h 0 min", "1 h 0 min", "20 h 20 min"]


def test_bias_is_measured_on_all_items_unless_told_otherwise():
    default = ExperimentSettings(name="transfer")
    names = ["stereoset", "crows_pairs", "openbookqa"]
    assert [default.limit_of(name) for name in names] == [None, None, 200]
    assert {ExperimentSettings(name="transfer", limit=7).limit_of(name) for name in names} == {7}
    assert parse_name("openbookqa@9", default).limit == 9
    assert parse_name("crows_pairs", default).limit is None


def test_the_studies_with_a_p_have_enough_draws():
    draws = {name: n_controls(name) for name in EXPERIMENTS}
    assert {name for name, n in draws.items() if n >= 99} == {"methods", "right-answers"}


def test_transfer_uses_one_dimension_at_a_time(lab):
    plan = studies.transfer(lab)
    sets = {case.labels["source"]: case.neurons for case in plan.cases}
    assert sets["union"] == kb.NeuronSet.union(v for k, v in sets.items() if k != "union")
    assert set(sets) == {"gender", "race", "religion", "union"}


def test_quadrature_says_which_neurons_change(lab):
    table = studies.quadrature(lab).tables["sets"].set_index(["spelling", "rule"])
    for spelling in ("model", "release"):
        assert table.loc[(spelling, "converged"), "jaccard_with_converged"] == 1
        assert table.loc[(spelling, "converged"), ["gained", "lost"]].tolist() == ["", ""]
        row = table.loc[(spelling, "20 points")]
        change = len(row["gained"].split()) - len(row["lost"].split())
        assert row["n_neurons"] == table.loc[(spelling, "converged"), "n_neurons"] + change


@pytest.mark.parametrize(
    ("name", "some", "words"),
    [
        ("lamda", [0], "no study .* Did you mean 'lambda'"),
        ("lambda", [], "got: none"),
        ("lambda", [0, 0], "once"),
    ],
)
def test_bad_arguments(lab, benchmarks, name, some, words):
    with pytest.raises(ValueError, match=words):
        experiment(name, lab, [benchmarks[k] for k in some])


def test_a_folder_that_is_no_study(tmp_path):
    with pytest.raises(ValueError, match=r"has no study\.json"):
        Experiment.load(tmp_path)
    (tmp_path / "study.json").write_text("{")
    with pytest.raises(ValueError, match=r"study\.json' is not complete JSON"):
        Experiment.load(tmp_path)
