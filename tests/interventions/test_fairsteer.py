"""FairSteer: the probe, the layer, and that only what the probe detects is steered."""

from dataclasses import replace

import pytest
import torch
from planted_directions import TOKENS, planted, residual
from tiny_models import tiny_bridge

from kb_lens.benchmarks.requests import Request
from kb_lens.evaluation.scoring import option_logprobs
from kb_lens.interventions.conditions import Change
from kb_lens.interventions.fairsteer import (
    FairSteer,
    FairSteerSettings,
    fair_steer,
    held_out_accuracy,
)
from kb_lens.interventions.linear_probe import LinearProbe
from kb_lens.interventions.residual import last_residuals
from kb_lens.interventions.steering import StatementPair, steering_vector
from kb_lens.models.hooked import fingerprint, model_name

PAIRS = tuple(
    StatementPair("gender", str(n), f"The {word} is not good at running.", f"The {word} is good.")
    for n, word in enumerate(("schoolgirl", "player", "city", "street", "assistant", "question"))
)
QUIET = {"progress": False}


def made(model, *, bias=0.0, layer=1, **changes):
    """A probe that fires at some positions, and a vector that is large enough to be seen."""
    generator = torch.Generator().manual_seed(7)
    vector, weight = torch.randn(2, 32, generator=generator)
    given = {"positions": "all", **changes}
    return FairSteer(vector, weight, bias, layer, model_name(model), fingerprint(model), **given)


# --- applying it -----------------------------------------------------------------------------


def test_positions_are_shifted_where_the_probe_fires_and_the_same_elsewhere(model):
    before = residual(model, 1)
    margins = before @ made(model).weight
    steer = made(model, bias=-float(margins.median()), strength=2.0)
    fires = margins + steer.bias > 0
    assert 0 < int(fires.sum()) < fires.numel()
    with steer.applied(model) as same:
        assert same is model
        after = residual(model, 1)
    assert torch.equal(after[~fires], before[~fires])
    assert torch.equal(after[fires], before[fires] + 2 * steer.vector)
    assert isinstance(steer, Change)


def test_a_silent_probe_changes_no_bit_and_a_loud_one_all(model):
    before = model(TOKENS)
    with made(model, bias=-1e6).applied(model):
        assert torch.equal(model(TOKENS), before)
    with made(model, bias=1e6).applied(model):
        assert not torch.allclose(model(TOKENS), before, atol=1e-2)
    assert torch.equal(model(TOKENS), before)


def test_the_last_position_alone_is_looked_at(model):
    before = residual(model, 1)
    steer = made(model, bias=1e6, positions="last")
    with steer.applied(model):
        after = residual(model, 1)
    assert torch.equal(after[:, :-1], before[:, :-1])
    assert torch.equal(after[:, -1], before[:, -1] + steer.vector)


