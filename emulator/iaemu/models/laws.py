"""Alignment strengths that depend on where a galaxy sits: the laws of halotools, from the same tables as constant ones.

    mu_cen(M) = mu_cen + mu_cen_slope * (log10 M - pivot),    M the mass of the host halo [Msun/h],
    mu_sat(r) = mu_sat * (r / Rvir)^mu_sat_slope,             r the distance of a satellite from the centre of its host,

both limited to [-0.99, 0.99], as in halotools' ``HaloMassCentralAlignmentStrength``, whose parameters are
a = ``mu_cen_slope`` and gamma = ``mu_cen - mu_cen_slope * pivot``, and ``RadialSatelliteAlignmentStrength``, whose
parameters are a = ``mu_sat`` and gamma = ``mu_sat_slope``. With slopes of 0 the strengths are those of one for all; if
``mu_cen`` or ``mu_sat`` itself exceeds 0.99, it is the limit.

In the expected sums over orientations each galaxy has the weight q(mu) of its own strength, once for each time that its
orientation enters. The tables know the sums by host mass and by radius (:mod:`iaemu.models.radial`), so the model is as
exact as they are.

The limit is part of the model: beyond it the strength no longer follows the law, and its gradient is zero.
:meth:`VaryingStrengthModel.clipped_share` returns how many galaxies it affects. As the tables have bins of host mass,
predictions would have a kink wherever a bin reaches the limit; therefore the limit is averaged over a few bins. This
lowers the strength by at most ``CLIP_WIDTH * slope / 8`` for centrals that close to the limit. The same holds for
satellites at the radii, between which the factor q is linear in log r; their strength is lowered by at most a fraction
``RADIAL_CLIP_WIDTH * slope / 6``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Annotated, Any, ClassVar

import numpy as np
import torch

from iaemu.binning import check_edges
from iaemu.halomodel.alignment import mean_p2, orientation_statistics
from iaemu.halomodel.radial import RADII
from iaemu.halomodel.strengths import LIMIT, central_strengths, satellite_strengths
from iaemu.models.base import ForwardModel
from iaemu.models.box_error import BoxError
from iaemu.models.fixed_occupation import AtOccupation
from iaemu.models.radial import StrengthResponse
from iaemu.models.tables import TabulatedModel
from iaemu.observables.projected import Projection
from iaemu.parameters import ALIGNMENT_PARAMETERS, PARAMETERS, SLOPES, Support, as_theta
from iaemu.ranges import Range

CEN_SLOPE, SAT_SLOPE = SLOPES

#: Default pivot [log10 Msun/h]: at 10^13 Msun/h the three TNG300 samples together determine the strength best.
PIVOT = 13.0

#: Allowed slopes of centrals [1 / dex] and of satellites; with larger ones all strengths would be at the limit or 0.
Slope = Annotated[float, Range(at_least=-100, at_most=100)]

#: Ranges over which the limit is averaged: of log10 host mass [dex], four mass bins of the shipped tables; and of the
#: natural logarithm of the radius, the distance between two.
CLIP_WIDTH, RADIAL_CLIP_WIDTH = 0.04, float(np.log(RADII[1] / RADII[0]))


@dataclass(frozen=True, repr=False)
class StrengthSupport(Support):
    """The supported region of a model, with ranges of slopes.

    Attributes
    ----------
    mu_cen_slope : (float, float)
        Range of the slope of centrals [1 / dex].
    mu_sat_slope : (float, float)
        Range of the exponent of satellites.
    slopes : tuple of str
        Which of the slopes are parameters.
    """

    mu_cen_slope: tuple[Slope, Slope] = (-2.0, 2.0)
    mu_sat_slope: tuple[Slope, Slope] = (-2.0, 2.0)
    slopes: tuple[str, ...] = SLOPES

    _pairs: ClassVar[tuple[str, ...]] = ("logMmin", *SLOPES)

    @property
    def parameters(self) -> tuple[str, ...]:  # type: ignore[override]
        return (*PARAMETERS, *self.slopes)

    @classmethod
    def of(cls, support: Support, slopes: Sequence[str] = SLOPES) -> StrengthSupport:
        """Return the supported region of a model with the default ranges of the slopes.

        Parameters
        ----------
        support : Support
        slopes : sequence of str
            Names in ``SLOPES``.

        Returns
        -------
        StrengthSupport
        """
        return cls(**asdict(support), slopes=tuple(slopes))

    def __repr__(self) -> str:
        ranges = (f"{name} {getattr(self, name)[0]:.4g} to {getattr(self, name)[1]:.4g}" for name in self.slopes)
        return f"{super().__repr__()[:-1]}; {', '.join(ranges)})"

    def bounds(self, name: str, logMmin: Any) -> tuple:
        return getattr(self, name) if name in SLOPES else super().bounds(name, logMmin)


class VaryingStrengthModel(ForwardModel):
    """Tables or an emulator with alignment strengths that depend on host mass and on the radius of a satellite.

    It has the parameters of the model and the slopes, and equals it where they are 0. Like its own error, the error of
    its prediction is that of the model, where in each bin a constant strength would give the same omega.

    Parameters
    ----------
    base : TabulatedModel or Emulator
    pivot : float
        log10 of the host mass [Msun/h] at which the strength of centrals is ``mu_cen``.
    slopes : sequence of str, optional
        Which slopes are parameters, of ``mu_cen_slope`` [1 / dex] and ``mu_sat_slope``; by default all that the model
        knows. Tables know both, the emulator the second.

    Attributes
    ----------
    base : TabulatedModel or Emulator
    pivot : float
    support : StrengthSupport
        The supported region, with the ranges of the slopes.

    The other attributes are those of :class:`iaemu.ForwardModel`.

    Raises
    ------
    ValueError
        ``pivot`` is not a number between 8 and 17. Predictions raise it if the model does not know what a slope needs.
    """

    support: StrengthSupport
    factorises = True

    def __init__(self, base: Any, pivot: float = PIVOT, slopes: Sequence[str] | None = None):
        Range(at_least=8, at_most=17).check("pivot, the log10 of a halo mass in Msun/h,", pivot)
        self.base = base
        self.pivot = float(pivot)
        self.support = StrengthSupport.of(base.support, base.slopes if slopes is None else slopes)
        self.parameters = self.support.parameters
        self.nodes, self.metadata = base.nodes, base.metadata
        self._at_once, self._in_double = base._at_once, base._in_double

    @classmethod
    def load(cls, path: Any = None, pivot: float = PIVOT) -> VaryingStrengthModel:
        """Load the model from a file of tables.

        Parameters
        ----------
        path : path-like, optional
            By default the shipped tables.
        pivot : float
            log10 of the host mass [Msun/h] at which the strength is ``mu_cen``.

        Returns
        -------
        VaryingStrengthModel

        Raises
        ------
        ArtifactError
            The file is missing or corrupt, does not contain tables, or does not reproduce its golden predictions.
        """
        return cls(TabulatedModel.load(path), pivot)

    @property
    def r_edges(self) -> np.ndarray:
        return self.base.r_edges

    def _details(self) -> list[str]:
        pivot = [f"pivot of mu_cen(M) at log10 M = {self.pivot:.5g}"] if CEN_SLOPE in self.slopes else []
        return [*pivot, *self.base._details()]

    @property
    def slopes(self) -> tuple[str, ...]:
        """Which slopes are parameters."""
        return self.support.slopes

    def check_slopes(self, names: Iterable[str]) -> None:
        self.base.check_slopes(names)

    def with_constants(self, constants: Mapping[str, float]) -> ForwardModel:
        for name in self.slopes:
            if constants.get(name) == 0.0:
                rest = tuple(other for other in self.slopes if other != name)
                model = VaryingStrengthModel(self.base, self.pivot, rest) if rest else self.base
                return model.with_constants(constants)
        return self

    def _moved(self, redshift: float) -> VaryingStrengthModel:
        return VaryingStrengthModel(self.base.at_redshift(redshift), self.pivot, self.slopes)

    # ------------------------------------------------------------------ weights of orientations

    def _weights(self, theta: torch.Tensor) -> tuple[Callable | None, torch.Tensor | None]:
        """Return q of centrals as a function of host mass, and of satellites at the radii; None without a slope."""
        values = dict(zip(self.parameters, theta.unbind(dim=1), strict=True))
        central = satellite = None
        if CEN_SLOPE in values:

            def central(log_mass):
                strengths = central_strengths(values["mu_cen"], values[CEN_SLOPE], log_mass, self.pivot, CLIP_WIDTH)
                return mean_p2(strengths)

        if SAT_SLOPE in values:
            satellite = _satellite_factors(values["mu_sat"], values[SAT_SLOPE])
        return central, satellite

    def _rest(self, theta: torch.Tensor) -> torch.Tensor:
        """Return the strengths (n, 2) of what the weights do not contain; 1, for which q is 1, of what they do."""
        one = torch.ones_like(theta[:, 0])
        found = [
            one if slope in self.slopes else theta[:, column] for column, slope in enumerate((CEN_SLOPE, SAT_SLOPE))
        ]
        return torch.stack(found, dim=1)

    def _predict(self, theta, bins, names) -> dict[str, torch.Tensor]:
        values = self.base._weighted(theta[:, : len(PARAMETERS)], bins, names, *self._weights(theta))
        oriented = orientation_statistics(self._rest(theta), values, names)
        return {name: value for name, value in values.items() if name[:2] not in ("A_", "E_")} | oriented

    def _bins(self, r_edges):
        return self.base._bins(r_edges)

    def _shells(self, theta: torch.Tensor) -> dict[str, torch.Tensor]:
        bins = self._bins(self.nodes)
        return self.base._weighted(theta[:, : len(PARAMETERS)], bins, ("xi", "omega"), *self._weights(theta))

    def _strengths(self, theta: torch.Tensor) -> torch.Tensor:
        return self._rest(theta)

    def _at_occupation(self, theta, r_edges, names, warn) -> VaryingFixedOccupation:
        """Return the model at one occupation; its strengths are mu_cen, mu_sat and the slopes."""
        occupation = theta[:, len(ALIGNMENT_PARAMETERS) : len(PARAMETERS)]
        slopes = CEN_SLOPE in self.slopes, SAT_SLOPE in self.slopes
        if isinstance(r_edges, Projection):
            edges: Any = r_edges
            response = self.base._strength_response(occupation[0], self.nodes, *slopes)
            response = response.projected(self._matrices(r_edges))
            masked = self._projected(theta, r_edges)
            masked = self._mask_projected(masked, r_edges, theta, warn)
            response.xi, response.pairs = response.xi + 0.0 * masked["xi"], response.pairs + 0.0 * masked["A_c"]
        else:
            edges = self.r_edges if r_edges is None else check_edges(r_edges)
            response = self.base._strength_response(occupation[0], r_edges, *slopes)
            pairs, limits = response.pairs, (edges[:-1], edges[1:])
            response.pairs = self._without_few_pairs({"pairs": pairs}, pairs, limits, theta, warn)["pairs"]

        def deviations() -> dict[str, torch.Tensor] | None:
            return self.base._deviations_of_occupation(theta[:, : len(PARAMETERS)], r_edges, names)

        return VaryingFixedOccupation(edges, response, names, self.pivot, self.slopes, self._limits(), deviations)

    # ------------------------------------------------------------------ errors

    @property
    def box_error(self) -> BoxError | None:
        """The box error of the model, see :attr:`iaemu.ForwardModel.box_error`."""
        return self.base.box_error

    @box_error.setter
    def box_error(self, box_error: BoxError | None) -> None:
        self.base.box_error = box_error

    @property
    def _n_epistemic(self) -> int:
        return self.base._n_epistemic

    def _deviations(self, theta: torch.Tensor, r_edges, names) -> dict[str, torch.Tensor]:
        constant = theta[:, : len(PARAMETERS)]
        found = self.base._ingredient_deviations(constant, r_edges, names)
        if "omega" not in names and "eta" not in names:
            return found
        # The factors are those of omega, also for eta.
        if isinstance(r_edges, Projection):
            weighted, whole = self._projected(theta, r_edges), self.base._projected(constant, r_edges)
        else:
            weighted, whole = (
                self.base._weighted(constant, self._bins(r_edges), ("omega",), *weights)
                for weights in (self._weights(theta), (None, None))
            )
        return _effective(self._rest(theta), weighted, whole, found, names)

    # ------------------------------------------------------------------

    def clipped_share(self, theta: Any) -> dict[str, np.ndarray]:
        """Return the expected fractions of galaxies whose strength is limited.

        Parameters
        ----------
        theta : mapping of names, array or tensor (..., n_parameters)
            Parameters, as for ``predict``.

        Returns
        -------
        dict of "centrals" and "satellites" to array (...)
            Satellites as they are distributed over radii in the mean over all hosts. 0 without a slope.
        """
        theta = as_theta(theta, self.parameters).detach().double()
        flat = theta.reshape(-1, len(self.parameters))
        values = dict(zip(self.parameters, flat.unbind(dim=1), strict=True))
        share = {"centrals": torch.zeros(len(flat)).double(), "satellites": torch.zeros(len(flat)).double()}
        if CEN_SLOPE in values:
            log_mass, centrals = self.base.expected_centrals(flat[:, len(ALIGNMENT_PARAMETERS) : len(PARAMETERS)])
            line = values["mu_cen"][:, None] + values[CEN_SLOPE][:, None] * (log_mass - self.pivot)
            clipped = line.abs() > values["mu_cen"].abs().clamp(min=LIMIT)[:, None]
            share["centrals"] = (centrals * clipped).sum(dim=1) / centrals.sum(dim=1)
        if SAT_SLOPE in values:
            power = torch.as_tensor(RADII) ** values[SAT_SLOPE][:, None]
            clipped = (values["mu_sat"][:, None] * power).abs() > values["mu_sat"].abs().clamp(min=LIMIT)[:, None]
            share["satellites"] = clipped.double() @ self.base.satellite_profile
        return {name: value.reshape(theta.shape[:-1]).numpy() for name, value in share.items()}


def _satellite_factors(mu_sat: torch.Tensor, slope: torch.Tensor) -> torch.Tensor:
    """Return q of satellites at the radii, (n, n_radii)."""
    return mean_p2(satellite_strengths(mu_sat, slope, torch.as_tensor(RADII).to(mu_sat), RADIAL_CLIP_WIDTH))


def _effective(rest, weighted, whole, deviations, names) -> dict[str, torch.Tensor]:
    """Return deviations (n, n_deviations, n_bins) for the constant factors that give the same sums in each bin.

    ``weighted`` and ``whole`` hold A_c and A_s with and without the weights. Where a sum without weights happens to
    vanish the factor is limited to what a strength can give.
    """
    q_rest = mean_p2(rest.clamp(-1.0, 1.0))
    q_c, q_s = (
        (q_rest[:, column, None] * weighted[name] / whole[name]).clamp(-0.5, 1.0)[:, None]
        for column, name in enumerate(("A_c", "A_s"))
    )
    found = {}
    if "xi" in names:
        found["xi"] = deviations["xi"].expand(len(rest), *deviations["xi"].shape[-2:])
    if "omega" in names:
        found["omega"] = q_c * deviations["A_c"] + q_s * deviations["A_s"]
    if "eta" in names:
        found["eta"] = q_c**2 * deviations["E_cc"] + 2.0 * q_c * q_s * deviations["E_cs"] + q_s**2 * deviations["E_ss"]
    return found


class VaryingFixedOccupation(AtOccupation):
    """xi, omega and eta at one occupation, as functions of mu_cen, mu_sat and the slopes.

    omega is linear and eta quadratic in q(mu) at the host masses and radii of the model.

    Parameters
    ----------
    r_edges : array (n_bins + 1,)
        Edges of the bins [Mpc/h].
    response : StrengthResponse
    statistics : sequence of str
    pivot : float
        [log10 Msun/h]
    slopes : tuple of str
        Names of the slopes, whose columns follow those of the strengths.
    limits : mapping of str to (float, float)
        Ranges of strengths and slopes by name.
    deviations : callable
        Returns deviations (n_deviations, n_bins) of the ingredients by name, or None if there are none.
    """

    def __init__(
        self, r_edges, response: StrengthResponse, statistics, pivot: float, slopes, limits, deviations: Callable
    ):
        super().__init__(limits)
        self.r_edges, self.statistics = r_edges, statistics
        self.n_gal, self.f_sat = response.n_gal, response.f_sat
        self._pivot, self._slopes, self._find_deviations = pivot, slopes, deviations
        DD = response.pairs[0]
        # Leave out masses below the step of <Ncen>, which have no centrals to rounding.
        parts = (response.modes, response.A_c, response.E_cs.flatten(start_dim=1))
        sizes = [part.abs().amax(dim=1) for part in parts]
        used = torch.stack([size > 1e-16 * size.max() for size in sizes]).any(dim=0)
        self._log_mass = None if response.log_mass is None else response.log_mass[used]
        self._xi = response.xi[0] + (0.0 * DD if len(DD) == response.xi.shape[1] else 0.0)  # NaN in bins with few pairs
        self._A_c, self._A_s, self._E_cs = response.A_c[used] / DD, response.A_s / DD, response.E_cs[used] / DD
        self._modes, self._E_cc = response.modes[used], response.E_cc / DD[:, None, None]
        self._E_ss, self._to_basis = response.E_ss / DD, response.to_basis

    def _factors(self, mu: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return q of centrals at the host masses, and of satellites at the radii."""
        slopes = dict(zip(self._slopes, mu[:, len(ALIGNMENT_PARAMETERS) :].unbind(dim=1), strict=True))
        mu_cen, mu_sat = mu[:, 0], mu[:, 1]
        if CEN_SLOPE in slopes:
            assert self._log_mass is not None
            strengths = central_strengths(mu_cen, slopes[CEN_SLOPE], self._log_mass, self._pivot, CLIP_WIDTH)
            central = mean_p2(strengths)
        else:
            central = mean_p2(mu_cen[:, None])
        if SAT_SLOPE in slopes:
            return central, _satellite_factors(mu_sat, slopes[SAT_SLOPE])
        return central, mean_p2(mu_sat[:, None])

    def _at(self, mu: torch.Tensor, factors: tuple | None = None) -> dict[str, torch.Tensor]:
        mu = mu.double()
        values = {}
        if "xi" in self.statistics:
            values["xi"] = self._xi.expand(len(mu), -1)
        if "omega" not in self.statistics and "eta" not in self.statistics:
            return values
        central, satellite = self._factors(mu) if factors is None else factors
        if "omega" in self.statistics:
            values["omega"] = central @ self._A_c + satellite @ self._A_s
        if "eta" in self.statistics:
            c, s = central @ self._modes, satellite @ self._to_basis
            both = torch.einsum("nvb,nv->nb", torch.tensordot(central, self._E_cs, dims=1), satellite)
            centrals = torch.einsum("bij,ni,nj->nb", self._E_cc, c, c)
            values["eta"] = centrals + 2.0 * both + torch.einsum("nk,nl,klb->nb", s, s, self._E_ss)
        return values

    @property
    def n_deviations(self) -> int:
        return 0 if self._held_deviations is None else len(next(iter(self._held_deviations.values())))

    @cached_property
    def _held_deviations(self):
        return self._find_deviations()

    @cached_property
    def _wholes(self) -> dict[str, torch.Tensor]:
        return {"A_c": self._A_c.sum(dim=0), "A_s": self._A_s.sum(dim=0)}

    def _deviations_at(self, mu: torch.Tensor) -> dict[str, torch.Tensor]:
        return self._both_at(mu)[1]

    def _both_at(self, mu: torch.Tensor) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        mu = mu.double()
        factors = self._factors(mu)
        weighted = {"A_c": factors[0] @ self._A_c, "A_s": factors[1] @ self._A_s}
        one = torch.ones(len(mu), 2, dtype=mu.dtype)
        found = _effective(one, weighted, self._wholes, self._held_deviations, self.statistics)
        return self._at(mu, factors), found
