"""Neurons of another model are refused before anything is lost."""

from pathlib import Path

import pytest
from tiny_models import tiny_hf_model, tiny_tokenizer

from kb_lens.runs.evaluate import EvaluateSettings, evaluate_model
from kb_lens.runs.execution import EvaluateExecution
from kb_lens.runs.neurons import NeuronsExecution, NeuronsSettings, read_neurons


@pytest.fixture
def checkpoint(tmp_path):
    folder = tmp_path / "model"
    tiny_hf_model().save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


def test_names_that_the_model_does_not_have_do_not_empty_the_folder(checkpoint, tmp_path):
    out = tmp_path / "out"
    options = {"model": str(checkpoint), "benchmarks": ("stereoset@4",)}
    evaluate_model(out, EvaluateSettings(**options), EvaluateExecution(progress=False))
    before = (out / "results.json").read_bytes()
    replacing = EvaluateExecution(progress=False, overwrite=True)
    with pytest.raises(ValueError, match="is out of range"):
        evaluate_model(out, EvaluateSettings(**options, neurons=Path("L9.N0"), lam=2.0), replacing)
    with pytest.raises(ValueError, match="is out of range"):
        read_neurons(
            out,
            NeuronsSettings(model=str(checkpoint), neurons=Path("L9.N0")),
            NeuronsExecution(progress=False, overwrite=True),
        )
    assert (out / "results.json").read_bytes() == before
