"""The correlation function of matter: the shipped table, and its averages over bins.

IAEmu (arXiv:2504.05235) removes points with xi / xi_DM > 100 in any bin from its training set, where xi_DM is the
correlation function of matter at the cosmology and redshift of the catalogue. The shipped table is for Bolshoi-Planck
at z = 0, from CAMB with HMcode-2020. This agrees with simulations to 2.5 % rms in P(k < 10 h/Mpc) (Mead et al. 2021,
arXiv:2009.01858); for r < 0.3 Mpc/h higher k are needed, to which it is extrapolated. The halofit of Takahashi et al.
2012 differs from it by up to 8 % in xi at r < 2 Mpc/h, 5 % at 2 to 5 Mpc/h and 2 % at 5 to 30 Mpc/h.
``python -m iaemu_training.dataset.make_xi_matter OUTPUT`` makes this table, or that of another cosmology.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike
from scipy.interpolate import CubicSpline

from iaemu.binning import EDGE_TOLERANCE, BinningError, check_edges
from iaemu.files import read_text
from iaemu.ranges import Range
from iaemu_training.halos.columns import numbers

_SHIPPED = "xi_matter_bolplanck_z0.txt"
#: Plausible separations [Mpc/h] and correlations.
_RANGES = {"r": (1e-6, 1e4), "xi": (1e-15, 1e15)}


class MatterCorrelationError(ValueError):
    """A table of the matter correlation function is missing or malformed; ``row``, from 0, is the bad one if known."""

    def __init__(self, message: str, row: int | None = None):
        super().__init__(message)
        self.row = row


@dataclass(repr=False)
class MatterCorrelation:
    """A table of the matter correlation function xi(r), interpolated by a cubic spline of log xi in log r.

    Attributes
    ----------
    r : (n,) float64
        Comoving separations [Mpc/h], increasing.
    xi : (n,) float64
        Correlation function of matter in real space. It must be positive, so r is limited to about 120 Mpc/h.
    cosmology : dict of float
        Om, Ob, h, sigma8 (linear, z = 0) and ns; empty if the file does not state them.
    redshift : float or None
        Redshift, if the file states it.
    source : str
        How the table was made.

    Raises
    ------
    MatterCorrelationError
        The columns differ in length, have fewer than 4 rows, are not finite, or are not as described above.
    """

    r: np.ndarray
    xi: np.ndarray
    cosmology: dict = field(default_factory=dict)
    redshift: float | None = None
    source: str = "not stated"

    def __post_init__(self):
        for name in ("r", "xi"):
            with np.errstate(over="ignore"):
                column = numbers(getattr(self, name), name, error=MatterCorrelationError).astype(np.float64)
            setattr(self, name, column)
        if self.r.ndim != 1 or self.r.shape != self.xi.shape or len(self.r) < 4:
            raise MatterCorrelationError(
                f"r and xi must be columns of the same length, at least 4, got shapes {self.r.shape}, {self.xi.shape}."
            )
        for name, (low, high) in _RANGES.items():
            column = getattr(self, name)
            bad = ~((column >= low) & (column <= high))
            if bad.any():
                row = int(np.argmax(bad))
                raise MatterCorrelationError(
                    f"{name} must be positive and finite, but {bad.sum()} rows are not, first row {row + 1}: r = "
                    f"{self.r[row]:g} Mpc/h, xi = {self.xi[row]:g} (possible are {low:g} .. {high:g}).",
                    row,
                )
        steps = np.diff(self.r)
        if np.any(steps <= 0):
            row = int(np.argmax(steps <= 0))
            raise MatterCorrelationError(
                f"r must be strictly increasing, but {self.r[row]:g} is followed by {self.r[row + 1]:g} Mpc/h.", row
            )
        if not isinstance(self.cosmology, dict):
            raise MatterCorrelationError(f"cosmology must be a dictionary of numbers, got {self.cosmology!r:.60}.")
        for name, value in self.cosmology.items():
            Range().check(f"{name} of the cosmology", value, error=MatterCorrelationError)
        if self.redshift is not None:
            Range(above=-1).check("redshift", self.redshift, error=MatterCorrelationError)

    def __repr__(self) -> str:
        low, high = self.r[[0, -1]]
        at = "" if self.redshift is None else f", z = {self.redshift:g}"
        return f"<MatterCorrelation: {len(self.r)} separations from {low:g} to {high:g} Mpc/h{at}>"

    @classmethod
    def load(cls, path: str | Path | None = None) -> MatterCorrelation:
        """Read a table: two columns, r [Mpc/h] and xi, below a header of lines ``# key: value``.

        The header may state ``cosmology``, ``redshift`` and ``source``, in the form that ``make_xi_matter`` writes.

        Parameters
        ----------
        path : path-like, optional
            The file; by default the shipped table of Bolshoi-Planck at z = 0.

        Returns
        -------
        MatterCorrelation

        Raises
        ------
        MatterCorrelationError
            There is no such file, or it is malformed; the message names the file and the line.
        """
        if path is not None and not isinstance(path, (str, Path)):
            raise MatterCorrelationError(f"Give the path of a table; got {path!r:.60}.")
        file = resources.files("iaemu_training.dataset") / _SHIPPED if path is None else Path(path)
        try:
            lines = read_text(str(file)).split("\n")
        except (OSError, ValueError) as error:
            raise MatterCorrelationError(f"The table {file.name} cannot be read: {error}") from error
        header, rows, row_lines = {}, [], []
        for number, line in enumerate(lines, start=1):
            if line.startswith("#"):
                key, colon, value = line[1:].partition(":")
                if colon:
                    header[key.strip()] = value.strip()
            elif line.strip():
                try:
                    radius, height = (float(word) for word in line.replace(",", " ").split())
                except ValueError as error:
                    raise MatterCorrelationError(
                        f"Line {number} of {file.name} is not two numbers, r [Mpc/h] and xi: {line.strip()[:60]!r}."
                    ) from error
                rows.append((radius, height))
                row_lines.append(number)
        try:
            redshift = float(header["redshift"]) if "redshift" in header else None
            cosmology = dict(_parameter(item) for item in header.get("cosmology", "").split(",") if item.strip())
        except ValueError as error:
            raise MatterCorrelationError(
                f"The header of {file.name} must be of the form 'redshift: 0', 'cosmology: Om = 0.3, h = 0.7': {error}."
            ) from error
        r, xi = np.array(rows, dtype=np.float64).reshape(-1, 2).T
        try:
            return cls(r, xi, cosmology, redshift, header.get("source", "not stated"))
        except MatterCorrelationError as error:
            where = f" It is line {row_lines[error.row]}." if error.row is not None else ""
            raise MatterCorrelationError(f"The table {file.name}: {error}{where}") from error

    def binned(self, r_edges: ArrayLike) -> np.ndarray:
        """Average xi over the volume of each bin, 3 / (r2^3 - r1^3) * integral of xi r^2 dr.

        This is what the estimator DD / RR - 1 measures.

        Parameters
        ----------
        r_edges : (n_bins + 1,)
            Edges of the bins [Mpc/h].

        Returns
        -------
        (n_bins,) float64

        Raises
        ------
        BinningError
            The edges are malformed or outside the range of the table, since xi is not extrapolated; or the table is
            too uneven for a smooth curve.
        """
        edges = check_edges(numbers(r_edges, "r_edges", error=BinningError))
        low, high = self.r[0], self.r[-1]
        if edges[0] < low * (1 - EDGE_TOLERANCE) or edges[-1] > high * (1 + EDGE_TOLERANCE):
            raise BinningError(
                f"The bins extend from {edges[0]:.6g} to {edges[-1]:.6g} Mpc/h, but the table of the matter "
                f"correlation function only from {low:.6g} to {high:.6g}. Make a wider one: "
                "python -m iaemu_training.dataset.make_xi_matter --help."
            )
        edges = np.clip(edges, low, high)
        log_xi = CubicSpline(np.log(self.r), np.log(self.xi))
        # The integrand is smooth between neighbouring points of the table, so that a few Gauss-Legendre nodes are exact
        # to rounding, and the integrals of sub-bins add up to that of their bin.
        limits = np.union1d(self.r, edges)
        limits = limits[(limits >= edges[0]) & (limits <= edges[-1])]
        nodes, weights = np.polynomial.legendre.leggauss(6)
        half = 0.5 * np.diff(np.log(limits))
        log_r = 0.5 * (np.log(limits[1:]) + np.log(limits[:-1]))[:, None] + half[:, None] * nodes
        with np.errstate(over="ignore", invalid="ignore"):
            pieces = half * (np.exp(log_xi(log_r) + 3.0 * log_r) @ weights)
            binned = 3.0 * np.add.reduceat(pieces, np.searchsorted(limits, edges[:-1])) / np.diff(edges**3)
        if not np.all(np.isfinite(binned) & (binned > 0)):
            raise BinningError(
                "The table of the matter correlation function is not smooth, so that it cannot be interpolated. "
                "Correct its outliers."
            )
        return binned


def _parameter(text: str) -> tuple[str, float]:
    """Parse ``"Om = 0.3"`` as ``("Om", 0.3)``; ValueError if it has another form."""
    name, _, value = text.partition("=")
    return name.strip(), float(value)
