"""Regions of linear inequalities: the inverse, the Jacobian against autograd, limits that shrink, flat densities."""

import math

import numpy as np
import pytest
import torch

from iaemu.sampling import Sampler, Settings, Transform, diagnostics, region, sample

INF = math.inf
#: A cone about a line, cut by a plane; two parameters beside it have one bound and none.
CONE = (
    [0.0, -INF, -INF, 2.0, -INF],
    [4.0, 3.0, INF, INF, INF],
    [[-0.5, 1.0, 0, 0, 0], [-0.5, -1.0, 0, 0, 0], [0, -1.0, 1.0, 0, 0], [-0.3, 0, 0, -1.0, 0], [0, 0, 0, 0, 0]],
    [0.2, 0.1, 0.5, -2.5, 1.0],
)
#: The third coordinate alone would be free where the others leave it no room.
WEDGE = ([0.0, 0.0, 0.4], [1.0, 1.0, 2.0], [[1.0, 1.0, 1.0], [0.0, -1.0, 1.0]], [1.2, 0.3])


def points_of(transform, n=2000, scale=1.3):
    generator = torch.Generator().manual_seed(3)
    return scale * torch.randn(n, transform.dimension, generator=generator, dtype=torch.float64)


def holds(theta, low, high, matrix, limits, slack=1e-12):
    theta = np.asarray(theta)
    box = (theta >= np.array(low) - slack) & (theta <= np.array(high) + slack)
    return box.all(axis=1) & (theta @ np.array(matrix).T <= np.array(limits) + slack).all(axis=1)


@pytest.mark.parametrize("given", [CONE, WEDGE], ids=["cone", "wedge"])
def test_every_point_is_of_the_region_and_has_an_inverse(given):
    transform = region(*given)
    points = points_of(transform)
    theta = transform.forward(points)
    assert holds(theta, *given).all() and bool(transform.contains(theta).all())
    torch.testing.assert_close(transform.inverse(theta), points, rtol=1e-6, atol=1e-6)
    far = transform.forward(30.0 * points)
    assert holds(far, *given, slack=1e-9).all()


@pytest.mark.parametrize("given", [CONE, WEDGE], ids=["cone", "wedge"])
def test_every_point_of_the_region_is_reached(given):
    transform = region(*given)
    rng = np.random.default_rng(1)
    low, high = (np.clip(bound, -6.0, 6.0) for bound in given[:2])
    theta = rng.uniform(low, high, (20000, len(low)))
    inside = holds(theta, *given)
    assert 100 < inside.sum() < 19900
    assert np.array_equal(transform.contains(torch.as_tensor(theta)).numpy(), inside)
    theta = torch.as_tensor(theta[inside])
    torch.testing.assert_close(transform.forward(transform.inverse(theta)), theta, rtol=1e-7, atol=1e-7)
    with pytest.raises(ValueError, match=r"outside its limits \["):
        transform.inverse(torch.full((1, len(low)), -7.0, dtype=torch.float64))


@pytest.mark.parametrize("given", [CONE, WEDGE], ids=["cone", "wedge"])
def test_slopes_against_autograd(given):
    transform = region(*given)
    for point in points_of(transform, n=5):
        jacobian = torch.autograd.functional.jacobian(lambda u: transform.forward(u[None])[0], point)
        _, slope, log_jacobian, curvature = transform.forward_and_slopes(point[None])
        torch.testing.assert_close(slope[0], jacobian, rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(torch.linalg.slogdet(jacobian)[1], log_jacobian[0], rtol=1e-9, atol=1e-9)
        gradient = torch.autograd.functional.jacobian(lambda u: transform.log_jacobian(u[None])[0], point)
        torch.testing.assert_close(curvature[0], gradient, rtol=1e-8, atol=1e-9)


def test_limits_of_a_parameter_shrink_to_where_the_others_have_room():
    transform = region(*WEDGE)
    # x1 comes first: x2 >= 0.4 leaves it at least 0.1 because of x2 - x1 <= 0.3, and at most 0.8 of the sum of 1.2.
    assert transform.low[1] == pytest.approx(0.1) and transform.high[1] == pytest.approx(0.8)
    first = transform.forward(torch.tensor([[0.0, -9.0, 0.0], [0.0, 9.0, 0.0]], dtype=torch.float64))[:, 1]
    assert first.tolist() == pytest.approx([0.1, 0.8])


def test_what_is_a_box_is_the_box():
    for matrix, limits in (
        (np.empty((0, 2)), []),
        ([[1.0, 1.0]], [5.0]),
        ([[2.0, 0.0], [0.0, 0.0], [0.0, -1.0]], [1.0, 0.0, -0.25]),
    ):
        transform = region([0.0, 0.0], [1.0, 1.0], matrix, limits)
        assert type(transform) is Transform
    assert transform.low.tolist() == [0.0, 0.25] and transform.high.tolist() == [0.5, 1.0]


@pytest.mark.parametrize(
    ("matrix", "limits", "message"),
    [
        ([[1.0, 1.0], [-1.0, -1.0]], [0.5, -0.6], "No point satisfies the inequalities"),
        ([[1.0, 0.0]], [-0.5], "the lower bound of parameter 0 would be 0, and its upper bound -0.5"),
        ([[0.0, 0.0]], [-1.0], "No point satisfies"),
    ],
)
def test_no_region_is_an_error(matrix, limits, message):
    with pytest.raises(ValueError, match=message):
        region([0.0, 0.0], [1.0, 1.0], matrix, limits)


def test_a_flat_density_of_a_wedge_without_divergences():
    """Moments of uniform points of the region, and no trajectory that leaves it, as some do within the bounds alone."""
    rng = np.random.default_rng(2)
    known = rng.uniform(WEDGE[0], WEDGE[1], (400_000, 3))
    known = known[holds(known, *WEDGE)]

    def flat(theta):
        left = torch.as_tensor(~holds(theta.detach(), *WEDGE))
        return 0.0 * theta.sum(dim=1) - torch.where(left, torch.inf, 0.0)

    options = dict(start=[0.2, 0.3, 0.5], progress=False)
    result = sample(flat, bounds=region(*WEDGE), n_draws=60, n_warmup=40, **options)
    boxed = sample(flat, bounds=WEDGE[:2], n_draws=10, n_warmup=20, n_chains=8, **options)
    assert result.n_divergences == 0 and boxed.n_divergences > 0
    draws = result.draws.numpy()
    for power in (1, 2):
        error = (draws**power).reshape(-1, 3).std(axis=0) / np.sqrt(diagnostics.ess(draws**power, "mean"))
        assert np.all(np.abs((draws**power).mean(axis=(0, 1)) - (known**power).mean(axis=0)) < 4 * error + 1e-3)
    assert np.corrcoef(draws.reshape(-1, 3).T) == pytest.approx(np.corrcoef(known.T), abs=0.05)


def test_a_state_of_other_bounds_is_refused():
    def normal(theta):
        return -0.5 * theta.square().sum(dim=1)

    settings = Settings(n_chains=4, n_warmup=20)
    sampler = Sampler(normal, 3, region(*WEDGE), settings)
    sampler.warm_up([0.2, 0.3, 0.5])
    other = region(*WEDGE[:3], [1.2, 0.31])
    with pytest.raises(ValueError, match="other bounds"):
        Sampler(normal, 3, other, settings).load_state_dict(sampler.state_dict())
    with pytest.raises(ValueError, match="transform is of 3 parameters, but the density has 2"):
        Sampler(normal, 2, other)
