"""Options of the Cobaya components and of the sampler, parameters of a run, and chains on disk."""

import logging
import math

import numpy as np
import pytest
import torch
from cobaya.log import LoggedError
from cobaya.model import get_model
from cobaya.sampler import get_sampler
from fuzzing import NUMBERS, awkward_number, awkward_tensor, spoilt_bytes, spoilt_text

from iaemu import Emulator, TabulatedModel
from iaemu.sampling import Sampler, SamplingError, Settings
from iaemu_cobaya import IACorrelations, IAEmu, MassDependentIA, TabulatedIA
from iaemu_cobaya.chains import ChainError, load_chain, posterior_table
from iaemu_cobaya.commands import door

WORDS = [
    "omega",
    "xi",
    "auto",
    "full",
    "diagonal",
    "correlation",
    "reject",
    "warn",
    "tng300/sample1",
    "hmc",
    "nuts",
    "/",
]


@pytest.fixture(autouse=True)
def quiet():
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


def pick(rng, choices):
    return choices[int(rng.integers(len(choices)))]


def awkward_option(rng):
    """Something in place of an option's value."""
    action = rng.integers(6)
    if action < 3:
        return awkward_number(rng)
    if action == 3:
        return pick(rng, [*WORDS, "x" * 300, "\u00e9", "a\nb", "../x", "~", "\0"])
    if action == 4:
        return [pick(rng, [*WORDS, *NUMBERS]) for _ in range(rng.integers(3))]
    return {pick(rng, [*WORDS, "mu_cen", 3, None]): pick(rng, [*WORDS, *NUMBERS]) for _ in range(rng.integers(1, 3))}


def options_of(names):
    """Makes dictionaries of one or two options with awkward values."""
    return lambda rng: {pick(rng, names): awkward_option(rng) for _ in range(rng.integers(1, 3))}


# ---------------------------------------------------------------------- sampler


def test_options_of_hmc(fuzz):
    x = {"prior": {"min": -5, "max": 5}, "ref": 0.1, "proposal": 1}
    model = get_model({"likelihood": {"g": {"external": lambda x: -0.5 * x**2}}, "params": {"x": x}})
    cheap = {"gradient": "finite_difference", "n_chains": 4, "n_files": 2, "n_warmup": 20, "progress": False}
    names = "method gradient n_chains n_files n_warmup target_accept trajectory_length max_tree_depth Rminus1_stop"
    names = [*names.split(), *"ess_stop max_samples check_every thin progress seed covmat covmat_params".split()]

    def call(options):
        return get_sampler({"iaemu_cobaya.HMC": {**cheap, **options}}, model)

    def check(sampler):
        whole = [sampler.n_chains, sampler.n_files, sampler.n_warmup, sampler.check_every, sampler.thin]
        above = [sampler.max_samples, sampler.ess_stop, sampler.Rminus1_stop]
        return all(1 <= number <= 10**6 for number in whole) and min(above) > 0

    fuzz("HMC options", 5000, options_of(names), call, LoggedError, check)


def test_settings_of_the_sampler(fuzz):
    def check(settings):
        numbers = [settings.n_warmup, settings.trajectory_length, settings.jitter, settings.dispersion, settings.chunk]
        return all(math.isfinite(number) for number in numbers)

    def call(options):
        return Settings(**options)

    fuzz("sampling.Settings", 3000, options_of(Settings.names()), call, ValueError, check)


