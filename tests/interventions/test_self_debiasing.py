"""Self-Debiasing: what the model is told first, and that its own words decide what is measured."""

from dataclasses import replace

import numpy as np
import pytest
from tiny_models import tiny_bridge

import kb_lens as kb
from kb_lens.benchmarks.bbq import INSTRUCTION, LETTER_INSTRUCTION
from kb_lens.evaluation.evaluate import evaluate
from kb_lens.interventions.conditions import Change, Condition
from kb_lens.interventions.self_debiasing import AGAIN, AGAIN_IN_A_LETTER, EXPLAIN, SelfDebiasing


@pytest.fixture(scope="module")
def roomy():
    """A tiny random model whose context holds a chat of several turns."""
    return tiny_bridge("llama", max_position_embeddings=4096)


def load(name, protocol, data_dir, limit=2):
    return kb.load_benchmark(name, protocol=protocol, limit=limit, data_dir=data_dir)


@pytest.mark.parametrize(
    ("name", "protocol", "instruction"),
    [
        ("stereoset", "instructed", "Read the context and the sentences below it."),
        ("crows_pairs", "instructed", None),
        ("bbq_religion", "instructed", INSTRUCTION),
        ("bbq_religion", "generated", LETTER_INSTRUCTION),
    ],
)
def test_the_explanation_is_asked_for_with_question_and_answers_alone(
    name, protocol, instruction, data_dir
):
    benchmark = load(name, protocol, data_dir)
    told = SelfDebiasing("explanation", write=9).asked(benchmark)
    assert told.items is benchmark.items
    for before, after in zip(benchmark.requests, told.requests, strict=True):
        assert after.last_turn() == before
        head, _, item = before.prompt.partition("\n\n")
        assert instruction is None or head.startswith(instruction)
        assert after.first == (f"{EXPLAIN}\n\n{item}",)
        assert after.first_write == 9
        assert all(option in item for option in before.options)


def test_the_answer_is_given_and_given_again(data_dir):
    benchmark = load("bbq_religion", "generated", data_dir)
    told = SelfDebiasing("reprompting", text=AGAIN_IN_A_LETTER).asked(benchmark)
    for before, after in zip(benchmark.requests, told.requests, strict=True):
        assert after.first == (before.prompt,)
        assert after.prompt == AGAIN_IN_A_LETTER
        assert (after.options, after.write, after.system) == (
            *(before.options, before.write),
            before.system,
        )


@pytest.mark.parametrize("kind", ["explanation", "reprompting"])
def test_a_model_is_measured_under_it(kind, roomy, data_dir):
    benchmark = load("crows_pairs", "instructed", data_dir)
    condition = Condition("asked twice", SelfDebiasing(kind, write=4))
    base = evaluate(roomy, benchmark, progress=False, n_bootstrap=10)
    with condition.applied(roomy):
        result = evaluate(roomy, condition.asked(benchmark), progress=False, n_bootstrap=10)
        again = evaluate(roomy, condition.asked(benchmark), progress=False, n_bootstrap=10)
    assert result.digest != base.digest
    assert list(result.items["item"]) == list(base.items["item"])
    assert result.metrics.keys() == base.metrics.keys()
    columns = [name for name in base.items if name.startswith("logprob")]
    change = result.items[columns].to_numpy() - base.items[columns].to_numpy()
    assert np.all(np.abs(change) > 1e-4)
    np.testing.assert_array_equal(result.items[columns], again.items[columns])


def test_room_for_the_first_answer_decides_what_is_measured(roomy, data_dir):
    benchmark = load("stereoset", "instructed", data_dir, limit=1)
    scores = {
        write: evaluate(
            roomy,
            SelfDebiasing(write=write).asked(benchmark),
            progress=False,
            n_bootstrap=10,
        ).items["logprob_stereotype"][0]
        for write in (1, 8)
    }
    assert abs(scores[1] - scores[8]) > 1e-4


def test_a_benchmark_that_is_no_chat_is_refused(data_dir):
    for name in ("stereoset", "plain_text"):
        benchmark = load(name, "original", data_dir)
        with pytest.raises(ValueError, match=f"'original' of '{name}' has none: .*'instructed'"):
            SelfDebiasing().asked(benchmark)


def test_an_instruction_that_is_not_set_apart_is_refused(data_dir):
    benchmark = load("bbq_religion", "release", data_dir)
    with pytest.raises(ValueError, match="'release' of 'bbq_religion' does not separate them"):
        SelfDebiasing("explanation").asked(benchmark)
    told = SelfDebiasing("reprompting").asked(benchmark).requests[0]
    assert told.first == (benchmark.requests[0].prompt,)


def test_settings():
    assert SelfDebiasing().text == EXPLAIN
    assert SelfDebiasing("reprompting").text == AGAIN
    assert AGAIN_IN_A_LETTER.startswith(AGAIN[:-1])
    changes = [
        SelfDebiasing(),
        SelfDebiasing("reprompting"),
        SelfDebiasing(write=5),
        SelfDebiasing(text="Which answers are fair?"),
    ]
    assert len({str(change.describe()) for change in changes}) == len(changes)
    assert all(isinstance(change, Change) for change in changes)
    with pytest.raises(ValueError, match="allowed are explanation, reprompting"):
        SelfDebiasing("reflection")
    with pytest.raises(ValueError, match="write is 0: allowed are integers from 1"):
        replace(SelfDebiasing(), write=0)
