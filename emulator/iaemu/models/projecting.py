"""Projected statistics of forward models: w_gg, w_g+ and the quadrupole of xi_g+, see ``iaemu.observables.projected``.

Inside the models a :class:`iaemu.Projection` takes the place of bin edges. Then ``xi`` stands for
w_gg, ``omega`` for w_g+ or the quadrupole with a shape amplitude of 1, and ``A_c`` and ``A_s`` for their parts with
central and with satellite shapes per q(mu). All that holds for ingredients and deviations holds for these too.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike

from iaemu.halomodel.abundance import NEEDS, growth_factor, mean_log_host_mass
from iaemu.halomodel.alignment import mean_p2
from iaemu.observables.large_scale import C1_RHO_CRITICAL
from iaemu.observables.projected import AMPLITUDE_OF, MATCH_FROM, PROJECTION_OF, Matrices, Projection
from iaemu.parameters import ALIGNMENT_PARAMETERS, OCCUPATION_PARAMETERS, Support, as_theta, has_tensor
from iaemu.prediction import LargeScalePrediction, ProjectedPrediction, in_parts
from iaemu.ranges import Range

#: What is needed between nodes.
_NAMES = ("xi", "omega")

#: Parts of w_g+ by kind of shape.
_PARTS = ("centrals", "satellites")


class Projecting:
    """The part of :class:`iaemu.ForwardModel` for what surveys measure."""

    parameters: tuple[str, ...]
    support: Support
    nodes: np.ndarray
    _at_once: int
    _in_double: bool

    #: sigma8(z) over that of the halo catalogues.
    ratio: float = 1.0

    def project(
        self,
        theta: Any,
        rp_edges: ArrayLike | Projection | None = None,
        pi_max: float | None = None,
        *,
        rp: ArrayLike | None = None,
        a_shape: float = 1.0,
        deviations: bool = False,
        support: str = "raise",
    ) -> ProjectedPrediction:
        """Predict the projected correlations w_gg and w_g+ at one or more points, in real space.

        Parameters
        ----------
        theta : mapping of names, array or tensor (..., n_parameters)
            Parameters, as for ``predict``.
        rp_edges : array (n_bins + 1,), or Projection
            Edges of bins in the transverse separation r_p [Mpc/h], over which w is averaged by area. A
            :class:`iaemu.Projection` may hold any bins; without ``pi_max`` it is that of the quadrupole.
        pi_max : float
            Largest line-of-sight separation [Mpc/h].
        rp : array (n,), optional
            Single separations [Mpc/h], in place of ``rp_edges``.
        a_shape : float
            Ellipticity of a galaxy whose axis is perpendicular to the line of sight; sqrt(15/8) times the rms
            ellipticity of the sample.
        deviations : bool
            Whether to return the error of the prediction too.
        support : "raise", "reject" or "warn"
            See ``predict``.

        Returns
        -------
        ProjectedPrediction

        Raises
        ------
        ValueError
            An argument is not allowed. It is a :class:`iaemu.SupportError` if a point is outside the supported region,
            and an :class:`iaemu.binning.BinningError` if a separation is beyond what nodes and large scales allow.
        """
        Range().check("a_shape", a_shape)
        projection = rp_edges if isinstance(rp_edges, Projection) else Projection.of(rp_edges, pi_max, rp)
        matrices = self._matrices(projection)
        points = as_theta(theta, self.parameters)
        inside = self.support.enforce(points.double() if self._in_double else points, support, stacklevel=3)

        def evaluate(part):
            values, strengths = self._projected(part, projection), self._strengths(part)
            if "A_c" in values:
                q_cen, q_sat = mean_p2(strengths).unsqueeze(-1).unbind(dim=1)
                values["centrals"], values["satellites"] = q_cen * values.pop("A_c"), q_sat * values.pop("A_s")
                values["omega"] = values["centrals"] + values["satellites"]
                values["K"] = q_cen * values.pop("K_c") + q_sat * values.pop("K_s")
            return values | {name: values[name][:, 0] for name in ("b2", "K")}

        keep = inside if support == "reject" else None
        values = in_parts(points, evaluate, keep, self._at_once, self._in_double)
        values = self._mask_projected(values, projection, points, support != "reject")
        names = {name: (PROJECTION_OF | AMPLITUDE_OF)[name] for name in projection.statistics}
        scale = {"xi": 1.0, "omega": a_shape}
        found: dict[str, Any] = {name: scale[of] * values[of] for name, of in names.items()}
        found |= {name: a_shape * values[name] for name in _PARTS if name in values}
        if deviations:
            own = self.deviations(points, projection, set(names.values()), support)  # type: ignore
            found["deviations"] = {name: scale[of] * own[of] for name, of in names.items()}
        found |= {name: values[name] for name in ("n_gal", "f_sat") if name in values}
        if projection.pi_max is not None:
            tails = (torch.as_tensor(tail).to(points.device) for tail in (matrices.tail_of_xi, matrices.tail_of_omega))
            amplitudes = values["b2"], a_shape * values["K"]
            for name, amplitude, tail in zip(("tail_gg", "tail_gplus"), amplitudes, tails, strict=True):
                found[name] = amplitude[..., None] * tail
        prediction = ProjectedPrediction(projection, **found)
        return prediction if has_tensor(theta) else prediction.numpy()

    def large_scale(
        self,
        theta: Any,
        a_shape: float = 1.0,
        *,
        r_min: float = MATCH_FROM,
        deviations: bool = False,
        support: str = "raise",
    ) -> LargeScalePrediction:
        """Predict what the galaxies are on large scales: bias, alignment amplitude, and mean host mass.

        Beyond ``r_min``, xi = b_g^2 xi_mm and (1 + xi) omega = K Xi_2 are fitted, with xi_mm and Xi_2 of the matter at
        the redshift of the model (:mod:`iaemu.observables.large_scale`). The amplitude is that of the NLA model, in the
        convention of CCL and CosmoSIS (Bridle & King 2007, arXiv:0705.0166): the intrinsic shear is -A_IA C1 rho_cr
        Om / D(z) times the tidal field in units of delta, so that

            A_IA = (3/2) a K D(z) / (b_g C1 rho_cr Om),    C1 rho_cr = 0.0134, D(0) = 1.

        It is positive for radial alignment.

        Parameters
        ----------
        theta : mapping of names, array or tensor (..., n_parameters)
            Parameters, as for ``predict``.
        a_shape : float
            Shape amplitude, as for ``project``, in units of shear: for shapes in units of ellipticity, divided by 2 R.
        r_min : float
            [Mpc/h], from 1.
        deviations : bool
            Whether to return the error of ``b_g`` and ``A_IA`` too.
        support : "raise", "reject" or "warn"
            See ``predict``.

        Returns
        -------
        LargeScalePrediction

        Raises
        ------
        ValueError
            The model does not state its cosmology, or as for ``project``.
        """
        projection = self.check_large_scales(r_min)
        found = self.project(theta, projection, a_shape=a_shape, deviations=deviations, support=support)
        columns = [self.parameters.index(name) for name in OCCUPATION_PARAMETERS]
        return self.from_amplitudes(found, as_theta(theta, self.parameters)[..., columns])

    def from_amplitudes(self, found: ProjectedPrediction, occupation: torch.Tensor) -> LargeScalePrediction:
        """Return what :meth:`large_scale` does, from a prediction of the amplitudes.

        Parameters
        ----------
        found : ProjectedPrediction
            With a projection onto the amplitudes of the large scales; ``K`` times the shape amplitude.
        occupation : tensor (..., 5)
            In the order of ``OCCUPATION_PARAMETERS``.

        Returns
        -------
        LargeScalePrediction
        """
        cosmology = self._known_cosmology()
        growth = growth_factor(cosmology["Om"], cosmology["redshift"])
        factor = 1.5 * growth / (C1_RHO_CRITICAL * cosmology["Om"] * self.ratio)
        root, K = found.b2[..., 0] ** 0.5, found.K[..., 0]
        mass = mean_log_host_mass(cosmology, occupation.reshape(-1, occupation.shape[-1]), self.ratio)
        mass = mass.reshape(occupation.shape[:-1])
        errors = None
        if found.deviations is not None:
            of_root, of_K = found.deviations["b2"][..., 0] / (2.0 * root[..., None]), found.deviations["K"][..., 0]
            of_A = factor * (of_K - (K / root)[..., None] * of_root) / root[..., None]
            errors = {"b_g": of_root / self.ratio, "A_IA": of_A}
        return LargeScalePrediction(
            b_g=root / self.ratio,
            A_IA=factor * K / root,
            log10_M_h=mass if isinstance(root, torch.Tensor) else mass.numpy(),
            n_gal=found.n_gal,
            f_sat=found.f_sat,
            deviations=errors,
        )

    def check_large_scales(self, r_min: float = MATCH_FROM) -> Projection:
        """Check that the model knows its large scales.

        Parameters
        ----------
        r_min : float
            See :meth:`large_scale`.

        Returns
        -------
        Projection
            That of the amplitudes.

        Raises
        ------
        ValueError
            It does not reach far enough, or does not state its cosmology.
        """
        projection = Projection.of_large_scales(r_min)
        self._matrices(projection)
        self._known_cosmology()
        return projection

    def _known_cosmology(self) -> Mapping[str, float]:
        """Return the cosmology of the model and its redshift; ValueError if it is not known."""
        known = self.cosmology or {}  # type: ignore
        missing = [name for name in (*NEEDS, "redshift") if known.get(name) is None]
        if missing:
            raise ValueError(
                f"The amplitudes of the large scales need the cosmology of the model, whose halo catalogues do not "
                f"state {', '.join(missing)}. Give them as attributes of the catalogue (Om0, Ob, h, sigma8, ns, "
                "redshift), and make the tables again."
            )
        return known

    def _mask_projected(self, values: Mapping, projection: Projection, points: torch.Tensor, warn: bool) -> dict:
        """Return values with NaN, and a warning, where few pairs are expected in or near a bin."""
        groups = {"pairs_gg": ("w_gg", ("xi",)), "pairs_gplus": ("w_gplus", ("omega", "A_c", "A_s", *_PARTS))}
        found = dict(values)
        for pairs, (statistic, names) in groups.items():
            if pairs in values:
                limits = tuple(projection.limits(statistic))
                masked = {name: values[name] for name in names if name in values}
                found |= self._without_few_pairs(masked, found.pop(pairs), limits, points, warn)  # type: ignore
        return found

    # ------------------------------------------------------------------ hooks

    def _shells(self, theta: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return xi, omega or its ingredients, and pairs between nodes (n, n_nodes - 1), with n_gal and f_sat (n,)."""
        bins = self._bins(self.nodes)  # type: ignore
        found = self._ingredients_at(theta, bins, _NAMES)  # type: ignore
        return self._predict(theta, bins, _NAMES) if found is None else found  # type: ignore

    def _strengths(self, theta: torch.Tensor) -> torch.Tensor:
        """Return the strengths (n, 2) whose q(mu) multiply ``A_c`` and ``A_s``."""
        return theta[:, : len(ALIGNMENT_PARAMETERS)]

    def _projected(self, theta: torch.Tensor, projection: Projection) -> dict[str, torch.Tensor]:
        """Return what :func:`projected` makes of the model between nodes."""
        return projected(self._shells(theta), self._matrices(projection))

    def _matrices(self, projection: Projection) -> Matrices:
        """Return the matrices of a projection at the redshift of the model; today's if that is not known."""
        return projection.matrices(self.nodes, self.redshift or 0.0)  # type: ignore


