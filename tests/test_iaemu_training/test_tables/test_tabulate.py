"""Tables against the sums that they stand for, by brute force over every tracer of a small box."""

import numpy as np
import pytest
import torch
from scipy.special import erf
from scipy.stats import poisson

from iaemu.binning import PAPER_EDGES, TNG_EDGES, BinningError, nesting_matrix
from iaemu.halomodel.alignment import mean_p2
from iaemu.halomodel.radial import RADII
from iaemu.halomodel.strengths import central_strengths, satellite_strengths
from iaemu.models.tables import TabulatedModel
from iaemu.parameters import Support

pytest.importorskip("numba")

from iaemu_training.halos.catalogue import CatalogueError
from iaemu_training.tables.exact import exact_sums
from iaemu_training.tables.radial import scaled_radius
from iaemu_training.tables.species import Resolution
from iaemu_training.tables.tabulate import TabulationSettings, tabulate

SAMPLES = {
    "sample 1": [12.54, 0.26, 12.68, 13.48, 1.0],
    "sample 2": [11.93, 0.26, 12.05, 12.85, 1.0],
    "steep": [12.0, 0.05, 12.0, 13.0, 1.0],
}
NAMES = ("DD", "A_c", "A_s", "E_cc", "E_cs", "E_ss")


def brute_force(catalogue, theta, r_edges, central_weight=np.ones_like):
    """Expected sums over ordered pairs of all tracers of non-negligible weight (no borrowing), (6, n_bins).

    Orientations of centrals count with a weight, a function of their hosts' log mass.
    """
    logMmin, sigma, logM0, logM1, alpha = theta
    ncen = 0.5 * (1.0 + erf((catalogue.log_mass - logMmin) / sigma))
    nsat = (np.maximum(catalogue.mass - 10**logM0, 0.0) / 10**logM1) ** alpha
    host = catalogue.subhalo_host
    rank = np.arange(len(host)) - catalogue.first_subhalo[host] + 1
    tail = poisson.sf(rank - 1, nsat[host])
    assert tail.sum() == pytest.approx(nsat.sum(), rel=1e-6), "the test point must not borrow"
    used = tail > 1e-9
    radius = np.linalg.norm(catalogue.offset, axis=1, keepdims=True)
    radial = np.divide(catalogue.offset, radius, out=np.zeros_like(catalogue.offset), where=radius > 0)
    hosting = np.flatnonzero(ncen > 1e-9)
    position = np.concatenate([catalogue.position[hosting], catalogue.position[host[used]] + catalogue.offset[used]])
    axis = np.concatenate([catalogue.axis[hosting], radial[used]])
    weight = np.concatenate([ncen[hosting], tail[used]])
    owner = np.concatenate([hosting, host[used]])
    ranks = np.concatenate([np.zeros(len(hosting), dtype=int), rank[used]])
    n_c = len(hosting)
    sums = np.zeros((6, len(r_edges) - 1))
    norm = np.sum(axis**2, axis=1)
    oriented = np.concatenate([central_weight(catalogue.log_mass[hosting]), np.ones(used.sum())])
    for i in range(len(position)):
        d = position - position[i]
        d -= catalogue.Lbox * np.round(d / catalogue.Lbox)
        r = np.linalg.norm(d, axis=1)
        where = np.searchsorted(r_edges, r) - 1
        j = np.flatnonzero((where >= 0) & (where < len(r_edges) - 1))
        j = j[j != i]
        together = weight[i] * weight[j]
        same = (owner[j] == owner[i]) & (ranks[j] > 0) & (ranks[i] > 0)
        together[same] = np.minimum(weight[i], weight[j][same])  # P(N >= max rank)
        omega = oriented[i] * ((axis[i] @ d[j].T / r[j]) ** 2 - norm[i] / 3)
        eta = oriented[i] * oriented[j] * ((axis[i] @ axis[j].T) ** 2 - norm[i] * norm[j] / 3)
        np.add.at(sums[0], where[j], together)
        np.add.at(sums[1 if i < n_c else 2], where[j], together * omega)
        central = j < n_c
        for part, row in ((central, 3 if i < n_c else 4), (~central, 4 if i < n_c else 5)):
            np.add.at(sums[row], where[j][part], (together * eta)[part])
    sums[4] /= 2.0  # E_cs counts one order
    return sums


