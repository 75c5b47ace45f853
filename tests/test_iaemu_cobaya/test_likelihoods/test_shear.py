"""The likelihood of cosmic shear: against CCL, in its parameters, in Cobaya."""

from dataclasses import replace

import numpy as np
import pytest
from cobaya.log import LoggedError
from cobaya.model import get_model
from cobaya.theory import Theory

from iaemu_cobaya.likelihoods import shear_spectra
from iaemu_cobaya.likelihoods.shear import CosmicShear, DESY1Shear
from iaemu_cobaya.likelihoods.shear_data import ShearData

ccl = pytest.importorskip("pyccl")

OURS = "iaemu_cobaya.DESY1Shear"
COSMOLOGY = {"Omega_m": 0.3, "sigma8": 0.79, "h": 0.69, "n_s": 0.97, "Omega_b": 0.048}
NUISANCES = {f"des_y1_m_{k}": 0.012 for k in (1, 2, 3, 4)}
NUISANCES.update({f"des_y1_dz_{k}": shift for k, shift in enumerate((-0.001, -0.019, 0.009, -0.018), start=1)})
#: Without halofit, which takes most of the time.
LINEAR = {"transfer_function": "eisenstein_hu", "matter_power_spectrum": "linear"}
FLAT = {"prior": {"min": -5, "max": 5}, "ref": 1.0}


@pytest.fixture(scope="module")
def like():
    return DESY1Shear()


@pytest.fixture(scope="module")
def small():
    """Two source bins, three separations, of DES."""
    data = ShearData.read(shear_spectra.__file__.replace("shear_spectra.py", "data/shear/des_y1.txt"))
    used = np.isin(data.pairs, (1, 3)).all(axis=1) & (np.abs(np.log(data.theta / 120.0)) < 0.4)
    chosen = data.select(used)
    pairs = (chosen.pairs == 3).astype(int)
    return replace(chosen, pairs=pairs, nz=chosen.nz[[1, 3]])


@pytest.fixture(scope="module")
def two(small):
    return CosmicShear({"data": small, "ccl": LINEAR})


def sigma(like):
    return np.sqrt(np.diag(like.covariance_matrix))


# ---------------------------------------------------------------------- the prediction


@pytest.mark.parametrize(("a_ia", "expected"), [(1.0, 231.5), (0.0, 235.2)])
def test_chi2_of_des_y1_is_that_of_ccl(like, a_ia, expected):
    """CCL's own integrals, in the flat sky, give 231.54 and 234.9."""
    found = like.chi2(like.prediction({**COSMOLOGY, **NUISANCES, "A_IA": a_ia}))
    assert found == pytest.approx(expected, abs=0.3)


def test_spectra_and_correlations_are_those_of_ccl(two, small):
    cosmology = ccl.Cosmology(Omega_c=0.252, Omega_b=0.048, h=0.69, n_s=0.97, sigma8=0.79, **LINEAR)
    amplitude = 1.7 * ((1 + small.z) / 1.62) ** 0.8
    tracers = [ccl.WeakLensingTracer(cosmology, dndz=(small.z, row), ia_bias=(small.z, amplitude)) for row in small.nz]
    ell = np.geomspace(2, 60000, 150)
    expected = np.zeros(len(small.values))
    for pair in ((0, 0), (0, 1), (1, 1)):
        spectrum = ccl.angular_cl(cosmology, *(tracers[number] for number in pair), ell)
        for statistic, kind in (("xi_plus", "GG+"), ("xi_minus", "GG-")):
            here = (small.statistic == statistic) & np.all(small.pairs == pair, axis=1)
            theta = small.theta[here] / 60.0
            expected[here] = ccl.correlation(cosmology, ell=ell, C_ell=spectrum, theta=theta, type=kind)
    found = two.prediction({**COSMOLOGY, "A_IA": 1.7, "eta_IA": 0.8})
    # CCL's flat sky is 1 to 2 % off at 2 degrees, a small part of the error; see the next test.
    assert found == pytest.approx(expected, rel=0.025)
    assert np.abs((found - expected) / sigma(two)).max() < 0.06
    minus = small.statistic == "xi_minus"
    assert found[minus] == pytest.approx(expected[minus], rel=0.012)


