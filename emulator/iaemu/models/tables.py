"""TabulatedModel: the exact expectation of mocks, from pair sums that are tabulated once for a halo catalogue.

At fixed occupation, averaged over misalignments,

    omega = q(mu_cen) A_c + q(mu_sat) A_s,    eta = q_c^2 E_cc + 2 q_c q_s E_cs + q_s^2 E_ss,

where A and E do not depend on mu (see ``iaemu.halomodel.alignment``). Every expected pair sum is a sum over species of
galaxies, weighted with their mean occupations (see ``iaemu.halomodel.modes``). This is the calculation of TabCorr
(Zheng & Guo 2016, MNRAS 458, 4015; Lange et al. 2019, MNRAS 490, 1870), extended to orientations. "Exact" means: the
ratio of expectations over occupation and orientation for the given catalogues, without shot and shape noise. The sample
variance of the catalogues remains.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike

from iaemu.artifact import ArtifactError, check_shapes, require, write_artifact
from iaemu.binning import check_edges, nesting_matrix, shell_volumes
from iaemu.halomodel.alignment import ORIENTATION_INGREDIENTS, orientation_statistics
from iaemu.halomodel.modes import ExpectedCounts, Occupations
from iaemu.models.base import ForwardModel
from iaemu.parameters import OCCUPATION_PARAMETERS, PARAMETERS, Support, as_theta
from iaemu.statistics import STATISTICS

#: Number of binnings whose summed tables are kept in memory.
_MAX_BINNINGS = 8

#: Columns of the one-halo table: pairs of central and satellite, and pairs of satellites.
ONE_HALO_COLUMNS = (
    "cs_DD",
    "cs_S_omega_central",
    "cs_S_eta",
    "ss_DD",
    "ss_S_omega",
    "ss_S_eta",
)


_CENTRAL_COLUMNS, _PAIR_COLUMNS = slice(0, 3), slice(3, 6)

#: Blocks of occupations and their kinds: two-halo modes (of centrals, of satellites, of their dependence on rank),
#: one-halo pairs, and the slopes of the occupations of these pairs in log mass within the mass bins.
_BLOCKS = {
    "central": "central",
    "satellite": "satellite",
    "satellite_rank": "satellite",
    "central_satellite": "central_satellite",
    "satellite_pair": "satellite_pair",
    "central_satellite_slope": "central_satellite",
    "satellite_pair_slope": "satellite_pair",
}


@dataclass
class PairSums:
    """Expected sums over ordered pairs at n parameter points, for all boxes together.

    1 + xi = DD / RR. The ratios of the sums A and E to ``DD`` are the ingredients of omega and eta.

    Attributes
    ----------
    DD, RR : tensor (n, n_bins)
        Number of pairs, and of pairs of unclustered galaxies.
    A_c, A_s : tensor (n, n_bins)
        Sums of (a.r)^2 - 1/3 over pairs whose first member, with reference axis a, is a central or a satellite.
    E_cc, E_cs, E_ss : tensor (n, n_bins)
        Sums of (a1.a2)^2 - 1/3. ``E_cs`` counts each pair in one order only.
    n_galaxies, f_sat : tensor (n,)
        Number of galaxies, averaged over the boxes, and fraction of satellites.
    """

    DD: torch.Tensor
    RR: torch.Tensor
    A_c: torch.Tensor
    A_s: torch.Tensor
    E_cc: torch.Tensor
    E_cs: torch.Tensor
    E_ss: torch.Tensor
    n_galaxies: torch.Tensor
    f_sat: torch.Tensor


class TabulatedModel(ForwardModel):
    """The tables: the expected xi, omega and eta of halotools-IA mocks on given halo catalogues.

    They are loaded with ``iaemu.load("tables-pm160")``, made by ``iaemu train tabulate``, and computed in float64.

    Attributes
    ----------
    binnings : list of one array
        The finest edges [Mpc/h]; bins whose edges are all among them can be predicted.

    The other attributes are those of :class:`iaemu.ForwardModel`.
    """

    kind = "tables"
    shipped = "tables-pm160.safetensors"
    _at_once = 16
    _n_golden = 3
    _golden_tolerance = (1e-8, 1e-6)
    _in_double = True
    factorises = True

    def __init__(self, tensors: dict[str, np.ndarray], metadata: dict, path: Any = "tables"):
        tables = ("two_halo_DD", "two_halo_S_omega", "two_halo_S_eta", "one_halo.values", "one_halo.n_bins")
        require(tensors, ("r_edges", "node_log_mass", "node_count", *tables), path)
        self.metadata = metadata
        self.support = Support.from_dict(metadata["support"])
        self.binnings = [check_edges(tensors["r_edges"])]
        metadata["box_volumes"]  # a missing entry raises KeyError here, not at the first prediction
        self._tensors = tensors
        self._counts = ExpectedCounts(tensors["node_log_mass"], tensors["node_count"])
        self._occupations = Occupations.from_arrays(_BLOCKS, tensors)

        def double(name):
            return torch.as_tensor(tensors[name].astype(np.float64))

        blocks = self._occupations.blocks
        n_modes = sum(blocks[name].n_amplitudes for name in ("central", "satellite", "satellite_rank"))
        self._two_halo = torch.stack(  # (3, n_bins, n_modes, n_modes)
            [
                _unpack_symmetric(double("two_halo_DD"), n_modes),
                double("two_halo_S_omega"),
                _unpack_symmetric(double("two_halo_S_eta"), n_modes),
            ]
        )
        for name, kind in _BLOCKS.items():
            if kind in ("central_satellite", "satellite_pair"):
                n_species, n_rows = blocks[name].n_amplitudes, len(tensors["one_halo.n_bins"])
                if n_species != n_rows:
                    raise ArtifactError(f"{path}: {name} has {n_species} species, but the one-halo table {n_rows}.")
        # (mean or slope, n_species, n_bins, columns)
        self._one_halo = torch.as_tensor(unpack_one_halo(tensors, len(self.r_edges) - 1))
        expected = (3, len(self.r_edges) - 1, n_modes, n_modes)
        one_halo = (2, blocks["central_satellite"].n_amplitudes, expected[1], len(ONE_HALO_COLUMNS))
        for name, table, shape in (("two-halo", self._two_halo, expected), ("one-halo", self._one_halo, one_halo)):
            if tuple(table.shape) != shape:
                raise ArtifactError(f"{path}: the {name} table has shape {tuple(table.shape)}; expected {shape}.")
        self._binned: dict = {}

    # ------------------------------------------------------------------ files

    @classmethod
    def _restore(cls, tensors, metadata, path) -> TabulatedModel:
        return cls(tensors, metadata, path)

    @classmethod
    def _check_layout(cls, metadata, shapes, path) -> None:
        blocks, optional = Occupations.layout(_BLOCKS)
        wanted = {
            "r_edges": ("edges",),
            "node_log_mass": ("nodes",),
            "node_count": (len(metadata["box_volumes"]), "nodes"),
            "two_halo_DD": ("bins", "pairs of modes"),
            "two_halo_S_omega": ("bins", "modes", "modes"),
            "two_halo_S_eta": ("bins", "pairs of modes"),
            "one_halo.values": ("filled bins", 2, len(ONE_HALO_COLUMNS)),
            "one_halo.n_bins": ("pairs in one host",),
        }
        check_shapes(shapes, {**wanted, **blocks}, path, optional)

    def _golden(self, theta) -> dict[str, np.ndarray]:
        return {name: value.numpy() for name, value in vars(self.sums(theta)).items()}

    def save(self, path: Any) -> None:
        """Write the tables to a file, with golden predictions that are checked when they are loaded.

        Parameters
        ----------
        path : path-like
        """
        write_artifact(path, self.kind, self._tensors, {**self.metadata, "golden": self._new_golden()})

    # ------------------------------------------------------------------ predictions

    def sums(self, theta: Any, r_edges: ArrayLike | None = None, central_weight: Callable | None = None) -> PairSums:
        """Return the expected pair sums at a batch of points.

        Parameters
        ----------
        theta : array or tensor (n, 7) or (n, 5), or mapping
            All parameters in the order of ``PARAMETERS``, or only those of the occupation: the sums do not depend on
            the strengths.
        r_edges : array (n_bins + 1,), optional
            Edges of the bins [Mpc/h], all among ``self.r_edges``, which are the default.
        central_weight : callable, optional
            Maps host masses (n_masses,) [log10 Msun/h] to weights (n, n_masses) of the orientation of a central, in
            ``A_c``, ``E_cc`` (twice) and ``E_cs``; by default 1. Used by :class:`iaemu.MassDependentModel`.

        Returns
        -------
        PairSums

        Raises
        ------
        ValueError
            A parameter is wrong. It is an :class:`iaemu.binning.BinningError` if an edge is not among ``self.r_edges``.
        """
        names = set(theta) if isinstance(theta, Mapping) else np.shape(theta)[-1:]
        without = names in (set(OCCUPATION_PARAMETERS), (len(OCCUPATION_PARAMETERS),))
        theta = as_theta(theta, OCCUPATION_PARAMETERS if without else PARAMETERS).double()
        occupation_theta = theta[..., -len(OCCUPATION_PARAMETERS) :].reshape(-1, len(OCCUPATION_PARAMETERS))
        two_halo, one_halo, volumes = self._for_bins(r_edges)

        weight = None if central_weight is None else central_weight(self._occupations.log_mass)
        amplitudes = self._occupations.amplitudes(occupation_theta, weight)
        # The weight applies to orientations of centrals. In DD, and as the other member of a pair, it is <Ncen> alone.
        oriented = "" if weight is None else "weighted_"
        central, oriented_central = amplitudes["central"], amplitudes[f"{oriented}central"]
        satellite = torch.cat([amplitudes["satellite"], amplitudes["satellite_rank"]], dim=1)
        n_c = central.shape[1]
        modes = torch.cat([central, satellite], dim=1)
        # (stat, bin, row, column) contracted over columns, then over the rows of centrals and of satellites separately.
        half = torch.einsum("sbij,nj->snbi", two_halo[:2], modes)
        DD = torch.einsum("nbi,ni->nb", half[0], modes)
        omega_c = torch.einsum("nbi,ni->nb", half[1, ..., :n_c], oriented_central)
        omega_s = torch.einsum("nbi,ni->nb", half[1, ..., n_c:], satellite)
        half_c = torch.einsum("bij,nj->nbi", two_halo[2, :, :n_c, :n_c], oriented_central)
        half_s = torch.einsum("bij,nj->nbi", two_halo[2, :, :, n_c:], satellite)
        eta_cc = torch.einsum("nbi,ni->nb", half_c, oriented_central)
        eta_cs = torch.einsum("nbi,ni->nb", half_s[..., :n_c], oriented_central)
        eta_ss = torch.einsum("nbi,ni->nb", half_s[..., n_c:], satellite)

        def one_halo_pairs(kind, columns):
            return torch.einsum("nk,kbc->cnb", amplitudes[kind], one_halo[0][..., columns]) + torch.einsum(
                "nk,kbc->cnb", amplitudes[f"{kind}_slope"], one_halo[1][..., columns]
            )

        cs = one_halo_pairs("central_satellite", _CENTRAL_COLUMNS)
        oriented_cs = one_halo_pairs("weighted_central_satellite", _CENTRAL_COLUMNS) if oriented else cs
        ss = one_halo_pairs("satellite_pair", _PAIR_COLUMNS)
        n_cen, n_sat, variance = self._counts(occupation_theta)
        n_boxes = n_cen + n_sat
        # halotools normalises by the N^2 of each mock, whose expectation includes the variance of N.
        mean_density = ((n_boxes**2 + variance) / torch.as_tensor(self.box_volumes)).sum(dim=1)
        return PairSums(
            DD=DD + cs[0] + ss[0],
            RR=mean_density[:, None] * volumes,
            A_c=omega_c + oriented_cs[1],
            # The axis of a satellite points to its central: (a.r)^2 - 1/3 = 2/3 for each of DD / 2 pairs.
            A_s=omega_s + cs[0] / 3.0 + ss[1],
            E_cc=eta_cc,
            E_cs=eta_cs + 0.5 * oriented_cs[2],
            E_ss=eta_ss + ss[2],
            n_galaxies=n_boxes.mean(dim=1),
            f_sat=n_sat.sum(dim=1) / n_boxes.sum(dim=1),
        )

    def central_response(self, theta: torch.Tensor, r_edges: ArrayLike | None = None) -> CentralResponse:
        """Return the pair sums at one occupation as functions of a weight of the orientations of centrals.

        Parameters
        ----------
        theta : tensor (5,), float64
            In the order of ``OCCUPATION_PARAMETERS``.
        r_edges
            See :meth:`sums`.

        Returns
        -------
        CentralResponse
        """
        # Tensors made under inference mode could not be used in a later gradient.
        with torch.inference_mode(False), torch.no_grad():
            two_halo, one_halo, _ = self._for_bins(r_edges)
            amplitudes = self._occupations.amplitudes(theta[None])
            satellite = torch.cat([amplitudes["satellite"], amplitudes["satellite_rank"]], dim=1)[0]
            n_c = amplitudes["central"].shape[1]
            entries = self._occupations.central_entries(theta)

            mass, species, value = entries["central"]
            log_mass = self._occupations.log_mass
            modes = torch.zeros(len(log_mass), n_c, dtype=torch.float64)
            to_modes = self._occupations.matrix("central")
            assert to_modes is not None
            modes.index_add_(0, mass, value[:, None] * to_modes[species])
            everything = torch.cat([amplitudes["central"][0], satellite])
            A_c = modes @ torch.einsum("bij,j->ib", two_halo[1, :, :n_c], everything)
            E_cs = modes @ torch.einsum("bij,j->ib", two_halo[2, :, :n_c, n_c:], satellite)
            for name, table in (("central_satellite", one_halo[0]), ("central_satellite_slope", one_halo[1])):
                mass, species, value = entries[name]
                columns = value[:, None, None] * table[species][..., _CENTRAL_COLUMNS]
                A_c.index_add_(0, mass, columns[..., 1])
                E_cs.index_add_(0, mass, 0.5 * columns[..., 2])
            E_cc = two_halo[2, :, :n_c, :n_c].clone()
            return CentralResponse(log_mass, A_c, E_cs, modes, E_cc, self.sums(theta[None], r_edges))

    def expected_centrals(self, theta: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the expected numbers of centrals by host mass.

        Parameters
        ----------
        theta : tensor (n, 5), float64
            In the order of ``OCCUPATION_PARAMETERS``.

        Returns
        -------
        log_mass : tensor (n_masses,) [log10 Msun/h]
        centrals : tensor (n, n_masses)
        """
        return self._counts.log_mass, self._counts.centrals(theta)

    def rebin(self, sums: PairSums, r_edges: ArrayLike) -> PairSums:
        """Return pair sums in coarser bins.

        Parameters
        ----------
        sums : PairSums
            Sums in the bins ``self.r_edges``.
        r_edges : array (n_bins + 1,)
            Edges of the coarser bins [Mpc/h], all among ``self.r_edges``.

        Returns
        -------
        PairSums

        Raises
        ------
        iaemu.binning.BinningError
            An edge is not among ``self.r_edges``.
        """
        nesting = torch.as_tensor(nesting_matrix(self.r_edges, r_edges))
        binned = ("DD", "RR", "A_c", "A_s", "E_cc", "E_cs", "E_ss")
        return replace(sums, **{name: getattr(sums, name) @ nesting.T for name in binned})

    def _predict(self, theta, bins, names) -> dict[str, torch.Tensor]:
        sums = self.sums(theta, bins)
        return correlations(sums, theta, names) | self.counts(sums)

    def _ingredients_at(self, theta, bins, names) -> dict[str, torch.Tensor]:
        sums = self.sums(theta, bins)
        ingredients = {"xi": sums.DD / sums.RR - 1.0} if "xi" in names else {}
        for statistic, parts in ORIENTATION_INGREDIENTS.items():
            if statistic in names:
                ingredients |= {name: getattr(sums, name) / sums.DD for name in parts}
        return ingredients | self.counts(sums)

    def counts(self, sums: PairSums) -> dict[str, torch.Tensor]:
        """Return number density and satellite fraction of the galaxies, from their pair sums.

        Parameters
        ----------
        sums : PairSums

        Returns
        -------
        dict of "n_gal" [(h/Mpc)^3] and "f_sat" to tensor (n,)
        """
        return {"n_gal": sums.n_galaxies / float(self.box_volumes.mean()), "f_sat": sums.f_sat}

    def _for_bins(self, r_edges):
        """Return the tables summed to these bins, and keep them for later calls."""
        edges = self.r_edges if r_edges is None else check_edges(r_edges)
        key = edges.tobytes()
        if key not in self._binned:
            # Tensors made under inference mode could not be used in a later gradient.
            with torch.inference_mode(False), torch.no_grad():
                nesting = torch.as_tensor(nesting_matrix(self.r_edges, edges))
                self._binned[key] = (
                    torch.einsum("kb,sbij->skij", nesting, self._two_halo),
                    torch.einsum("kb,mnbc->mnkc", nesting, self._one_halo),
                    torch.as_tensor(shell_volumes(edges)),
                )
            while len(self._binned) > _MAX_BINNINGS:
                self._binned.pop(next(iter(self._binned)))
        return self._binned[key]


