"""An ablation study says what scaling by hand says, neuron by neuron."""

import numpy as np
import pandas as pd
import pytest
import torch

import kb_lens as kb
from kb_lens.models.chat import token_ids

PROMPTS = ["The nurse said that", "The engineer said that", "Paris is"]
NAMES = ["L0.N3", (2, 47), "L2.N5"]


def next_token(model, prompt):
    return model(torch.tensor([token_ids(model.tokenizer, prompt)]))[0, -1].double().log_softmax(-1)


@pytest.fixture(scope="module")
def benchmark():
    return kb.load_benchmark("stereoset", limit=6)


def test_each_row_is_what_scaling_by_hand_gives(llama, benchmark):
    study = kb.ablation_study(
        llama, NAMES, prompts=PROMPTS, benchmark=benchmark, lams=(0.0, 5.0), progress=False
    )
    base = [next_token(llama, prompt) for prompt in PROMPTS]
    before = kb.evaluate(llama, benchmark, progress=False)
    members = {n.name: [n] for n in kb.NeuronSet.of(llama, NAMES)} | {"all 3": NAMES}
    assert [*dict.fromkeys(study.table["neuron"])] == [*members]
    for (name, lam), rows in study.table.groupby(["neuron", "lam"]):
        with kb.scale_neurons(llama, members[name], lam=lam):
            after = [next_token(llama, prompt) for prompt in PROMPTS]
            result = kb.evaluate(llama, benchmark, progress=False)
        kl = [float((b.exp() * (b - a)).sum()) for b, a in zip(base, after, strict=True)]
        values = rows.set_index("measure")["value"]
        assert values["kl"] == pytest.approx(np.mean(kl), abs=1e-9)
        changed = [
            100 * (int(b.argmax()) != int(a.argmax())) for b, a in zip(base, after, strict=True)
        ]
        assert values["top_token_changed"] == pytest.approx(np.mean(changed))
        expected = kb.compare(before, result).set_index("metric")
        for column, theirs in (("value", "difference"), ("low", "low"), ("high", "high")):
            ours = rows.set_index("measure")[column].loc[expected.index]
            pd.testing.assert_series_equal(ours, expected[theirs], check_names=False)
        of_prompts = study.prompts[
            (study.prompts["neuron"] == name) & (study.prompts["lam"] == lam)
        ]
        assert of_prompts["kl"].tolist() == pytest.approx(kl, abs=1e-9)
        assert of_prompts["prompt"].tolist() == PROMPTS
    assert (study.table["low"] <= study.table["high"])[study.table["measure"] == "kl"].all()
    assert {*study.labels} >= {"kl", "top_token_changed", *benchmark.formulas.headline}
    assert study.labels["icat_macro"] == "Change of ICAT, macro, points"
    assert study.labels["ss_macro"] == "Change of SS, macro, points"


def test_a_factor_of_one_changes_nothing(llama, benchmark):
    study = kb.ablation_study(
        llama, NAMES, prompts=PROMPTS, benchmark=benchmark, lams=[1.0], progress=False
    )
    assert study.table["value"].abs().max() == pytest.approx(0, abs=1e-12)


def test_one_neuron_has_no_row_for_all(llama):
    study = kb.ablation_study(llama, "L0.N3", prompts=PROMPTS, progress=False)
    assert {*study.table["neuron"]} == {"L0.N3"}


def test_the_same_call_gives_the_same_table(llama):
    first, second = (
        kb.ablation_study(llama, NAMES, prompts=PROMPTS, progress=False) for _ in range(2)
    )
    pd.testing.assert_frame_equal(first.table, second.table)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "there is nothing to measure"),
        ({"prompts": ["x", "x"]}, "a prompt is given twice"),
        ({"prompts": "The nurse"}, "give a list of texts"),
        ({"prompts": PROMPTS, "lams": (2, 2.0)}, "different factors"),
        ({"prompts": PROMPTS, "lams": [float("nan")]}, "finite"),
        ({"prompts": PROMPTS, "positions": "first"}, "positions"),
        ({"prompts": PROMPTS, "n_bootstrap": 0}, "n_bootstrap"),
        ({"prompts": ["a " * 900]}, "the longest has"),
    ],
)
def test_what_cannot_be_studied_is_said(llama, options, message):
    with pytest.raises(ValueError, match=message):
        kb.ablation_study(llama, NAMES, progress=False, **options)
