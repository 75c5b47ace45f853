"""Models at another sigma8(z): limits, and abundances and bias of halos against colossus."""

import numpy as np
import pytest
import torch
from scipy.integrate import trapezoid

import iaemu
from iaemu.halomodel.abundance import bias, growth_factor, multiplicity, rms_of_spheres
from iaemu.halomodel.occupation import mean_ncen, mean_nsat
from iaemu.models.growth import ONE_HALO, TWO_HALO, RescaledModel, sigma8_of

BOLPLANCK = {"Om": 0.30711, "Ob": 0.048, "h": 0.678, "sigma8": 0.8228, "ns": 0.96}
EDGES = np.array([0.1, 0.3, 0.8, 1.4, 2.2, 3.2, 6.0, 12.0])


@pytest.fixture(scope="module")
def model():
    return iaemu.load()


@pytest.fixture(scope="module")
def theta(model):
    points = model.support.from_unit_cube(np.random.default_rng(3).uniform(0.3, 0.7, (4, 7)))
    points[:, :2] = 0.8, 0.3
    return points


@pytest.fixture
def colossus():
    module = pytest.importorskip("colossus.cosmology.cosmology")
    before = module.current_cosmo

    def use(sigma8=0.8228):
        parameters = {"flat": True, "relspecies": False, "H0": 67.8, "Om0": 0.30711, "Ob0": 0.048, "ns": 0.96}
        return module.setCosmology("test", params={**parameters, "sigma8": sigma8}, persistence="")

    yield use
    module.current_cosmo = before


def test_models_state_their_cosmology(model):
    assert model.cosmology == {**BOLPLANCK, "redshift": 0.0}
    assert iaemu.VaryingStrengthModel(model, slopes=["mu_sat_slope"]).cosmology == model.cosmology


@pytest.mark.parametrize(
    "metadata, known",
    [
        ({}, None),
        ({"cosmology": "not stated by the catalogue", "redshift": 0.5}, None),
        ({"cosmology": "flat LCDM Om = 0.3, Ob = 0.05, ns = 1e-1", "redshift": 0.5},
         {"Om": 0.3, "Ob": 0.05, "ns": 0.1, "redshift": 0.5}),
        ({"cosmology": "Om0=0.3 w0=-1 A_s=2.1e-09", "catalogue_attributes": [{"sigma8": 0.8, "seed": 3}]},
         {"Om": 0.3, "w0": -1.0, "A_s": 2.1e-9, "sigma8": 0.8, "redshift": 0.0}),
    ],
)  # fmt: skip
def test_the_cosmology_is_what_the_catalogues_state(metadata, known, model, monkeypatch):
    monkeypatch.setattr(model, "metadata", metadata)
    assert model.cosmology == known
    with pytest.raises(ValueError, match=r"do not state (Om|Ob|h|sigma8|ns)"):
        RescaledModel(model, 0.8)


def test_equal_sigma8_changes_nothing(model, theta):
    same = RescaledModel(model, sigma8_of(model))
    own, found = model.predict(theta, EDGES), same.predict(theta, EDGES)
    for name in ("xi", "omega", "eta"):
        assert getattr(found, name) == pytest.approx(getattr(own, name), rel=1e-12)
    assert same.project(theta, rp=[0.3, 5.0], pi_max=60).w_gplus == pytest.approx(
        model.project(theta, rp=[0.3, 5.0], pi_max=60).w_gplus, rel=1e-12
    )


def test_factors_hold_for_sums_over_pairs_on_either_side_of_the_transition(model, theta):
    other = RescaledModel(model, 0.87)
    factors = {name: value.numpy()[:, None] for name, value in other.factors(torch.as_tensor(theta[:, 2:])).items()}
    own, found = model.predict(theta, EDGES), other.predict(theta, EDGES)
    near, far = slice(0, 2), slice(5, None)
    assert EDGES[2] < ONE_HALO and EDGES[5] > TWO_HALO
    assert found.xi[:, near] == pytest.approx(factors["one_halo"] * own.xi[:, near])
    assert found.xi[:, far] == pytest.approx(factors["xi"] * own.xi[:, far])
    for name in ("omega", "eta"):
        sums = [(1 + each.xi) * getattr(each, name) for each in (own, found)]
        assert sums[1][:, near] == pytest.approx(factors["one_halo"] * sums[0][:, near])
        assert sums[1][:, far] == pytest.approx(factors[name] * sums[0][:, far])
    between = found.xi[:, 2:5] / own.xi[:, 2:5]
    assert np.all(np.diff(between, axis=1) < 0) and np.all(between < factors["one_halo"])
    assert np.all(between > factors["xi"])


def test_more_clustered_matter_has_more_pairs_and_less_biased_galaxies(model, theta):
    occupation = torch.as_tensor(theta[:, 2:])
    values = [RescaledModel(model, s * 0.8228).factors(occupation) for s in (0.9, 0.95, 1.0, 1.05, 1.1)]
    for name in ("one_halo", "xi", "omega"):
        assert bool((torch.stack([value[name] for value in values]).diff(dim=0) > 0).all()), name
    assert bool((values[-1]["omega"] < 1.1).all())  # b falls as sigma8 rises


