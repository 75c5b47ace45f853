"""Models at another amplitude of the matter fluctuations: rescaled by linear theory, at fixed occupation.

Halos of fixed mass are rarer peaks of a smoother universe: they are fewer, and more biased. For sigma8(z) times s the
peak heights nu = 1.686 / sigma(M, z) become nu / s. With the bias b and the abundances n of Tinker et al. 2010
(arXiv:1001.3162), and means over the galaxies of an occupation, the sums over pairs per pair of unclustered galaxies
change by

    one halo:    <N (N - 1)> / <N>^2                (pairs in a host, over the square of the number of galaxies)
    large scale: (s b)^2 for xi, s b for (1 + xi) omega, and 1 for (1 + xi) eta,

b being the mean bias of galaxies. The axis of a halo follows the tidal field in units of its rms on the scale of the
halo, which is why s appears once less for each axis: the bias of shapes is proportional to nu (Piras et al. 2018,
arXiv:1707.06559). Between ``ONE_HALO`` and ``TWO_HALO`` the factors go over into each other.

This is an approximation. The shape of the linear power spectrum, profiles and shapes of halos, and the strengths of the
alignment stay those of the model; non-linear growth and the scale dependence of the bias are left out.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike

from iaemu.binning import check_edges
from iaemu.halomodel.abundance import NEEDS, growth_factor, halos, occupied
from iaemu.halomodel.alignment import ORIENTATION_INGREDIENTS
from iaemu.models.base import ForwardModel
from iaemu.models.box_error import BoxError
from iaemu.parameters import OCCUPATION_PARAMETERS
from iaemu.ranges import Range

#: Separations [Mpc/h] up to which pairs are taken as of one host, and from which as of two.
ONE_HALO, TWO_HALO = 1.0, 3.0

#: Range of sigma8(z) over that of the model. In simulations at 0.6 times, omega is a third below the rescaled one.
RATIO = Range(at_least=0.7, at_most=1.4)


def sigma8_of(model: ForwardModel) -> float:
    """Return sigma8 of a model at its redshift.

    Parameters
    ----------
    model : ForwardModel

    Returns
    -------
    float

    Raises
    ------
    ValueError
        The model does not state its cosmology.
    """
    known = model.cosmology or {}
    missing = [name for name in NEEDS if name not in known]
    if missing:
        raise ValueError(
            f"The cosmology of this model is not known: its halo catalogues do not state {', '.join(missing)}. Give "
            "them as attributes of the catalogue (Om0, Ob, h, sigma8, ns), and make the tables again."
        )
    return known["sigma8"] * growth_factor(known["Om"], known["redshift"])


class RescaledModel(ForwardModel):
    """A model at another sigma8(z), as linear theory has it at fixed occupation; see :mod:`iaemu.models.growth`.

    Deviations, expected numbers of pairs, ``n_gal`` and ``f_sat`` are those of the model. The other attributes are
    those of :class:`iaemu.ForwardModel`.

    Parameters
    ----------
    base : ForwardModel
        Its ``cosmology`` must state Om, Ob, h, sigma8 and ns.
    sigma8 : float
        The new sigma8 at the redshift of the model, from 0.7 to 1.4 times its own.

    Attributes
    ----------
    base : ForwardModel
    ratio : float
        sigma8(z) over that of the model.

    Raises
    ------
    ValueError
        The model does not state its cosmology, or sigma8 is out of range.
    """

    def __init__(self, base: ForwardModel, sigma8: float):
        own = sigma8_of(base)
        self.base, self.ratio = base, float(sigma8) / own
        if self.ratio not in RATIO:
            raise ValueError(
                f"sigma8(z) = {sigma8:.5g} is {self.ratio:.4g} times that of the model, {own:.5g}; rescaling by growth "
                f"is for {RATIO.at_least:g} to {RATIO.at_most:g} times. Use tables of a nearer cosmology, which "
                "'iaemu train simulate' and 'iaemu train tabulate' make."
            )
        self.parameters, self.support, self.nodes = base.parameters, base.support, base.nodes
        self.metadata, self.statistics, self.factorises = base.metadata, base.statistics, base.factorises
        self._at_once, self._in_double = base._at_once, base._in_double
        self._occupation = [base.parameters.index(name) for name in OCCUPATION_PARAMETERS]
        self._sums = [torch.as_tensor(halos(base.cosmology or {}, ratio)) for ratio in (1.0, self.ratio)]

    def factors(self, occupation: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return the factors of the module's formulae.

        Parameters
        ----------
        occupation : tensor (n, 5)
            In the order of ``OCCUPATION_PARAMETERS``.

        Returns
        -------
        dict of str to tensor (n,), float64
            "one_halo", and on large scales "xi", "omega" of (1 + xi) omega and "eta" of (1 + xi) eta.
        """
        centrals, satellites = occupied(occupation.cpu())
        galaxies, pairs = centrals + satellites, satellites * (2.0 * centrals + satellites)
        (number, biased, within), (number_1, biased_1, within_1) = (
            (galaxies @ found[0], galaxies @ found[1], pairs @ found[0]) for found in self._sums
        )
        clustering = self.ratio * (biased_1 / number_1) / (biased / number)
        return {
            "one_halo": (within_1 / within) * (number / number_1) ** 2,
            "xi": clustering**2,
            "omega": clustering,
            "eta": torch.ones_like(clustering),
        }

    @property
    def r_edges(self) -> np.ndarray:
        return self.base.r_edges

    @property
    def redshift_range(self) -> tuple[float, float] | None:
        return None if self.redshift is None else (self.redshift, self.redshift)

    def check_bins(self, r_edges) -> None:
        self.base.check_bins(r_edges)

    def _details(self) -> list[str]:
        return [f"rescaled to {self.ratio:.4g} times its sigma8(z)", *self.base._details()]

    # ------------------------------------------------------------------ errors

    @property
    def box_error(self) -> BoxError | None:
        """The box error of the model, see :attr:`iaemu.ForwardModel.box_error`."""
        return self.base.box_error

    @box_error.setter
    def box_error(self, box_error: BoxError | None) -> None:
        self.base.box_error = box_error

    @property
    def n_deviations(self) -> int:
        return self.base.n_deviations

    def _deviations(self, theta: torch.Tensor, r_edges, names) -> dict[str, torch.Tensor]:
        return self.base._deviations(theta, r_edges, names)

    def _ingredient_deviations(self, theta: torch.Tensor, r_edges, names) -> dict[str, torch.Tensor]:
        return self.base._ingredient_deviations(theta, r_edges, names)

    # ------------------------------------------------------------------ hooks

    def _bins(self, r_edges: ArrayLike | None) -> tuple[Any, np.ndarray]:
        return self.base._bins(r_edges), self.r_edges if r_edges is None else check_edges(r_edges)

    def _predict(self, theta, bins, names) -> dict[str, torch.Tensor]:
        return self._rescaled(self.base._predict(theta, bins[0], _with_xi(names)), theta, bins[1])

    def _ingredients_at(self, theta, bins, names) -> dict[str, torch.Tensor] | None:
        found = self.base._ingredients_at(theta, bins[0], _with_xi(names))
        return None if found is None else self._rescaled(found, theta, bins[1])

    def _shells(self, theta: torch.Tensor) -> dict[str, torch.Tensor]:
        return self._rescaled(self.base._shells(theta), theta, self.nodes)

    def _strengths(self, theta: torch.Tensor) -> torch.Tensor:
        return self.base._strengths(theta)

    def _rescaled(self, values: dict[str, torch.Tensor], theta: torch.Tensor, edges: np.ndarray) -> dict:
        """Return predictions, or their ingredients, in bins between edges, times their factors."""
        if "xi" not in values:
            return values
        xi = values["xi"]
        share = _share_of_two_halos(edges)
        factors = self.factors(theta[:, self._occupation])
        one_halo = factors.pop("one_halo")[:, None] * (1.0 - share)
        of = {name: (one_halo + factor[:, None] * share).to(xi) for name, factor in factors.items()}
        new = of["xi"] * xi
        # omega and eta are means over pairs.
        pairs = (1.0 + xi) / (1.0 + new)
        found = {"xi": new}
        for name, statistic in _FOLLOWS.items():
            if name in values:
                found[name] = values[name] * of[statistic] * pairs
        return values | found


#: Which factor holds for each statistic and ingredient.
_FOLLOWS = {
    "omega": "omega",
    "eta": "eta",
    **{name: statistic for statistic, names in ORIENTATION_INGREDIENTS.items() for name in names},
}


def _with_xi(names) -> tuple[str, ...]:
    return names if "xi" in names or not names else ("xi", *names)


def _share_of_two_halos(edges: np.ndarray) -> torch.Tensor:
    """Return 0 in bins of pairs of one host, 1 in those of two, and what joins these smoothly (n_bins,)."""
    r = 0.5 * (edges[1:] + edges[:-1])
    x = torch.as_tensor(np.clip(np.log(r / ONE_HALO) / np.log(TWO_HALO / ONE_HALO), 0.0, 1.0))
    return x**2 * (3.0 - 2.0 * x)
