"""The theory that populates mocks at each point: real halotools, a small box, few mocks."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import yaml
from cobaya.log import LoggedError
from cobaya.model import get_model
from cobaya.run import run

pytest.importorskip("halotools")

from iaemu import Support, SupportError
from iaemu.binning import PAPER_EDGES, TNG_EDGES
from iaemu.parameters import PARAMETERS, SLOPES
from iaemu_training.mocks.ensemble import MockEnsemble

# Many galaxies, so that no bin is empty in the small box.
DENSE = {"logMmin": 11.6, "sigma_logM": 0.26, "logM0": 11.8, "logM1": 12.6, "alpha": 1.0}
POINT = {"mu_cen": 0.8, "mu_sat": 0.3}
SMALL = {"catalogue": "pm40", "n_realisations": 4}


def make(params=DENSE, likelihood=None, **options):
    return {
        "theory": {"iaemu_cobaya.HalotoolsIA": {**SMALL, **options}},
        "likelihood": {"iaemu_cobaya.TNG300Sample1": {"r_max": 10.1, "emulator_error": True, **(likelihood or {})}},
        "params": dict(params),
    }


@pytest.fixture
def ensemble():
    return MockEnsemble(["pm40"], n_realisations=4, seed=1)


def test_a_run_sees_the_pooled_mocks_and_their_standard_error(ensemble):
    model = get_model(make())
    found = model.loglike(POINT, return_derived=False)
    like = model.likelihood["iaemu_cobaya.TNG300Sample1"]
    edges = TNG_EDGES[: len(like.data_vector) + 1]
    theta = {**POINT, **DENSE}
    mocks = ensemble.realisations(theta)
    assert len(mocks) == 4
    assert like.theory_vector() == pytest.approx(ensemble.predict(theta, edges).omega, rel=1e-12)
    assert like.deviations() == pytest.approx(ensemble.deviations(theta, edges)["omega"], rel=1e-12)
    assert found == pytest.approx(like.log_likelihood(like.theory_vector(), like.deviations()), rel=1e-12)


@pytest.mark.parametrize("slopes", [(), ("mu_sat_slope",), SLOPES])
def test_a_run_frees_the_slopes(slopes):
    """Those that are 0 by default are dropped; a value under params is a fixed slope."""
    values = {"mu_cen_slope": 0.2, "mu_sat_slope": -0.6}
    given = {name: values[name] for name in slopes}
    free = {"mu_sat_slope": {"prior": {"min": -2, "max": 2}, "ref": -0.5}} if slopes else {}
    model = get_model(make({**DENSE, **given, **free}, pivot=12.5))
    theory = model.theory["iaemu_cobaya.HalotoolsIA"]
    assert theory.model.slopes == slopes
    point = {**POINT, **{name: value for name, value in given.items() if name in free}}
    assert set(model.parameterization.sampled_params()) == set(point)
    assert np.isfinite(model.loglike(point, return_derived=False))
    edges = TNG_EDGES[: len(model.likelihood["iaemu_cobaya.TNG300Sample1"].data_vector) + 1]
    alone = MockEnsemble(["pm40"], n_realisations=4, seed=1, slopes=slopes, pivot=12.5)
    expected = alone.predict({**POINT, **DENSE, **given}, edges).omega
    assert theory.get_ia_omega() == pytest.approx(expected, rel=1e-12)
    assert (theory.model.n_points, theory.model.n_mocks) == (1, 4)


def test_strengths_of_mocks_follow_both_laws(ensemble):
    """Each slope moves omega where its galaxies are; with slopes of 0, mocks and seeds are those without."""
    theta = {**POINT, **DENSE, "mu_cen_slope": 0.0, "mu_sat_slope": 0.0}
    both = MockEnsemble(["pm40"], n_realisations=4, seed=1, slopes=SLOPES, pivot=12.0)
    flat = both.predict(theta).omega
    assert np.array_equal(flat, ensemble.predict({**POINT, **DENSE}).omega)
    inner = both.predict({**theta, "mu_sat_slope": -0.5}).omega - flat
    assert inner[0] > 3 * np.abs(inner[-5:]).max()
    massive = both.predict({**theta, "mu_cen": 0.0, "mu_cen_slope": 0.5}).omega
    light = both.predict({**theta, "mu_cen": 0.0, "mu_cen_slope": -0.5}).omega
    assert np.all(massive[:5] > light[:5])
    with pytest.raises(SupportError, match="mu_sat_slope = 3 is outside"):
        both.predict({**theta, "mu_sat_slope": 3.0})


def test_constant_slopes_of_zero_are_dropped():
    model = MockEnsemble(["pm40"], n_realisations=2, slopes=SLOPES[::-1], support=Support(logMmin=(11.5, 13)))
    assert model.parameters == (*PARAMETERS, *SLOPES)
    assert model.with_constants({"mu_cen_slope": 0.1, "logMmin": 12.0}) is model
    one = model.with_constants({"mu_cen_slope": 0.0})
    assert one.slopes == ("mu_sat_slope",) and one.support.logMmin == (11.5, 13.0)
    assert type(one.with_constants({"mu_sat_slope": 0.0}).support) is Support
    with pytest.raises(ValueError, match=r"Unknown slope\(s\) mu_cen"):
        MockEnsemble(["pm40"], n_realisations=2, slopes=["mu_cen"])
    with pytest.raises(ValueError, match="support must be a Support without slopes"):
        MockEnsemble(["pm40"], n_realisations=2, slopes=SLOPES, support=model.support)


def test_deviations_are_the_standard_error_of_the_mean():
    ensemble = MockEnsemble(["pm40"], n_realisations=60, seed=2)
    theta = {**POINT, **DENSE}
    spread = ensemble.realisations(theta)
    edges = spread.r_edges
    full = spread.DD.min(axis=0) > 100  # where the ratio of sums is the mean of ratios
    assert full.sum() > 15
    for name, deviations in ensemble.deviations(theta, edges).items():
        expected = getattr(spread, name).std(axis=0, ddof=1) / np.sqrt(60)
        assert np.sqrt((deviations**2).sum(axis=0))[full] == pytest.approx(expected[full], rel=0.2), name


def test_all_bins_asked_for_come_from_the_same_mocks(ensemble):
    theta = {**POINT, **DENSE}
    ensemble.count_in(TNG_EDGES)
    paper, tng = ensemble.predict(theta, PAPER_EDGES), ensemble.predict(theta, TNG_EDGES)
    assert (ensemble.n_points, ensemble.n_mocks) == (1, 4)
    alone = MockEnsemble(["pm40"], n_realisations=4, seed=1)
    assert alone.predict(theta, PAPER_EDGES).xi == pytest.approx(paper.xi, rel=1e-12)
    assert len(tng.omega) == len(TNG_EDGES) - 1


def test_fixed_seeds_repeat_the_positions_at_other_strengths_fresh_ones_do_not():
    thetas = [{**POINT, **DENSE}, {**POINT, **DENSE, "mu_cen": 0.7}]
    for seeds, same in (("fixed", True), ("fresh", False)):
        ensemble = MockEnsemble(["pm40"], n_realisations=2, seed=1, seeds=seeds)
        first, second = (ensemble.realisations(theta).DD for theta in thetas)
        assert np.array_equal(first, second) == same
        # The same point gets the same mocks, also after another one.
        assert np.array_equal(ensemble.realisations(thetas[0]).DD, first)


def test_fixed_seeds_make_a_smooth_surface_of_the_strengths_fresh_ones_do_not():
    step = np.linspace(-0.02, 0.02, 7)
    for seeds, smooth in (("fixed", True), ("fresh", False)):
        ensemble = MockEnsemble(["pm40"], n_realisations=2, seed=1, seeds=seeds)
        ensemble.count_in(TNG_EDGES)
        omega = np.array([ensemble.predict({**DENSE, "mu_cen": 0.8, "mu_sat": 0.3 + d}).omega for d in step])
        error = np.sqrt((ensemble.deviations({**DENSE, **POINT})["omega"] ** 2).sum(axis=0))
        parabola = np.polynomial.Polynomial.fit
        residual = np.array([y - parabola(step, y, 2)(step) for y in omega.T]).T / error
        assert (np.sqrt(np.mean(residual**2)) < 1e-3) == smooth


@pytest.mark.slow  # two more imports of torch and halotools
def test_worker_processes_do_not_change_the_result(ensemble):
    theta = {**POINT, **DENSE}
    parallel = MockEnsemble(["pm40"], n_realisations=4, seed=1, processes=2)
    try:
        assert np.array_equal(parallel.realisations(theta).S_omega, ensemble.realisations(theta).S_omega)
    finally:
        parallel.close()


def test_two_boxes_add_as_one_volume():
    theta = {**POINT, **DENSE}
    two = MockEnsemble(["pm40", "pm40"], n_realisations=2, seed=1)
    one = MockEnsemble(["pm40"], n_realisations=2, seed=1)
    assert two.predict(theta).n_gal == pytest.approx(one.predict(theta).n_gal, rel=0.05)
    assert np.all(two.realisations(theta).DD[0] > one.realisations(theta).DD[0])
    assert two.n_mocks == 4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"catalogue": []}, "catalogues must be a list of at least one halo catalogue"),
        ({"catalogue": "nowhere.hdf5"}, "nowhere.hdf5"),
        ({"n_realisations": 1}, "n_realisations must be a whole number, at least 2.*got 1"),
        ({"seeds": "random"}, "seeds must be one of fixed, fresh, got 'random'"),
        ({"processes": 0}, "processes must be a whole number, at least 1.*got 0"),
        ({"pivot": 1e13}, "pivot must be a number, at least 8 and at most 17; got 10000000000000"),
    ],
)
def test_a_bad_option_is_named(options, message):
    with pytest.raises(LoggedError, match=message):
        get_model(make(**options))


def test_bins_beyond_half_of_the_box_are_refused():
    with pytest.raises(LoggedError, match=r"half of the side of the smallest box, 20 Mpc/h.*r_min and r_max"):
        get_model(make(likelihood={"r_max": None}))


def test_points_outside_the_support_have_zero_likelihood():
    params = {**DENSE, "logM1": {"prior": {"min": 12, "max": 14.9}, "ref": 12.6, "proposal": 0.1}}
    model = get_model(make(params))
    assert model.loglike({**POINT, "logM1": 14.5}, return_derived=False) == -np.inf
    assert np.isfinite(model.loglike({**POINT, "logM1": 12.6}, return_derived=False))


def test_hmc_says_that_mocks_have_no_gradient():
    with pytest.raises(LoggedError, match=r"HalotoolsIA \(no forward_torch; depends on mu_cen.*sampler: mcmc"):
        run({**make(), "sampler": {"iaemu_cobaya.HMC": None}})


def mcmc(folder, max_samples):
    # Small steps are accepted.
    prior = {"min": -1, "max": 1}
    narrow = {name: {"prior": prior, "ref": value, "proposal": 0.002} for name, value in POINT.items()}
    options = {"max_samples": max_samples, "seed": 1, "burn_in": 0, "output_every": 2, "measure_speeds": False}
    # Few bins: with few mocks in a small box the posterior is rough.
    info = make({**DENSE, **narrow}, {"r_min": 3.0}, n_realisations=2)
    return {**info, "sampler": {"mcmc": options}, "output": str(folder / "chain")}


def test_mcmc_counts_its_mocks_and_resumes(tmp_path, caplog):
    caplog.set_level("INFO")
    updated, _ = run(mcmc(tmp_path, 4))
    assert "2 of each at every point, with fixed seeds from 1" in caplog.text
    mocks, points = (
        int(number) for number in re.search(r"(\d+) mocks populated at (\d+) points", caplog.text).groups()
    )
    assert mocks == 2 * points
    first = np.loadtxt(tmp_path / "chain.1.txt")
    assert len(first) == 4
    # Weights count the steps: every proposal was populated, but for those outside the prior.
    assert points >= first[:, 0].sum()
    run({**updated, "sampler": mcmc(tmp_path, 6)["sampler"]}, resume=True)
    both = np.loadtxt(tmp_path / "chain.1.txt")
    assert len(both) == 6
    assert both[:4] == pytest.approx(first)


@pytest.mark.slow
def test_a_killed_chain_goes_on(tmp_path):
    file = tmp_path / "run.yaml"
    file.write_text(yaml.safe_dump(mcmc(tmp_path, 100_000)))
    command = [sys.executable, "-m", "cobaya", "run", str(file)]
    chain = Path(f"{tmp_path}/chain.1.txt")
    before = 0
    for extra in ([], ["-r"]):
        process = subprocess.Popen([*command, *extra], stdout=subprocess.DEVNULL, env={**os.environ})
        for _ in range(600):
            time.sleep(0.2)
            if chain.exists() and len(chain.read_text().splitlines()) > before + 10:
                break
        process.send_signal(signal.SIGKILL)
        process.wait()
        rows = len(chain.read_text().splitlines())
        assert rows > before + 10
        before = rows