def test_scores_are_those_of_a_pass_for_every_token(model):
    """The probe looks at the position that predicts a token, whatever else shares the pass."""
    request = Request("The schoolgirl is walking", (" down the street.", " home", " and running"))
    before = model.tokenizer(request.prompt)["input_ids"]
    scored = model.tokenizer(request.options[0])["input_ids"]
    predicting = residual(model, 1, torch.tensor([before + scored]))[0, len(before) - 1 :]
    values = (predicting @ made(model).weight).sort().values
    margin = float(values[len(values) // 2 - 1 :][:2].mean())  # between two tokens, and at none
    steer = made(model, bias=-margin, positions="last")
    base = option_logprobs(model, [request], progress=False).logprob[0]
    with steer.applied(model):
        found = option_logprobs(model, [request], progress=False).logprob[0]
    fired = []

    def change(h, hook):
        fired.append(float(h[0, -1] @ steer.weight) + steer.bias > 0)
        return torch.cat([h[:, :-1], h[:, -1:] + fired[-1] * steer.vector], dim=1)

    for option, total in zip(request.options, found, strict=True):
        ids = model.tokenizer(option)["input_ids"]
        for n, token in enumerate(ids):
            row = torch.tensor([before + ids[:n]])
            hooks = [("blocks.1.hook_resid_post", change)]
            logits = model.run_with_hooks(row, fwd_hooks=hooks)
            total -= logits[0, -1].log_softmax(-1)[token].item()
        assert total == pytest.approx(0, abs=1e-4)
    assert set(fired) == {True, False}
    assert abs(found - base).max() > 0.01


def test_another_models_is_refused(model):
    with pytest.raises(ValueError, match="this FairSteer belongs to"):
        made(model).applied(tiny_bridge("llama", seed=9)).__enter__()


# --- finding it ------------------------------------------------------------------------------


def pairs_of(rows, labels):
    """Rows of both classes as pairs, the biased one first."""
    return torch.stack([rows[labels], rows[~labels]], dim=1)


def test_accuracy_is_measured_on_pairs_that_the_probe_did_not_see():
    rows, labels = planted(n=200)
    assert held_out_accuracy(pairs_of(rows, labels), 5, 1.0, 0) > 0.85
    noise, labels = planted(n=40, gap=0.0)
    wide = torch.cat([noise, torch.randn(40, 60, generator=torch.Generator().manual_seed(5))], 1)
    # 68 numbers separate 40 rows of noise, and say nothing of others
    assert held_out_accuracy(pairs_of(wide, labels), 5, 1.0, 0) < 0.7


def test_the_layer_is_the_one_that_carries_the_planted_direction(llama, monkeypatch):
    """The texts' endings decide a direction of layer 1, and of no other."""

    def planted_residuals(model, layers, text):
        found = last_residuals(model, layers, text)
        noise = torch.randn(found.shape, generator=torch.Generator().manual_seed(len(text)))
        sign = 1.0 if "not" in text else -1.0
        noise[1, 4] += 20 * sign
        return noise

    monkeypatch.setattr("kb_lens.interventions.fairsteer.last_residuals", planted_residuals)
    pairs = [
        StatementPair("gender", str(n), f"It is not {'so' * n}.", f"It is {'so' * n} now.")
        for n in range(1, 21)
    ]
    found = fair_steer(llama, pairs, **QUIET)
    assert found.layer == 1
    assert found.accuracies[1] == 1.0
    assert max(found.accuracies[0], found.accuracies[2]) < 1.0
    assert int(found.weight.abs().argmax()) == 4
    assert float(found.weight[4]) > 0
    assert float(found.vector[4]) == pytest.approx(-40, abs=2)


def test_the_vector_is_that_of_contrastive_steering(model):
    settings = FairSteerSettings(layer=1, n_folds=3, strength=0.5)
    found = fair_steer(model, PAIRS, settings=settings, **QUIET)
    expected = steering_vector(model, PAIRS, layer=1, progress=False).vector
    assert torch.allclose(found.vector, expected, atol=1e-5)
    assert (found.layer, found.strength, found.positions) == (1, 0.5, "last")
    assert len(found.accuracies) == 3
    assert all(0 <= accuracy <= 1 for accuracy in found.accuracies)
    probe = LinearProbe(found.weight, found.bias)
    biased = torch.cat([last_residuals(model, [1], pair.biased) for pair in PAIRS])
    assert probe.detects(biased).all()
    again = fair_steer(model, PAIRS, settings=settings, **QUIET)
    assert again.describe() == found.describe()


def test_what_cannot_be_trained(model):
    with pytest.raises(ValueError, match="n_folds is 5, but there are 2 pairs"):
        fair_steer(model, PAIRS[:2], **QUIET)
    with pytest.raises(ValueError, match="allowed layers are 0 to 2, got 3"):
        fair_steer(model, PAIRS, settings=FairSteerSettings(layer=3), **QUIET)
    with pytest.raises(ValueError, match="n_folds is 1"):
        FairSteerSettings(n_folds=1)
    with pytest.raises(ValueError, match="strength is nan"):
        FairSteerSettings(strength=float("nan"))


# --- the value -------------------------------------------------------------------------------


def test_a_file_gives_back_what_was_saved(model, tmp_path):
    steer = made(model, accuracies=(0.5, 0.75, 1.0), origin="made", positions="last")
    steer.save(tmp_path / "fairsteer.safetensors")
    loaded = FairSteer.load(tmp_path / "fairsteer.safetensors")
    assert torch.equal(loaded.vector, steer.vector)
    assert torch.equal(loaded.weight, steer.weight)
    assert loaded.describe() == steer.describe()
    assert loaded.fingerprint == steer.fingerprint


def test_the_description_tells_changes_apart(model):
    steer = made(model)
    for other in (replace(steer, bias=1.0), replace(steer, strength=2), made(model, layer=0)):
        assert other.describe() != steer.describe()
    with pytest.raises(ValueError, match="row of finite numbers"):
        replace(steer, weight=torch.full((32,), float("nan")))
