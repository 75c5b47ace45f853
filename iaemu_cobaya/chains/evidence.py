"""Evidence of a Cobaya model, computed with nautilus (Lange 2023, MNRAS 525, 3181)."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from cobaya.log import LoggedError
from cobaya.model import Model

from iaemu.extras import it_takes
from iaemu.progress import BAR_AFTER, tqdm
from iaemu_cobaya.chains.reading import ChainError
from iaemu_cobaya.gradients.log_posterior import LogPosterior
from iaemu_cobaya.likelihoods.correlations import IACorrelations

#: Draws of the priors of single parameters, for the normalisation of external priors.
N_PRIOR = 20_000


@dataclass(frozen=True)
class Evidence:
    """The evidence of a model: the mean of its likelihood over its prior.

    Attributes
    ----------
    log_z : float
        Natural logarithm, with priors that are normalised.
    error : float
        Statistical error of ``log_z``.
    log_external : float
        Logarithm of the mean of the external priors over the priors of single parameters, which has been subtracted; 0
        without external priors.
    log_external_error : float
        Its statistical error, which ``error`` contains.
    n_effective : float
        Number of effective draws.
    n_evaluations : int
        Evaluations of the likelihood.
    """

    log_z: float
    error: float
    log_external: float
    log_external_error: float
    n_effective: float
    n_evaluations: int

    def as_document(self) -> dict[str, float]:
        """Return the numbers by name.

        Returns
        -------
        dict
        """
        return asdict(self)


class LogLikelihood:
    """Log-likelihood of a Cobaya model times its external priors, at batches of points.

    With the normalisation of the distribution of the data, which differs between numbers of fitted parameters for
    covariances from regions.

    Parameters
    ----------
    model : cobaya.model.Model
    seed : int
        Of the points at which the model is tried.
    """

    def __init__(self, model: Model, seed: int = 0):
        self.model, self.names = model, tuple(model.parameterization.sampled_params())
        self.normalisation = sum(
            like.log_normalisation() for like in model.likelihood.values() if isinstance(like, IACorrelations)
        )
        self._batches: LogPosterior | None = None
        with suppress(LoggedError):  # a component that knows no batches
            self._batches = LogPosterior(model, rng=np.random.default_rng(seed))
        if self._batches is not None:
            self._batches.check(rng=np.random.default_rng(seed))

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """Return the logarithms at points.

        Parameters
        ----------
        x : array (n, n_parameters)

        Returns
        -------
        array (n,)
            -inf outside the prior, and where the likelihood is zero.
        """
        x = np.ascontiguousarray(np.atleast_2d(x), dtype=np.float64)
        if self._batches is not None:
            with torch.no_grad():
                posterior = self._batches(torch.as_tensor(x)).numpy()
        else:
            posterior = np.array([self.model.logpost(row) for row in x])
        inside = np.isfinite(posterior)
        found = np.full(len(x), -np.inf)
        found[inside] = posterior[inside] - self._log_prior(x[inside]) + self.normalisation
        return found

    def _log_prior(self, x: np.ndarray) -> np.ndarray:
        return sum(
            (pdf.logpdf(column) for pdf, column in zip(self.model.prior.pdf, x.T, strict=True)), np.zeros(len(x))
        )

    def from_unit_cube(self, unit: np.ndarray) -> np.ndarray:
        """Return the points whose cumulative priors are given.

        Parameters
        ----------
        unit : array (..., n_parameters)

        Returns
        -------
        array (..., n_parameters)
        """
        columns = np.moveaxis(np.asarray(unit), -1, 0)
        return np.stack([pdf.ppf(c) for pdf, c in zip(self.model.prior.pdf, columns, strict=True)], axis=-1)


def log_external_mean(likelihood: LogLikelihood, seed: int = 0, n_draws: int = N_PRIOR) -> tuple[float, float]:
    """Return the logarithm of the mean of the external priors over the priors of single parameters, and its error.

    Parameters
    ----------
    likelihood : LogLikelihood
    seed, n_draws : int
        Of Monte Carlo.

    Returns
    -------
    tuple of float

    Raises
    ------
    ChainError
        Too few draws are within the external priors.
    """
    prior = likelihood.model.prior
    if not prior.external:
        return 0.0, 0.0
    unit = np.random.default_rng(seed).random((n_draws, len(likelihood.names)))
    logs = np.array([sum(prior.logps(point)[1:]) for point in likelihood.from_unit_cube(unit)])
    top = logs.max()
    weights = np.exp(logs - top) if np.isfinite(top) else np.zeros(n_draws)
    error = weights.std() / math.sqrt(n_draws) / weights.mean() if weights.mean() > 0 else math.inf
    if not error < 0.2:
        raise ChainError(
            f"The external prior ({', '.join(prior.external)}) is so narrow that its integral is not known from "
            f"{n_draws} draws of the priors of the single parameters. Give the parameters narrower priors, or write it "
            "as the prior of a parameter."
        )
    return float(top + np.log(weights.mean())), float(error)


def evidence(
    likelihood: LogLikelihood,
    n_live: int = 1000,
    n_effective: int = 10_000,
    seed: int = 0,
    checkpoint: Path | None = None,
    progress: Callable[[int], object] | None = None,
) -> Evidence:
    """Compute the evidence of a model with nautilus.

    Parameters
    ----------
    likelihood : LogLikelihood
    n_live : int
        Number of live points.
    n_effective : int
        Effective draws at which to stop.
    seed : int
    checkpoint : Path, optional
        HDF5 file that holds the state, from which an interrupted computation goes on; needs h5py.
    progress : callable, optional
        Called with the number of points after each batch.

    Returns
    -------
    Evidence

    Raises
    ------
    ChainError
        nautilus or h5py is not installed, or see :func:`log_external_mean`.
    """
    try:
        from nautilus import Sampler

        if checkpoint is not None:
            import h5py  # noqa: F401
    except ImportError as error:
        raise ChainError(it_takes(f"The evidence needs nautilus-sampler ({error})", "evidence")) from error
    log_external, external_error = log_external_mean(likelihood, seed)
    n = len(likelihood.names)

    def batch(x: np.ndarray) -> np.ndarray:
        if progress is not None:
            progress(len(x))
        # nautilus does not accept -inf.
        return np.maximum(likelihood(x), -1e300)

    def sampler() -> Sampler:
        return Sampler(
            lambda unit: likelihood.from_unit_cube(unit[..., :n]),
            batch,
            n_dim=max(2, n),  # nautilus needs two; nothing depends on the second
            n_live=n_live,
            vectorized=True,
            pass_dict=False,
            seed=seed,
            filepath=None if checkpoint is None else os.fspath(checkpoint),
        )

    try:
        run = sampler()
    except (OSError, KeyError):  # the state was cut when a run was killed
        if checkpoint is None:
            raise
        checkpoint.unlink()
        run = sampler()
    run.run(n_eff=n_effective, discard_exploration=True, verbose=False)
    total = math.hypot(1.0 / math.sqrt(run.n_eff), external_error)
    return Evidence(
        float(run.log_z) - log_external, total, log_external, external_error, float(run.n_eff), int(run.n_like)
    )


def evaluations_bar(name: str, shown: bool) -> tqdm:
    """Return a progress bar that counts evaluations.

    Parameters
    ----------
    name : str
    shown : bool

    Returns
    -------
    tqdm
    """
    return tqdm(desc=name, unit=" points", disable=not shown, delay=BAR_AFTER, leave=False)
