import pytest
import torch
from tiny_models import tiny_bridge

from kb_lens.passes.last_logits import UNEMBED, only_last_logits

TOKENS = torch.tensor([[5, 6, 7], [8, 9, 10]])


@pytest.mark.parametrize("n_rows", [1, 2])
def test_the_last_logits_are_the_models_own(model, n_rows):
    tokens = TOKENS[:n_rows]
    logits = model.run_with_hooks(tokens, fwd_hooks=only_last_logits(model))
    torch.testing.assert_close(logits, model(tokens)[:, -1:])


# with one row torch calls a tensor contiguous whatever its strides, and still multiplies slowly
@pytest.mark.parametrize("n_rows", [1, 2])
def test_the_rows_have_no_gaps_between_them(n_rows):
    strides = []

    def note(residual, hook):
        strides.append(residual.stride())

    model = tiny_bridge("llama")
    hooks = [*only_last_logits(model), (UNEMBED, note)]
    model.run_with_hooks(TOKENS[:n_rows], fwd_hooks=hooks)
    assert strides == [(model.cfg.d_model, model.cfg.d_model, 1)]
