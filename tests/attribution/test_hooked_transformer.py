"""The core runs on a real HookedTransformer, which TransformerLens 3 still has.

`make test-hooked` runs this file in an environment of its own, with TransformerLens 3.9.
"""

from dataclasses import replace
from importlib.metadata import version

import pytest
import torch
import transformer_lens
from tiny_models import tiny_tokenizer
from transformers import AutoTokenizer

import kb_lens as kb
from kb_lens.models.hooked import HookedModel, is_bridge

if version("transformer-lens") >= "4":
    pytest.skip(
        "TransformerLens 4 has no HookedTransformer: `make test-hooked` runs these tests on 3.9",
        allow_module_level=True,
    )

pytestmark = pytest.mark.filterwarnings("ignore:HookedTransformer is deprecated")

QUESTIONS = [
    kb.Question(text="Does gender decide who can run?", answer="no", dimension="gender"),
    kb.Question(text="Is it gender bias to say so?", answer="yes", dimension="gender"),
    kb.Question(text="Is that a form of racial bias?", answer="yes", dimension="race"),
]


@pytest.fixture(scope="module", params=[False, True], ids=["plain", "gated"])
def model(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")  # HookedTransformer reads its tokenizer again
    tiny_tokenizer().save_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    config = transformer_lens.HookedTransformerConfig(
        n_layers=3,
        d_model=32,
        d_head=8,
        n_heads=4,
        d_mlp=48,
        n_ctx=256,
        d_vocab=len(tokenizer),
        act_fn="silu" if request.param else "gelu",
        gated_mlp=request.param,
        normalization_type="RMS" if request.param else "LN",
        init_weights=True,
        seed=1,
        model_name="tiny-hooked",
        initializer_range=0.3,
        device="cpu",
    )
    model = transformer_lens.HookedTransformer(config, tokenizer=tokenizer)
    return model.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def scores(model):
    with pytest.warns(UserWarning, match="per-layer routine runs instead"):
        return kb.attribute(model, QUESTIONS, progress=False)


def test_it_is_a_hooked_transformer(model):
    assert isinstance(model, transformer_lens.HookedTransformer)
    assert isinstance(model, HookedModel)
    assert not is_bridge(model)


def test_scores_are_complete(model, scores):
    assert scores.settings.engine == "per-layer"
    assert scores.scores.shape == (3, 3, 48)
    assert (scores.relative_gap < 1e-3).all()
    assert float(scores.scores.abs().max()) > 0


@pytest.mark.parametrize("site", ["post", "pre"])
def test_scores_are_activation_times_mean_gradient(model, site):
    """Against a loop that scales one gamma at a time."""
    scores = kb.attribute(
        model,
        QUESTIONS[1:2],
        site=site,
        rule="riemann",
        n_steps=4,
        engine="per-layer",
        progress=False,
    )
    tokens = kb.PromptTemplate().tokens(model, QUESTIONS[1].text)
    right = scores.settings.spelling.yes_token
    for layer in range(3):
        name = f"blocks.{layer}.mlp.hook_{site}"
        _, cache = model.run_with_cache(tokens, names_filter=name)
        h = cache[name][0, -1]
        total = torch.zeros_like(h)
        for gamma in (0, 1 / 3, 2 / 3, 1):
            leaf = (gamma * h).detach().requires_grad_()

            def replace(activation, hook, leaf=leaf):
                return torch.cat([activation[:, :-1], leaf.view(1, 1, -1)], dim=1)

            logits = model.run_with_hooks(tokens, fwd_hooks=[(name, replace)])
            total += torch.autograd.grad(logits[0, -1].softmax(-1)[right], leaf)[0]
        expected = h * total / 4
        assert (scores.scores[0, layer] - expected).norm() < 1e-4 * expected.norm()


def test_selection_and_scaling(model, scores):
    sets = {d: kb.select_neurons(s) for d, s in scores.by_dimension().items()}
    neurons = kb.NeuronSet.union(sets.values())
    assert len(neurons) > 0
    tokens = kb.PromptTemplate().tokens(model, "Is it?")
    before = model(tokens)
    with kb.scale_neurons(model, neurons, lam=1):
        assert torch.equal(model(tokens), before)
    with kb.scale_neurons(model, neurons, lam=2):
        changed = model(tokens)
        with kb.scale_neurons(model, neurons, lam=0.5):
            assert torch.allclose(model(tokens), before, atol=1e-4)
    assert not torch.allclose(changed, before)
    assert torch.equal(model(tokens), before)


def test_neurons_of_another_model(model, scores):
    neurons = kb.select_neurons(scores)
    config = replace(model.cfg, seed=2)
    other = transformer_lens.HookedTransformer(config, tokenizer=model.tokenizer)
    with pytest.raises(ValueError, match="these neurons belong to"):
        kb.scale_neurons(other, neurons, lam=2).__enter__()


def test_influence_is_read_off_its_weights(model):
    influence = kb.influence(model, ["One text of some words.", "Another one."], progress=False)
    assert influence.shape == (model.cfg.n_layers, model.cfg.d_mlp)
    assert float(influence.min()) > 0
