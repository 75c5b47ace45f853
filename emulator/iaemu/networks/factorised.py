"""The networks of the emulator, which predict what does not depend on the alignment strengths.

At fixed occupation omega = q(mu_cen) A_c + q(mu_sat) A_s and eta = q_c^2 E_cc + 2 q_c q_s E_cs + q_s^2 E_ss. So the
network maps the five occupation parameters to xi, A_c, A_s, E_cc, E_cs and E_ss. Then omega = eta = 0 holds exactly at
mu_cen = mu_sat = 0, and xi does not depend on the strengths. A second network maps them to A_s, E_cs and E_ss by the
distance of satellites from the centre of their host, for strengths that depend on it.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from functools import cached_property
from itertools import pairwise
from typing import Any, Self

import numpy as np
import torch
from torch import nn

from iaemu.halomodel.radial import N_ONE, N_TWO, RADII, pair_matrices, to_basis
from iaemu.parameters import OCCUPATION_PARAMETERS, ZHENG07_LINE, Support
from iaemu.ranges import Range

#: Outputs in each bin; the first is log(1 + xi).
INGREDIENTS = ("log_1p_xi", "A_c", "A_s", "E_cc", "E_cs", "E_ss")

#: Outputs once for each point: log10 of the number density of galaxies [(Mpc/h)^-3], and the fraction of satellites.
SCALARS = ("log10_density", "f_sat")

#: Smooth activations, so that gradients are smooth.
ACTIVATIONS = {"silu": nn.SiLU, "gelu": nn.GELU}


#: Allowed sizes of a network.
SIZES = {
    "n_bins": Range(at_least=1, at_most=10_000),
    "n_components": Range(at_least=1, at_most=10_000),
    "width": Range(at_least=1, at_most=65536),
    "depth": Range(at_least=1, at_most=100),
    "n_members": Range(at_least=1, at_most=1000),
}


def check_sizes(**sizes: int) -> None:
    """Check the sizes of a network before it is allocated.

    Parameters
    ----------
    **sizes
        Sizes, named as in ``SIZES``.

    Raises
    ------
    ValueError
        A size is not a whole number in its range; the message names it.
    """
    for name, size in sizes.items():
        SIZES[name].check(name, size, int)


class OccupationNet(nn.Module):
    """A multilayer perceptron with smooth activations of the occupation parameters.

    Inputs are ``logMmin``, and the offsets of the other four parameters from the line of Zheng et al. 2007, scaled to
    [-1, 1] over the supported region. With ``redshifts`` the redshift is one more, scaled to [-1, 1] over their range;
    :meth:`at_redshift` folds it into the first layer. Means and standard deviations of the outputs over the training
    set are kept as buffers.

    Parameters
    ----------
    support : Support
    n_outputs : int
    width, depth : int
        Number of units in a hidden layer, and of hidden layers.
    activation : str
        A name in ``ACTIVATIONS``.
    redshifts : (float, float), optional
        Range of redshifts for which the network is trained; without, it is for one.

    Raises
    ------
    ValueError
        A size is not allowed, the activation is unknown, or the redshifts are no range.
    """

    line_slope: torch.Tensor
    line_intercept: torch.Tensor
    half_width: torch.Tensor
    output_mean: torch.Tensor
    output_std: torch.Tensor

    def __init__(
        self,
        support: Support,
        n_outputs: int,
        width: int,
        depth: int,
        activation: str,
        redshifts: Sequence[float] | None = None,
    ):
        super().__init__()
        check_sizes(width=width, depth=depth)
        if activation not in ACTIVATIONS:
            raise ValueError(f"activation must be one of {', '.join(ACTIVATIONS)}; got {activation!r}.")
        self.config: dict[str, Any] = {"width": int(width), "depth": int(depth), "activation": activation}
        self.redshifts = None if redshifts is None else _redshift_range(redshifts)
        if self.redshifts is not None:
            self.config["redshifts"] = list(self.redshifts)
        sizes = [len(OCCUPATION_PARAMETERS) + (self.redshifts is not None)] + [width] * depth
        layers = []
        for n_in, n_out in pairwise(sizes):
            layers += [nn.Linear(n_in, n_out), ACTIVATIONS[activation]()]
        self.hidden = nn.Sequential(*layers)
        self.output = nn.Linear(width, n_outputs)
        low, high = support.logMmin
        fits = [ZHENG07_LINE[name] for name in OCCUPATION_PARAMETERS[1:]]
        for name, values in (
            ("line_slope", [0.0] + [fit.slope for fit in fits]),
            ("line_intercept", [0.5 * (low + high)] + [fit.intercept for fit in fits]),
            ("half_width", [0.5 * (high - low)] + [support.n_rmse * fit.rmse for fit in fits]),
            ("output_mean", [0.0] * n_outputs),
            ("output_std", [1.0] * n_outputs),
        ):
            self.register_buffer(name, torch.tensor(values, dtype=torch.float64))

    def inputs(self, theta: torch.Tensor) -> torch.Tensor:
        """Return the scaled inputs of the network for given occupation parameters.

        Parameters
        ----------
        theta : tensor (..., 5) or (..., 6)
            In the order of ``OCCUPATION_PARAMETERS``; then the redshift, for a network of several.

        Returns
        -------
        tensor like ``theta``
        """
        occupation = theta[..., : len(OCCUPATION_PARAMETERS)]
        line = self.line_slope * occupation[..., :1] + self.line_intercept
        scaled = (occupation - line) / self.half_width
        if self.redshifts is None:
            return scaled
        return torch.cat([scaled, self._scaled(theta[..., len(OCCUPATION_PARAMETERS) :])], dim=-1)

    def _scaled(self, redshift: Any) -> Any:
        """Return the redshift scaled to [-1, 1]."""
        assert self.redshifts is not None
        low, high = self.redshifts
        return (2.0 * redshift - (low + high)) / (high - low)

    def at_redshift(self, redshift: float) -> Self:
        """Return the network of one redshift, which has the parameters of the occupation as its only inputs.

        Parameters
        ----------
        redshift : float

        Returns
        -------
        OccupationNet
            It shares all weights but those of the first layer.
        """
        found = copy.copy(self)
        found._modules = dict(self._modules)
        first: Any = self.hidden[0]
        n_inputs = len(OCCUPATION_PARAMETERS)
        layer = nn.Linear(n_inputs, first.out_features, device="meta", dtype=first.weight.dtype)
        layer.weight = nn.Parameter(first.weight[:, :n_inputs].detach().clone(), requires_grad=False)
        added = first.weight[:, n_inputs].double() * self._scaled(float(redshift))
        layer.bias = nn.Parameter((first.bias.double() + added).to(first.bias.dtype).detach(), requires_grad=False)
        found.hidden = nn.Sequential(layer, *list(self.hidden)[1:])
        found.redshifts = None
        found.config = {name: value for name, value in self.config.items() if name != "redshifts"}
        return found.eval()

    def forward(self, theta: torch.Tensor, head: tuple[torch.Tensor, torch.Tensor] | None = None) -> torch.Tensor:
        """Return the outputs (..., n_outputs) in physical units, or those of a :meth:`head`."""
        hidden = self.hidden(self.inputs(theta).to(self.output.weight.dtype))
        return nn.functional.linear(hidden, *(self.head() if head is None else head))

    def head(self, rows: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """Return weight and bias of the last layer for outputs in physical units.

        Parameters
        ----------
        rows : tensor of int (n,), optional
            Which outputs, from :meth:`rows` and :meth:`scalar_rows`; by default all.

        Returns
        -------
        weight : tensor (n, width)
        bias : tensor (n,)
        """
        chosen = torch.arange(len(self.output_std)) if rows is None else rows
        std, weight = self.output_std[chosen], self.output.weight[chosen]
        weight = (weight * std[:, None]).to(weight.dtype)
        return weight, (self.output.bias[chosen] * std + self.output_mean[chosen]).to(weight.dtype)

    def to_arrays(self) -> dict[str, np.ndarray]:
        """Return weights and buffers as arrays for a file.

        Returns
        -------
        dict of str to array
        """
        return {name: value.detach().cpu().numpy() for name, value in self.state_dict().items()}


def _redshift_range(redshifts: Sequence[float]) -> tuple[float, float]:
    low, high = redshifts
    for redshift in (low, high):
        Range(above=-1).check("redshifts of a network", redshift)
    if not low < high:
        raise ValueError(f"The redshifts of a network must be a range, lower end first; got {low}, {high}.")
    return float(low), float(high)


class FactorisedNet(OccupationNet):
    """The network that maps occupation parameters to the ingredients.

    Outputs, (..., 6 n_bins + 2), are the six ingredients in each bin, one ingredient after the other, then the two
    scalars.

    Parameters
    ----------
    support : Support
    n_bins : int
        Number of bins that it predicts.
    width, depth, activation, redshifts
        See :class:`OccupationNet`.

    Raises
    ------
    ValueError
        A size is not allowed, or the activation is unknown.
    """

    def __init__(
        self,
        support: Support,
        n_bins: int,
        width: int = 256,
        depth: int = 3,
        activation: str = "silu",
        redshifts: Sequence[float] | None = None,
    ):
        check_sizes(n_bins=n_bins)
        n_outputs = len(INGREDIENTS) * int(n_bins) + len(SCALARS)
        super().__init__(support, n_outputs, width, depth, activation, redshifts)
        self.config = {"n_bins": int(n_bins), **self.config}
        self.n_bins = int(n_bins)

    def rows(self, ingredients: Sequence[str], bins: slice = slice(None)) -> torch.Tensor:
        """Return the indices of the outputs, one ingredient after the other.

        Parameters
        ----------
        ingredients : sequence of str
            Names in ``INGREDIENTS``.
        bins : slice
            Which bins; by default all.

        Returns
        -------
        tensor of int (n_ingredients * number of bins,)
        """
        n = self.n_bins
        return torch.cat([torch.arange(n)[bins] + n * INGREDIENTS.index(name) for name in ingredients])

    def scalar_rows(self) -> torch.Tensor:
        """Return the indices of the two scalar outputs.

        Returns
        -------
        tensor of int (2,)
        """
        start = len(INGREDIENTS) * self.n_bins
        return torch.arange(start, start + len(SCALARS))


class RadialNet(OccupationNet):
    """The network of the orientation sums of satellites by their distance from the centre of their host.

    Its outputs are amplitudes of principal components of these sums, each divided by the number of pairs: A_s and E_cs
    at the radii of :mod:`iaemu.halomodel.radial`, and E_ss by pairs of functions, in the order of
    ``numpy.triu_indices`` without the first.

    Parameters
    ----------
    support : Support
    n_bins : int
        Number of bins that it predicts.
    n_components : int
    width, depth, activation, redshifts
        See :class:`OccupationNet`.

    Attributes
    ----------
    components : tensor (n_components, n_values)
        The components; n_values is the number of sums, one after the other, in each bin.
    mean : tensor (n_values,)
        Mean of the sums over the training set.
    profile : tensor (n_radii,)
        Share of the satellites at each radius.
    basis : tensor (n_radii, N_ONE)
        Functions of the radius, see :func:`iaemu.halomodel.radial.strength_basis`.

    Raises
    ------
    ValueError
        A size is not allowed, or the activation is unknown.
    """

    components: torch.Tensor
    mean: torch.Tensor
    profile: torch.Tensor
    basis: torch.Tensor

    #: Number of sums in each bin, by name.
    SUMS = {"A_s": len(RADII), "E_cs": len(RADII), "E_ss": N_TWO * (N_TWO + 1) // 2 - 1}

    def __init__(
        self,
        support: Support,
        n_bins: int,
        n_components: int = 96,
        width: int = 256,
        depth: int = 3,
        activation: str = "silu",
        redshifts: Sequence[float] | None = None,
    ):
        check_sizes(n_bins=n_bins, n_components=n_components)
        super().__init__(support, int(n_components), width, depth, activation, redshifts)
        self.config = {"n_bins": int(n_bins), "n_components": int(n_components), **self.config}
        self.n_bins = int(n_bins)
        n_values = sum(self.SUMS.values()) * self.n_bins
        for name, shape in (
            ("components", (int(n_components), n_values)),
            ("mean", (n_values,)),
        ):
            self.register_buffer(name, torch.zeros(shape))
        # A factor of 1 is exact in double precision.
        self.register_buffer("profile", torch.zeros(len(RADII), dtype=torch.float64))
        self.register_buffer("basis", torch.zeros(len(RADII), N_ONE, dtype=torch.float64))

    def sums(self, theta: torch.Tensor, whole: Mapping[str, torch.Tensor], bins: slice) -> dict[str, torch.Tensor]:
        """Return the orientation sums of satellites, divided by the number of pairs.

        Parameters
        ----------
        theta : tensor (n, 5)
            In the order of ``OCCUPATION_PARAMETERS``.
        whole : mapping of A_s, E_cs and E_ss to tensor (n, n_used)
            The sums over all radii, which are known better. Only what it contains is returned.
        bins : slice
            Which bins.

        Returns
        -------
        dict of str to tensor
            A_s and E_cs (n, n_radii, n_used), and E_ss (n, n_functions, n_functions, n_used).
        """
        outputs, found = self(theta), {}
        for name in (name for name in self.SUMS if name in whole):
            components, mean = self._of(name, bins, outputs)
            parts = torch.tensordot(outputs, components, dims=1) + mean
            if name == "E_ss":
                found[name] = pair_matrices(parts)
                found[name][:, 0, 0] = whole[name]
            else:
                rest = whole[name] - parts.sum(dim=1)
                found[name] = parts + self.to_basis.to(parts)[:, :1] * rest[:, None]
        return found

    def weighted(
        self, theta: torch.Tensor, factors: torch.Tensor, whole: Mapping[str, torch.Tensor], bins: slice
    ) -> dict[str, torch.Tensor]:
        """Return the sums of :meth:`sums` for factors of satellites that depend on their radius, with less memory.

        Parameters
        ----------
        theta : tensor (n, 5)
            See :meth:`sums`.
        factors : tensor (n, n_radii)
        whole, bins
            See :meth:`sums`.

        Returns
        -------
        dict of str to tensor (n, n_used)
        """
        s = factors @ self.to_basis.to(factors)[:, :N_TWO]
        outputs, found = self(theta), {}
        constant = s[:, :1]
        for name in (name for name in self.SUMS if name in whole):
            components, mean = self._of(name, bins, outputs)
            if name == "E_ss":
                k, m = (torch.as_tensor(index[1:]) for index in np.triu_indices(N_TWO))
                weights, whole_factor = s[:, k] * s[:, m] * torch.where(k == m, 1.0, 2.0).to(s), constant**2
            else:
                weights, whole_factor = factors - constant, constant
            parts = torch.mm(outputs, components.flatten(start_dim=1)).unflatten(1, mean.shape)
            found[name] = torch.bmm(weights[:, None], parts)[:, 0] + weights @ mean + whole_factor * whole[name]
        return found

    def _of(self, name: str, bins: slice, like: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return components (n_components, number, n_used) and mean (number, n_used) of one kind of sum."""
        number = self.SUMS[name]
        start = sum(list(self.SUMS.values())[: list(self.SUMS).index(name)]) * self.n_bins
        values = slice(start, start + number * self.n_bins)
        components, mean = (
            part[..., values].unflatten(-1, (number, self.n_bins))[..., bins].to(like)
            for part in (self.components, self.mean)
        )
        return components, mean

    @cached_property
    def to_basis(self) -> torch.Tensor:
        """Projects factors at the radii onto the functions, (n_radii, N_ONE)."""
        return torch.as_tensor(to_basis(self.basis.double().numpy(), self.profile.double().numpy()))
