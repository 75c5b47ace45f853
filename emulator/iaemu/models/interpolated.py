"""Tables at several redshifts, and between them.

Halo catalogues of one simulation at several redshifts have the same large-scale structure, and what is predicted for
one occupation changes smoothly from one to the next. So log DD and log RR, and thus log(1 + xi), the logarithm of the
number of galaxies, the fraction of satellites and the ingredients of omega and eta (means over pairs) are interpolated
between nodes in z, by parabolas (:func:`iaemu.models.redshifts.snapshot_weights`); bins follow as those of tables at
one redshift do.
``benchmarks/held_out_redshift.py`` measures the error at a redshift that is left out.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import pairwise
from os import PathLike
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike

from iaemu.artifact import ArtifactError
from iaemu.halomodel.radial import N_TWO
from iaemu.models.pair_sums import PairSumModel, PairSums
from iaemu.models.radial import StrengthResponse
from iaemu.models.redshifts import TOLERANCE, RedshiftError, snapshot_weights, support_at, usual_redshift
from iaemu.models.tables import TabulatedModel
from iaemu.parameters import OCCUPATION_PARAMETERS, PARAMETERS, as_theta
from iaemu.ranges import Range

#: Sums that are interpolated in units of the number of pairs.
_ORIENTED = ("A_c", "A_s", "E_cc", "E_cs", "E_ss")

#: Least number of ordered pairs whose logarithm is taken, and limits of means over them.
_LEAST_PAIRS, _LARGEST_MEAN = 1e-3, 1.0


class InterpolatedTables(PairSumModel):
    """Tables of the same boxes at several redshifts, at a redshift between them.

    They are loaded with ``iaemu.load([FILE, FILE, ...], redshift=0.3)``. At the redshift of a file only that file is
    used; between files, the supported region is what all support that are used there.

    The attributes are those of :class:`iaemu.ForwardModel`.

    Parameters
    ----------
    tables : sequence of TabulatedModel
        One for each redshift, in any order.
    redshift : float, optional
        By default 0, or the redshift nearest to it.

    Raises
    ------
    ArtifactError
        Tables are of boxes of other sizes, of another cosmology or of other nodes, or do not state their redshift.
    RedshiftError
        The redshift is outside the range of those of the tables.
    """

    def __init__(self, tables: Sequence[TabulatedModel], redshift: float | None = None):
        self.tables = _in_order(tables)
        self._known = [float(one.metadata["redshift"]) for one in self.tables]
        first, low, high = self.tables[0], self._known[0], self._known[-1]
        redshift = usual_redshift(low, high) if redshift is None else redshift
        Range(at_least=low - TOLERANCE, at_most=high + TOLERANCE).check("redshift", redshift, error=RedshiftError)
        redshift = min(max(float(redshift), low), high)
        self._weights = snapshot_weights(self._known, [redshift])
        used = [one for one, weight in zip(self.tables, self._weights[0], strict=True) if weight]
        #: The only tables that are used, if there is one.
        self._alone = used[0] if len(used) == 1 else None
        snapshots = [
            {
                **{name: one.metadata[name] for name in ("redshift", "catalogues", "catalogue_sha256")},
                "support": one.support.to_dict(),
            }
            for one in self.tables
        ]
        _check_regions(snapshots)
        self.nodes, self.support = first.nodes, support_at(snapshots, redshift)
        # One set of functions of the radius for all redshifts, so that their sums can be interpolated.
        self.radial = used[0].radial if all(one.radial is not None for one in self.tables) else None
        self.metadata = {
            **{name: first.metadata[name] for name in ("box_sizes", "box_volumes") if name in first.metadata},
            "cosmology": _cosmology(first),
            "support": self.support.to_dict(),
            "redshift": redshift,
            "snapshots": snapshots,
        }
        for name in ("catalogues", "catalogue_sha256"):
            self.metadata[name] = [entry for one in used for entry in one.metadata[name]]

    @classmethod
    def load(cls, paths: Iterable[str | PathLike]) -> InterpolatedTables:  # type: ignore[override]
        """Load tables from files.

        Parameters
        ----------
        paths : iterable of path-like
            One file for each redshift.

        Returns
        -------
        InterpolatedTables

        Raises
        ------
        ArtifactError
            A file is missing or damaged, or they do not fit together.
        """
        return cls([TabulatedModel.load(path) for path in paths])

    def _details(self) -> list[str]:
        return [f"z = {self.redshift:.4g}, from tables at z = {', '.join(f'{z:.4g}' for z in self._known)}"]

    def _moved(self, redshift: float) -> InterpolatedTables:
        moved = type(self)(self.tables, redshift)
        if "_box_error" in vars(self):
            moved._box_error = self._box_error
        return moved

    # ------------------------------------------------------------------ predictions

    def sums(self, theta: Any, r_edges: ArrayLike | None = None, central_weight: Callable | None = None) -> PairSums:
        """Return the expected pair sums at a batch of points.

        Parameters
        ----------
        theta : array or tensor (n, 7), (n, 5) or (n, 6), or mapping
            As for :meth:`TabulatedModel.sums`; or the parameters of the occupation and the redshift of each point.
        r_edges, central_weight
            See :meth:`TabulatedModel.sums`.

        Returns
        -------
        PairSums
        """
        alone = self._only(theta)
        if alone is not None:
            return alone.sums(theta, r_edges, central_weight)
        points = self._points(theta)
        mixed = _mixed(points, [one.sums(points.of(i), None, central_weight) for i, one in self._used(points)])
        return mixed if r_edges is None else self.rebin(mixed, r_edges)

    def _only(self, theta: Any) -> TabulatedModel | None:
        """Return the only tables that are used at points; None if there are several."""
        n_columns = len(theta) if isinstance(theta, Mapping) else np.shape(theta)[-1]
        return None if n_columns == len(_WITH_REDSHIFT) else self._alone

    def _points(self, theta: Any) -> _Points:
        """Return the occupation (n, 5) of points, and the weights of the tables at each."""
        n_columns = len(theta) if isinstance(theta, Mapping) else np.shape(theta)[-1]
        names = {len(names): names for names in (OCCUPATION_PARAMETERS, _WITH_REDSHIFT, PARAMETERS)}
        theta = as_theta(theta, names.get(n_columns, PARAMETERS)).double()
        weights = torch.as_tensor(self._weights)
        if n_columns == len(_WITH_REDSHIFT):
            theta, redshift = theta[..., :-1].reshape(-1, len(OCCUPATION_PARAMETERS)), theta[..., -1].reshape(-1)
            weights = torch.as_tensor(snapshot_weights(self._known, redshift.numpy()))
        return _Points(theta[..., -len(OCCUPATION_PARAMETERS) :].reshape(-1, len(OCCUPATION_PARAMETERS)), weights)

    def _used(self, points: _Points) -> list[tuple[int, TabulatedModel]]:
        return [(i, one) for i, one in enumerate(self.tables) if bool((points.weights[:, i] != 0).any())]

    def satellite_parts(
        self,
        occupation: torch.Tensor,
        sums: PairSums,
        r_edges: ArrayLike | None = None,
        central_weight: Callable | None = None,
    ) -> dict[str, torch.Tensor]:
        alone = self._only(occupation)
        if alone is not None:
            return alone.satellite_parts(occupation, sums, r_edges, central_weight)
        points = self._points(occupation)
        own = [one.sums(points.of(i), None, central_weight) for i, one in self._used(points)]
        found = []
        for (i, one), each in zip(self._used(points), own, strict=True):
            parts = one.satellite_parts(points.of(i), each, None, central_weight)
            found.append({**parts, "E_ss": self._in_common_basis(one, parts["E_ss"])})
        pairs = _mixed(points, own).DD
        weights = self._rebinning(r_edges)
        values = {}
        for name in ("A_s", "E_cs", "E_ss"):
            means = [parts[name] / _like(_pairs(each), parts[name]) for parts, each in zip(found, own, strict=True)]
            mixed = points.total(means)
            values[name] = (mixed * _like(pairs, mixed)) @ weights
        return values

    def _in_common_basis(self, tables: TabulatedModel, E_ss: torch.Tensor) -> torch.Tensor:
        """Return sums by pairs of functions for those of ``self.radial``, whose first is 1 as well."""
        change = tables._require_radial().to_basis[:, :N_TWO].T @ self._require_radial().basis[:, :N_TWO]
        return torch.einsum("mk,nl,amnb->aklb", change, change, E_ss)

    def _respond_to_mass(self, found: StrengthResponse, theta, r_edges, of_radius: bool) -> None:
        if self._alone is not None:
            self._alone._respond_to_mass(found, theta, r_edges, of_radius)
            return
        points = self._points(theta)
        weights, own = self._rebinning(r_edges), []
        sums = [one.sums(theta) for _, one in self._used(points)]
        pairs = _mixed(points, sums).DD
        for (i, one), each in zip(self._used(points), sums, strict=True):
            response = one._strength_response(theta[0], None, True, of_radius)
            scale = points.weights[0, i] * pairs / _pairs(each)
            response.A_c, response.E_cs = ((part * scale) @ weights for part in (response.A_c, response.E_cs))
            response.E_cc = torch.einsum("bij,bk->kij", response.E_cc, scale.T * weights)
            own.append(response)
        found.log_mass = torch.cat([response.log_mass for response in own if response.log_mass is not None])
        found.A_c, found.E_cs = (torch.cat([getattr(one, name) for one in own]) for name in ("A_c", "E_cs"))
        found.modes = torch.block_diag(*(response.modes for response in own))
        n_bins = weights.shape[1]
        found.E_cc = torch.stack([torch.block_diag(*(one.E_cc[b] for one in own)) for b in range(n_bins)])

    def expected_centrals(self, theta: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        points = self._points(theta)
        found = [(points.weights[:, i, None], *one.expected_centrals(theta)) for i, one in self._used(points)]
        return torch.cat([masses for _, masses, _ in found]), torch.cat([w * n for w, _, n in found], dim=1)


#: Columns of points that each have a redshift of their own.
_WITH_REDSHIFT = (*OCCUPATION_PARAMETERS, "redshift")


class _Points(NamedTuple):
    """Points (n, 5), and the weights of tables at them, (n, n_tables), or (1, n_tables) if all have the same."""

    occupation: torch.Tensor
    weights: torch.Tensor

    def of(self, table: int) -> torch.Tensor:
        """Return the points at which a table is used."""
        return self.occupation if len(self.weights) == 1 else self.occupation[self.weights[:, table] != 0]

    def total(self, values: Sequence[torch.Tensor]) -> torch.Tensor:
        """Return the weighted sum of what each table that is used gives at its points."""
        used = self.weights[:, (self.weights != 0).any(dim=0)]
        if len(used) == 1:
            return sum((weight * value for weight, value in zip(used[0], values, strict=True)), torch.zeros(()))
        total = values[0].new_zeros(len(self.occupation), *values[0].shape[1:])
        for weight, value in zip(used.T, values, strict=True):
            rows = torch.nonzero(weight).flatten()
            total = total.index_add(0, rows, _like(weight[rows], value) * value)
        return total


def _mixed(points: _Points, sums: Sequence[PairSums]) -> PairSums:
    """Return pair sums between those of several tables, for the bins between nodes."""
    DD, RR, n_galaxies = (
        torch.exp(points.total([torch.log(_positive(one, name)) for one in sums]))
        for name in ("DD", "RR", "n_galaxies")
    )
    oriented = {name: points.total([_mean(getattr(one, name), one) for one in sums]) * DD for name in _ORIENTED}
    return PairSums(DD=DD, RR=RR, n_galaxies=n_galaxies, f_sat=points.total([one.f_sat for one in sums]), **oriented)


def _positive(sums: PairSums, name: str) -> torch.Tensor:
    return _pairs(sums) if name == "DD" else getattr(sums, name)


def _pairs(sums: PairSums) -> torch.Tensor:
    """Return the number of pairs. Sums over modes can be a little below 0 where there are hardly any."""
    return sums.DD.clamp(min=_LEAST_PAIRS)


def _mean(oriented: torch.Tensor, sums: PairSums) -> torch.Tensor:
    return (oriented / _pairs(sums)).clamp(-_LARGEST_MEAN, _LARGEST_MEAN)


def _like(values: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """Return values (n,) or (n, n_bins) in a shape that broadcasts with (n, ..., n_bins)."""
    shape = [len(values), *[1] * (other.ndim - 1)]
    if values.ndim > 1:
        shape[-1] = values.shape[-1]
    return values.reshape(shape)


def _in_order(tables: Sequence[TabulatedModel]) -> tuple[TabulatedModel, ...]:
    """Return tables by redshift; ArtifactError if they do not belong together."""
    if not tables:
        raise ArtifactError("Give at least one file of tables.")
    names = [", ".join(map(str, one.metadata["catalogues"])) for one in tables]
    for one, name in zip(tables, names, strict=True):
        if not isinstance(one, TabulatedModel):
            raise ArtifactError(f"Only tables can be interpolated between redshifts; got {type(one).__name__}.")
        if one.metadata.get("redshift") is None:
            raise ArtifactError(f"The tables of {name} do not state their redshift; make them again.")
    first = tables[0]
    for one, name in zip(tables[1:], names[1:], strict=True):
        same_nodes = len(one.nodes) == len(first.nodes) and bool(np.allclose(one.nodes, first.nodes, rtol=1e-6))
        stated = [(tables.metadata.get("box_sizes"), _cosmology(tables)) for tables in (one, first)]
        if not same_nodes or stated[0] != stated[1]:
            what = "" if same_nodes else f"{len(one.nodes)} and {len(first.nodes)} nodes, or others; "
            raise ArtifactError(
                f"The tables of {name} and of {names[0]} do not belong together: {what}boxes of {stated[0][0]} and "
                f"{stated[1][0]} Mpc/h, {stated[0][1]} and {stated[1][1]}. Give tables of the same boxes at several "
                "redshifts, made with the same settings."
            )
    ordered = sorted(tables, key=lambda one: one.metadata["redshift"])
    known = [one.metadata["redshift"] for one in ordered]
    if len(known) > 1 and np.diff(known).min() < TOLERANCE:
        raise ArtifactError(f"Tables at several redshifts must differ in it by {TOLERANCE:g} or more; got {known}.")
    return tuple(ordered)


def _cosmology(tables: TabulatedModel) -> str | None:
    """Return the cosmology that tables state, without a redshift."""
    stated = tables.metadata.get("cosmology")
    return None if stated is None else re.sub(r"[,;]?\s*\bz\s*=\s*[-+.\d]+\s*$", "", str(stated))


def _check_regions(snapshots: Sequence[dict]) -> None:
    """Raise ArtifactError if a redshift between two tables has no supported region."""
    known = [one["redshift"] for one in snapshots]
    for low, high in pairwise(known):
        try:
            support_at(snapshots, 0.5 * (low + high))
        except ValueError as error:
            raise ArtifactError(
                f"The tables have no supported region in common between z = {low:.4g} and {high:.4g}: {error}"
            ) from error