def steep_strength(log_mass):
    """q of a strength that falls from 0.99 to -0.99, where it is clipped, within the halos of the samples."""
    strength = central_strengths(torch.tensor([0.4]), torch.tensor([-1.2]), torch.as_tensor(log_mass), pivot=12.8)
    return mean_p2(strength)


@pytest.mark.parametrize("weight", [None, steep_strength], ids=["no weight", "mass-dependent"])
@pytest.mark.parametrize("name", SAMPLES)
def test_tables_equal_brute_force(pm40, pm40_tables, name, weight):
    by_host = {} if weight is None else {"central_weight": lambda log_mass: weight(log_mass)[0].numpy()}
    expected = brute_force(pm40, SAMPLES[name], PAPER_EDGES, **by_host)
    sums = pm40_tables.sums(np.array([SAMPLES[name]]), PAPER_EDGES, weight)
    scale = np.abs(expected / expected[0]).max(axis=1)  # of each ingredient as it enters omega and eta
    # A box of (40 Mpc/h)^3 holds a hundred galaxies: what mass bins average over is noisier here than in the shipped
    # tables by the square root of 128.
    for row, (label, limit) in enumerate(zip(NAMES, (0.008, 0.015, 0.005, 0.06, 0.03, 0.005), strict=True)):
        difference = (getattr(sums, label)[0].numpy() - expected[row]) / expected[0]
        assert np.abs(difference).max() < limit * scale[row], label
        assert np.sqrt(np.mean(difference**2)) < 0.4 * limit * scale[row], label


def test_expected_number_of_galaxies_is_the_sum_of_the_occupations(pm40, pm40_tables):
    theta = SAMPLES["sample 2"]
    ncen = 0.5 * (1.0 + erf((pm40.log_mass - theta[0]) / theta[1]))
    nsat = (np.maximum(pm40.mass - 10 ** theta[2], 0.0) / 10 ** theta[3]) ** theta[4]
    sums = pm40_tables.sums(np.array([theta]))
    assert float(sums.n_galaxies) == pytest.approx(ncen.sum() + nsat.sum(), rel=1e-4)
    assert float(sums.f_sat) == pytest.approx(nsat.sum() / (ncen.sum() + nsat.sum()), rel=1e-4)


def test_sums_of_two_boxes_add(pm40):
    support = Support(logMmin=(12.0, 12.6), log_mass_complete=11.0172, n_rmse=1.0)
    coarse = Resolution(dlog_mass=0.1, nodes_per_bin=2, rank_ratio=0.5)
    settings = TabulationSettings(dlog_mass=0.1, two_halo=coarse, n_rank=40, mode_samples=256)
    one, two = (tabulate([pm40] * n, support, r_edges=PAPER_EDGES, settings=settings, progress=False) for n in (1, 2))
    theta = support.sample(5, np.random.default_rng(2))
    single, double = one.sums(theta), two.sums(theta)
    for name in (*NAMES, "RR"):
        # Single-precision tables; the modes of the doubled box differ by rounding.
        np.testing.assert_allclose(getattr(double, name), 2 * getattr(single, name), rtol=2e-4, atol=1e-2)
    np.testing.assert_allclose(double.n_galaxies, single.n_galaxies, rtol=1e-12)


