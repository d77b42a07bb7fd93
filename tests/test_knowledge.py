"""What the model says is read off right, and a model that does not know is told apart."""

import numpy as np
import pandas as pd
import pytest
import torch
from tiny_models import tiny_tokenizer

import kb_lens as kb
from kb_lens.knowledge import Knowledge, _auc, check_knowledge
from kb_lens.models.answers import Spelling, spellings
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
    totals = {}
    for option in spellings(llama.tokenizer):
        totals[option] = 0.0
        for question in questions:
            p = llama(kb.PromptTemplate().tokens(llama, question.text))[0, -1].softmax(-1)
            totals[option] += float(p[option.yes_token] + p[option.no_token])
    assert chosen == max(totals, key=totals.__getitem__)
    release = check_knowledge(llama, questions, answer_style="release", progress=False)
    assert (release.spelling.yes, release.spelling.no) == ("yes", "no")


def _made(p_yes, p_no, answers):
    table = pd.DataFrame({"answer": answers, "p_yes": p_yes, "p_no": p_no, "dimension": "gender"})
    table["mass"] = table["p_yes"] + table["p_no"]
    table["said"] = ["yes" if y > n else "no" for y, n in zip(p_yes, p_no, strict=True)]
    table["right"] = table["said"] == table["answer"]
    return Knowledge("made", Spelling("Yes", "No", 0, 1), table)


def test_always_no_is_not_knowing():
    knowledge = _made([0.1, 0.1, 0.1], [0.5, 0.5, 0.5], ["no", "yes", "yes"])
    total = knowledge.summary().iloc[0]
    assert (total["right"], total["balanced_accuracy"], total["auc"]) == (1, 50, 0.5)
    assert (total["said_no"], total["said_yes"]) == (100, 0)
    assert not knowledge.knows
    assert knowledge.verdict().startswith("DOES NOT KNOW.")
    assert "no debiasing can be expected" in knowledge.verdict()


def test_right_answers_are_knowing_unless_they_have_no_mass():
    assert _made([0.1, 0.8], [0.8, 0.1], ["no", "yes"]).knows
    assert not _made([1e-5, 8e-5], [8e-5, 1e-5], ["no", "yes"]).knows


def test_auc_counts_ordered_pairs_and_halves_ties():
    score = np.array([0.1, 0.4, 0.4, 0.9])
    is_yes = np.array([False, False, True, True])
    assert _auc(score, is_yes) == pytest.approx((1 + 1 + 1 + 0.5) / 4)


def test_save_and_load(tmp_path, llama, questions):
    knowledge = check_knowledge(llama, questions, progress=False)
    knowledge.save(tmp_path / "knowledge.json")
    again = Knowledge.load(tmp_path / "knowledge.json")
    assert again.verdict() == knowledge.verdict()
    pd.testing.assert_frame_equal(again.table, knowledge.table)
    (tmp_path / "knowledge.json").write_text("{}")
    with pytest.raises(ValueError, match="is no knowledge file"):
        Knowledge.load(tmp_path / "knowledge.json")


def test_no_single_token_answer():
    tokenizer = tiny_tokenizer()

    class Split:
        def __call__(self, text, **kwargs):
            return tokenizer(" ".join(text), **kwargs)

    with pytest.raises(ValueError, match="no spelling of yes and no as one token"):
        spellings(Split())


def test_bad_arguments(llama, questions):
    with pytest.raises(ValueError, match="no questions"):
        check_knowledge(llama, [])
    with pytest.raises(ValueError, match="answer_style is 'mine'"):
        check_knowledge(llama, questions, answer_style="mine")


@pytest.mark.embedded
@pytest.mark.slow
def test_the_embedded_model_does_not_know(embedded):
    knowledge = check_knowledge(embedded, kb.load_questions(9), progress=False)
    assert not knowledge.knows
    assert knowledge.summary().iloc[0]["said_no"] == 100
    assert knowledge.spelling.yes == "Yes"
    assert torch.isfinite(torch.tensor(knowledge.table["mass"].to_numpy())).all()


def test_one_answer_throughout_cannot_tell():
    knowledge = _made([0.8, 0.8], [0.1, 0.1], ["yes", "yes"])
    assert not knowledge.knows
    assert knowledge.verdict().startswith("CANNOT BE TOLD.")


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