def test_the_transform_is_the_sum_over_the_sphere():
    """At 150 arcmin, with a spectrum whose sum needs few multipoles; Wigner's d from its closed form."""
    from scipy.special import eval_jacobi

    ell = np.arange(2, 6000)
    smooth = np.exp(-(((np.log(np.maximum(ell, 2)) - 5.0) / 0.8) ** 2))
    nodes = shear_spectra._NODES
    theta = np.array([150.0, 30.0])
    for statistic, (power, first) in {"xi_plus": (np.cos, 0), "xi_minus": (np.sin, 4)}.items():
        angle = np.radians(theta / 60.0)[:, None]
        wigner = power(angle / 2) ** 4 * eval_jacobi(ell - 2, first, 4 - first, np.cos(angle))
        expected = np.sum((2 * ell + 1) / (4 * np.pi) * smooth * wigner, axis=1)
        matrix = shear_spectra.hankel_matrix(np.full(2, statistic, dtype=object), theta)
        found = matrix @ np.exp(-(((np.log(nodes) - 5.0) / 0.8) ** 2))
        assert found == pytest.approx(expected, rel=2e-3, abs=1e-4 * np.abs(expected).max())


def test_it_is_quadratic_in_the_amplitude(two, small):
    zero, one, three = (two.prediction({**COSMOLOGY, "A_IA": a_ia}) for a_ia in (0.0, 1.0, 3.0))
    minus = two.prediction({**COSMOLOGY, "A_IA": -1.0})
    linear, square = 0.5 * (one - minus), 0.5 * (one + minus) - zero
    assert three == pytest.approx(zero + 3 * linear + 9 * square)
    # Aligned with the density field: it lowers the correlation with shear behind it, and adds that of shapes.
    assert np.all(zero > 0) and np.all(linear < 0)
    close = (small.pairs[:, 0] == small.pairs[:, 1]) & (small.statistic == "xi_plus") & (small.theta < 120)
    assert close.any() and np.all(square[close] > 0)


def test_the_ratio_of_the_samples_multiplies_the_amplitude(two):
    both = two.prediction({**COSMOLOGY, "A_IA": 4.6, "ia_ratio": 0.2})
    assert both == pytest.approx(two.prediction({**COSMOLOGY, "A_IA": 0.92}))


def test_evolution_leaves_the_amplitude_at_z0(small):
    """In a thin shell at z0 it does nothing; beyond it raises alignment."""
    z = np.linspace(0.60, 0.64, 9)
    thin = replace(small, z=z, nz=np.ones((2, 9)))
    like = CosmicShear({"data": thin, "ccl": LINEAR})
    flat, steep = (like.prediction({**COSMOLOGY, "A_IA": 2.0, "eta_IA": eta}) for eta in (0.0, 3.0))
    assert steep == pytest.approx(flat, rel=2e-3)


def test_calibration_multiplies_both_shapes(two, small):
    zero = two.prediction({**COSMOLOGY, "A_IA": 1.0})
    found = two.prediction({**COSMOLOGY, "A_IA": 1.0, "shear_m_1": 0.1, "shear_m_2": -0.05})
    factor = np.array([1.1, 0.95])[small.pairs].prod(axis=1)
    assert found == pytest.approx(factor * zero)


def test_shifts_are_those_of_the_distributions(two, small):
    found = two.prediction({**COSMOLOGY, "A_IA": 1.0, "shear_dz_1": 0.05, "shear_dz_2": 0.05})
    # 0.05 is five steps of the table
    moved = replace(small, nz=np.pad(small.nz, ((0, 0), (5, 0)))[:, :-5])
    assert found == pytest.approx(
        CosmicShear({"data": moved, "ccl": LINEAR}).prediction({**COSMOLOGY, "A_IA": 1.0}), rel=2e-3
    )


def test_linear_spectra_scale_with_sigma8(small):
    like = CosmicShear(
        {"data": small, "ccl": {"transfer_function": "eisenstein_hu", "matter_power_spectrum": "linear"}}
    )
    low, high = (like.prediction({**COSMOLOGY, "sigma8": sigma8, "A_IA": 1.0}) for sigma8 in (0.6, 0.9))
    assert high == pytest.approx(2.25 * low)


