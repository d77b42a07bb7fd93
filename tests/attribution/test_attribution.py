"""Attributions: complete, equal to independent routines, kept on disk, and resumable."""

import json

import captum.attr
import numpy as np
import pytest
import torch
from jaxtyping import TypeCheckError
from safetensors.torch import load_file
from tiny_models import tiny_bridge

import kb_lens as kb
from kb_lens.attribution import attribute as attribution
from kb_lens.attribution.attributions import TENSORS
from kb_lens.attribution.path_gradients import JoinedPath, UncoveredError
from kb_lens.models.hooked import site_hooks


@pytest.fixture(scope="module")
def scores(llama):
    """Attributions of four questions with the default settings."""
    questions = [
        kb.Question(text=f"Is {word} a form of bias?", answer=answer, dimension=dimension)
        for word, answer, dimension in (
            ("this", "yes", "gender"),
            ("that", "no", "gender"),
            ("it", "yes", "race"),
            ("he", "no", "race"),
        )
    ]
    return kb.attribute(llama, questions, progress=False)


@pytest.mark.parametrize("objective", ["probability", "log_probability", "logit_difference"])
@pytest.mark.parametrize("site", ["post", "pre"])
def test_scores_sum_to_the_change_of_the_objective(model, questions, site, objective):
    scores = kb.attribute(model, questions[:2], site=site, objective=objective, progress=False)
    assert scores.scores.shape == (2, 3, 48)
    assert scores.scores.dtype == torch.float32
    assert (scores.relative_gap < 1e-3).all()
    assert (scores.error <= 1e-3).all()
    assert torch.allclose(scores.scores.sum(-1) - scores.output_change, scores.completeness_gap)


@pytest.mark.slow
@pytest.mark.parametrize("rule", ["riemann", "gauss-legendre"])
@pytest.mark.parametrize("site", ["post", "pre"])
def test_the_two_engines_agree(model, questions, site, rule):
    settings = {"site": site, "rule": rule, "n_steps": 7, "progress": False}
    joined = kb.attribute(model, questions[:2], engine="joined", **settings)
    plain = kb.attribute(model, questions[:2], engine="per-layer", **settings)
    assert joined.settings.engine == "joined"
    assert plain.settings.engine == "per-layer"
    assert (joined.scores - plain.scores).norm() < 1e-4 * plain.scores.norm()
    assert torch.allclose(joined.answer_prob, plain.answer_prob, rtol=1e-4)


def test_captum_agrees(model, questions):
    """Its IntegratedGradients over the injected activation, with the explicit baseline 0."""
    question = questions[1]
    scores = kb.attribute(model, [question], rule="gauss-legendre", n_steps=30, progress=False)
    tokens = kb.PromptTemplate().tokens(model, question.text)
    right = scores.settings.spelling.yes_token
    for layer, name in enumerate(site_hooks(model, "post")):
        _, cache = model.run_with_cache(tokens, names_filter=name)
        h = cache[name][:, -1].detach()

        def forward(rows, name=name):
            def replace(activation, hook):
                return torch.cat([activation[:, :-1], rows[:, None]], dim=1)

            logits = model.run_with_hooks(tokens.expand(len(rows), -1), fwd_hooks=[(name, replace)])
            return logits[:, -1].softmax(-1)[:, right]

        expected = captum.attr.IntegratedGradients(forward).attribute(
            h, baselines=torch.zeros_like(h), n_steps=30, method="gausslegendre"
        )
        difference = (scores.scores[0, layer] - expected[0]).norm()
        assert difference < 1e-4 * expected.norm()


def test_riemann_with_many_steps_approaches_the_adaptive_rule(model, questions):
    exact = kb.attribute(model, questions[:1], tol=1e-4, progress=False).scores
    errors = [
        float(
            (
                kb.attribute(model, questions[:1], rule="riemann", n_steps=n, progress=False).scores
                - exact
            ).norm()
            / exact.norm()
        )
        for n in (5, 20, 320)
    ]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 0.01


@pytest.mark.slow
def test_save_and_load(scores, tmp_path):
    scores.save(tmp_path / "deep" / "a.safetensors")
    again = kb.Attributions.load(tmp_path / "deep" / "a.safetensors")
    assert again.settings == scores.settings
    assert again.questions == scores.questions
    for name in TENSORS:
        assert torch.equal(getattr(again, name), getattr(scores, name))


