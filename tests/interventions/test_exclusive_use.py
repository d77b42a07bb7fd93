"""Blocks and threads: hooks of two threads never mix, are never lost, and go with no copy."""

import copy
import gc
import io
import pickle
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext

import pytest
import torch
from tiny_models import tiny_bridge

import kb_lens as kb
from kb_lens.checks.neuron_effects import neuron_effects
from kb_lens.checks.neuron_meaning import promoted_tokens, top_prompts
from kb_lens.interventions.fairsteer import FairSteerSettings, fair_steer
from kb_lens.interventions.group_texts import TextPair
from kb_lens.interventions.inlp import inlp
from kb_lens.interventions.projection import Projection
from kb_lens.interventions.prompting import Prompting
from kb_lens.interventions.sentence_debias import sentence_debias
from kb_lens.interventions.steering import StatementPair, Steering, steering_vector
from kb_lens.models.evaluation_mode import float32_default
from kb_lens.models.hooked import fingerprint, model_name

TOKENS = torch.tensor([[5, 6, 7, 8]])
QUESTIONS = [
    kb.Question(text="Does gender decide who can run?", answer="no", dimension="gender"),
    kb.Question(text="Is it gender bias to say so?", answer="yes", dimension="gender"),
]
STATEMENTS = [StatementPair("gender", "chess", "She can not run.", "She can run.")]
TEXTS = [TextPair("gender", "He can run.", "She can run.")]
QUIET = {"progress": False}


def some_neurons(model):
    members = (kb.Neuron(0, 3), kb.Neuron(2, 1))
    return kb.NeuronSet(members, model_name(model), fingerprint(model), "post", 3, 48)


def steering(model):
    return Steering(torch.ones(32), 1, model_name(model), fingerprint(model))


BLOCKS = {
    "scaling": lambda model: kb.scale_neurons(model, some_neurons(model), lam=6),
    "last positions": lambda model: kb.scale_neurons(
        model, some_neurons(model), lam=6, positions="last"
    ),
    "steering": lambda model: steering(model).applied(model),
    "projection": lambda model: Projection(
        torch.eye(32)[:1], 1, model_name(model), fingerprint(model)
    ).applied(model),
    "prompting": lambda model: Prompting("Be fair.").applied(model),
}
HOOKING = {name: block for name, block in BLOCKS.items() if name != "prompting"}
MEASURES = {
    "evaluate": lambda model: kb.evaluate(
        model, kb.load_benchmark("over_correction", limit=2), **QUIET
    ),
    "attribute": lambda model: kb.attribute(model, QUESTIONS, **QUIET),
    "check_knowledge": lambda model: kb.check_knowledge(model, QUESTIONS, forms=(), **QUIET),
    "influence": lambda model: kb.influence(model, ["hello there"], **QUIET),
    "neuron_effects": lambda model: neuron_effects(model, some_neurons(model), QUESTIONS, **QUIET),
    "promoted_tokens": lambda model: promoted_tokens(model, some_neurons(model)),
    "top_prompts": lambda model: top_prompts(model, some_neurons(model), ["hello there"], **QUIET),
    "steering_vector": lambda model: steering_vector(model, STATEMENTS, **QUIET),
    "sentence_debias": lambda model: sentence_debias(model, TEXTS, **QUIET),
    "inlp": lambda model: inlp(model, TEXTS, **QUIET),
    "fair_steer": lambda model: fair_steer(
        model, STATEMENTS * 2, settings=FairSteerSettings(n_folds=2), **QUIET
    ),
}


