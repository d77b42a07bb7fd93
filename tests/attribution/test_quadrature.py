"""The rules integrate what they should, and the adaptive one finds the error by itself."""

import math

import numpy as np
import pytest
import torch

from kb_lens.attribution.quadrature import MAX_NODES, adaptive, fixed, gauss, kronrod


class Line:
    """A path whose objective in layer l is f_l(gamma), spread over two neurons 3:1."""

    def __init__(self, *functions):
        self._functions = functions
        self.activations = torch.ones(len(functions), 2)
        self.value = float(functions[0][0](1.0))
        self.calls = []

    def __call__(self, nodes):
        self.calls.append([len(steps) for steps in nodes])
        pairs = list(zip([steps.tolist() for steps in nodes], self._functions, strict=True))
        values = [torch.tensor([f(g) for g in steps]) for steps, (f, _) in pairs]
        slopes = [torch.tensor([slope(g) for g in steps]) for steps, (_, slope) in pairs]
        return values, [s[:, None] * torch.tensor([[0.75, 0.25]]) for s in slopes]


def smooth(g):
    return math.sin(3 * g) / math.sin(3)


def smooth_slope(g):
    return 3 * math.cos(3 * g) / math.sin(3)


def steep(g):
    return math.tanh(200 * g)


def steep_slope(g):
    return 200 / math.cosh(200 * g) ** 2 if g < 1 else 0.0


@pytest.mark.parametrize("n", [1, 2, 3, 5, 7, 10])
def test_kronrod_is_exact_to_its_degree(n):
    nodes, weights, coarse = kronrod(n)
    assert len(nodes) == 2 * n + 1
    assert (weights > 0).all()
    for power in range(3 * n + 2):
        assert (weights * nodes**power).sum() == pytest.approx(1 / (power + 1), abs=1e-13)
    for power in range(2 * n):
        assert (coarse * nodes**power).sum() == pytest.approx(1 / (power + 1), abs=1e-13)


def test_kronrod_against_the_published_7_15_pair():
    nodes, weights, _ = kronrod(7)
    assert 2 * nodes[-1] - 1 == pytest.approx(0.991455371120812639206854697526329, abs=1e-14)
    assert 2 * weights[-1] == pytest.approx(0.022935322010529224963732008058970, abs=1e-14)


def test_riemann_is_the_plain_mean_of_a_grid_with_both_ends():
    result = fixed(Line((smooth, smooth_slope)), "riemann", 20)
    expected = np.mean([smooth_slope(g) for g in np.linspace(0, 1, 20)])
    assert float(result.gradients.sum()) == pytest.approx(expected, rel=1e-5)
    assert result.error.isnan().all()


def test_gauss_legendre_nodes_are_on_the_unit_interval():
    nodes, weights = gauss(4)
    assert 0 < nodes.min() < nodes.max() < 1
    assert weights.sum() == pytest.approx(1)


def test_adaptive_spends_nodes_where_the_integrand_is_steep():
    line = Line((steep, steep_slope), (smooth, smooth_slope), (steep, steep_slope))
    result = adaptive(line, 1e-4)
    assert result.nodes[1] == 9
    assert result.nodes[0] > 9
    assert result.nodes[2] > 9
    assert torch.allclose(result.gradients.sum(1), torch.ones(3), rtol=1e-4)
    assert (result.error <= 1e-4).all()
    assert torch.equal(result.at_zero, torch.zeros(3))
    assert sum(counts[1] for counts in line.calls) == 10, "the smooth layer once, and for 0"


@pytest.mark.parametrize("tol", [1e-2, 1e-3, 1e-5])
def test_the_error_is_below_the_tolerance(tol):
    result = adaptive(Line((steep, steep_slope)), tol)
    assert abs(float(result.gradients.sum()) - 1) <= tol


def test_a_layer_without_influence_costs_one_pass():
    result = adaptive(Line((lambda g: 0.0, lambda g: 0.0)), 1e-3)
    assert result.nodes.tolist() == [81]
    assert result.error.tolist() == [0]


def test_what_cannot_be_reached_is_reported():
    noise = np.random.default_rng(0)
    result = adaptive(Line((smooth, lambda g: float(noise.normal()))), 1e-6)
    assert float(result.error[0]) > 1e-6
    assert result.nodes[0] < 3 * MAX_NODES, "it stops"
