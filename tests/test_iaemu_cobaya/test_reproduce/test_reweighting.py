"""Posteriors from mocks at a few points: against posteriors that are known."""

import re
from functools import cache

import numpy as np
import pytest
import torch
from cobaya.run import run
from matplotlib import pyplot

from iaemu.binning import TNG_EDGES
from iaemu.halomodel.alignment import mean_p2
from iaemu.models.factorised import Emulator
from iaemu_cobaya import TNG300Sample1
from iaemu_cobaya.chains import ChainError
from iaemu_cobaya.commands.door import reproduce as iaemu_reproduce
from iaemu_cobaya.reproduce import reweighting, routes
from iaemu_cobaya.reproduce.reweighting import CORNERS, DirectPoints, noise_of_fixed_seeds, populate


@cache
def ingredients():
    """omega (2, 12) of fully aligned centrals alone, and of satellites."""
    occupation = tuple(routes.occupation(1).values())
    theta = [[1.0, 0.0, *occupation], [0.0, 1.0, *occupation]]
    return Emulator.load().predict(np.array(theta), TNG_EDGES, statistics=("omega",)).omega


def omega(mu):
    return mean_p2(torch.as_tensor(mu)).numpy() @ ingredients()


@pytest.fixture(autouse=True)
def few_resamplings(monkeypatch):
    """Enough for errors that are compared within some ten per cent."""
    monkeypatch.setattr(reweighting, "_N_BOOTSTRAP", 100)


@pytest.fixture(scope="module")
def like():
    return TNG300Sample1()


@pytest.fixture(scope="module")
def exact(like):
    """Mean and standard deviation by integration on a grid, of the posterior with ``omega`` above."""
    grid = np.linspace(-1, 1, 601)
    mu = np.stack(np.meshgrid(grid, grid, indexing="ij"), axis=-1).reshape(-1, 2)
    loglikes = like.log_likelihoods(omega(mu))
    weight = np.exp(loglikes - loglikes.max())
    weight /= weight.sum()
    mean = weight @ mu
    return mean, np.sqrt(weight @ (mu - mean) ** 2)


def shifted_draws(exact, n, seed=1):
    """Draws of a normal beside the exact posterior, and their log-densities."""
    mean, std = exact
    generator = np.random.default_rng(seed)
    z = generator.normal(size=(n, 2))
    return mean + std * (0.3 + 1.2 * z), -0.5 * (z**2).sum(axis=1)


def noisy(mu, noise, seed=2, n_mocks=40):
    """Points with mocks whose mean has the standard error ``noise`` (12,)."""
    generator = np.random.default_rng(seed)
    values = omega(mu) + noise * generator.normal(size=(len(mu), 12))
    deviations = np.tile(np.diag(noise), (len(mu), 1, 1))
    return DirectPoints(mu, values, deviations, n_mocks * len(mu))


def test_without_noise_both_ways_give_the_exact_posterior(like, exact):
    mu, cheap = shifted_draws(exact, 4000)
    points, corners = (noisy(values, np.full(12, 1e-12)) for values in (mu, CORNERS))
    for moments in (points.weighted(like, cheap), points.pooled(like, mu, cheap, corners)[1]):
        assert (moments.mean - exact[0]) / exact[1] == pytest.approx([0, 0], abs=0.1)
        assert moments.std / exact[1] == pytest.approx([1, 1], rel=0.1)
        assert 1000 < moments.effective < 4000


def test_the_error_of_the_weighted_mean_is_its_scatter(like, exact):
    means, errors = [], []
    for seed in range(60):
        mu, cheap = shifted_draws(exact, 40, seed)
        moments = noisy(mu, 0.2 * like.bins["omega"].error, seed).weighted(like, cheap)
        means.append(moments.mean)
        errors.append(moments.error)
    assert np.mean(errors, axis=0) / np.std(means, axis=0) == pytest.approx([1, 1], abs=0.35)


