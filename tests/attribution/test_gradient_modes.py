"""Whatever a user has switched on or off, attribution has its gradients or says why not."""

import pytest
import torch
from tiny_models import tiny_bridge

import kb_lens as kb


@pytest.mark.parametrize("engine", ["joined", "per-layer"])
@pytest.mark.parametrize("mode", [torch.no_grad, lambda: torch.set_grad_enabled(False)])
def test_gradients_are_switched_on_inside_and_left_as_they_were(llama, questions, engine, mode):
    settings = {"rule": "riemann", "n_steps": 3, "engine": engine, "progress": False}
    expected = kb.attribute(llama, questions[:1], **settings)
    with mode():
        scores = kb.attribute(llama, questions[:1], **settings)
        assert not torch.is_grad_enabled()
    assert torch.is_grad_enabled()
    assert torch.equal(scores.scores, expected.scores)


def test_weights_that_require_gradients_get_none(llama, questions):
    settings = {"rule": "riemann", "n_steps": 3, "progress": False}
    model = tiny_bridge("llama")
    model.requires_grad_(True)
    scores = kb.attribute(model, questions[:1], **settings)
    assert torch.equal(scores.scores, kb.attribute(llama, questions[:1], **settings).scores)
    assert all(p.requires_grad and p.grad is None for p in model.parameters())


def test_inference_mode_is_refused_in_one_line(llama, questions):
    with torch.inference_mode(), pytest.raises(ValueError, match="inference_mode") as error:
        kb.attribute(llama, questions[:1], progress=False)
    assert "\n" not in str(error.value)


def test_a_model_made_in_inference_mode_is_refused_in_one_line(questions):
    with torch.inference_mode():
        model = tiny_bridge("llama")
    with pytest.raises(ValueError, match=r"was made inside torch\.inference_mode") as error:
        kb.attribute(model, questions[:1], progress=False)
    assert "\n" not in str(error.value)