def test_neutrinos_are_part_of_matter():
    cosmology = shear_spectra.cosmology_of_parameters({**COSMOLOGY, "h": 0.7, "m_nu": 0.06}, {})
    assert cosmology["Omega_m"] == pytest.approx(0.3, rel=1e-6)
    assert cosmology["Omega_nu_mass"] == pytest.approx(0.06 / 93.14 / 0.7**2, rel=0.01)


def test_order_of_bins_does_not_matter(two, small):
    turned = CosmicShear({"data": replace(small, pairs=small.pairs[:, ::-1]), "ccl": LINEAR})
    point = {**COSMOLOGY, "A_IA": 1.0, "shear_dz_1": 0.02, "shear_m_2": 0.1}
    assert turned.prediction(point) == pytest.approx(two.prediction(point))


# ---------------------------------------------------------------------- in Cobaya


class GivesAlignment(Theory):
    """A third party's theory: A_IA is five times its parameter."""

    def get_can_provide_params(self):
        return ["A_IA"]

    def calculate(self, state, want_derived=True, strength=0.2):
        state["derived"] = {"A_IA": 5.0 * strength}


def run_of(small, params, theory=None, **options):
    info = {"likelihood": {"shear": {"class": CosmicShear, "data": small, "ccl": LINEAR, **options}}, "params": params}
    return get_model({**info, "theory": theory} if theory else info)


def test_a_theory_gives_the_amplitude(small, two):
    theory = {"alignment": {"external": GivesAlignment, "input_params": ["strength"]}}
    model = run_of(small, {**COSMOLOGY, "strength": {"prior": {"min": 0, "max": 1}}, "A_IA": None}, theory)
    for strength in (0.2, 0.6):
        loglike, derived = model.loglike({"strength": strength})
        expected = two.log_likelihood(two.prediction({**COSMOLOGY, "A_IA": 5 * strength}))
        assert loglike == pytest.approx(expected)
        assert derived[list(model.parameterization.derived_params()).index("A_IA")] == pytest.approx(5 * strength)


def test_without_amplitude_cobaya_says_what_is_missing(small):
    with pytest.raises(LoggedError, match="A_IA"):
        run_of(small, COSMOLOGY)


def test_s8_is_derived_from_sigma8_or_the_other_way_round(small, two):
    model = run_of(small, {**COSMOLOGY, "Omega_m": 0.4, "A_IA": FLAT, "S8": None})
    names = list(model.parameterization.derived_params())
    loglike, derived = model.loglike({"A_IA": 1.0})
    assert derived[names.index("S8")] == pytest.approx(0.79 * (0.4 / 0.3) ** 0.5)
    s8 = {"prior": {"min": 0.4, "max": 1.2}, "drop": True}
    given = {"S8": s8, "sigma8": {"value": "lambda S8, Omega_m: S8 * (0.3 / Omega_m) ** 0.5"}, "A_IA": 1.0}
    other = run_of(small, {**COSMOLOGY, "Omega_m": 0.4, **given})
    assert other.loglike({"S8": 0.79 * (0.4 / 0.3) ** 0.5}, return_derived=False) == pytest.approx(loglike)


def test_des_y1_samples_its_nuisances_with_the_published_priors():
    model = get_model({"likelihood": {OURS: {"theta_min": 100}}, "params": {**COSMOLOGY, "A_IA": FLAT}})
    assert set(model.parameterization.sampled_params()) == {"A_IA", *NUISANCES}
    assert model.parameterization.constant_params()["ia_ratio"] == 1
    center = {**NUISANCES, "A_IA": 0.0}
    one_off = {**center, "des_y1_m_2": 0.035, "des_y1_dz_4": 0.004}
    difference = model.logprior(center) - model.logprior(one_off)
    assert difference == pytest.approx(1.0, abs=1e-6)


def test_names_are_the_runs_own(small, two):
    names = {"Omega_m": "omegam", "n_s": "ns", "shear_m_1": "calibration", "ia_ratio": "red_fraction"}
    params = {names.get(key, key): value for key, value in COSMOLOGY.items()}
    model = run_of(small, {**params, "calibration": 0.1, "red_fraction": 0.5, "A_IA": FLAT}, param_map=names)
    expected = two.prediction({**COSMOLOGY, "A_IA": 1.0, "shear_m_1": 0.1, "ia_ratio": 0.5})
    assert model.loglike({"A_IA": 1.0}, return_derived=False) == pytest.approx(two.log_likelihood(expected))