@dataclass
class CentralResponse:
    """Pair sums at one occupation as functions of a weight w(M) of the orientations of centrals, at n_m host masses.

    With the attributes below, the sums for a weight w are ``w @ A_c``, ``w @ E_cs`` and, in each bin, ``c @ E_cc @ c``
    where ``c = w @ modes``.

    Attributes
    ----------
    log_mass : tensor (n_m,)
        Host masses [log10 Msun/h].
    A_c, E_cs : tensors (n_m, n_bins)
    modes : tensor (n_m, n_modes)
    E_cc : tensor (n_bins, n_modes, n_modes)
    sums : PairSums
        Sums with a weight of 1, of which the others do not depend on w; n = 1.
    """

    log_mass: torch.Tensor
    A_c: torch.Tensor
    E_cs: torch.Tensor
    modes: torch.Tensor
    E_cc: torch.Tensor
    sums: PairSums


def correlations(
    sums: PairSums, theta: torch.Tensor, statistics: Sequence[str] = STATISTICS
) -> dict[str, torch.Tensor]:
    """Return xi, omega and eta from pair sums and alignment strengths.

    Parameters
    ----------
    sums : PairSums
    theta : tensor (n, 2 or more)
        ``mu_cen`` and ``mu_sat`` are the first columns.
    statistics : sequence of str

    Returns
    -------
    dict of statistic to tensor (n, n_bins)
    """
    values = {"xi": sums.DD / sums.RR - 1.0} if "xi" in statistics else {}
    oriented = orientation_statistics(theta[:, :2], vars(sums), statistics)
    return values | {name: value / sums.DD for name, value in oriented.items()}


