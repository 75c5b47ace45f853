"""Bias, alignment amplitude and host mass of galaxies on large scales."""

import numpy as np
import pytest
import torch

import iaemu
from iaemu.binning import BinningError
from iaemu.halomodel.abundance import growth_factor
from iaemu.halomodel.alignment import mean_p2
from iaemu.halomodel.occupation import mean_ncen, mean_nsat
from iaemu.models.growth import RescaledModel
from iaemu.observables.large_scale import C1_RHO_CRITICAL, LargeScales
from iaemu.observables.projected import Projection

SAMPLE1 = [12.54, 0.26, 12.68, 13.48, 1.0]
POINTS = np.array([[0.8, 0.3, *SAMPLE1], [-0.5, 0.2, 13.1, 0.4, 12.91, 14.0, 1.0]])


@pytest.fixture(scope="module")
def emulator():
    return iaemu.load()


@pytest.fixture(scope="module")
def tables():
    return iaemu.TabulatedModel.load()


@pytest.fixture(scope="module", params=["emulator", "tables"])
def model(request):
    return request.getfixturevalue(request.param)


class LinearTheory(iaemu.TabulatedModel):
    """Galaxies that follow linear theory exactly, with a given bias and amplitude."""

    def __init__(self, tables, bias, A_IA, q):
        vars(self).update(vars(tables))
        xi, Xi_2 = (torch.as_tensor(values) for values in LargeScales.shipped(0.0).in_shells(tables.nodes))
        F = A_IA * C1_RHO_CRITICAL * tables.cosmology["Om"]
        self.values = {"xi": bias**2 * xi[None], "A_c": F * bias * Xi_2[None] / (1.5 * q * (1.0 + bias**2 * xi[None]))}
        self.values |= {"A_s": torch.zeros_like(self.values["xi"]), "pairs": torch.full_like(self.values["xi"], 1e6)}
        self.values |= {"n_gal": torch.tensor([1e-3]), "f_sat": torch.tensor([0.2])}

    def _shells(self, theta):
        return {name: value.expand(len(theta), *value.shape[1:]) for name, value in self.values.items()}


def test_linear_theory_gives_its_own_bias_and_amplitude(tables):
    q = float(mean_p2(torch.tensor(0.8, dtype=torch.float64)))
    exact = LinearTheory(tables, bias=1.7, A_IA=3.2, q=q)
    for r_min in (6.0, 10.0):
        found = exact.large_scale(POINTS[0], r_min=r_min)
        assert found.b_g == pytest.approx(1.7, rel=1e-9) and found.A_IA == pytest.approx(3.2, rel=1e-9)
    assert exact.large_scale(POINTS[0], a_shape=0.4).A_IA == pytest.approx(0.4 * 3.2, rel=1e-9)


def test_amplitudes_agree_with_ratios_to_linear_theory_by_bin(model):
    edges = np.array([10.0, 12.59, 15.85, 19.95])  # nodes
    xi, Xi_2 = LargeScales.shipped(0.0).in_shells(edges)
    found, shells = model.large_scale(POINTS[0]), model.predict(POINTS[0], edges)
    bias = np.sqrt(shells.xi / xi)
    assert np.all(np.abs(bias / found.b_g - 1) < 0.1)
    F = 1.5 * (1 + shells.xi) * shells.omega / (found.b_g * Xi_2)
    assert np.median(F / (C1_RHO_CRITICAL * model.cosmology["Om"])) == pytest.approx(found.A_IA, rel=0.15)


def test_emulator_and_tables_agree_within_a_percent(emulator, tables):
    one, other = (model.large_scale(POINTS) for model in (emulator, tables))
    np.testing.assert_allclose(one.b_g, other.b_g, rtol=0.01)
    np.testing.assert_allclose(one.A_IA, other.A_IA, rtol=0.02)
    np.testing.assert_allclose(one.log10_M_h, other.log10_M_h, atol=1e-12)


def test_no_alignment_has_an_amplitude_of_zero(model):
    found = model.large_scale([0.0, 0.0, *SAMPLE1], deviations=True)
    assert found.A_IA == pytest.approx(0.0, abs=1e-12) and np.isfinite(found.sigma["A_IA"])
    aligned = model.large_scale([0.8, 0.3, *SAMPLE1], deviations=True)
    assert 0 < aligned.sigma["A_IA"] < 0.2 * aligned.A_IA and 0 < aligned.sigma["b_g"] < 0.2 * aligned.b_g
    assert model.large_scale([-0.8, -0.3, *SAMPLE1]).A_IA < 0 < aligned.A_IA


