"""TabulatedModel: the exact expectation of the mock model from pair sums tabulated once per halo catalogue.

At fixed occupation, averaged over misalignments,

    omega = q(mu_cen) A_c + q(mu_sat) A_s,    eta = q_c^2 E_cc + 2 q_c q_s E_cs + q_s^2 E_ss,

where A and E do not depend on mu (see :mod:`iaemu.halomodel.alignment`), and every expected pair sum is a weighted sum
over species of tracers, with the mean occupations as weights (see :mod:`iaemu.halomodel.modes`). This is the
calculation of TabCorr (Zheng & Guo 2016, MNRAS 458, 4015; Lange et al. 2019, MNRAS 490, 1870) carried to orientations.
"Exact" is: the ratio of expectations over occupation and orientation at the given catalogues, free of shot and shape
noise; the catalogues' own sample variance remains.
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
from iaemu.prediction import STATISTICS

#: Binnings whose summed tables are kept.
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

#: Blocks of occupations and their kinds: two-halo modes (centrals, satellites, their rank dependence); one-halo
#: pairs, and the slopes of their occupations in log mass within the mass bins.
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
    """Expected pair sums at n parameter points; ordered pairs, all boxes together.

    Divided by ``DD``, ``A`` and ``E`` are the ingredients of omega and eta; 1 + xi = DD / RR.

    Attributes
    ----------
    DD, RR : tensor (n, n_bins)
        Pairs, and pairs of unclustered galaxies.
    A_c, A_s : tensor (n, n_bins)
        Sums of (a.r)^2 - 1/3 over pairs whose first member is a central or a satellite, a its reference axis.
    E_cc, E_cs, E_ss : tensor (n, n_bins)
        Sums of (a1.a2)^2 - 1/3; ``E_cs`` counts one order.
    n_galaxies, f_sat : tensor (n,)
        Galaxies in the mean of the boxes, and the share of satellites.
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
    """Expected xi, omega and eta of halotools-IA mocks, from tables; float64, differentiable, any nested bins.

    Made by ``iaemu-train tabulate``.

    Attributes
    ----------
    binnings : list of one array
        The finest edges; any binning whose edges are among them can be asked for.

    The other attributes are those of :class:`iaemu.models.base.ForwardModel`.
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
        metadata["box_volumes"]  # KeyError here, rather than at the first prediction
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
                    raise ArtifactError(f"{path}: {name} has {n_species} species, the one-halo table {n_rows}.")
        # (mean or slope, n_species, n_bins, columns)
        self._one_halo = torch.as_tensor(unpack_one_halo(tensors, len(self.r_edges) - 1))
        expected = (3, len(self.r_edges) - 1, n_modes, n_modes)
        one_halo = (2, blocks["central_satellite"].n_amplitudes, expected[1], len(ONE_HALO_COLUMNS))
        for name, table, shape in (("two-halo", self._two_halo, expected), ("one-halo", self._one_halo, one_halo)):
            if tuple(table.shape) != shape:
                raise ArtifactError(f"{path}: the {name} table has shape {tuple(table.shape)}, {shape} is expected.")
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
        """Write the tables with golden predictions that :meth:`load` checks.

        Parameters
        ----------
        path : path-like
        """
        write_artifact(path, self.kind, self._tensors, {**self.metadata, "golden": self._new_golden()})

    # ------------------------------------------------------------------ predictions

    def sums(self, theta: Any, r_edges: ArrayLike | None = None, central_weight: Callable | None = None) -> PairSums:
        """Expected pair sums at a batch of points.

        Parameters
        ----------
        theta : (n, 7) or (n, 5) array or tensor, or mapping
            All parameters in the order of ``PARAMETERS``; (n, 5) without the alignment parameters, on which the sums
            do not depend.
        r_edges : array (n_bins + 1,), optional
            Edges [Mpc/h]; must nest in ``self.r_edges``. BinningError otherwise.
        central_weight : callable, optional
            From host masses (n_masses,) [log10 Msun/h] to weights (n, n_masses) of the orientation of a central, in
            ``A_c``, ``E_cc`` (twice) and ``E_cs``; by default 1. See :mod:`iaemu.models.laws`.

        Returns
        -------
        PairSums
        """
        names = set(theta) if isinstance(theta, Mapping) else np.shape(theta)[-1:]
        without = names in (set(OCCUPATION_PARAMETERS), (len(OCCUPATION_PARAMETERS),))
        theta = as_theta(theta, OCCUPATION_PARAMETERS if without else PARAMETERS).double()
        occupation_theta = theta[..., -len(OCCUPATION_PARAMETERS) :].reshape(-1, len(OCCUPATION_PARAMETERS))
        two_halo, one_halo, volumes = self._for_bins(r_edges)

        weight = None if central_weight is None else central_weight(self._occupations.log_mass)
        amplitudes = self._occupations.amplitudes(occupation_theta, weight)
        # What orientations of centrals count with; in DD, and as the other member of a pair, they count with <Ncen>.
        oriented = "" if weight is None else "weighted_"
        central, oriented_central = amplitudes["central"], amplitudes[f"{oriented}central"]
        satellite = torch.cat([amplitudes["satellite"], amplitudes["satellite_rank"]], dim=1)
        n_c = central.shape[1]
        modes = torch.cat([central, satellite], dim=1)
        # (stat, bin, row, column) contracted over columns, and over the rows of centrals and of satellites apart.
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
        # halotools normalises by each mock's own N^2, so its expectation includes the variance of N.
        mean_density = ((n_boxes**2 + variance) / torch.as_tensor(self.box_volumes)).sum(dim=1)
        return PairSums(
            DD=DD + cs[0] + ss[0],
            RR=mean_density[:, None] * volumes,
            A_c=omega_c + oriented_cs[1],
            # A satellite's axis is its separation from the central: (a.r)^2 - 1/3 = 2/3 for each of DD / 2 pairs.
            A_s=omega_s + cs[0] / 3.0 + ss[1],
            E_cc=eta_cc,
            E_cs=eta_cs + 0.5 * oriented_cs[2],
            E_ss=eta_ss + ss[2],
            n_galaxies=n_boxes.mean(dim=1),
            f_sat=n_sat.sum(dim=1) / n_boxes.sum(dim=1),
        )

    def central_response(self, theta: torch.Tensor, r_edges: ArrayLike | None = None) -> CentralResponse:
        """The sums at one occupation as functions of a weight of the orientation of centrals by host mass.

        Parameters
        ----------
        theta : (5,) tensor
            Float64, in the order of ``OCCUPATION_PARAMETERS``.
        r_edges
            As in :meth:`sums`.

        Returns
        -------
        CentralResponse
        """
        # Tensors made under inference mode could not take part in a later gradient.
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
        """Expected centrals by the mass of their hosts.

        Parameters
        ----------
        theta : tensor (n, 5), float64

        Returns
        -------
        log_mass : tensor (n_m,) [log10 Msun/h]
        centrals : tensor (n, n_m)
        """
        return self._counts.log_mass, self._counts.centrals(theta)

    def rebin(self, sums: PairSums, r_edges: ArrayLike) -> PairSums:
        """Sums in coarser bins.

        Parameters
        ----------
        sums : PairSums
            In the bins ``self.r_edges``.
        r_edges : array (n_bins + 1,)
            That nest in them [Mpc/h].

        Returns
        -------
        PairSums
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
        """What a prediction says of galaxies, from their pair sums.

        Parameters
        ----------
        sums : PairSums

        Returns
        -------
        dict of "n_gal" [(h/Mpc)^3] and "f_sat" to tensor (n,)
        """
        return {"n_gal": sums.n_galaxies / float(self.box_volumes.mean()), "f_sat": sums.f_sat}

    def _for_bins(self, r_edges):
        """Tables summed to the bins asked for, kept for the next call."""
        edges = self.r_edges if r_edges is None else check_edges(r_edges)
        key = edges.tobytes()
        if key not in self._binned:
            # Tensors made under inference mode could not take part in a later gradient.
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
    """Pair sums at one occupation as functions of a weight w(M) of the orientation of centrals; n_m host masses.

    ``A_c`` = w @ ``A_c``; ``E_cs`` = w @ ``E_cs``; ``E_cc`` = c @ ``E_cc`` @ c of each bin, with c = w @ ``modes``.
    What the weight does not enter is in ``sums``.

    Attributes
    ----------
    log_mass : (n_m,) [log10 Msun/h]
    A_c, E_cs : (n_m, n_bins)
    modes : (n_m, n_modes)
    E_cc : (n_bins, n_modes, n_modes)
    sums : PairSums
        With a weight of 1; n = 1.
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
    """xi, omega and eta from pair sums and alignment strengths.

    Parameters
    ----------
    sums : PairSums
    theta : tensor (n, 2 or more)
        ``mu_cen, mu_sat`` in the first columns.
    statistics : sequence of str

    Returns
    -------
    dict of statistic to tensor (n, n_bins)
    """
    values = {"xi": sums.DD / sums.RR - 1.0} if "xi" in statistics else {}
    oriented = orientation_statistics(theta[:, :2], vars(sums), statistics)
    return values | {name: value / sums.DD for name, value in oriented.items()}


def pack_one_halo(sums: np.ndarray) -> dict[str, np.ndarray]:
    """One-halo sums without the empty bins beyond each species' largest pair.

    Parameters
    ----------
    sums : array (2, n_species, n_bins, n_columns)

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
    """The inverse of :func:`pack_one_halo`.

    Parameters
    ----------
    tensors : dict of str to array
    n_bins : int

    Returns
    -------
    array (2, n_species, n_bins, n_columns), float64
    """
    values, n_used = tensors["one_halo.values"], tensors["one_halo.n_bins"]
    if n_used.sum() != len(values) or n_used.max(initial=0) > n_bins:
        raise ArtifactError(f"The one-halo table has {len(values)} rows, {n_used.sum()} are expected.")
    sums = np.zeros((len(n_used), n_bins, *values.shape[1:]))
    sums[np.arange(n_bins) < n_used[:, None]] = values
    return np.moveaxis(sums, -2, 0).copy()


def pack_symmetric(matrices: np.ndarray) -> np.ndarray:
    """Upper triangles of symmetric matrices.

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
        raise ArtifactError(f"A packed table has {packed.shape[-1]} columns, {n * (n + 1) // 2} expected.")
    rows, columns = np.triu_indices(n)
    full = torch.zeros(*packed.shape[:-1], n, n, dtype=packed.dtype)
    full[..., rows, columns] = packed
    full[..., columns, rows] = packed
    return full
