"""Bins: the paper's, TNG300's, their union; nesting; pair-weighted rebinning; any bins between nodes."""

import numpy as np
import pytest

from iaemu.binning import (
    PAPER_EDGES,
    TNG_EDGES,
    BinningError,
    Rebinning,
    bin_centers,
    check_edges,
    find_edges,
    make_nodes,
    nesting_matrix,
    pairs_inside_cube,
    rebin,
    shell_volumes,
    union_edges,
)


def test_published_binnings():
    assert len(PAPER_EDGES) == 21 and len(TNG_EDGES) == 13
    assert PAPER_EDGES[-1] == pytest.approx(15.8489, abs=1e-4)
    assert TNG_EDGES[-1] == pytest.approx(13.895, abs=1e-3)
    # The centres that the TNG300 files give are arithmetic means.
    assert bin_centers(TNG_EDGES)[0] == pytest.approx(0.12542953543500893, rel=1e-9)


def test_both_binnings_nest_in_their_union():
    union = union_edges(PAPER_EDGES, TNG_EDGES)
    assert len(union) == 33
    for edges in (PAPER_EDGES, TNG_EDGES):
        matrix = nesting_matrix(union, edges)
        np.testing.assert_allclose(matrix @ shell_volumes(union), shell_volumes(edges), rtol=1e-12)
        assert matrix.sum(axis=0).max() == 1


def test_an_edge_that_does_not_nest_is_named():
    with pytest.raises(BinningError, match=r"edge 0\.1500.* is not among .*nearest: 0\.1659"):
        nesting_matrix(PAPER_EDGES, [0.1, 0.15000001, 1.0])
    with pytest.raises(BinningError, match="is not among the 21 available edges"):
        nesting_matrix(PAPER_EDGES, [0.1, 20.0])


@pytest.mark.parametrize(
    "edges, message",
    [
        ([1.0], "at least 2"),
        ([[1.0, 2.0]], "one-dimensional"),
        ([1.0, np.nan], "NaN"),
        ([2.0, 1.0], "increasing"),
        ([0.0, 1.0], "positive"),
    ],
)
def test_malformed_edges(edges, message):
    with pytest.raises(BinningError, match=message):
        check_edges(edges)


def test_rebinned_means_are_means_over_pairs():
    rng = np.random.default_rng(3)
    fine = np.geomspace(0.1, 10, 13)
    coarse = fine[[0, 3, 4, 12]]
    radii = rng.uniform(0.1, 10, 20000)
    values = rng.normal(size=20000)
    pairs = np.histogram(radii, fine)[0].astype(float)
    means = np.histogram(radii, fine, weights=values)[0] / pairs
    expected = np.histogram(radii, coarse, weights=values)[0] / np.histogram(radii, coarse)[0]
    np.testing.assert_allclose(rebin(means, pairs, nesting_matrix(fine, coarse)), expected, rtol=1e-10)


def test_edges_equal_within_rounding_are_refused():
    with pytest.raises(BinningError, match="are equal within rounding"):
        nesting_matrix(PAPER_EDGES, [PAPER_EDGES[0], PAPER_EDGES[3], PAPER_EDGES[3] * (1 + 1e-8), PAPER_EDGES[5]])


def test_find_edges_tolerates_rounding():
    assert find_edges(PAPER_EDGES, PAPER_EDGES * (1 + 1e-9)).tolist() == list(range(21))


def test_nodes_contain_the_published_bins_and_are_close():
    nodes = make_nodes()
    assert nodes[0] == pytest.approx(0.1) and nodes[-1] == pytest.approx(10**1.4)
    assert np.diff(np.log10(nodes)).max() < 0.06
    for edges in (PAPER_EDGES, TNG_EDGES, nodes):
        found = Rebinning.between(nodes, edges * (1 + 5e-4))  # rounded, as in a file
        assert set(np.unique(found.weights)) <= {0.0, 1.0} and np.all(found.missing == 0)
        np.testing.assert_array_equal(found.weights, nesting_matrix(nodes, edges))
        np.testing.assert_allclose(found.volumes, shell_volumes(edges), rtol=1e-9)


