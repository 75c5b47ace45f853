"""Strengths that depend on host mass and on the radius of a satellite, with the shipped tables and emulator."""

import numpy as np
import pytest
import torch

from iaemu.artifact import ArtifactError
from iaemu.binning import PAPER_EDGES, TNG_EDGES
from iaemu.halomodel.alignment import mean_p2
from iaemu.halomodel.radial import N_ONE, RADII, between_radii, strength_basis, to_basis
from iaemu.halomodel.strengths import central_strengths, satellite_strengths
from iaemu.models import load
from iaemu.models.base import ForwardModel
from iaemu.models.laws import (
    SLOPES,
    StrengthSupport,
    VaryingStrengthModel,
)
from iaemu.models.tables import TabulatedModel
from iaemu.parameters import PARAMETERS, Support, SupportError, as_theta

SAMPLE3 = dict(logMmin=11.61, sigma_logM=0.26, logM0=11.8, logM1=12.6, alpha=1.0)
NUMBERS = ("xi", "omega", "eta", "n_gal", "f_sat")


def point(mu_cen=0.6, mu_sat=0.2, slope=0.3, radial=-0.5, **changes):
    return {"mu_cen": mu_cen, "mu_sat": mu_sat, **SAMPLE3, **changes, "mu_cen_slope": slope, "mu_sat_slope": radial}


@pytest.fixture(scope="module")
def tables():
    return TabulatedModel.load()


@pytest.fixture(scope="module")
def model(tables):
    return VaryingStrengthModel(tables)


@pytest.fixture(scope="module")
def emulator():
    return VaryingStrengthModel(load())


@pytest.fixture(scope="module")
def without_radii(tables):
    """Tables as earlier versions made them."""
    rest = {name: value for name, value in tables._tensors.items() if not name.startswith("radial.")}
    return TabulatedModel(rest, tables.metadata)


# ---------------------------------------------------------------------- laws


def test_keeps_the_contract_of_forward_models(model):
    assert isinstance(model, ForwardModel)
    assert model.parameters == (*PARAMETERS, "mu_cen_slope", "mu_sat_slope")
    theta = model.support.sample(6, np.random.default_rng(1))
    flat, shaped = model.predict(theta), model.predict(theta.reshape(2, 3, 9))
    assert flat.omega.shape == (6, 55) and shaped.n_gal.shape == (2, 3)
    np.testing.assert_allclose(shaped.eta.reshape(6, 55), flat.eta, rtol=1e-10, atol=1e-15)
    assert isinstance(model.predict(torch.tensor(theta), statistics="omega").omega, torch.Tensor)


@pytest.mark.parametrize("name", ["model", "emulator"])
def test_slopes_of_zero_are_one_strength_for_all(name, request):
    varying = request.getfixturevalue(name)
    theta = varying.support.sample(20, np.random.default_rng(2))
    theta[:, len(PARAMETERS) :] = 0.0
    found, expected = varying.predict(theta, TNG_EDGES), varying.base.predict(theta[:, :7], TNG_EDGES)
    for name in NUMBERS:
        np.testing.assert_allclose(getattr(found, name), getattr(expected, name), rtol=1e-9, atol=1e-14)


