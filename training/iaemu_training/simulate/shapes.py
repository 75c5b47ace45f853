"""Axes and velocities of host halos, and the satellites that mocks can use, from the particles of a snapshot."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.special import lambertw

from iaemu_training.pairs.cells import minimum_image
from iaemu_training.simulate.halos import SortedParticles, span
from iaemu_training.work.kernels import in_threads, kernel

#: Iterations of the inertia tensor, the change of the axis ratios at which it has converged, and the softening of its
#: weights in units of the radius.
_ITERATIONS, _CONVERGED, _SOFTENING = 12, 0.01, 0.02


class Shapes(NamedTuple):
    """What the particles say of each host.

    Attributes
    ----------
    axis : (n, 3) float64
        Unit vectors along the major axes; (0, 0, 0) for hosts with too few particles.
    momentum : (n, 3) float64
        Mean of the particles' momenta.
    direction : (n_satellites, 3) float64
        Unit vectors from the host to the satellites, at particles drawn without replacement.
    fraction : (n_satellites,) float64
        Share of the host's particles that are closer to its centre.
    """

    axis: np.ndarray
    momentum: np.ndarray
    direction: np.ndarray
    fraction: np.ndarray


def measure_shapes(
    particles: SortedParticles,
    momentum: np.ndarray,
    position: np.ndarray,
    radius: np.ndarray,
    n_satellites: np.ndarray,
    rng: np.random.Generator,
) -> Shapes:
    """Measure the particles within the virial radius of each host.

    The major axis is that of the reduced inertia tensor, with weights 1 / r^2 in an ellipsoid that is iterated with the
    largest axis kept at the virial radius (Dubinski & Carlberg 1991; ROCKSTAR, Behroozi et al. 2013).

    Parameters
    ----------
    particles : SortedParticles
    momentum : (3, n_particles) float32
        Of the particles in the order of the snapshot.
    position : (n, 3)
        Hosts [Mpc/h].
    radius : (n,)
        Virial radii [Mpc/h].
    n_satellites : (n,) int
        Satellites of each host.
    rng : numpy.random.Generator

    Returns
    -------
    Shapes
    """
    n, total = len(position), int(n_satellites.sum())
    first = np.concatenate([[0], np.cumsum(n_satellites)[:-1]]).astype(np.int64)
    found = Shapes(np.zeros((n, 3)), np.zeros((n, 3)), np.zeros((total, 3)), np.zeros(total))
    grid = (particles.position, particles.order, particles.start, particles.cells, particles.Lbox)
    draws = rng.random((total, 2))
    in_threads(_measure, n, *grid, momentum, position, radius, n_satellites, first, draws, *found)
    return found


def nfw_radius(fraction: np.ndarray, concentration: np.ndarray) -> np.ndarray:
    """Return radii of an NFW profile, in units of the virial radius, in closed form (Robotham & Howlett 2018).

    Parameters
    ----------
    fraction : (n,)
        Share of the mass within the radius.
    concentration : (n,)

    Returns
    -------
    (n,) float64
    """
    c = np.asarray(concentration, float)
    mass = fraction * (np.log1p(c) - c / (1.0 + c))
    return (-1.0 / np.real(lambertw(-np.exp(-1.0 - mass))) - 1.0) / c


@kernel
def _measure(
    begin, end, position, order, start, cells, Lbox, momentum, centres, radius, n_satellites, first, draws,
    axis, mean_momentum, direction, fraction,
):  # fmt: skip
    size = 1024
    offset, r2, member = np.empty((size, 3)), np.empty(size), np.empty(size, np.int64)
    for h in range(begin, end):
        while True:
            n = _gather(position, start, cells, Lbox, centres[h], radius[h], offset, r2, member)
            if n <= size:
                break
            size = 2 * n
            offset, r2, member = np.empty((size, 3)), np.empty(size), np.empty(size, np.int64)
        if n == 0:
            continue
        _major_axis(offset, n, radius[h], axis[h])
        for a in range(3):
            total = 0.0
            for p in range(n):
                total += momentum[a, order[member[p]]]
            mean_momentum[h, a] = total / n
        ordered = np.sort(r2[:n])
        for t in range(n_satellites[h]):
            # The first steps of a shuffle; a host with fewer particles starts over.
            low = t % n
            p = low + int(draws[first[h] + t, 0] * (n - low))
            for a in range(3):
                offset[low, a], offset[p, a] = offset[p, a], offset[low, a]
            r2[low], r2[p] = r2[p], r2[low]
            r = np.sqrt(max(r2[low], 1e-20))
            for a in range(3):
                direction[first[h] + t, a] = offset[low, a] / r
            below = np.searchsorted(ordered, r2[low])
            fraction[first[h] + t] = (below + draws[first[h] + t, 1]) / n


@kernel
def _gather(position, start, cells, Lbox, centre, R, offset, r2, member):
    # Particles within a radius; their number may exceed the space for them.
    n = 0
    lo0, hi0 = span(centre[0], R, cells / Lbox)
    lo1, hi1 = span(centre[1], R, cells / Lbox)
    lo2, hi2 = span(centre[2], R, cells / Lbox)
    for i in range(lo0, hi0):
        for j in range(lo1, hi1):
            for k in range(lo2, hi2):
                c = ((i % cells) * cells + (j % cells)) * cells + (k % cells)
                for p in range(start[c], start[c + 1]):
                    d0 = minimum_image(position[p, 0] - centre[0], Lbox)
                    d1 = minimum_image(position[p, 1] - centre[1], Lbox)
                    d2 = minimum_image(position[p, 2] - centre[2], Lbox)
                    q = d0 * d0 + d1 * d1 + d2 * d2
                    if q < R * R:
                        if n < r2.size:
                            offset[n, 0], offset[n, 1], offset[n, 2] = d0, d1, d2
                            r2[n] = q
                            member[n] = p
                        n += 1
    return n


@kernel
def _major_axis(offset, n, R, axis):
    frame = np.eye(3)
    b = c = 1.0
    for _ in range(_ITERATIONS):
        tensor = np.zeros((3, 3))
        inside = 0
        for p in range(n):
            x, y, z = offset[p, 0], offset[p, 1], offset[p, 2]
            u0 = frame[0, 0] * x + frame[1, 0] * y + frame[2, 0] * z
            u1 = (frame[0, 1] * x + frame[1, 1] * y + frame[2, 1] * z) / b
            u2 = (frame[0, 2] * x + frame[1, 2] * y + frame[2, 2] * z) / c
            r2 = u0 * u0 + u1 * u1 + u2 * u2
            if r2 > R * R:
                continue
            inside += 1
            weight = 1.0 / (r2 + (_SOFTENING * R) ** 2)
            for i in range(3):
                for j in range(3):
                    tensor[i, j] += weight * offset[p, i] * offset[p, j]
        if inside < 8:
            return
        values, vectors = np.linalg.eigh(tensor)
        b1, c1 = np.sqrt(max(values[1] / values[2], 1e-4)), np.sqrt(max(values[0] / values[2], 1e-4))
        for i in range(3):
            frame[i, 0], frame[i, 1], frame[i, 2] = vectors[i, 2], vectors[i, 1], vectors[i, 0]
        converged = abs(b1 - b) < _CONVERGED and abs(c1 - c) < _CONVERGED
        b, c = b1, c1
        for i in range(3):
            axis[i] = frame[i, 0]
        if converged:
            return
