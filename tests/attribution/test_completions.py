"""Completions: any prompt and token, measured as what they are or refused; differences."""

import json
import re
from dataclasses import replace

import captum.attr
import pytest
import torch
from tiny_models import tiny_bridge

import kb_lens as kb
from kb_lens.models.chat import token_ids
from kb_lens.models.hooked import site_hooks

PROMPT = "The chess player was"
YES, NO = (kb.Completion(PROMPT, word, dimension="facts") for word in (" yes", " no"))
GAP = kb.Completion(PROMPT, " yes", foil=" no")


def logits_behind(model, prompt):
    tokens = torch.tensor([token_ids(model.tokenizer, prompt)])
    with torch.no_grad():
        return model(tokens, return_type="logits")[0, -1].double()


def token(model, text):
    (only,) = model.tokenizer(text, add_special_tokens=False)["input_ids"]
    return only


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2"])
def test_the_prompt_is_taken_as_it_is_and_the_target_is_the_token_behind_it(family):
    model = tiny_bridge(family)
    scores = kb.attribute(model, [YES, GAP], progress=False)
    probability = logits_behind(model, PROMPT).softmax(-1)[token(model, " yes")]
    assert scores.answer_prob.tolist() == pytest.approx([float(probability)] * 2, rel=1e-5)
    assert torch.equal(scores.scores[0], scores.scores[1])  # a foil has no part in probabilities
    assert (scores.relative_gap < 1e-3).all()


@pytest.mark.parametrize("objective", ["probability", "log_probability"])
def test_a_prompt_of_one_token(objective):
    model = tiny_bridge("gpt2")  # whose tokenizer puts nothing in front
    short = [kb.Completion("T", " yes"), kb.Completion("T", " no"), YES]
    assert short[0].prompt_tokens(model).shape == (1, 1)
    joined, plain = (
        kb.attribute(model, short, objective=objective, engine=engine, progress=False)
        for engine in ("joined", "per-layer")
    )
    torch.testing.assert_close(joined.scores, plain.scores, rtol=1e-3, atol=1e-7)
    probability = logits_behind(model, "T").softmax(-1)[token(model, " yes")]
    value = probability if objective == "probability" else probability.log()
    assert float(joined.answer_prob[0]) == pytest.approx(float(value), rel=1e-4)


def test_the_foil_is_what_the_logit_difference_is_from(llama):
    scores = kb.attribute(llama, [GAP], objective="logit_difference", progress=False)
    logits = logits_behind(llama, PROMPT)
    difference = logits[token(llama, " yes")] - logits[token(llama, " no")]
    assert float(scores.answer_prob) == pytest.approx(float(difference), abs=1e-5)


def test_captum_agrees(llama):
    scores = kb.attribute(llama, [YES], rule="gauss-legendre", n_steps=30, progress=False)
    tokens = YES.prompt_tokens(llama)
    name = site_hooks(llama, "post")[1]

    def probability(rows):
        def replaced(activation, hook):
            return torch.cat([activation[:, :-1], rows[:, None]], dim=1)

        logits = llama.run_with_hooks(tokens.expand(len(rows), -1), fwd_hooks=[(name, replaced)])
        return logits[:, -1].softmax(-1)[:, token(llama, " yes")]

    _, cache = llama.run_with_cache(tokens, names_filter=name)
    h = cache[name][:, -1]
    oracle = captum.attr.IntegratedGradients(probability)
    expected = oracle.attribute(h, baselines=torch.zeros_like(h), n_steps=30)[0]
    assert (scores.scores[0, 1] - expected).norm() < 1e-4 * expected.norm()


def test_questions_and_completions_together_are_each_what_they_are_alone(llama, questions):
    together = kb.attribute(llama, [*questions[:2], YES], progress=False)
    spelling = together.settings.spelling
    asked = kb.attribute(llama, questions[:2], spelling=spelling, progress=False)
    alone = kb.attribute(llama, [YES], progress=False)
    assert torch.equal(together.scores, torch.cat([asked.scores, alone.scores]))
    assert alone.settings.spelling is None
    assert alone.settings.template is None
    assert list(together.by_dimension())[-1] == "facts"
    with pytest.raises(ValueError, match="yes/no questions are needed"):
        _ = together.yes_no_questions


