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

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike

from iaemu.artifact import ArtifactError, check_shapes, require, write_artifact
from iaemu.binning import Rebinning, check_edges
from iaemu.halomodel.modes import ExpectedCounts
from iaemu.halomodel.occupation import mean_ncen, mean_nsat
from iaemu.halomodel.rank_sums import RankSums
from iaemu.models.pair_sums import PairSumModel, PairSums
from iaemu.models.radial import LAYOUT as RADIAL_LAYOUT
from iaemu.models.radial import RadialTables, StrengthResponse
from iaemu.packing import unpack_rows, unpack_symmetric
from iaemu.parameters import OCCUPATION_PARAMETERS, PARAMETERS, Support, as_theta

#: Number of binnings whose summed tables are kept in memory.
_MAX_BINNINGS = 8

#: Columns of the one-halo table: DD, S_omega (axis of the central, or of either satellite) and S_eta of pairs of
#: central and satellite, and of pairs of satellites.
ONE_HALO_COLUMNS = ("cs_DD", "cs_S_omega", "cs_S_eta", "ss_DD", "ss_S_omega", "ss_S_eta")
_N_SUMS = 3

#: What the ranks of satellites add to sums over pairs in different hosts: DD, S_omega with the axis of the satellite or
#: of its partner, and S_eta.
RANK_PARTS = ("DD", "own_axis", "partner_axis", "S_eta")


