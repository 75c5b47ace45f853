"""Correlations of matter on large scales: what the models' correlation functions become beyond their nodes.

In linear theory, with a linear bias b and linear (tidal) alignment::

    xi(r) = b^2 xi_mm(r),    (1 + xi) omega(r) = K Xi_2(r),    Xi_2 = xibar_mm - xi_mm

where xibar_mm(r) is the mean of xi_mm inside r: Xi_2 is the integral of k^2 P(k) j_2(k r) / (2 pi^2) (Hirata & Seljak
2004, astro-ph/0406275; Blazek et al. 2011, arXiv:1101.4017). Both are linear in what is predicted, so that b^2 and K
follow from a prediction by a fixed matrix. With redshift the shapes of xi_mm and Xi_2 change little; b^2 and K are in
units of those at the redshift of the model.
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

#: The constant of the NLA model times the critical density today (Bridle & King 2007, arXiv:0705.0166), as in CCL and
#: CosmoSIS.
C1_RHO_CRITICAL = 0.0134

_SHIPPED = "matter_bolplanck.txt"

#: How far a redshift may be beyond those of the table.
_BEYOND = 0.01


@dataclass(frozen=True, eq=False)
class LargeScales:
    """A table of the correlations of matter at one redshift, interpolated by cubic splines in log r.

    Attributes
    ----------
    r : array (n,)
        Comoving separations [Mpc/h].
    xi, Xi_2 : array (n,)
        Correlation function of matter, and its mean inside r minus itself; dimensionless.
    redshift : float
    description : str
        The header of the file: cosmology, redshifts and source.
    """

    r: np.ndarray
    xi: np.ndarray
    Xi_2: np.ndarray
    redshift: float = 0.0
    description: str = ""

    @classmethod
    @lru_cache(maxsize=16)
    def shipped(cls, redshift: float = 0.0) -> LargeScales:
        """Return the shipped table: Bolshoi-Planck, CAMB with HMcode-2020.

        The file has the redshifts 0, 0.3, 0.6, 1 and 1.5, between which a cubic spline in the scale factor is within
        0.3 % of CAMB. ``python -m iaemu_training.dataset.make_xi_matter OUTPUT --large-scales`` makes it again.

        Parameters
        ----------
        redshift : float
            From 0 to 1.5.

        Returns
        -------
        LargeScales

        Raises
        ------
        ValueError
            The redshift is outside this range.
        """
        header, r, tables = _read_shipped()
        known = [float(word) for word in header["redshifts"].split(",")]
        if not known[0] - _BEYOND <= redshift <= known[-1] + _BEYOND:
            raise ValueError(
                f"The model is at redshift {redshift:.4g}, but the correlations of matter beyond its nodes are known "
                f"from {known[0]:g} to {known[-1]:g}. Project a model in this range; xi, omega and eta are predicted "
                "at any."
            )
        a = 1.0 / (1.0 + np.array(known))
        at = 1.0 / (1.0 + min(max(redshift, known[0]), known[-1]))
        xi, Xi_2 = CubicSpline(a[::-1], tables[::-1])(at)
        return cls(r, xi, Xi_2, float(redshift), "; ".join(f"{key}: {value}" for key, value in header.items()))

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


@lru_cache(maxsize=1)
def _read_shipped() -> tuple[dict[str, str], np.ndarray, np.ndarray]:
    """Return the header of the file, r (n,), and xi and Xi_2 at each redshift (n_redshifts, 2, n)."""
    lines = read_text(str(resources.files("iaemu.observables") / _SHIPPED)).split("\n")
    entries = (line.removeprefix("# ").partition(": ") for line in lines if line.startswith("#"))
    header = {key: value for key, _, value in entries if value}
    rows = np.array([line.split() for line in lines if line and not line.startswith("#")], dtype=np.float64)
    r, *columns = rows.T
    return header, r, np.array(columns).reshape(-1, 2, len(r))