def test_files_that_are_no_attributions(tmp_path):
    with pytest.raises(ValueError, match="no such attributions file"):
        kb.Attributions.load(tmp_path / "none")
    bad = tmp_path / "bad.safetensors"
    bad.write_bytes(b"not a safetensors file")
    with pytest.raises(ValueError, match="not a complete safetensors file"):
        kb.Attributions.load(bad)


def test_by_dimension(scores):
    dimensions = scores.by_dimension()
    assert list(dimensions) == ["gender", "race"]
    assert torch.equal(dimensions["race"].scores, scores.scores[2:])
    assert dimensions["race"].questions == scores.questions[2:]


@pytest.mark.parametrize(
    "rows", [[1, 3], torch.tensor([1, 3]), np.array([1, 3]), [False, True, False, True]]
)
def test_a_subset_by_index_or_mask(scores, rows):
    some = scores.subset(rows)
    assert some.questions == (scores.questions[1], scores.questions[3])
    assert torch.equal(some.scores, scores.scores[[1, 3]])


@pytest.mark.parametrize("rows", [[True], [0.5], [[0], [1]]])
def test_what_is_no_subset(scores, rows):
    with pytest.raises((ValueError, TypeCheckError), match=r"mask|indices"):
        scores.subset(rows)


def test_hooks_and_kept_questions_exclude_one_another(model, questions, tmp_path):
    """A cache knows the weights alone: under a change it would serve one model as the other."""
    hook = ("blocks.1.hook_out", lambda residual, hook: 2 * residual)
    with model.hooks(fwd_hooks=[hook]), pytest.raises(ValueError, match="a hook is set on"):
        kb.attribute(model, questions[:1], cache_dir=tmp_path, progress=False)
    with model.hooks(fwd_hooks=[hook]), pytest.raises(ValueError, match="a hook is set on"):
        kb.influence(model, cache_dir=tmp_path, progress=False)
    assert not list(tmp_path.iterdir())


def test_finished_questions_are_kept(model, questions, tmp_path, monkeypatch):
    """A run that is interrupted goes on where it stopped, with the same numbers."""
    uninterrupted = kb.attribute(model, questions, progress=False)
    real, done = attribution.attribute_question, []

    def interrupted(*args):
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(args)
        return real(*args)

    def counted(*args):
        done.append(args)
        return real(*args)

    monkeypatch.setattr(attribution, "attribute_question", interrupted)
    with pytest.raises(KeyboardInterrupt):
        kb.attribute(model, questions, cache_dir=tmp_path, progress=False)
    assert len(list(tmp_path.glob("*.safetensors"))) == 2
    next(tmp_path.glob("*.safetensors")).write_bytes(b"damaged")
    monkeypatch.setattr(attribution, "attribute_question", counted)
    with pytest.warns(UserWarning, match="is damaged"):
        again = kb.attribute(model, questions, cache_dir=tmp_path, progress=False)
    assert len(done) == 2 + 3, "one kept, one damaged and redone, two missing"
    assert torch.equal(again.scores, uninterrupted.scores)


def test_a_change_of_settings_is_not_served_from_the_cache(llama, questions, tmp_path):
    first = kb.attribute(llama, questions[:1], cache_dir=tmp_path, progress=False)
    second = kb.attribute(llama, questions[:1], site="pre", cache_dir=tmp_path, progress=False)
    assert len(list(tmp_path.glob("*.safetensors"))) == 2
    assert not torch.equal(first.scores, second.scores)


def test_models_that_the_joined_pass_does_not_cover_fall_back(questions, monkeypatch):
    model = tiny_bridge("llama")
    hook = ("blocks.0.attn.hook_pattern", lambda pattern, hook: pattern)
    with model.hooks(fwd_hooks=[hook]):
        with pytest.warns(UserWarning, match="per-layer routine runs instead"):
            scores = kb.attribute(model, questions[:1], progress=False)
        with pytest.raises(ValueError, match="not covered by the joined pass"):
            kb.attribute(model, questions[:1], engine="joined", progress=False)
    assert scores.settings.engine == "per-layer"
    assert (scores.relative_gap < 1e-3).all()


def test_an_unreachable_tolerance_is_said(llama, questions):
    with pytest.warns(
        UserWarning, match="(did not reach|end at the rounding of float32, above) tol=1e-12"
    ):
        kb.attribute(llama, questions[:1], tol=1e-12, progress=False)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"site": "mid"}, "site is 'mid': allowed are post, pre"),
        ({"rule": "simpson"}, "rule is 'simpson'"),
        ({"objective": "logit"}, "objective is 'logit'"),
        ({"engine": "gpu"}, "engine is 'gpu'"),
        ({"n_steps": 20}, "the adaptive rule takes tol, not n_steps"),
        ({"rule": "riemann", "n_steps": 0}, "n_steps is 0"),
        ({"tol": 0.0}, "tol is 0.0"),
        ({"batch_size": -1}, "batch_size is -1"),
    ],
)
def test_bad_arguments(llama, questions, arguments, message):
    with pytest.raises(ValueError, match=message):
        kb.attribute(llama, questions, **arguments)


