"""In half precision attribution costs what it costs in float32, and says where rounding ends it."""

from copy import deepcopy
from dataclasses import replace
from importlib.metadata import version

import pytest
import torch
from packaging.version import Version
from tiny_models import FAMILIES, tiny_bridge

import kb_lens as kb
from kb_lens.attribution.head import backward, narrow_head, wide_head
from kb_lens.attribution.objective import Objective
from kb_lens.attribution.path_gradients import JoinedPath, PerLayerPath
from kb_lens.attribution.quadrature import MAX_NODES, adaptive

BFLOAT16 = torch.finfo(torch.bfloat16).eps


def half(family, dtype=torch.bfloat16):
    model = tiny_bridge(family)
    model.to(dtype)
    model.cfg.dtype = dtype
    return model


@pytest.mark.parametrize("kind", ["probability", "log_probability", "logit_difference"])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_head_makes_the_model_s_logits_and_their_gradient(family, kind):
    model = tiny_bridge(family)
    norm = deepcopy(model.ln_final.original_component)
    head = replace(narrow_head(model), hook="ln_final.hook_in", norm=norm)
    logits, cache = model.run_with_cache(torch.tensor([[5, 6, 7]]))
    rows = cache[head.hook].reshape(-1, 32)
    assert torch.allclose(head.logits(head.normed(rows)), logits[0], atol=1e-4)

    objective = Objective(270, 271, kind)
    values, gradient, first = head.value_and_gradient(rows, objective)
    leaf = rows.clone().requires_grad_()
    expected = objective.value(head.logits(head.normed(leaf)))
    (reference,) = torch.autograd.grad(expected.sum(), leaf)
    assert torch.allclose(values, expected, rtol=1e-4)
    assert torch.allclose(gradient, reference, rtol=1e-3, atol=1e-6)
    assert torch.allclose(first, logits[0, :1], atol=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_half_precision_ends_in_float32(family):
    if family == "olmo2" and Version(version("transformers")) >= Version("5.24"):
        pytest.skip("TransformerLens 4.3 cannot run OLMo 2 in half precision under it")
    model = half(family)
    tokens = torch.tensor([[5, 6, 7, 8]])
    for path_class in (JoinedPath, PerLayerPath):
        path = path_class(model, tokens, Objective(270, 271))
        assert path._head.norm is not None
        assert {p.dtype for p in path._head.norm.parameters()} == {torch.float32}
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}, "the model is as it was"
    assert wide_head(tiny_bridge(family)) is None


def test_a_head_that_is_not_the_model_s_is_not_used():
    """Something stands between the last norm and the unembedding."""
    model = half("llama")
    hook = ("unembed.hook_in", lambda residual, hook: residual.flip(-1))
    with model.hooks(fwd_hooks=[hook]):
        joined = JoinedPath(model, torch.tensor([[5, 6, 7, 8]]), Objective(270, 271))
        plain = PerLayerPath(model, torch.tensor([[5, 6, 7, 8]]), Objective(270, 271))
        assert joined._head.norm is None
        assert plain._head is None
        assert joined.value == pytest.approx(plain.value, rel=0.1)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*layer integrals end at the rounding")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma3_text"])
def test_half_precision_takes_the_nodes_of_float32_and_finds_its_neurons(family, dtype, questions):
    exact = kb.attribute(tiny_bridge(family), questions[:2], progress=False)
    rough = kb.attribute(half(family, dtype), questions[:2], progress=False)
    assert rough.nodes.sum() <= 1.5 * exact.nodes.sum()
    assert rough.nodes.max() < MAX_NODES
    neurons, reference = kb.select_neurons(rough), kb.select_neurons(exact)
    assert len(reference) > 10
    assert neurons.jaccard(reference) > 0.9


def test_the_rounding_is_reported_once(questions, recwarn):
    scores = kb.attribute(half("llama"), questions, tol=1e-4, progress=False)
    told = [str(warning.message) for warning in recwarn]
    assert len(told) == 1
    assert "layer integrals end at the rounding of bfloat16, above tol=0.0001" in told[0]
    assert (scores.nodes < MAX_NODES).all()


class Rounded:
    """A path of two layers whose objective is off by a constant at gamma = 0."""

    activations = torch.ones(2, 1)
    value = 1.0

    def __init__(self, offset):
        self._offset = offset

    def __call__(self, nodes):
        values = [steps**2 + self._offset * (steps == 0) for steps in nodes]
        return values, [2 * steps[:, None] for steps in nodes]


def test_a_gap_of_a_few_units_of_rounding_is_left():
    assert adaptive(Rounded(0.03), 0.02, BFLOAT16).nodes.tolist() == [25, 5]


def test_a_gap_that_no_cut_lowers_ends_the_layer():
    nodes = adaptive(Rounded(0.1), 0.02, BFLOAT16).nodes
    assert nodes.tolist() == [25 + 6, 5 + 6], "one interval was halved"


def test_a_gap_above_what_rounding_makes_is_refined_on():
    assert (adaptive(Rounded(0.6), 0.02, BFLOAT16).nodes > MAX_NODES / 2).all()
    assert (adaptive(Rounded(0.1), 0.02).nodes > MAX_NODES / 2).all(), "float32 rounds less"


def test_small_gradients_keep_their_digits_in_float16():
    """A probability of 1e-6 has gradients that float16 would round to a few steps or to zero."""
    generator = torch.Generator().manual_seed(0)
    leaf = torch.randn(4, 4, generator=generator).half().requires_grad_()
    weight = torch.randn(4, 5, generator=generator).half()
    gradient = torch.randn(4, 5, generator=generator) * torch.tensor([[1], [1e-6], [1e-9], [0.0]])
    (result,) = backward(leaf @ weight, gradient, [leaf], [torch.tensor([1, 2, 3])])
    expected = gradient[1:] @ weight.float().T
    assert torch.allclose(result, expected, rtol=5e-3, atol=0)
    assert (result[2] == 0).all()
