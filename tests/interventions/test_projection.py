"""Projections: what is removed, by which texts it is found, and that nothing else moves."""

from dataclasses import replace

import pytest
import torch
from planted_directions import TOKENS, planted, residual, unit
from tiny_models import tiny_bridge

from kb_lens.interventions.conditions import Change
from kb_lens.interventions.counterfactuals import load_word_pairs
from kb_lens.interventions.group_texts import TextPair, group_texts, load_group_texts
from kb_lens.interventions.inlp import INLPSettings, classifier_directions, inlp
from kb_lens.interventions.linear_probe import fit_probe
from kb_lens.interventions.projection import Projection, orthonormal
from kb_lens.interventions.residual import last_residuals
from kb_lens.interventions.sentence_debias import SentenceDebiasSettings, sentence_debias
from kb_lens.models.hooked import fingerprint, model_name
from kb_lens.questions import DIMENSIONS

PAIRS = (
    TextPair("gender", "The man is tall.", "The woman is tall."),
    TextPair("gender", "He is good at running.", "She is good at running."),
    TextPair("gender", "The boys are in the city.", "The girls are in the city."),
    TextPair("race", "An Asian chess player.", "An Italian chess player."),
    TextPair("race", "Mexicans are good.", "Canadians are good."),
)
QUIET = {"progress": False}


def made(model, *, layer=1, directions=None, **changes):
    rows = torch.randn(2, 32, generator=torch.Generator().manual_seed(3))
    directions = orthonormal([rows]) if directions is None else directions
    return Projection(directions, layer, model_name(model), fingerprint(model), **changes)


# --- the map ---------------------------------------------------------------------------------


def test_the_map_is_an_orthogonal_projection(model):
    projection = made(model)
    matrix = projection.matrix
    assert isinstance(projection, Change)
    assert torch.allclose(matrix @ matrix, matrix, atol=1e-6)
    assert torch.equal(matrix, matrix.T)
    assert torch.linalg.matrix_rank(matrix) == 30
    assert (matrix @ projection.directions.T).abs().max() < 1e-6


def test_the_directions_are_gone_and_all_else_is_there(model):
    projection = made(model)
    before = residual(model, 1)
    logits = model(TOKENS)
    downstream = []
    read = [("blocks.2.hook_in", lambda h, hook: downstream.append(h.clone()))]
    with projection.applied(model) as same:
        assert same is model
        after = residual(model, 1)
        model.run_with_hooks(TOKENS, fwd_hooks=read)
        assert not torch.allclose(model(TOKENS), logits, atol=1e-2)
    assert (before @ projection.directions.T).abs().max() > 0.1
    assert (after @ projection.directions.T).abs().max() < 1e-5
    assert torch.allclose(after, before @ projection.matrix, atol=1e-5)
    assert torch.equal(downstream[0], after)
    assert torch.equal(model(TOKENS), logits)


def test_nothing_moves_when_the_direction_is_orthogonal(model):
    """The direction is one that the unchanged activations, of rank 8 at most, do not have."""
    activations = residual(model, 1).reshape(-1, 32)
    orthogonal = torch.linalg.svd(activations, full_matrices=True).Vh[-1:]
    before = model(TOKENS)
    with made(model, directions=orthogonal).applied(model):
        assert torch.allclose(model(TOKENS), before, atol=1e-4)


def test_last_changes_the_last_position_alone(model):
    before = residual(model, 1)
    projection = made(model, positions="last")
    with projection.applied(model):
        after = residual(model, 1)
    assert torch.equal(after[:, :-1], before[:, :-1])
    assert (after[:, -1] @ projection.directions.T).abs().max() < 1e-5


def test_another_models_projection_is_refused(model):
    with pytest.raises(ValueError, match="this projection belongs to"):
        made(model).applied(tiny_bridge("llama", seed=9)).__enter__()
    with pytest.raises(ValueError, match="allowed layers are 0 to 2, got 3"):
        made(model, layer=3).applied(model).__enter__()


