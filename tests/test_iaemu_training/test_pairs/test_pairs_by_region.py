"""Pair sums by region, against brute force and against the sums of the whole box."""

from itertools import pairwise

import numpy as np
import pytest

pytest.importorskip("numba")

from iaemu_training.pairs.galaxies import count_pairs
from iaemu_training.pairs.galaxies_by_region import count_pairs_by_region

LBOX = 30.0
EDGES = np.array([0.2, 0.5, 1.0, 2.0, 4.0, 9.0])


def clustered(n=600, seed=0):
    rng = np.random.default_rng(seed)
    centres = np.repeat(rng.uniform(0, LBOX, (n // 10, 3)), 10, axis=0)
    positions = np.mod(centres + rng.normal(scale=0.8, size=(n, 3)), LBOX)
    axes = rng.normal(size=(n, 3))
    return positions, axes / np.linalg.norm(axes, axis=1, keepdims=True)


def regions_of(positions, n_side):
    index = np.minimum((positions * n_side / LBOX).astype(int), n_side - 1)
    return (index[:, 0] * n_side + index[:, 1]) * n_side + index[:, 2]


def brute_force(positions, axes, weights):
    """Sums over ordered pairs with ``weights`` (n, n), (3, n_bins)."""
    d = positions[:, None] - positions[None]
    d -= LBOX * np.round(d / LBOX)
    r = np.linalg.norm(d, axis=-1)
    np.fill_diagonal(r, np.inf)
    omega = (np.einsum("id,ijd->ij", axes, d) / np.where(r > 0, r, 1)) ** 2 - 1 / 3
    eta = (axes @ axes.T) ** 2 - 1 / 3
    bins = [(r > low) & (r <= high) for low, high in pairwise(EDGES)]
    return np.array([[np.sum((weights * term)[b]) for b in bins] for term in (np.ones_like(r), omega, eta)])


# 2: a region's neighbour on one side is that on the other too
@pytest.mark.parametrize("n_side", [2, 3])
def test_pairs_inside_and_across_are_those_of_brute_force(n_side):
    x, e = clustered()
    region = regions_of(x, n_side)
    sums = count_pairs_by_region(x, e, LBOX, EDGES, n_side)
    assert np.array_equal(sums.n_gal, np.bincount(region, minlength=n_side**3))
    for k in range(len(sums)):
        here = region == k
        inside, across = np.outer(here, here), here[:, None] ^ here[None]
        for found, weights in ((sums.auto, inside), (sums.cross, across)):
            expected = brute_force(x, e, weights)
            np.testing.assert_allclose([part[k] for part in found], expected, atol=1e-9)


def test_what_remains_is_the_count_of_the_galaxies_outside_of_the_region():
    x, e = clustered()
    region = regions_of(x, 3)
    remaining = count_pairs_by_region(x, e, LBOX, EDGES, 3).remaining()
    for k in range(27):
        outside = region != k
        for part, expected in zip(remaining, count_pairs(x[outside], e[outside], LBOX, EDGES), strict=True):
            np.testing.assert_allclose(part[k], expected, atol=1e-9)


@pytest.mark.parametrize("n_side", [2, 3])
def test_regions_sum_to_the_whole_box(n_side):
    x, e = clustered(1500)
    for whole, expected in zip(
        count_pairs_by_region(x, e, LBOX, EDGES, n_side).total, count_pairs(x, e, LBOX, EDGES), strict=True
    ):
        np.testing.assert_allclose(whole, expected, atol=1e-8)


def test_turning_the_box_by_90_degrees_only_permutes_the_regions():
    x, e = clustered()
    before = count_pairs_by_region(x, e, LBOX, EDGES, 3)
    turned = [np.stack([v[:, 1], s - v[:, 0], v[:, 2]], axis=1) for v, s in ((x, LBOX), (e, 0.0))]
    after = count_pairs_by_region(*turned, LBOX, EDGES, 3)
    for a, b in zip((*before.total, *before.auto), (*after.total, *after.auto), strict=True):
        np.testing.assert_allclose(np.sort(a, axis=0), np.sort(b, axis=0), atol=1e-9)


def test_shifting_the_box_leaves_the_whole_and_shifting_by_a_region_permutes_them():
    x, e = clustered()
    before = count_pairs_by_region(x, e, LBOX, EDGES, 3)
    free = count_pairs_by_region(np.mod(x + [3.3, 0, 17.1], LBOX), e, LBOX, EDGES, 3)
    np.testing.assert_allclose(free.total, before.total, atol=1e-9)
    assert not np.allclose(free.auto.DD, before.auto.DD)
    by_one = count_pairs_by_region(np.mod(x + [0, LBOX / 3, 0], LBOX), e, LBOX, EDGES, 3)
    for a, b in zip(before.cross, by_one.cross, strict=True):
        shifted = np.roll(a.reshape(3, 3, 3, -1), 1, axis=1).reshape(a.shape)
        np.testing.assert_allclose(shifted, b, atol=1e-9)


@pytest.mark.parametrize("n_side", [2, 3])
def test_sums_over_shells_are_those_of_random_points(n_side):
    rng = np.random.default_rng(1)
    x, e = clustered(50)
    sums = count_pairs_by_region(x, e, LBOX, EDGES, n_side)
    region = regions_of(x, n_side)
    n, n_regions = 10_000, n_side**3
    u = rng.normal(size=(n, 3))
    u /= np.linalg.norm(u, axis=1, keepdims=True)
    for b, (low, high) in enumerate(pairwise(EDGES)):
        r = np.cbrt(rng.uniform(low**3, high**3, n))
        auto, cross = np.zeros((2, 2, n_regions))
        for point, axis, k in zip(x, e, region, strict=True):
            there = regions_of(np.mod(point + r[:, None] * u, LBOX), n_side)
            for kind, weights in enumerate((np.ones(n), (u @ axis) ** 2 - 1 / 3)):
                share = np.bincount(there, weights, minlength=n_regions) / n
                outside = np.where(np.arange(n_regions) == k, 0, share)
                auto[kind, k] += (1 - kind) - outside.sum()
                cross[kind, k] += outside.sum()
                cross[kind] += outside
        for found, expected in ((sums.random_auto, auto), (sums.random_cross, cross)):
            np.testing.assert_allclose(found.D[:, b], expected[0], atol=0.3)
            np.testing.assert_allclose(found.S[:, b], expected[1], atol=0.06)


def test_result_does_not_depend_on_the_number_of_threads(on_one_and_two_threads):
    single, again = on_one_and_two_threads(count_pairs_by_region, *clustered(), LBOX, EDGES, 3)
    for a, b in zip((*single.auto, *single.cross), (*again.auto, *again.cross), strict=True):
        assert np.array_equal(a, b)


@pytest.mark.parametrize("n_side, message", [(1, "needs 2 to 100 regions"), (4, "7.5 Mpc/h wide.*at most 3 regions")])
def test_impossible_regions_are_refused(n_side, message):
    with pytest.raises(ValueError, match=message):
        count_pairs_by_region(*clustered(), LBOX, EDGES, n_side)


def test_bad_galaxies_are_refused_as_by_count_pairs():
    x, e = clustered()
    with pytest.raises(ValueError, match="outside the box"):
        count_pairs_by_region(x * 1000, e, LBOX, EDGES, 2)
