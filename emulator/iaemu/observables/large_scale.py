"""Correlations of matter on large scales: what the models' correlation functions become beyond their nodes.

In linear theory, with a linear bias b and linear (tidal) alignment::

    xi(r) = b^2 xi_mm(r),    (1 + xi) omega(r) = K Xi_2(r),    Xi_2 = xibar_mm - xi_mm

where xibar_mm(r) is the mean of xi_mm inside r: Xi_2 is the integral of k^2 P(k) j_2(k r) / (2 pi^2) (Hirata & Seljak
2004, astro-ph/0406275; Blazek et al. 2011, arXiv:1101.4017). Both are linear in what is predicted, so that b^2 and K
follow from a prediction by a fixed matrix.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from importlib import resources

import numpy as np
from numpy.typing import ArrayLike
from scipy.interpolate import CubicSpline

from iaemu.binning import check_edges
from iaemu.files import read_text

_SHIPPED = "matter_bolplanck_z0.txt"


@dataclass(frozen=True, eq=False)
class LargeScales:
    """A table of the correlations of matter, interpolated by cubic splines in log r.

    Attributes
    ----------
    r : array (n,)
        Comoving separations [Mpc/h].
    xi, Xi_2 : array (n,)
        Correlation function of matter, and its mean inside r minus itself; dimensionless.
    description : str
        Its header: cosmology, redshift and source.
    """

    r: np.ndarray
    xi: np.ndarray
    Xi_2: np.ndarray
    description: str = ""

    @classmethod
    @lru_cache(maxsize=1)
    def shipped(cls) -> LargeScales:
        """Return the shipped table: Bolshoi-Planck at z = 0, CAMB with HMcode-2020.

        ``python -m iaemu_training.dataset.make_xi_matter OUTPUT --large-scales`` makes it again.

        Returns
        -------
        LargeScales
        """
        lines = read_text(str(resources.files("iaemu.observables") / _SHIPPED)).split("\n")
        rows = np.array([line.split() for line in lines if line and not line.startswith("#")], dtype=np.float64)
        header = "; ".join(line.removeprefix("# ") for line in lines if line.startswith("#"))
        r, xi, Xi_2 = rows.T
        return cls(r, xi, Xi_2, header)

    def in_shells(self, r_edges: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
        """Return the means of xi and Xi_2 over spherical shells.

        Parameters
        ----------
        r_edges : array (n + 1,)
            [Mpc/h], within the table.

        Returns
        -------
        xi, Xi_2 : arrays (n,)
        """
        edges = check_edges(r_edges)
        x, weights = np.polynomial.legendre.leggauss(8)
        half, middle = 0.5 * np.diff(edges)[:, None], 0.5 * (edges[1:] + edges[:-1])[:, None]
        r = middle + half * x
        weights = weights * r**2
        weights /= weights.sum(axis=1, keepdims=True)
        # r^2 xi varies slowly, and changes its sign beyond 120 Mpc/h.
        splines = (CubicSpline(np.log(self.r), self.r**2 * values) for values in (self.xi, self.Xi_2))
        xi, Xi_2 = ((spline(np.log(r)) / r**2 * weights).sum(axis=1) for spline in splines)
        return xi, Xi_2
