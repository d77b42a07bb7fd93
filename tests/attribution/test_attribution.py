"""Attributions: complete, equal to independent routines, kept on disk, and resumable."""

import json

import captum.attr
import pytest
import torch
from safetensors.torch import load_file
from tiny_models import tiny_bridge

import kb_lens as kb
from kb_lens.attribution import attribute as attribution
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
    found = kb.attribute(model, questions[:2], site=site, objective=objective, progress=False)
    assert found.scores.shape == (2, 3, 48)
    assert found.scores.dtype == torch.float32
    assert (found.relative_gap < 1e-3).all()
    assert (found.error <= 1e-3).all()
    assert torch.allclose(found.scores.sum(-1) - found.output_change, found.completeness_gap)


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
    found = kb.attribute(model, [question], rule="gauss-legendre", n_steps=30, progress=False)
    tokens = kb.PromptTemplate().tokens(model, question.text)
    right = found.settings.spelling.yes_token
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
        difference = (found.scores[0, layer] - expected[0]).norm()
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


def test_save_and_load(scores, tmp_path):
    scores.save(tmp_path / "deep" / "a.safetensors")
    again = kb.Attributions.load(tmp_path / "deep" / "a.safetensors")
    assert again.settings == scores.settings
    assert again.questions == scores.questions
    for name in attribution._TENSORS:
        assert torch.equal(getattr(again, name), getattr(scores, name))


def test_files_that_are_no_attributions(tmp_path):
    with pytest.raises(ValueError, match="no such attributions file"):
        kb.Attributions.load(tmp_path / "none")
    bad = tmp_path / "bad.safetensors"
    bad.write_bytes(b"not a safetensors file")
    with pytest.raises(ValueError, match="no readable safetensors file"):
        kb.Attributions.load(bad)


def test_by_dimension(scores):
    parts = scores.by_dimension()
    assert list(parts) == ["gender", "race"]
    assert torch.equal(parts["race"].scores, scores.scores[2:])
    assert parts["race"].questions == scores.questions[2:]


def test_finished_questions_are_kept(model, questions, tmp_path, monkeypatch):
    """A run that is interrupted goes on where it stopped, with the same numbers."""
    whole = kb.attribute(model, questions, progress=False)
    real, done = attribution._attribute_one, []

    def interrupted(*args):
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(args)
        return real(*args)

    monkeypatch.setattr(attribution, "_attribute_one", interrupted)
    with pytest.raises(KeyboardInterrupt):
        kb.attribute(model, questions, cache_dir=tmp_path, progress=False)
    assert len(list(tmp_path.glob("*.safetensors"))) == 2
    next(tmp_path.glob("*.safetensors")).write_bytes(b"damaged")
    monkeypatch.setattr(
        attribution, "_attribute_one", lambda *args: done.append(args) or real(*args)
    )
    again = kb.attribute(model, questions, cache_dir=tmp_path, progress=False)
    assert len(done) == 2 + 3, "one kept, one damaged and redone, two missing"
    assert torch.equal(again.scores, whole.scores)


def test_a_change_of_settings_is_not_served_from_the_cache(llama, questions, tmp_path):
    first = kb.attribute(llama, questions[:1], cache_dir=tmp_path, progress=False)
    second = kb.attribute(llama, questions[:1], site="pre", cache_dir=tmp_path, progress=False)
    assert len(list(tmp_path.iterdir())) == 2
    assert not torch.equal(first.scores, second.scores)


def test_models_that_the_joined_pass_does_not_cover_fall_back(questions, monkeypatch):
    model = tiny_bridge("llama")
    hook = ("blocks.0.attn.hook_pattern", lambda pattern, hook: pattern)
    with model.hooks(fwd_hooks=[hook]):
        with pytest.warns(UserWarning, match="per-layer routine runs instead"):
            found = kb.attribute(model, questions[:1], progress=False)
        with pytest.raises(ValueError, match="not covered by the joined pass"):
            kb.attribute(model, questions[:1], engine="joined", progress=False)
    assert found.settings.engine == "per-layer"
    assert (found.relative_gap < 1e-3).all()


def test_an_unreachable_tolerance_is_said(llama, questions):
    with pytest.warns(UserWarning, match="did not reach tol=1e-12"):
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
    """Plain calls: the shape checker would speak up before kb_lens does."""
    unchecked = getattr(kb.attribute, "__wrapped__", kb.attribute)
    with pytest.raises(ValueError, match=message):
        unchecked(llama, questions, **arguments)


def test_no_questions(llama):
    with pytest.raises(ValueError, match="no questions"):
        kb.attribute(llama, [])


@pytest.mark.embedded
def test_the_release_s_scores(embedded, data_dir):
    """Scores that the authors' released code computes, for two questions of SmolLM2."""
    reference = data_dir / "knowbias_release" / "reference_attributions"
    expected = load_file(reference.with_suffix(".safetensors"))["scores"]
    examples = json.loads(reference.with_suffix(".json").read_text())["examples"]
    questions, prefix = [], "Answer the question with yes or no only.\nQuestion: "
    for example in examples:
        text = example["user"].removeprefix(prefix)
        questions.append(kb.Question(text=text, answer=example["answer"], dimension="gender"))
    found = kb.attribute(
        embedded,
        questions,
        site="pre",
        rule="riemann",
        n_steps=20,
        answer_style="release",
        progress=False,
    )
    for mine, theirs in zip(found.scores, expected, strict=True):
        assert (mine - theirs).norm() < 1e-4 * theirs.norm()


@pytest.mark.embedded
def test_completeness_on_the_embedded_model(embedded):
    found = kb.attribute(embedded, kb.load_questions(9)[::4], progress=False)
    assert (found.relative_gap < 1e-3).all()
    assert (found.error <= 1e-3).all()
    assert found.nodes[:, 0].min() > found.nodes[:, 5].max(), "layer 0 is the steep one"


def test_a_prompt_that_is_not_covered_runs_layer_by_layer(llama, questions, monkeypatch):
    real, seen = attribution.JoinedPath.__call__, []

    def uncovered(self, nodes):
        seen.append(nodes)
        if len(seen) == 3:  # the probe, the first question, then this
            raise attribution.UncoveredError("off by 1")
        return real(self, nodes)

    settings = {"rule": "riemann", "n_steps": 4, "progress": False}
    whole = kb.attribute(llama, questions[:2], **settings)
    monkeypatch.setattr(attribution.JoinedPath, "__call__", uncovered)
    with pytest.warns(UserWarning, match="off by 1; run layer by layer"):
        found = kb.attribute(llama, questions[:2], **settings)
    assert (found.scores - whole.scores).norm() < 1e-4 * whole.scores.norm()


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
    hook = ("blocks.1.hook_out", lambda residual, hook: residual * float("inf"))
    with model.hooks(fwd_hooks=[hook]), pytest.raises(ValueError, match="not finite"):
        kb.attribute(model, questions[:1], engine="per-layer", cache_dir=tmp_path, progress=False)
    assert not list(tmp_path.iterdir())
