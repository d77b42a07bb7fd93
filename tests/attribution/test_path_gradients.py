"""The joined pass computes what the plain per-layer routine computes, in every family."""

import pytest
import torch
from tiny_models import FAMILIES, tiny_bridge

import kb_lens as kb
from kb_lens.attribution.objective import Objective
from kb_lens.attribution.path_gradients import (
    JoinedPath,
    PerLayerPath,
    UncoveredError,
    _chunks,
)

NODES = [torch.tensor([0.0, 0.3, 1.0]), torch.tensor([0.5]), torch.tensor([0.1, 0.9])]
KINDS = ("probability", "log_probability", "logit_difference")


def _prompt(model):
    return kb.PromptTemplate().tokens(model, "Is believing that a form of gender bias?")


def _difference(model, objective, site, max_rows=1024):
    tokens = _prompt(model)
    joined = JoinedPath(model, tokens, objective, site=site, max_rows=max_rows)
    plain = PerLayerPath(model, tokens, objective, site=site)
    assert torch.allclose(joined.activations, plain.activations, atol=1e-5)
    assert joined.value == pytest.approx(plain.value, rel=1e-4)
    worst = 0.0
    for joined_layers, plain_layers in zip(joined(NODES), plain(NODES), strict=True):
        for ours, reference in zip(joined_layers, plain_layers, strict=True):
            assert ours.shape == reference.shape
            worst = max(worst, float((ours - reference).norm() / reference.norm()))
    return worst


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("site", ["post", "pre"])
@pytest.mark.parametrize("family", FAMILIES)
def test_joined_equals_per_layer(family, site, kind):
    assert _difference(tiny_bridge(family), Objective(270, 271, kind), site) < 1e-4


@pytest.mark.parametrize("family", ["mistral", "gemma2", "gemma3_text"])
def test_sliding_windows_shorter_than_the_prompt(family):
    model = tiny_bridge(family, sliding_window=8)
    assert _prompt(model).shape[1] > 16
    assert _difference(model, Objective(270, 271), "post") < 1e-4


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2"])
def test_bfloat16_is_float32_to_its_precision(family):
    exact = JoinedPath(tiny_bridge(family), _prompt(tiny_bridge(family)), Objective(270, 271))
    model = tiny_bridge(family)
    model.to(torch.bfloat16)
    model.cfg.dtype = torch.bfloat16
    rough = JoinedPath(model, _prompt(model), Objective(270, 271))
    for gradient, reference in zip(rough(NODES)[1], exact(NODES)[1], strict=True):
        assert gradient.dtype == torch.float32
        assert torch.cosine_similarity(gradient.flatten(), reference.flatten(), dim=0) > 0.98


@pytest.mark.parametrize("max_rows", [1, 2, 4])
def test_the_row_budget_changes_nothing(llama, max_rows):
    assert _difference(llama, Objective(270, 271), "post", max_rows) < 1e-4


def test_scaled_neurons_are_seen(llama):
    """Attribution inside a `with` block is that of the changed model, in both routines."""
    hook = ("blocks.1.mlp.hook_post", lambda activation, hook: 3 * activation)
    base = JoinedPath(llama, _prompt(llama), Objective(270, 271)).value
    with llama.hooks(fwd_hooks=[hook]):
        assert _difference(llama, Objective(270, 271), "post") < 1e-4
        assert JoinedPath(llama, _prompt(llama), Objective(270, 271)).value != base


@pytest.mark.parametrize("kind", KINDS)
def test_the_closed_form_gradient_is_autograd_s(kind):
    objective = Objective(3, 5, kind)
    logits = torch.randn(4, 11, dtype=torch.float64, requires_grad=True)
    expected = objective.value(logits)
    (slope,) = torch.autograd.grad(expected.sum(), logits)
    value, gradient = objective.value_and_gradient(logits.detach())
    assert torch.allclose(value, expected)
    assert torch.allclose(gradient, slope)


def test_the_model_is_left_as_it_was(llama):
    tokens = _prompt(llama)
    before = llama(tokens)
    path = JoinedPath(llama, tokens, Objective(270, 271))
    path(NODES)
    with pytest.raises(RuntimeError):
        path([torch.full((2,), torch.nan, device="meta")] + [torch.empty(0)] * 2)
    assert torch.equal(llama(tokens), before)
    assert not any(point.fwd_hooks for point in llama.hook_dict.values())
    assert llama.original_model.config._attn_implementation == "eager"


def test_a_pass_that_goes_wrong_is_noticed(llama):
    """The joined pass checks its clean row against the model's own logits."""
    path = JoinedPath(llama, _prompt(llama), Objective(270, 271))
    path._prefix.prefix = [(keys + 1, values + 1) for keys, values in path._prefix.prefix]
    with pytest.raises(UncoveredError, match="off by"):
        path(NODES)


def test_hooks_inside_attention_are_not_passed_over(llama):
    hook = ("blocks.0.attn.hook_pattern", lambda pattern, hook: pattern)
    with (
        llama.hooks(fwd_hooks=[hook]),
        pytest.raises(UncoveredError, match="a hook is set inside its attention"),
    ):
        JoinedPath(llama, _prompt(llama), Objective(270, 271))


@pytest.mark.parametrize("max_rows", [1, 3, 7, 100])
def test_chunks_cover_every_row_once(max_rows):
    counts = [4, 0, 1, 9]
    chunks = list(_chunks(counts, max_rows))
    assert all(sum(s.stop - s.start for s in chunk.values()) <= max_rows for chunk in chunks)
    for layer, count in enumerate(counts):
        rows = [i for chunk in chunks if layer in chunk for i in range(count)[chunk[layer]]]
        assert rows == list(range(count))