def test_a_difference_is_the_attribution_of_the_gap(llama, tmp_path):
    """P(yes) - P(no) behind one prompt: what the scores sum to says so."""
    yes, no = (kb.attribute(llama, [item], progress=False) for item in (YES, NO))
    gap = yes - no
    assert torch.equal(gap.scores, yes.scores - no.scores)
    probabilities = logits_behind(llama, PROMPT).softmax(-1)
    change = probabilities[token(llama, " yes")] - probabilities[token(llama, " no")]
    assert float(gap.answer_prob) == pytest.approx(float(change), abs=1e-6)
    assert torch.allclose(gap.scores.sum(-1), gap.output_change + gap.completeness_gap, atol=1e-6)
    # The errors are norms, so that of the difference is at most their sum.
    bound = yes.error * yes.scores.norm(dim=-1) + no.error * no.scores.norm(dim=-1)
    assert torch.allclose(gap.error * gap.scores.norm(dim=-1), bound)
    gap.save(tmp_path / "gap.safetensors")
    read = kb.Attributions.load(tmp_path / "gap.safetensors")
    assert read.minus == (NO,)
    assert torch.equal(read.scores, gap.scores)
    assert read.subset([0]).minus == (NO,)
    assert kb.select_neurons(read).origin == "1 prompts on facts, less as many others"
    assert "difference" in str(kb.figures.attribution_heatmap(read).to_dict())


def test_what_cannot_be_subtracted(llama):
    yes = kb.attribute(llama, [YES], progress=False)
    with pytest.raises(ValueError, match="site is 'post' and 'pre'"):
        yes - kb.attribute(llama, [NO], site="pre", progress=False)
    with pytest.raises(ValueError, match="the same number of rows"):
        yes - kb.attribute(llama, [YES, NO], progress=False)
    with pytest.raises(ValueError, match="already a difference"):
        (yes - yes) - yes
    assert (yes - yes).error.isnan().all()


def test_the_same_call_goes_on_and_another_target_does_not(llama, tmp_path, monkeypatch):
    first = kb.attribute(llama, [YES, NO], cache_dir=tmp_path, progress=False)
    again = kb.attribute(llama, [YES, NO], cache_dir=tmp_path, progress=False)
    assert torch.equal(first.scores, again.scores)
    assert len(list(tmp_path.rglob("*.safetensors"))) == 2
    assert not torch.equal(first.scores[0], first.scores[1])


def test_a_target_that_the_model_would_write_with_a_space(llama):
    """``was`` + ``yes`` is a token that nobody means, unless the model expects it there."""
    likelier = max(
        ("yes", " yes"), key=lambda word: logits_behind(llama, PROMPT)[token(llama, word)]
    )
    other = "yes" if likelier == " yes" else " yes"
    kb.attribute(llama, [kb.Completion(PROMPT, likelier)], progress=False)
    if other == "yes":
        with pytest.raises(ValueError, match="Write the space before it"):
            kb.attribute(llama, [kb.Completion(PROMPT, other)], progress=False)


@pytest.mark.parametrize(
    ("completion", "reason"),
    [
        (kb.Completion(PROMPT, " the schoolgirl of the city"), "not one token.*first tokens"),
        (kb.Completion(f"{PROMPT} ", "yes"), "Remove the space at the prompt's end and put it"),
        (kb.Completion(f"{PROMPT} ", " yes"), r"Remove the space at the prompt's end\."),
        (kb.Completion(PROMPT, " yes", foil=" tall of the people"), "the foil .* not one token"),
        (kb.Completion("word" + " word" * 400, " yes"), "context is 256"),
    ],
)
def test_what_would_be_measured_as_something_else_is_refused(llama, completion, reason):
    with pytest.raises(ValueError, match=reason):
        kb.attribute(llama, [completion], progress=False)