def test_parts_of_satellites_sum_to_the_whole(tables):
    occupation = torch.as_tensor(tables.support.sample(10, np.random.default_rng(3)))[:, 2:]
    sums = tables.sums(occupation)
    parts = tables.satellite_parts(occupation, sums)
    one = torch.ones(len(RADII), dtype=torch.float64) @ tables.radial.to_basis
    torch.testing.assert_close(one, torch.eye(N_ONE, dtype=torch.float64)[0], rtol=1e-12, atol=1e-12)
    for name in ("A_s", "E_cs"):
        torch.testing.assert_close(parts[name].sum(dim=1), getattr(sums, name), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(parts["E_ss"][:, 0, 0], sums.E_ss, rtol=1e-10, atol=0)


def test_slope_and_pivot_are_one_line(tables):
    """mu_cen(M) is the same line, whichever pivot it is written with."""
    low, high = VaryingStrengthModel(tables, 12.0), VaryingStrengthModel(tables, 13.0)
    a, b = low.predict(point(0.5, slope=0.15), TNG_EDGES), high.predict(point(0.65, slope=0.15), TNG_EDGES)
    np.testing.assert_allclose(a.omega, b.omega, rtol=1e-10)
    np.testing.assert_allclose(a.eta, b.eta, rtol=1e-10)


def test_a_larger_strength_of_every_central_is_a_larger_omega_and_the_same_xi(tables):
    model = VaryingStrengthModel(tables, pivot=10.5)  # all hosts lie above
    low, high = (model.predict(point(0.2, 0.0, slope), PAPER_EDGES) for slope in (0.05, 0.1))
    np.testing.assert_array_equal(low.xi, high.xi)
    # Within 0.4 Mpc/h there are few pairs of other galaxies than satellites, whose noise may outweigh the small change.
    omega, eta = high.omega - low.omega, high.eta - low.eta
    assert omega[5:].min() > 0 and omega.min() > -0.1 * omega.max()
    assert eta[5:].min() > 0 and eta.min() > -0.1 * eta.max()
    np.testing.assert_array_equal(model.predict(point(0.0, 0.0, 0.0)).omega, 0.0)


@pytest.mark.parametrize("name", ["model", "emulator"])
def test_stronger_alignment_in_the_centre_is_seen_at_small_separations(name, request):
    """A steeper law that agrees at the virial radius raises omega where satellites near the centre form the pairs."""
    varying = request.getfixturevalue(name)
    theta = np.array([[{**point(0.0, 0.2, 0.0, s)}[key] for key in varying.parameters] for s in (0.0, -0.3, -0.6)])
    omega = varying.predict(theta, TNG_EDGES).omega
    assert np.all(np.diff(omega[:, :9], axis=0) > 0)
    ratio = omega[2] / omega[0]
    assert ratio[0] > 2.5 and ratio[0] > 1.5 * ratio[8]
    np.testing.assert_array_equal(
        omega[2] - omega[2] + varying.predict(theta, TNG_EDGES).xi[0], varying.predict(theta, TNG_EDGES).xi[2]
    )


def test_strengths_are_clipped_as_in_halotools():
    log_mass = torch.tensor([11.0, 12.0, 13.0, 14.0], dtype=torch.float64)
    mu_cen, slope = torch.tensor([0.5], requires_grad=True), torch.tensor([0.4], requires_grad=True)
    strength = central_strengths(mu_cen, slope, log_mass, 13.0)
    torch.testing.assert_close(strength[0].detach(), torch.tensor([-0.3, 0.1, 0.5, 0.9], dtype=torch.float64))
    strength = central_strengths(mu_cen, 3 * slope, log_mass, 13.0)
    assert strength[0].tolist() == pytest.approx([-0.99, -0.7, 0.5, 0.99])
    # Beyond the clip nothing depends on the line.
    (gradient,) = torch.autograd.grad(strength[0, [0, 3]].sum(), mu_cen)
    assert float(gradient) == 0.0
    radius = torch.tensor([1e-9, 0.1, 0.5, 1.0, 1.2], dtype=torch.float64)
    mu_sat, slope = (torch.tensor([value, -value], dtype=torch.float64) for value in (0.3, -0.7))
    strength = satellite_strengths(mu_sat, slope.abs().neg(), radius)
    expected = np.clip(0.3 * radius.numpy() ** -0.7, -0.99, 0.99)
    np.testing.assert_allclose(strength, [expected, -expected], rtol=1e-12)
    # A strength above the limit is kept where the law does not change it.
    for law in (satellite_strengths, lambda mu, s, r: central_strengths(mu, s, torch.log10(r), 0.0)):
        kept = law(torch.tensor([1.0], dtype=torch.float64), torch.tensor([0.0], dtype=torch.float64), radius)
        assert kept.tolist() == [[1.0] * 5]


def test_the_clip_can_be_averaged_over_mass():
    width, slope = 0.04, 0.7
    log_mass = torch.linspace(13.385, 13.585, 401, dtype=torch.float64)  # clipped at 13.486
    tensors = torch.tensor([0.65], dtype=torch.float64), torch.tensor([slope], dtype=torch.float64)
    for sign in (1, -1):
        averaged = central_strengths(sign * tensors[0], sign * tensors[1], log_mass, 13.0, width)[0]
        offset = width * (torch.arange(1000, dtype=torch.float64) + 0.5 - 500) / 1000
        within = (log_mass[:, None] + offset).flatten()
        fine = central_strengths(sign * tensors[0], sign * tensors[1], within, 13.0)
        torch.testing.assert_close(averaged, fine.reshape(401, 1000).mean(dim=1), rtol=0, atol=1e-8)


def test_all_strengths_beyond_the_clip_are_perfect_alignment(tables):
    model = VaryingStrengthModel(tables, pivot=8.5)  # even the lightest host lies 2.5 dex above
    aligned = model.predict(point(1.0, 0.3, slope=1.0, radial=0.0), TNG_EDGES)
    expected = tables.predict({**SAMPLE3, "mu_cen": 1.0, "mu_sat": 0.3}, TNG_EDGES)
    np.testing.assert_allclose(aligned.omega, expected.omega, rtol=1e-10)
    assert model.clipped_share(point(1.0, slope=1.0))["centrals"] == pytest.approx(1.0)


def test_clipped_shares_are_those_of_the_galaxies(model, tables):
    assert model.clipped_share(point(0.6, slope=0.1, radial=0.5)) == {"centrals": 0.0, "satellites": 0.0}
    # All centrals above the pivot: mu_cen = 1 and a rising strength.
    share = float(model.clipped_share(point(1.0, slope=0.01))["centrals"])
    log_mass, centrals = tables.expected_centrals(torch.tensor([list(SAMPLE3.values())], dtype=torch.float64))
    assert share == pytest.approx(float(centrals[:, log_mass > 13.0].sum() / centrals.sum()))
    assert 0.01 < share < 0.2
    # 0.495 / r: half the virial radius, inside which is about half of the satellites.
    assert 0.35 < float(model.clipped_share(point(mu_sat=0.495, radial=-1.0))["satellites"]) < 0.55
    shaped = model.clipped_share(np.tile(as_theta(point(), model.parameters), (2, 3, 1)))
    assert shaped["satellites"].shape == shaped["centrals"].shape == (2, 3)


# ---------------------------------------------------------------------- predictions


@pytest.mark.parametrize("edges", [None, TNG_EDGES], ids=["default", "TNG"])
@pytest.mark.parametrize("slopes", [SLOPES, SLOPES[:1], SLOPES[1:]], ids=["both", "mass", "radius"])
@pytest.mark.parametrize("name", ["tables", "emulator"])
def test_at_occupation_equals_predict(name, slopes, edges, tables, emulator):
    base = tables if name == "tables" else emulator.base
    if not set(slopes) <= set(base.slopes):
        pytest.skip("the emulator does not know the slope in mass")
    model = VaryingStrengthModel(base, slopes=slopes)
    rng = np.random.default_rng(3)
    mu = torch.tensor(rng.uniform([-1, -1, *[-2] * len(slopes)], [1, 1, *[2] * len(slopes)], (8, 2 + len(slopes))))
    fixed = model.at_occupation(SAMPLE3, edges)
    rows = torch.cat([mu[:, :2], torch.tensor([list(SAMPLE3.values())] * 8, dtype=torch.float64), mu[:, 2:]], dim=1)
    expected, found = model.predict(rows, edges), fixed(mu)
    assert set(found) == {"xi", "omega", "eta"}
    for name, value in found.items():
        torch.testing.assert_close(value, getattr(expected, name), rtol=1e-9, atol=1e-13)
    assert fixed.n_gal == pytest.approx(float(expected.n_gal[0]))
    assert set(model.at_occupation(SAMPLE3, edges, ("omega",))(mu)) == {"omega"}
    deviations, (_, both) = model.deviations(rows, edges), fixed.with_deviations(mu)
    for name in ("xi", "omega", "eta"):
        torch.testing.assert_close(both[name], deviations[name], rtol=1e-7, atol=1e-13)
    for column, value in ((0, 1.2), (1, -1.1), (2, 2.5), (0, float("nan"))):
        outside = mu[:1].clone()
        outside[0, column] = value
        with pytest.raises(ValueError, match="outside"):
            fixed(outside)


@pytest.mark.parametrize("name", ["model", "emulator"])
def test_gradients_equal_differences(name, request):
    """In all parameters, and with few and with many galaxies clipped."""
    varying = request.getfixturevalue(name)
    rows = [point(0.6, 0.2, 0.2, -0.4), point(0.6, 0.2, -0.7, 0.3), point(0.5, 0.4, 0.1, -0.8)]
    theta = torch.tensor([[row[key] for key in varying.parameters] for row in rows], dtype=torch.float64)

    def summary(points):
        values = varying.predict(points, TNG_EDGES)
        return torch.cat([10 * values.omega, 100 * values.eta], dim=1).sum(dim=1)

    rows = theta.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(summary(rows).sum(), rows)
    step = 1e-5 * torch.eye(theta.shape[1], dtype=torch.float64)
    with torch.no_grad():
        up, down = (torch.stack([summary(theta + sign * row) for row in step], dim=1) for sign in (1, -1))
    torch.testing.assert_close(gradient, (up - down) / 2e-5, rtol=1e-5, atol=1e-5)
    fixed = varying.at_occupation(SAMPLE3, TNG_EDGES, ("omega", "eta"))
    columns = [0, 1, *range(7, theta.shape[1])]
    mu = theta[:, columns].clone().requires_grad_()
    (quick,) = torch.autograd.grad((10 * fixed(mu)["omega"] + 100 * fixed(mu)["eta"]).sum(), mu)
    torch.testing.assert_close(quick, gradient[:, columns], rtol=1e-7, atol=1e-9)


def test_no_kink_where_a_bin_of_mass_reaches_the_clip(tables):
    """Gradients at points close together differ little: samplers, and checks by differences, rely on it."""
    fixed = VaryingStrengthModel(tables, slopes=SLOPES[:1]).at_occupation(SAMPLE3, TNG_EDGES, ("omega",))
    mu = torch.tensor([[0.79, 0.2, 0.16]] * 400, dtype=torch.float64)
    mu[:, 0] += 1e-5 * torch.arange(400)  # over 0.025 dex of the mass at which centrals are clipped
    mu.requires_grad_()
    (gradient,) = torch.autograd.grad(fixed(mu)["omega"].sum(), mu)
    assert float((gradient[1:, 0] / gradient[:-1, 0] - 1.0).abs().max()) < 1e-4


def test_deviations_with_slopes_of_zero_are_those_of_the_base(model, tables):
    theta = tables.support.sample(5, np.random.default_rng(6))
    found = model.deviations(np.concatenate([theta, np.zeros((5, 2))], axis=1), TNG_EDGES)
    for name, value in tables.deviations(theta, TNG_EDGES).items():
        np.testing.assert_allclose(found[name], value, rtol=1e-9, atol=1e-14)


def test_constant_slopes_of_zero_are_left_out(model, tables):
    assert model.with_constants({"mu_cen_slope": 0.0, "mu_sat_slope": 0.0}) is tables
    assert model.with_constants({"mu_sat_slope": 0.0, "mu_cen": 0.3}).parameters == (*PARAMETERS, "mu_cen_slope")
    assert model.with_constants({"mu_cen_slope": 0.1}) is model


# ---------------------------------------------------------------------- bad input


def test_points_outside_name_the_slope_and_its_range(model):
    for name, value in (("mu_cen_slope", 2.4), ("mu_sat_slope", 2.4)):
        with pytest.raises(SupportError, match=rf"{name} = 2.4 is outside \[-2, 2\] \(nearest supported point: 2\)"):
            model.predict({**point(), name: value})
    with pytest.raises(SupportError, match="logMmin = 9"):
        model.at_occupation([9.0, *list(SAMPLE3.values())[1:]])
    with pytest.raises(ValueError, match=r"Missing parameter.*mu_sat_slope"):
        model.predict({name: value for name, value in point().items() if name != "mu_sat_slope"})
    rejected = model.predict([list(point().values()), list(point(slope=-3.0).values())], support="reject")
    assert np.isfinite(rejected.omega[0]).all() and np.isnan(rejected.omega[1]).all()


def test_a_pivot_that_is_no_log_mass_is_refused(tables):
    with pytest.raises(
        ValueError, match=r"pivot, the log10 of a halo mass .* at least 8 and at most 17; got 10000000000000"
    ):
        VaryingStrengthModel(tables, 1e13)


def test_tables_without_radii_name_the_command_that_makes_them(without_radii, tables):
    assert VaryingStrengthModel(without_radii).parameters == (*PARAMETERS, "mu_cen_slope")
    mass_only = {name: value for name, value in point().items() if name != "mu_sat_slope"}
    both = VaryingStrengthModel(tables).predict({**point(), "mu_sat_slope": 0.0}, TNG_EDGES)
    np.testing.assert_allclose(
        VaryingStrengthModel(without_radii).predict(mass_only, TNG_EDGES).omega, both.omega, rtol=1e-9
    )
    varying = VaryingStrengthModel(without_radii, slopes=SLOPES)
    for call in (lambda: varying.predict(point()), lambda: varying.at_occupation(SAMPLE3)):
        with pytest.raises(ValueError, match=r"mu_sat_slope must be 0\. Make them again with `iaemu train tabulate`"):
            call()
    name = "radial.far_eta_satellite"
    with pytest.raises(ArtifactError, match="do not fit together"):
        TabulatedModel({**tables._tensors, name: tables._tensors[name][:, :5]}, tables.metadata)


def test_an_emulator_without_radii_says_so(emulator):
    base = emulator.base
    alone = type(base)(base.network, base.nodes, base.metadata)
    assert alone.slopes == ()
    with pytest.raises(ValueError, match="Train it again with `iaemu train fit`"):
        VaryingStrengthModel(alone, slopes=SLOPES[1:]).predict([0.5, 0.2, *SAMPLE3.values(), -0.5])
    with pytest.raises(ValueError, match=r"does not know mu_cen_slope; use the tables"):
        VaryingStrengthModel(base, slopes=SLOPES).predict(point())


def test_support_is_that_of_the_tables_with_slopes(tables, model):
    assert model.support.bounds("mu_cen_slope", 12.0) == (-2.0, 2.0)
    assert model.support.bounds("logM1", 12.0) == tables.support.bounds("logM1", 12.0)
    assert StrengthSupport.of(Support()) != Support()
    points = model.support.sample(50, np.random.default_rng(5))
    assert points.shape == (50, 9) and bool(model.support.contains(points).all())
    assert model.support.nearest(point(slope=9.0))[-2] == 2.0


# ---------------------------------------------------------------------- radii


def test_functions_linear_in_log_radius_are_exact():
    x = np.geomspace(0.03, 1.5, 200)
    np.testing.assert_allclose(between_radii(x) @ np.log(RADII), np.log(x), rtol=1e-12, atol=1e-13)
    np.testing.assert_allclose(between_radii([0.0, 0.01, 7.0]) @ RADII, [0.03, 0.03, 1.5], rtol=1e-12)


def test_functions_of_the_radius_are_orthonormal_and_represent_laws(tables):
    profile, basis = tables.satellite_profile.numpy(), strength_basis(tables.satellite_profile.numpy())
    projection = to_basis(basis, profile)
    np.testing.assert_allclose(basis.T @ projection, np.eye(N_ONE), atol=1e-10)
    np.testing.assert_allclose(basis[:, 0], 1.0, rtol=1e-12)
    np.testing.assert_allclose(np.abs(tables.radial.basis), np.abs(basis), atol=1e-6)  # up to signs
    mu, slope = (torch.tensor(values, dtype=torch.float64) for values in ([0.3, 0.6, 0.5], [-0.7, -0.3, 0.8]))
    laws = mean_p2(satellite_strengths(mu, slope, torch.tensor(RADII))).numpy()
    rest = laws - laws @ projection @ basis.T
    share = np.sqrt(np.sum(profile * rest**2, axis=1) / np.sum(profile * laws**2, axis=1))
    assert share.max() < 0.1
    thirds = np.quantile(np.repeat(np.arange(len(RADII)), (1e4 * profile).astype(int)), [1 / 3, 2 / 3])
    classes = np.searchsorted(thirds, np.arange(len(RADII)))
    mean = np.stack(
        [np.average(laws[:, classes == k], axis=1, weights=profile[classes == k]) for k in range(3)], axis=1
    )
    assert (
        share.max()
        < 0.2
        * np.sqrt(np.sum(profile * (laws - mean[:, classes]) ** 2, axis=1) / np.sum(profile * laws**2, axis=1)).max()
    )
