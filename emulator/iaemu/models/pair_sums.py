"""What follows from expected pair sums: the correlation functions of tables, at one redshift or between several."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from numpy.typing import ArrayLike

from iaemu.binning import Rebinning, check_edges, shell_volumes
from iaemu.halomodel.alignment import ORIENTATION_INGREDIENTS, orientation_statistics
from iaemu.halomodel.radial import N_TWO
from iaemu.models.base import ForwardModel
from iaemu.models.radial import RadialTables, StrengthResponse, weighted_by_radius
from iaemu.parameters import OCCUPATION_PARAMETERS, SLOPES
from iaemu.statistics import STATISTICS


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


class PairSumModel(ForwardModel):
    """A forward model that knows the expected sums over pairs, at any occupation.

    Attributes
    ----------
    radial : RadialTables or None
        What tables know of the places of satellites in their hosts; None if they do not.
    """

    _at_once = 32
    _in_double = True
    factorises = True
    radial: RadialTables | None

    @abstractmethod
    def sums(self, theta: Any, r_edges: ArrayLike | None = None, central_weight: Callable | None = None) -> PairSums:
        """Return the expected pair sums at a batch of points.

        Parameters
        ----------
        theta : array or tensor (n, 7) or (n, 5), or mapping
            All parameters in the order of ``PARAMETERS``, or only those of the occupation: the sums do not depend on
            the strengths.
        r_edges : array (n_bins + 1,), optional
            Edges of the bins [Mpc/h]; by default ``self.nodes``.
        central_weight : callable, optional
            Maps host masses (n_masses,) [log10 Msun/h] to weights (n, n_masses) of the orientation of a central, in
            ``A_c``, ``E_cc`` (twice) and ``E_cs``; by default 1. Used by :class:`iaemu.VaryingStrengthModel`.

        Returns
        -------
        PairSums

        Raises
        ------
        ValueError
            A parameter is wrong. It is an :class:`iaemu.binning.BinningError` if a bin is beyond the nodes, or thinner
            than they resolve.
        """

    @abstractmethod
    def satellite_parts(
        self,
        occupation: torch.Tensor,
        sums: PairSums,
        r_edges: ArrayLike | None = None,
        central_weight: Callable | None = None,
    ) -> dict[str, torch.Tensor]:
        """Return the orientation sums of satellites by their distance from the centre of their host.

        Parameters
        ----------
        occupation : tensor (n, 5), float64
        sums : PairSums
            The sums for the same arguments, of which these are the parts.
        r_edges, central_weight
            See :meth:`sums`.

        Returns
        -------
        dict of str to tensor
            "A_s" and "E_cs" (n, n_radii, n_bins), and "E_ss" (n, n_functions, n_functions, n_bins). With factors q
            (n, n_radii) and s = q @ ``radial.to_basis``, the sums are q . A_s, q . E_cs and s . E_ss . s.

        Raises
        ------
        ValueError
            The tables do not know where satellites are.
        """

    @abstractmethod
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

    @abstractmethod
    def _respond_to_mass(self, found: StrengthResponse, theta, r_edges, of_radius: bool) -> None:
        """Replace the parts of centrals by those at each host mass."""

    def rebin(self, sums: PairSums, r_edges: ArrayLike) -> PairSums:
        """Return pair sums in other bins.

        Parameters
        ----------
        sums : PairSums
            Sums in the bins between ``self.nodes``.
        r_edges : array (n_bins + 1,)
            [Mpc/h]

        Returns
        -------
        PairSums

        Raises
        ------
        iaemu.binning.BinningError
            A bin is beyond the nodes, or thinner than they resolve.
        """
        rebinning = Rebinning.between(self.nodes, r_edges)
        weights, missing, volumes = (
            torch.as_tensor(part) for part in (rebinning.weights, rebinning.missing, rebinning.volumes)
        )
        density = sums.RR[:, :1] / shell_volumes(self.nodes)[0]
        binned = {name: getattr(sums, name) @ weights.T for name in ("DD", "A_c", "A_s", "E_cc", "E_cs", "E_ss")}
        binned["DD"] = binned["DD"] + density * missing
        return replace(sums, RR=density * volumes, **binned)

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

    def _predict(self, theta, bins, names) -> dict[str, torch.Tensor]:
        sums = self.sums(theta, bins)
        return correlations(sums, theta, names) | self.counts(sums) | ({"pairs": sums.DD} if names else {})

    def _weighted(
        self,
        theta: torch.Tensor,
        bins: ArrayLike | None,
        names: Sequence[str],
        central: Callable | None,
        satellite: torch.Tensor | None,
    ) -> dict[str, torch.Tensor]:
        """Return xi, and the ingredients of omega and eta with weights of the orientations.

        Parameters
        ----------
        theta : tensor (n, 7)
        bins : array (n_bins + 1,), or None
            See :meth:`sums`.
        names : sequence of str
            Statistics.
        central : callable, or None
            See ``central_weight`` of :meth:`sums`.
        satellite : tensor (n, n_radii), or None
            Weights of satellites at the radii of :mod:`iaemu.halomodel.radial`.

        Returns
        -------
        dict of str to tensor (n, n_bins)
            Means over pairs, with ``n_gal``, ``f_sat`` and ``pairs``.
        """
        sums = self.sums(theta, bins, central)
        if satellite is not None:
            parts = self.satellite_parts(theta[:, -len(OCCUPATION_PARAMETERS) :], sums, bins, central)
            sums = replace(sums, **weighted_by_radius(parts, satellite, self._require_radial().to_basis))
        return self._ingredients(sums, names)

    def _ingredients_at(self, theta, bins, names) -> dict[str, torch.Tensor]:
        return self._ingredients(self.sums(theta, bins), names)

    def _ingredients(self, sums: PairSums, names) -> dict[str, torch.Tensor]:
        ingredients = {"xi": sums.DD / sums.RR - 1.0} if "xi" in names else {}
        for statistic, parts in ORIENTATION_INGREDIENTS.items():
            if statistic in names:
                ingredients |= {name: getattr(sums, name) / sums.DD for name in parts}
        return ingredients | self.counts(sums) | ({"pairs": sums.DD} if names else {})

    def _rebinning(self, r_edges: ArrayLike | None) -> torch.Tensor:
        """Return the matrix that sums over bins between nodes, (n_nodes - 1, n_bins)."""
        edges = self.nodes if r_edges is None else check_edges(r_edges)
        return torch.as_tensor(Rebinning.between(self.nodes, edges).weights.T.copy())

    @property
    def slopes(self) -> tuple[str, ...]:
        return SLOPES if self.radial is not None else SLOPES[:1]

    def check_slopes(self, names: Iterable[str]) -> None:
        if SLOPES[1] in names:
            self._require_radial()

    @property
    def satellite_profile(self) -> torch.Tensor:
        """Share of satellites by radius, in the mean over all hosts, (n_radii,); see ``iaemu.halomodel.radial``."""
        return self._require_radial().profile

    def _require_radial(self) -> RadialTables:
        if self.radial is None:
            raise ValueError(
                "These tables do not know where satellites are in their hosts, so mu_sat_slope must be 0. Make them "
                "again with `iaemu train tabulate`."
            )
        return self.radial

    def _strength_response(
        self, theta: torch.Tensor, r_edges: ArrayLike | None = None, of_mass: bool = True, of_radius: bool = True
    ) -> StrengthResponse:
        """Return the pair sums at one occupation as functions of weights of the orientations.

        Parameters
        ----------
        theta : tensor (5,), float64
            In the order of ``OCCUPATION_PARAMETERS``.
        r_edges
            See :meth:`sums`.
        of_mass, of_radius : bool
            Whether the weights of centrals depend on the mass of their host, and those of satellites on their distance
            from its centre.

        Returns
        -------
        StrengthResponse

        Raises
        ------
        ValueError
            The weights of satellites should depend on their distance, which the tables do not know.
        """
        # Tensors made under inference mode could not be used in a later gradient.
        with torch.inference_mode(False), torch.no_grad():
            sums = self.sums(theta[None], r_edges)
            one = torch.ones(1, 1, dtype=torch.float64)
            found = StrengthResponse(
                log_mass=None,
                A_c=sums.A_c,
                A_s=sums.A_s,
                E_cs=sums.E_cs[None],
                modes=one,
                E_cc=sums.E_cc.T[..., None],
                E_ss=sums.E_ss[None],
                to_basis=one,
                xi=sums.DD / sums.RR - 1.0,
                pairs=sums.DD,
                **{name: float(value) for name, value in self.counts(sums).items()},
            )
            if of_radius:
                parts = self.satellite_parts(theta[None], sums, r_edges)
                found.A_s, found.E_cs, found.E_ss = parts["A_s"][0], parts["E_cs"], parts["E_ss"][0]
                found.to_basis = self._require_radial().to_basis[:, :N_TWO]
            if of_mass:
                self._respond_to_mass(found, theta[None], r_edges, of_radius)
            return found


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
