"""The rivals of the study ``methods`` that are found in activations: named, applied, kept."""

from dataclasses import replace

import pytest
import torch
from own_banks import write_bank
from tiny_models import tiny_bridge

from kb_lens.interventions.fairsteer import FairSteer
from kb_lens.interventions.projection import Projection
from kb_lens.interventions.scaling import Scaling
from kb_lens.questions import load_questions
from kb_lens.runs.asking import Asking
from kb_lens.studies import baselines as rivals
from kb_lens.studies.also import read_also
from kb_lens.studies.baselines import FAMILIES, baselines
from kb_lens.studies.lab import Lab

TOKENS = torch.tensor([[5, 6, 7, 8]])
NAMES = [
    "steering vector",
    "steering, random direction",
    "projection, SentenceDebias",
    "projection, INLP",
    "FairSteer",
    "CRISPR",
]


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    options = {"rule": "gauss-legendre", "n_steps": 2}
    model = tiny_bridge("llama")
    folder = tmp_path_factory.mktemp("cache")
    bank = write_bank(folder / "bank.csv", load_questions(9))
    patch = pytest.MonkeyPatch()
    # few texts: the plan is the same
    statements, texts = rivals.load_statements(), rivals.load_group_texts()
    patch.setattr(rivals, "load_statements", lambda: statements[::10])
    patch.setattr(rivals, "load_group_texts", lambda: texts[::8])
    yield Lab(
        model,
        asking=Asking(bank=bank, questions=9),
        options=options,
        cache_dir=folder,
        progress=False,
    )
    patch.undo()


@pytest.fixture(scope="module")
def cases(lab):
    return baselines(lab)


@pytest.mark.slow
def test_every_rival_has_its_name_and_changes_the_model(lab, cases):
    assert [case.condition.name for case in cases] == NAMES
    assert [case.labels for case in cases] == [{"method": name} for name in NAMES]
    assert all(name.startswith(FAMILIES) for name in NAMES)
    changes = {case.condition.name: case.condition.change for case in cases}
    assert isinstance(changes["projection, INLP"], Projection)
    assert isinstance(changes["FairSteer"], FairSteer)
    described = [case.condition.describe() for case in cases]
    assert all(described.count(text) == 1 for text in described)
    before = lab.model(TOKENS)
    changes["FairSteer"] = replace(changes["FairSteer"], bias=1e6)  # its probe may see nothing here
    for name, change in changes.items():
        with change.applied(lab.model):
            assert not torch.equal(lab.model(TOKENS), before), name


def test_crispr_removes_ten_neurons(cases):
    crispr = cases[-1]
    assert isinstance(crispr.condition.change, Scaling)
    assert crispr.condition.change.lam == 0
    assert crispr.row() == {"method": "CRISPR", "n_neurons": 10}


def test_what_was_found_is_read_again_and_not_found_anew(lab, cases, monkeypatch):
    for name in ("steering_vector", "sentence_debias", "inlp", "fair_steer"):
        monkeypatch.setattr(rivals, name, lambda *args, name=name, **options: pytest.fail(name))
    again = baselines(lab)
    assert [case.condition.describe() for case in again] == [
        case.condition.describe() for case in cases
    ]


def test_a_further_method_cannot_take_their_names():
    for name in NAMES:
        with pytest.raises(ValueError, match="like one of the study's own"):
            read_also((f"{name}=x",), "methods")
