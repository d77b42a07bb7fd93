"""Selection does what equations 4 and 5 say, and sets behave like sets."""

import dataclasses
import json
import shutil
from itertools import pairwise
from pathlib import Path

import pandas as pd
import pytest
import torch
from huggingface_hub import HfApi
from hypothesis import given
from hypothesis import strategies as st
from tiny_models import tiny_bridge

import kb_lens as kb
from kb_lens.attribution.attributions import Settings
from kb_lens.checks.neuron_effects import neuron_effects
from kb_lens.checks.neuron_meaning import promoted_tokens
from kb_lens.models.answers import Spelling
from kb_lens.neurons.names import neuron_of
from kb_lens.neurons.selection import saliency_counts
from kb_lens.runs.given_neurons import given_neurons

SETTINGS = Settings(
    model="made",
    fingerprint="f",
    site="post",
    rule="adaptive",
    n_steps=None,
    tol=1e-3,
    objective="probability",
    engine="joined",
    spelling=Spelling("Yes", "No", 0, 1),
    template=kb.PromptTemplate(),
    dtype="float32",
)


def made(scores, dimension="gender"):
    """Attributions with these scores, [question, layer, d_mlp]."""
    scores = torch.as_tensor(scores, dtype=torch.float32)
    n, layers, _ = scores.shape
    question = kb.Question(text="Is it?", answer="yes", dimension=dimension)
    zeros = torch.zeros(n, layers)
    return kb.Attributions(
        scores=scores,
        answer_prob=torch.zeros(n),
        output_change=zeros,
        completeness_gap=zeros,
        error=zeros,
        nodes=zeros,
        questions=(question,) * n,
        settings=SETTINGS,
    )


def chosen(*pairs, **changes):
    fields = {"model": "made", "fingerprint": "f", "site": "post", "n_layers": 4, "d_mlp": 8}
    return kb.NeuronSet(neurons=tuple(kb.Neuron(*pair) for pair in pairs), **(fields | changes))


members = st.sets(st.tuples(st.integers(0, 3), st.integers(0, 7)))


def test_both_thresholds_are_strict():
    scores = [[[10.0, 1.0, 1.001, -10.0]]] * 9 + [[[10.0, 0.0, 0.0, 5.0]]]
    attributions = made(scores)
    assert saliency_counts(attributions, 0.1).tolist() == [[10, 0, 9, 1]]
    assert set(kb.select_neurons(attributions, tau=0.1, beta=0.1)) == {(0, 0), (0, 2)}
    assert set(kb.select_neurons(attributions, tau=0.1, beta=0.09)) == {(0, 0), (0, 2), (0, 3)}


def test_beta_is_exact_in_decimals():
    """29 of 100 questions are not more than 29 %, though 0.29 * 100 is 28.999999999999996."""
    scores = torch.zeros(100, 1, 2)
    scores[:, 0, 0] = 1
    scores[:29, 0, 1] = 1
    assert set(kb.select_neurons(made(scores), beta=0.29)) == {(0, 0)}
    assert len(kb.select_neurons(made(scores), beta=0.28)) == 2


def test_the_maximum_is_taken_over_all_layers():
    assert set(kb.select_neurons(made([[[100.0, 0.0], [9.0, 11.0]]]))) == {(0, 0), (1, 1)}


def test_a_question_without_a_positive_score_selects_nothing():
    assert len(kb.select_neurons(made([[[-1.0, -2.0, 0.0]]]), tau=0, beta=0)) == 0


@pytest.mark.parametrize("seed", range(5))
def test_more_of_a_threshold_never_adds_neurons(seed):
    generator = torch.Generator().manual_seed(seed)
    attributions = made(torch.randn(12, 3, 40, generator=generator))
    grid = (0.0, 0.05, 0.1, 0.3, 0.6, 0.9)
    for low, high in pairwise(grid):
        for other in grid:
            loose = kb.select_neurons(attributions, tau=low, beta=other)
            assert set(kb.select_neurons(attributions, tau=high, beta=other)) <= set(loose)
            loose = kb.select_neurons(attributions, tau=other, beta=low)
            assert set(kb.select_neurons(attributions, tau=other, beta=high)) <= set(loose)


@pytest.mark.parametrize("bad", [-0.1, 1.0, 10, float("nan")])
def test_thresholds_out_of_range(bad):
    attributions = made([[[1.0, 2.0]]])
    with pytest.raises(ValueError, match="tau is"):
        kb.select_neurons(attributions, tau=float(bad))
    with pytest.raises(ValueError, match="beta is"):
        kb.select_neurons(attributions, beta=float(bad))


def test_scores_that_are_not_finite():
    with pytest.raises(ValueError, match="not finite"):
        kb.select_neurons(made([[[1.0, float("nan")]]]))


