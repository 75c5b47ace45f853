from itertools import pairwise

import numpy as np
import pytest

from iaemu.binning import BinningError
from iaemu_training.pairs.galaxies import count_pairs, random_pairs

LBOX = 50.0
EDGES = np.logspace(-1, 1.2, 21)


def clustered(n=1500, Lbox=LBOX, seed=0):
    rng = np.random.default_rng(seed)
    centres = np.repeat(rng.uniform(0, Lbox, (n // 15, 3)), 15, axis=0)
    positions = np.mod(centres + rng.normal(scale=0.4, size=(n, 3)), Lbox)
    axes = rng.normal(size=(n, 3))
    return positions, axes / np.linalg.norm(axes, axis=1, keepdims=True)


def brute_force(positions, axes, Lbox, r_edges):
    d = positions[:, None] - positions[None]
    d -= Lbox * np.round(d / Lbox)
    r = np.linalg.norm(d, axis=-1)
    np.fill_diagonal(r, np.inf)
    along = np.einsum("id,ijd->ij", axes, d) / np.where(r > 0, r, 1)
    cosine = axes @ axes.T
    bins = [(r > low) & (r <= high) for low, high in pairwise(r_edges)]
    return (
        np.array([b.sum() for b in bins], dtype=float),
        np.array([(along[b] ** 2 - 1 / 3).sum() for b in bins]),
        np.array([(cosine[b] ** 2 - 1 / 3).sum() for b in bins]),
    )


def test_agrees_with_halotools():
    pytest.importorskip("halotools")
    from halotools.mock_observables import ed_3d, ee_3d, npairs_3d, tpcf

    x, e = clustered()
    sums = count_pairs(x, e, LBOX, EDGES)
    assert np.array_equal(sums.DD, np.diff(npairs_3d(x, x, EDGES, period=LBOX)))
    xi = sums.DD / random_pairs(len(x), LBOX, EDGES) - 1
    np.testing.assert_allclose(xi, tpcf(x, EDGES, period=LBOX), rtol=1e-10)
    np.testing.assert_allclose(sums.S_omega / sums.DD, ed_3d(x, e, x, EDGES, period=LBOX), atol=1e-10, rtol=0)
    np.testing.assert_allclose(sums.S_eta / sums.DD, ee_3d(x, e, x, e, EDGES, period=LBOX), atol=1e-10, rtol=0)


# 3: few cells, every one a neighbour of every other; 200: small cells; 2 points: hardly any cell occupied
@pytest.mark.parametrize("n, r_max", [(300, 25.0), (300, 16.0), (600, 0.7), (30, 3.0), (2, 25.0)])
def test_agrees_with_brute_force(n, r_max):
    x, e = clustered(max(n, 15), seed=n)
    x, e = x[:n], e[:n]
    edges = np.linspace(0.01, r_max, 6)
    for fast, slow in zip(count_pairs(x, e, LBOX, edges), brute_force(x, e, LBOX, edges), strict=True):
        np.testing.assert_allclose(fast, slow, atol=1e-9, rtol=1e-12)


def test_bins_are_closed_above_as_in_halotools():
    pytest.importorskip("halotools")
    from halotools.mock_observables import npairs_3d

    x = np.array([[1.0, 1.0, 1.0], [2.0, 1.0, 1.0], [4.0, 1.0, 1.0], [4.0, 1.0, 1.0]])
    edges = np.array([1.0, 2.0, 3.0])
    DD = count_pairs(x, np.ones((4, 3)), LBOX, edges).DD
    assert np.array_equal(DD, np.diff(npairs_3d(x, x, edges, period=LBOX)))
    assert DD.tolist() == [4, 4]  # separation 1 is out of (1, 2], separations 2 and 3 lie in (1, 2] and (2, 3]


def test_counts_across_the_faces_of_the_box():
    x = np.array([[0.1, 25.0, 25.0], [LBOX - 0.2, 25.0, 25.0]])
    e = np.array([[1.0, 0, 0], [0, 1.0, 0]])
    sums = count_pairs(x, e, LBOX, [0.1, 1.0])
    assert sums.DD[0] == 2
    assert sums.S_omega[0] == pytest.approx(1 - 2 / 3)
    assert sums.S_eta[0] == pytest.approx(-2 / 3)


def test_result_does_not_depend_on_the_number_of_threads(on_one_and_two_threads):
    single, several = on_one_and_two_threads(count_pairs, *clustered(), LBOX, EDGES)
    for a, b in zip(single, several, strict=True):
        assert np.array_equal(a, b)


@pytest.mark.parametrize("n", [0, 1])
def test_fewer_than_two_galaxies_make_no_pair(n):
    sums = count_pairs(np.ones((n, 3)), np.ones((n, 3)), LBOX, EDGES)
    assert all(np.array_equal(values, np.zeros(20)) for values in sums)


def test_coincident_galaxies_belong_to_no_bin():
    assert count_pairs(np.ones((3, 3)), np.ones((3, 3)), LBOX, EDGES).DD.sum() == 0


def test_axes_need_not_be_normalised():
    x, e = clustered(300)
    scale = np.random.default_rng(1).uniform(0.5, 2.0, (len(x), 1))
    for a, b in zip(count_pairs(x, e, LBOX, EDGES), count_pairs(x, e * scale, LBOX, EDGES), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-9)


def test_random_pairs_of_several_catalogues():
    RR = random_pairs(np.array([10, 20]), LBOX, EDGES)
    assert RR.shape == (2, 20)
    assert RR[0].sum() == pytest.approx(100 * 4 / 3 * np.pi * (EDGES[-1] ** 3 - EDGES[0] ** 3) / LBOX**3)


@pytest.mark.parametrize(
    "change, message",
    [
        (dict(positions=np.full((5, 3), 51.0)), r"outside the box \[0, 50\]"),
        (dict(positions=np.full((5, 3), np.nan)), "positions hold NaN"),
        (dict(positions=np.ones((5, 2))), r"shape \(n, 3\)"),
        (dict(positions=np.ones((4, 3))), "equal length"),
        (dict(axes=np.zeros((5, 3))), "axes have length 0"),
        (dict(r_edges=[1.0, 26.0]), "Lbox / 2 = 25"),
        (dict(Lbox=-1.0), "Lbox must be a number, above 0 and at most 1e.09; got -1.0"),
        (dict(Lbox=None), "Lbox must be a number, above 0 and at most 1e.09; got None"),
        (dict(axes=np.full((5, 3), 1j)), "axes must be real numbers, got complex128"),
        (dict(axes=np.full((5, 3), "1.5")), "axes must be real numbers, got <U3"),
        (dict(positions=np.ma.array(np.ones((5, 3)), mask=True)), "masked values in 5 rows, first in row 0"),
        (dict(positions=[[1, 2, 3], [4, 5]]), r"array of numbers of shape \(n, 3\)"),
        (dict(positions=np.full((5, 3), -0.001)), r"5 positions lie outside the box.*wrap them"),
    ],
)
def test_bad_input_is_refused(change, message):
    arguments = dict(positions=np.ones((5, 3)), axes=np.ones((5, 3)), Lbox=LBOX, r_edges=EDGES) | change
    with pytest.raises(ValueError, match=message):
        count_pairs(**arguments)


def test_bad_bins_are_refused():
    with pytest.raises(BinningError):
        count_pairs(np.ones((5, 3)), np.ones((5, 3)), LBOX, [1.0, 0.5])


def test_what_is_outside_of_the_box_by_rounding_is_put_back():
    x, e = clustered(300)
    x[0] = -1e-5, LBOX * (1 + 1e-7), LBOX
    inside = np.mod(x, LBOX)
    for a, b in zip(count_pairs(x, e, LBOX, EDGES), count_pairs(inside, e, LBOX, EDGES), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12)
    assert x[0, 0] == -1e-5  # the user's array stays as it is


@pytest.mark.parametrize("scale", [1e-300, 1e-160, 1e200, 1e308])
def test_axes_may_be_of_any_length(scale):
    x, e = clustered(300)
    for a, b in zip(count_pairs(x, e, LBOX, EDGES), count_pairs(x, e * (scale / 2), LBOX, EDGES), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-9)