class TabulatedModel(PairSumModel):
    """The tables: the expected xi, omega and eta of halotools-IA mocks on given halo catalogues.

    They are loaded with ``iaemu.load("tables-pm160")``, made by ``iaemu train tabulate``, and computed in float64. They
    predict by default in the bins between nodes.

    The attributes are those of :class:`iaemu.ForwardModel`.

    Parameters
    ----------
    tensors : dict of str to array
        The contents of a file.
    metadata : dict
    path : path-like
        Named in messages.

    Raises
    ------
    ArtifactError
        Arrays are missing, or do not fit together.
    """

    kind = "tables"
    shipped = "tables-pm160.safetensors"
    _n_golden = 3
    _golden_tolerance = (1e-8, 1e-6)

    def __init__(self, tensors: dict[str, np.ndarray], metadata: dict, path: Any = "tables"):
        require(tensors, (name for name in self._layout(1) if name not in RADIAL_LAYOUT), path)
        self.metadata = metadata
        self.support = Support.from_dict(metadata["support"])
        self.nodes = check_edges(tensors["r_edges"])
        metadata["box_volumes"]  # a missing entry raises KeyError here, not at the first prediction
        self._tensors = tensors
        self._counts = ExpectedCounts(tensors["node_log_mass"], tensors["node_count"])

        def double(name):
            return torch.as_tensor(tensors[name].astype(np.float64))

        # <Ncen> and <Nsat> at the mass nodes, times these, are the amplitudes of the modes.
        self._to_central, self._to_satellite = double("central_modes"), double("satellite_modes")
        n_modes = self._to_central.shape[1] + self._to_satellite.shape[1]
        self._two_halo = torch.stack(  # (3, n_bins, n_modes, n_modes)
            [
                unpack_symmetric(double("two_halo_DD"), n_modes),
                double("two_halo_S_omega"),
                unpack_symmetric(double("two_halo_S_eta"), n_modes),
            ]
        )
        n_bins = len(self.nodes) - 1
        one_halo = unpack_rows(tensors["one_halo.values"], tensors["one_halo.n_bins"], n_bins)
        near = tensors["one_halo.log_mass"], tensors["one_halo.n_rows"]
        central, pairs = (one_halo[..., part].reshape(len(one_halo), -1) for part in (slice(0, 3), slice(3, 6)))
        self._central_satellite, self._satellite_pair = RankSums(*near, central, 1), RankSums(*near, pairs, 2)
        # (n_combinations, 4, n_partners, n_bins): sums of combinations of ranks with partners
        self._response = double("ranks.response")
        self._ranks = RankSums(tensors["ranks.log_mass"], tensors["ranks.n_rows"], tensors["ranks.values"], 1)
        self._n_partners = tuple(int(n) for n in tensors["ranks.n_partners"])
        columns = self._response.shape[0] + self._n_partners[2]
        if self._ranks.values.shape[1] != columns or self._response.shape[2] != sum(self._n_partners):
            raise ArtifactError(
                f"{path}: the sums over ranks have {self._ranks.values.shape[1]} columns; expected {columns}, for "
                f"{self._n_partners} partners."
            )
        #: None in tables that earlier versions made, which do not know where satellites are.
        self.radial = None
        if RADIAL_LAYOUT.keys() <= tensors.keys():
            self.radial = RadialTables(tensors, self.nodes)
        self._binned: dict = {}

    # ------------------------------------------------------------------ files

    @classmethod
    def _restore(cls, tensors, metadata, path) -> TabulatedModel:
        return cls(tensors, metadata, path)

    @staticmethod
    def _layout(n_boxes: int) -> dict[str, tuple[int | str, ...]]:
        return {
            "r_edges": ("edges",),
            "node_log_mass": ("nodes",),
            "node_count": (n_boxes, "nodes"),
            "central_modes": ("nodes", "modes of centrals"),
            "satellite_modes": ("nodes", "modes of satellites"),
            "two_halo_DD": ("bins", "pairs of modes"),
            "two_halo_S_omega": ("bins", "modes", "modes"),
            "two_halo_S_eta": ("bins", "pairs of modes"),
            "one_halo.log_mass": ("mass nodes",),
            "one_halo.n_rows": ("mass nodes",),
            "one_halo.n_bins": ("rows",),
            "one_halo.values": ("filled bins", len(ONE_HALO_COLUMNS)),
            "ranks.log_mass": ("rank nodes",),
            "ranks.n_rows": ("rank nodes",),
            "ranks.values": ("rows of ranks", "columns of ranks"),
            "ranks.response": ("combinations", len(RANK_PARTS), "partners", "bins"),
            "ranks.n_partners": (3,),
            **RADIAL_LAYOUT,
        }

    @classmethod
    def _check_layout(cls, metadata, shapes, path) -> None:
        optional = RADIAL_LAYOUT if RADIAL_LAYOUT.keys().isdisjoint(shapes) else ()
        check_shapes(shapes, cls._layout(len(metadata["box_volumes"])), path, optional)

    def _golden(self, theta) -> dict[str, np.ndarray]:
        golden = {name: value.numpy() for name, value in vars(self.sums(theta)).items()}
        # A point has a part in few of the splines. These sums, with different weights, have a part in all.
        for name, table in (
            ("central_satellite", self._central_satellite),
            ("satellite_pair", self._satellite_pair),
            ("ranks", self._ranks),
        ):
            weights = torch.cos(torch.arange(1.0, len(table.values) + 1.0, dtype=torch.float64))
            golden[name] = (weights @ table.values).numpy()
        return golden | ({} if self.radial is None else self.radial.golden())

    def save(self, path: Any) -> None:
        """Write the tables to a file, with golden predictions that are checked when they are loaded.

        Parameters
        ----------
        path : path-like
        """
        write_artifact(path, self.kind, self._tensors, {**self.metadata, "golden": self._new_golden()})

    # ------------------------------------------------------------------ predictions

    def sums(self, theta: Any, r_edges: ArrayLike | None = None, central_weight: Callable | None = None) -> PairSums:
        names = set(theta) if isinstance(theta, Mapping) else np.shape(theta)[-1:]
        without = names in (set(OCCUPATION_PARAMETERS), (len(OCCUPATION_PARAMETERS),))
        theta = as_theta(theta, OCCUPATION_PARAMETERS if without else PARAMETERS).double()
        occupation = theta[..., -len(OCCUPATION_PARAMETERS) :].reshape(-1, len(OCCUPATION_PARAMETERS))
        tables = self._for_bins(r_edges)
        far, near = self._mean_occupations(occupation), self._mean_occupations(occupation, self._central_satellite)
        # The weight applies to orientations of centrals. In DD, and as the other member of a pair, it is <Ncen> alone.
        weigh = central_weight or torch.ones_like
        central, satellite = far[0] @ self._to_central, far[1] @ self._to_satellite
        oriented = (far[0] * weigh(self._counts.log_mass)) @ self._to_central
        sums = self._number_modes(tables, central, oriented, satellite)
        for name, value in self._rank_responses(tables, occupation, central, oriented, satellite).items():
            sums[name] = sums[name] + value

        n_cen, n_sat, variance = self._counts(occupation)
        n_boxes = n_cen + n_sat
        # halotools normalises by the N^2 of each mock, whose expectation includes the variance of N.
        density = ((n_boxes**2 + variance) / torch.as_tensor(self.box_volumes)).sum(dim=1)[:, None]
        rows, weights = self._central_satellite.weights(near[1])
        cs = self._one_halo(self._central_satellite, rows, weights * near[0][..., None], tables.central_satellite)
        oriented_cs = cs
        if central_weight is not None:
            weights = weights * (near[0] * weigh(self._central_satellite.log_mass))[..., None]
            oriented_cs = self._one_halo(self._central_satellite, rows, weights, tables.central_satellite)
        rows, weights = self._satellite_pair.weights(near[1])
        ss = self._one_halo(self._satellite_pair, rows, weights, tables.satellite_pair)
        return PairSums(
            DD=sums["DD"] + cs[0] + ss[0] + density * tables.missing,
            RR=density * tables.volumes,
            A_c=sums["A_c"] + oriented_cs[1],
            # The axis of a satellite points to its central: (a.r)^2 - 1/3 = 2/3 for each of DD / 2 pairs.
            A_s=sums["A_s"] + cs[0] / 3.0 + ss[1],
            E_cc=sums["E_cc"],
            E_cs=sums["E_cs"] + 0.5 * oriented_cs[2],
            E_ss=sums["E_ss"] + ss[2],
            n_galaxies=n_boxes.mean(dim=1),
            f_sat=n_sat.sum(dim=1) / n_boxes.sum(dim=1),
        )

    def _mean_occupations(
        self, occupation: torch.Tensor, sums: RankSums | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return <Ncen> and <Nsat> at mass nodes: those of sums over ranks, or else those of the modes."""
        log_mass = self._counts.log_mass if sums is None else sums.log_mass
        logMmin, sigma_logM, logM0, logM1, alpha = (column[:, None] for column in occupation.unbind(dim=-1))
        return mean_ncen(log_mass, logMmin, sigma_logM), mean_nsat(log_mass, logM0, logM1, alpha)

    @staticmethod
    def _one_halo(sums: RankSums, rows, weights, values) -> torch.Tensor:
        """Return the three sums of pairs in one host, (3, n, n_bins)."""
        return sums.total(rows, weights, values).reshape(len(rows), values.shape[1] // _N_SUMS, _N_SUMS).movedim(-1, 0)

    @staticmethod
    def _number_modes(tables: _Binned, central, oriented, satellite) -> dict[str, torch.Tensor]:
        """Return the sums over pairs in different hosts for the mean dependence on the ranks."""
        n_c, n_bins = central.shape[1], len(tables.volumes)
        modes = torch.cat([central, satellite], dim=1)
        which = torch.cat([oriented, satellite], dim=1)

        def half(table, other):  # contract the second member: (n, n_bins, n_modes)
            return (other @ table.T).reshape(len(other), n_bins, len(table) // n_bins)

        omega = half(tables.omega, modes) * which[:, None]
        eta_c = half(tables.eta_central, oriented) * oriented[:, None]
        eta_s = half(tables.eta_satellite, satellite) * which[:, None]
        return {
            "DD": (half(tables.pairs, modes) * modes[:, None]).sum(dim=-1),
            "A_c": omega[..., :n_c].sum(dim=-1),
            "A_s": omega[..., n_c:].sum(dim=-1),
            "E_cc": eta_c.sum(dim=-1),
            "E_cs": eta_s[..., :n_c].sum(dim=-1),
            "E_ss": eta_s[..., n_c:].sum(dim=-1),
        }

    def partner_amplitudes(self, occupation: torch.Tensor) -> torch.Tensor:
        """Return the amplitudes of the modes of galaxies with which the ranks of satellites form pairs.

        Parameters
        ----------
        occupation : tensor (n, 5), float64

        Returns
        -------
        tensor (n, n_partners)
            Modes of <Ncen>, of <Nsat>, and of the ranks.
        """
        ncen, nsat = self._mean_occupations(occupation)
        _, ranks = self._rank_amplitudes(occupation)
        n_c, n_s, _ = self._n_partners
        return torch.cat([ncen @ self._to_central[:, :n_c], nsat @ self._to_satellite[:, :n_s], ranks], dim=1)

    def _rank_amplitudes(self, occupation: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the combinations of ranks, (n, n_combinations), and their amplitudes as partners."""
        _, nsat = self._mean_occupations(occupation, self._ranks)
        found = self._ranks.total(*self._ranks.weights(nsat))
        return found[:, : len(self._response)], found[:, len(self._response) :]

    def _rank_responses(self, tables: _Binned, occupation, central, oriented, satellite) -> dict[str, torch.Tensor]:
        """Return what the ranks add to the sums over pairs in different hosts."""
        n_c, n_s, _ = self._n_partners
        combinations, ranks = self._rank_amplitudes(occupation)
        response = (combinations @ tables.response.flatten(start_dim=1)).reshape(
            len(combinations), *tables.response.shape[1:]
        )
        DD, own_axis, partner_axis, eta = response.unbind(dim=1)
        weighted, satellite, ranks = (part[..., None] for part in (oriented[:, :n_c], satellite[:, :n_s], ranks))
        satellites = torch.cat([satellite, ranks], dim=1)
        partners = torch.cat([central[:, :n_c, None], satellites], dim=1)
        # Other pairs are in the response in one order only, but pairs of two ranks in both.
        once = torch.cat([torch.full((n_c + n_s,), 2.0), torch.ones(self._n_partners[2])]).double()[:, None]
        return {
            "DD": (once * partners * DD).sum(dim=1),
            "A_c": (weighted * partner_axis[:, :n_c]).sum(dim=1),
            "A_s": (partners * own_axis).sum(dim=1) + (satellite * partner_axis[:, n_c : n_c + n_s]).sum(dim=1),
            "E_cs": (weighted * eta[:, :n_c]).sum(dim=1),
            "E_ss": (once[n_c:] * satellites * eta[:, n_c:]).sum(dim=1),
        }

    def satellite_parts(
        self,
        occupation: torch.Tensor,
        sums: PairSums,
        r_edges: ArrayLike | None = None,
        central_weight: Callable | None = None,
    ) -> dict[str, torch.Tensor]:
        radial = self._require_radial()
        far, near = self._mean_occupations(occupation), self._mean_occupations(occupation, self._central_satellite)
        weigh = central_weight or torch.ones_like
        central, satellite = far[0] @ self._to_central, far[1] @ self._to_satellite
        oriented = (far[0] * weigh(self._counts.log_mass)) @ self._to_central
        ranked = self._mean_occupations(occupation, radial.far)[1]
        A_s, E_cs, E_ss = radial.of_hosts(ranked, central, oriented, satellite)
        nsat = self._mean_occupations(occupation, radial.near)[1]
        values = self._satellite_pair.values[:, ::_N_SUMS]
        A_pairs, E_pairs = radial.of_pairs(
            nsat, self._satellite_pair.total(*self._satellite_pair.weights(near[1]), values)
        )
        pairs, eta = self._by_node(near).unbind(dim=-1)
        eta = eta * weigh(self._central_satellite.log_mass)[..., None]
        weights = self._rebinning(r_edges)
        # The axis of a satellite points to its central: (a.r)^2 - 1/3 = 2/3 for each of DD / 2 pairs.
        parts = {
            "A_s": (radial.of_central(pairs) / 3.0 + A_s + A_pairs) @ weights,
            "E_cs": (radial.of_central(eta) * 0.5 + E_cs) @ weights,
            "E_ss": (E_ss + E_pairs) @ weights,
        }
        # What does not depend on the radius is known to higher accuracy, and is spread as all satellites are.
        for name in ("A_s", "E_cs"):
            rest = getattr(sums, name) - parts[name].sum(dim=1)
            parts[name] = parts[name] + radial.to_basis[:, :1] * rest[:, None]
        parts["E_ss"][:, 0, 0] = sums.E_ss
        return parts

    def _by_node(self, near: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        """Return DD and S_eta of pairs of satellites with their central, (n, n_mass_nodes, n_bins, 2)."""
        rows, weights = self._central_satellite.weights(near[1])
        values = self._central_satellite.values.reshape(len(self._central_satellite.values), -1, _N_SUMS)
        values = values[:, : self._require_radial().n_near, ::2]
        found = self._central_satellite.by_node(rows, weights * near[0][..., None], values.flatten(start_dim=1))
        return found.unflatten(-1, values.shape[1:])

    def _respond_to_mass(self, found: StrengthResponse, theta, r_edges, of_radius: bool) -> None:
        tables = self._for_bins(r_edges)
        far, near = self._mean_occupations(theta), self._mean_occupations(theta, self._central_satellite)
        modes = far[0][0, :, None] * self._to_central
        satellite = (far[1] @ self._to_satellite)[0]
        n_c = modes.shape[1]
        everything = torch.cat([modes.sum(dim=0), satellite])
        n_bins, n_modes = len(tables.volumes), len(everything)
        by_mode = (tables.omega @ everything).reshape(n_bins, n_modes), (tables.eta_satellite @ satellite)
        to_A_c, to_E_cs = (part.reshape(n_bins, n_modes)[:, :n_c].T for part in by_mode)
        unit = torch.eye(n_c, dtype=torch.float64)
        ranks = self._rank_responses(tables, theta.expand(n_c, -1), unit * 0.0, unit, satellite[None].expand(n_c, -1))
        rows, weights = self._central_satellite.weights(near[1])
        columns = self._central_satellite.by_node(rows, weights * near[0][..., None], tables.central_satellite)[0]
        columns = columns.reshape(len(columns), -1, _N_SUMS)
        far_E, near_E = (modes @ (to_E_cs + ranks["E_cs"]))[:, None], 0.5 * columns[:, None, :, 2]
        if of_radius:
            radial, rebin = self._require_radial(), self._rebinning(r_edges)
            share = radial.to_basis[:, :1]
            by_radius = radial.far_eta_by_central(self._mean_occupations(theta, radial.far)[1]) @ rebin
            by_radius = torch.tensordot(modes[:, : radial.n_central], by_radius, dims=1)
            far_E = by_radius + share * (far_E - by_radius.sum(dim=1, keepdim=True))
            by_radius = radial.by_central_mass(0.5 * self._by_node(near)[0, ..., 1]) @ rebin
            near_E = by_radius + share * (near_E - by_radius.sum(dim=1, keepdim=True))
        found.log_mass = torch.cat([self._counts.log_mass, self._central_satellite.log_mass])
        found.A_c = torch.cat([modes @ (to_A_c + ranks["A_c"]), columns[..., 1]])
        found.E_cs = torch.cat([far_E, near_E])
        found.modes = torch.cat([modes, torch.zeros(len(columns), n_c, dtype=torch.float64)])
        found.E_cc = tables.eta_central.reshape(n_bins, n_c, n_c).clone()

    def expected_centrals(self, theta: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self._counts.log_mass, self._counts.centrals(theta)

    def _for_bins(self, r_edges: ArrayLike | None) -> _Binned:
        """Return the tables summed to these bins, and keep them for later calls."""
        edges = self.nodes if r_edges is None else check_edges(r_edges)
        key = edges.tobytes()
        if key not in self._binned:
            # Tensors made under inference mode could not be used in a later gradient.
            with torch.inference_mode(False), torch.no_grad():
                rebinning = Rebinning.between(self.nodes, edges)
                weights = torch.as_tensor(rebinning.weights)

                def one_halo(values):
                    values = values.reshape(len(values), -1, _N_SUMS)
                    return torch.einsum("kb,rbc->rkc", weights, values).reshape(len(values), -1)

                two_halo = torch.einsum("kb,sbij->skij", weights, self._two_halo)
                n_c = self._to_central.shape[1]
                self._binned[key] = _Binned(
                    _rows(two_halo[0]),
                    _rows(two_halo[1]),
                    _rows(two_halo[2, ..., :n_c, :n_c]),
                    _rows(two_halo[2, ..., n_c:]),
                    self._response @ weights.T,
                    one_halo(self._central_satellite.values),
                    one_halo(self._satellite_pair.values),
                    torch.as_tensor(rebinning.volumes),
                    torch.as_tensor(rebinning.missing),
                )
            while len(self._binned) > _MAX_BINNINGS:
                self._binned.pop(next(iter(self._binned)))
        return self._binned[key]


def _rows(table: torch.Tensor) -> torch.Tensor:
    """Return a table (n_bins, n, m) as one matrix (n_bins n, m)."""
    return table.reshape(-1, table.shape[-1]).contiguous()


class _Binned(NamedTuple):
    """The tables summed to bins; ``volumes`` and ``missing`` as in :class:`iaemu.binning.Rebinning`.

    Two-halo tables are (n_bins x first mode, second mode): of all modes, of centrals, and of all with satellites.
    """

    pairs: torch.Tensor
    omega: torch.Tensor
    eta_central: torch.Tensor
    eta_satellite: torch.Tensor
    response: torch.Tensor
    central_satellite: torch.Tensor
    satellite_pair: torch.Tensor
    volumes: torch.Tensor
    missing: torch.Tensor
