"""Compare samplers on the same posterior: effective draws per second and per gradient.

    python benchmarks/samplers.py                                    # TNG300 sample 1, two parameters
    python benchmarks/samplers.py --posterior joint                  # all seven parameters
    python benchmarks/samplers.py --posterior paper-bins             # two, in the bins of the paper's network
    python benchmarks/samplers.py --posterior joint-paper-bins       # all seven, in these bins
    pip install pyro-ppl nutpie nautilus-sampler                     # other samplers; left out if not installed

The posteriors are those of files in yaml_examples, with the default emulator, the paper's network and the tables. All
samplers use the same density of unbounded parameters, except Cobaya's mcmc, which uses Cobaya's model. Pyro's NUTS has
the settings of the paper's script (arXiv:2504.05235, section 4.2: first step size 0.005, one chain), nutpie its
defaults with one chain. nautilus (arXiv:2306.16923) samples the unit cube of the same coordinates with its default
2000 live points, and evaluates 512 points at once; its exploration is part of the time of drawing. Effective draws are
the smallest of bulk and tail over parameters; for nautilus, the effective number of its weighted draws. torch has one
thread.
"""

from __future__ import annotations

import importlib.util
import json
import time
from pathlib import Path

import numpy as np
import torch
from cobaya.input import load_input_file
from cobaya.log import LoggedError
from cobaya.model import get_model
from cobaya.sampler import get_sampler
from common import benchmark_parser

from iaemu.binning import PAPER_EDGES
from iaemu.models.tables import TabulatedModel
from iaemu.parameters import OCCUPATION_PARAMETERS
from iaemu.sampling import Sampler, Settings, diagnostics
from iaemu.sampling.polytope import Polytope
from iaemu_cobaya import Bins, Measurement
from iaemu_cobaya.gradients.log_posterior import LogPosterior

EXAMPLES = Path(__file__).parents[1] / "yaml_examples"
POSTERIORS = {
    "sample1": ("tng_sample1.yaml", None),
    "joint": ("tng_sample1_joint.yaml", None),
    "paper-bins": ("tng_sample1.yaml", ("omega",)),
    "joint-paper-bins": ("tng_sample1_joint.yaml", ("xi", "omega")),
}
MODELS = {
    "default": {"iaemu_cobaya.IAEmu": None},
    "iaemunet": {"iaemu_cobaya.IAEmu": {"artifact": "iaemunet-pm160"}},
    "tables": {"iaemu_cobaya.TabulatedIA": None},
}


class Run:
    """A model, its density, and the start of all samplers."""

    def __init__(self, posterior: str, model: str):
        file, statistics = POSTERIORS[posterior]
        info = load_input_file(EXAMPLES / file)
        info.pop("output", None)
        info["theory"] = MODELS[model]
        if statistics:
            options = {"data": paper_bins(statistics), "statistics": list(statistics)}
            info["likelihood"] = {"iaemu_cobaya.IACorrelations": options}
        self.info = info
        self.model = get_model({key: value for key, value in info.items() if key != "sampler"})
        self.density = LogPosterior(self.model, rng=np.random.default_rng(1))
        self.start = np.array(
            [self.model.get_valid_point(1000, random_state=np.random.default_rng(i))[0] for i in range(8)]
        )

    def sampler(self, **settings) -> Sampler:
        return Sampler(self.density, len(self.density.names), self.density.transform, Settings(**settings), 1)


def paper_bins(statistics) -> Measurement:
    """Predict data at the fit of sample 1 (arXiv:2504.05235, table 2) in the paper's bins, with the errors of TNG300.

    The bins of the published data are not sums of the bins of the paper's network.
    """
    occupation = load_input_file(EXAMPLES / "tng_sample1.yaml")["params"]
    theta = {**{name: occupation[name] for name in OCCUPATION_PARAMETERS}, "mu_cen": 0.80, "mu_sat": 0.32}
    prediction = TabulatedModel.load().predict(theta, PAPER_EDGES, statistics=statistics)
    bins = {}
    for name in statistics:
        measured = Measurement.read("tng300/sample1").bins[name]
        error = np.exp(np.interp(np.log(prediction.r), np.log(measured.r), np.log(measured.error)))
        bins[name] = Bins(PAPER_EDGES[:-1], PAPER_EDGES[1:], getattr(prediction, name), error)
    return Measurement(bins)


def ours(run: Run, options, method: str) -> dict:
    n_chains = options.n_chains if method == "hmc" else min(options.n_chains, 16)
    chosen = {"trajectory_length": options.trajectory_length, "n_warmup": options.warmup}
    settings = {name: value for name, value in chosen.items() if value is not None}
    sampler = run.sampler(method=method, n_chains=n_chains, **settings)
    begun = time.perf_counter()
    sampler.warm_up(run.start)
    warm = time.perf_counter()
    gradients, values = sampler.density.n_gradients, sampler.density.n_values
    draws = sampler.draw(options.draws)
    seconds = time.perf_counter() - warm
    return report(
        draws.positions.numpy(),
        warm - begun,
        seconds,
        sampler.density.n_gradients - gradients,
        sampler.density.n_values - values,
        int(draws.info.divergent.sum()),
    )