def test_only_slow_parameters_take_time_and_a_rejected_step_takes_none(small, monkeypatch):
    like = CosmicShear({"data": small, "ccl": LINEAR})
    calls = []
    for name in ("line_of_sight", "parts"):
        real = getattr(like._spectra, name)
        monkeypatch.setattr(like._spectra, name, lambda *a, _r=real, _n=name, **k: (calls.append(_n), _r(*a, **k))[1])
    steps = [{}, {"A_IA": 2.0, "shear_m_1": 0.1}, {"shear_dz_2": 0.01}, {"Omega_m": 0.32}, {"A_IA": 0.5}]
    counted = []
    for step in steps:
        like.prediction({**COSMOLOGY, "A_IA": 1.0, **step})
        counted.append((calls.count("line_of_sight"), calls.count("parts")))
    assert counted == [(1, 1), (1, 1), (1, 2), (2, 3), (2, 3)]


class GivesCosmology(Theory):
    """In the place of CAMB: the tables are those of a cosmology of CCL."""

    def initialize(self):
        self.used = ccl.Cosmology(Omega_c=0.252, Omega_b=0.048, h=0.69, n_s=0.97, sigma8=0.79, **LINEAR)

    def get_can_provide(self):
        return ["Pk_grid", "comoving_radial_distance", "Hubble"]

    def get_can_provide_params(self):
        return ["omegam"]

    def must_provide(self, **requirements):
        asked = requirements.get("Pk_grid")
        if asked:
            assert asked["nonlinear"] == (False, True)
            # more redshifts than asked for, as other likelihoods would want
            self.z = np.sort(np.append(asked["z"], 0.777))
            self.k = np.geomspace(1e-4, asked["k_max"], 400)

    def calculate(self, state, want_derived=True, **params):
        state["derived"] = {"omegam": 0.3}

    def get_comoving_radial_distance(self, z):
        return ccl.comoving_radial_distance(self.used, 1 / (1 + z))

    def get_Hubble(self, z, units):
        assert units == "km/s/Mpc"
        return 69.0 * ccl.h_over_h0(self.used, 1 / (1 + z))

    def get_Pk_grid(self, var_pair, nonlinear):
        assert var_pair == ("delta_tot", "delta_tot")
        power = ccl.nonlin_matter_power if nonlinear else ccl.linear_matter_power
        return self.k, self.z, np.array([power(self.used, self.k, 1 / (1 + z)) for z in self.z])


def test_the_cosmology_can_come_from_the_runs_theory(small, two):
    theory = {"boltzmann": {"external": GivesCosmology, "input_params": ["unused"]}}
    model = run_of(small, {"A_IA": FLAT, "unused": 1.0}, theory, cosmology="cobaya")
    for a_ia in (0.0, 3.0):
        expected = two.log_likelihood(two.prediction({**COSMOLOGY, "A_IA": a_ia}))
        assert model.loglike({"A_IA": a_ia}, return_derived=False) == pytest.approx(expected, rel=2e-3)


# ---------------------------------------------------------------------- cuts and mistakes


