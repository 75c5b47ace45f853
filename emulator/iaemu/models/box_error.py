"""The box error: the error of a prediction because its halo catalogues are finite, from a jackknife over regions.

A prediction is the expectation for given halo catalogues; other boxes of the same size would give another one. Each
box is divided into K equal cubes, and the k-th cubes of all boxes together are region k. If the boxes have opposite
initial phases, so that their mean has little large-scale variance, this also holds for each region. A pair is counted
in the region of its first member. So each pair is counted once, and the noise of an axis belongs to the region of its
galaxy. (To leave out all pairs that touch a region would count pairs across its faces twice.) Let A_k, DD_k, N_k and
v_k be the parts of a pair sum, of the number of pairs, of the number of galaxies and of the volume in region k. To
first order in the contribution of one region the deviations are

    d_k(A / DD) = s (A_k - DD_k A / DD) / DD,
    d_k(xi) = s (1 + xi) [DD_k / DD - (2 - f) N_k / N + (1 - f) v_k],    s = -sqrt(K / (K - 1)),

where f(r) is the fraction of random pairs whose first member is in a region and whose second is not. Random pairs have
the mean density of the other regions, except for second members in the same region, which have its own density. The sum
of d_k d_k^T over k is the linearised jackknife covariance (Efron & Stein 1981, Ann. Statist. 9, 586) of all bins and
statistics together. Delete-one estimates would give the same if each region is a small part of the whole, but they
diverge if one region has all pairs of a bin.

The sums are linear in products of a few amplitudes of the occupations (see ``iaemu.halomodel.modes``), so they are
known in the whole supported region. Borrowed satellites are not included.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike

from iaemu.artifact import (
    ArtifactError,
    check_golden,
    check_shapes,
    load_artifact,
    require,
    shipped_artifact,
    write_artifact,
)
from iaemu.binning import Rebinning, check_edges, pairs_inside_cube, shell_volumes
from iaemu.display import describe_bins, shorten
from iaemu.halomodel.alignment import ORIENTATION_INGREDIENTS
from iaemu.halomodel.modes import Occupations
from iaemu.observables.projected import Projection
from iaemu.parameters import OCCUPATION_PARAMETERS, PARAMETERS, Support, as_theta
from iaemu.ranges import Range
from iaemu.statistics import STATISTICS, check_statistics

#: Blocks of occupations and their kinds, as in ``iaemu.models.tables``.
OCCUPATIONS = {
    "central": "central",
    "satellite": "satellite",
    "central_satellite": "central_satellite",
    "satellite_pair": "satellite_pair",
}

#: The sums to which pairs in different hosts (by kind of galaxy) and in one host (``one_*``) contribute.
TERMS = {
    "cc": ("DD", "A_c", "E_cc"),
    "cs": ("DD", "A_c", "A_s", "E_cs"),
    "ss": ("DD", "A_s", "E_ss"),
    "one_cs": ("DD", "A_c", "A_s", "E_cs"),
    "one_ss": ("DD", "A_s", "E_ss"),
}

#: The sums of each term are linear combinations of products of these amplitudes.
_FACTORS = {
    "cc": ("central", "central"),
    "cs": ("central", "satellite"),
    "ss": ("satellite", "satellite"),
    "one_cs": ("central_satellite",),
    "one_ss": ("satellite_pair",),
}

#: Number of binnings whose summed tables are kept in memory.
_MAX_BINNINGS = 8


class BoxError:
    """The error of predictions because the halo catalogues are finite, as scaled jackknife deviations.

    A file of it is made by ``iaemu train box-error`` and loaded with :meth:`load`. Models of the same halo catalogues
    use it in ``deviations``. Everything is in float64 and differentiable.

    Attributes
    ----------
    r_edges : array (n_bins + 1,)
        Nodes [Mpc/h], see :class:`iaemu.binning.Rebinning`.
    n_regions : int
        Number of jackknife regions.
    metadata : dict
        Halo catalogues and their hashes, settings, and a comparison of the standard errors with direct counts.
    """

    kind = "box-error"
    shipped = "box-error-pm160.safetensors"

    def __init__(self, tensors: dict[str, np.ndarray], metadata: dict, path: Any = "box error"):
        names = [f"{kind}.{term}" for kind in ("sums", "products") for term in TERMS]
        require(tensors, ["r_edges", "numbers.central", "numbers.satellite", *names], path)
        self.metadata, self._tensors = metadata, tensors
        self.r_edges = check_edges(tensors["r_edges"])
        self.per_side = _per_side(metadata)
        self.n_regions = self.per_side**3
        self._occupations = Occupations.from_arrays(OCCUPATIONS, tensors)
        self._tables = {
            name: torch.as_tensor(np.asarray(value, dtype=np.float64))
            for name, value in tensors.items()
            if name.split(".")[0] in ("sums", "products", "numbers")
        }
        n_bins = len(self.r_edges) - 1
        for term, quantities in TERMS.items():
            table = self._tables[f"sums.{term}"]
            shape = (len(table), len(quantities), self.n_regions, n_bins)
            if tuple(table.shape) != shape:
                raise ArtifactError(f"{path}: the sums {term} have shape {tuple(table.shape)}; expected {shape}.")
        self._binned: dict = {}

    def __repr__(self) -> str:
        catalogues = ", ".join(map(str, self.metadata.get("catalogues") or ["unknown halo catalogues"]))
        return f"BoxError: {self.n_regions} regions of {shorten(catalogues)}; {describe_bins(self.r_edges)}"

    # ------------------------------------------------------------------ files

    @classmethod
    def load(cls, path: Any = None) -> BoxError:
        """Load a box error from a file.

        Parameters
        ----------
        path : path-like, optional
            By default the shipped file, for the shipped halo catalogues.

        Returns
        -------
        BoxError

        Raises
        ------
        ArtifactError
            The file is missing, corrupt, not made by iaemu or of another kind, or does not reproduce its golden
            predictions.
        """
        path = shipped_artifact(cls.shipped) if path is None else path
        # Tensors made under inference mode could not be used in a later gradient. Tables are made on the CPU, whatever
        # default device the caller has set.
        with torch.inference_mode(False), torch.device("cpu"):
            return load_artifact(path, {cls.kind: cls})

    @classmethod
    def _check_layout(cls, metadata, shapes, path) -> None:
        blocks, optional = Occupations.layout(OCCUPATIONS)
        regions, modes = _per_side(metadata) ** 3, {name: f"modes of {name}" for name in OCCUPATIONS}
        wanted: dict[str, tuple[int | str, ...]] = {"r_edges": ("edges",)}
        for kind in ("central", "satellite"):
            wanted[f"numbers.{kind}"] = (modes[kind], regions, len(metadata["box_sizes"]))
        for term, quantities in TERMS.items():
            products = f"products of {term}"
            wanted[f"products.{term}"] = (*(modes[name] for name in _FACTORS[term]), products)
            wanted[f"sums.{term}"] = (products, len(quantities), regions, "bins")
        check_shapes(shapes, {**wanted, **blocks}, path, optional)

    @classmethod
    def _restore(cls, tensors, metadata, path) -> BoxError:
        metadata["catalogue_sha256"]  # a missing entry raises KeyError here, not later in why_not
        return cls(tensors, metadata, path)

    def _golden(self, theta: np.ndarray) -> dict[str, np.ndarray]:
        """Return values that must be the same after loading: sums over regions, with different weights."""
        weights = np.cos(np.arange(1, self.n_regions + 1))
        found = self.deviations(torch.as_tensor(theta))
        return {name: np.einsum("k,nkb->nb", weights, value.numpy()) for name, value in found.items()}

    def _check_golden(self, golden, path) -> None:
        support = Support.from_dict(self.metadata["support"])
        theta = support.from_unit_cube(golden["unit"])[:, -len(OCCUPATION_PARAMETERS) :]
        check_golden(golden, {"theta": theta}, path, rtol=1e-9, atol=1e-9)
        check_golden(golden, self._golden(theta), path, rtol=1e-6, atol=1e-9)

    def save(self, path: Any) -> None:
        """Write the box error to a file, with golden predictions that :meth:`load` checks.

        Parameters
        ----------
        path : path-like
        """
        unit = np.random.default_rng(20250407).uniform(size=(3, len(PARAMETERS)))
        theta = Support.from_dict(self.metadata["support"]).from_unit_cube(unit)[:, -len(OCCUPATION_PARAMETERS) :]
        golden = {"unit": unit, "theta": theta, **self._golden(theta)}
        golden = {name: value.tolist() for name, value in golden.items()}
        write_artifact(path, self.kind, self._tensors, {**self.metadata, "golden": golden})

    def why_not(self, metadata: dict) -> str | None:
        """Return why this box error does not apply to a model.

        Parameters
        ----------
        metadata : dict
            Metadata of the model.

        Returns
        -------
        str or None
            The reason, which is other halo catalogues or a wider supported region; None if it applies.
        """
        # A model of several redshifts takes the error of the catalogues of any of them, see there.
        known = [each.get("catalogue_sha256") or [] for each in (metadata, *(metadata.get("snapshots") or []))]
        if sorted(self.metadata["catalogue_sha256"]) not in [sorted(hashes) for hashes in known]:
            mine, other = (", ".join(map(str, m.get("catalogues") or ["unknown"])) for m in (self.metadata, metadata))
            return f"it was made from the halo catalogues {mine}, the model from {other} (their hashes differ)"
        own, wanted = (Support.from_dict(values["support"]) for values in (self.metadata, metadata))
        grid = np.linspace(*wanted.logMmin, 33)
        for name in OCCUPATION_PARAMETERS:
            (low, high), (lowest, highest) = (support.bounds(name, grid) for support in (wanted, own))
            if np.any(np.less(low, np.subtract(lowest, 1e-9))) or np.any(np.greater(high, np.add(highest, 1e-9))):
                return f"it covers a smaller range of {name} than the supported region of the model"
        return None

    # ------------------------------------------------------------------ deviations

    def deviations(
        self, theta: torch.Tensor, r_edges: ArrayLike | None = None, statistics: Sequence[str] = STATISTICS
    ) -> dict[str, torch.Tensor]:
        """Return scaled deviations of xi, and of the ingredients of omega and eta, for each region.

        Parameters
        ----------
        theta : tensor (n, 5), float64
            ``logMmin, sigma_logM, logM0, logM1, alpha``.
        r_edges : array (n_bins + 1,), optional
            Edges of the bins [Mpc/h]; by default ``self.r_edges``.
        statistics : subset of ("xi", "omega", "eta")

        Returns
        -------
        dict of "xi", "A_c", "A_s", "E_cc", "E_cs", "E_ss" to tensors (n, n_regions, n_bins)
            The ingredients of ``statistics``. The sum over regions of products of two deviations is the covariance.

        Raises
        ------
        ValueError
            A parameter or statistic is wrong. It is an :class:`iaemu.binning.BinningError` if a bin is beyond the nodes
            or thinner than they resolve.
        """
        statistics, theta = check_statistics(statistics), as_theta(theta, OCCUPATION_PARAMETERS)
        edges = self.r_edges if r_edges is None else check_edges(r_edges)
        tables = self._for_bins(edges)
        amplitudes = self._amplitudes(theta)
        needed = {"DD", *(name for statistic in statistics for name in ORIENTATION_INGREDIENTS.get(statistic, ()))}
        sums: dict = {}
        for term, quantities in TERMS.items():
            wanted = [index for index, name in enumerate(quantities) if name in needed]
            parts = torch.tensordot(amplitudes[term], tables[term][:, wanted], dims=1)
            for column, index in enumerate(wanted):
                name = quantities[index]
                sums[name] = sums[name] + parts[:, column] if name in sums else parts[:, column]
        if "xi" in statistics:
            sums["N"] = sum(
                torch.tensordot(amplitudes[kind], self._tables[f"numbers.{kind}"], dims=1)
                for kind in ("central", "satellite")
            )
        return jackknife(sums, edges, self.metadata["box_sizes"], self.per_side)

    def projected(self, theta: torch.Tensor, projection: Projection, redshift: float = 0.0) -> dict[str, torch.Tensor]:
        """Return scaled deviations of projected statistics for each region.

        The deviations of S / RR, for any pair sum S, are those of 1 + xi with S in place of DD. They are linear in the
        sums between nodes, and projected like these.

        Parameters
        ----------
        theta : tensor (n, 5), float64
            As for :meth:`deviations`.
        projection : Projection
        redshift : float
            That of the model, for the large scales.

        Returns
        -------
        dict of "xi" (w_gg), "A_c" and "A_s" (parts of w_g+) to tensors (n, n_regions, n_rp)
            See :mod:`iaemu.models.projecting`.

        Raises
        ------
        ValueError
            A parameter is wrong, or a separation is beyond what nodes and large scales allow.
        """
        amplitudes = self._amplitudes(as_theta(theta, OCCUPATION_PARAMETERS))
        tables = self._for_projection(projection, redshift)
        numbers = sum(
            torch.tensordot(amplitudes[kind], self._tables[f"numbers.{kind}"], dims=1)
            for kind in ("central", "satellite")
        )
        n_regions = self.n_regions
        scale = -((n_regions / (n_regions - 1.0)) ** 0.5)
        total = numbers.sum(dim=1, keepdim=True)
        random = total**2 / torch.as_tensor(self.metadata["box_sizes"], dtype=torch.float64) ** 3
        density = random.sum(dim=-1, keepdim=True)
        weight = random / density  # (n, 1, n_boxes)
        sizes = [len(projection.gg), len(projection.gplus), len(projection.gplus)]
        found: dict[str, Any] = {}
        for term, (columns, *sums) in tables.items():
            parts, first, gone = (torch.tensordot(amplitudes[term], table, dims=1) for table in sums)
            expected = torch.einsum("nkx,nxb->nkb", weight * numbers / total, first)
            expected = expected - torch.einsum("nkx,nxb->nkb", weight, gone) / n_regions
            values = (scale * (parts - expected) / density).split([sizes[column] for column in columns], dim=-1)
            for column, value in zip(columns, values, strict=True):
                name = ("xi", "A_c", "A_s")[column]
                found[name] = found[name] + value if name in found else value
        return found

    def _for_projection(self, projection: Projection, redshift: float) -> dict[str, tuple]:
        """Return the sums of each term in these bins, by region, and of all regions with the shares of random pairs."""
        key = projection, redshift
        if key not in self._binned:
            with torch.inference_mode(False), torch.no_grad():
                found = projection.matrices(self.r_edges, redshift)
                sides = [size / self.per_side for size in self.metadata["box_sizes"]]
                leaving = torch.as_tensor(np.stack([1.0 - pairs_inside_cube(self.r_edges, side) for side in sides]))
                quantities = {"DD": found.of_xi, "A_c": found.of_omega, "A_s": found.of_omega}
                per_volume = [torch.as_tensor((m / shell_volumes(self.r_edges)).T) for m in quantities.values()]

                def sums(columns, table):
                    return torch.cat([table[:, i] @ per_volume[column] for column, i in columns.items()], dim=-1)

                binned = {}
                for term, names in TERMS.items():
                    columns = {column: names.index(name) for column, name in enumerate(quantities) if name in names}
                    table = self._tables[f"sums.{term}"]
                    whole = table.sum(dim=2)[:, :, None]
                    shares = (sums(columns, whole * share) for share in (2.0 - leaving, 1.0 - leaving))
                    binned[term] = (list(columns), sums(columns, table), *shares)
                self._binned[key] = binned
            self._forget()
        return self._binned[key]

    def _forget(self) -> None:
        while len(self._binned) > _MAX_BINNINGS:
            self._binned.pop(next(iter(self._binned)))

    def _amplitudes(self, theta: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return the products in which the sums of each term, and the numbers of galaxies, are linear, (n, ...)."""
        found = self._occupations.amplitudes(theta)
        for term, factors in _FACTORS.items():
            pattern = "ni,nj,ijr->nr" if len(factors) == 2 else "ni,ir->nr"
            found[term] = torch.einsum(pattern, *(found[name] for name in factors), self._tables[f"products.{term}"])
        return found

    def _for_bins(self, edges: np.ndarray) -> dict[str, torch.Tensor]:
        """Return the sums in these bins, and keep them for later calls."""
        key = edges.tobytes()
        if key not in self._binned:
            # Tensors made under inference mode could not be used in a later gradient.
            with torch.inference_mode(False), torch.no_grad():
                weights = torch.as_tensor(Rebinning.between(self.r_edges, edges).weights)
                self._binned[key] = {term: self._tables[f"sums.{term}"] @ weights.T for term in TERMS}
            self._forget()
        return self._binned[key]