def unbounded(run: Run):
    """Minus the log-density and its gradient at one point of unbounded coordinates; counts its calls."""
    density = run.sampler().density

    def negative(z: np.ndarray):
        value, gradient = density(torch.as_tensor(z)[None])
        return float(value[0]), gradient[0].numpy()

    return density, negative


def pyro_nuts(run: Run, options) -> dict:
    from pyro.infer import MCMC, NUTS

    sampler = run.sampler()
    transform, calls = sampler.transform, []

    def potential(parameters):
        z = parameters["z"][None]
        calls.append(1)
        return -(run.density(transform.forward(z)) + transform.log_jacobian(z))[0]

    start = transform.inverse(torch.as_tensor(run.start[:1]))[0]
    kernel = NUTS(potential_fn=potential, step_size=0.005)
    torch.manual_seed(1)
    times = {}

    def hook(kernel, samples, stage, i):
        times.setdefault(stage, time.perf_counter())
        times["calls", stage] = len(calls)

    mcmc = MCMC(
        kernel,
        num_samples=options.pyro_draws,
        warmup_steps=options.pyro_warmup,
        initial_params={"z": start},
        hook_fn=hook,
        disable_progbar=True,
    )
    begun = time.perf_counter()
    mcmc.run()
    ended = time.perf_counter()
    draws = transform.forward(mcmc.get_samples()["z"].double())[None].numpy()
    warm = times["Sample"] - begun
    return report(draws, warm, ended - begun - warm, len(calls) - times["calls", "Warmup"])


def nutpie_nuts(run: Run, options) -> dict:
    import nutpie

    density, evaluate = unbounded(run)
    transform = density.transform
    n_dim = len(run.density.names)
    start = transform.inverse(torch.as_tensor(run.start[:1]))[0].numpy()

    def make_logp():
        def logp(z):
            value, gradient = evaluate(z)
            return value, gradient

        return logp

    def make_expand(*_):
        return lambda z: {"z": z}

    compiled = nutpie.compiled_pyfunc.from_pyfunc(
        n_dim,
        make_logp,
        make_expand,
        [np.dtype("float64")],
        [(n_dim,)],
        ["z"],
        make_initial_point_fn=lambda seed: start,
    )
    begun = time.perf_counter()
    trace = nutpie.sample(
        compiled, draws=options.nutpie_draws, tune=400, chains=1, cores=1, seed=1, progress_bar=False, save_warmup=False
    )
    seconds = time.perf_counter() - begun
    z = torch.as_tensor(np.array(trace.posterior["z"]))
    draws = transform.forward(z.reshape(-1, n_dim)).numpy()[None]
    steps = int(np.sum(trace.sample_stats["n_steps"]))
    total = density.n_gradients
    # nutpie reports no times; the warm-up is taken in proportion to its number of gradients.
    return report(draws, seconds * (1 - steps / total), seconds * steps / total, steps)


def nautilus(run: Run, options) -> dict:
    from nautilus import Sampler as Nautilus

    transform = run.density.transform
    quantile = torch.special.ndtri if isinstance(transform, Polytope) else torch.logit
    n_dim = len(run.density.names)

    def coordinates(unit):
        return quantile(torch.as_tensor(unit).clamp(1e-12, 1.0 - 1e-12))

    def log_density(unit):
        """That of points of the unit cube."""
        u = coordinates(unit)
        log_slope = -0.5 * u.square() - 0.5 * np.log(2 * np.pi)
        if quantile is torch.logit:
            log_slope = torch.nn.functional.logsigmoid(u) + torch.nn.functional.logsigmoid(-u)
        with torch.no_grad():
            value = run.density(transform.forward(u)) + transform.log_jacobian(u) - log_slope.sum(dim=1)
        return torch.nan_to_num(value, neginf=-1e10).numpy()

    sampler = Nautilus(lambda unit: unit, log_density, n_dim, pass_dict=False, vectorized=True, n_batch=512, seed=1)
    begun = time.perf_counter()
    sampler.run(n_eff=options.nautilus_ess, verbose=False)
    seconds = time.perf_counter() - begun
    unit, log_weight, _ = sampler.posterior()
    draws = transform.forward(coordinates(unit)).numpy()
    weight = np.exp(log_weight - log_weight.max())
    mean = np.average(draws, axis=0, weights=weight)
    sd = np.sqrt(np.average((draws - mean) ** 2, axis=0, weights=weight))
    row = rates(float(sampler.n_eff), 0.0, seconds, None, sampler.n_like)
    return {"chains": 1, "draws": len(draws), **row, "mean": mean.tolist(), "sd": sd.tolist()}