def test_cuts_of_all_of_a_statistic_and_of_a_pair(small):
    def used(**options):
        found = CosmicShear({"data": small, **options}).measurement
        return found.statistic.astype(str), found.theta, found.pairs + 1

    statistic, theta, _ = used(theta_min=100, theta_max=150)
    assert set(statistic) == {"xi_plus", "xi_minus"} and theta.min() > 100 and theta.max() < 150
    statistic, theta, _ = used(theta_min={"xi_minus": 130}, statistics=["xi_plus", "xi_minus"])
    assert theta[statistic == "xi_minus"].min() > 130 and theta[statistic == "xi_plus"].min() < 100
    statistic, theta, pairs = used(theta_max={"xi_plus": {"2 1": 100}}, statistics="xi_plus")
    chosen = np.all(pairs == [1, 2], axis=1)
    assert chosen.any() and theta[chosen].max() < 100 and theta[~chosen].max() > 150
    assert set(statistic) == {"xi_plus"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"data": None}, "data: give a SACC file"),
        ({"data": "nowhere.sacc"}, "There is no file 'nowhere.sacc'.*shear/des_y1"),
        ({"data": "surveys/lowz"}, "must hold '# format: iaemu cosmic shear 1'"),
        ({"cosmology": "class"}, "cosmology: must be one of ccl, cobaya; got 'class'"),
        ({"statistics": ["xi_plus", "w"]}, "statistics: give one or both of xi_plus, xi_minus"),
        ({"theta_min": 500}, "No point of shear/des_y1 is left between theta_min = 500 .*Widen the cuts"),
        ({"theta_min": {"xi": 5}}, "theta_min: give a number, or a mapping of .*'xi'"),
        ({"theta_max": {"xi_plus": {"1-9": 5}}}, "theta_max: '1-9' is no pair of source bins"),
        ({"theta_max": {"xi_plus": {"1 9": 5}}}, "'1 9' is no pair of source bins. Write it as '1 3'; there are 4"),
        ({"theta_min": -3.0}, r"theta_min \[arcmin\] of xi_plus must be a number, above 0; got -3"),
        ({"theta_unit": "radian"}, "is in our own format, whose unit is arcmin"),
        ({"z0_IA": -1.0}, "z0_IA"),
        ({"param_map": {"Om": "omegam"}}, "param_map: unknown parameter.* Om; the parameters are Omega_m"),
    ],
)
def test_bad_options_are_named(options, message):
    with pytest.raises(LoggedError, match=message):
        DESY1Shear(options)


def test_points_without_prediction_get_zero_likelihood_or_stop_the_run(small):
    params = {**COSMOLOGY, "Omega_m": {"prior": {"min": 0.01, "max": 0.9}}, "A_IA": 1.0}
    model = run_of(small, params)
    assert model.loglike({"Omega_m": 0.02}, return_derived=False) == -np.inf
    with pytest.raises(LoggedError, match=r"No prediction at Omega_m = 0.02.*A_IA = 1"):
        run_of(small, params, stop_at_error=True).loglike({"Omega_m": 0.02})


def test_a_curved_universe_is_refused(small):
    theory = {"boltzmann": {"external": GivesCosmology, "input_params": ["omk"]}}
    with pytest.raises(LoggedError, match=r"curvature \(omk\).*flat universe"):
        run_of(small, {"A_IA": FLAT, "omk": {"prior": {"min": -0.1, "max": 0.1}}}, theory, cosmology="cobaya")


# ---------------------------------------------------------------------- its picture


def test_the_picture_has_a_panel_for_each_pair_and_the_fit_in_its_title(small):
    """The current prediction, chi^2 and p-value of a run in which two numbers are fitted, one of another theory."""
    import scipy.stats
    from matplotlib.figure import Figure

    theory = {"alignment": {"external": GivesAlignment, "input_params": ["strength"]}}
    free = {"strength": {"prior": {"min": 0, "max": 1}}, "Omega_m": {"prior": {"min": 0.2, "max": 0.4}}}
    model = run_of(small, {**COSMOLOGY, **free}, theory)
    (like,) = model.likelihood.values()
    total = model.loglike({"strength": 0.2, "Omega_m": 0.3}, return_derived=False)
    best = like.theory_vector()
    assert best == pytest.approx(like.prediction({**COSMOLOGY, "A_IA": 1.0}))
    assert like.n_fitted == 2
    assert like.p_value(best) == pytest.approx(scipy.stats.chi2.sf(-2 * total, len(small.values) - 2))
    figure = Figure(figsize=like.picture_size, layout="constrained")
    like.plot_fit(figure, best, [0.9 * best, 1.1 * best])
    assert figure.get_suptitle().endswith(f"{len(small.values)} bins, 2 parameters, p = {like.p_value(best):.2g}")
    assert [axes.texts[0].get_text() for axes in figure.axes] == [
        rf"$\xi_{sign}$ {pair}" for sign in "+-" for pair in ("1, 1", "1, 2", "2, 2")
    ]
    shown = [line.get_ydata() for axes in figure.axes for line in axes.lines if line.get_color() == "#1f5fa8"]
    assert sum(map(len, shown)) == len(best)
