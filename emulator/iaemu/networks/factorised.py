"""FactorisedNet: the network of the emulator, which predicts what does not depend on the alignment strengths.

At fixed occupation omega = q(mu_cen) A_c + q(mu_sat) A_s and eta = q_c^2 E_cc + 2 q_c q_s E_cs + q_s^2 E_ss. So the
network maps the five occupation parameters to xi, A_c, A_s, E_cc, E_cs and E_ss. Then omega = eta = 0 holds exactly at
mu_cen = mu_sat = 0, and xi does not depend on the strengths.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import torch
from torch import nn

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


class FactorisedNet(nn.Module):
    """A multilayer perceptron with smooth activations that maps occupation parameters to the ingredients.

    Inputs are ``logMmin``, and the offsets of the other four parameters from the line of Zheng et al. 2007, scaled to
    [-1, 1] over the supported region. Outputs, (..., 6 n_bins + 2), are the six ingredients in each bin, one ingredient
    after the other, then the two scalars. Their means and standard deviations over the training set are kept as
    buffers.

    Parameters
    ----------
    support : Support
    n_bins : int
        Number of bins that it predicts.
    width, depth : int
        Number of units in a hidden layer, and of hidden layers.
    activation : str
        A name in ``ACTIVATIONS``.

    Raises
    ------
    ValueError
        A size is not allowed, or the activation is unknown.
    """

    line_slope: torch.Tensor
    line_intercept: torch.Tensor
    half_width: torch.Tensor
    output_mean: torch.Tensor
    output_std: torch.Tensor

    def __init__(self, support: Support, n_bins: int, width: int = 256, depth: int = 3, activation: str = "silu"):
        super().__init__()
        check_sizes(n_bins=n_bins, width=width, depth=depth)
        if activation not in ACTIVATIONS:
            raise ValueError(f"activation must be one of {', '.join(ACTIVATIONS)}; got {activation!r}.")
        self.config = {"n_bins": int(n_bins), "width": int(width), "depth": int(depth), "activation": activation}
        self.n_bins = int(n_bins)
        n_outputs = len(INGREDIENTS) * self.n_bins + len(SCALARS)
        sizes = [len(OCCUPATION_PARAMETERS)] + [width] * depth
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
        theta : tensor (..., 5)
            In the order of ``OCCUPATION_PARAMETERS``.

        Returns
        -------
        tensor (..., 5)
        """
        line = self.line_slope * theta[..., :1] + self.line_intercept
        return (theta - line) / self.half_width

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

    def to_arrays(self) -> dict[str, np.ndarray]:
        """Return weights and buffers as arrays for a file.

        Returns
        -------
        dict of str to array
        """
        return {name: value.detach().cpu().numpy() for name, value in self.state_dict().items()}