def test_what_only_questions_have_is_refused(llama, questions):
    spelling = kb.attribute(llama, questions[:1], progress=False).settings.spelling
    for option in ({"template": kb.PromptTemplate()}, {"spelling": spelling}):
        with pytest.raises(ValueError, match=f"{next(iter(option))} is for questions"):
            kb.attribute(llama, [YES], progress=False, **option)
    with pytest.raises(ValueError, match="has no foil"):
        kb.attribute(llama, [YES], objective="logit_difference", progress=False)
    with pytest.raises(ValueError, match="is given 2 times"):
        kb.attribute(llama, [YES, YES], progress=False)
    with pytest.raises(ValueError, match="answer_style is for questions"):
        kb.attribute(llama, [YES], progress=False, answer_style="release")
    other = replace(GAP, foil=" Yes")  # the same measurement where foils are not read
    with pytest.raises(ValueError, match="is given 2 times"):
        kb.attribute(llama, [GAP, other], progress=False)
    both = kb.attribute(llama, [GAP, other], objective="logit_difference", progress=False)
    assert both.answer_prob[0] != both.answer_prob[1]
    with pytest.raises(ValueError, match="there are no questions"):
        kb.attribute(llama, [], progress=False)


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"prompt": ""}, "prompt must be a text"),
        ({"target": ""}, "target must be a text"),
        ({"foil": ""}, "foil must be a text"),
        ({"foil": " yes"}, "both ' yes'"),
        ({"dimension": "a/b"}, "dimension"),
    ],
)
def test_a_completion_that_is_none(fields, reason):
    with pytest.raises(ValueError, match=reason):
        replace(YES, **fields)


def test_files_keep_the_spaces_of_targets(tmp_path):
    wanted = [
        kb.Completion("Paris lies in", " France", " Spain", dimension="facts", kind="capital"),
        kb.Completion('She said, "I', " am"),
    ]
    table = tmp_path / "facts.csv"
    table.write_text(
        "id, prompt ,target,foil,dimension,kind\n"
        '1,Paris lies in, France, Spain,facts,capital\n2,"She said, ""I", am,,,\n'
    )
    lines = tmp_path / "facts.jsonl"
    lines.write_text(
        "\n".join(json.dumps({k: v for k, v in vars(item).items() if v}) for item in wanted)
    )
    assert kb.load_completions(table) == wanted
    assert kb.load_completions(lines) == wanted
    lines.write_text(json.dumps({"prompt": "She said", "target": ' "Hello"'}))
    assert kb.load_completions(lines) == [kb.Completion("She said", ' "Hello"')]
    table.write_text("prompt,target,foil,kind\nParis lies in, France, ,  \n")
    assert kb.load_completions(table) == [kb.Completion("Paris lies in", " France")]
    with pytest.raises(ValueError, match=r"kb\.load_completions"):
        kb.load_questions(path=table)


@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        ("a.csv", "prompt,answer\nx,y\n", "row 2, column 'target': got None"),
        ("a.csv", "prompt,target\n", "has no completions"),
        ("a.csv", "prompt,target\nx\n", "row 2: 1 cells under 2"),
        ("a.csv", "prompt,target,foil\nx,y,y\n", "row 2: target and foil are both"),
        ("a.csv", 'prompt, target\nx, " y"\n', "row 2, column 'target': .*follow the comma"),
        ("a.jsonl", '{"prompt": "x"}\n', "row 1, column 'target'"),
        ("a.jsonl", '{"prompt": "x", "target": 3}\n', "row 1, column 'target': got 3"),
        ("a.jsonl", "[1]\n", "row 1, column 'prompt'"),
        ("a.jsonl", "{\n", "row 1 is not JSON"),
    ],
)
def test_a_file_that_is_none_is_refused_by_row(tmp_path, name, text, reason):
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(ValueError, match=f"^'{re.escape(str(path))}'.*{reason}"):
        kb.load_completions(path)
