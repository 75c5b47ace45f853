"""The error that comes from the size of the simulated boxes, by a jackknife over regions of the halo catalogue.

What a model predicts is the expectation at given halo catalogues; other boxes of their size would have given another.
Each box is cut in K equal cubes, the k-th of all boxes together being one region: boxes of opposite initial phases,
whose mean has little large-scale variance, keep that in every region. A pair is counted in the region of its first
member, so that regions share out all pairs once, and the noise of an axis is in the region that its galaxy is in
(leaving out all pairs that touch a region would count those across its faces twice). With A_k, DD_k, N_k, v_k a
region's parts of a pair sum, of the pairs, of the galaxies and of the volume, the deviations to first order in what one
region adds are

    d_k(A / DD) = s (A_k - DD_k A / DD) / DD,
    d_k(xi) = s (1 + xi) [DD_k / DD - (2 - f) N_k / N + (1 - f) v_k],    s = -sqrt(K / (K - 1)),

f(r) the fraction of random pairs from a region that leave it: random pairs are those of the density outside the
region, and of that inside it for second members there. The sum over k of d_k d_k^T is the jackknife covariance
(Efron & Stein 1981, Ann. Statist. 9, 586; linearised), of all bins and statistics together. Delete-one estimates
themselves would give the same where regions are small parts of the whole, and have poles where all pairs of a bin are
of one region.

The sums are linear in products of a few amplitudes of the occupations (see :mod:`iaemu.halomodel.modes`), which carry
them over the whole support. Satellites beyond a host's own sub-halos, which the mock model borrows, are left out of
these sums.
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
from iaemu.binning import check_edges, nesting_matrix, pairs_inside_cube, shell_volumes
from iaemu.display import describe_bins, shorten
from iaemu.halomodel.alignment import ORIENTATION_INGREDIENTS
from iaemu.halomodel.modes import Occupations
from iaemu.parameters import OCCUPATION_PARAMETERS, PARAMETERS, Support, as_theta
from iaemu.prediction import STATISTICS, check_statistics
from iaemu.ranges import Range

#: Blocks of occupations and their kinds, as in :mod:`iaemu.models.tables`.
OCCUPATIONS = {
    "central": "central",
    "satellite": "satellite",
    "central_satellite": "central_satellite",
    "satellite_pair": "satellite_pair",
}

#: What pairs of different hosts (by the kinds of their members) and of one host (``one_*``) add to.
TERMS = {
    "cc": ("DD", "A_c", "E_cc"),
    "cs": ("DD", "A_c", "A_s", "E_cs"),
    "ss": ("DD", "A_s", "E_ss"),
    "one_cs": ("DD", "A_c", "A_s", "E_cs"),
    "one_ss": ("DD", "A_s", "E_ss"),
}

#: The amplitudes, or pairs of them, of whose products the sums of each term are linear combinations.
_FACTORS = {
    "cc": ("central", "central"),
    "cs": ("central", "satellite"),
    "ss": ("satellite", "satellite"),
    "one_cs": ("central_satellite",),
    "one_ss": ("satellite_pair",),
}

#: Binnings whose summed tables are kept.
_MAX_BINNINGS = 8


class BoxError:
    """Scaled jackknife deviations of what predictions are made of; float64, differentiable, any nested bins.

    Load with :meth:`load`; made by ``iaemu-train box-error``.

    Attributes
    ----------
    r_edges : array (n_bins + 1,)
        Finest edges [Mpc/h]; any binning whose edges are among them can be asked for.
    n_regions : int
    metadata : dict
        Catalogues and their hashes, settings, and how well the standard errors follow direct counts.
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
                raise ArtifactError(f"{path}: the sums {term} have shape {tuple(table.shape)}, {shape} is expected.")
        self._binned: dict = {}

    def __repr__(self) -> str:
        catalogues = ", ".join(map(str, self.metadata.get("catalogues") or ["unknown halo catalogues"]))
        return f"BoxError: {self.n_regions} regions of {shorten(catalogues)}; {describe_bins(self.r_edges)}"

    # ------------------------------------------------------------------ files

    @classmethod
    def load(cls, path: Any = None) -> BoxError:
        """Load from a file.

        Parameters
        ----------
        path : path-like, optional
            By default the one shipped with the package.

        Returns
        -------
        BoxError

        Raises
        ------
        ArtifactError
            The file is missing, corrupt, foreign or of another kind, or its golden predictions are not reproduced.
        """
        path = shipped_artifact(cls.shipped) if path is None else path
        # Tensors made under inference mode could not take part in a later gradient. The caller's default device is
        # for tensors of his own.
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
        metadata["catalogue_sha256"]  # KeyError here, rather than in :meth:`why_not`
        return cls(tensors, metadata, path)

    def _golden(self, theta: np.ndarray) -> dict[str, np.ndarray]:
        """What must come out the same after loading: sums over regions, each with a weight of its own."""
        weights = np.cos(np.arange(1, self.n_regions + 1))
        found = self.deviations(torch.as_tensor(theta))
        return {name: np.einsum("k,nkb->nb", weights, value.numpy()) for name, value in found.items()}

    def _check_golden(self, golden, path) -> None:
        support = Support.from_dict(self.metadata["support"])
        theta = support.from_unit_cube(golden["unit"])[:, -len(OCCUPATION_PARAMETERS) :]
        check_golden(golden, {"theta": theta}, path, rtol=1e-9, atol=1e-9)
        check_golden(golden, self._golden(theta), path, rtol=1e-6, atol=1e-9)

    def save(self, path: Any) -> None:
        """Write the tables and their metadata, with golden predictions that :meth:`load` checks.

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
        """Why it does not hold for a model: other catalogues, a wider support.

        Parameters
        ----------
        metadata : dict
            The model's.

        Returns
        -------
        str or None
            The reason; None: it holds.
        """
        if sorted(metadata.get("catalogue_sha256") or []) != sorted(self.metadata["catalogue_sha256"]):
            mine, other = (", ".join(map(str, m.get("catalogues") or ["unknown"])) for m in (self.metadata, metadata))
            return f"it was made from the catalogues {mine}, the model from {other} (their hashes differ)"
        own, wanted = (Support.from_dict(values["support"]) for values in (self.metadata, metadata))
        grid = np.linspace(*wanted.logMmin, 33)
        for name in OCCUPATION_PARAMETERS:
            (low, high), (lowest, highest) = (support.bounds(name, grid) for support in (wanted, own))
            if np.any(np.less(low, np.subtract(lowest, 1e-9))) or np.any(np.greater(high, np.add(highest, 1e-9))):
                return f"it covers less of {name} than the model's support"
        return None

    # ------------------------------------------------------------------ deviations

    def deviations(
        self, theta: torch.Tensor, r_edges: ArrayLike | None = None, statistics: Sequence[str] = STATISTICS
    ) -> dict[str, torch.Tensor]:
        """Scaled deviations of the ingredients of the statistics asked for.

        Parameters
        ----------
        theta : tensor (n, 5) float64
            In the order of ``OCCUPATION_PARAMETERS``.
        r_edges : array (n_bins + 1,), optional
            Must nest in ``self.r_edges``, which is the default.
        statistics : subset of ("xi", "omega", "eta")

        Returns
        -------
        dict of "xi", "A_c", "A_s", "E_cc", "E_cs", "E_ss" to tensors (n, n_regions, n_bins)
            The sum over regions of the products of two of them is the covariance of the box's error.

        Raises
        ------
        ValueError
            Parameters or statistics are none; an :class:`iaemu.binning.BinningError` if bins are malformed or do not
            nest.
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

    def _amplitudes(self, theta: torch.Tensor) -> dict[str, torch.Tensor]:
        """What the sums of each term, and the numbers of galaxies, are linear in; (n, ...) by name."""
        found = self._occupations.amplitudes(theta)
        for term, factors in _FACTORS.items():
            pattern = "ni,nj,ijr->nr" if len(factors) == 2 else "ni,ir->nr"
            found[term] = torch.einsum(pattern, *(found[name] for name in factors), self._tables[f"products.{term}"])
        return found

    def _for_bins(self, edges: np.ndarray) -> dict[str, torch.Tensor]:
        """Sums in the bins asked for, kept for the next call."""
        key = edges.tobytes()
        if key not in self._binned:
            # Tensors made under inference mode could not take part in a later gradient.
            with torch.inference_mode(False), torch.no_grad():
                nesting = torch.as_tensor(nesting_matrix(self.r_edges, edges))
                self._binned[key] = {term: self._tables[f"sums.{term}"] @ nesting.T for term in TERMS}
            while len(self._binned) > _MAX_BINNINGS:
                self._binned.pop(next(iter(self._binned)))
        return self._binned[key]