def projected(shells: Mapping[str, torch.Tensor], matrices: Matrices) -> dict[str, torch.Tensor]:
    """Return projected statistics from correlations between nodes.

    Parameters
    ----------
    shells : mapping of str to tensor (n, n_nodes - 1)
        "xi", and any of "omega", "A_c", "A_s" (means over pairs), "pairs"; "n_gal" and "f_sat" (n,) are kept.
    matrices : Matrices

    Returns
    -------
    dict of str to tensor (n, n_rp)
        The same names, with "pairs_gg" and "pairs_gplus" of "pairs", and the amplitudes of the large scales (n, 1):
        "b2", and "K", "K_c" and "K_s" of "omega", "A_c" and "A_s".
    """
    xi = shells["xi"]
    of_xi, of_omega, bias, alignment = (
        torch.as_tensor(matrix.T.copy()).to(xi)
        for matrix in (matrices.of_xi, matrices.of_omega, matrices.bias, matrices.alignment)
    )
    found = {name: shells[name] for name in ("n_gal", "f_sat") if name in shells}
    found |= {"xi": xi @ of_xi, "b2": xi @ bias}
    for name, amplitude in (("omega", "K"), ("A_c", "K_c"), ("A_s", "K_s")):
        if name in shells:
            sums = (1.0 + xi) * shells[name]
            found |= {name: sums @ of_omega, amplitude: sums @ alignment}
    if "pairs" in shells:
        for name in ("pairs_gg", "pairs_gplus"):
            found[name] = shells["pairs"].detach() @ torch.as_tensor(getattr(matrices, name).T.copy()).to(xi)
    return found
