"""Halotools mocks with a mass-dependent alignment of centrals, and the tables' prediction of them."""

import numpy as np
import pytest
from scipy.stats import f as f_distribution

pytest.importorskip("halotools")

from iaemu.halomodel.alignment import mean_p2
from iaemu.models.laws import MassDependentModel, central_strengths
from iaemu_training.mocks.halotools import HalotoolsMocks

torch = pytest.importorskip("torch")

PIVOT = 12.2
EDGES = np.logspace(-1, 1.2, 21)[::4]
#: Dense enough for the small box, without borrowed satellites; centrals below 10^12 Msun/h are perpendicular to their
#: hosts, those above 10^12.7 perfectly aligned, where the strength is clipped.
THETA = dict(mu_cen=0.3, mu_sat=0.5, logMmin=11.6, sigma_logM=0.26, logM0=11.9, logM1=12.7, alpha=1.0, mu_cen_slope=1.5)
N_MOCKS = 60


@pytest.fixture(scope="module")
def mocks(pm40):
    return HalotoolsMocks(pm40, EDGES, pivot=PIVOT)


def t2_probability(z):
    """p-value of a mean of zero: Hotelling's T^2."""
    n, n_bins = z.shape
    t2 = n * z.mean(axis=0) @ np.linalg.solve(np.cov(z, rowvar=False), z.mean(axis=0))
    return f_distribution.sf(t2 * (n - n_bins) / (n_bins * (n - 1)), n_bins, n - n_bins)


def test_strengths_follow_the_line_and_are_clipped(mocks, pm40):
    galaxies = [mocks.populate(THETA, seed) for seed in range(8)]
    host = np.concatenate([g.host[g.is_central] for g in galaxies])
    axes = np.concatenate([g.axes[g.is_central] for g in galaxies])
    p2 = 1.5 * np.sum(axes * pm40.axis[host], axis=1) ** 2 - 0.5
    log_mass = pm40.log_mass[host]
    line = central_strengths(torch.tensor([0.3]), torch.tensor([1.5]), torch.as_tensor(log_mass), PIVOT)
    expected = mean_p2(line)[0].numpy()
    for low, high in ((11.2, 11.33), (11.33, 11.8), (11.8, 12.1), (12.1, 12.6), (12.67, 15.0)):
        part = (log_mass > low) & (log_mass < high)
        error = max(p2[part].std() / np.sqrt(part.sum()), 1e-6)  # perfect alignment has no scatter
        assert abs(p2[part].mean() - expected[part].mean()) < 4 * error
    assert p2[log_mass > 12.67].min() > 1 - 1e-5


def test_satellites_keep_their_strength(mocks, pm40):
    """The slope changes centrals alone: satellites of a mock are the same, axes included, whatever it is."""
    steep, flat = (mocks.populate({**THETA, "mu_cen_slope": slope}, 3) for slope in (1.5, 0.0))
    np.testing.assert_array_equal(steep.positions, flat.positions)
    np.testing.assert_array_equal(steep.axes[~steep.is_central], flat.axes[~flat.is_central])
    assert np.abs(steep.axes[steep.is_central] - flat.axes[flat.is_central]).max() > 0.1


def test_a_slope_of_zero_is_the_ordinary_mock(mocks, pm40):
    ordinary = HalotoolsMocks(pm40, EDGES).populate({k: v for k, v in THETA.items() if k != "mu_cen_slope"}, 5)
    for a, b in zip(mocks.populate({**THETA, "mu_cen_slope": 0.0}, 5), ordinary, strict=True):
        np.testing.assert_array_equal(a, b)


def test_mean_over_mocks_is_that_of_the_tables(mocks, pm40_tables):
    """And is not that of one strength for all masses: the test would see it."""
    found = mocks.realisations(THETA, N_MOCKS, seed=11)
    model = MassDependentModel(pm40_tables, PIVOT)
    predicted, flat = (model.predict({**THETA, "mu_cen_slope": slope}, EDGES) for slope in (1.5, 0.0))
    for name in ("omega", "eta"):
        S = getattr(found, f"S_{name}")
        assert t2_probability(S - getattr(predicted, name) * found.DD) > 1e-3, name
    assert t2_probability(found.S_omega - flat.omega * found.DD) < 1e-8


def test_points_are_checked(mocks, pm40_tables):
    with pytest.raises(ValueError, match=r"Missing parameter.*mu_cen_slope"):
        mocks.populate({k: v for k, v in THETA.items() if k != "mu_cen_slope"}, 1)
    with pytest.raises(ValueError, match="mu_cen_slope = 3 is outside"):
        MassDependentModel(pm40_tables, PIVOT).predict({**THETA, "mu_cen_slope": 3.0}, EDGES)
