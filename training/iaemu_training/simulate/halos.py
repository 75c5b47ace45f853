"""Host halos of a particle-mesh snapshot: density peaks, shrinking spheres, and exclusive spherical overdensities.

A particle mesh does not resolve the inner parts of light halos, so their overdensities are too low. Halos are therefore
ordered by particles within two overdensities, and masses follow from the order: the n-th heaviest halo gets the mass
above which a mass function has n halos.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.spatial import KDTree

from iaemu_training.halos.cosmology import Cosmology, colossus_cosmology
from iaemu_training.pairs.cells import minimum_image
from iaemu_training.work.kernels import in_threads, kernel

#: Least density of a peak, in units of the mean.
PEAK_DENSITY = 40.0
#: Radii of the shrinking spheres, first and last, in cells of the mesh, and the factor between them.
_FIRST_SPHERE, _LAST_SPHERE, _SHRINK = 1.92, 0.64, 0.85
#: The order of the halos: particles within the virial overdensity, and this much of those within 100 times the mean.
_OUTER_OVERDENSITY, _OUTER_WEIGHT = 100.0, 0.8
#: Halos below this many such particles are not kept, nor any with fewer in the outer overdensity.
_LEAST_ORDER, _LEAST_OUTER = 25.0, 15
#: Bins of radius when an overdensity is looked for, its first reach [Mpc/h], and where to give up.
_BINS, _REACH, _LARGEST_REACH = 600, 0.6, 4.5


class SortedParticles(NamedTuple):
    """Particles in the order of the cells of a grid.

    Attributes
    ----------
    position : (n, 3) float32
        [Mpc/h]
    order : (n,) uint32
        Their place in the snapshot.
    start : (cells^3 + 1,) int64
        First particle of each cell, the last axis running fastest.
    cells : int
        Cells along a side.
    Lbox : float
        Side of the box [Mpc/h].
    """

    position: np.ndarray
    order: np.ndarray
    start: np.ndarray
    cells: int
    Lbox: float


class Hosts(NamedTuple):
    """Host halos, heaviest first.

    Attributes
    ----------
    position : (n, 3) float64
        [Mpc/h]
    mass : (n,) float64
        Virial masses by their order [Msun/h].
    counted_mass : (n,) float64
        Masses of the particles within the virial overdensity, without those of heavier halos [Msun/h].
    """

    position: np.ndarray
    mass: np.ndarray
    counted_mass: np.ndarray


class MassFunction:
    """Cumulative mass function of colossus for virial masses, in a cosmology at a redshift.

    Parameters
    ----------
    cosmology : Cosmology
    redshift : float
    model : str
        A model of colossus, such as ``tinker08``.

    Raises
    ------
    ImportError
        colossus is not installed.
    ValueError
        colossus has no such model, or not for virial masses.
    """

    def __init__(self, cosmology: Cosmology, redshift: float, model: str = "tinker08"):
        colossus_cosmology()
        from colossus.lss import mass_function

        if model not in mass_function.models or not {"*", "any", "vir"} & set(mass_function.models[model].mdefs):
            usable = [name for name, m in mass_function.models.items() if {"*", "any", "vir"} & set(m.mdefs)]
            raise ValueError(f"The mass function must be one of {', '.join(usable)}; got {model!r}.")
        log_mass = np.linspace(9.5, 16.3, 1361)
        with cosmology.colossus():
            density = mass_function.massFunction(10**log_mass, redshift, mdef="vir", model=model, q_out="dndlnM")
        step = np.diff(log_mass)[0] * np.log(10.0)
        above = np.cumsum(density[::-1])[::-1] * step - 0.5 * density * step
        self._log_mass, self._log_above = log_mass, np.log(np.maximum(above, 1e-40))

    def mass(self, above: np.ndarray) -> np.ndarray:
        """Return the mass above which there are so many halos.

        Parameters
        ----------
        above : (n,)
            Number density [(h/Mpc)^3].

        Returns
        -------
        (n,) float64
            [Msun/h]
        """
        return 10.0 ** np.interp(np.log(above), self._log_above[::-1], self._log_mass[::-1])

    def above(self, mass: np.ndarray) -> np.ndarray:
        """Return the number density above masses; the inverse of :meth:`mass`.

        Parameters
        ----------
        mass : (n,)
            [Msun/h]

        Returns
        -------
        (n,) float64
            [(h/Mpc)^3]
        """
        return np.exp(np.interp(np.log10(mass), self._log_mass, self._log_above))


def concentration_of(mass: np.ndarray, cosmology: Cosmology, redshift: float) -> np.ndarray:
    """Return virial concentrations by Ishiyama et al. 2021 (arXiv:2007.14720), as colossus has them.

    Parameters
    ----------
    mass : (n,)
        Virial masses [Msun/h].
    cosmology : Cosmology
    redshift : float

    Returns
    -------
    (n,) float64
    """
    with cosmology.colossus():
        from colossus.halo import concentration

        return concentration.concentration(mass, "vir", redshift, model="ishiyama21")


def sort_particles(position: np.ndarray, Lbox: float, cells: int) -> SortedParticles:
    """Sort particles into the cells of a grid.

    Parameters
    ----------
    position : (3, n) float32
        In [0, Lbox] [Mpc/h].
    Lbox : float
        Side of the box [Mpc/h].
    cells : int
        Cells along a side.

    Returns
    -------
    SortedParticles
    """
    cell = np.empty(position.shape[1], np.uint32)
    in_threads(_cells, len(cell), np.asarray(position), np.float32(cells / Lbox), cells, cell)
    start = np.zeros(cells**3 + 1, np.int64)
    order = np.empty(len(cell), np.uint32)
    _count_sort(cell, start, order)
    del cell
    found = np.empty((len(order), 3), np.float32)
    for axis in range(3):
        found[:, axis] = np.asarray(position[axis])[order]
    return SortedParticles(found, order, start, cells, Lbox)


def find_hosts(
    particles: SortedParticles, mesh: int, overdensity: float, radius_of, mass_function: MassFunction, apart: float
) -> Hosts:
    """Find host halos.

    Parameters
    ----------
    particles : SortedParticles
        On a grid with cells of two cells of the mesh.
    mesh : int
        Cells of the simulation's mesh along a side.
    overdensity : float
        Of virialised halos, in units of the mean density.
    radius_of : callable
        Virial radius [Mpc/h] of masses [Msun/h].
    mass_function : MassFunction
    apart : float
        Hosts within this many virial radii of a heavier one are not hosts.

    Returns
    -------
    Hosts
    """
    Lbox, n = particles.Lbox, len(particles.position)
    volume = Lbox**3
    centres = _peaks(particles, mesh)
    levels = np.array([overdensity, _OUTER_OVERDENSITY])
    counts, radii = np.zeros((len(centres), 2), np.int64), np.zeros((len(centres), 2))
    grid = (particles.position, particles.start, particles.cells, Lbox)
    nobody = np.zeros(1, np.uint8)
    cell = Lbox / mesh
    in_threads(
        _measure, len(centres), *grid, centres, _FIRST_SPHERE * cell, _LAST_SPHERE * cell, levels, n / volume, nobody,
        counts, radii,
    )  # fmt: skip
    rank = counts[:, 0] + _OUTER_WEIGHT * counts[:, 1]
    order = np.argsort(-rank, kind="stable")
    order = order[rank[order] > _LEAST_ORDER]
    reach = np.maximum(radii[:, 0], 0.51 * cell)
    for again in (True, False):
        claimed, kept = np.zeros(n, np.uint8), np.zeros(len(centres), np.uint8)
        counts, radii = np.zeros_like(counts), np.zeros_like(radii)
        _exclusive(*grid, centres, order, reach, levels, n / volume, claimed, counts, radii, kept)
        rows = np.flatnonzero(kept)
        own = counts[rows, 0] + _OUTER_WEIGHT * counts[rows, 1]
        rows = rows[np.argsort(-own, kind="stable")]
        mass = mass_function.mass((np.arange(len(rows)) + 0.5) / volume)
        if again:
            reach = reach.copy()
            reach[rows] = np.maximum(radius_of(mass), 0.5 * reach[rows])
    alone = _alone(centres[rows], apart * radius_of(mass), Lbox)
    rows = rows[alone]
    mass = mass_function.mass((np.arange(len(rows)) + 0.5) / volume)
    return Hosts(centres[rows], mass, counts[rows, 0].astype(float))


def _alone(position: np.ndarray, reach: np.ndarray, Lbox: float) -> np.ndarray:
    """Tell which points are not within the reach of an earlier one that is not itself within that of another."""
    tree = KDTree(position % Lbox, boxsize=Lbox)
    alone = np.ones(len(position), bool)
    for start in range(0, len(position), 4096):
        rows = np.arange(start, min(start + 4096, len(position)))
        for row, near in zip(rows, tree.query_ball_point(position[rows] % Lbox, reach[rows]), strict=True):
            if alone[row]:
                near = np.asarray(near)
                alone[near[near > row]] = False
    return alone


def _peaks(particles: SortedParticles, mesh: int) -> np.ndarray:
    """Return the maxima of the density on a mesh, (n, 3) float64 [Mpc/h]; the density is made slab by slab."""
    planes = 2 * max(1, mesh // (2 * max(1, mesh // 64)))
    threshold = PEAK_DENSITY * len(particles.position) / mesh**3
    found = []
    for first in range(0, mesh, planes):
        last = min(first + planes, mesh)
        # Planes before and after those of the slab, for its neighbours.
        slab = np.zeros((last - first + 2, mesh, mesh), np.float32)
        _deposit_slab(*particles[:1], particles.start, particles.cells, particles.Lbox, mesh, first - 1, slab)
        out = np.empty((max(64, slab.size // 27), 3))
        found.append(out[: _maxima(slab, threshold, first - 1, out)].copy())
    return np.concatenate(found) * (particles.Lbox / mesh)


@kernel
def _cells(start, stop, position, inverse_cell, cells, cell):
    for p in range(start, stop):
        i = min(int(position[0, p] * inverse_cell), cells - 1)
        j = min(int(position[1, p] * inverse_cell), cells - 1)
        k = min(int(position[2, p] * inverse_cell), cells - 1)
        cell[p] = (i * cells + j) * cells + k


@kernel
def _count_sort(cell, start, order):
    for p in range(cell.size):
        start[cell[p] + 1] += 1
    for c in range(1, start.size):
        start[c] += start[c - 1]
    # While particles are placed, start[c] runs from the first of cell c to the one after its last.
    for p in range(cell.size):
        c = cell[p]
        order[start[c]] = p
        start[c] += 1
    for c in range(start.size - 1, 0, -1):
        start[c] = start[c - 1]
    start[0] = 0


@kernel
def _deposit_slab(position, start, cells, Lbox, mesh, first, slab):
    # Cloud-in-cell, of the particles that can reach the planes of the slab.
    inverse = mesh / Lbox
    planes = slab.shape[0]
    low = int(np.floor((first - 1) / mesh * cells)) - 1
    high = int(np.floor((first + planes + 1) / mesh * cells)) + 1
    for i in range(low, min(high, low + cells - 1) + 1):
        plane = (i % cells) * cells * cells
        for p in range(start[plane], start[plane + cells * cells]):
            x, y, z = position[p, 0] * inverse - 0.5, position[p, 1] * inverse - 0.5, position[p, 2] * inverse - 0.5
            a, b, c = int(np.floor(x)), int(np.floor(y)), int(np.floor(z))
            dx, dy, dz = x - a, y - b, z - c
            for da in range(2):
                at = (a + da - first) % mesh
                if at >= planes:
                    continue
                wx = dx if da else 1.0 - dx
                for db in range(2):
                    wy = wx * (dy if db else 1.0 - dy)
                    for dc in range(2):
                        slab[at, (b + db) % mesh, (c + dc) % mesh] += np.float32(wy * (dz if dc else 1.0 - dz))


@kernel
def _maxima(slab, threshold, first, out):
    planes, mesh, n = slab.shape[0], slab.shape[1], 0
    for i in range(1, planes - 1):
        for j in range(mesh):
            for k in range(mesh):
                value = slab[i, j, k]
                if value < threshold:
                    continue
                highest = True
                for a in range(-1, 2):
                    for b in range(-1, 2):
                        for c in range(-1, 2):
                            other = slab[i + a, (j + b) % mesh, (k + c) % mesh]
                            # Of equal neighbours the one before is the peak.
                            before = a < 0 or (a == 0 and (b < 0 or (b == 0 and c < 0)))
                            if (a or b or c) and (other > value or (other == value and before)):
                                highest = False
                if highest and n < out.shape[0]:
                    out[n, 0], out[n, 1], out[n, 2] = i + first + 0.5, j + 0.5, k + 0.5
                    n += 1
    return n


@kernel
def _measure(begin, end, position, start, cells, Lbox, centres, first, last, levels, mean, claimed, counts, radii):
    histogram = np.zeros(_BINS, np.int64)
    for h in range(begin, end):
        _shrink(position, start, cells, Lbox, centres[h], first, last)
        _overdensities(position, start, cells, Lbox, centres[h], claimed, levels, mean, counts[h], radii[h], histogram)


@kernel
def _shrink(position, start, cells, Lbox, centre, first, last):
    r = first
    while True:
        s0 = s1 = s2 = 0.0
        n = 0
        lo0, hi0 = span(centre[0], r, cells / Lbox)
        lo1, hi1 = span(centre[1], r, cells / Lbox)
        lo2, hi2 = span(centre[2], r, cells / Lbox)
        for i in range(lo0, hi0):
            for j in range(lo1, hi1):
                for k in range(lo2, hi2):
                    c = ((i % cells) * cells + (j % cells)) * cells + (k % cells)
                    for p in range(start[c], start[c + 1]):
                        d0 = minimum_image(position[p, 0] - centre[0], Lbox)
                        d1 = minimum_image(position[p, 1] - centre[1], Lbox)
                        d2 = minimum_image(position[p, 2] - centre[2], Lbox)
                        if d0 * d0 + d1 * d1 + d2 * d2 < r * r:
                            s0 += d0
                            s1 += d1
                            s2 += d2
                            n += 1
        if n < 6:
            return
        centre[0] = (centre[0] + s0 / n) % Lbox
        centre[1] = (centre[1] + s1 / n) % Lbox
        centre[2] = (centre[2] + s2 / n) % Lbox
        if r <= last:
            return
        r = max(r * _SHRINK, last)


@kernel
def _overdensities(position, start, cells, Lbox, centre, claimed, levels, mean, counts, radii, histogram):
    # Particles and radius within which the mean density first falls below each level, after it was above it.
    reach, n_levels, all_free = _REACH, levels.size, claimed.size == 1
    while True:
        histogram[:] = 0
        scale = _BINS / reach
        lo0, hi0 = span(centre[0], reach, cells / Lbox)
        lo1, hi1 = span(centre[1], reach, cells / Lbox)
        lo2, hi2 = span(centre[2], reach, cells / Lbox)
        for i in range(lo0, hi0):
            for j in range(lo1, hi1):
                for k in range(lo2, hi2):
                    c = ((i % cells) * cells + (j % cells)) * cells + (k % cells)
                    for p in range(start[c], start[c + 1]):
                        if not all_free and claimed[p]:
                            continue
                        d0 = minimum_image(position[p, 0] - centre[0], Lbox)
                        d1 = minimum_image(position[p, 1] - centre[1], Lbox)
                        d2 = minimum_image(position[p, 2] - centre[2], Lbox)
                        r2 = d0 * d0 + d1 * d1 + d2 * d2
                        if r2 < reach * reach:
                            histogram[min(int(np.sqrt(r2) * scale), _BINS - 1)] += 1
        open_ended = False
        for q in range(n_levels):
            counts[q], radii[q] = 0, 0.0
            n, seen, done = 0, False, False
            for b in range(_BINS):
                n += histogram[b]
                if n < 10:
                    continue
                r = (b + 1) / scale
                if n / (4.18879020478639 * r * r * r * mean) >= levels[q]:
                    seen = True
                    counts[q], radii[q] = n, r
                elif seen or r > _REACH:
                    done = True
                    break
            if seen and not done:
                open_ended = True
        if not open_ended or reach > _LARGEST_REACH:
            return
        reach *= 2.0


@kernel
def _exclusive(position, start, cells, Lbox, centres, order, reach, levels, mean, claimed, counts, radii, kept):
    # In order: a centre within the reach of a halo is none; a halo claims the particles within its reach.
    histogram = np.zeros(_BINS, np.int64)
    coarse = max(1, min(64, int(Lbox / 1.0)))
    head, after = np.full(coarse**3, -1, np.int64), np.full(centres.shape[0], -1, np.int64)
    largest = 0.0
    for h in order:
        centre = centres[h]
        if _within_another(centres, centre, reach, largest, head, after, coarse, Lbox):
            continue
        _overdensities(position, start, cells, Lbox, centre, claimed, levels, mean, counts[h], radii[h], histogram)
        if counts[h, levels.size - 1] < _LEAST_OUTER:
            continue
        kept[h] = 1
        c = _coarse_cell(centre, coarse, Lbox)
        after[h], head[c] = head[c], h
        R = reach[h]
        largest = max(largest, R)
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
                        if d0 * d0 + d1 * d1 + d2 * d2 < R * R:
                            claimed[p] = 1


@kernel
def _within_another(centres, centre, reach, largest, head, after, coarse, Lbox):
    far = min(int(np.ceil(largest * coarse / Lbox)), coarse // 2)
    g0, g1, g2 = int(centre[0] * coarse / Lbox), int(centre[1] * coarse / Lbox), int(centre[2] * coarse / Lbox)
    for i in range(g0 - far, g0 + far + 1):
        for j in range(g1 - far, g1 + far + 1):
            for k in range(g2 - far, g2 + far + 1):
                e = head[((i % coarse) * coarse + (j % coarse)) * coarse + (k % coarse)]
                while e >= 0:
                    d2 = 0.0
                    for a in range(3):
                        d2 += minimum_image(centres[e, a] - centre[a], Lbox) ** 2
                    if d2 < reach[e] ** 2:
                        return True
                    e = after[e]
    return False


@kernel
def _coarse_cell(centre, coarse, Lbox):
    i, j, k = int(centre[0] * coarse / Lbox), int(centre[1] * coarse / Lbox), int(centre[2] * coarse / Lbox)
    return ((i % coarse) * coarse + (j % coarse)) * coarse + (k % coarse)


@kernel
def span(centre, r, inverse_cell):
    return int(np.floor((centre - r) * inverse_cell)), int(np.floor((centre + r) * inverse_cell)) + 1
