"""What is asked otherwise: measured where there is a chat, and nowhere else."""

from dataclasses import replace

import pytest
from tiny_models import tiny_bridge

import kb_lens as kb
from kb_lens.benchmarks.catalogue import named_by
from kb_lens.interventions.conditions import Condition
from kb_lens.interventions.self_debiasing import SelfDebiasing
from kb_lens.studies import experiments
from kb_lens.studies.asked_otherwise import CHATS, asked_otherwise
from kb_lens.studies.experiments import _jobs
from kb_lens.studies.lab import Case, Lab, Plan


def test_every_case_is_asked_where_it_can_be(data_dir):
    lab = Lab(tiny_bridge("llama"), progress=False)
    loaded = [
        kb.load_benchmark(name, protocol=protocol, limit=4, data_dir=data_dir)
        for name, protocol in [
            ("stereoset", "original"),
            ("crows_pairs", "instructed"),
            ("bbq_religion", "generated"),
            ("plain_text", "original"),
        ]
    ]
    plan = Plan(asked_otherwise(lab))
    jobs = dict(_jobs(plan, {benchmark.key: benchmark for benchmark in loaded}, lab))
    asked = {}
    for (name, key), unit in jobs.items():
        unit.condition.asked(unit.benchmark)  # none is refused
        asked.setdefault(name, []).append(key)
    chats = ["crows_pairs_instructed", "bbq_religion_generated"]
    every = [benchmark.key for benchmark in loaded]
    assert asked == {
        "base": every,
        "self-debiasing, explanation": chats,
        "self-debiasing, reprompting": chats,
        "second pass": every,
    }


def test_the_chats_are_keys_of_benchmarks():
    assert all(named_by(key) for key in CHATS)
    assert "stereoset_instructed" in CHATS
    assert not {"stereoset", "over_correction"} & {*CHATS}


@pytest.mark.parametrize(
    ("protocols", "ranked"),
    [(("instructed",), True), (("instructed", "original"), False)],
)
def test_it_is_ranked_where_every_benchmark_is_a_chat(data_dir, protocols, ranked):
    """Among methods that were measured on the same items, and nowhere else."""
    loaded = [
        kb.load_benchmark("crows_pairs", protocol=protocol, limit=2, data_dir=data_dir)
        for protocol in protocols
    ]
    benchmarks = {benchmark.key: benchmark for benchmark in loaded}
    condition = Condition("self-debiasing, explanation", SelfDebiasing("explanation"))
    case = Case({}, condition, benchmarks=CHATS)
    assert experiments._measured_on_all(case, benchmarks) == ranked
    control = replace(condition, name="random", role="control", control_of="enhancement")
    assert not experiments._measured_on_all(replace(case, condition=control), benchmarks)
