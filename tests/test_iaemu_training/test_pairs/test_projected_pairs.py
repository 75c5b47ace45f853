"""Pair sums of projected shapes against direct sums over all pairs, and their random points by Monte Carlo."""

from itertools import pairwise

import numpy as np
import pytest

pytest.importorskip("numba")

from iaemu_training.pairs.projected import count_projected_by_region, cylinder_nodes, quadrupole_nodes, sum_projected

LBOX, PI_MAX = 30.0, 7.0
EDGES = np.array([0.3, 1.0, 2.0, 5.0])


def unit(vectors):
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def clustered(n=300, seed=1):
    rng = np.random.default_rng(seed)
    x = np.repeat(rng.uniform(0, LBOX, (n // 5, 3)), 5, axis=0) + rng.normal(scale=1.5, size=(n, 3))
    return np.mod(x, LBOX), unit(rng.normal(size=(n, 3)))


def random_lines(n, seed=2):
    return unit(np.random.default_rng(seed).normal(size=(n, 3)))


def frame(n):
    """Two unit vectors across n."""
    x = unit(np.cross(n, [0.3, -0.5, 0.8]))
    return x, np.cross(n, x)


def direct(x, e, lines, first):
    """Sums over ordered pairs whose first member is in ``first``, from complex ellipticities."""
    d = x[None] - x[:, None]
    d -= LBOX * np.round(d / LBOX)
    r = np.linalg.norm(d, axis=-1)
    sums = np.zeros((5, len(EDGES) - 1))
    for n in lines:
        u, v = frame(n)
        shape = (e @ u + 1j * (e @ v)) ** 2
        across = d @ u + 1j * (d @ v)
        r_p = np.abs(across)
        # turned into the frame of the pair: the real part is eps_+
        turn = np.exp(-2j * np.angle(across))
        plus, other = (shape[:, None] * turn).real, (shape[None] * turn).real
        for b, (low, high) in enumerate(pairwise(EDGES)):
            near = (r_p > low) & (r_p <= high) & (np.abs(d @ n) <= PI_MAX) & first[:, None]
            sums[:3, b] += near.sum(), plus[near].sum(), (plus * other)[near].sum()
            near = (r > low) & (r <= high) & first[:, None]
            sums[3:, b] += ((r_p / np.where(r > 0, r, 1)) ** 2 * plus)[near].sum(), near.sum()
    return sums / len(lines)


@pytest.mark.parametrize("lines", [np.eye(3)[[2]], random_lines(3)], ids=["z", "random"])
@pytest.mark.parametrize("n_side", [1, 2, 3])
def test_sums_are_those_over_all_pairs(lines, n_side):
    x, e = clustered()
    auto, cross, counts = sum_projected(x, e, LBOX, EDGES, PI_MAX, lines, n_side)
    total = (auto + 0.5 * cross).sum(axis=1)
    np.testing.assert_allclose(total, direct(x, e, lines, np.full(len(x), True)), atol=1e-9)
    assert counts.sum() == len(x)


def test_many_cells_lose_no_pair():
    rng = np.random.default_rng(5)
    x, e = rng.uniform(0, LBOX, (1200, 3)), unit(rng.normal(size=(1200, 3)))
    lines = random_lines(2)
    auto, _, _ = sum_projected(x, e, LBOX, EDGES, PI_MAX, lines)
    np.testing.assert_allclose(auto[:, 0], direct(x, e, lines, np.full(len(x), True)), atol=1e-8)


def test_pairs_are_in_the_regions_of_their_members():
    x, e = clustered()
    lines = random_lines(2)
    auto, cross, counts = sum_projected(x, e, LBOX, EDGES, PI_MAX, lines, 2)
    region = np.ravel_multi_index((x * 2 / LBOX).astype(int).T, (2, 2, 2))
    assert np.array_equal(counts, np.bincount(region, minlength=8))
    for k in range(8):
        # of ordered pairs with the first member in the region, those inside count once, those across half of ``cross``
        first = direct(x, e, lines, region == k)[[0, 2, 4]]
        np.testing.assert_allclose((auto + 0.5 * cross)[[0, 2, 4], k], first, atol=1e-9)
        own = direct(x[region == k], e[region == k], lines, np.full(np.sum(region == k), True))
        np.testing.assert_allclose(auto[:, k], own, atol=1e-9)


def test_result_does_not_depend_on_the_number_of_threads(on_one_and_two_threads):
    single, again = on_one_and_two_threads(
        count_projected_by_region, *clustered(), LBOX, EDGES, PI_MAX, random_lines(2), 3
    )
    for a, b in zip(single, again, strict=True):
        for name in ("auto", "cross", "random_auto", "random_cross"):
            assert np.array_equal(getattr(a, name), getattr(b, name))


@pytest.mark.parametrize("n_side", [2, 4])
def test_random_points_are_those_of_monte_carlo(n_side):
    """Regions are shorter than Pi_max with 4 along a side."""
    rng = np.random.default_rng(3)
    x, e = clustered(50)
    lines = random_lines(2)
    cylinders, _ = count_projected_by_region(x, e, LBOX, EDGES, PI_MAX, lines, n_side)
    n, n_regions = 20_000, n_side**3

    def regions_of(positions):
        return np.ravel_multi_index((positions * n_side / LBOX).astype(int).T % n_side, (n_side,) * 3)

    low, high = EDGES[-2:]
    auto, cross = np.zeros((2, 2, n_regions))
    inside = 0.0
    for line in lines:
        u, v = frame(line)
        r_p, angle = np.sqrt(rng.uniform(low**2, high**2, n)), rng.uniform(0, 2 * np.pi, n)
        across = np.cos(angle)[:, None] * u + np.sin(angle)[:, None] * v
        offset = r_p[:, None] * across + rng.uniform(-PI_MAX, PI_MAX, n)[:, None] * line
        inside += np.clip(1 - np.abs(offset) * n_side / LBOX, 0, None).prod(axis=1).mean() / len(lines)
        for point, axis, k in zip(x, e, regions_of(x), strict=True):
            there = regions_of(np.mod(point + offset, LBOX))
            plus = 2 * (across @ axis) ** 2 - (1 - (axis @ line) ** 2)
            for kind, weights in enumerate((np.ones(n), plus)):
                share = np.bincount(there, weights, minlength=n_regions) / n / len(lines)
                outside = np.where(np.arange(n_regions) == k, 0, share)
                auto[kind, k] += (1 - kind) / len(lines) - outside.sum()
                cross[kind, k] += outside.sum()
                cross[kind] += outside
    assert cylinders.inside[-1] == pytest.approx(inside, rel=0.02)
    for found, expected in ((cylinders.random_auto, auto), (cylinders.random_cross, cross)):
        np.testing.assert_allclose(found.D[:, -1], expected[0], atol=0.25)
        np.testing.assert_allclose(found.S[:, -1], expected[1], atol=0.07)
    assert np.ptp(cross[0]) > 4 and np.ptp(cross[1]) > 0.29  # what is compared is not nothing


def test_integrals_over_whole_bins_are_those_of_random_points():
    """Weights sum to 1, and no axis has a mean ellipticity towards random points."""
    lines = random_lines(4)
    for nodes in (cylinder_nodes(EDGES, PI_MAX, lines), quadrupole_nodes(EDGES, lines)):
        assert nodes.weight.sum(axis=1) == pytest.approx(1.0)
        assert np.abs(np.einsum("bm,bmf->bf", nodes.weight, nodes.form)).max() < 2e-3
    r_p = np.linalg.norm(np.cross(cylinder_nodes(EDGES, PI_MAX, lines[:1]).offset, lines[0]), axis=-1)
    assert np.all((r_p > EDGES[:-1, None]) & (r_p < EDGES[1:, None]))
