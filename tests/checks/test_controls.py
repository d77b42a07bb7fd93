"""Random neurons: other neurons of the same layers, of like influence where that is asked for."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import kb_lens as kb
from kb_lens.checks import controls
from kb_lens.checks.controls import influence_ratio
from kb_lens.checks.neuron_meaning import output_directions
from kb_lens.models.hooked import site_hooks


def chosen(*neurons, d_mlp=40, **changes):
    settings = {"model": "m", "fingerprint": "f", "site": "post", "n_layers": 3, "d_mlp": d_mlp}
    return kb.NeuronSet(neurons=tuple(kb.Neuron(*n) for n in neurons), **settings | changes)


members = st.sets(st.tuples(st.integers(0, 2), st.integers(0, 39)), min_size=1, max_size=12)


@given(members, st.integers(0, 3))
def test_matched_neurons_are_others_of_the_same_layers(a, seed):
    first, size = chosen(*a), torch.rand(3, 40, generator=torch.Generator().manual_seed(seed))
    drawn = kb.random_neurons(first, seed=seed, influence=size)
    assert {k: len(v) for k, v in drawn.by_layer().items()} == {
        k: len(v) for k, v in first.by_layer().items()
    }
    assert not len(drawn & first)
    assert drawn == kb.random_neurons(first, seed=seed, influence=size)


def test_matched_neurons_have_like_influence():
    size = torch.arange(1.0, 1201).reshape(3, 400)
    first = chosen((0, 200), (0, 10), (2, 300), d_mlp=400)
    for seed in range(20):
        drawn = kb.random_neurons(first, seed=seed, influence=size, pool=4)
        found = {index for layer, index in drawn if layer == 0}
        assert found <= {8, 9, 11, 12, 198, 199, 201, 202}
        assert influence_ratio(drawn, first, size) == pytest.approx(1, abs=0.02)
    several = {kb.random_neurons(first, seed=s, influence=size).neurons for s in range(20)}
    assert len(several) > 10


def test_a_pool_of_one_takes_the_nearest():
    size = torch.tensor([[1.0, 2.0, 2.1, 9.0], [1, 1, 1, 1], [1, 1, 1, 1]])
    drawn = kb.random_neurons(chosen((0, 1), d_mlp=4), influence=size, pool=1)
    assert drawn.neurons == ((0, 2),)


def test_bad_arguments():
    with pytest.raises(ValueError, match="pool is 0"):
        kb.random_neurons(chosen((0, 1)), pool=0)
    with pytest.raises(ValueError, match=r"shape \(2, 2\), the set needs \(3, 40\)"):
        kb.random_neurons(chosen((0, 1)), influence=torch.ones(2, 2))


def test_influence_is_mean_size_times_norm(model):
    texts = ["He is here.", "She was there and said so."]
    found = kb.influence(model, texts, progress=False)
    name = site_hooks(model, "post")[1]
    caught = []
    for text in texts:
        tokens = torch.tensor([model.tokenizer(text)["input_ids"]])
        model.run_with_hooks(
            tokens, fwd_hooks=[(name, lambda value, hook: caught.append(value[0].abs()))]
        )
    expected = torch.cat(caught).mean(0) * output_directions(model, 1).norm(dim=1)
    torch.testing.assert_close(found[1], expected)
    assert found.shape == (model.cfg.n_layers, len(expected))


def test_influence_does_not_depend_on_the_batches(llama, monkeypatch):
    texts = ["He is here.", "She was there and said so.", "Many people live in the city."]
    together = kb.influence(llama, texts, progress=False)
    monkeypatch.setattr(controls, "_BATCH_TOKENS", 1)
    torch.testing.assert_close(kb.influence(llama, texts, progress=False), together)


def test_of_a_text_beyond_the_context_its_beginning_counts(llama):
    text = "The chess player was tall. " * 100
    cut = llama.tokenizer.decode(llama.tokenizer(text)["input_ids"][: llama.cfg.n_ctx])
    found = kb.influence(llama, [text], progress=False)
    torch.testing.assert_close(found, kb.influence(llama, [cut], progress=False))


def test_influence_is_kept(llama, tmp_path, monkeypatch):
    texts = ["He is here.", "She was there."]
    first = kb.influence(llama, texts, cache_dir=tmp_path, progress=False)
    others = kb.influence(llama, texts[:1], cache_dir=tmp_path, progress=False)
    assert not torch.equal(first, others)
    monkeypatch.setattr(controls, "_influence", lambda *a: pytest.fail("measured again"))
    assert torch.equal(first, kb.influence(llama, texts, cache_dir=tmp_path, progress=False))


def test_influence_needs_text(llama):
    with pytest.raises(ValueError, match="got none"):
        kb.influence(llama, [])


def test_influence_is_kept_in_a_folder(llama, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match=r"cache_dir is '.*file', a file"):
        kb.influence(llama, ["He is here."], cache_dir=tmp_path / "file")
