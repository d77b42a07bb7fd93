"""The change of one's own that docs/own_intervention.md shows: it runs as it stands there."""

import re
from pathlib import Path

import pytest
import torch
from tiny_models import tiny_bridge

import kb_lens as kb
from kb_lens.interventions.positions import changing_activations

DOCS = Path(__file__).parents[2] / "docs" / "own_intervention.md"
TOKENS = torch.tensor([[5, 6, 7, 8]])


def test_the_documented_change_runs_and_changes_the_model():
    text = DOCS.read_text(encoding="utf-8")
    code = re.search(r"```python\n(.*?)```", text, re.DOTALL)[1]
    model = tiny_bridge("llama", max_position_embeddings=1024)
    benchmark = kb.load_benchmark("plain_text", limit=2)
    neurons = kb.NeuronSet.of(model, ["L0.N1", "L1.N2"])
    names = {"model": model, "neurons": neurons, "benchmark": benchmark}
    exec(compile(code, str(DOCS), "exec"), names)
    base, damped = names["results"]["base"], names["results"]["damping"]
    assert base.metrics != damped.metrics
    assert len(names["difference"])
    assert {trace.name for trace in names["figure"].data} == {*names["results"]}

    halved = [("blocks.1.hook_mlp_out", lambda out, hook: out / 2)]
    expected = model.run_with_hooks(TOKENS, fwd_hooks=halved)
    with names["Damping"](1, 0.5).applied(model):
        found = model(TOKENS)
    assert torch.allclose(found, expected)
    assert not torch.allclose(found, model(TOKENS), atol=1e-3)


def test_a_hook_that_the_model_does_not_have_is_named():
    changes = {"blocks.99.hook_mlp_out": lambda out: out}
    with (
        pytest.raises(ValueError, match=r"no hook 'blocks\.99\.hook_mlp_out'"),
        changing_activations(tiny_bridge("llama"), changes, "all"),
    ):
        pass