def pair_counts(edges, slope, scale=5.0):
    """Integrals over shells of 1 + (r / scale)^slope, and of its second term."""
    clustered = 4.0 * np.pi / (3.0 + slope) * np.diff(edges ** (3.0 + slope)) / scale**slope
    return shell_volumes(edges) + clustered, clustered


@pytest.mark.parametrize("slope", [-1.2, -1.8, -2.4, -3.2])
def test_sums_in_any_bins_are_those_of_power_laws(slope):
    nodes, rng = make_nodes(), np.random.default_rng(1)
    pairs, clustered = pair_counts(nodes, slope)
    for _ in range(20):
        edges = 0.1 * 10 ** (np.cumsum(rng.uniform(0.055, 0.4, 20)))
        edges = edges[edges < nodes[-1]]
        found = Rebinning.between(nodes, edges)
        expected, expected_clustered = pair_counts(edges, slope)
        np.testing.assert_allclose(found.volumes, shell_volumes(edges), rtol=1e-12)
        np.testing.assert_allclose(found.weights @ clustered, expected_clustered, rtol=5e-4)
        # Unclustered pairs are exact, so that xi is as good where it is small.
        xi = (found.weights @ pairs + found.missing) / found.volumes - 1.0
        np.testing.assert_allclose(xi, expected / shell_volumes(edges) - 1.0, rtol=5e-4)


def test_neighbouring_bins_add_up_to_their_union():
    nodes = make_nodes()
    two, one = Rebinning.between(nodes, [0.2, 0.5, 1.1]), Rebinning.between(nodes, [0.2, 1.1])
    for part in ("weights", "volumes", "missing"):
        np.testing.assert_allclose(getattr(two, part).sum(axis=0), getattr(one, part)[0], atol=1e-12)


@pytest.mark.parametrize(
    "edges, message",
    [
        ([0.05, 1.0], r"from 0\.05 to 1 Mpc/h are not within 0\.1 to 25\.1\d* Mpc/h"),
        ([1.0, 30.0], r"Leave out the bins beyond it \(r_min, r_max\)"),
        ([1.0, 1.05, 3.0], r"bin from 1 to 1\.05 Mpc/h is 0\.0212 dex wide, less than the model resolves"),
    ],
)
def test_bins_that_cannot_be_predicted(edges, message):
    with pytest.raises(BinningError, match=message):
        Rebinning.between(make_nodes(), edges)


def test_probability_to_stay_in_a_cube_is_that_of_random_pairs():
    edges = np.array([0.3, 1.0, 3.0, 9.0])
    side, rng, n = 9.0, np.random.default_rng(0), 400_000
    u = rng.normal(size=(n, 3))
    u /= np.linalg.norm(u, axis=1, keepdims=True)
    start = rng.uniform(0, side, (n, 3))
    for low, high, found in zip(edges[:-1], edges[1:], pairs_inside_cube(edges, side), strict=True):
        end = start + np.cbrt(rng.uniform(low**3, high**3, n))[:, None] * u
        inside = np.all((end >= 0) & (end < side), axis=1)
        assert found == pytest.approx(inside.mean(), abs=4 * inside.std() / np.sqrt(n))


def test_probability_to_stay_has_the_surface_of_the_cube_as_its_slope():
    # Cauchy: to first order a share r S / (4 V) of all pairs leaves a body of surface S
    r, side = 1e-3, 2.0
    assert 1 - pairs_inside_cube([r, r * (1 + 1e-6)], side)[0] == pytest.approx(r * 6 / (4 * side), rel=1e-3)


def test_separations_beyond_the_cube_are_refused():
    with pytest.raises(BinningError, match="beyond the side of a region, 2 Mpc/h"):
        pairs_inside_cube([1.0, 3.0], 2.0)
