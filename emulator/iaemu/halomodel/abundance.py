"""Growth, abundance and bias of halos: linear theory, and the fits of Tinker et al. 2010 (arXiv:1001.3162)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import lru_cache

import numpy as np
import torch
from scipy.integrate import trapezoid
from scipy.special import hyp2f1

from iaemu.halomodel.occupation import mean_ncen, mean_nsat

#: Linear threshold of collapse, and critical density at z = 0 [Msun/h / (Mpc/h)^3].
_DELTA_C, CRITICAL_DENSITY = 1.686, 2.77536627e11

#: Nodes of host mass [log10 Msun/h]: from the least that halotools' model occupies.
LOG_MASS = np.arange(10.5, 16.0, 0.04)

#: What a model must state of its cosmology.
NEEDS = ("Om", "Ob", "h", "sigma8", "ns")


def growing_mode(Om: float, a: float) -> float:
    """Return the growing mode of linear theory in flat LCDM, in closed form; it is a while matter dominates.

    Parameters
    ----------
    Om : float
        Density of matter at z = 0.
    a : float
        Scale factor.

    Returns
    -------
    float
    """
    return float(a * hyp2f1(1.0 / 3.0, 1.0, 11.0 / 6.0, -(a**3) * (1.0 - Om) / Om))


def growth_factor(Om: float, z: float) -> float:
    """Return the linear growth factor over that at z = 0, in flat LCDM.

    Parameters
    ----------
    Om : float
        Density of matter at z = 0.
    z : float

    Returns
    -------
    float
    """
    return growing_mode(Om, 1.0 / (1.0 + z)) / growing_mode(Om, 1.0)


def rms_of_spheres(radius: np.ndarray, Om: float, Ob: float, h: float, sigma8: float, ns: float) -> np.ndarray:
    """Return the linear rms of the density contrast in spheres at z = 0.

    Parameters
    ----------
    radius : array (n,)
        [Mpc/h]
    Om, Ob, h, sigma8, ns : float
        A flat cosmology, as of ``ForwardModel.cosmology``.

    Returns
    -------
    array (n,)
        With the transfer function of Eisenstein & Hu 1998 without wiggles (astro-ph/9709112, equations 26 to 31).
    """
    k = np.geomspace(1e-4, 1e2, 1500)
    omh2, share, theta2 = Om * h**2, Ob / Om, (2.7255 / 2.7) ** 2
    horizon = 44.5 * h * np.log(9.83 / omh2) / np.sqrt(1.0 + 10.0 * (Ob * h**2) ** 0.75)
    alpha = 1.0 - 0.328 * np.log(431.0 * omh2) * share + 0.38 * np.log(22.3 * omh2) * share**2
    shape = Om * h * (alpha + (1.0 - alpha) / (1.0 + (0.43 * k * horizon) ** 4))
    q = k * theta2 / shape
    logarithm = np.log(2.0 * math.e + 1.8 * q)
    transfer = logarithm / (logarithm + (14.2 + 731.0 / (1.0 + 62.5 * q)) * q**2)
    x = np.append(np.asarray(radius, dtype=np.float64), 8.0)[:, None] * k
    window = 3.0 * (np.sin(x) - x * np.cos(x)) / x**3
    found = np.sqrt(trapezoid(k ** (ns + 3.0) * (transfer * window) ** 2, np.log(k), axis=1))
    return sigma8 * found[:-1] / found[-1]


def bias(nu: np.ndarray) -> np.ndarray:
    """Return the linear bias of halos of 200 times the mean density: Tinker et al. 2010, equation 6 and table 2.

    Parameters
    ----------
    nu : array
        Peak height.

    Returns
    -------
    array
    """
    y = np.log10(200.0)
    fall = np.exp(-((4.0 / y) ** 4))
    A, a, C = 1.0 + 0.24 * y * fall, 0.44 * y - 0.88, 0.019 + 0.107 * y + 0.19 * fall
    return 1.0 - A * nu**a / (nu**a + _DELTA_C**a) + 0.183 * nu**1.5 + C * nu**2.4


def multiplicity(nu: np.ndarray, z: float) -> np.ndarray:
    """Return nu f(nu), the share of matter in halos per unit of ln nu: Tinker et al. 2010, equations 8 to 12.

    Parameters
    ----------
    nu : array
        Peak height.
    z : float

    Returns
    -------
    array
        For halos of 200 times the mean density, normalised at z = 0.
    """
    growing = 1.0 + min(z, 3.0)
    beta, phi = 0.589 * growing**0.20, -0.729 * growing**-0.08
    eta, gamma = -0.243 * growing**0.27, 0.864 * growing**-0.01
    return 0.368 * nu * (1.0 + (beta * nu) ** (-2.0 * phi)) * nu ** (2.0 * eta) * np.exp(-0.5 * gamma * nu**2)


def halos(cosmology: Mapping[str, float], ratio: float) -> np.ndarray:
    """Return the abundance of halos per unit of log mass, and the same times their bias, at fixed masses.

    Parameters
    ----------
    cosmology : mapping of str to float
        As of ``ForwardModel.cosmology``.
    ratio : float
        Factor of sigma8(z).

    Returns
    -------
    array (2, n_masses)
        At the masses ``LOG_MASS``, in units that do not depend on ``ratio``.
    """
    return _halos(tuple(float(cosmology[name]) for name in (*NEEDS, "redshift")), float(ratio))


@lru_cache(maxsize=64)
def _halos(values: tuple[float, ...], ratio: float) -> np.ndarray:
    *known, z = values
    own = dict(zip(NEEDS, known, strict=True))
    radius = (3.0 * 10.0**LOG_MASS / (4.0 * np.pi * own["Om"] * CRITICAL_DENSITY)) ** (1.0 / 3.0)
    rms = rms_of_spheres(radius, **own) * growth_factor(own["Om"], z) * ratio
    nu = _DELTA_C / rms
    number = multiplicity(nu, z) * np.gradient(np.log(nu), LOG_MASS) * 10.0 ** (10.5 - LOG_MASS)
    return np.stack([number, number * bias(nu)])


def occupied(occupation: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return <Ncen> and <Nsat> at the masses ``LOG_MASS``.

    Parameters
    ----------
    occupation : tensor (n, 5)
        In the order of ``OCCUPATION_PARAMETERS``.

    Returns
    -------
    centrals, satellites : tensors (n, n_masses), float64
    """
    columns = (column[:, None] for column in occupation.double().unbind(dim=1))
    logMmin, sigma_logM, logM0, logM1, alpha = columns
    log_mass = torch.as_tensor(LOG_MASS).to(occupation.device)
    return mean_ncen(log_mass, logMmin, sigma_logM), mean_nsat(log_mass, logM0, logM1, alpha)


def mean_log_host_mass(cosmology: Mapping[str, float], occupation: torch.Tensor, ratio: float = 1.0) -> torch.Tensor:
    """Return the mean log10 of the host mass over galaxies [log10 Msun/h], with the abundance of :func:`halos`.

    Parameters
    ----------
    cosmology : mapping of str to float
        As of ``ForwardModel.cosmology``.
    occupation : tensor (n, 5)
        In the order of ``OCCUPATION_PARAMETERS``.
    ratio : float
        Factor of sigma8(z).

    Returns
    -------
    tensor (n,), float64
    """
    number = torch.as_tensor(halos(cosmology, ratio)[0]).to(occupation.device)
    galaxies = sum(occupied(occupation)) * number
    return galaxies @ torch.as_tensor(LOG_MASS).to(galaxies) / galaxies.sum(dim=1)