@given(members, members)
def test_the_algebra_is_that_of_sets(a, b):
    first, second = chosen(*a), chosen(*b)
    assert set(first | second) == a | b
    assert set(first & second) == a & b
    assert set(first - second) == a - b
    assert list(first) == sorted(a)
    assert len(first) == len(a)
    assert all(neuron in first for neuron in a)
    assert kb.NeuronSet.union([first, second]) == first | second
    assert kb.NeuronSet.intersection([first, second]) == first & second
    assert {tuple(pair) for pair in first.mask().nonzero().tolist()} == a


@given(st.lists(members, min_size=1, max_size=4), st.integers(1, 4))
def test_at_least_k(sets, k):
    if k > len(sets):
        with pytest.raises(ValueError, match="cannot take"):
            kb.NeuronSet.at_least([chosen(*s) for s in sets], k)
        return
    joined = kb.NeuronSet.at_least([chosen(*s) for s in sets], k)
    everything = set().union(*sets)
    assert set(joined) == {neuron for neuron in everything if sum(neuron in s for s in sets) >= k}


def test_sets_of_different_models_or_sites_do_not_mix():
    with pytest.raises(ValueError, match="another model or site"):
        chosen((0, 0)) | chosen((0, 1), fingerprint="g")
    with pytest.raises(ValueError, match="another model or site"):
        chosen((0, 0)) & chosen((0, 1), site="pre")


def test_neurons_out_of_range():
    with pytest.raises(ValueError, match="has layers 0 to 3 and neurons 0 to 7"):
        chosen((4, 0))


@given(members)
def test_save_and_load(tmp_path_factory, a):
    path = tmp_path_factory.mktemp("sets") / "set.json"
    first = chosen(*a, tau=0.1, beta=0.2, origin="made by hand")
    first.save(path)
    again = kb.NeuronSet.load(path)
    assert dataclasses.asdict(again) == dataclasses.asdict(first)


NO_NEURONS = {
    "": "is not complete JSON",
    "{}": "is not a file of kb_lens neurons: its format is None",
    "[1, 2]": "is not a file of kb_lens neurons",
    '{"format": "kb_lens neurons 1"}': r"neurons: Field required|neurons: Missing",
    "[" * 100_000: "is not complete JSON: recursion limit",
}


@pytest.mark.parametrize(("text", "message"), NO_NEURONS.items(), ids=range(len(NO_NEURONS)))
def test_files_that_are_no_neurons(tmp_path, text, message):
    path = tmp_path / "set.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        kb.NeuronSet.load(path)
    with pytest.raises(ValueError, match="no such neurons file"):
        kb.NeuronSet.load(tmp_path / "none.json")


NO_MEMBERS = {
    "neurons": [
        ([[0, 1.7]], r"neurons\[0\]\[1\]: it should be a valid integer, got 1.7"),
        ([[True, False]], "valid integer, got True"),
        ([[0]], r"neurons\[0\]"),
        ("all", "valid array, got 'all'"),
        ([[0, 10**30]], "is out of range"),
        ([[99, 0]], "is out of range"),
    ],
    "site": [("elsewhere", "'post' or 'pre', got 'elsewhere'")],
    "tau": [(float("inf"), "is not complete JSON"), ("0.1", "valid number"), (7.0, "tau is 7")],
    "d_mlp": [(0, "d_mlp is 0"), (-3, "d_mlp is -3"), (2.5, "valid integer")],
    "n_layers": [(0, "n_layers is 0"), (None, "valid integer, got None")],
    "colour": [("red", "colour")],
}


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [(name, *case) for name, cases in NO_MEMBERS.items() for case in cases],
)
def test_neuron_files_with_something_else_in_a_field(tmp_path, name, value, message):
    path = tmp_path / "set.json"
    chosen((0, 1)).save(path)
    path.write_text(json.dumps(json.loads(path.read_text()) | {name: value}))
    with pytest.raises(ValueError, match=message) as caught:
        kb.NeuronSet.load(path)
    assert str(path) in str(caught.value)


@given(members, st.integers(0, 3))
def test_random_neurons_are_layer_matched_others(a, seed):
    first = chosen(*a)
    random = kb.random_neurons(first, seed=seed)
    count = {layer: len(indices) for layer, indices in first.by_layer().items()}
    assert {layer: len(indices) for layer, indices in random.by_layer().items()} == count
    for layer, indices in random.by_layer().items():
        if count[layer] <= 4:
            assert not set(indices) & set(first.by_layer()[layer])
    assert random == kb.random_neurons(first, seed=seed)