def test_no_questions(llama):
    with pytest.raises(ValueError, match="no questions"):
        kb.attribute(llama, [])


@pytest.mark.embedded
@pytest.mark.slow
def test_the_release_s_scores(embedded, data_dir):
    """Scores that the authors' released code computes, for two questions of SmolLM2."""
    reference = data_dir / "knowbias_release" / "reference_attributions"
    expected = load_file(reference.with_suffix(".safetensors"))["scores"]
    examples = json.loads(reference.with_suffix(".json").read_text())["examples"]
    questions, prefix = [], "Answer the question with yes or no only.\nQuestion: "
    for example in examples:
        text = example["user"].removeprefix(prefix)
        questions.append(kb.Question(text=text, answer=example["answer"], dimension="gender"))
    scores = kb.attribute(
        embedded,
        questions,
        site="pre",
        rule="riemann",
        n_steps=20,
        answer_style="release",
        progress=False,
    )
    for ours, theirs in zip(scores.scores, expected, strict=True):
        assert (ours - theirs).norm() < 1e-4 * theirs.norm()


@pytest.mark.embedded
@pytest.mark.slow
def test_completeness_on_the_embedded_model(embedded):
    scores = kb.attribute(embedded, kb.load_questions(9)[::4], progress=False)
    assert (scores.relative_gap < 1e-3).all()
    assert (scores.error <= 1e-3).all()
    assert scores.nodes[:, 0].min() > scores.nodes[:, 5].max(), "layer 0 is the steep one"


def test_a_prompt_that_is_not_covered_runs_layer_by_layer(llama, questions, monkeypatch):
    real, calls = JoinedPath.__call__, []

    def uncovered(self, nodes):
        calls.append(nodes)
        if len(calls) == 3:  # the probe, the first question, then this
            raise UncoveredError("off by 1")
        return real(self, nodes)

    settings = {"rule": "riemann", "n_steps": 4, "progress": False}
    joined = kb.attribute(llama, questions[:2], **settings)
    monkeypatch.setattr(JoinedPath, "__call__", uncovered)
    with pytest.warns(UserWarning, match="off by 1; run layer by layer"):
        scores = kb.attribute(llama, questions[:2], **settings)
    assert (scores.scores - joined.scores).norm() < 1e-4 * joined.scores.norm()


@pytest.mark.parametrize("bug", [RuntimeError("shapes"), TypeError("None"), KeyError("name")])
@pytest.mark.parametrize("method", ["_clean_pass", "_forward", "_pass"])
def test_a_bug_in_the_joined_pass_is_raised(llama, questions, monkeypatch, method, bug):
    """A slow run in its stead would hide it."""

    def fail(self, *args):
        raise bug

    monkeypatch.setattr(JoinedPath, method, fail)
    with pytest.raises(type(bug)):
        kb.attribute(llama, questions[:1], progress=False)


def test_half_precision_has_a_tolerance_of_its_own(questions, tmp_path):
    exact = kb.attribute(tiny_bridge("gpt2"), questions[:1], cache_dir=tmp_path, progress=False)
    model = tiny_bridge("gpt2")
    model.to(torch.bfloat16)
    model.cfg.dtype = torch.bfloat16
    rough = kb.attribute(model, questions[:1], cache_dir=tmp_path, progress=False)
    assert (exact.settings.tol, rough.settings.tol) == (1e-3, 2e-2)
    assert rough.scores.dtype == torch.float32
    assert torch.cosine_similarity(rough.scores.flatten(), exact.scores.flatten(), dim=0) > 0.98
    assert not torch.equal(rough.scores, exact.scores), "not served from the float32 run"


def test_scores_that_overflow_are_not_kept(questions, tmp_path):
    model = tiny_bridge("gpt2")
    with torch.no_grad():  # a block's output is beyond every number
        next(iter(model.original_model.transformer.h[1].mlp.c_proj.parameters())).fill_(1e38)
    with pytest.raises(ValueError, match="not finite"):
        kb.attribute(model, questions[:1], engine="per-layer", cache_dir=tmp_path, progress=False)
    assert not list(tmp_path.glob("*.safetensors"))
