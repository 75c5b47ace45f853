"""Pair sums by the distance of satellites from the centre of their host, for strengths that depend on it.

The part of tables that :mod:`iaemu_training.tables.radial` makes. Without the dependence the sums are those of
:class:`iaemu.models.tables.PairSums`, which this part does not change.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch

from iaemu.artifact import ArtifactError
from iaemu.halomodel.radial import N_ONE, N_TWO, RADII, between_radii, pair_matrices, to_basis
from iaemu.halomodel.rank_sums import RankSums
from iaemu.observables.projected import Matrices
from iaemu.packing import unpack_rows, unpack_symmetric

#: Points in a bin at which the radius of a satellite is evaluated, for pairs with its central.
_IN_BIN = 8

#: Columns of the sums over pairs of satellites of one host: DD, S_omega by function, S_eta by pair of functions.
NEAR_COLUMNS = 1 + N_ONE + N_TWO * (N_TWO + 1) // 2

_IN_HALF = ("near_values", "far_values", "far_omega", "far_eta_central", "far_eta_satellite")

#: Sizes of the tensors by name, for all files.
LAYOUT: dict[str, tuple[int | str, ...]] = {
    "radial.profile": (len(RADII),),
    "radial.basis": (len(RADII), N_ONE),
    "radial.virial_radius": ("mass nodes",),
    "radial.near_log_mass": ("near nodes",),
    "radial.near_n_rows": ("near nodes",),
    "radial.near_n_bins": ("near rows",),
    "radial.near_values": ("near filled", NEAR_COLUMNS),
    "radial.far_log_mass": ("far nodes",),
    "radial.far_n_rows": ("far nodes",),
    "radial.far_values": ("far rows", "far combinations"),
    "radial.far_omega": (N_ONE - 1, "far combinations", "far partners", "bins"),
    "radial.far_eta_central": (N_ONE - 1, "far combinations", "far centrals", "bins"),
    "radial.far_eta_satellite": ("bins", "far pairs"),
    # These are in half precision, in units of their scales.
    **{f"radial.{name}_scale": (1,) for name in _IN_HALF},
}


@dataclass
class StrengthResponse:
    """Pair sums at one occupation as functions of weights of the orientations of galaxies.

    Centrals have the weights w at n_m host masses, and satellites the weights v at n_v distances from the centre of
    their host; n_m or n_v is 1 if one weight holds for all. Then the sums are ``w @ A_c``, ``v @ A_s``,
    ``w . E_cs . v``, ``c . E_cc . c`` where ``c = w @ modes``, and ``s . E_ss . s`` where ``s = v @ to_basis``.

    Attributes
    ----------
    log_mass : tensor (n_m,), or None
        Host masses [log10 Msun/h]; None if one weight holds for all.
    A_c : tensor (n_m, n_bins)
    A_s : tensor (n_v, n_bins)
    E_cs : tensor (n_m, n_v, n_bins)
    modes : tensor (n_m, n_modes)
    E_cc : tensor (n_bins, n_modes, n_modes)
    E_ss : tensor (n_functions, n_functions, n_bins)
    to_basis : tensor (n_v, n_functions)
    xi : tensor (1, n_bins)
    pairs : tensor (1, n_bins)
        Expected number of ordered pairs in all halo catalogues, by which the sums are divided.
    n_gal, f_sat : float
        See :class:`iaemu.Prediction`.
    """

    log_mass: torch.Tensor | None
    A_c: torch.Tensor
    A_s: torch.Tensor
    E_cs: torch.Tensor
    modes: torch.Tensor
    E_cc: torch.Tensor
    E_ss: torch.Tensor
    to_basis: torch.Tensor
    xi: torch.Tensor
    pairs: torch.Tensor
    n_gal: float
    f_sat: float

    def projected(self, matrices: Matrices) -> StrengthResponse:
        """Return the response of projected statistics, given that of the sums between nodes.

        Parameters
        ----------
        matrices : Matrices

        Returns
        -------
        StrengthResponse
            ``xi`` is w_gg, ``A_c`` and ``A_s`` are the parts of w_g+, and ``pairs`` are 1. Orientation-orientation sums
            are 0.
        """
        of_xi, of_omega = (torch.as_tensor(matrix.T.copy()) for matrix in (matrices.of_xi, matrices.of_omega))
        A_c, A_s = ((A * (1.0 + self.xi) / self.pairs) @ of_omega for A in (self.A_c, self.A_s))
        n_rp = A_c.shape[1]
        return replace(
            self,
            A_c=A_c,
            A_s=A_s,
            E_cs=self.E_cs.new_zeros(*self.E_cs.shape[:2], n_rp),
            E_cc=self.E_cc.new_zeros(n_rp, *self.E_cc.shape[1:]),
            E_ss=self.E_ss.new_zeros(*self.E_ss.shape[:2], n_rp),
            xi=self.xi @ of_xi,
            pairs=self.pairs.new_ones(1, n_rp),
        )


def weighted_by_radius(
    parts: Mapping[str, torch.Tensor], factors: torch.Tensor, to_basis: torch.Tensor
) -> dict[str, torch.Tensor]:
    """Return orientation sums for factors of satellites that depend on their radius.

    Parameters
    ----------
    parts : mapping of str to tensor
        Some of "A_s" and "E_cs" (n, n_radii, n_bins), and "E_ss" (n, n_functions, n_functions, n_bins).
    factors : tensor (n, n_radii)
    to_basis : tensor (n_radii, n_functions)

    Returns
    -------
    dict of str to tensor (n, n_bins)
    """
    s = factors @ to_basis[:, :N_TWO]
    return {
        name: torch.einsum("nk,nl,nklb->nb", s, s, part)
        if name == "E_ss"
        else torch.einsum("ni,nib->nb", factors, part)
        for name, part in parts.items()
    }


class RadialTables:
    """The tensors of a file, and the sums that follow from them.

    Parameters
    ----------
    tensors : dict of str to array
    nodes : array (n_nodes,)
        Edges of the bins [Mpc/h].

    Raises
    ------
    ArtifactError
        The tensors do not fit together.

    Attributes
    ----------
    profile : tensor (n_radii,)
        Share of the satellites at each radius, in the mean over all hosts.
    basis, to_basis : tensor (n_radii, N_ONE)
        The functions of :func:`iaemu.halomodel.radial.strength_basis`, and the matrix that projects factors onto them.
    near : RankSums
        Sums over pairs of satellites of one host: DD, and with the functions. The dependence on mass is coarse.
    n_near : int
        Number of bins up to the largest separation in one host.
    far : RankSums
        Combinations of the satellites by host mass and rank, in pairs of different hosts.
    """

    def __init__(self, tensors: dict[str, np.ndarray], nodes: np.ndarray):
        self._tensors = {name: tensors[name] for name in LAYOUT}

        def double(name):
            return torch.as_tensor(np.asarray(tensors[f"radial.{name}"], dtype=np.float64))

        def scaled(name):
            return double(name) * double(f"{name}_scale")

        self.profile, self.basis = double("profile"), double("basis")
        self.to_basis = torch.as_tensor(to_basis(tensors["radial.basis"], tensors["radial.profile"]))
        self._virial_radius = double("virial_radius").numpy()
        n_used = tensors["radial.near_n_bins"]
        self.n_near = int(n_used.max(initial=1))
        values = torch.as_tensor(unpack_rows(scaled("near_values").numpy(), n_used, self.n_near))
        near = tensors["radial.near_log_mass"], tensors["radial.near_n_rows"]
        self.near = RankSums(*near, values.flatten(start_dim=1).numpy(), 2)
        self._nodes, self.n_bins = nodes, len(nodes) - 1
        self._far_omega, self._far_eta_central = scaled("far_omega"), scaled("far_eta_central")
        self.far = RankSums(tensors["radial.far_log_mass"], tensors["radial.far_n_rows"], scaled("far_values"), 1)
        self.n_partners, self.n_central = self._far_omega.shape[2], self._far_eta_central.shape[2]
        self.n_satellite = self.n_partners - self.n_central
        try:
            full = unpack_symmetric(scaled("far_eta_satellite"), N_TWO * self.n_satellite)
        except ArtifactError as error:
            raise ArtifactError(f"The sums of satellites by radius do not fit together: {error}") from error
        self._far_eta_satellite = full.reshape(-1, N_TWO, self.n_satellite, N_TWO, self.n_satellite)

    def to_radii(self, values: torch.Tensor) -> torch.Tensor:
        """Return sums by radius from those with each function but the first.

        Parameters
        ----------
        values : tensor (..., N_ONE - 1, n_bins)

        Returns
        -------
        tensor (..., n_radii, n_bins)
        """
        return self.to_basis[:, 1:] @ values

    def of_central(self, by_node: torch.Tensor) -> torch.Tensor:
        """Return sums over pairs of satellites with their own central by the radius of the satellite.

        Parameters
        ----------
        by_node : tensor (n, n_mass_nodes, n_near)
            In the first ``n_near`` bins, beyond which there are no pairs in one host.

        Returns
        -------
        tensor (n, n_radii, n_bins)
        """
        return self._padded(torch.einsum("nmb,mbi->nib", by_node, self._share))

    def by_central_mass(self, by_node: torch.Tensor) -> torch.Tensor:
        """Return the same as :meth:`of_central` without the sum over masses.

        Parameters
        ----------
        by_node : tensor (n_mass_nodes, n_near)

        Returns
        -------
        tensor (n_mass_nodes, n_radii, n_bins)
        """
        return self._padded(by_node[:, None] * self._share.movedim(2, 1))

    def _padded(self, values: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.pad(values, (0, self.n_bins - self.n_near))

    @cached_property
    def _share(self) -> torch.Tensor:
        """Share of each radius in the pairs of a central with satellites, (n_mass_nodes, n_near, n_radii)."""
        squares = self._nodes[: self.n_near + 1] ** 2
        # The number of pairs grows about as the square of their separation.
        r = np.sqrt(squares[:-1, None] + np.diff(squares)[:, None] * ((np.arange(_IN_BIN) + 0.5) / _IN_BIN))
        return torch.as_tensor(between_radii(r[None] / self._virial_radius[:, None, None]).mean(axis=2))

    def of_pairs(self, nsat: torch.Tensor, pairs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return sums over pairs of satellites of one host, without what does not depend on the radius.

        Parameters
        ----------
        nsat : tensor (n, n_nodes)
            <Nsat> at the masses of ``near``.
        pairs : tensor (n, n_bins)
            The number of such pairs, which is known to higher accuracy than that of ``near``.

        Returns
        -------
        A_s : tensor (n, n_radii, n_bins)
        E_ss : tensor (n, n_functions, n_functions, n_bins)
        """
        found = self.near.total(*self.near.weights(nsat)).unflatten(1, (self.n_near, -1)).movedim(2, 1)
        # Splines can be a little below 0. Both numbers of pairs differ by a few per cent, unless there are hardly any.
        pairs = pairs[:, None, : self.n_near].clamp(min=0.0)
        means = found[:, 1:] / torch.maximum(found[:, :1], 0.5 * pairs).clamp(min=1e-6)
        found = self._padded(means * pairs)
        return self.to_radii(found[:, 1:N_ONE]), pair_matrices(found[:, N_ONE + 1 :])

    def of_hosts(
        self, nsat: torch.Tensor, central: torch.Tensor, oriented: torch.Tensor, satellite: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return sums over pairs of different hosts, without what does not depend on the radius.

        Parameters
        ----------
        nsat : tensor (n, n_nodes)
            <Nsat> at the masses of ``far``.
        central, oriented, satellite : tensors (n, n_modes)
            Amplitudes of the modes of <Ncen>, of <Ncen> times the weights of the orientations, and of <Nsat>.

        Returns
        -------
        A_s, E_cs : tensors (n, n_radii, n_bins)
        E_ss : tensor (n, n_functions, n_functions, n_bins)
        """
        n_c, n_s = self.n_central, self.n_satellite
        satellite = satellite[:, :n_s]
        partners = torch.cat([central[:, :n_c], satellite], dim=1)
        combinations = self.far.total(*self.far.weights(nsat))
        A = torch.einsum("ns,np,kspb->nkb", combinations, partners, self._far_omega)
        E_cs = torch.einsum("ns,nc,kscb->nkb", combinations, oriented[:, :n_c], self._far_eta_central)
        E_ss = torch.einsum("ns,nt,bkslt->nklb", satellite, satellite, self._far_eta_satellite)
        E_ss[:, 0, 0] = 0.0
        return self.to_radii(A), self.to_radii(E_cs), E_ss

    def far_eta_by_central(self, nsat: torch.Tensor) -> torch.Tensor:
        """Return the part of E_cs of :meth:`of_hosts` by mode of <Ncen>.

        Parameters
        ----------
        nsat : tensor (1, n_nodes)
            <Nsat> at the masses of ``far``.

        Returns
        -------
        tensor (n_central, n_radii, n_bins)
        """
        combinations = self.far.total(*self.far.weights(nsat))[0]
        return self.to_radii(torch.einsum("s,kscb->ckb", combinations, self._far_eta_central))

    def golden(self) -> dict[str, np.ndarray]:
        """Return sums that depend on every number of the tensors.

        Returns
        -------
        dict of str to array
        """
        return {name: _weighted_sum(values) for name, values in self._tensors.items()}


def _weighted_sum(values: np.ndarray) -> np.ndarray:
    flat = np.asarray(values, dtype=np.float64).ravel()
    return np.cos(np.arange(1.0, len(flat) + 1.0)) @ flat