def test_awkward_densities(fuzz):
    def make(rng):
        kind, at = int(rng.integers(14)), float(rng.normal())
        low, high = pick(rng, [(None, None), (-3.0, 3.0), (0.0, None), (awkward_number(rng), 1.0)])
        start = pick(rng, [np.zeros(2), np.full(2, 0.5), awkward_tensor(rng, np.full((3, 2), 0.5))])
        return kind, at, (low, high), start

    def density(kind, at):
        def function(x):
            normal = -0.5 * x.square().sum(dim=1)
            return [
                lambda: normal,
                lambda: torch.full((len(x),), at),
                lambda: normal * math.nan,
                lambda: normal - math.inf,
                lambda: normal + math.inf,
                lambda: torch.where(x[:, 0] > at, normal, math.nan),
                lambda: torch.where(x[:, 0] > at, normal, -math.inf),
                lambda: torch.where(x[:, 0] > at, normal, math.inf),
                lambda: normal[:, None],
                lambda: normal.sum(),
                lambda: normal.float(),
                lambda: 1e300 * normal,
                lambda: x[:, 0],
                lambda: None,
            ][kind]()

        return function

    def call(given):
        kind, at, bounds, start = given
        settings = Settings(n_chains=4, n_warmup=20)
        sampler = Sampler(density(kind, at), 2, bounds, settings)
        sampler.warm_up(start)
        return sampler.draw(2)

    def check(draws):
        return bool(torch.isfinite(draws.positions).all())

    fuzz("Sampler, densities", 300, make, call, (SamplingError, ValueError), check)


# ---------------------------------------------------------------------- theories and likelihoods


@pytest.fixture(scope="module")
def models():
    return {"IAEmu": Emulator.load(), "TabulatedIA": TabulatedModel.load()}


def test_options_of_theories(fuzz, models):
    names = ["artifact", "box_error", "support", "param_map", "tag", "stop_at_error", "pivot"]
    classes = {"IAEmu": IAEmu, "TabulatedIA": TabulatedIA, "MassDependentIA": MassDependentIA}

    def call(given):
        name, options = given
        model = models["IAEmu" if name == "IAEmu" else "TabulatedIA"]
        if name == "IAEmu":
            options.pop("pivot", None)
        # A null artifact is the shipped one, which takes a while to load.
        if options.get("artifact", 0) is None:
            options.pop("artifact")
        return classes[name]({"artifact": model, **options})

    def make(rng):
        return pick(rng, list(classes)), options_of(names)(rng)

    fuzz("theory options", 3000, make, call, LoggedError, lambda theory: len(theory.names) >= 7)


def test_options_of_the_likelihood(fuzz):
    names = ["data", "statistics", "r_min", "r_max", "covariance", "correlation_from", "distribution"]
    names = [*names, "n_parameters", "emulator_error", "param_map", "tag", "stop_at_error"]

    def call(options):
        return IACorrelations({"data": "tng300/sample3", **options})

    def check(like):
        at_the_data = (like.chi2(like.data_vector), like.log_likelihood(like.data_vector))
        return len(like.data_vector) > 0 and np.isfinite(like.inverse_covariance).all() and at_the_data == (0.0, 0.0)

    fuzz("likelihood options", 3000, options_of(names), call, LoggedError, check)


@pytest.mark.parametrize("theory", ["IAEmu", "TabulatedIA"])
def test_parameters_of_a_run(fuzz, models, theory):
    """Numbers of all kinds and sizes: a point is in the support, or of zero likelihood."""
    mass = {"prior": {"min": 0, "max": 20}, "ref": 12.6}
    info = {
        "theory": {f"iaemu_cobaya.{theory}": None},
        "likelihood": {"iaemu_cobaya.TNG300Sample1": {"statistics": ["omega"], "emulator_error": True}},
        "params": {"logMmin": mass, "n_gal_ia": None},
    }
    model = get_model(info)
    names = list(model.parameterization.sampled_params())
    kinds = [float, np.float32, np.float64, np.float16, np.longdouble, np.array, round, np.int8]

    def make(rng):
        point = dict(zip(names, rng.uniform([0.5, 0.0, 12.0], [0.9, 0.4, 13.0]), strict=True))
        for _ in range(rng.integers(1, 3)):
            value = pick(rng, [rng.normal(), math.nan, math.inf, -math.inf, 1e308, 1e-320, -0.0, 1.0, -1.0, 12.5, 20.0])
            point[pick(rng, names)] = value
        kind = pick(rng, kinds)
        if kind in (round, np.int8):
            # Whole numbers beyond those of numpy are for Cobaya.
            point = {name: float(np.clip(np.nan_to_num(value), -100, 100)) for name, value in point.items()}
        with np.errstate(over="ignore"):
            return {name: kind(value) for name, value in point.items()}

    def check(logpost):
        return logpost == -math.inf or math.isfinite(logpost)

    fuzz(f"{theory}, logpost", 3000, make, model.logpost, LoggedError, check)
    model.close()


