"""Aleatoric error: the scatter of one measurement in a finite volume about its expectation.

From mock to mock xi, omega and eta scatter, because occupations and orientations are random. To leading order the
variance is inversely proportional to the number of pairs in a bin, which the emulator predicts. There remains a factor
that depends on the parameters, because pairs share galaxies; a small network learns it from the scatter of halotools-IA
mocks. The variance is that for the volume of the halo catalogues, and is inversely proportional to volume.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import nn

from iaemu.binning import check_edges
from iaemu.halomodel.alignment import mean_p2
from iaemu.networks.factorised import FactorisedNet, check_sizes
from iaemu.parameters import ALIGNMENT_PARAMETERS, OCCUPATION_PARAMETERS
from iaemu.ranges import Range
from iaemu.statistics import STATISTICS

_N_INPUTS = len(OCCUPATION_PARAMETERS) + len(ALIGNMENT_PARAMETERS)


class AleatoricNet(nn.Module):
    """A network that predicts log(variance x pairs) of xi / (1 + xi), omega and eta in each bin.

    Its inputs are those of ``FactorisedNet``, and q(mu_cen) and q(mu_sat). Its outputs are (..., 3 n_bins), one
    statistic after the other.

    Parameters
    ----------
    n_bins : int
        Number of bins.
    width, depth : int
        Number of units in a hidden layer, and of hidden layers.
    n_members : int
        Number of networks whose outputs are averaged, as they are trained on few mocks.
    """

    output_mean: torch.Tensor

    def __init__(self, n_bins: int, width: int = 64, depth: int = 2, n_members: int = 4):
        super().__init__()
        sizes_given = {"n_bins": n_bins, "width": width, "depth": depth, "n_members": n_members}
        check_sizes(**sizes_given)
        self.config = {name: int(value) for name, value in sizes_given.items()}
        self.n_bins = int(n_bins)
        self.n_outputs = len(STATISTICS) * self.n_bins
        sizes = [_N_INPUTS] + [width] * depth
        self.members = nn.ModuleList()
        for _ in range(n_members):
            layers: list[nn.Module] = []
            for n_in, n_out in pairwise(sizes):
                layers += [nn.Linear(n_in, n_out), nn.SiLU()]
            self.members.append(nn.Sequential(*layers, nn.Linear(width, self.n_outputs)))
        self.register_buffer("output_mean", torch.zeros(self.n_outputs, dtype=torch.float64))

    @staticmethod
    def inputs(network: FactorisedNet, theta: torch.Tensor) -> torch.Tensor:
        """Return the inputs of the network for given parameters.

        Parameters
        ----------
        network : FactorisedNet
            It standardises the parameters of the occupation.
        theta : tensor (..., 7)

        Returns
        -------
        tensor (..., 7)
        """
        n = len(ALIGNMENT_PARAMETERS)
        return torch.cat([network.inputs(theta[..., n:]), mean_p2(theta[..., :n].clamp(-1.0, 1.0))], dim=-1)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        inputs = inputs.to(next(self.parameters()).dtype)
        return torch.stack([member(inputs) for member in self.members]).mean(dim=0) + self.output_mean

    def columns(self, statistic: str) -> slice:
        """Return which outputs belong to one statistic.

        Parameters
        ----------
        statistic : str

        Returns
        -------
        slice
        """
        start = self.n_bins * STATISTICS.index(statistic)
        return slice(start, start + self.n_bins)


class Aleatoric:
    """The scatter of one measurement: a network for its variance, and its correlations between bins.

    Parameters
    ----------
    network : AleatoricNet
    r_edges : array (n_bins + 1,)
        Edges of the bins in which it is known [Mpc/h].
    correlations : dict of statistic to array (n_bins, n_bins)
        Correlation matrix of the scatter, averaged over the mocks that it was fitted to.
    volume : float
        Volume for which the scatter holds [(Mpc/h)^3].

    Raises
    ------
    ValueError
        The volume is not a positive number, or the network has another number of bins.
    """

    def __init__(self, network: AleatoricNet, r_edges: ArrayLike, correlations: dict[str, np.ndarray], volume: float):
        self.network = network.eval().requires_grad_(False)
        self.r_edges, self.correlations = check_edges(r_edges), correlations
        if len(self.r_edges) - 1 != network.n_bins:
            raise ValueError(f"The network has {network.n_bins} bins; r_edges have {len(self.r_edges) - 1}.")
        Range(above=0).check("volume", volume)
        self.volume = float(volume)

    def variance(
        self,
        network: AleatoricNet,
        inputs: torch.Tensor,
        statistic: str,
        xi: torch.Tensor,
        pairs: torch.Tensor,
        shares: torch.Tensor,
    ) -> torch.Tensor:
        """Return the variance of a measurement of one statistic in the volume.

        A part of a bin has the same variance times pairs, except for what its pairs have in common with each other,
        which is estimated by the correlation of neighbouring bins and does not depend on the size of the part.

        Parameters
        ----------
        network : AleatoricNet
            The network in the precision and on the device of the inputs.
        inputs : tensor (n, 7)
            From :meth:`AleatoricNet.inputs`.
        statistic : str
        xi, pairs : tensors (n, n_bins)
            Predicted xi and expected number of ordered pairs in the volume, in the bins ``r_edges``.
        shares : tensor (n, m, n_bins)
            Share of the pairs of each bin that is in each of m other bins.

        Returns
        -------
        tensor (n, m)
        """
        factor = torch.exp(network(inputs)[:, network.columns(statistic)])
        amplitude = 1.0 + xi if statistic == "xi" else 1.0
        sigma = amplitude * torch.sqrt(factor / pairs)
        # A bin is a mean over those that it contains, weighted by pairs; for xi, 1 + xi is one over volume.
        part = shares * (pairs / amplitude if statistic == "xi" else pairs).unsqueeze(1)
        weight = part / part.sum(dim=-1, keepdim=True) * sigma.unsqueeze(1)
        correlation = torch.as_tensor(self.correlations[statistic]).to(sigma)
        common = _common(correlation)
        within = weight**2 * (1.0 - common) * (1.0 / shares.clamp(min=1e-9) - 1.0)
        return (weight @ correlation * weight).sum(dim=-1) + within.sum(dim=-1)

    def to_arrays(self) -> dict[str, np.ndarray]:
        """Return weights, edges and correlations as arrays for a file.

        Returns
        -------
        dict of str to array
        """
        arrays = {f"network.{name}": value.cpu().numpy() for name, value in self.network.state_dict().items()}
        arrays |= {f"correlation.{name}": np.asarray(matrix) for name, matrix in self.correlations.items()}
        return arrays | {"r_edges": self.r_edges}

    @classmethod
    def from_arrays(cls, arrays: dict[str, np.ndarray], config: dict, volume: float) -> Aleatoric:
        """Return the scatter from arrays of :meth:`to_arrays`.

        Parameters
        ----------
        arrays : dict of str to array
        config : dict
            Arguments of the network's constructor.
        volume : float
            [(Mpc/h)^3]

        Returns
        -------
        Aleatoric

        Raises
        ------
        KeyError, RuntimeError
            An array is missing.
        """
        # The tensors are those of the file, so none are allocated, and no random numbers are drawn for them.
        with torch.device("meta"):
            network = AleatoricNet(**config)
        prefix = "network."
        state = {name.removeprefix(prefix): value for name, value in arrays.items() if name.startswith(prefix)}
        network.load_state_dict({name: torch.as_tensor(value) for name, value in state.items()}, assign=True)
        correlations = {name: arrays[f"correlation.{name}"] for name in STATISTICS}
        return cls(network, arrays["r_edges"], correlations, volume)


def _common(correlation: torch.Tensor) -> torch.Tensor:
    """Return the correlation of the two halves of each bin, taken as the mean correlation with its neighbours."""
    beside = torch.diagonal(correlation, 1)
    if not len(beside):
        return torch.zeros_like(torch.diagonal(correlation))
    first, last = beside[:1], beside[-1:]
    return 0.5 * (torch.cat([first, beside]) + torch.cat([beside, last])).clamp(0.0, 1.0)
