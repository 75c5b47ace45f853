"""Posteriors with halotools-IA mocks, by re-weighting draws of a posterior that is cheap to sample.

Importance weights: a draw theta_i of the cheap posterior gets the weight L_mocks(theta_i) / L_cheap(theta_i). With
mocks at a few dozen points, the mean is uncertain: the noise of the log-likelihood is about 1 for 40 mocks of each of
two boxes. The mocks of all points together constrain it better. At fixed occupation, omega is linear in q(mu_cen) and
q(mu_sat) (:mod:`iaemu.halomodel.alignment`). A regression of the omega of all mocks on these two gives omega
everywhere, and with it a weight for every draw. Points inside the posterior constrain the slopes badly, so mocks at
four more points are added in the corners (:data:`CORNERS`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from iaemu.halomodel.alignment import mean_p2
from iaemu.parameters import ALIGNMENT_PARAMETERS, OCCUPATION_PARAMETERS
from iaemu_cobaya.likelihoods.correlations import IACorrelations

#: Alignment strengths (mu_cen, mu_sat) that span the range of q, slightly inside, where halotools samples them best.
CORNERS = np.array([[0.98, 0.98], [0.98, -0.98], [-0.98, 0.98], [-0.98, -0.98]])

_N_BOOTSTRAP = 400


@dataclass(frozen=True)
class Moments:
    """Moments of (mu_cen, mu_sat).

    Attributes
    ----------
    mean, std, error : array (2,)
        ``error`` is the Monte Carlo error of the mean.
    effective : float
        Number of effective draws.
    """

    mean: np.ndarray
    std: np.ndarray
    error: np.ndarray
    effective: float


@dataclass(frozen=True)
class DirectPoints:
    """Mocks at points of the cheap posterior.

    Attributes
    ----------
    mu : (n, 2)
        mu_cen, mu_sat.
    omega : (n, n_bins)
        From all mocks of each point together, in the bins of the likelihood.
    deviations : (n, K, n_bins)
        Deviations of omega: their products sum to the covariance of its error.
    n_mocks : int
        Number of mocks at all points.
    """

    mu: np.ndarray
    omega: np.ndarray
    deviations: np.ndarray
    n_mocks: int

    def weighted(self, like: IACorrelations, cheap_loglike: np.ndarray, seed: int = 1) -> Moments:
        """Return the moments of the posterior from importance weights of the points.

        Parameters
        ----------
        like : IACorrelations
            Likelihood of omega only; the error of the mocks is added to its covariance.
        cheap_loglike : (n,)
            Log-likelihoods of the cheap posterior at the points.
        seed : int
            Seed of the bootstrap of the points, which gives the Monte Carlo error of the means.

        Returns
        -------
        Moments
        """
        log_weight = like.log_likelihoods(self.omega, self.deviations) - cheap_loglike
        weight = np.exp(log_weight - log_weight.max())
        rows = np.random.default_rng(seed).integers(len(weight), size=(_N_BOOTSTRAP, len(weight)))
        resampled = (weight[rows][..., None] * self.mu[rows]).sum(axis=1) / weight[rows].sum(axis=1)[:, None]
        return _moments(self.mu, weight, resampled.std(axis=0))

    def pooled(
        self, like: IACorrelations, mu: np.ndarray, cheap_loglike: np.ndarray, corners: DirectPoints, seed: int = 1
    ) -> tuple[np.ndarray, Moments]:
        """Return weights of draws of the cheap posterior from the regression, and the moments of the posterior.

        Parameters
        ----------
        like : IACorrelations
            Likelihood of omega only.
        mu, cheap_loglike : (m, 2), (m,)
            Draws of the cheap posterior, and their log-likelihoods.
        corners : DirectPoints
            Mocks at :data:`CORNERS`.
        seed : int
            Seed of the bootstrap of the points, and of the noise that is added to the corners, which give the Monte
            Carlo error of the means.

        Returns
        -------
        weights (m,), weighted Moments
        """
        q_draws, q_points, q_corners = (_q(points) for points in (mu, self.mu, corners.mu))

        def _weigh(rows, omega_corners):
            design = np.concatenate([q_points[rows], q_corners])
            coefficients, *_ = np.linalg.lstsq(design, np.concatenate([self.omega[rows], omega_corners]), rcond=None)
            log_weight = like.log_likelihoods(q_draws @ coefficients) - cheap_loglike
            return np.exp(log_weight - log_weight.max())

        generator = np.random.default_rng(seed)
        n, n_deviations = len(self.mu), corners.deviations.shape[1]
        means = []
        for _ in range(_N_BOOTSTRAP):
            noise = np.einsum("ck,ckb->cb", generator.normal(size=(len(q_corners), n_deviations)), corners.deviations)
            weight = _weigh(generator.integers(n, size=n), corners.omega + noise)
            means.append(weight @ mu / weight.sum())
        weight = _weigh(np.arange(n), corners.omega)
        return weight, _moments(mu, weight, np.std(means, axis=0))


def noise_of_fixed_seeds(
    like: IACorrelations, mu: np.ndarray, weight: np.ndarray, omega: np.ndarray, deviations: np.ndarray
) -> np.ndarray:
    """Return the standard errors of the means of a posterior due to the noise of mocks with the same seeds everywhere.

    To first order, each deviation of the mocks shifts the means if it is added to a prediction without noise. The
    squares of these shifts are summed. A longer chain does not reduce this error.

    Parameters
    ----------
    like : IACorrelations
        Likelihood of omega only.
    mu, weight : (n, 2), (n,)
        Draws of the posterior without this noise, and their weights.
    omega : (n, n_bins)
        Prediction at the draws.
    deviations : (K, n_bins)
        Deviations of omega of the mocks.

    Returns
    -------
    (2,)
    """
    log_likelihood = like.log_likelihoods(omega)
    mean = np.average(mu, axis=0, weights=weight)
    shifts = []
    for deviation in deviations:
        log_weight = like.log_likelihoods(omega + deviation) - log_likelihood
        shifts.append(np.average(mu, axis=0, weights=weight * np.exp(log_weight - log_weight.max())) - mean)
    return np.sqrt(np.sum(np.square(shifts), axis=0))


def _q(mu) -> np.ndarray:
    return mean_p2(torch.as_tensor(np.asarray(mu, dtype=np.float64))).numpy()


def _moments(mu, weight, error) -> Moments:
    weight = weight / weight.sum()
    mean = weight @ mu
    return Moments(mean, np.sqrt(weight @ (mu - mean) ** 2), error, float(1.0 / (weight**2).sum()))


def populate(
    folder: str | Path,
    mu: np.ndarray,
    occupation: Mapping[str, float],
    r_edges: Sequence[float] | np.ndarray,
    ensemble: Mapping[str, Any],
    processes: int = 1,
    progress: bool = True,
) -> DirectPoints:
    """Populate mocks at each point. Finished points are stored in ``folder``, from which a killed run resumes.

    Parameters
    ----------
    folder : path-like
    mu : (n, 2)
        Points (mu_cen, mu_sat).
    occupation : mapping
        The five occupation parameters.
    r_edges : (n_bins + 1,)
        [Mpc/h]
    ensemble : mapping
        ``catalogues``, ``n_realisations``, ``seed`` and ``seeds`` of
        :class:`iaemu_training.mocks.ensemble.MockEnsemble`.
    processes : int
    progress : bool

    Returns
    -------
    DirectPoints

    Raises
    ------
    ImportError
        halotools is not installed.
    iaemu_training.work.parts.PartsError
        The folder contains points with other settings.
    """
    from iaemu_training.halos.catalogue import HaloCatalogue
    from iaemu_training.work.cluster import workers
    from iaemu_training.work.parts import PartStore, Task

    theta = [{**dict(zip(ALIGNMENT_PARAMETERS, row, strict=True)), **occupation} for row in np.asarray(mu).tolist()]
    hashes = [HaloCatalogue.load(name).sha256 for name in ensemble["catalogues"]]
    identity = {"catalogue_sha256": hashes, **ensemble, "r_edges": list(r_edges), "theta": theta}
    options = tuple(
        sorted((name, tuple(value) if isinstance(value, list) else value) for name, value in ensemble.items())
    )
    tasks = {
        f"point{index:04d}": Task(_populate_one, (options, point, tuple(r_edges))) for index, point in enumerate(theta)
    }
    with PartStore(folder, identity) as store, workers(processes) as pool:
        store.run(tasks, pool, "mocks at points of the posterior", progress)
        parts = [store.read(name) for name in tasks]
    omega, deviations = (np.stack([part[name] for part in parts]) for name in ("omega", "deviations"))
    return DirectPoints(np.asarray(mu), omega, deviations, int(sum(part["n_mocks"] for part in parts)))


@lru_cache(maxsize=1)
def _ensemble(options):
    from iaemu_training.mocks.ensemble import MockEnsemble

    return MockEnsemble(**dict(options))


def _populate_one(options, theta, r_edges) -> dict[str, np.ndarray]:
    ensemble = _ensemble(options)
    before = ensemble.n_mocks
    edges = np.array(r_edges)
    theta = {name: theta[name] for name in (*ALIGNMENT_PARAMETERS, *OCCUPATION_PARAMETERS)}
    return {
        "omega": ensemble.predict(theta, edges, ("omega",)).omega,
        "deviations": ensemble.deviations(theta, edges, ("omega",))["omega"],
        "n_mocks": np.array(ensemble.n_mocks - before),
    }