def test_a_joined_map_removes_all_of_both(model):
    first = torch.randn(2, 32, generator=torch.Generator().manual_seed(1))
    second = torch.cat([first[:1], torch.ones(1, 32)])  # one direction is in both
    joined = orthonormal([first, second])
    assert joined.shape == (3, 32)
    matrix = made(model, directions=joined).matrix
    assert (matrix @ torch.cat([first, second]).T).abs().max() < 1e-4


def test_directions_that_are_none():
    with pytest.raises(ValueError, match="cannot remove 1 directions"):
        orthonormal([torch.zeros(1, 4)])
    for rows in (torch.ones(1, 4), torch.eye(4)[[0, 0]], torch.full((1, 4), float("nan"))):
        with pytest.raises(ValueError, match="not orthonormal"):
            Projection(rows, 0, "m", "f")
    with pytest.raises(ValueError, match="one row or more"):
        Projection(torch.zeros(0, 4), 0, "m", "f")


def test_a_file_gives_back_what_was_saved(model, tmp_path):
    projection = made(model, positions="last", origin="made")
    projection.save(tmp_path / "projection.safetensors")
    loaded = Projection.load(tmp_path / "projection.safetensors")
    assert torch.equal(loaded.directions, projection.directions)
    assert loaded.describe() == projection.describe()
    assert (loaded.model, loaded.fingerprint) == (projection.model, projection.fingerprint)
    other = replace(projection, directions=unit(0, 1))
    assert other.describe() != projection.describe()


# --- the texts -------------------------------------------------------------------------------


def test_the_banks_texts_are_about_one_group_or_mixed():
    pairs = load_group_texts()
    for dimension in DIMENSIONS:
        assert sum(not p.mixed for p in pairs if p.dimension == dimension) >= 30
    assert load_group_texts("race") == tuple(p for p in pairs if p.dimension == "race")
    words = load_word_pairs("gender")
    texts = ["She ran.", "He ran.", "They ran.", "He saw a woman."]
    assert group_texts(texts, words) == (
        TextPair("gender", "He ran.", "She ran."),
        TextPair("gender", "He saw a woman.", "She saw a man.", mixed=True),
    )
    with pytest.raises(ValueError, match="give words of one"):
        group_texts(texts, load_word_pairs())


# --- SentenceDebias --------------------------------------------------------------------------


def test_the_component_is_where_the_pairs_differ_most(model):
    """Against the principal components of the centered representations, by the definition."""
    found = sentence_debias(model, PAIRS[:3], **QUIET)
    representations = [
        torch.stack([last_residuals(model, [2], text)[0] for text in (pair.first, pair.second)])
        for pair in PAIRS[:3]
    ]
    centered = torch.cat([rows - rows.mean(0) for rows in representations])
    variance, components = torch.linalg.eigh(centered.T @ centered)
    assert variance[-1] > 1.01 * variance[-2]
    assert abs(float(found.directions[0] @ components[:, -1])) == pytest.approx(1, abs=1e-4)
    assert (found.layer, len(found.directions), found.positions) == (2, 1, "all")


def test_dimensions_are_joined(model):
    settings = SentenceDebiasSettings(n_components=2, layer=1)
    both = sentence_debias(model, PAIRS, settings=settings, **QUIET)
    assert (both.layer, len(both.directions)) == (1, 4)
    for dimension in ("gender", "race"):
        pairs = [pair for pair in PAIRS if pair.dimension == dimension]
        alone = sentence_debias(model, pairs, settings=settings, **QUIET)
        assert (both.matrix @ alone.directions.T).abs().max() < 1e-4
    assert "5 pairs on gender, race" in both.origin


def test_what_sentence_debias_refuses(model):
    with pytest.raises(ValueError, match="got no pairs"):
        sentence_debias(model, (), **QUIET)
    with pytest.raises(ValueError, match=r"n_components is 3, but the texts on race differ in 2"):
        sentence_debias(model, PAIRS, settings=SentenceDebiasSettings(3), **QUIET)
    with pytest.raises(ValueError, match="allowed layers are 0 to 2, got 7"):
        sentence_debias(model, PAIRS, settings=SentenceDebiasSettings(layer=7), **QUIET)
    with pytest.raises(ValueError, match="n_components is 0"):
        SentenceDebiasSettings(0)