def _per_side(metadata: dict) -> int:
    Range(at_least=2, at_most=100).check("per_side", metadata["per_side"], int)
    return int(metadata["per_side"])


def jackknife(
    sums: dict[str, torch.Tensor], r_edges: ArrayLike, box_sizes: Sequence[float], per_side: int
) -> dict[str, torch.Tensor]:
    """Return scaled jackknife deviations from the sums in each region; the module's docstring has the equations.

    Parameters
    ----------
    sums : dict of str to tensor
        "DD" and any of the pair sums "A_c", "A_s", "E_cc", "E_cs", "E_ss", (n, n_regions, n_bins), of all boxes
        together. With "N", the numbers of galaxies (n, n_regions, n_boxes), deviations of xi are returned too.
    r_edges : array (n_bins + 1,) [Mpc/h]
    box_sizes : array (n_boxes,) [Mpc/h]
    per_side : int
        Number of regions along each axis.

    Returns
    -------
    dict of "xi" and names of pair sums to tensors (n, n_regions, n_bins)
        Deviations of xi, and of the ratios of the pair sums to DD.
    """
    # Limits that counts obey. If hardly a pair is expected, sums over modes may exceed them, and ratios would diverge.
    pairs = sums["DD"].clamp(min=torch.finfo(torch.float64).tiny)
    n_regions = pairs.shape[1]
    scale = -((n_regions / (n_regions - 1.0)) ** 0.5)
    total = pairs.sum(dim=1, keepdim=True)
    values = {}
    if "N" in sums:
        numbers = sums["N"]
        whole = numbers.sum(dim=1, keepdim=True)
        sizes = torch.as_tensor(box_sizes, dtype=torch.float64)
        random = whole**2 / sizes**3  # (n, 1, n_boxes), random pairs per volume of separations
        weight = random / random.sum(dim=-1, keepdim=True)
        leaving = torch.as_tensor(np.stack([1.0 - pairs_inside_cube(r_edges, size / per_side) for size in box_sizes]))
        share = (weight * numbers / whole) @ (2.0 - leaving) - weight @ (1.0 - leaving) / n_regions
        expected = random.sum(dim=-1, keepdim=True) * torch.as_tensor(shell_volumes(r_edges))
        values["xi"] = scale * (pairs - total * share) / expected
    for name, part in sums.items():
        if name not in ("DD", "N"):
            part = torch.minimum(torch.maximum(part, -pairs / 3.0), pairs / 1.5)
            mean = part.sum(dim=1, keepdim=True) / total
            values[name] = scale * (part - mean * pairs) / total
    return values
