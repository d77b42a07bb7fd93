"""A killed command is started again and ends as if nothing had been; `make kills` kills more."""

import random

import pytest
from commands import COMMANDS
from folders import difference, litter
from kills import Tally, table

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    ("name", "seed"),
    [("identify", 0), ("evaluate", 1), ("export", 2), ("tune", 3), ("compare", 4), ("neurons", 5)],
)
def test_nothing_is_lost(shop, name, seed):
    tally = Tally()
    shop.check(name, random.Random(seed), tally)
    assert not tally.faults, table({name: tally})
    assert tally.kills == 1


@pytest.mark.parametrize(
    ("name", "change"), [("export", -3), ("compare", -2), ("overwrite", 20), ("report", -5)]
)
def test_a_kill_before_a_change_that_matters(shop, name, change, tmp_path):
    """Renames at the end, deletions at the beginning: where a clock hardly ever hits."""
    usual, out = shop.undisturbed(name), tmp_path / name
    COMMANDS[name].prepare(shop.root, out)
    at = change if change > 0 else usual.n_changes + change
    assert shop.start(name, out, counted=str(out), killed_at=at).wait() == -9
    shop.finish(COMMANDS[name], out)
    assert not difference(usual.out, out)
    assert not litter(out)
