"""The simulation of docs/statistics.md, a part of it: how often intervals contain the truth."""

import importlib
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"
if not EXAMPLES.is_dir():
    pytest.skip("examples are not part of an installed package", allow_module_level=True)
sys.path.insert(0, str(EXAMPLES))
coverage = importlib.import_module("coverage_of_intervals")

REPEATS = 150
# three standard errors of a coverage of 92 % in 150 repetitions
SLACK = 6.6


def simulated(scene):
    table = coverage.coverage(scene, REPEATS, 400, seed=1)
    return table.set_index(["metric", "quantity", "interval"])["coverage"]


@pytest.mark.slow
@pytest.mark.parametrize("base", [50.0, 52.0, 55.0, 60.0])
def test_intervals_of_independent_items_cover(base):
    found = simulated(coverage.Scene(base, 50.0, 200, 0)).xs("kb_lens", level="interval")
    assert found.min() >= 92 - SLACK
    assert found.max() <= 100


@pytest.mark.slow
@pytest.mark.parametrize("base", [50.0, 60.0])
def test_intervals_of_50_clusters_cover(base):
    found = simulated(coverage.Scene(base, 50.0, 600, 50)).xs("kb_lens", level="interval")
    assert found.min() >= 89 - SLACK


@pytest.mark.slow
def test_plain_percentiles_do_not_cover_at_the_corner():
    """What the pieces are there for; else the two tests above would prove little."""
    found = simulated(coverage.Scene(50.0, 50.0, 200, 0))
    assert found["icat", "value", "percentile"] < 80
    assert found["icat", "value", "kb_lens"] > 90