def cobaya_mcmc(run: Run, options) -> dict:
    import logging

    logging.disable(logging.INFO)
    sampler = get_sampler(
        {
            "mcmc": {
                "max_samples": options.mcmc_samples,
                "Rminus1_stop": 0,
                "seed": 1,
                "measure_speeds": False,
                **covmat(run),
            }
        },
        run.model,
    )
    begun = time.perf_counter()
    sampler.run()
    seconds = time.perf_counter() - begun
    logging.disable(logging.NOTSET)
    table = sampler.products()["sample"]
    rows = np.repeat(table[list(run.density.names)].to_numpy(dtype=float), table["weight"].astype(int), axis=0)
    rows = rows[int(0.1 * len(rows)) :]
    return report(rows[None], 0.1 * seconds, 0.9 * seconds, None)


def covmat(run: Run) -> dict:
    found = next(iter(run.info["sampler"].values())) or {}
    return {key: found[key] for key in ("covmat", "covmat_params") if key in found and not isinstance(found[key], str)}


def report(draws, warm_up, seconds, n_gradients, n_values=None, divergences=None) -> dict:
    ess = float(min(diagnostics.ess(draws).min(), diagnostics.ess(draws, "tail").min()))
    return {
        "chains": draws.shape[0],
        "draws": draws.shape[1],
        **rates(ess, warm_up, seconds, n_gradients, n_values),
        "divergences": divergences,
        "mean": draws.mean(axis=(0, 1)).tolist(),
        "sd": draws.std(axis=(0, 1)).tolist(),
    }


def rates(ess, warm_up, seconds, n_gradients, n_values) -> dict:
    return {
        "ess": ess,
        "warm_up_seconds": warm_up,
        "seconds": seconds,
        "ess_per_second": ess / seconds,
        "ess_per_second_in_all": ess / (seconds + warm_up),
        "ess_per_gradient": ess / n_gradients if n_gradients else None,
        "ess_per_value": ess / n_values if n_values else None,
    }


SAMPLERS = {
    "HMC": lambda run, options: ours(run, options, "hmc"),
    "NUTS": lambda run, options: ours(run, options, "nuts"),
    "Pyro NUTS": pyro_nuts,
    "nutpie": nutpie_nuts,
    "nautilus": nautilus,
    "Cobaya mcmc": cobaya_mcmc,
}
NEEDS = {"Pyro NUTS": "pyro", "nutpie": "nutpie", "nautilus": "nautilus"}


def main(arguments=None) -> None:
    parser = benchmark_parser(__doc__)
    parser.add_argument("--posterior", choices=POSTERIORS, default="sample1")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--samplers", nargs="+", choices=SAMPLERS, default=list(SAMPLERS))
    parser.add_argument("--n-chains", type=int, default=64)
    parser.add_argument("--draws", type=int, default=500, help="draws of each chain of our samplers")
    parser.add_argument("--trajectory-length", type=float, help="length of trajectories of HMC (default: its own)")
    parser.add_argument("--warmup", type=int, help="transitions of the warm-up of our samplers (default: their own)")
    parser.add_argument("--nautilus-ess", type=int, default=4000)
    parser.add_argument("--pyro-warmup", type=int, default=2000)
    parser.add_argument("--pyro-draws", type=int, default=4000)
    parser.add_argument("--nutpie-draws", type=int, default=4000)
    parser.add_argument("--mcmc-samples", type=int, default=4000)
    parser.add_argument("--output", type=Path, help="JSON file to write")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    rows = []
    print(
        "| model | sampler | chains x draws | ess | warm-up [s] | drawing [s] | ess/s | with warm-up | ess/gradient | "
        "ess/value | divergences |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|---|")
    for model in options.models:
        try:
            run = Run(options.posterior, model)
        except LoggedError as error:
            print(f"| {model} | left out: {error} |")
            continue
        for sampler in options.samplers:
            if sampler in NEEDS and importlib.util.find_spec(NEEDS[sampler]) is None:
                continue
            row = {"model": model, "sampler": sampler, **SAMPLERS[sampler](run, options)}
            rows.append(row)
            cells = (
                *(model, sampler, f"{row['chains']} x {row['draws']}", f"{row['ess']:.0f}"),
                *(f"{row[name]:.2f}" for name in ("warm_up_seconds", "seconds")),
                *(f"{row[name]:.4g}" for name in ("ess_per_second", "ess_per_second_in_all")),
                *("" if row[name] is None else f"{row[name]:.3f}" for name in ("ess_per_gradient", "ess_per_value")),
                "" if row.get("divergences") is None else str(row["divergences"]),
            )
            print(f"| {' | '.join(cells)} |", flush=True)
    if options.output:
        options.output.write_text(json.dumps({"posterior": options.posterior, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
