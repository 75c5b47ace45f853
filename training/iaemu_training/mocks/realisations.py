"""Pair sums of independent mocks at one parameter point, and their statistics."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace
from functools import reduce

import numpy as np
from numpy.typing import ArrayLike

from iaemu.binning import check_edges


@dataclass(frozen=True, repr=False)
class MockRealisations:
    """Pair sums of n independent mocks at one parameter point.

    Attributes
    ----------
    r_edges : (n_bins + 1,)
        Edges of the bins [Mpc/h].
    DD, S_omega, S_eta : (n, n_bins) float64
        Sums over ordered pairs, see :class:`iaemu_training.pairs.galaxies.PairSums`.
    RR : (n, n_bins) float64
        Expected pairs without clustering, N^2 v / V for the N galaxies of each mock, as in halotools' ``tpcf``.
    n_gal, n_sat, n_borrowed : (n,) int64
        Number of galaxies, of satellites, and of borrowed satellites.
    """

    r_edges: np.ndarray
    DD: np.ndarray
    S_omega: np.ndarray
    S_eta: np.ndarray
    RR: np.ndarray
    n_gal: np.ndarray
    n_sat: np.ndarray
    n_borrowed: np.ndarray

    def __repr__(self) -> str:
        low, high = self.r_edges[[0, -1]]
        return (
            f"<MockRealisations: {len(self)} mocks with {np.mean(self.n_gal):.0f} galaxies on average, "
            f"{len(self.r_edges) - 1} bins from {low:.4g} to {high:.4g} Mpc/h>"
        )

    def __len__(self) -> int:
        return len(self.n_gal)

    @property
    def xi(self) -> np.ndarray:
        """DD / RR - 1 of each mock, (n, n_bins); NaN for a mock without galaxies."""
        return _ratio(self.DD, self.RR) - 1.0

    @property
    def omega(self) -> np.ndarray:
        """Mean of |e.r|^2 - 1/3 over each mock's pairs, (n, n_bins); NaN in a bin without pairs."""
        return _ratio(self.S_omega, self.DD)

    @property
    def eta(self) -> np.ndarray:
        """Mean of |e1.e2|^2 - 1/3 over each mock's pairs, (n, n_bins); NaN in a bin without pairs."""
        return _ratio(self.S_eta, self.DD)

    @property
    def f_sat(self) -> np.ndarray:
        """Satellite fraction of each mock, (n,)."""
        return _ratio(self.n_sat, self.n_gal)

    def pooled(self) -> dict[str, np.ndarray]:
        """Return xi, omega and eta (n_bins,) as ratios of sums over the mocks, which empty bins do not bias."""
        DD, RR = self.DD.sum(axis=0), self.RR.sum(axis=0)
        return {
            "xi": _ratio(DD, RR) - 1.0,
            "omega": _ratio(self.S_omega.sum(axis=0), DD),
            "eta": _ratio(self.S_eta.sum(axis=0), DD),
        }

    def delete_one(self) -> dict[str, np.ndarray]:
        """Return :meth:`pooled` without each of the mocks in turn, (n, n_bins)."""
        DD, RR, S_omega, S_eta = (
            values.sum(axis=0) - values for values in (self.DD, self.RR, self.S_omega, self.S_eta)
        )
        return {"xi": _ratio(DD, RR) - 1.0, "omega": _ratio(S_omega, DD), "eta": _ratio(S_eta, DD)}

    def rebinned(self, nesting: np.ndarray, r_edges: ArrayLike) -> MockRealisations:
        """Return the same mocks in coarser bins, with ``nesting`` from :func:`iaemu.binning.nesting_matrix`."""
        sums = {name: getattr(self, name) @ nesting.T for name in ("DD", "S_omega", "S_eta", "RR")}
        return replace(self, r_edges=check_edges(r_edges), **sums)

    def __add__(self, other: MockRealisations) -> MockRealisations:
        """Add the pair sums of the i-th mocks of two boxes, which are then one volume."""
        if not isinstance(other, MockRealisations):
            return NotImplemented
        if len(self) != len(other) or not np.array_equal(self.r_edges, other.r_edges):
            raise ValueError("Realisations can be added only if they are equal in number and have the same r_edges.")
        names = [field.name for field in fields(self) if field.name != "r_edges"]
        return replace(self, **{name: getattr(self, name) + getattr(other, name) for name in names})


def concatenate(parts: Sequence[MockRealisations]) -> MockRealisations:
    """Join realisations in the same bins, one after the other."""
    edges = parts[0].r_edges
    if any(not np.array_equal(part.r_edges, edges) for part in parts):
        raise ValueError("Realisations can be joined only if they have the same r_edges.")
    names = [field.name for field in fields(MockRealisations) if field.name != "r_edges"]
    return MockRealisations(edges, **{name: np.concatenate([getattr(part, name) for part in parts]) for name in names})


def sum_boxes(boxes: Iterable[MockRealisations]) -> MockRealisations:
    """Add mocks of several boxes, which are then one volume, see :meth:`MockRealisations.__add__`."""
    return reduce(operator.add, boxes)


def _ratio(numerator, denominator):
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.divide(numerator, denominator)