def pack_one_halo(sums: np.ndarray) -> dict[str, np.ndarray]:
    """Return arrays for a file with the one-halo sums up to the largest separation of each species.

    Parameters
    ----------
    sums : array (2, n_species, n_bins, n_columns)
        Sums and their slopes.

    Returns
    -------
    dict of str to array
    """
    filled = np.any(sums != 0, axis=(0, 3))
    n_bins = np.where(filled.any(axis=1), filled.shape[1] - np.argmax(filled[:, ::-1], axis=1), 0)
    used = np.arange(filled.shape[1]) < n_bins[:, None]
    values = np.moveaxis(sums, 0, -2)[used]  # (n_used, 2, n_columns)
    return {"one_halo.values": values.astype(np.float32), "one_halo.n_bins": n_bins.astype(np.int16)}


def unpack_one_halo(tensors: dict[str, np.ndarray], n_bins: int) -> np.ndarray:
    """Return the one-halo sums from the arrays of :func:`pack_one_halo`.

    Parameters
    ----------
    tensors : dict of str to array
    n_bins : int

    Returns
    -------
    array (2, n_species, n_bins, n_columns), float64

    Raises
    ------
    ArtifactError
        The arrays do not fit together.
    """
    values, n_used = tensors["one_halo.values"], tensors["one_halo.n_bins"]
    if n_used.sum() != len(values) or n_used.max(initial=0) > n_bins:
        raise ArtifactError(f"The one-halo table has {len(values)} rows; expected {n_used.sum()}.")
    sums = np.zeros((len(n_used), n_bins, *values.shape[1:]))
    sums[np.arange(n_bins) < n_used[:, None]] = values
    return np.moveaxis(sums, -2, 0).copy()


def pack_symmetric(matrices: np.ndarray) -> np.ndarray:
    """Return the upper triangles of symmetric matrices.

    Parameters
    ----------
    matrices : array (..., n, n)

    Returns
    -------
    array (..., n (n + 1) / 2)
    """
    rows, columns = np.triu_indices(matrices.shape[-1])
    return 0.5 * (matrices[..., rows, columns] + matrices[..., columns, rows])


def _unpack_symmetric(packed: torch.Tensor, n: int) -> torch.Tensor:
    if packed.shape[-1] != n * (n + 1) // 2:
        raise ArtifactError(f"A packed table has {packed.shape[-1]} columns; expected {n * (n + 1) // 2}.")
    rows, columns = np.triu_indices(n)
    full = torch.zeros(*packed.shape[:-1], n, n, dtype=packed.dtype)
    full[..., rows, columns] = packed
    full[..., columns, rows] = packed
    return full