# ---------------------------------------------------------------------- chains


@pytest.fixture(scope="module")
def chain(tmp_path_factory):
    """The files of a run of mcmc, by their endings."""
    from cobaya.run import run

    folder = tmp_path_factory.mktemp("chain")
    info = {
        "theory": {"iaemu_cobaya.IAEmu": None},
        "likelihood": {"iaemu_cobaya.TNG300Sample1": None},
        "sampler": {"mcmc": {"max_samples": 60, "seed": 1}},
        "output": str(folder / "a"),
    }
    run(info)
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


ENDINGS = ("1.txt", "updated.yaml", "progress", "covmat", "checkpoint")
CHAIN_WORDS = [
    "nan",
    "inf",
    "-1",
    "0",
    "1e400",
    "x",
    "",
    "#",
    "params:",
    "null",
    "[",
    "{",
    "- a",
    "prior",
    "!!python/x",
]


def spoilt_chain(rng, chain):
    ending = pick(rng, ["1.txt", "1.txt", "updated.yaml", "updated.yaml", *ENDINGS])
    content = chain.get(f"a.{ending}", b"")
    spoilt = spoilt_bytes(rng, content) if rng.random() < 0.3 else spoilt_text(rng, content.decode(), CHAIN_WORDS)
    return ending, spoilt


def test_spoilt_chains(fuzz, chain, tmp_path):
    def call(given):
        ending, content = given
        for name, original in chain.items():
            (tmp_path / name).write_bytes(original)
        (tmp_path / f"a.{ending}").write_bytes(content)
        return posterior_table(load_chain(tmp_path / "a", burn_in=0.0))

    fuzz("load_chain, spoilt files", 800, lambda rng: spoilt_chain(rng, chain), call, ChainError)


def test_command_lines_of_iaemu_plot(fuzz, chain, tmp_path, monkeypatch, capsys):
    """Exit status and one line, whatever the files hold; never a traceback."""
    monkeypatch.chdir(tmp_path)

    def make(rng):
        names = ["a", "./a", "a.1.txt", "a.covmat", "", ".", "/", "b", "a.txt", "\0", "x" * 300, "~", "a."]
        arguments = [pick(rng, ["a", "a", "a", pick(rng, names)])]
        for _ in range(rng.integers(3)):
            arguments += pick(
                rng,
                [
                    *(["--burn-in", text] for text in ("0.5", "nan", "-1", "1", "x", "1e400", "")),
                    *(["--truth", text] for text in ("mu_cen=0.5", "mu_c=1", "mu_cen=nan", "mu_cen=inf", "=", "x")),
                    *(["--out", text] for text in ("plots", "a.1.txt", "a.1.txt/b", "", "\0", "x" * 300)),
                    ["--format", "gif"],
                    ["--paper"],
                    ["--no-such"],
                ],
            )
        return [*arguments, "--no-data"], spoilt_chain(rng, chain) if rng.random() < 0.5 else ("x", b"")

    def call(given):
        arguments, (ending, content) = given
        for name, original in chain.items():
            (tmp_path / name).write_bytes(original)
        (tmp_path / f"a.{ending}").write_bytes(content)
        try:
            status = door.plot(arguments)
        except SystemExit as error:
            status = error.code
        return status, capsys.readouterr().err

    def check(result):
        status, errors = result
        return status in (0, 1, 2) and "Traceback" not in errors and (status != 1 or len(errors.splitlines()) == 1)

    fuzz("iaemu-plot", 200, make, call, (), check)
