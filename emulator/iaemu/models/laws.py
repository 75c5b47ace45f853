"""Alignment of centrals that depends on the mass of their host halo, from the same tables as one strength for all.

    mu_cen(M) = mu_cen + mu_cen_slope * (log10 M - pivot),    M the mass of the host halo [Msun/h],

limited to [-1, 1], as there is no Dimroth-Watson distribution outside. arXiv:2504.05235 suggests such a strength for
galaxies of low mass, which one strength does not describe. In the expected sums over orientations a central has the
weight <Ncen>(M) q(mu_cen(M)) instead of q(mu_cen) <Ncen>(M), once for each time that its own orientation enters. As the
other member of a pair it has the weight <Ncen>(M), as in DD. The tables are sums over species in host mass, and their
modes were fitted to such products too, so the model is as exact as the tables.

The limit is part of the model: beyond it the strength no longer follows the line, and its gradient is zero.
:meth:`MassDependentModel.clipped_share` returns how many centrals it affects. As the tables have bins of host mass,
predictions would have a kink wherever a bin reaches the limit; therefore the limit is averaged over a few bins. This
lowers the strength by at most ``CLIP_WIDTH * slope / 8`` for centrals that close to the limit.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Annotated, Any, ClassVar

import numpy as np
import torch

from iaemu.binning import check_edges
from iaemu.halomodel.alignment import mean_p2, orientation_statistics
from iaemu.models.base import ForwardModel
from iaemu.models.fixed_occupation import AtOccupation
from iaemu.models.tables import CentralResponse, TabulatedModel, correlations
from iaemu.parameters import ALIGNMENT_PARAMETERS, PARAMETERS, Support, as_theta
from iaemu.ranges import Range

SLOPE = "mu_cen_slope"

#: Default pivot [log10 Msun/h]: at 10^13 Msun/h the three TNG300 samples together determine the strength best.
PIVOT = 13.0

#: Allowed slopes [1 / dex]; with larger ones the strengths of all centrals would be at the limit.
Slope = Annotated[float, Range(at_least=-100, at_most=100)]

#: Range of log10 host mass over which the limit is averaged [dex]: four mass bins of the shipped tables.
CLIP_WIDTH = 0.04


@dataclass(frozen=True, repr=False)
class MassDependentSupport(Support):
    """The supported region of tables, with a range of the slope.

    Attributes
    ----------
    mu_cen_slope : (float, float)
        Range of the slope [1 / dex].
    """

    mu_cen_slope: tuple[Slope, Slope] = (-2.0, 2.0)

    parameters: ClassVar[tuple[str, ...]] = (*PARAMETERS, SLOPE)
    _pairs: ClassVar[tuple[str, ...]] = ("logMmin", "mu_cen_slope")

    @classmethod
    def of(cls, support: Support) -> MassDependentSupport:
        """Return the supported region of tables with the default range of the slope.

        Parameters
        ----------
        support : Support

        Returns
        -------
        MassDependentSupport
        """
        return cls(**asdict(support))

    def __repr__(self) -> str:
        low, high = self.mu_cen_slope
        return f"{super().__repr__()[:-1]}; {SLOPE} {low:.4g} to {high:.4g} per dex)"

    def bounds(self, name: str, logMmin: Any) -> tuple:
        return self.mu_cen_slope if name == SLOPE else super().bounds(name, logMmin)


def central_strengths(
    mu_cen: torch.Tensor, slope: torch.Tensor, log_mass: torch.Tensor, pivot: float, clip_width: float = 0.0
) -> torch.Tensor:
    """Return mu_cen(M), limited to [-1, 1].

    Parameters
    ----------
    mu_cen, slope : tensors (n,)
        Strength at the pivot, and its slope [1 / dex].
    log_mass : tensor (n_masses,)
        Host masses [log10 Msun/h].
    pivot : float
        [log10 Msun/h]
    clip_width : float
        Range about each mass over which the limit is averaged [dex].

    Returns
    -------
    tensor (n, n_masses)
    """
    line = mu_cen[:, None] + slope[:, None] * (log_mass - pivot)
    if clip_width == 0.0:
        return line.clamp(-1.0, 1.0)
    half = (0.5 * clip_width * slope.abs()).clamp(min=1e-12)[:, None]
    # Few masses, if any, are near the limit.
    near = torch.nonzero((line.detach().abs() > 1.0 - half.detach()).any(dim=0)).flatten()
    if not len(near):
        return line
    part = line[:, near]
    clipped = (part - _mean_excess(part, half) + _mean_excess(-part, half)).clamp(-1.0, 1.0)
    return line.index_copy(1, near, clipped)


def _mean_excess(x: torch.Tensor, half: torch.Tensor) -> torch.Tensor:
    """Return the mean of max(x + u - 1, 0) over u in [-half, half]."""
    reach = (x + (half - 1.0)).clamp(min=0.0)
    return torch.where(reach < 2.0 * half, reach.square() / (4.0 * half), reach - half)


class MassDependentModel(ForwardModel):
    """The tables with an alignment strength of centrals that is linear in the log of their host mass.

    It has the parameters of :class:`iaemu.TabulatedModel` and ``mu_cen_slope`` [1 / dex], and equals it at slope 0.

    Parameters
    ----------
    tables : TabulatedModel
    pivot : float
        log10 of the host mass [Msun/h] at which the strength is ``mu_cen``.

    Attributes
    ----------
    support : MassDependentSupport
        The supported region, with a range of ``mu_cen_slope``.
    pivot : float

    The other attributes are those of :class:`iaemu.ForwardModel`.

    Raises
    ------
    ValueError
        ``pivot`` is not a number between 8 and 17.
    """

    support: MassDependentSupport
    _at_once = TabulatedModel._at_once
    _in_double = True
    # The sums of the jackknife regions are not known by host mass.
    _takes_box_error = False
    factorises = True

    def __init__(self, tables: TabulatedModel, pivot: float = PIVOT):
        Range(at_least=8, at_most=17).check("pivot, the log10 of a halo mass in Msun/h,", pivot)
        self.tables = tables
        self.pivot = float(pivot)
        self.support = MassDependentSupport.of(tables.support)
        self.parameters = self.support.parameters
        self.nodes, self.metadata = tables.nodes, tables.metadata

    @classmethod
    def load(cls, path: Any = None, pivot: float = PIVOT) -> MassDependentModel:
        """Load the model from a file of tables.

        Parameters
        ----------
        path : path-like, optional
            By default the shipped tables.
        pivot : float
            log10 of the host mass [Msun/h] at which the strength is ``mu_cen``.

        Returns
        -------
        MassDependentModel

        Raises
        ------
        ArtifactError
            The file is missing or corrupt, does not contain tables, or does not reproduce its golden predictions.
        """
        return cls(TabulatedModel.load(path), pivot)

    def _details(self) -> list[str]:
        return [f"pivot of mu_cen(M) at log10 M = {self.pivot:.5g}", *super()._details()]

    def _predict(self, theta, bins, names) -> dict[str, torch.Tensor]:
        mu_cen, mu_sat, slope = theta[:, 0], theta[:, 1], theta[:, -1]
        sums = self.tables.sums(
            theta[:, : len(PARAMETERS)],
            bins,
            lambda log_mass: mean_p2(central_strengths(mu_cen, slope, log_mass, self.pivot, CLIP_WIDTH)),
        )
        # The sums already contain the factors q of centrals. They get a strength of 1, for which q is 1.
        rest = torch.stack([torch.ones_like(mu_sat), mu_sat], dim=1)
        return correlations(sums, rest, names) | self.tables.counts(sums) | ({"pairs": sums.DD} if names else {})

    def _at_occupation(self, theta, r_edges, names, warn) -> MassDependentFixedOccupation:
        """Return the model at one occupation; its strengths are mu_cen, mu_sat and mu_cen_slope."""
        response = self.tables.central_response(theta[0, len(ALIGNMENT_PARAMETERS) : len(PARAMETERS)], r_edges)
        edges, pairs = self.r_edges if r_edges is None else check_edges(r_edges), response.sums.DD
        response.sums.DD = self._without_few_pairs({"DD": pairs}, pairs, edges, theta, warn)["DD"]
        counts = {name: float(value) for name, value in self.tables.counts(response.sums).items()}
        return MassDependentFixedOccupation(edges, response, names, self.pivot, self._limits(), **counts)

    def clipped_share(self, theta: Any) -> np.ndarray:
        """Return the expected fraction of centrals whose strength is limited to -1 or 1.

        Parameters
        ----------
        theta : mapping of names, array or tensor (..., 8)
            Parameters, as for ``predict``.

        Returns
        -------
        array (...)
        """
        theta = as_theta(theta, self.parameters).detach().double()
        flat = theta.reshape(-1, len(self.parameters))
        log_mass, centrals = self.tables.expected_centrals(flat[:, len(ALIGNMENT_PARAMETERS) : len(PARAMETERS)])
        clipped = (flat[:, :1] + flat[:, -1:] * (log_mass - self.pivot)).abs() > 1.0
        share = (centrals * clipped).sum(dim=1) / centrals.sum(dim=1)
        return share.reshape(theta.shape[:-1]).numpy()


class MassDependentFixedOccupation(AtOccupation):
    """xi, omega and eta at one occupation, as functions of mu_cen, mu_sat and mu_cen_slope.

    omega is linear and eta quadratic in q(mu_cen(M)) at the host masses of the tables.

    Parameters
    ----------
    r_edges : array (n_bins + 1,)
        Edges of the bins [Mpc/h].
    response : CentralResponse
    statistics : sequence of str
    pivot : float
        [log10 Msun/h]
    limits : mapping of str to (float, float)
        Ranges of the strengths by name.
    n_gal, f_sat : float
    """

    def __init__(
        self, r_edges, response: CentralResponse, statistics, pivot: float, limits, n_gal: float, f_sat: float
    ):
        super().__init__(limits)
        sums = response.sums
        DD = sums.DD[0]
        self.r_edges, self.statistics = r_edges, statistics
        self.n_gal, self.f_sat = n_gal, f_sat
        self._pivot = pivot
        # Leave out masses below the step of <Ncen>, which have no centrals to rounding.
        sizes = [part.abs().amax(dim=1) for part in (response.modes, response.A_c, response.E_cs)]
        used = torch.stack([size > 1e-16 * size.max() for size in sizes]).any(dim=0)
        self._log_mass = response.log_mass[used]
        self._xi = DD / sums.RR[0] - 1.0
        self._A_c, self._E_cs = response.A_c[used] / DD, response.E_cs[used] / DD
        self._modes, self._E_cc = response.modes[used], response.E_cc / DD[:, None, None]
        self._A_s, self._E_ss = sums.A_s / DD, sums.E_ss / DD

    def _at(self, mu: torch.Tensor) -> dict[str, torch.Tensor]:
        mu = mu.double()
        values = {}
        if "xi" in self.statistics:
            values["xi"] = self._xi.expand(len(mu), -1)
        if "omega" not in self.statistics and "eta" not in self.statistics:
            return values
        mu_cen, mu_sat, slope = mu.unbind(dim=1)
        q = mean_p2(central_strengths(mu_cen, slope, self._log_mass, self._pivot, CLIP_WIDTH))
        ingredients = {"A_s": self._A_s, "E_ss": self._E_ss}
        if "omega" in self.statistics:
            ingredients["A_c"] = q @ self._A_c
        if "eta" in self.statistics:
            amplitudes = q @ self._modes
            half = torch.einsum("bij,nj->nbi", self._E_cc, amplitudes)
            ingredients["E_cc"] = torch.einsum("nbi,ni->nb", half, amplitudes)
            ingredients["E_cs"] = q @ self._E_cs
        rest = torch.stack([torch.ones_like(mu_sat), mu_sat], dim=1)
        return values | orientation_statistics(rest, ingredients, self.statistics)