def test_pooled_mocks_are_far_less_noisy_and_know_how_much(like, exact):
    draws, cheap = shifted_draws(exact, 600)
    _, noiseless = noisy(draws, np.full(12, 1e-12)).pooled(like, draws, cheap, noisy(CORNERS, np.full(12, 1e-12)))
    noise = 0.2 * like.bins["omega"].error
    shifts, errors = [], []
    for seed in range(20):
        mu, _ = shifted_draws(exact, 40, seed)
        _, moments = noisy(mu, noise, seed).pooled(like, draws, cheap, noisy(CORNERS, noise, 100 + seed))
        shifts.append(moments.mean - noiseless.mean)
        errors.append(moments.error)
    scatter = np.std(shifts, axis=0)
    assert np.all(scatter / exact[1] < 0.07)
    assert np.mean(errors, axis=0) / scatter == pytest.approx([1, 1], abs=0.5)


def test_noise_of_mocks_that_are_the_same_everywhere_is_the_scatter_of_means(like):
    grid = np.stack(np.meshgrid(np.linspace(0.7, 0.9, 40), np.linspace(0, 0.6, 40), indexing="ij"), axis=-1)
    mu = grid.reshape(-1, 2)
    predicted, loglikes = omega(mu), like.log_likelihoods(omega(mu))
    weight = np.exp(loglikes - loglikes.max())
    generator = np.random.default_rng(5)
    deviations = 0.05 * like.bins["omega"].error * generator.normal(size=(20, 12))  # correlated between bins
    error = noise_of_fixed_seeds(like, mu, weight, predicted, deviations)
    means = []
    for _ in range(400):
        loglikes = like.log_likelihoods(predicted + generator.normal(size=20) @ deviations)
        means.append(np.average(mu, axis=0, weights=np.exp(loglikes - loglikes.max())))
    assert error == pytest.approx(np.std(means, axis=0), rel=0.12)


def test_points_are_kept_and_gone_on_from(tmp_path):
    pytest.importorskip("halotools")
    from iaemu_training.work.parts import PartsError

    ensemble = {"catalogues": ["pm40"], "n_realisations": 2, "seed": 1, "seeds": "fresh"}
    edges = np.array([1.0, 3.0, 9.0])
    mu = np.array([[0.8, 0.3], [0.7, 0.2]])
    fixed = routes.occupation(3)
    first = populate(tmp_path / "p", mu, fixed, edges, ensemble, progress=False)
    assert first.n_mocks == 4
    assert first.omega.shape == (2, 2)
    assert first.deviations.shape == (2, 2, 2)
    (tmp_path / "p" / "point0001.npz").unlink()
    again = populate(tmp_path / "p", mu, fixed, edges, ensemble, progress=False)
    assert np.array_equal(first.omega, again.omega)
    with pytest.raises(PartsError, match="n_realisations = 2, now 3"):
        populate(tmp_path / "p", mu, fixed, edges, {**ensemble, "n_realisations": 3}, progress=False)


@pytest.fixture
def few_chains(monkeypatch):
    """HMC stops by the same criteria, but does not warm up as many."""

    def run_few(info, **options):
        info["sampler"]["iaemu_cobaya.HMC"].update(n_chains=16, n_warmup=50, check_every=100)
        return run(info, **options)

    monkeypatch.setattr(routes, "run", run_few)


