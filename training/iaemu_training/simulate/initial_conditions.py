"""Initial conditions: Gaussian modes of a power spectrum, and displacements by second-order Lagrangian theory.

Second order follows Scoccimarro 1998 (astro-ph/9711187). With fixed amplitudes every mode has that of the power
spectrum, and a pair has opposite signs, which removes most of the sample variance of its mean (Angulo & Pontzen 2016,
arXiv:1603.05253).
"""

from __future__ import annotations

import numpy as np
import scipy.fft

from iaemu_training.halos.cosmology import Cosmology
from iaemu_training.work.kernels import n_threads


def initial_particles(
    power: tuple[np.ndarray, np.ndarray],
    cosmology: Cosmology,
    Lbox: float,
    n: int,
    a: float,
    seed: int,
    fixed: bool = True,
    sign: int = 1,
) -> tuple[np.ndarray, np.ndarray]:
    """Return positions and momenta of particles that start on a grid.

    Parameters
    ----------
    power : (k [h/Mpc], P(k) [(Mpc/h)^3])
        Linear power spectrum at z = 0.
    cosmology : Cosmology
    Lbox : float
        Side of the box [Mpc/h].
    n : int
        Particles along a side.
    a : float
        Scale factor.
    seed : int
        Of the Gaussian noise.
    fixed : bool
        Give all modes the amplitude of the power spectrum, so that only their phases are random.
    sign : int
        1; or -1 for the other box of a pair.

    Returns
    -------
    position : (3, n^3) float32
        In [0, Lbox) [Mpc/h].
    momentum : (3, n^3) float32
        a^2 dx/dt in units of H0 [Mpc/h].
    """
    k = _wave_numbers(n, Lbox)
    modes = _modes(power, k, Lbox, seed, fixed, sign)
    D, f1, f2 = cosmology.growth(a), cosmology.growth_rate(a), 2.0 * cosmology.Om_at(a) ** (6.0 / 11.0)
    second = 3.0 / 7.0 * D**2 * cosmology.Om_at(a) ** (-1.0 / 143.0)
    modes2 = _second_order(modes, k)
    position, momentum = (np.empty((3, n, n, n), np.float32) for _ in range(2))
    grid = ((np.arange(n) + 0.5) * (Lbox / n)).astype(np.float32)
    for i in range(3):
        first = np.float32(D) * _to_space(modes, k, i)
        later = np.float32(second) * _to_space(modes2, k, i)
        momentum[i] = np.float32(a**2 * cosmology.E(a)) * (np.float32(f1) * first + np.float32(f2) * later)
        first += later
        first += grid.reshape([n if axis == i else 1 for axis in range(3)])
        position[i] = np.mod(first, np.float32(Lbox))
    position[position >= np.float32(Lbox)] = 0.0
    return position.reshape(3, -1), momentum.reshape(3, -1)


def _wave_numbers(n: int, Lbox: float) -> list[np.ndarray]:
    """Wave numbers along the three axes [h/Mpc], shaped to broadcast over the modes of a real transform."""
    full, half = (2.0 * np.pi / Lbox * np.fft.fftfreq(n, 1.0 / n), 2.0 * np.pi / Lbox * np.arange(n // 2 + 1))
    shapes = ((-1, 1, 1), (1, -1, 1), (1, 1, -1))
    return [values.astype(np.float32).reshape(shape) for values, shape in zip((full, full, half), shapes, strict=True)]


def _modes(power, k: list[np.ndarray], Lbox: float, seed: int, fixed: bool, sign: int) -> np.ndarray:
    """Return the linear density contrast at z = 0, (n, n, n // 2 + 1) complex64."""
    n = k[0].size
    modes = _transform(np.random.default_rng(seed).standard_normal((n, n, n), dtype=np.float32))
    log_k, log_power = (np.log(values) for values in power)
    for plane in range(n):
        norm = np.sqrt(k[0][plane] ** 2 + k[1][0] ** 2 + k[2][0] ** 2, dtype=np.float64)
        amplitude = np.exp(0.5 * np.interp(np.log(np.maximum(norm, 1e-30)), log_k, log_power)) * (n / Lbox) ** 1.5
        # The noise has a variance of n^3 in each mode.
        scale = (sign * amplitude).astype(np.float32)
        if fixed:
            scale *= np.float32(n**1.5) / np.maximum(np.abs(modes[plane]), np.float32(1e-20))
        modes[plane] *= scale
    modes[0, 0, 0] = 0.0
    return modes


def _second_order(modes: np.ndarray, k: list[np.ndarray]) -> np.ndarray:
    """Return the modes of the sum over i > j of phi_ii phi_jj - phi_ij^2, phi the potential of the displacement."""
    first = _to_space(modes, k, 0, 0)
    other = _to_space(modes, k, 1, 1)
    source = first * other
    first += other
    del other
    source += first * _to_space(modes, k, 2, 2)
    del first
    for i, j in ((0, 1), (0, 2), (1, 2)):
        source -= _to_space(modes, k, i, j) ** 2
    modes2 = _transform(source)
    modes2[0, 0, 0] = 0.0
    return modes2


def _to_space(modes: np.ndarray, k: list[np.ndarray], i: int, j: int | None = None) -> np.ndarray:
    """Transform i k_i / k^2, or k_i k_j / k^2, times the modes."""
    n = k[0].size
    product = np.empty_like(modes)
    for plane in range(n):
        at = [k[0][plane], k[1][0], k[2][0]]
        k2 = at[0] ** 2 + at[1] ** 2 + at[2] ** 2
        if plane == 0:
            k2[0, 0] = 1.0
        product[plane] = modes[plane] * ((at[i] / k2 * np.complex64(1j)) if j is None else at[i] * at[j] / k2)
    return scipy.fft.irfftn(product, s=(n,) * 3, workers=n_threads(), overwrite_x=True)


def _transform(field: np.ndarray) -> np.ndarray:
    return scipy.fft.rfftn(field, workers=n_threads())
