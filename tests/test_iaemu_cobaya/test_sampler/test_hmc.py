"""The sampler HMC as Cobaya runs it: files, resuming, stopping, errors; and its draws against the posterior itself."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from cobaya.likelihood import Likelihood
from cobaya.log import LoggedError
from cobaya.model import get_model
from cobaya.run import run
from cobaya.yaml import yaml_dump_file, yaml_load_file
from getdist import loadMCSamples

from iaemu.sampling import diagnostics
from iaemu_cobaya import HMC
from iaemu_cobaya.chains import load_chain

SMALL = {"n_chains": 8, "n_files": 2, "n_warmup": 60, "check_every": 20, "seed": 1, "progress": False}


class Normal(Likelihood):
    """Of x and y, correlated; differentiable."""

    params = {
        name: {"prior": {"min": -10, "max": 10}, "ref": {"dist": "norm", "loc": 0.5, "scale": 0.2}}
        for name in ("x", "y")
    }

    def logp(self, _derived=None, x=None, y=None):
        return -(x**2 - 1.6 * x * y + y**2) / (2 * 0.36)

    def logp_torch(self, params, products):
        return self.logp(x=params["x"], y=params["y"])


class Unequal(Normal):
    """Other numbers with tensors far from the start, where no self-check looks."""

    def logp_torch(self, params, products):
        return super().logp_torch(params, products) + 0.1 * (params["x"] > 1.5)


class NoGradient(Likelihood):
    params = {"x": {"prior": {"min": -1, "max": 1}}}

    def logp(self, _derived=None, **params):
        return -(params["x"] ** 2)


def info_of(likelihood=Normal, sampler=None, **others):
    return {
        "likelihood": {"it": {"external": likelihood}},
        "sampler": {"iaemu_cobaya.HMC": {**SMALL, **(sampler or {})}},
        **others,
    }


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


class TestFiles:
    @pytest.fixture
    def finished(self):
        return run(info_of(output="chains/a", sampler={"ess_stop": 300, "Rminus1_stop": 0.05}))

    def test_getdist_reads_the_chains_and_no_burn_in_is_among_them(self, finished):
        _, sampler = finished
        samples = loadMCSamples("chains/a", no_cache=True)
        assert samples.numrows == 8 * sampler.n_kept
        assert len(samples.chain_offsets) == 3
        assert samples.sampler == "mcmc"
        chain = load_chain("chains/a")
        assert chain.burn_in == 0
        # From the first draw on, they are draws of the posterior.
        first = samples.getParams().x[: 8 * sampler.n_kept]
        assert abs(first.mean()) < 0.3 and 0.7 < first.std() < 1.3

    def test_columns_are_those_of_cobaya(self, finished):
        _, sampler = finished
        table = sampler.products()["sample"]
        assert list(table.columns[:4]) == ["weight", "minuslogpost", "x", "y"]
        model = sampler.model
        for row in (0, len(table) - 1):
            point = model.logposterior(table[["x", "y"]].to_numpy(dtype=float)[row])
            assert -point.logpost == pytest.approx(table["minuslogpost"].iloc[row], rel=1e-6)
            assert -2 * point.loglike == pytest.approx(table["chi2"].iloc[row], rel=1e-6, abs=1e-12)
        assert (table["weight"] == 1).all()

    def test_progress_has_the_columns_of_mcmc_first(self, finished):
        lines = Path("chains/a.progress").read_text().splitlines()
        assert lines[0].lstrip("#").split()[:4] == ["N", "acceptance_rate", "Rminus1", "Rminus1_cl"]
        last = lines[-1].split()
        _, sampler = finished
        assert float(last[0]) == 8 * sampler.n_kept
        columns = lines[0].lstrip("#").split()
        assert columns[4:] == ["ess_bulk", "ess_tail", "ess_mean", "divergences"]
        assert float(last[2]) < 0.05 and min(map(float, last[4:7])) > 300
        smallest = diagnostics.ess(sampler._history, "mean").min()
        assert float(last[6]) == pytest.approx(smallest, rel=1e-5)
        assert len(lines) == 1 + len(sampler.products()["progress"])

    def test_checks_of_convergence_say_how_many_draws_are_effective(self, caplog):
        caplog.set_level("INFO")
        _, sampler = run(info_of(sampler={"max_samples": 320}))
        row = sampler.products()["progress"].iloc[-1]
        shown = "effective draws: %.0f in the bulk, %.0f in the tails, %.0f of the mean;"
        assert shown % tuple(row[["ess_bulk", "ess_tail", "ess_mean"]]) in caplog.text

    @pytest.mark.slow
    def test_cobayas_own_progress_plot_reads_it(self, finished):
        from cobaya.samplers.mcmc import plot_progress

        axes = plot_progress("chains/a")
        assert any(len(ax.lines) for ax in np.ravel(axes))

    def test_covmat_is_that_of_the_draws_and_of_use_to_the_next_run(self, finished):
        _, sampler = finished
        found = np.loadtxt("chains/a.covmat")
        draws = sampler.products()["sample"][["x", "y"]].to_numpy(dtype=float)
        assert found == pytest.approx(np.cov(draws.T), rel=1e-4)
        _, after = run(info_of(output="chains/b", sampler={"covmat": "chains/a.covmat", "max_samples": 160}))
        assert after.density.scales == pytest.approx(np.sqrt(np.diag(found)))
        mcmc = {"mcmc": {"covmat": "chains/a.covmat", "max_samples": 20, "seed": 1}}
        run({**info_of(output="chains/c"), "sampler": mcmc})

    def test_an_earlier_run_is_never_overwritten_unasked(self, finished):
        before = Path("chains/a.1.txt").read_bytes()
        with pytest.raises(LoggedError, match="-f"):
            run(info_of(output="chains/a", sampler={"ess_stop": 300, "Rminus1_stop": 0.05}))
        assert Path("chains/a.1.txt").read_bytes() == before
        run(info_of(output="chains/a", sampler={"max_samples": 160}), force=True)
        assert len(Path("chains/a.1.txt").read_text().splitlines()) == 1 + 80

    def test_products(self, finished):
        _, sampler = finished
        n = 8 * sampler.n_kept
        assert len(sampler.samples()) == len(sampler.samples(combined=True)) == n
        assert sampler.samples(to_getdist=True).numrows == n
        assert len(sampler.samples(skip_samples=0.5)) == n // 2
        assert len(sampler.samples()) == n


def test_a_chains_draws_stand_together_so_that_getdist_sees_their_correlation():
    _, sampler = run(info_of(output="chains/a", sampler={"max_samples": 320, "check_every": 20}))
    first = np.loadtxt("chains/a.1.txt")[:, 2]
    assert first[:20] == pytest.approx(sampler._history[0, :20, 0], rel=1e-6)
    assert first[20:40] == pytest.approx(sampler._history[2, :20, 0], rel=1e-6)
    assert first[80:100] == pytest.approx(sampler._history[0, 20:, 0], rel=1e-6)


def test_a_single_draw_is_no_reason_to_warn_of_anything_else(recwarn):
    _, sampler = run(info_of(sampler={"max_samples": 8}))
    assert len(sampler.samples()) == 8 and not sampler.converged
    assert not [warning for warning in recwarn if issubclass(warning.category, RuntimeWarning)]


def test_the_mean_must_have_its_effective_draws_too(monkeypatch):
    options = {"ess_stop": 300, "Rminus1_stop": 0.05, "max_samples": 1600}
    assert run(info_of(sampler=options))[1].converged
    known = diagnostics.ess
    monkeypatch.setattr(
        diagnostics, "ess", lambda x, method="bulk": known(x, method) / (100 if method == "mean" else 1)
    )
    _, sampler = run(info_of(sampler=options))
    last = sampler.products()["progress"].iloc[-1]
    assert min(last["ess_bulk"], last["ess_tail"]) > 300 and last["Rminus1"] < 0.05
    assert not sampler.converged and sampler.n_draws() == 1600


def test_without_output_nothing_is_written():
    _, sampler = run(info_of(sampler={"max_samples": 160}))
    assert len(sampler.samples()) == 160
    assert not list(Path(".").iterdir())


def test_the_seed_fixes_the_draws():
    def draws(seed):
        return run(info_of(sampler={"max_samples": 160, "seed": seed}))[1].samples()["x"].to_numpy()

    first = draws(1)
    assert np.array_equal(first, draws(1))
    assert not np.array_equal(first, draws(2))


def test_thinning_keeps_one_draw_in_so_many():
    _, all_of_them = run(info_of(sampler={"max_samples": 320, "check_every": 40}))
    _, thinned = run(info_of(sampler={"max_samples": 80, "check_every": 10, "thin": 4}))
    assert np.array_equal(thinned._history, all_of_them._history[:, 3::4])


@pytest.mark.parametrize("method", ["hmc", "nuts"])
def test_moments_of_a_normal_posterior(method):
    _, sampler = run(info_of(sampler={"method": method, "ess_stop": 4000, "n_chains": 16, "check_every": 100}))
    draws = sampler.samples()[["x", "y"]].to_numpy(dtype=float)
    assert draws.mean(axis=0) == pytest.approx([0, 0], abs=4 / np.sqrt(4000))
    assert np.cov(draws.T) == pytest.approx(np.array([[1, 0.8], [0.8, 1]]), abs=0.1)
    assert sampler.converged


@pytest.mark.slow
def test_finite_differences_sample_the_same_posterior():
    info = info_of(NoGradient, {"gradient": "finite_difference", "max_samples": 4000, "check_every": 100})
    _, sampler = run(info)
    grid = np.linspace(-1, 1, 2001)
    weight = np.exp(-(grid**2))
    expected = np.sqrt(np.sum(weight * grid**2) / np.sum(weight))
    assert sampler.samples()["x"].to_numpy(dtype=float).std() == pytest.approx(expected, rel=0.06)


class TestTngPosterior:
    """Two alignment strengths from omega(r) of TNG300 sample 1, against integration on a grid."""

    def test_moments_and_derived_parameters(self, make_info):
        sampler = {"iaemu_cobaya.HMC": {**SMALL, "n_chains": 32, "check_every": 50, "ess_stop": 3000}}
        info = make_info(sampler=sampler, params={"n_gal_ia": {"derived": True}})
        _, sampler = run(info)
        table = sampler.samples()
        draws = table[["mu_cen", "mu_sat"]].to_numpy(dtype=float)
        mean, sd = grid_moments(sampler.density)
        assert np.abs(draws.mean(axis=0) - mean).max() < 4 * (sd / np.sqrt(3000)).max()
        assert draws.std(axis=0) == pytest.approx(sd, rel=0.06)
        assert table["n_gal_ia"].to_numpy(dtype=float) == pytest.approx(1e4, rel=1e-6)
        assert (table["chi2__IA"] > 0).all()


def grid_moments(density, n=151):
    """Means and standard deviations of a posterior of two parameters, on two grids: all of it, then where it is."""
    import torch

    low, high = (np.array(bound) for bound in density.bounds)
    for _ in range(2):
        axes = [np.linspace(a, b, n + 2)[1:-1] for a, b in zip(low, high, strict=True)]
        points = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 2)
        with torch.no_grad():
            logp = torch.cat([density(part) for part in torch.as_tensor(points).split(4096)]).numpy()
        weight = np.exp(logp - logp.max())
        mean = np.average(points, weights=weight, axis=0)
        sd = np.sqrt(np.average((points - mean) ** 2, weights=weight, axis=0))
        low, high = np.maximum(low, mean - 7 * sd), np.minimum(high, mean + 7 * sd)
    return mean, sd


class TestErrors:
    def test_a_component_without_gradient_is_named_before_sampling(self):
        with pytest.raises(LoggedError, match=r"(?s)it .*x.*finite_difference"):
            run(info_of(NoGradient))

    def test_draws_of_which_cobaya_thinks_otherwise_stop_the_run(self):
        with pytest.raises(LoggedError, match="Cobaya's is"):
            run(info_of(Unequal))

    @pytest.mark.parametrize(
        ("option", "message"),
        [
            ({"n_files": 3}, "n_files: 8 chains"),
            ({"n_chains": 0}, "n_chains must be a whole number, at least 2 and at most .*; got 0"),
            ({"n_chains": 64.0}, "n_chains must be a whole number"),
            ({"check_every": None}, "check_every must be a whole number, at least 1 .*; got None"),
            ({"n_files": float("inf")}, "n_files must be a whole number, at least 1 .*; got inf"),
            ({"n_warmup": float("inf")}, "n_warmup must be a whole number, at least 20 .*; got inf"),
            ({"n_warmup": None}, "n_warmup must be .*; got None"),
            ({"max_samples": float("nan")}, "max_samples must be a number, above 0; got nan"),
            ({"max_samples": "1e4"}, "max_samples must be a number, above 0; got '1e4'"),
            ({"seed": -1}, "seed must be a whole number, at least 0; got -1"),
            ({"seed": [1, "a"]}, "(?s)seed.*must be an integer.*got .1, 'a'"),
            ({"method": None}, "method must not be null"),
            ({"progress": "yes"}, "progress: .*boolean.*; got 'yes'"),
            ({"covmat": 0}, "covmat must be a file with a covariance matrix, or the matrix; got 0"),
            ({"method": "gibbs"}, "method"),
            ({"gradient": "none"}, "gradient: must be one of"),
            ({"thin": -1}, "thin must be a whole number, at least 1 .*; got -1"),
            ({"target_accept": 1.5}, "target_accept"),
        ],
    )
    def test_options_are_checked(self, option, message):
        with pytest.raises(LoggedError, match=message):
            run(info_of(sampler=option))

    def test_no_sampled_parameter(self):
        with pytest.raises(LoggedError, match="No parameter is sampled"):
            run(info_of(params={"x": 0.1, "y": 0.2}))

    def test_stopping_short_of_convergence_is_said(self, caplog):
        _, sampler = run(info_of(sampler={"max_samples": 160}))
        assert not sampler.converged
        assert "before R-1 <" in caplog.text


class TestResume:
    """A run that was killed goes on to the same files as one that was not."""

    OPTIONS = {**SMALL, "n_chains": 4, "check_every": 10, "max_samples": 4 * 120, "ess_stop": 1e9}

    def files(self, root):
        """Chains, draws in full precision, covariance and progress."""
        endings = ("1.txt", "2.txt", "1.draws", "progress", "covmat")
        return [Path(f"chains/{root}.{ending}").read_bytes() for ending in endings]

    def yaml(self, root, **options):
        info = {
            "theory": {"iaemu_cobaya.IAEmu": None},
            "likelihood": {"iaemu_cobaya.TNG300Sample1": None},
            "sampler": {"iaemu_cobaya.HMC": {**self.OPTIONS, **options}},
            "output": f"chains/{root}",
        }
        yaml_dump_file(f"{root}.yaml", info, error_if_exists=False)
        return f"{root}.yaml"

    def test_killed_and_resumed(self):
        run(self.yaml("whole"))
        file = self.yaml("killed")
        command = [sys.executable, "-m", "cobaya", "run", file]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        checkpoint = Path("chains/killed.checkpoint")
        deadline = time.time() + 120
        while not checkpoint.is_file() and time.time() < deadline and process.poll() is None:
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert checkpoint.is_file()
        run(file, resume=True)
        assert self.files("killed") == self.files("whole")

    def test_stopped_anywhere(self):
        """Also between a file and the checkpoint, or in the middle of a line."""
        run(self.yaml("whole"))
        run(self.yaml("part", max_samples=4 * 40))
        path = Path("chains/part.2.txt")
        path.write_bytes(path.read_bytes() + b"  1  2  3\n 0.1 0.")
        _, sampler = run(self.yaml("part"), resume=True)
        assert self.files("part") == self.files("whole")
        assert sampler.n_kept == 120
        kept = np.fromfile("chains/part.1.draws").reshape(120, 4, 2)
        assert np.array_equal(kept.transpose(1, 0, 2), sampler._history)

    def test_convergence_is_judged_from_draws_in_full_precision(self):
        options = {"max_samples": 4 * 40, "ess_stop": 10}
        _, first = run(self.yaml("a", **options, Rminus1_stop=1e-9))
        exact = float(first.progress_table["Rminus1"].iloc[-1])
        # Of the eight digits of the chains, R-1 differs in the fifth.
        for stop, enough in ((exact, False), (exact * (1 + 1e-9), True)):
            _, sampler = run(self.yaml("a", **options, Rminus1_stop=stop), resume=True)
            assert sampler.converged is enough

    @pytest.mark.parametrize("damage", [Path.unlink, lambda path: path.write_bytes(path.read_bytes()[:-8])])
    def test_draws_that_are_gone_are_said(self, damage):
        run(self.yaml("a", max_samples=4 * 40))
        damage(Path("chains/a.1.draws"))
        with pytest.raises(LoggedError, match=r"a\.1\.draws.* missing or too short"):
            run(self.yaml("a"), resume=True)

    @pytest.mark.slow
    def test_killed_while_cobaya_writes_the_input_again(self):
        run(self.yaml("whole"))
        run(self.yaml("a", max_samples=4 * 40))
        Path("chains/a.updated.yaml").write_text("")
        run(self.yaml("a"), resume=True)
        assert self.files("a") == self.files("whole")

    def test_a_finished_run_stays_as_it_is_and_goes_on_if_more_is_asked(self):
        options = {"ess_stop": 50, "Rminus1_stop": 0.2, "max_samples": float("inf")}
        run(self.yaml("a", **options))
        before = self.files("a")
        run(self.yaml("a", **options), resume=True)
        assert self.files("a") == before
        run(self.yaml("a", **{**options, "ess_stop": 400}), resume=True)
        # All but the covariance are written on.
        for new, old in zip(self.files("a")[:4], before, strict=False):
            assert new.startswith(old) and len(new) > len(old)

    def test_other_targets_are_held_against_the_draws_there_are(self):
        run(self.yaml("a", max_samples=4 * 100))
        before = self.files("a")
        targets = {"Rminus1_stop": 0.5, "ess_stop": 10}
        _, sampler = run(self.yaml("a", max_samples=4 * 100, **targets), resume=True)
        assert sampler.converged
        _, sampler = run(self.yaml("a", max_samples=4 * 20, **targets), resume=True)
        assert sampler.converged
        assert self.files("a") == before

    @pytest.mark.parametrize("damage", [Path.unlink, lambda path: path.write_text("")], ids=["missing", "empty"])
    def test_draws_are_not_lost_with_the_checkpoint(self, damage):
        run(self.yaml("a", max_samples=4 * 40))
        before = self.files("a")
        damage(Path("chains/a.checkpoint"))
        with pytest.raises(LoggedError, match="missing or empty"):
            run(self.yaml("a"), resume=True)
        assert self.files("a") == before

    def test_a_progress_file_that_is_gone_is_begun_anew(self):
        run(self.yaml("a", max_samples=4 * 40))
        Path("chains/a.progress").write_text("")
        run(self.yaml("a", max_samples=4 * 80), resume=True)
        header, *lines = Path("chains/a.progress").read_text().splitlines()
        assert header.startswith("#") and lines[-1].split()[0] == str(4 * 80)

    def test_a_run_of_a_version_without_the_ess_of_the_mean(self):
        run(self.yaml("whole"))
        run(self.yaml("a", max_samples=4 * 40))
        path = Path("chains/a.progress")
        rows = [line.split() for line in path.read_text().lstrip("#").splitlines()]
        at = rows[0].index("ess_mean")
        old = ["".join(cell.rjust(16) for cell in row[:at] + row[at + 1 :]) for row in rows]
        path.write_text("\n".join(["#" + old[0], *old[1:]]) + "\n")
        _, sampler = run(self.yaml("a"), resume=True)
        new, whole = (Path(f"chains/{root}.progress").read_text().splitlines() for root in ("a", "whole"))
        assert self.files("a")[:3] == self.files("whole")[:3] and len(new) == len(whole)
        n_old = len(rows) - 1
        for line, expected in zip(new[1 : 1 + n_old], whole[1 : 1 + n_old], strict=True):
            cells, others = line.split(), expected.split()
            assert cells[at] == "nan" and len(line) == len(expected)
            assert cells[:at] + cells[at + 1 :] == others[:at] + others[at + 1 :]
        assert n_old and new[0] == whole[0] and new[1 + n_old :] == whole[1 + n_old :]
        assert sampler.progress_table["ess_mean"].isna().sum() == n_old

    def test_other_chains_are_refused(self):
        run(self.yaml("a", max_samples=80))
        with pytest.raises(LoggedError, match="not compatible"):
            run(self.yaml("a", n_chains=8), resume=True)

    def test_a_file_that_was_shortened_is_refused(self):
        run(self.yaml("a", max_samples=80))
        path = Path("chains/a.1.txt")
        path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:10]))
        with pytest.raises(LoggedError, match="Start anew with -f"):
            run(self.yaml("a"), resume=True)

    def test_a_checkpoint_that_was_damaged_is_refused(self):
        run(self.yaml("a", max_samples=80))
        path = Path("chains/a.checkpoint")
        info = yaml_load_file(str(path))
        info["sampler"]["iaemu_cobaya.HMC"]["states"][0]["tensors"] = "AAAA"
        yaml_dump_file(str(path), info, error_if_exists=False)
        with pytest.raises(LoggedError, match="Start anew with -f"):
            run(self.yaml("a"), resume=True)


def test_description_and_defaults_are_found_by_cobaya():
    assert "Hamiltonian" in HMC.get_desc({"iaemu_cobaya.HMC": {}}) or "Hamiltonian" in HMC._get_desc({})
    assert HMC.get_bibtex()
    assert set(HMC.get_defaults()) >= set(SMALL)


def test_cobayas_own_test_option_stops_before_sampling():
    run(info_of(output="chains/a"), test=True)
    assert not list(Path("chains").glob("a.*.txt"))


def test_in_a_callers_inference_mode_and_half_precision():
    plain = run(info_of(sampler={"max_samples": 80}))[1].samples()["x"].to_numpy()
    with torch.inference_mode():
        assert np.array_equal(run(info_of(sampler={"max_samples": 80}))[1].samples()["x"].to_numpy(), plain)
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        half = run(info_of(sampler={"max_samples": 80}))[1].samples()["x"].to_numpy()
    finally:
        torch.set_default_dtype(before)
    assert half == pytest.approx(plain, abs=1e-3)


def test_another_default_device_of_torch_is_named():
    device = torch.get_default_device()
    torch.set_default_device("meta")
    try:
        with pytest.raises(LoggedError, match=r"default device is meta.*set_default_device\('cpu'\)"):
            get_model({"theory": {"iaemu_cobaya.IAEmu": None}, "likelihood": {"iaemu_cobaya.TNG300Sample1": None}})
    finally:
        torch.set_default_device(device)