def test_omega_and_eta_factorise_in_mu(pm40_tables):
    theta = pm40_tables.support.sample(4, np.random.default_rng(7))
    isotropic = theta.copy()
    isotropic[:, :2] = 0.0
    zero = pm40_tables.predict(isotropic, PAPER_EDGES)
    assert np.all(np.nan_to_num(zero.omega) == 0) and np.all(np.nan_to_num(zero.eta) == 0)
    np.testing.assert_array_equal(zero.xi, pm40_tables.predict(theta, PAPER_EDGES).xi)
    # Perfectly perpendicular is minus half of perfectly aligned.
    aligned, perpendicular = isotropic.copy(), isotropic.copy()
    aligned[:, :2], perpendicular[:, :2] = 1.0, -1.0
    plus, minus = (pm40_tables.predict(point, PAPER_EDGES) for point in (aligned, perpendicular))
    np.testing.assert_allclose(minus.omega, -0.5 * plus.omega, rtol=1e-12)
    np.testing.assert_allclose(minus.eta, 0.25 * plus.eta, rtol=1e-12)


def test_modes_keep_the_expected_number_of_galaxies_however_steep_the_step(pm40, pm40_tables):
    """At large r, DD / RR of a box tends to the same for any selection: a lost galaxy would show there first."""
    for sigma in (0.01, 0.02, 0.05, 0.3):
        theta = [12.2, sigma, 12.2, 13.3, 1.0]
        expected = brute_force(pm40, theta, PAPER_EDGES[-6:])
        sums = pm40_tables.sums(np.array([theta]), PAPER_EDGES[-6:])
        # Shot noise of what the mass bins average over falls with r, and is 11 times smaller in the shipped tables.
        assert np.all(np.abs(sums.DD[0].numpy() / expected[0] - 1) < [0.02, 0.015, 0.01, 0.006, 0.004])


def test_gradients_equal_central_differences(pm40_tables):
    rng = np.random.default_rng(11)
    theta = torch.tensor(pm40_tables.support.sample(4, rng))
    inside = 0.98 * theta + 0.02 * torch.tensor(pm40_tables.support.from_unit_cube(np.full((4, 7), 0.5)))
    theta = pm40_tables.support.nearest(inside).requires_grad_()

    def summary(point):
        value = pm40_tables.predict(point, TNG_EDGES, support="warn")
        return torch.log1p(value.xi).sum() + 10 * value.omega.sum() + 100 * value.eta.sum()

    (gradient,) = torch.autograd.grad(summary(theta), theta)
    for column in range(7):
        step = torch.zeros(7, dtype=torch.float64)
        step[column] = 1e-5
        with torch.no_grad():
            up = [summary(point) for point in (theta + step)[:, None]]
            down = [summary(point) for point in (theta - step)[:, None]]
        central = (torch.stack(up) - torch.stack(down)) / 2e-5
        np.testing.assert_allclose(gradient[:, column], central, rtol=1e-5, atol=1e-5)


def test_coarse_bins_are_sums_of_fine_ones(pm40_tables):
    theta = pm40_tables.support.sample(3, np.random.default_rng(3))
    fine = pm40_tables.sums(theta)
    for edges in (PAPER_EDGES, TNG_EDGES, PAPER_EDGES[::4], [0.1, 0.23, 0.5, 1.1, 4.0, 19.0]):
        direct, summed = pm40_tables.sums(theta, edges), pm40_tables.rebin(fine, edges)
        for name in (*NAMES, "RR"):
            np.testing.assert_allclose(getattr(direct, name), getattr(summed, name), rtol=1e-9, atol=1e-9)
    for edges in (PAPER_EDGES, TNG_EDGES):
        total = nesting_matrix(pm40_tables.nodes, edges)
        np.testing.assert_allclose(pm40_tables.sums(theta, edges).DD, fine.DD @ total.T, rtol=1e-12)
    with pytest.raises(BinningError, match=r"not within 0\.1 to 19\.096"):
        pm40_tables.predict(theta, [0.1, 0.2, 25.0])  # beyond half of the box


def test_sums_in_any_bins_are_those_of_brute_force(pm40, pm40_tables):
    edges = np.array([0.13, 0.2, 0.31, 0.7, 1.5, 2.9, 7.3, 17.0])
    expected = brute_force(pm40, SAMPLES["sample 2"], edges)
    sums = pm40_tables.sums(np.array([SAMPLES["sample 2"]]), edges)
    scale = np.abs(expected / expected[0]).max(axis=1)
    for row, (label, limit) in enumerate(zip(NAMES, (0.01, 0.06, 0.03, 0.3, 0.06, 0.03), strict=True)):
        difference = (getattr(sums, label)[0].numpy() - expected[row]) / expected[0]
        assert np.abs(difference).max() < limit * scale[row], label


