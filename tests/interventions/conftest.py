"""What folding and exporting share: a tiny checkpoint, loaded, and exported once."""

import pytest
from folding_neurons import some_neurons
from tiny_models import tiny_hf_model, tiny_tokenizer

import kb_lens as kb
from kb_lens.interventions.folding import export


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tiny random model as a checkpoint folder."""
    path = tmp_path_factory.mktemp("source") / "tiny"
    tiny_hf_model().save_pretrained(path)
    tiny_tokenizer().save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def bridge(folder):
    return kb.load_model(folder)


@pytest.fixture(scope="module")
def exported(bridge, tmp_path_factory):
    """The tiny model with its neurons times 3, written once."""
    path = tmp_path_factory.mktemp("exported") / "tiny"
    export(bridge, some_neurons(bridge), path, lam=3)
    return path
