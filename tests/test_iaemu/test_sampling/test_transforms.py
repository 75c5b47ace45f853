"""Bounds: the inverse, the log-Jacobian against autograd, and the edges."""

import math

import pytest
import torch

from iaemu.sampling import Transform

BOUNDS = {
    "two": ([-1.0, 10.0, 0.1], [2.0, 11.0, 0.3]),
    "mixed": ([-1.0, None, -3.0, None], [2.0, None, None, 1e3]),
    "none": (None, [math.inf, math.inf]),
    "lower": ([0.0, 5.0], None),
}


@pytest.fixture(params=BOUNDS)
def transform(request):
    return Transform.from_bounds(*BOUNDS[request.param])


def points_of(transform, scale=3.0, n=50):
    generator = torch.Generator().manual_seed(3)
    return scale * torch.randn(n, transform.dimension, generator=generator, dtype=torch.float64)


def test_inverse(transform):
    points = points_of(transform)
    physical = transform.forward(points)
    assert bool(((physical > transform.low) & (physical < transform.high)).all())
    torch.testing.assert_close(transform.inverse(physical), points, rtol=1e-7, atol=1e-7)


def test_slopes_against_autograd(transform):
    for point in points_of(transform, n=5):
        jacobian = torch.autograd.functional.jacobian(lambda u: transform.forward(u[None])[0], point)
        physical, slope, _, curvature = transform.forward_and_slopes(point[None])
        assert torch.equal(physical[0], transform.forward(point[None])[0])
        torch.testing.assert_close(
            torch.linalg.slogdet(jacobian)[1], transform.log_jacobian(point[None])[0], rtol=1e-10, atol=1e-10
        )
        if slope is None:
            assert torch.equal(jacobian, torch.eye(len(point), dtype=torch.float64))
            continue
        torch.testing.assert_close(jacobian, torch.diag(slope[0]), rtol=1e-9, atol=1e-12)
        gradient = torch.autograd.functional.jacobian(lambda u: transform.log_jacobian(u[None])[0], point)
        torch.testing.assert_close(curvature[0], gradient, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("far", [40.0, 700.0])
def test_stable_near_the_edges(far):
    transform = Transform.from_bounds([0.1], [0.3])
    points = torch.tensor([[-far], [far]], dtype=torch.float64)
    physical, slope, log_jacobian, curvature = transform.forward_and_slopes(points)
    # 0.1 + (0.3 - 0.1) is not 0.3 in floating point, and must not be beyond it.
    assert bool((physical >= 0.1).all()) and bool((physical <= 0.3).all())
    torch.testing.assert_close(log_jacobian, torch.full((2,), math.log(0.3 - 0.1) - far, dtype=torch.float64))
    assert bool((slope > 0).all())
    torch.testing.assert_close(curvature, torch.tensor([[1.0], [-1.0]], dtype=torch.float64))


def test_a_start_on_a_bound_is_moved_inside():
    transform = Transform.from_bounds([0.0, 0.0, -math.inf], [1.0, math.inf, 2.0])
    points = transform.inverse(torch.tensor([[0.0, 0.0, 2.0], [1.0, 1.0, 1.0]], dtype=torch.float64))
    assert bool(torch.isfinite(points).all())
    physical = transform.forward(points)
    assert bool(((physical > transform.low) & (physical < transform.high)).all())


def test_errors_name_the_parameter_and_the_value():
    transform = Transform.from_bounds([0.0, 0.0], [1.0, 2.0])
    with pytest.raises(ValueError, match=r"Parameter 1 is 2.5, outside its bounds \[0, 2\]"):
        transform.inverse(torch.tensor([[0.5, 2.5]], dtype=torch.float64))
    with pytest.raises(ValueError, match=r"parameter 1, 3\.0, is not below its upper bound, 2\.0"):
        Transform.from_bounds([0.0, 3.0], [1.0, 2.0])
    with pytest.raises(ValueError, match="for 2 parameters, but the density has 3"):
        Transform.from_bounds([0.0, 0.0], [1.0, 2.0], dimension=3)
    with pytest.raises(ValueError, match="low must be one number"):
        Transform.from_bounds([math.nan], [1.0])