def in_a_thread(work):
    """What a function returns, or raises, in a thread of its own."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(work).result()


@contextmanager
def opened(block):
    """A block that another thread has open."""
    inside, end = threading.Event(), threading.Event()

    def hold():
        with block:
            inside.set()
            end.wait(60)
            raise KeyError("the end")

    with ThreadPoolExecutor(1) as pool:
        holding = pool.submit(hold)
        assert inside.wait(60)
        try:
            yield
        finally:
            end.set()
            with pytest.raises(KeyError):
                holding.result()


@pytest.mark.parametrize("block", BLOCKS)
def test_no_other_thread_changes_or_measures(model, block):
    before = model(TOKENS)
    with opened(BLOCKS[block](model)):
        for other in BLOCKS.values():
            with pytest.raises(ValueError, match=r"is in use: another thread \(Thread") as error:
                other(model).__enter__()
            assert "\n" not in str(error.value)
    assert torch.equal(model(TOKENS), before)
    with BLOCKS[block](model):
        model(TOKENS)


@pytest.mark.parametrize("measure", MEASURES)
def test_no_measure_inside_another_threads_block(llama, measure):
    with opened(BLOCKS["scaling"](llama)), pytest.raises(ValueError, match="is in use"):
        MEASURES[measure](llama)


def test_no_block_while_another_thread_measures(llama, monkeypatch):
    refused = []

    def texts():
        with pytest.raises(ValueError, match="is in use") as error:
            in_a_thread(lambda: BLOCKS["scaling"](llama).__enter__())
        refused.append(error)
        return ["hello there"]

    monkeypatch.setattr(
        "kb_lens.checks.controls.site_hooks",
        lambda model, site: (texts(), [f"blocks.{k}.mlp.hook_post" for k in range(3)])[1],
    )
    kb.influence(llama, ["hello there"], **QUIET)
    assert refused
    in_a_thread(lambda: kb.influence(llama, ["hello there"], **QUIET))


def test_blocks_of_one_thread_may_be_nested_and_measure(llama):
    with BLOCKS["scaling"](llama), BLOCKS["steering"](llama), BLOCKS["prompting"](llama):
        for measure in MEASURES.values():
            measure(llama)


def test_text_may_be_streamed_from_a_thread_of_its_own(llama):
    with BLOCKS["scaling"](llama):
        expected = llama(TOKENS)
        assert torch.equal(in_a_thread(lambda: llama(TOKENS)), expected)
        in_a_thread(lambda: llama.original_model.generate(TOKENS, max_new_tokens=2))


def test_each_thread_may_have_a_model_of_its_own(llama):
    other = tiny_bridge("llama", seed=1)
    with opened(BLOCKS["scaling"](llama)), BLOCKS["scaling"](other):
        kb.influence(other, ["hello there"], **QUIET)


@pytest.mark.filterwarnings("ignore:TransformerBridgeConfig is already bound")
def test_a_second_bridge_of_the_same_weights_is_the_same_model(llama):
    with opened(BLOCKS["scaling"](llama)), pytest.raises(ValueError, match="is in use"):
        MEASURES["influence"](copy.copy(llama))


def test_a_forgotten_block_lets_go(llama):
    before = llama(TOKENS)
    block = BLOCKS["scaling"](llama)
    block.__enter__()
    block.gen.close()
    assert torch.equal(llama(TOKENS), before)

    def forget():
        BLOCKS["scaling"](llama).__enter__()

    in_a_thread(forget)
    gc.collect()
    assert torch.equal(llama(TOKENS), before)
    MEASURES["influence"](llama)


def test_what_no_model_is():
    for model in ("llama", None, torch.nn.Linear(2, 2)):
        with pytest.raises(ValueError, match=f"the model is a {type(model).__name__}: give"):
            kb.influence(model)


COPIES = {
    "deepcopy": copy.deepcopy,
    "deepcopy of the transformers model": lambda model: copy.deepcopy(model.original_model),
    "deepcopy of a layer": lambda model: copy.deepcopy(model.blocks[0].mlp),
    "deepcopy of hook points": lambda model: copy.deepcopy(model.hook_dict),
    "pickle": lambda model: pickle.dumps(model.original_model),
    "torch.save": lambda model: torch.save(model.original_model, io.BytesIO()),
}


@pytest.mark.parametrize("copying", COPIES)
@pytest.mark.parametrize("block", ["scaling", "steering"])
def test_no_copy_is_made_inside(model, block, copying):
    with BLOCKS[block](model):
        expected = model(TOKENS)
        if block == "steering" and copying == "deepcopy of a layer":
            return  # the hook is at the block's output
        with pytest.raises(ValueError, match=r"cannot copy tiny-random-.* inside a block") as error:
            COPIES[copying](model)
        assert "\n" not in str(error.value)
        assert torch.equal(model(TOKENS), expected)


def test_a_copy_made_outside_is_the_base(model):
    before = model(TOKENS)
    with BLOCKS["scaling"](model):
        model(TOKENS)
    assert torch.equal(copy.deepcopy(model)(TOKENS), before)


def points(model):
    return {id(point): point for point in model.hook_dict.values()}.values()


REMOVALS = {
    "reset_hooks": lambda model: model.reset_hooks(),
    "remove_all_hook_fns": lambda model: model.remove_all_hook_fns(),
    "remove_hooks": lambda model: [point.remove_hooks("both") for point in points(model)],
    "torch": lambda model: [point._forward_hooks.clear() for point in points(model)],
}


@pytest.fixture
def spoilt():
    """A model of its own: some removals take more than our hooks."""
    return tiny_bridge("llama")


AFTER = {
    "pass": (lambda model: model(TOKENS), "did not fire in a pass"),
    "generate": (lambda model: model.generate(TOKENS, verbose=False), "did not fire in a pass"),
    "transformers": (lambda model: model.original_model(TOKENS), "did not fire in a pass"),
    "measure": (MEASURES["influence"], "was removed"),
    "block": (lambda model: BLOCKS["steering"](model).__enter__(), "was removed"),
    "nothing": (lambda model: None, None),
}
"""What is done after hooks were taken away, and what is said of it at once."""


@pytest.mark.parametrize("after", AFTER)
@pytest.mark.parametrize("removal", REMOVALS)
def test_hooks_that_are_taken_away(spoilt, removal, after):
    run, expected = AFTER[after]

    def removed_inside(block):
        with block:
            spoilt(TOKENS)
            REMOVALS[removal](spoilt)
            with pytest.raises(ValueError, match=expected) if expected else nullcontext():
                run(spoilt)

    for block in HOOKING.values():
        with pytest.raises(ValueError, match="was removed inside the block") as error:
            removed_inside(block(spoilt))
        assert "\n" not in str(error.value)


def test_a_layer_that_is_replaced_inside(spoilt):
    before = spoilt(TOKENS)
    mlp = spoilt.blocks[0].mlp
    layers = spoilt.original_model.model.layers
    with BLOCKS["scaling"](spoilt):
        spoilt(TOKENS)
        layers[0].mlp = torch.nn.Identity()
        with pytest.raises(ValueError, match="did not fire in a pass"):
            spoilt(TOKENS)
        layers[0].mlp = mlp
    assert torch.equal(spoilt(TOKENS), before)


def test_a_pass_that_stops_early_is_no_fault(model):
    with BLOCKS["scaling"](model):
        model(TOKENS)
        model(TOKENS, stop_at_layer=1)


def test_the_default_type_is_the_users_after_blocks_of_two_threads():
    torch.set_default_dtype(torch.float64)
    try:
        with opened(float32_default()):
            with float32_default():
                assert torch.ones(1).dtype == torch.float32
            assert torch.ones(1).dtype == torch.float32, "the other's block is still open"
        assert torch.get_default_dtype() == torch.float64
    finally:
        torch.set_default_dtype(torch.float32)