# --- INLP ------------------------------------------------------------------------------------


def test_a_probe_is_at_chance_on_what_inlp_leaves():
    rows, labels = planted()
    assert fit_probe(rows, labels).accuracy(rows, labels) > 0.9
    directions = classifier_directions(rows, labels, n_iterations=8)
    left = rows - (rows @ directions.T) @ directions
    assert fit_probe(left, labels).accuracy(left, labels) < 0.56
    # the first direction is the planted one, and one direction was enough for most of it
    one = classifier_directions(rows, labels, n_iterations=1)
    assert abs(float(one[0, 0])) > 0.95
    left = rows - (rows @ one.T) @ one
    assert fit_probe(left, labels).accuracy(left, labels) < 0.62


def test_each_classifier_finds_what_the_earlier_ones_left():
    rows, labels = planted()
    rows[:, 3] += 2.0 * labels
    rows[:, 3] += rows[:, 0]  # the two carriers are correlated
    few, more = (classifier_directions(rows, labels, n) for n in (1, 3))
    assert torch.allclose(more @ more.T, torch.eye(3), atol=1e-5)
    assert (few - (few @ more.T) @ more).abs().max() < 1e-4


def test_inlp_stops_where_nothing_is_left():
    rows = torch.ones(6, 4)
    labels = torch.tensor([True, False] * 3)
    assert classifier_directions(rows, labels, 3).shape == (0, 4)


def test_inlp_removes_what_its_classifiers_read(model):
    found = inlp(model, PAIRS, settings=INLPSettings(n_iterations=1, layer=1), **QUIET)
    assert found.origin.startswith("INLP, 5 pairs, directions 1 on gender, 1 on race")
    texts = [t for pair in PAIRS[:3] for t in (pair.first, pair.second)]
    rows = torch.cat([last_residuals(model, [1], text) for text in texts])
    classifier = classifier_directions(rows, torch.tensor([True, False] * 3), 1)
    assert (rows @ classifier.T).abs().max() > 0.1
    with found.applied(model):
        inside = torch.cat([last_residuals(model, [1], text) for text in texts])
    assert (inside @ classifier.T).abs().max() < 1e-4


def test_mixed_pairs_are_no_examples_of_a_group(model):
    mixed = TextPair("gender", "He saw a woman.", "She saw a man.", mixed=True)
    settings = INLPSettings(2)
    with_it = inlp(model, (*PAIRS, mixed), settings=settings, **QUIET)
    assert torch.equal(
        with_it.directions, inlp(model, PAIRS, settings=settings, **QUIET).directions
    )
    with pytest.raises(ValueError, match="no pair of texts names one group"):
        inlp(model, [mixed], **QUIET)


def test_a_probe_minimizes_the_penalized_loss():
    rows, labels = planted(n=60)
    probe = fit_probe(rows, labels, penalty=0.5)
    mean, scale = rows.mean(0), (rows - rows.mean(0)).square().mean().sqrt()
    weight = (probe.weight * scale).double().requires_grad_()
    bias = torch.tensor(probe.bias + float(probe.weight @ mean)).double().requires_grad_()
    margins = ((rows - mean) / scale).double() @ weight + bias
    loss = torch.nn.functional.binary_cross_entropy_with_logits(
        margins, labels.double(), reduction="sum"
    )
    (loss + 0.25 * weight.square().sum()).backward()
    assert weight.grad.abs().max() < 1e-2
    assert bias.grad.abs() < 1e-2
    with pytest.raises(ValueError, match="rows of both classes"):
        fit_probe(rows, torch.ones(60, dtype=torch.bool))
    with pytest.raises(ValueError, match="penalty is 0"):
        fit_probe(rows, labels, 0)
