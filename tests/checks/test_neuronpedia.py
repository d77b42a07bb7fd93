"""What is written for Neuronpedia is what its upload takes."""

import json
from typing import Annotated

import pytest
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, model_validator

import kb_lens as kb
from kb_lens.checks.neuron_meaning import promoted_tokens, top_prompts

TEXTS = ["The nurse said that she was tired.", "A longer text, about engineers.", "No one came."]
NAMES = ["L0.N3", "L2.N5", (2, 47)]
OPTIONS = {"model_id": "tiny-llama", "source_set": "know-bias", "progress": False}


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


Text = Annotated[str, Field(min_length=1)]


class Logit(Strict):
    token: Text
    value: float


class Activation(Strict):
    tokens: Annotated[list[Text], Field(min_length=1, max_length=1024)]
    values: Annotated[list[float], Field(min_length=1, max_length=1024)]

    @model_validator(mode="after")
    def same_length(self):
        assert len(self.tokens) == len(self.values)
        return self


class Feature(Strict):
    index: Annotated[int, Field(ge=0, le=10_000_000)]
    topLogits: Annotated[list[Logit], Field(max_length=20)]
    bottomLogits: Annotated[list[Logit], Field(max_length=20)]
    activations: Annotated[list[Activation], Field(min_length=1)]


class Batch(Strict):
    """``uploadBatchSchema`` of Neuronpedia's ``api/feature/upload-batch/route.tsx``."""

    modelId: Annotated[str, Field(pattern=r"^[^A-Z]+$")]
    source: Annotated[str, Field(pattern=r"^\d+-[^A-Z]+$")]
    features: Annotated[list[Feature], Field(min_length=1, max_length=128)]


def read(path):
    return TypeAdapter(Batch).validate_json(path.read_bytes())


@pytest.mark.parametrize("site", ["post", "pre"])
def test_the_files_are_what_the_upload_takes(model, site, tmp_path):
    neurons = kb.NeuronSet.of(model, NAMES, site)
    files = kb.export_neuronpedia(model, neurons, TEXTS, tmp_path / "new", k=2, **OPTIONS)
    assert [file.name for file in files] == [
        "0-know-bias-batch-0.json",
        "2-know-bias-batch-0.json",
    ]
    first, second = map(read, files)
    assert (first.modelId, first.source, second.source) == (
        "tiny-llama", "0-know-bias", "2-know-bias"
    )  # fmt: skip
    assert [feature.index for feature in first.features] == [3]
    assert [feature.index for feature in second.features] == [5, 47]
    peaks = top_prompts(model, neurons, TEXTS, 2, progress=False)
    logits = promoted_tokens(model, neurons)
    for layer, batch in ((0, first), (2, second)):
        for feature in batch.features:
            of_neuron = f"layer == {layer} and index == {feature.index}"
            best = peaks.query(f"{of_neuron} and side == 'largest'")["activation"]
            values = [max(text.values) for text in feature.activations]
            assert values == pytest.approx(best.tolist(), abs=1e-6)
            named = {"promotes": feature.topLogits, "suppresses": feature.bottomLogits}
            for side, pairs in named.items():
                expected = logits.query(f"{of_neuron} and side == '{side}'")["logit"].tolist()
                assert [logit.value for logit in pairs] == expected


def test_tokens_are_as_they_are_written(llama, tmp_path):
    text = 'He said: "It\'s\ntime", and left.'
    (file,) = kb.export_neuronpedia(llama, "L0.N3", text, tmp_path, **OPTIONS)
    (activation,) = read(file).features[0].activations
    table = kb.activations(llama, "L0.N3", text, progress=False)
    assert activation.values == table["activation"].tolist()[1:]
    assert text.endswith("".join(activation.tokens))
    assert "\n" in "".join(activation.tokens)


def test_a_batch_has_no_more_neurons_than_are_taken(llama, tmp_path, monkeypatch):
    monkeypatch.setattr("kb_lens.checks.neuronpedia._BATCH", 2)
    names = [(1, index) for index in range(5)]
    files = kb.export_neuronpedia(llama, names, TEXTS, tmp_path, **OPTIONS)
    batches = [[feature.index for feature in read(file).features] for file in files]
    assert batches == [[0, 1], [2, 3], [4]]
    assert files[2].name == "1-know-bias-batch-2.json"


def test_a_text_of_one_token_is_left_out(llama, tmp_path):
    (file,) = kb.export_neuronpedia(llama, "L0.N3", ["a", TEXTS[0]], tmp_path, **OPTIONS)
    assert len(json.loads(file.read_text())["features"][0]["activations"]) == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_id": "Tiny"}, "model_id is 'Tiny'"),
        ({"source_set": "a/b"}, "source_set is 'a/b'"),
        ({"source_set": ""}, "source_set is ''"),
        ({"k": 0}, "k is 0"),
        ({"texts": []}, "texts is empty"),
        ({"texts": "a"}, "the longest has 1"),
        ({"neurons": "L9.N1"}, "is out of range"),
    ],
)
def test_mistakes(llama, tmp_path, change, message):
    call = {"neurons": "L0.N3", "texts": TEXTS, "folder": tmp_path / "out", **OPTIONS, **change}
    with pytest.raises(ValueError, match=message):
        kb.export_neuronpedia(llama, **call)
    assert not (tmp_path / "out").exists()