def test_projected_statistics_and_fixed_occupations_follow(model, theta):
    other = RescaledModel(model, 0.9)
    bins = {"rp": [0.2, 8.0], "pi_max": 60}
    own, found = (each.project(theta[0], **bins) for each in (model, other))
    factors = {name: float(value[0]) for name, value in other.factors(torch.as_tensor(theta[:1, 2:])).items()}
    assert found.w_gg[1] == pytest.approx(factors["xi"] * own.w_gg[1], rel=1e-9)
    assert found.w_gplus[1] == pytest.approx(factors["omega"] * own.w_gplus[1], rel=1e-9)
    assert found.tail_gg == pytest.approx(factors["xi"] * own.tail_gg)
    assert factors["xi"] < found.w_gg[0] / own.w_gg[0] < factors["one_halo"]
    at = other.at_occupation(theta[0, 2:], EDGES)
    there = at(torch.as_tensor(theta[:1, :2]))
    expected = other.predict(theta[0], EDGES)
    for name in ("xi", "omega", "eta"):
        assert there[name][0].numpy() == pytest.approx(getattr(expected, name))
    assert at.n_deviations == other.n_deviations == model.n_deviations > 0
    assert np.array_equal(other.deviations(theta, EDGES)["xi"], model.deviations(theta, EDGES)["xi"])


def test_gradients_are_those_of_differences(model, theta):
    other = RescaledModel(model, 0.75)
    point = torch.as_tensor(theta[:1]).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: other.predict(x, EDGES, ("omega",)).omega, (point,), rtol=1e-3)


def test_a_strength_that_varies_is_rescaled_too(model, theta):
    base = iaemu.VaryingStrengthModel(model, slopes=["mu_sat_slope"])
    point = np.append(theta[0], 0.0)
    found, expected = RescaledModel(base, 0.9), RescaledModel(model, 0.9)
    assert found.predict(point, EDGES).omega == pytest.approx(expected.predict(theta[0], EDGES).omega, rel=1e-6)
    bins = {"rp": [0.2, 8.0], "pi_max": 60}
    assert found.project(point, **bins).w_gplus == pytest.approx(expected.project(theta[0], **bins).w_gplus, rel=1e-6)


def test_a_sigma8_far_away_is_refused_with_the_figures(model):
    message = r"sigma8\(z\) = 0.4 is 0.4861 times that of the model, 0.8228; .* 0.7 to 1.4 times"
    with pytest.raises(ValueError, match=message):
        RescaledModel(model, 0.4)
    with pytest.raises(ValueError, match="sigma8"):
        RescaledModel(model, float("nan"))


def test_rms_growth_bias_and_abundance_are_those_of_colossus(colossus):
    from colossus.lss import bias as colossus_bias
    from colossus.lss import mass_function

    cosmology = colossus()
    radius = np.geomspace(0.5, 20, 9)
    known = cosmology.sigma(radius, 0.0, ps_args={"model": "eisenstein98_zb"})
    assert rms_of_spheres(radius, **BOLPLANCK) == pytest.approx(known, rel=2e-3)
    assert rms_of_spheres(radius, **BOLPLANCK) == pytest.approx(cosmology.sigma(radius, 0.0), rel=0.015)  # with wiggles
    for z in (0.3, 1.0):
        assert growth_factor(BOLPLANCK["Om"], z) == pytest.approx(cosmology.growthFactor(z), rel=1e-3)
    nu = np.linspace(0.6, 4.0, 9)
    assert bias(nu) == pytest.approx(colossus_bias.haloBiasFromNu(nu, 0.0, "200m", "tinker10"), rel=1e-3)
    # colossus has the abundances of Tinker et al. 2008, which are from the same simulations.
    share = mass_function.massFunction(nu, 0.0, q_in="nu", q_out="f", mdef="200m", model="tinker08")
    assert multiplicity(nu, 0.0) == pytest.approx(share, rel=0.1)


def test_matter_is_not_biased_against_itself():
    """The normalisation of Tinker et al. 2010: their bias, weighted with the matter in halos, is 1."""
    log_nu = np.linspace(-9, 2.3, 4000)
    nu = np.exp(log_nu)
    assert trapezoid(multiplicity(nu, 0.0) * bias(nu), log_nu) == pytest.approx(1.0, abs=0.01)


def test_the_factors_are_those_of_halos_of_colossus(model, theta, colossus):
    """Sums over masses with colossus's abundance, bias and full transfer function, in two cosmologies."""
    from colossus.lss import bias as colossus_bias
    from colossus.lss import mass_function

    mass = 10 ** np.linspace(10.5, 15.9, 300)
    occupation = [torch.as_tensor(value) for value in theta[0, 2:]]
    log_mass = torch.log10(torch.as_tensor(mass))
    centrals, satellites = (
        mean_ncen(log_mass, *occupation[:2]).numpy(),
        mean_nsat(log_mass, *occupation[2:]).numpy(),
    )
    found = []
    for sigma8 in (0.8228, 0.9):
        colossus(sigma8)
        n = mass_function.massFunction(mass, 0.0, mdef="200m", model="tinker08", q_out="dndlnM")
        b = colossus_bias.haloBias(mass, 0.0, "200m", "tinker10")
        number = (n * (centrals + satellites)).sum()
        mean_bias = (n * b * (centrals + satellites)).sum() / number
        found.append((sigma8 * mean_bias, (n * satellites * (2 * centrals + satellites)).sum() / number**2))
    factors = RescaledModel(model, 0.9).factors(torch.as_tensor(theta[:1, 2:]))
    assert float(factors["omega"][0]) == pytest.approx(found[1][0] / found[0][0], rel=3e-3)
    assert float(factors["one_halo"][0]) == pytest.approx(found[1][1] / found[0][1], rel=0.02)