def test_more_massive_hosts_are_more_biased(emulator):
    points = np.array([[0.8, 0.3, m, 0.35, m + 0.1, m + 1.1, 1.0] for m in (12.0, 12.6, 13.2)])
    found = emulator.large_scale(points)
    assert np.all(np.diff(found.b_g) > 0) and np.all(np.diff(found.log10_M_h) > 0)


def test_gradients_agree_with_differences(model):
    theta = torch.tensor(POINTS, requires_grad=True)
    steps = 1e-5 * torch.eye(theta.shape[1], dtype=torch.float64)
    for name in ("A_IA", "b_g", "log10_M_h"):
        (gradient,) = torch.autograd.grad(getattr(model.large_scale(theta), name).sum(), theta)
        with torch.no_grad():
            ends = [[getattr(model.large_scale(theta + s * h), name) for h in steps] for s in (1, -1)]
        differences = (torch.stack(ends[0], dim=1) - torch.stack(ends[1], dim=1)) / 2e-5
        torch.testing.assert_close(gradient, differences, rtol=1e-5, atol=1e-6)


def test_errors_are_those_of_the_amplitudes(model):
    found = model.large_scale(POINTS, 0.4, deviations=True)
    projection = Projection.of_large_scales()
    own = model.deviations(POINTS, projection, ("xi", "omega"))
    values = model.project(POINTS, projection, a_shape=0.4)
    np.testing.assert_allclose(found.deviations["b_g"] * 2 * found.b_g[:, None], own["xi"][..., 0], rtol=1e-9)
    # To first order, A_IA of what the prediction becomes with one deviation.
    small, factor = 1e-4, found.A_IA * np.sqrt(values.b2[:, 0]) / values.K[:, 0]
    b2, K = (values.b2 + small * own["xi"][..., 0]), (values.K + small * 0.4 * own["omega"][..., 0])
    moved = (factor[:, None] * K / np.sqrt(b2) - found.A_IA[:, None]) / small
    np.testing.assert_allclose(found.deviations["A_IA"], moved, rtol=1e-2, atol=1e-3)


def test_the_mean_host_mass_is_that_of_the_catalogue(emulator):
    pytest.importorskip("h5py")
    from iaemu_training.halos.catalogue import HaloCatalogue

    log_mass = torch.as_tensor(np.log10(HaloCatalogue.load("pm160a").mass))
    for point in POINTS:
        logMmin, sigma_logM, logM0, logM1, alpha = point[2:]
        galaxies = mean_ncen(log_mass, logMmin, sigma_logM) + mean_nsat(log_mass, logM0, logM1, alpha)
        expected = float((galaxies * log_mass).sum() / galaxies.sum())
        assert emulator.large_scale(point).log10_M_h == pytest.approx(expected, abs=0.05)


def test_a_rescaled_model_has_the_bias_of_the_new_matter(emulator):
    cosmology = emulator.cosmology
    rescaled = RescaledModel(emulator, 0.9 * cosmology["sigma8"] * growth_factor(cosmology["Om"], 0.0))
    one, other = emulator.large_scale(POINTS), rescaled.large_scale(POINTS)
    factors = rescaled.factors(torch.as_tensor(POINTS[:, 2:]))
    # xi follows (s b)^2, so that b follows that of halos; (1 + xi) omega follows s b, so that F = K / (s b) stays.
    np.testing.assert_allclose(other.b_g / one.b_g, factors["xi"].sqrt() / 0.9, rtol=1e-6)
    np.testing.assert_allclose(other.A_IA / one.A_IA, 1 / 0.9, rtol=0.02)


def test_what_cannot_be_found_is_refused(emulator, tables):
    short = LinearTheory(tables, 1.0, 1.0, 1.0)
    short.nodes = tables.nodes[tables.nodes < 5.0]
    with pytest.raises(BinningError, match=r"fitted beyond r = 10 Mpc/h, but this model ends at 4\.467 Mpc/h"):
        short.large_scale(POINTS)
    with pytest.raises(ValueError, match=r"r_min \[Mpc/h\] must be a number, at least 1 and at most 100; got 0\.5"):
        emulator.large_scale(POINTS, r_min=0.5)
    unknown = LinearTheory(tables, 1.0, 1.0, 1.0)
    unknown.metadata = {
        name: value for name, value in tables.metadata.items() if "catalogue" not in name and name != "cosmology"
    }
    with pytest.raises(ValueError, match="do not state Om, Ob, h, sigma8, ns"):
        unknown.large_scale(POINTS)
