"""A pass that memory does not hold is done again by half, and gives the same."""

import numpy as np
import pytest
import torch

import kb_lens as kb
from kb_lens.attribution import attribute
from kb_lens.cli.errors import in_words
from kb_lens.evaluation import generation
from kb_lens.models import loading
from kb_lens.passes import plain_scores
from kb_lens.passes.out_of_memory import tried
from kb_lens.passes.plain_scores import Text
from kb_lens.passes.token_trees import TreeScorer


def full(*arguments):
    raise torch.OutOfMemoryError("CUDA out of memory.")


def held(work, size, most):
    """`work`, in a memory that holds so many."""

    def limited(*arguments):
        return work(*arguments) if size(*arguments) <= most else full()

    return limited


def test_what_cannot_be_halved_is_the_error():
    with pytest.warns(UserWarning, match="memory ran out with 5 rows: 2 from here on"):
        assert tried(full, 5, "rows") is None
    with pytest.raises(torch.OutOfMemoryError):
        tried(full, 1, "rows")
    assert tried(lambda: "done", 1, "rows") == "done"


def test_attribution_halves_its_rows_and_stays_there(model, questions, monkeypatch):
    options = {"rule": "riemann", "n_steps": 16, "progress": False}
    reference = kb.attribute(model, questions, **options)
    work = held(attribute.attribute_question, lambda *given: given[-1], 8)
    monkeypatch.setattr(attribute, "attribute_question", work)
    with pytest.warns(UserWarning, match="memory ran out") as warned:
        halved = kb.attribute(model, questions, batch_size=32, **options)
    assert [str(warning.message) for warning in warned] == [
        "memory ran out with 32 rows a pass: 16 from here on.",
        "memory ran out with 16 rows a pass: 8 from here on.",
    ]
    torch.testing.assert_close(halved.scores, reference.scores, rtol=1e-4, atol=1e-8)


def test_scoring_halves_its_batches(model, data_dir, monkeypatch):
    benchmark = kb.load_benchmark("stereoset", limit=12, data_dir=data_dir)
    reference = kb.evaluate(model, benchmark, progress=False)
    work = held(TreeScorer._score, lambda _, batch: len(batch), 2)
    monkeypatch.setattr(TreeScorer, "_score", work)
    with pytest.warns(UserWarning, match="rows of texts a pass"):
        halved = kb.evaluate(model, benchmark, progress=False)
    columns = [column for column in reference.items if column.startswith("logprob")]
    before, after = (result.items[columns].to_numpy() for result in (reference, halved))
    np.testing.assert_allclose(after, before, rtol=1e-4, atol=1e-4)


def test_plain_scoring_halves_its_batches(model, monkeypatch):
    texts = [Text(tuple(range(1, n)), 1) for n in range(4, 20)]
    reference = merged(plain_scores.plain_scores(model, texts, 1000))
    work = held(plain_scores._padded_batch, lambda _, batch: len(batch), 2)
    monkeypatch.setattr(plain_scores, "_padded_batch", work)
    with pytest.warns(UserWarning, match="texts a pass"):
        halved = merged(plain_scores.plain_scores(model, texts, 1000))
    assert list(halved) == list(reference)
    for text in texts:
        torch.testing.assert_close(halved[text], reference[text], rtol=1e-4, atol=1e-4)


def merged(batches):
    return {text: scores for batch in batches for text, scores in batch.items()}


def test_writing_halves_its_batches(model, monkeypatch):
    benchmark = kb.load_benchmark("over_correction", limit=8)
    reference = kb.evaluate(model, benchmark, progress=False)
    work = held(generation._write, lambda _, batch, __: len(batch), 2)
    monkeypatch.setattr(generation, "_write", work)
    with pytest.warns(UserWarning, match="prompts a batch"):
        halved = kb.evaluate(model, benchmark, progress=False)
    assert halved.items["text"].tolist() == reference.items["text"].tolist()


def test_a_model_that_does_not_fit_is_one_line(monkeypatch):
    monkeypatch.setattr(loading, "_load", full)
    with pytest.raises(ValueError, match=r"it does not fit on cpu\. Use dtype=bfloat16"):
        kb.load_model()
    assert "--quantization 4bit" in in_words(torch.OutOfMemoryError("CUDA out of memory."))
