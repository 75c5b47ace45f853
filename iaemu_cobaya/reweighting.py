"""Posteriors with halotools-IA mocks from a few dozen points, by weights on draws of a posterior that is cheap.

Importance re-weighting: a draw theta_i of the cheap posterior gets the weight L_mocks(theta_i) / L_cheap(theta_i). The
log-likelihood with mocks is noisy, by about 1 for 40 mocks of each of two boxes, so that weights of a few dozen points
leave an uncertain mean. The mocks of all points together say more: at fixed occupation omega is linear in q(mu_cen)
and q(mu_sat) (:mod:`iaemu.alignment`), so a regression of the mocks' omega on the two gives omega everywhere, with the
noise of all mocks pooled, and every draw of the cheap posterior can be weighted.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch

from iaemu.alignment import mean_p2
from iaemu.parameters import ALIGNMENT_PARAMETERS, OCCUPATION_PARAMETERS


@dataclass(frozen=True)
class Moments:
    """Means and standard deviations of (mu_cen, mu_sat), (2,); Monte Carlo errors of the means; effective draws."""

    mean: np.ndarray
    std: np.ndarray
    error: np.ndarray
    effective: float


@dataclass(frozen=True)
class DirectPoints:
    """Mocks at points of a cheap posterior.

    Attributes
    ----------
    mu : (n, 2)
        mu_cen, mu_sat.
    omega : (n, n_bins)
        Pooled over the mocks of each point, in the bins of the likelihood.
    deviations : (n, K, n_bins)
        Scaled deviations of omega: their products over K sum to the covariance of its error.
    n_mocks : int
        Populated in all.
    """

    mu: np.ndarray
    omega: np.ndarray
    deviations: np.ndarray
    n_mocks: int

    def weighted(self, like, cheap_loglike, n_bootstrap: int = 2000, seed: int = 1) -> Moments:
        """Importance weights on the points themselves.

        Parameters
        ----------
        like : IACorrelations
            Of omega alone; the mocks' error is added to its covariance.
        cheap_loglike : (n,)
            Log-likelihoods of the cheap posterior at the points.
        n_bootstrap, seed
            Resamplings of the points, whose scatter is the Monte Carlo error of the means.
        """
        direct = [like.log_likelihood(*point) for point in zip(self.omega, self.deviations, strict=True)]
        log_weight = np.array(direct) - cheap_loglike
        weight = np.exp(log_weight - log_weight.max())
        rows = np.random.default_rng(seed).integers(len(weight), size=(n_bootstrap, len(weight)))
        resampled = (weight[rows][..., None] * self.mu[rows]).sum(axis=1) / weight[rows].sum(axis=1)[:, None]
        return _moments(self.mu, weight, resampled.std(axis=0))

    def regressed(self) -> tuple[np.ndarray, np.ndarray]:
        """omega = q_cen A_c + q_sat A_s from all mocks: coefficients (2, n_bins), and their covariance (n_bins, 2, 2).

        Least squares over the points, each bin for itself; the covariance is that of the residuals' scatter.
        """
        q = self._q(self.mu)
        coefficients, *_ = np.linalg.lstsq(q, self.omega, rcond=None)
        residuals = self.omega - q @ coefficients
        variance = (residuals**2).sum(axis=0) / (len(q) - 2)
        return coefficients, variance[:, None, None] * np.linalg.inv(q.T @ q)

    def pooled(self, like, mu, cheap_loglike) -> tuple[np.ndarray, Moments]:
        """Weights (m,) on draws ``mu`` (m, 2) of the cheap posterior from the regression, and the weighted moments.

        The error of the means is the mocks' own: half of the difference that one standard error of omega makes, summed
        in quadrature over bins.
        """
        coefficients, covariance = self.regressed()
        q = self._q(mu)

        def moments(omega):
            log_weight = np.array([like.log_likelihood(row) for row in omega]) - cheap_loglike
            weight = np.exp(log_weight - log_weight.max())
            return weight, _moments(mu, weight, np.zeros(2))

        omega = q @ coefficients
        weight, central = moments(omega)
        at_mean = self._q(central.mean[None])[0]
        sigma = np.sqrt(np.einsum("i,bij,j->b", at_mean, covariance, at_mean))
        shifts = []
        for index, step in enumerate(sigma):
            moved = [moments(omega + sign * step * np.eye(len(sigma))[index])[1].mean for sign in (1, -1)]
            shifts.append(0.5 * (moved[0] - moved[1]))
        error = np.sqrt((np.array(shifts) ** 2).sum(axis=0))
        return weight, Moments(central.mean, central.std, error, central.effective)

    @staticmethod
    def _q(mu) -> np.ndarray:
        return mean_p2(torch.as_tensor(np.asarray(mu, dtype=np.float64))).numpy()


def _moments(mu, weight, error) -> Moments:
    weight = weight / weight.sum()
    mean = weight @ mu
    return Moments(mean, np.sqrt(weight @ (mu - mean) ** 2), error, float(1.0 / (weight**2).sum()))


def populate(
    folder, mu, occupation, r_edges, ensemble: dict, processes: int = 1, progress: bool = True
) -> DirectPoints:
    """Populate mocks at each point; finished points are kept in ``folder``, and gone on from if killed.

    Parameters
    ----------
    folder : path-like
    mu : (n, 2)
        Points (mu_cen, mu_sat).
    occupation : mapping
        The five occupation parameters.
    r_edges : (n_bins + 1,)
        [Mpc/h]
    ensemble : dict
        ``catalogues``, ``n_realisations``, ``seed`` and ``seeds`` of :class:`iaemu_training.ensemble.MockEnsemble`.
    processes : int
    progress : bool

    Raises
    ------
    ImportError
        halotools is not installed.
    iaemu_training.parts.PartsError
        The folder holds points of other settings.
    """
    from iaemu_training.cluster import workers
    from iaemu_training.parts import PartStore, Task

    theta = [{**dict(zip(ALIGNMENT_PARAMETERS, row, strict=True)), **occupation} for row in np.asarray(mu).tolist()]
    identity = {"theta": theta, "r_edges": list(r_edges), **ensemble}
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
    from iaemu_training.ensemble import MockEnsemble

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
