"""A unit that is killed inside its benchmark goes on there; conditions share what they measure."""

import io
import multiprocessing
import os
import signal
from contextlib import ExitStack
from dataclasses import replace

import pandas as pd
import pytest
from tiny_models import tiny_bridge

import kb_lens as kb
from kb_lens.evaluation import slices
from kb_lens.evaluation.entries import SUFFIX
from kb_lens.evaluation.results import load_results
from kb_lens.evaluation.slices import text_logprobs
from kb_lens.interventions.conditions import Condition
from kb_lens.interventions.scaling import Scaling
from kb_lens.models.hooked import fingerprint, model_name
from kb_lens.runs.measure import measure
from kb_lens.runs.units import Unit
from kb_lens.shared_work import work_off
from kb_lens.store import Store

SLICE_ITEMS = 4


def scaled_unit(model):
    """Scaled neurons on a benchmark of several slices."""
    neurons = kb.NeuronSet(
        neurons=(kb.Neuron(0, 1), kb.Neuron(1, 5)),
        model=model_name(model),
        fingerprint=fingerprint(model),
        site="post",
        n_layers=3,
        d_mlp=48,
    )
    benchmark = kb.load_benchmark("over_correction", limit=14)
    return Unit(Condition("lambda 3", Scaling(neurons, 3.0)), benchmark)


def log_slices(monkeypatch, log, dies_at=None):
    """Note the first request of each slice that is scored; die before one of them."""

    def logged(*arguments, first, **options):
        if len(log) == dies_at:
            os.kill(os.getpid(), signal.SIGKILL)
        log.append(first)
        return text_logprobs(*arguments, first=first, **options)

    monkeypatch.setattr(slices, "SLICE_ITEMS", SLICE_ITEMS)
    monkeypatch.setattr(slices, "text_logprobs", logged)


def die_in_the_third_slice(folder):
    model = tiny_bridge("llama")
    with pytest.MonkeyPatch.context() as patch:
        log_slices(patch, [], dies_at=2)
        scaled_unit(model).measured(model, Store(folder, SUFFIX))


def as_bytes(items):
    file = io.BytesIO()
    items.to_parquet(file)
    return file.getvalue()


@pytest.mark.slow
def test_a_unit_that_was_killed_goes_on_inside_its_benchmark(llama, monkeypatch, tmp_path):
    log = []
    log_slices(monkeypatch, log)
    unit = scaled_unit(llama)
    undisturbed = unit.measured(llama, Store(tmp_path / "undisturbed", SUFFIX))
    firsts = list(log)
    assert len(firsts) > 3
    process = multiprocessing.get_context("spawn").Process(
        target=die_in_the_third_slice, args=(tmp_path / "killed",)
    )
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    store = Store(tmp_path / "killed", SUFFIX)
    key = unit.key(llama)
    assert len(list(store.pieces(key).folder.glob(f"*{SUFFIX}"))) == 2
    log.clear()
    result = unit.measured(llama, store)
    assert log == firsts[2:]
    assert as_bytes(result.items) == as_bytes(undisturbed.items)
    assert result.metrics == undisturbed.metrics
    assert not store.pieces(key).folder.exists()  # of no use beside the whole
    assert [path.name[:32] for path in store.folder.glob(f"*{SUFFIX}")] == [key]
    log.clear()
    unit.measured(llama, store)
    assert log == []


def test_who_asks_the_same_gets_the_entry_under_other_names(llama, monkeypatch, tmp_path):
    store = Store(tmp_path, SUFFIX)
    unit = scaled_unit(llama)
    first = unit.measured(llama, store)
    condition = Condition("draw 1", unit.condition.change, "control", control_of="x", draw=1)
    monkeypatch.setattr(Unit, "work", lambda *a, **k: pytest.fail("repeated"))
    again = replace(unit, condition=condition).measured(llama, store)
    assert first.condition == unit.condition.info()
    assert again.condition == condition.info()
    pd.testing.assert_frame_equal(first.items, again.items)


def test_an_error_names_its_unit(llama, tmp_path):
    unit = scaled_unit(llama)
    wrong = replace(unit, condition=Condition("empty", Scaling(empty(unit), 2.0)))
    with pytest.raises(ValueError, match=r"^empty, over_correction: the neuron set is empty"):
        wrong.measured(llama, Store(tmp_path, SUFFIX))


def empty(unit):
    return replace(unit.condition.change.neurons, neurons=())


def test_measured_folders_are_written_from_the_store(llama, monkeypatch, tmp_path):
    unit = scaled_unit(llama)
    benchmarks = [
        unit.benchmark,
        kb.load_benchmark("over_correction", limit=4, protocol="original"),
    ]
    results = measure(llama, unit.condition, benchmarks[:1], tmp_path / "a", progress=False)
    (saved,) = load_results(tmp_path / "a").values()
    assert saved.condition == results[0].condition == unit.condition.info()
    pd.testing.assert_frame_equal(saved.items, results[0].items)
    before = (tmp_path / "a/results.json").read_bytes()
    monkeypatch.setattr(Unit, "work", lambda *a, **k: pytest.fail("repeated"))
    (tmp_path / "a/results.json").unlink()
    store = Store(tmp_path / "a/store", SUFFIX)
    measure(llama, unit.condition, benchmarks[:1], tmp_path / "a", store=store, progress=False)
    assert (tmp_path / "a/results.json").read_bytes() == before
    with pytest.raises(ValueError, match="is of another intervention"):
        measure(llama, Condition("base"), benchmarks[:1], tmp_path / "a", progress=False)


@pytest.mark.slow
def test_who_has_nothing_else_to_do_helps_with_slices(llama, monkeypatch, tmp_path):
    log, unit = [], scaled_unit(llama)
    log_slices(monkeypatch, log)
    alone = unit.measured(llama, Store(tmp_path / "alone", SUFFIX))
    assert log == [0, 8, 16, 24]
    store = Store(tmp_path / "shared", SUFFIX)
    assert unit.assist(llama, store)  # as if another process had claimed it and begun nothing
    assert log[4:] == [0, 8, 16]
    assert not unit.assist(llama, store)
    shared = unit.measured(llama, store)
    assert log[7:] == [24]
    pd.testing.assert_frame_equal(shared.items, alone.items)
    assert shared.metrics == alone.metrics
    assert not unit.assist(llama, store)
    assert not store.pieces(unit.key(llama)).folder.exists()
    small = replace(unit, benchmark=kb.load_benchmark("over_correction", limit=4))
    assert not small.assist(llama, store)
    assert log[8:] == []


@pytest.mark.slow
def test_a_process_helps_where_another_is_at_the_last_unit(llama, monkeypatch, tmp_path):
    log, unit = [], scaled_unit(llama)
    store = Store(tmp_path, SUFFIX)
    log_slices(monkeypatch, log)
    key = unit.key(llama)
    ended = ExitStack()
    assert ended.enter_context(store.claimed(key))

    def assist(unit):
        helped = unit.assist(llama, store)
        ended.close()  # the other has died: the whole is this process's
        return helped

    work_off({key: unit}, store, lambda unit: unit.entry(llama, store), assist=assist)
    assert log == [0, 8, 16, 24]
    assert key in store
