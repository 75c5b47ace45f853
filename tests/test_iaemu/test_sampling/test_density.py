"""The wrapped density: value and gradient, chunks, what is not finite, and mistakes of the user."""

import math

import pytest
import torch

from iaemu.sampling import Transform
from iaemu.sampling.density import Density

POINTS = torch.linspace(-2.0, 2.0, 60, dtype=torch.float64).reshape(20, 3).cos() * 2.0


def log_density(x):
    return -(x**2).sum(dim=1) + torch.sin(x[:, 0] * x[:, 1])


def density_of(function, bounds=(None, None), chunk=256):
    return Density(function, Transform.from_bounds(*bounds, dimension=3), chunk)


def test_gradient_through_the_transform_against_autograd():
    bounds = ([0.0, None, -1.0], [None, 3.0, 2.0])
    density = density_of(log_density, bounds)
    points = POINTS.clone().requires_grad_()

    def directly(u):
        physical = torch.stack([u[:, 0].exp(), 3.0 - (-u[:, 1]).exp(), -1.0 + 3.0 / (1.0 + (-u[:, 2]).exp())], dim=1)
        fraction = torch.sigmoid(u[:, 2])
        return log_density(physical) + u[:, 0] - u[:, 1] + torch.log(3.0 * fraction * (1.0 - fraction))

    expected = directly(points)
    (gradient,) = torch.autograd.grad(expected.sum(), points)
    found = density(POINTS)
    torch.testing.assert_close(found[0], expected.detach())
    torch.testing.assert_close(found[1], gradient)


def test_chunks_are_the_whole():
    whole, parts = density_of(log_density), density_of(log_density, chunk=7)
    for one, other in zip(whole(POINTS), parts(POINTS), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-14, atol=1e-14)
    assert (whole.n_calls, parts.n_calls) == (1, 3)
    assert whole.n_gradients == parts.n_gradients == 20


def test_what_is_not_finite_is_rejected_and_harms_no_other():
    def patchy(x):
        value = torch.where(x[:, 0] > 0, torch.log(x[:, 0].clamp(min=0.0)), torch.nan) - (x**2).sum(dim=1)
        value = torch.where(x[:, 1] > 1.5, torch.inf, value)
        # Finite itself, with a gradient that is not.
        return value + torch.sqrt((x[:, 2] - float(POINTS[-1, 2])).abs())

    value, gradient = density_of(patchy)(POINTS)
    bad = (POINTS[:, 0] <= 0) | (POINTS[:, 1] > 1.5)
    bad[-1] = True
    assert 0 < int(bad.sum()) < 20
    assert torch.equal(value == -torch.inf, bad)
    assert bool((gradient[bad] == 0).all())
    assert bool(torch.isfinite(gradient).all()) and bool((gradient[~bad] != 0).any(dim=1).all())


def test_works_under_no_grad_and_inference_mode():
    density = density_of(log_density, (0.0, 4.0))
    expected = density(POINTS)
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            found = density(POINTS.clone())
        assert torch.equal(found[0], expected[0]) and torch.equal(found[1], expected[1])
        assert not found[1].is_inference()


def test_wrong_shape_names_both():
    with pytest.raises(
        ValueError, match=r"\(20, 3\) the log-density must return a tensor of shape \(20,\).*got \(20, 1\)"
    ):
        density_of(lambda x: x[:, :1])(POINTS)
    with pytest.raises(ValueError, match="got float"):
        density_of(lambda x: 1.0)(POINTS)


def test_density_without_gradient_is_an_error_unless_all_is_rejected():
    with pytest.raises(ValueError, match="no gradient"):
        density_of(lambda x: log_density(x).detach())(POINTS)
    value, gradient = density_of(lambda x: torch.full((20,), -math.inf, dtype=torch.float64))(POINTS)
    assert bool((value == -torch.inf).all()) and bool((gradient == 0).all())
    with pytest.raises(ValueError, match="chunk must be at least 1"):
        density_of(log_density, chunk=0)
