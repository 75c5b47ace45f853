"""Halotools mocks whose alignment strengths depend on host mass and radius, and the tables' prediction of them."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy.stats import f as f_distribution

pytest.importorskip("halotools")

from iaemu.halomodel.alignment import mean_p2
from iaemu.models.laws import VaryingStrengthModel
from iaemu.parameters import SLOPES
from iaemu_training.mocks.halotools import HalotoolsMocks

PIVOT = 12.2
EDGES = np.logspace(-1, 1.2, 21)[::4]
#: Dense enough for the small box. Centrals below 10^12 Msun/h are perpendicular to their hosts, those above
#: 10^12.7 at the limit, as are satellites within a quarter of the virial radius.
THETA = dict(mu_cen=0.3, mu_sat=0.5, logMmin=11.6, sigma_logM=0.26, logM0=11.9, logM1=12.7, alpha=1.0)
THETA |= dict(mu_cen_slope=1.5, mu_sat_slope=-0.5)
#: Many satellites of this point are borrowed.
CROWDED = {**THETA, "logM0": 11.0, "logM1": 11.6}
N_MOCKS = 60


@pytest.fixture(scope="module")
def halos(pm40):
    """pm40, moved so that the host that borrows most satellites is at the corner of the box."""
    nsat = (pm40.mass - 10.0 ** CROWDED["logM0"]) / 10.0 ** CROWDED["logM1"]
    corner = pm40.position[np.argmax(nsat - pm40.n_subhalos)]
    return replace(pm40, position=(pm40.position - corner) % pm40.Lbox)


@pytest.fixture(scope="module")
def mocks(halos):
    return HalotoolsMocks(halos, EDGES, SLOPES, PIVOT)


def at(theta=THETA, **changes):
    return {**theta, **changes}


def without_slopes(theta):
    return {name: value for name, value in theta.items() if name not in SLOPES}


def t2_probability(z):
    """p-value of a mean of zero: Hotelling's T^2."""
    n, n_bins = z.shape
    t2 = n * z.mean(axis=0) @ np.linalg.solve(np.cov(z, rowvar=False), z.mean(axis=0))
    return f_distribution.sf(t2 * (n - n_bins) / (n_bins * (n - 1)), n_bins, n - n_bins)


def offsets(galaxies, halos):
    """Vectors from the centre of the host to each satellite (across the sides of the box), and r / Rvir of the host."""
    satellites = ~galaxies.is_central
    host = galaxies.host[satellites]
    d = galaxies.positions[satellites] - halos.position[host]
    d -= halos.Lbox * np.round(d / halos.Lbox)
    return d, np.linalg.norm(d, axis=1) / halos.virial_radius[host]


def central_law(theta, log_mass):
    return np.clip(theta["mu_cen"] + theta["mu_cen_slope"] * (log_mass - PIVOT), -0.99, 0.99)


def satellite_law(theta, x):
    return np.clip(theta["mu_sat"] * x ** theta["mu_sat_slope"], -0.99, 0.99)


def assert_mean(p2, strengths, parts):
    """P2 of misalignments has the mean of q at the strengths in each part."""
    q = mean_p2(torch.as_tensor(strengths)).numpy()
    for part in parts:
        assert part.sum() > 200
        assert abs((p2 - q)[part].mean()) < 4 * p2[part].std() / np.sqrt(part.sum())


@pytest.mark.parametrize("slope", [-0.5, 1.5])
def test_each_galaxy_has_the_strength_of_the_law(mocks, halos, slope):
    """That of its host's mass and of its distance over its host's radius; its own host also if it is borrowed."""
    theta, n_across = at(CROWDED, mu_sat_slope=slope), np.zeros(2, dtype=int)
    for seed in range(2):
        galaxies = mocks.populate(theta, seed)
        central, table = galaxies.is_central, mocks._mock.galaxy_table
        expected = central_law(theta, halos.log_mass[galaxies.host[central]])
        assert np.mean(np.abs(expected) == 0.99) > 0.01 and np.ptp(expected) > 1.9
        np.testing.assert_allclose(table["central_alignment_strength"][central], expected, rtol=0, atol=1e-12)
        _, x = offsets(galaxies, halos)
        expected = satellite_law(theta, x)
        np.testing.assert_allclose(table["satellite_alignment_strength"][~central], expected, rtol=1e-9, atol=1e-9)
        across = np.abs(galaxies.positions - halos.position[galaxies.host]).max(axis=1) > 0.5 * halos.Lbox
        n_across += np.bincount(galaxies.is_borrowed[across], minlength=2)
        assert 0.1 < galaxies.is_borrowed[~central].mean() < 0.2
    assert n_across.min() >= 10  # satellites on the other side of the box


def test_columns_of_a_satellite_are_those_of_its_host(mocks, halos):
    galaxies = mocks.populate(CROWDED, 4)
    table = mocks._mock.galaxy_table
    satellites = ~galaxies.is_central
    for name, of_hosts in (
        ("halo_rvir", halos.virial_radius),
        ("halo_mvir", halos.mass),
        ("halo_y", halos.position[:, 1]),
    ):
        np.testing.assert_allclose(table[name][satellites], of_hosts[galaxies.host[satellites]], rtol=1e-6)


