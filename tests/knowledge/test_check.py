"""What the model says is read off right, and the form questions are asked where they apply."""

import numpy as np
import pandas as pd
import pytest
import torch
from answer_tables import BANK, FORMS

import kb_lens as kb
from kb_lens.knowledge.check import check_knowledge
from kb_lens.models.answers import spellings
from kb_lens.models.hooked import fingerprint, model_name


def test_probabilities_are_those_of_single_prompts(model, questions):
    knowledge = check_knowledge(model, questions, batch_size=3, progress=False)
    for (_, row), question in zip(knowledge.table.iterrows(), questions, strict=True):
        tokens = kb.PromptTemplate().tokens(model, question.text)
        alone = model(tokens)[0, -1].softmax(-1)
        assert row["p_yes"] == pytest.approx(float(alone[knowledge.spelling.yes_token]), rel=1e-4)
        assert row["p_no"] == pytest.approx(float(alone[knowledge.spelling.no_token]), rel=1e-4)
        assert row["mass"] >= row["p_yes"] + row["p_no"] - 1e-6


def test_the_spelling_with_the_most_probability_is_taken(llama, questions):
    chosen = check_knowledge(llama, questions, progress=False).spelling
    template = kb.PromptTemplate()
    totals = {}
    for option in spellings(llama.tokenizer, [template.text(llama.tokenizer, questions[0].text)]):
        totals[option] = 0.0
        for question in questions:
            p = llama(template.tokens(llama, question.text))[0, -1].softmax(-1)
            totals[option] += float(p[option.yes_token] + p[option.no_token])
    assert chosen == max(totals, key=totals.__getitem__)
    release = check_knowledge(llama, questions, answer_style="release", progress=False)
    assert (release.spelling.yes, release.spelling.no) == ("yes", "no")


def test_bad_arguments(llama, questions):
    with pytest.raises(ValueError, match="no questions"):
        check_knowledge(llama, [])
    with pytest.raises(ValueError, match="answer_style is 'mine'"):
        check_knowledge(llama, questions, answer_style="mine")
    one_sided = [question for question in FORMS if question.answer == "yes"]
    with pytest.raises(
        ValueError, match=r"of the kind 'causal_rejection' is 'yes'. Each kind need"
    ):
        check_knowledge(llama, questions, forms=one_sided)


def test_questions_of_the_english_bank_bring_the_form_questions(llama):
    for questions in (kb.load_questions(9), kb.load_questions(3, dimension="age")):
        knowledge = check_knowledge(llama, questions, progress=False)
        assert knowledge.forms["text"].tolist() == [question.text for question in FORMS]
        assert knowledge.table["text"].tolist() == [question.text for question in questions]
        assert list(knowledge.forms.columns) == list(knowledge.table.columns)


def test_other_questions_bring_none_unless_they_are_given(llama, questions):
    spanish = kb.load_questions(9, language="es")
    for others in (spanish, questions, [*kb.load_questions(9), questions[0]]):
        knowledge = check_knowledge(llama, others, progress=False)
        assert knowledge.forms is None
        assert "form not checked" in knowledge.verdict()
    assert check_knowledge(llama, BANK[:9], forms=(), progress=False).forms is None
    own = [FORMS[0], FORMS[3]]
    assert own[0].answer != own[1].answer
    knowledge = check_knowledge(llama, spanish, forms=own, progress=False)
    assert knowledge.forms["text"].tolist() == [question.text for question in own]


def test_the_form_questions_change_nothing_of_the_others(llama):
    questions = kb.load_questions(9)
    without = check_knowledge(llama, questions, forms=(), progress=False)
    beside = check_knowledge(llama, questions, progress=False)
    assert beside.spelling == without.spelling
    numbers = ["p_yes", "p_no", "mass"]
    np.testing.assert_allclose(beside.table[numbers], without.table[numbers], rtol=1e-4)
    same = without.table.drop(columns=numbers)
    pd.testing.assert_frame_equal(beside.table.drop(columns=numbers), same)


def test_the_likeliest_next_tokens_are_named(llama, questions):
    knowledge = check_knowledge(llama, questions, progress=False)
    prompts = [kb.PromptTemplate().tokens(llama, question.text) for question in questions]
    mean = torch.stack([llama(tokens)[0, -1].softmax(-1) for tokens in prompts]).mean(0)
    shares, tokens = mean.topk(5)
    assert [text for text, _ in knowledge.next_tokens] == [
        llama.tokenizer.decode([int(token)]) for token in tokens
    ]
    assert [share for _, share in knowledge.next_tokens] == pytest.approx(shares.tolist(), rel=1e-4)


def overflowing(logits, hook):
    """What float16 makes of logits that are too large."""
    return logits * torch.inf


def certain(logits, hook):
    """All of the probability is on one token that is no answer."""
    logits = logits.clone()
    logits[..., 7] = 1e4
    return logits


@pytest.mark.parametrize("hook", [overflowing, certain])
def test_a_model_without_probabilities_cannot_tell(llama, hook):
    with llama.hooks(fwd_hooks=[("unembed.hook_out", hook)]):
        knowledge = check_knowledge(llama, kb.load_questions(9), progress=False)
    verdict = knowledge.verdict()
    assert verdict.startswith("CANNOT TELL. The probability of both answers is zero or not finite")
    assert "are the same" not in verdict
    named = "likeliest next tokens" in verdict
    assert named == (hook is certain)
    assert dict(knowledge.next_tokens) == (
        {llama.tokenizer.decode([7]): pytest.approx(1.0)} if named else {}
    )


def test_a_probability_of_exactly_zero_has_no_gradient(llama, questions):
    options = {"rule": "riemann", "n_steps": 2, "engine": "per-layer", "progress": False}
    with llama.hooks(fwd_hooks=[("unembed.hook_out", certain)]):
        with pytest.raises(ValueError, match=r"is exactly 0 .* objective='log_probability'"):
            kb.attribute(llama, questions[:1], **options)
        scores = kb.attribute(llama, questions[:1], objective="log_probability", **options).scores
    assert scores.isfinite().all()
    assert scores.abs().max() > 0


@pytest.mark.embedded
@pytest.mark.slow
def test_the_embedded_model_does_not_know(embedded):
    few = check_knowledge(embedded, kb.load_questions(9), progress=False)
    assert few.summary().iloc[0]["said_no"] == 100
    assert few.spelling.yes == "Yes"
    assert not few.knows
    assert check_knowledge(embedded, BANK, progress=False).outcome == "DOES NOT KNOW"


def test_last_positions_are_those_of_the_prompts_not_of_the_padding(model, questions):
    """Inside an intervention on last positions a batch gives what single prompts give."""
    neurons = kb.NeuronSet(
        neurons=tuple(kb.Neuron(layer, index) for layer in range(3) for index in range(0, 48, 5)),
        model=model_name(model),
        fingerprint=fingerprint(model),
        site="post",
        n_layers=3,
        d_mlp=48,
    )
    options = {"answer_style": "release", "progress": False}
    plain = check_knowledge(model, questions, **options).table["p_yes"]
    with kb.scale_neurons(model, neurons, lam=30.0, positions="last"):
        alone = check_knowledge(model, questions, batch_size=1, **options).table["p_yes"]
        together = check_knowledge(model, questions, batch_size=4, **options).table["p_yes"]
    np.testing.assert_allclose(together, alone, rtol=1e-3)
    assert (np.abs(alone / plain - 1) > 1e-2).all()