def _per_side(metadata: dict) -> int:
    Range(at_least=2, at_most=100).check("per_side", metadata["per_side"], int)
    return int(metadata["per_side"])


def jackknife(
    sums: dict[str, torch.Tensor], r_edges: ArrayLike, box_sizes: Sequence[float], per_side: int
) -> dict[str, torch.Tensor]:
    """Scaled deviations from the sums of the regions, see the head of this module.

    Parameters
    ----------
    sums : dict
        "DD" and any of the pair sums "A_c, A_s, E_cc, E_cs, E_ss": (n, n_regions, n_bins), all boxes together. With
        "N", the numbers of galaxies (n, n_regions, n_boxes), there are also deviations of xi.
    r_edges : (n_bins + 1,) [Mpc/h]
    box_sizes : (n_boxes,) [Mpc/h]
    per_side : int
        Regions along each axis.

    Returns
    -------
    dict of "xi" and the pair sums' names to tensors (n, n_regions, n_bins)
        Those of the ratios of the pair sums to DD.
    """
    # Bounds that counts have: where hardly a pair is expected, sums of a few modes may break them, and ratios run away.
    pairs = sums["DD"].clamp(min=torch.finfo(torch.float64).tiny)
    n_regions = pairs.shape[1]
    scale = -((n_regions / (n_regions - 1.0)) ** 0.5)
    total = pairs.sum(dim=1, keepdim=True)
    values = {}
    if "N" in sums:
        numbers = sums["N"]
        whole = numbers.sum(dim=1, keepdim=True)
        sizes = torch.as_tensor(box_sizes, dtype=torch.float64)
        random = whole**2 / sizes**3  # (n, 1, n_boxes), pairs a volume of separations
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