def test_orientations_follow_the_laws(mocks, halos):
    galaxies = [mocks.populate(at(mu_cen=-0.2, mu_cen_slope=0.9), seed) for seed in range(8)]
    host = np.concatenate([g.host[g.is_central] for g in galaxies])
    axes = np.concatenate([g.axes[g.is_central] for g in galaxies])
    p2 = 1.5 * np.sum(axes * halos.axis[host], axis=1) ** 2 - 0.5
    log_mass = halos.log_mass[host]
    edges = (11.2, 11.5, 11.8, 12.1, 12.6, 15.0)
    parts = [(log_mass > low) & (log_mass < high) for low, high in pairwise(edges)]
    assert_mean(p2, central_law(at(mu_cen=-0.2, mu_cen_slope=0.9), log_mass), parts)
    d, x = (np.concatenate(values) for values in zip(*(offsets(g, halos) for g in galaxies), strict=True))
    axes = np.concatenate([g.axes[~g.is_central] for g in galaxies])
    p2 = 1.5 * (np.sum(axes * d, axis=1) / np.linalg.norm(d, axis=1)) ** 2 - 0.5
    edges = (0.0, 0.2, 0.4, 0.6, 0.8, 1.5)
    parts = [(x > low) & (x < high) for low, high in pairwise(edges)]
    assert_mean(p2, satellite_law(THETA, x), parts)


@pytest.mark.parametrize("slope, central", [("mu_cen_slope", True), ("mu_sat_slope", False)])
def test_a_slope_changes_the_axes_of_its_own_galaxies_alone(mocks, slope, central):
    one, other = (mocks.populate(at(**{slope: value}), 3) for value in (0.7, 0.0))
    np.testing.assert_array_equal(one.positions, other.positions)
    same = one.is_central != central
    np.testing.assert_array_equal(one.axes[same], other.axes[same])
    assert np.abs(one.axes[~same] - other.axes[~same]).max() > 0.1


@pytest.mark.parametrize("strength", [0.3, 0.995, 0.0])
def test_slopes_of_zero_are_the_ordinary_mock(mocks, halos, strength):
    """Bit by bit, also above the limit of the laws."""
    theta = at(mu_cen=strength, mu_sat=-strength, mu_cen_slope=0.0, mu_sat_slope=0.0)
    ordinary = HalotoolsMocks(halos, EDGES).populate(without_slopes(theta), 5)
    for a, b in zip(mocks.populate(theta, 5), ordinary, strict=True):
        np.testing.assert_array_equal(a, b)


def test_one_slope_is_both_with_the_other_at_zero(mocks, halos):
    for slope, other in (SLOPES, SLOPES[::-1]):
        alone = HalotoolsMocks(halos, EDGES, [slope], PIVOT)
        assert alone.parameters[7:] == (slope,)
        theta = at(**{other: 0.0})
        found = alone.populate({name: value for name, value in theta.items() if name != other}, 1)
        np.testing.assert_array_equal(found.axes, mocks.populate(theta, 1).axes)


@pytest.mark.parametrize("strength, expected", [(0.4, 0.99), (-0.4, -0.99), (0.0, 0.0)])
def test_a_satellite_at_the_centre_of_its_host(halos, strength, expected):
    halocat = halos.to_halotools()
    table = halocat.halo_table
    row_of = np.empty(len(table), dtype=int)
    row_of[table["halo_id"]] = np.arange(len(table))
    satellites = np.flatnonzero(table["halo_upid"] != -1)
    for x in "xyz":
        table[f"halo_{x}"][satellites] = table[f"halo_{x}"][row_of[table["halo_hostid"][satellites]]]
    mocks = HalotoolsMocks(halocat, EDGES, SLOPES, PIVOT)
    galaxies = mocks.populate(at(mu_sat=strength), 1)
    found = mocks._mock.galaxy_table["satellite_alignment_strength"][~galaxies.is_central]
    assert len(found) and np.all(found == expected)
    assert np.isfinite(galaxies.axes).all()


def test_mean_over_mocks_is_that_of_the_tables(mocks, pm40_tables):
    """And is not that of one strength for all: the test would see it."""
    found = mocks.realisations(THETA, N_MOCKS, seed=11)
    model = VaryingStrengthModel(pm40_tables, PIVOT)
    predicted = model.predict(THETA, EDGES)
    for name in ("omega", "eta"):
        S = getattr(found, f"S_{name}")
        assert t2_probability(S - getattr(predicted, name) * found.DD) > 1e-3, name
    for slope in SLOPES:
        flat = model.predict(at(**{slope: 0.0}), EDGES)
        assert t2_probability(found.S_omega - flat.omega * found.DD) < 1e-6, slope


def test_points_and_options_are_checked(mocks, pm40, pm40_tables):
    with pytest.raises(ValueError, match=r"Missing parameter.*mu_cen_slope"):
        mocks.populate({k: v for k, v in THETA.items() if k != "mu_cen_slope"}, 1)
    with pytest.raises(ValueError, match="mu_sat_slope must be a number, at least -100 and at most 100; got 101"):
        mocks.populate(at(mu_sat_slope=101), 1)
    with pytest.raises(ValueError, match="mu_cen_slope = 3 is outside"):
        VaryingStrengthModel(pm40_tables, PIVOT).predict(at(mu_cen_slope=3.0), EDGES)
    with pytest.raises(ValueError, match=r"Unknown slope\(s\) mu_cen. The slopes are mu_cen_slope, mu_sat_slope"):
        HalotoolsMocks(pm40, slopes=["mu_cen"])
    with pytest.raises(ValueError, match=r"pivot.*at least 8 and at most 17; got 1000"):
        HalotoolsMocks(pm40, slopes=SLOPES, pivot=1000)
    halocat = pm40.to_halotools()
    halocat.halo_table["halo_rvir"][:] = 0.0
    with pytest.raises(ValueError, match=r"halo_rvir of .* hosts is not positive; mu_sat_slope needs"):
        HalotoolsMocks(halocat, slopes=SLOPES)