def test_overlap():
    sets = {"a": chosen((0, 0), (0, 1), (1, 2)), "b": chosen((0, 1), (1, 2), (3, 3), (3, 4))}
    row = kb.overlap(sets).iloc[0]
    assert (row["shared"], row["size_a"], row["size_b"]) == (2, 3, 4)
    assert row["jaccard"] == pytest.approx(2 / 5)
    assert row["share_of_a"] == pytest.approx(2 / 3)
    assert row["share_of_b"] == pytest.approx(1 / 2)
    assert kb.overlap({"a": sets["a"]}).empty


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 47)), min_size=1, unique=True))
def test_every_way_to_name_neurons_gives_the_same_set(pairs):
    model = tiny_bridge("llama")
    names = [f"L{layer}.N{index}" for layer, index in pairs]
    expected = kb.NeuronSet.of(model, pairs)
    assert expected.neurons == tuple(sorted(pairs))
    assert expected == kb.NeuronSet.of(model, names) == kb.NeuronSet.of(model, ",".join(names))
    assert expected == kb.NeuronSet.of(model, [n.lower().replace(".", "") for n in names])
    assert [neuron.name for neuron in expected] == [f"L{a}.N{b}" for a, b in sorted(pairs)]


NO_NAMES = {
    "L0": r"'L0' does not name a neuron: write L26\.N1371, or \(26, 1371\)",
    "26.1371": "does not name a neuron",
    "": "no neuron is named",
    "L0.N1, L0.N1": r"L0\.N1 is named twice",
    "L3.N0": "is out of range: tiny-random-llama has layers 0 to 2 and neurons 0 to 47",
    "L0.N48": "is out of range",
}


@pytest.mark.parametrize("text", NO_NAMES)
def test_what_names_no_neuron_is_said(llama, text):
    with pytest.raises(ValueError, match=NO_NAMES[text]):
        kb.NeuronSet.of(llama, text)


@pytest.mark.parametrize("pair", [(0,), (0, 1, 2), (True, 1), (0.0, 1), (0, None)])
def test_what_is_no_pair_is_said(pair):
    with pytest.raises(ValueError, match="is not a neuron: write"):
        neuron_of(pair)


def test_a_named_set_is_of_the_model_and_the_site(llama):
    members = kb.NeuronSet.of(llama, ["L1.N3"], site="pre")
    members.check_model(llama)
    assert (members.site, members.n_layers, members.d_mlp) == ("pre", 3, 48)
    with pytest.raises(ValueError, match="cannot combine"):
        members | kb.NeuronSet.of(llama, ["L1.N4"])


def test_names_stand_for_a_set_wherever_neurons_are_changed(llama, questions):
    names, members = ["L1.N3", (2, 5)], kb.NeuronSet.of(llama, ["L1.N3", (2, 5)])
    tokens = torch.tensor([[3, 5, 7, 11]])
    with kb.scale_neurons(llama, members, lam=0.0):
        expected = llama(tokens)
    with kb.scale_neurons(llama, names, lam=0.0):
        assert torch.equal(llama(tokens), expected)
    folded = kb.fold_neurons(llama, names, lam=0.0)
    assert torch.allclose(folded(tokens).logits, expected, atol=1e-4)
    effects = neuron_effects(llama, names, questions[:1], progress=False)
    assert effects.neurons == members.neurons
    pd.testing.assert_frame_equal(promoted_tokens(llama, names), promoted_tokens(llama, members))


def test_a_set_goes_to_the_hub_and_comes_back(llama, monkeypatch, tmp_path):
    members = kb.NeuronSet.of(llama, ["L1.N3", "L2.N5"])
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr(HfApi, "create_repo", lambda self, name, **k: f"https://hub/{name}")

    def upload(self, *, repo_id, folder_path, ignore_patterns):
        shutil.copytree(folder_path, tmp_path / repo_id)

    monkeypatch.setattr(HfApi, "upload_folder", upload)
    assert members.push_to_hub("me/two") == "https://hub/me/two"
    card = (tmp_path / "me/two/README.md").read_text()
    assert "# 2 MLP neurons of tiny-random-llama" in card
    assert "L1.N3, L2.N5" in card
    assert 'kb.NeuronSet.load("hf://me/two")' in card

    asked = []

    def download(repository, file, revision):
        asked.append(revision)
        return str(tmp_path / repository / file)

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    assert kb.NeuronSet.load("hf://me/two") == members
    assert given_neurons(Path("hf://me/two@v1")) == members
    assert asked == [None, "v1"]


@pytest.mark.parametrize("address", ["hf://", "hf://me", "hf:///two", "hf://me/two@"])
def test_what_is_no_address_is_said(address):
    with pytest.raises(ValueError, match="is not a file of the hub: write hf://USER/NAME"):
        kb.NeuronSet.load(address)


def test_the_hub_s_refusal_is_one_line():
    with pytest.raises(
        ValueError, match=r"cannot get 'neurons\.json' of 'me/none' from the hub"
    ) as e:
        kb.NeuronSet.load("hf://me/none")
    assert "\n" not in str(e.value)


@pytest.mark.parametrize("name", ["", "a b", "../x"])
def test_what_is_no_repository_is_said(llama, name):
    with pytest.raises(ValueError, match="not a repository of the hub"):
        kb.NeuronSet.of(llama, "L0.N1").push_to_hub(name)
