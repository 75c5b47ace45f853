"""Projected statistics as linear maps: integrals over spheres and cylinders, large scales, limits."""

import numpy as np
import pytest
from scipy.integrate import quad

from iaemu.binning import BinningError, make_nodes, shell_volumes
from iaemu.observables.large_scale import LargeScales
from iaemu.observables.projected import Projection, cylinder_weights

NODES = make_nodes()
LOW, HIGH = np.array([0.1, 0.5, 2.0, 3.0, 10.0]), np.array([0.2, 0.9, 2.0, 6.0, 20.0])
BINS = list(zip(LOW, HIGH, strict=True))


def in_shells(edges, slope=1.8):
    """Means of r^-slope over spherical shells."""
    return np.diff(edges ** (3 - slope)) / (3 - slope) * 3 / np.diff(edges**3)


def direct(low, high, pi_max, slope=1.8, power=0):
    """The integral of r^-slope (r_p / r)^power along the line of sight, averaged over the bin by area."""

    def line(rp):
        return quad(lambda z: 2 * np.hypot(rp, z) ** -(slope + power) * rp**power, 0, pi_max, limit=200, epsrel=1e-9)[0]

    if high == low:
        return line(low)
    return quad(lambda rp: 2 * rp * line(rp), low, high, epsrel=1e-8)[0] / (high**2 - low**2)


@pytest.mark.parametrize("pi_max", [10.0, 60.0])
def test_integrals_over_shells_are_exact(pi_max):
    edges = np.geomspace(0.1, 1.01 * np.hypot(20, pi_max), 3000)
    gg, gplus = cylinder_weights(edges, LOW, HIGH, pi_max)
    np.testing.assert_allclose(gg @ in_shells(edges), [direct(*bin, pi_max) for bin in BINS], rtol=5e-5)
    expected = [1.5 * direct(*bin, pi_max, power=2) for bin in BINS]
    np.testing.assert_allclose(gplus @ in_shells(edges), expected, rtol=5e-5)


def test_a_constant_gives_the_length_of_the_line_of_sight():
    gg, _ = cylinder_weights([0.01, 30.0], LOW, HIGH, 7.0)
    np.testing.assert_allclose(gg[:, 0], 14.0, rtol=1e-9)


def test_wide_bins_are_means_of_narrow_ones():
    edges = np.geomspace(1.0, 4.0, 5)
    fine, wide = (cylinder_weights(NODES, e[:-1], e[1:], 20.0) for e in (edges, edges[[0, -1]]))
    area = np.diff(edges**2)
    for narrow, one in zip(fine, wide, strict=True):
        np.testing.assert_allclose(area @ narrow / area.sum(), one[0], rtol=1e-9, atol=1e-12)


def test_a_bin_and_its_centre_agree_as_the_bin_becomes_narrow():
    bin_, point = (Projection.between({"w_gplus": limits}, 30.0) for limits in (([0.999], [1.001]), ([1.0], [1.0])))
    function = in_shells(NODES)
    value, expected = (one.matrices(NODES).of_omega @ function for one in (bin_, point))
    assert value[0] == pytest.approx(expected[0], rel=2e-3)


def test_nodes_are_fine_enough_for_a_power_law():
    found = Projection.between({"w_gg": (LOW, HIGH), "w_gplus": (LOW, HIGH)}, 10.0).matrices(NODES)
    expected = [direct(*bin, 10.0) for bin in BINS]
    np.testing.assert_allclose(found.of_xi @ in_shells(NODES), expected, rtol=5e-4)
    expected = [1.5 * direct(*bin, 10.0, power=2) for bin in BINS]
    np.testing.assert_allclose(found.of_omega @ in_shells(NODES), expected, rtol=5e-4)


def test_beyond_the_nodes_functions_follow_matter():
    """Functions that are b^2 xi_mm and K Xi_2 everywhere are integrated as if the nodes had no end."""
    matter, rp = LargeScales.shipped(), np.array([1.0, 5.0, 15.0, 30.0])
    found = Projection.of(None, 100.0, rp).matrices(NODES)
    xi, Xi_2 = matter.in_shells(NODES)
    assert float(found.bias[0] @ (1.7 * xi)) == pytest.approx(1.7)
    assert float(found.alignment[0] @ (0.04 * Xi_2)) == pytest.approx(0.04)
    edges = np.geomspace(0.7, 110.0, 2000)
    gg, gplus = cylinder_weights(edges, rp, rp, 100.0)
    far_xi, far_Xi_2 = matter.in_shells(edges)
    np.testing.assert_allclose(found.of_xi @ xi, gg @ far_xi, rtol=2e-3)
    np.testing.assert_allclose(found.of_omega @ Xi_2, gplus @ far_Xi_2, rtol=2e-3)
    share = found.tail_of_xi / (found.of_xi @ xi)
    assert share[0] < 0.1 and share[2] > 0.2 and share[3] == pytest.approx(1.0)


