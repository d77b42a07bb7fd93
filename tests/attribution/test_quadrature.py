"""The rules integrate what they should, and the adaptive one finds the error by itself."""

import math

import numpy as np
import pytest
import torch

from kb_lens.attribution.quadrature import MAX_NODES, STEEP, WHOLE, _Layer, adaptive, fixed, gauss


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


@pytest.mark.parametrize("power", range(8))
def test_an_interval_is_exact_to_degree_seven(power):
    """And Simpson's rule, which the estimate compares it with, to degree three."""
    layer = _Layer(torch.ones(1), (0.0, 0.3, 1.0))
    for gamma in layer.missing():
        layer.points[gamma] = (gamma ** (power + 1), torch.tensor([(power + 1) * gamma**power]))
    estimate = layer.estimate()
    assert float(estimate.integrals.sum()) == pytest.approx(1, abs=1e-6)
    assert torch.allclose(estimate.gap, torch.zeros(2), atol=1e-6)
    assert (float(estimate.distance.sum()) < 1e-6) == (power <= 3)


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
    assert result.nodes[0] > 2 * result.nodes[1]
    assert result.nodes[2] > 2 * result.nodes[1]
    assert torch.allclose(result.gradients.sum(1), torch.ones(3), rtol=1e-4)
    assert (result.error <= 1e-4).all()
    assert torch.equal(result.at_zero, torch.zeros(3))


@pytest.mark.parametrize("tol", [1e-2, 1e-3, 1e-5])
def test_the_error_is_below_the_tolerance(tol):
    result = adaptive(Line((steep, steep_slope)), tol)
    assert abs(float(result.gradients.sum()) - 1) <= tol


def test_a_layer_without_influence_costs_one_pass():
    result = adaptive(Line((lambda g: 0.0, lambda g: 0.0)), 1e-3)
    assert result.nodes.tolist() == [4 * (len(STEEP) - 1) + 1]
    assert result.error.tolist() == [0]


def test_what_cannot_be_reached_is_reported():
    noise = np.random.default_rng(0)
    result = adaptive(Line((smooth, lambda g: float(noise.normal()))), 1e-6)
    assert float(result.error[0]) > 1e-6
    assert result.nodes[0] < 3 * MAX_NODES, "it stops"


def test_what_one_integral_ended_with_is_a_beginning_for_the_next():
    functions = ((steep, steep_slope), (smooth, smooth_slope))
    first = adaptive(Line(*functions), 1e-4)
    line = Line(*functions)
    second = adaptive(line, 1e-3, start=first.edges)
    assert len(line.calls) == 1
    assert second.edges == first.edges
    assert torch.allclose(second.gradients, first.gradients)
    assert torch.equal(second.error, first.error)


def test_a_beginning_that_is_too_coarse_costs_passes_and_no_accuracy():
    line = Line((steep, steep_slope))
    result = adaptive(line, 1e-4, start=[WHOLE])
    assert len(line.calls) > 3
    assert float(result.error[0]) <= 1e-4
    assert float(result.gradients.sum()) == pytest.approx(1, rel=1e-4)