@pytest.mark.slow
def test_the_command_writes_tables_and_figures_and_goes_on(tmp_path, capsys, few_chains):
    pytest.importorskip("halotools")
    folders = ["--output", str(tmp_path / "out"), "--chains", str(tmp_path / "chains")]
    options = ["--samples", "3", "-c", "pm40", "--points", "6", "--realisations", "2", "--ess", "1000"]
    assert iaemu_reproduce([*folders, *options]) == 0
    text = (tmp_path / "out" / "results.md").read_text()
    rows = [line for line in text.splitlines() if line.startswith("| 3 |")]
    assert len(rows) == 4 + 2 + 2  # two by HMC, two with mocks, two of the paper; two with the prediction's error
    assert not any(cell.strip() in ("", "nan") for row in rows for cell in row.strip("|").split("|"))
    assert pyplot.get_fignums() == []
    for name in ("figure6.png", "figure7.png"):
        assert (tmp_path / "out" / name).stat().st_size > 20_000
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "chains").glob("*.1.txt")}
    capsys.readouterr()
    assert iaemu_reproduce([*folders, *options]) == 0
    assert (tmp_path / "out" / "results.md").read_text() == text
    assert {path: path.stat().st_mtime_ns for path in before} == before
    made_with = tmp_path / "chains" / "made_with.json"
    assert iaemu_reproduce([*folders, *options[:-1], "2000"]) == 1
    assert "were made with --ess = 1000, now it is 2000. Choose another folder" in capsys.readouterr().err
    made_with.write_text(re.sub('(artifact tables.*": ").', r"\1x", made_with.read_text()))  # as after new tables
    assert iaemu_reproduce([*folders, *options]) == 1
    assert "were made with the artifact tables-pm160.safetensors, sha256 = x" in capsys.readouterr().err
    for content, message in (("", "is damaged"), ("[1]", "is damaged"), (None, "holds chains, but no made_with.json")):
        made_with.write_text(content) if content is not None else made_with.unlink()
        assert iaemu_reproduce([*folders, *options]) == 1
        assert message in capsys.readouterr().err
    # A shorter run does not replace the results.
    for shorter, message in ((["--samples", "3", "--no-mocks"], "results of mocks"), (["--samples", "1"], "sample 3")):
        assert iaemu_reproduce(["--output", str(tmp_path / "out"), "--chains", str(tmp_path / "c"), *shorter]) == 1
        assert message in capsys.readouterr().err
    assert (tmp_path / "out" / "results.md").read_text() == text
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_too_few_points_are_refused(tmp_path, capsys):
    assert iaemu_reproduce(["--points", "2", "--output", str(tmp_path), "--chains", str(tmp_path)]) == 1
    assert "--points must be a whole number, at least 3 and at most 100000; got 2" in capsys.readouterr().err


def test_it_uses_the_chain_of_the_shipped_example():
    from pathlib import Path

    from cobaya.input import load_input_file

    example = load_input_file(Path(__file__).parents[3] / "yaml_examples" / "tng_sample1_halotools.yaml")
    ensemble = {"catalogues": ["pm160a", "pm160b"], "n_realisations": 40, "seed": 1}
    info = routes.halotools_input(ensemble, 1, Path(example["output"]))
    info["theory"]["iaemu_cobaya.HalotoolsIA"].pop("processes")
    assert info == example


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda info: info["theory"]["iaemu_cobaya.HalotoolsIA"].update(seeds="fresh"), "seeds = fresh"),
        (lambda info: info["theory"]["iaemu_cobaya.HalotoolsIA"].update(catalogue="pm40"), "catalogue = .'pm40'."),
        (lambda info: info["likelihood"]["iaemu_cobaya.TNG300Sample1"].update(r_max=1.0), "r_max = 1.0"),
        (lambda info: info["likelihood"]["iaemu_cobaya.TNG300Sample1"].update(emulator_error=False), "error = False"),
        (lambda info: info["params"]["logMmin"].update(value=13.0), "logMmin: value = 13.0"),
        (lambda info: info["params"]["mu_cen"]["prior"].update(min=0.5), "mu_cen: prior = .*0.5"),
        (lambda info: info["theory"]["iaemu_cobaya.HalotoolsIA"].update(n_realisations=100, processes=2), None),
    ],
)
def test_a_given_chain_must_be_of_the_same_posterior(tmp_path, change, message):
    from cobaya.input import update_info
    from cobaya.yaml import yaml_dump

    pytest.importorskip("halotools")
    ensemble = {"catalogues": ["pm160a", "pm160b"], "n_realisations": 40, "seed": 1}
    ours = routes.halotools_input(ensemble, 1, tmp_path / "c")
    info = update_info(ours)
    change(info)
    (tmp_path / "c.updated.yaml").write_text(yaml_dump(info))
    names = "weight minuslogpost mu_cen mu_sat chi2__IA minuslogprior minuslogprior__0 chi2"
    rows = np.ones((50, 9))
    rows[:, 2:4] = np.random.default_rng(1).normal([0.8, 0.3], [0.01, 0.04], (50, 2))
    np.savetxt(tmp_path / "c.1.txt", rows, header=f"{names} chi2__iaemu_cobaya.TNG300Sample1")
    given = str(tmp_path / "c")
    if message is None:
        assert not routes._halotools_chain(ours, given).converged
        (tmp_path / "c.checkpoint").write_text("sampler: {mcmc: {converged: true}}")
        assert routes._halotools_chain(ours, given).converged
    else:
        with pytest.raises(ChainError, match=message):
            routes._halotools_chain(ours, given)