def test_tidal_alignment_is_the_mean_inside_minus_the_value():
    table = LargeScales.shipped()
    inside = np.cumsum(np.diff(table.r**3) * 0.5 * (table.xi[1:] + table.xi[:-1]))
    r, at = table.r[1:], -60
    mean_then = (table.Xi_2 + table.xi)[0] * table.r[0] ** 3
    assert (inside[at] + mean_then) / r[at] ** 3 - table.xi[1:][at] == pytest.approx(table.Xi_2[1:][at], rel=0.01)


def test_radial_shapes_have_the_ellipticity_of_the_formula():
    """Axes along the separation: omega = 2/3, so that the mean of eps_+ is (r_p / r)^2 in every pair."""
    rng = np.random.default_rng(4)
    r = rng.normal(size=(1000, 3))
    e = r / np.linalg.norm(r, axis=1, keepdims=True)
    phi = np.arctan2(r[:, 1], r[:, 0])
    plus = (e[:, 0] ** 2 - e[:, 1] ** 2) * np.cos(2 * phi) + 2 * e[:, 0] * e[:, 1] * np.sin(2 * phi)
    np.testing.assert_allclose(plus, 1.5 * (2 / 3) * (e[:, 0] ** 2 + e[:, 1] ** 2))


def test_random_axes_have_the_rms_ellipticity_of_the_shape_amplitude():
    e = np.random.default_rng(5).normal(size=(400_000, 3))
    e /= np.linalg.norm(e, axis=1, keepdims=True)
    squares = (e[:, 0] ** 2 - e[:, 1] ** 2) ** 2 + (2 * e[:, 0] * e[:, 1]) ** 2
    assert squares.mean() == pytest.approx(8 / 15, rel=3e-3)


def test_the_quadrupole_is_a_mean_over_shells():
    found = Projection.between({"xi_gplus_2": (NODES[[3, 20]], NODES[[8, 30]])}).matrices(NODES)
    values = np.cos(np.arange(len(NODES) - 1.0))
    volumes = shell_volumes(NODES)
    expected = [0.5 * np.average(values[a:b], weights=volumes[a:b]) for a, b in ((3, 8), (20, 30))]
    np.testing.assert_allclose(found.of_omega @ values, expected, rtol=1e-9)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (((0.1, 1.0), None), "pi_max is missing"),
        (((0.1, 1.0), 500.0), "pi_max"),
        (((0.1, 1.0), -1.0), "pi_max"),
        ((None, 60.0), "either rp_edges"),
        (((1.0, 0.5), 60.0), "increasing"),
        (((0.1, 1.0), 60.0, (1.0,)), "either rp_edges"),
        ((None, 60.0, (1.0, 1.0)), "without repetition"),
        ((None, 60.0, (2.0, 1.0)), "must increase"),
        ((None, 60.0, (-1.0, 1.0)), "positive"),
        ((None, 60.0, (np.nan, 1.0)), "positive and finite"),
        ((None, 60.0, ()), "list of separations"),
    ],
)
def test_wrong_bins_are_named(arguments, message):
    with pytest.raises(BinningError, match=message):
        Projection.of(*arguments)


@pytest.mark.parametrize("edges", [(0.05, 1.0), (1.0, 80.0)])
def test_separations_beyond_what_is_known_are_refused(edges):
    with pytest.raises(BinningError, match=r"not within 0\.1 to 62\.8 Mpc/h"):
        Projection.of(edges, 60.0).matrices(NODES)


def test_models_of_few_bins_are_refused():
    with pytest.raises(BinningError, match="narrow bins of r"):
        Projection.of((0.5, 1.0), 60.0).matrices([0.0, 30.0])


def test_statistics_of_other_names_are_refused():
    with pytest.raises(BinningError, match="w_plusplus"):
        Projection.between({"w_plusplus": ([1.0], [2.0])}, 60.0)