def test_saved_tables_predict_the_same(pm40_tables, tmp_path):
    pm40_tables.save(tmp_path / "tables.safetensors")
    again = TabulatedModel.load(tmp_path / "tables.safetensors")
    theta = pm40_tables.support.sample(2, np.random.default_rng(4))
    for name in ("xi", "omega", "eta"):
        np.testing.assert_array_equal(getattr(again.predict(theta), name), getattr(pm40_tables.predict(theta), name))
    assert again.metadata["catalogues"] == ["pm40"]


def test_shapes_and_kinds_follow_the_input(pm40_tables):
    theta = pm40_tables.support.sample(6, np.random.default_rng(8))
    flat = pm40_tables.predict(theta, TNG_EDGES)
    shaped = pm40_tables.predict(theta.reshape(2, 3, 7), TNG_EDGES)
    assert isinstance(flat.xi, np.ndarray) and shaped.omega.shape == (2, 3, 12) and shaped.n_gal.shape == (2, 3)
    np.testing.assert_allclose(shaped.eta.reshape(6, 12), flat.eta, rtol=1e-12)
    assert isinstance(pm40_tables.predict(torch.tensor(theta), TNG_EDGES).xi, torch.Tensor)
    only = pm40_tables.predict(theta, TNG_EDGES, statistics=("omega",))
    assert only.xi is None and only.eta is None


def test_points_outside_are_rejected_as_nan_or_raise(pm40_tables):
    theta = pm40_tables.support.sample(2, np.random.default_rng(9))
    theta[1, 6] = 3.0
    with pytest.raises(ValueError, match="alpha = 3 is outside"):
        pm40_tables.predict(theta)
    rejected = pm40_tables.predict(theta, TNG_EDGES, support="reject")
    assert np.isfinite(rejected.omega[0]).sum() > 6 and np.isnan(rejected.omega[1]).all()


def test_a_box_too_small_for_the_bins_is_refused(pm40):
    with pytest.raises(CatalogueError, match=r"up to 25 Mpc/h .* box of 40 Mpc/h"):
        tabulate([pm40], Support(logMmin=(12.0, 12.5)), r_edges=[1.0, 25.0])


@pytest.mark.parametrize("slope", [0.6, -0.5])
def test_satellites_by_radius_are_those_of_the_exact_sums(pm40, pm40_tables, slope):
    """A strength that depends on r / Rvir, in all pairs with a satellite."""
    theta, edges = SAMPLES["sample 2"], PAPER_EDGES[:15]
    mu, power = torch.tensor([0.4], dtype=torch.float64), torch.tensor([slope], dtype=torch.float64)

    def factors(catalogue):
        x = torch.as_tensor(np.maximum(scaled_radius(catalogue, catalogue.offset, catalogue.subhalo_host), 1e-6))
        return np.ones(len(catalogue.mass)), mean_p2(satellite_strengths(mu, power, x))[0].numpy()

    expected = exact_sums([pm40], theta, edges, factors=factors).total
    occupation = torch.tensor([theta], dtype=torch.float64)
    sums = pm40_tables.sums(occupation, edges)
    parts = pm40_tables.satellite_parts(occupation, sums, edges)
    weights = mean_p2(satellite_strengths(mu, power, torch.tensor(RADII)))
    found = torch.einsum("ni,nib->nb", weights, parts["A_s"])[0] / sums.DD[0]
    exact = (expected.A_s / expected.DD)[0]
    constant = mean_p2(mu) * (sums.A_s / sums.DD)[0]
    assert float((found - exact).square().mean().sqrt()) < 0.02 * float(exact.square().mean().sqrt())
    assert float((found - exact).square().mean()) < 0.01 * float((constant - exact).square().mean())
