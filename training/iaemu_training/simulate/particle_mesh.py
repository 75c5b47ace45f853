"""A particle mesh: the motion of dark matter in a periodic box under its own gravity.

Mass goes to the mesh by cloud-in-cell; the potential follows from a Fourier transform, with the window of one
cloud-in-cell taken out; forces are differences of fourth order, interpolated by cloud-in-cell (Hockney & Eastwood 1988,
chapter 5). Time steps are those of a leapfrog in the scale factor, with factors for which linear growth is exact
however long the steps are (FastPM, Feng et al. 2016, arXiv:1603.00476). Particles and meshes are in single precision.
A cell of the mesh adds up its particles in their order, however many threads there are, so a run that was interrupted
goes on bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np
import scipy.fft

from iaemu_training.halos.cosmology import Cosmology
from iaemu_training.work.kernels import in_threads, kernel

#: Scale factor of the initial conditions, where logarithmic steps end, and the longest step in each of the two ranges.
START, LOGARITHMIC_UNTIL = 0.02, 0.2
STEP_LN_A, STEP_A = 0.26, 0.02


def time_steps(redshifts: Sequence[float]) -> np.ndarray:
    """Return the scale factors of the steps: logarithmic at first, then linear, with the outputs among them.

    Parameters
    ----------
    redshifts : sequence of float
        Outputs.

    Returns
    -------
    (n_steps + 1,) float64
        From ``START`` to the last output, ascending.
    """
    outputs = sorted({1.0 / (1.0 + z) for z in redshifts})
    turns = [START, *sorted({min(LOGARITHMIC_UNTIL, outputs[-1]), *outputs})]
    steps = [np.array([START])]
    for low, high in pairwise(turns):
        if high <= LOGARITHMIC_UNTIL:
            n = int(np.ceil(np.log(high / low) / STEP_LN_A - 1e-9))
            steps.append(np.geomspace(low, high, n + 1)[1:])
        else:
            n = int(np.ceil((high - low) / STEP_A - 1e-9))
            steps.append(np.linspace(low, high, n + 1)[1:])
    return np.concatenate(steps)


class Mesh:
    """A mesh for the gravity of particles in a periodic box.

    Parameters
    ----------
    Lbox : float
        Side of the box [Mpc/h].
    cells : int
        Cells along a side.
    """

    def __init__(self, Lbox: float, cells: int):
        self.Lbox, self.cells = Lbox, cells
        # The last axis is padded, so that a field and its Fourier transform fit into the same memory. numpy asks for
        # large pages, which random access needs.
        self._field = np.empty((cells, cells, cells + 2), np.float32)

    @staticmethod
    def memory(cells: int) -> int:
        """Return the memory that a mesh takes [bytes]."""
        return 4 * cells**2 * (cells + 2)

    def density(self, position: np.ndarray) -> np.ndarray:
        """Return the density contrast by cloud-in-cell; valid until the next call.

        Parameters
        ----------
        position : (3, n) float32
            Within [0, Lbox].

        Returns
        -------
        (cells, cells, cells + 2) float32
            The last two along the last axis are not used.
        """
        in_threads(_clear, self.cells, self._field)
        in_threads(deposit, self.cells, position, self._field, np.float32(self.cells / self.Lbox))
        in_threads(_contrast, self.cells, self._field, np.float32(self.cells**3 / position.shape[1]))
        return self._field

    def potential(self, position: np.ndarray) -> np.ndarray:
        """Return the potential whose Laplacian is the density contrast, lengths in cells; valid until the next call.

        Parameters
        ----------
        position : (3, n) float32
            Within [0, Lbox].

        Returns
        -------
        (cells, cells, cells + 2) float32
            The last two along the last axis are not used.
        """
        modes = self.transform(position)
        wave = 2.0 * np.pi * np.fft.fftfreq(self.cells)
        # The window of one of the two cloud-in-cell steps is taken out; both would amplify the noise of the mesh.
        window = np.sinc(wave / (2.0 * np.pi)) ** 2
        in_threads(_solve, self.cells, modes, (wave**2).astype(np.float32), window.astype(np.float32))
        in_threads(_transform_back, self.cells, modes, self._field)
        return self._field

    def transform(self, position: np.ndarray) -> np.ndarray:
        """Return the Fourier transform of the density contrast along the last two axes; valid until the next call.

        Parameters
        ----------
        position : (3, n) float32
            Within [0, Lbox].

        Returns
        -------
        (cells, cells, cells // 2 + 1) complex64
        """
        modes = self.density(position).view(np.complex64)
        in_threads(_transform, self.cells, self._field, modes)
        return modes

    def move(self, position: np.ndarray, momentum: np.ndarray, potential: np.ndarray, kick: float, drift: float):
        """Change momenta by the force, then positions by the momenta, in place.

        Parameters
        ----------
        position, momentum : (3, n) float32
            [Mpc/h], and a^2 dx/dt in units of H0 [Mpc/h].
        potential : (cells, cells, cells + 2) float32
            As :meth:`potential` returns it.
        kick, drift : float
            Factors of the gradient [Mpc/h for lengths in cells] and of the momentum.
        """
        numbers = (np.float32(value) for value in (self.cells / self.Lbox, kick, drift, self.Lbox))
        in_threads(_move, position.shape[1], position, momentum, potential, *numbers)


def evolve(
    mesh: Mesh,
    position: np.ndarray,
    momentum: np.ndarray,
    cosmology: Cosmology,
    steps: np.ndarray,
    outputs: Sequence[float],
    first: int = 0,
    on_step: Callable[[int], None] = lambda step: None,
    before_move: Callable[[], None] = lambda: None,
    on_output: Callable[[float], None] = lambda a: None,
) -> None:
    """Move particles from one step to the last, in place.

    Momenta lag half a step behind: at step i they belong to the geometric mean of its scale factor and the one
    before. At an output they are brought to its scale factor.

    Parameters
    ----------
    mesh : Mesh
    position, momentum : (3, n) float32
        [Mpc/h], and a^2 dx/dt in units of H0 [Mpc/h]; changed.
    cosmology : Cosmology
    steps : (n_steps + 1,)
        Scale factors, see :func:`time_steps`.
    outputs : sequence of float
        Scale factors among the steps.
    first : int
        Step at which the particles are.
    on_step, before_move, on_output : callable
        Called when a step is reached, before particles are changed, and at an output.
    """
    between = np.concatenate([steps[:1], np.sqrt(steps[:-1] * steps[1:]), steps[-1:]])
    cell = mesh.Lbox / mesh.cells
    for step in range(first, len(steps)):
        a, earlier, later = steps[step], between[step], between[step + 1]
        potential = mesh.potential(position)
        before_move()
        if np.isclose(a, outputs, rtol=1e-9).any():
            mesh.move(position, momentum, potential, kick(cosmology, earlier, a, a) * cell, 0.0)
            on_output(float(a))
            earlier = a
        if step == len(steps) - 1:
            return
        impulse, way = kick(cosmology, earlier, later, a) * cell, drift(cosmology, a, steps[step + 1], later)
        mesh.move(position, momentum, potential, impulse, way)
        on_step(step + 1)


def kick(cosmology: Cosmology, earlier: float, later: float, at: float) -> float:
    """Return what multiplies the gradient of the potential at a scale factor; (3/2) Om da / (a^2 E) in short steps."""
    return (cosmology.momentum(later) - cosmology.momentum(earlier)) / cosmology.growth(at)


def drift(cosmology: Cosmology, earlier: float, later: float, at: float) -> float:
    """Return what multiplies the momentum at a scale factor; da / (a^3 E) in short steps."""
    return (cosmology.growth(later) - cosmology.growth(earlier)) / cosmology.momentum(at)


@kernel
def deposit(low, high, position, field, inverse_cell):
    """Add particles to some planes of a mesh by cloud-in-cell; each call reads all particles, in their order.

    Parameters
    ----------
    low, high : int
        First plane, and the one after the last.
    position : (3, n) float32
    field : (cells, cells, cells or more) float32
        Changed.
    inverse_cell : float32
        Cells for each unit of length.
    """
    M = field.shape[0]
    for p in range(position.shape[1]):
        x = position[0, p] * inverse_cell - np.float32(0.5)
        i = int(np.floor(x))
        dx = np.float32(x - i)
        i %= M
        i1 = i + 1 if i + 1 < M else 0
        if not (low <= i < high or low <= i1 < high):
            continue
        y = position[1, p] * inverse_cell - np.float32(0.5)
        z = position[2, p] * inverse_cell - np.float32(0.5)
        j, k = int(np.floor(y)), int(np.floor(z))
        dy, dz = np.float32(y - j), np.float32(z - k)
        j %= M
        k %= M
        j1 = j + 1 if j + 1 < M else 0
        k1 = k + 1 if k + 1 < M else 0
        ty, tz = np.float32(1) - dy, np.float32(1) - dz
        if low <= i < high:
            t = np.float32(1) - dx
            field[i, j, k] += t * ty * tz
            field[i, j, k1] += t * ty * dz
            field[i, j1, k] += t * dy * tz
            field[i, j1, k1] += t * dy * dz
        if low <= i1 < high:
            field[i1, j, k] += dx * ty * tz
            field[i1, j, k1] += dx * ty * dz
            field[i1, j1, k] += dx * dy * tz
            field[i1, j1, k1] += dx * dy * dz


def _clear(start, stop, field):
    field[start:stop] = 0.0


def _contrast(start, stop, field, scale):
    field[start:stop] *= scale
    field[start:stop] -= np.float32(1.0)


def _transform(start, stop, field, modes):
    for i in range(start, stop):
        modes[i] = scipy.fft.rfft2(field[i, :, :-2])


def _transform_back(start, stop, modes, field):
    for i in range(start, stop):
        field[i, :, :-2] = scipy.fft.irfft2(modes[i].copy(), s=2 * field.shape[:1], overwrite_x=True)


def _solve(start, stop, modes, k2, window):
    # Transform along the first axis, solve, and transform back, while these modes are in the cache.
    for j in range(start, stop):
        found = scipy.fft.fft(np.ascontiguousarray(modes[:, j]), axis=0, overwrite_x=True)
        _divide(found, j, k2, window)
        modes[:, j] = scipy.fft.ifft(found, axis=0, overwrite_x=True)


@kernel
def _divide(modes, j, k2, window):
    for i in range(modes.shape[0]):
        for k in range(modes.shape[1]):
            total = k2[i] + k2[j] + k2[k]
            if total == 0.0:
                modes[i, k] = 0.0
            else:
                modes[i, k] *= np.float32(-1.0) / (total * (window[i] * window[j] * window[k]))


@kernel
def _move(start, stop, position, momentum, potential, inverse_cell, kick, drift, Lbox):
    M = potential.shape[0]
    scale = np.float32(-kick / 12.0)
    for p in range(start, stop):
        x = position[0, p] * inverse_cell - np.float32(0.5)
        y = position[1, p] * inverse_cell - np.float32(0.5)
        z = position[2, p] * inverse_cell - np.float32(0.5)
        i, j, k = int(np.floor(x)), int(np.floor(y)), int(np.floor(z))
        dx, dy, dz = np.float32(x - i), np.float32(y - j), np.float32(z - k)
        gx = gy = gz = np.float32(0)
        for a in range(2):
            wa = dx if a else np.float32(1) - dx
            I0, I1, I2 = (i + a) % M, (i + a + 1) % M, (i + a + 2) % M
            J1, J2 = (i + a - 1) % M, (i + a - 2) % M
            for b in range(2):
                wb = wa * (dy if b else np.float32(1) - dy)
                K0, K1, K2 = (j + b) % M, (j + b + 1) % M, (j + b + 2) % M
                L1, L2 = (j + b - 1) % M, (j + b - 2) % M
                for c in range(2):
                    w = wb * (dz if c else np.float32(1) - dz)
                    N0, N1, N2 = (k + c) % M, (k + c + 1) % M, (k + c + 2) % M
                    O1, O2 = (k + c - 1) % M, (k + c - 2) % M
                    eight = np.float32(8)
                    gx += w * (
                        eight * (potential[I1, K0, N0] - potential[J1, K0, N0])
                        - (potential[I2, K0, N0] - potential[J2, K0, N0])
                    )
                    gy += w * (
                        eight * (potential[I0, K1, N0] - potential[I0, L1, N0])
                        - (potential[I0, K2, N0] - potential[I0, L2, N0])
                    )
                    gz += w * (
                        eight * (potential[I0, K0, N1] - potential[I0, K0, O1])
                        - (potential[I0, K0, N2] - potential[I0, K0, O2])
                    )
        mx, my, mz = momentum[0, p] + scale * gx, momentum[1, p] + scale * gy, momentum[2, p] + scale * gz
        momentum[0, p], momentum[1, p], momentum[2, p] = mx, my, mz
        X, Y, Z = position[0, p] + drift * mx, position[1, p] + drift * my, position[2, p] + drift * mz
        position[0, p] = X - Lbox * np.floor(X / Lbox)
        position[1, p] = Y - Lbox * np.floor(Y / Lbox)
        position[2, p] = Z - Lbox * np.floor(Z / Lbox)
