"""Alignment of centrals that depends on the mass of their host, from the same tables as one strength for all.

    mu_cen(M) = mu_cen + mu_cen_slope * (log10 M - pivot),    M the host halo's mass [Msun/h],

clipped to [-1, 1], outside of which there is no Dimroth-Watson distribution. arXiv:2504.05235 names such a strength as
the remedy for galaxies of low mass, which one strength does not describe. In every expected sum over orientations a
central then counts with <Ncen>(M) q(mu_cen(M)) in place of q(mu_cen) <Ncen>(M), once for each time that its own
orientation enters; as the other member of a pair it counts with <Ncen>(M), as in DD. The tables are sums over species
in host mass, and their modes were fitted to such products too, so nothing is approximated beyond what they are.

The clip is part of the model, not of the arithmetic: beyond it the strength no longer follows the line, and has no
gradient. :meth:`MassDependentModel.clipped_share` tells how many centrals it concerns. Tables know hosts by bins of
mass, and predictions would have a kink wherever a bin reaches the clip; so here the clip is averaged over a few bins.
That lowers the strength by at most ``CLIP_WIDTH * slope / 8``, of centrals so close to the clip.
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

#: 10^13 Msun/h, where the TNG300 samples together determine the strength best [log10 Msun/h].
PIVOT = 13.0

#: Limits of a slope [1 / dex]; beyond, all centrals would be clipped.
Slope = Annotated[float, Range(at_least=-100, at_most=100)]

#: Range of log10 host mass over which the clip is averaged [dex]: four mass bins of the shipped tables.
CLIP_WIDTH = 0.04


@dataclass(frozen=True, repr=False)
class MassDependentSupport(Support):
    """The support of tables, and the range of the slope.

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
        """The support of a model in the seven parameters, with the default range of the slope.

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
    """mu_cen(M), clipped to [-1, 1].

    Parameters
    ----------
    mu_cen, slope : tensors (n,)
    log_mass : tensor (n_masses,)
        [log10 Msun/h]
    pivot : float
    clip_width : float
        Average the clip over this range about each mass [dex].

    Returns
    -------
    tensor (n, n_masses)
    """
    line = mu_cen[:, None] + slope[:, None] * (log_mass - pivot)
    if clip_width == 0.0:
        return line.clamp(-1.0, 1.0)
    half = (0.5 * clip_width * slope.abs()).clamp(min=1e-12)[:, None]
    # Few masses, if any, are near the clip.
    near = torch.nonzero((line.detach().abs() > 1.0 - half.detach()).any(dim=0)).flatten()
    if not len(near):
        return line
    part = line[:, near]
    clipped = (part - _mean_excess(part, half) + _mean_excess(-part, half)).clamp(-1.0, 1.0)
    return line.index_copy(1, near, clipped)


def _mean_excess(x: torch.Tensor, half: torch.Tensor) -> torch.Tensor:
    """Mean of max(x + u - 1, 0) over u in [-half, half]."""
    reach = (x + (half - 1.0)).clamp(min=0.0)
    return torch.where(reach < 2.0 * half, reach.square() / (4.0 * half), reach - half)


class MassDependentModel(ForwardModel):
    """Expected xi, omega and eta of mocks whose centrals align with a strength that is linear in log host mass.

    Its ``predict`` and ``at_occupation`` are those of :class:`iaemu.models.tables.TabulatedModel` with one parameter
    more, ``mu_cen_slope`` [1 / dex], and equal them at a slope of 0.

    Parameters
    ----------
    tables : TabulatedModel
    pivot : float
        log10 of the host mass [Msun/h] at which the strength is ``mu_cen``.

    Attributes
    ----------
    support : MassDependentSupport
    pivot : float

    The other attributes are those of :class:`iaemu.models.base.ForwardModel`.

    Raises
    ------
    ValueError
        ``pivot`` is not a mass between 8 and 17.
    """

    support: MassDependentSupport
    _at_once = TabulatedModel._at_once
    _in_double = True
    # The sums of the regions are not known by host mass.
    _takes_box_error = False
    factorises = True

    def __init__(self, tables: TabulatedModel, pivot: float = PIVOT):
        Range(at_least=8, at_most=17).check("pivot, the log10 of a halo mass in Msun/h,", pivot)
        self.tables = tables
        self.pivot = float(pivot)
        self.support = MassDependentSupport.of(tables.support)
        self.parameters = self.support.parameters
        self.binnings, self.metadata = tables.binnings, tables.metadata

    @classmethod
    def load(cls, path: Any = None, pivot: float = PIVOT) -> MassDependentModel:
        """From a file of tables.

        Parameters
        ----------
        path : path-like, optional
            By default the shipped tables.
        pivot : float
            See the class.

        Returns
        -------
        MassDependentModel

        Raises
        ------
        ArtifactError
            As of :meth:`TabulatedModel.load`.
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
        # The sums hold the factors q of the centrals: what is left of them is 1, that of full alignment.
        rest = torch.stack([torch.ones_like(mu_sat), mu_sat], dim=1)
        return correlations(sums, rest, names) | self.tables.counts(sums)

    def _at_occupation(self, theta, r_edges, names) -> MassDependentFixedOccupation:
        """Strengths are mu_cen, mu_sat and mu_cen_slope."""
        response = self.tables.central_response(theta[0, len(ALIGNMENT_PARAMETERS) : len(PARAMETERS)], r_edges)
        edges = self.r_edges if r_edges is None else check_edges(r_edges)
        counts = {name: float(value) for name, value in self.tables.counts(response.sums).items()}
        return MassDependentFixedOccupation(edges, response, names, self.pivot, self._limits(), **counts)

    def clipped_share(self, theta: Any) -> np.ndarray:
        """Expected share of the centrals whose strength is clipped.

        Parameters
        ----------
        theta : as of :meth:`predict`, (..., 8)

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

    omega is linear in q(mu_cen(M)) at the host masses of the tables, and eta quadratic.

    Parameters
    ----------
    r_edges : array (n_bins + 1,)
        [Mpc/h]
    response : CentralResponse
    statistics : sequence of str
    pivot : float
        As of :class:`MassDependentModel`.
    limits : mapping of str to (float, float)
        Ranges of the strengths.
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
        # Masses without centrals, to rounding: below the step of <Ncen>.
        used = response.modes.abs().amax(dim=1) > 1e-16 * response.modes.abs().max()
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
