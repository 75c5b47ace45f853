"""Aleatoric error: the scatter of one measurement in a finite volume about its expectation.

From mock to mock xi, omega and eta scatter, because occupations and orientations are random. To leading order the
variance is inversely proportional to the number of pairs in a bin, which the emulator predicts. There remains a factor
that depends on the parameters, because pairs share galaxies; a small network learns it from the scatter of halotools-IA
mocks. The variance is that for the volume of the halo catalogues, and is inversely proportional to volume.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import torch
from torch import nn

from iaemu.halomodel.alignment import mean_p2
from iaemu.networks.factorised import FactorisedNet, check_sizes
from iaemu.parameters import ALIGNMENT_PARAMETERS, OCCUPATION_PARAMETERS
from iaemu.ranges import Range
from iaemu.statistics import STATISTICS

_N_INPUTS = len(OCCUPATION_PARAMETERS) + len(ALIGNMENT_PARAMETERS)


class AleatoricNet(nn.Module):
    """A network that predicts log(variance x pairs) of xi / (1 + xi), omega and eta in each bin of each binning.

    Its inputs are those of ``FactorisedNet``, and q(mu_cen) and q(mu_sat). Its outputs are (..., 3 n_bins), one binning
    after the other, and in each one statistic after the other.

    Parameters
    ----------
    n_bins : sequence of int
        Number of bins of each binning.
    width, depth : int
        Number of units in a hidden layer, and of hidden layers.
    n_members : int
        Number of networks whose outputs are averaged, as they are trained on few mocks.
    """

    output_mean: torch.Tensor

    def __init__(self, n_bins: Sequence[int], width: int = 64, depth: int = 2, n_members: int = 4):
        super().__init__()
        check_sizes(n_bins, width=width, depth=depth, n_members=n_members)
        self.config = {"n_bins": list(n_bins), "width": int(width), "depth": int(depth), "n_members": int(n_members)}
        self.n_bins = tuple(int(n) for n in n_bins)
        self.n_outputs = len(STATISTICS) * sum(self.n_bins)
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

    def columns(self, binning: int, statistic: str) -> slice:
        """Return which outputs belong to one statistic in one binning.

        Parameters
        ----------
        binning : int
            Index of the binning.
        statistic : str

        Returns
        -------
        slice
        """
        n = self.n_bins[binning]
        start = len(STATISTICS) * sum(self.n_bins[:binning]) + n * STATISTICS.index(statistic)
        return slice(start, start + n)


class Aleatoric:
    """The scatter of one measurement: a network for its variance, and its correlations between bins.

    Parameters
    ----------
    network : AleatoricNet
    correlations : list (one per binning) of dict of statistic to array (n_bins, n_bins)
        Correlation matrix of the scatter, averaged over the mocks that it was fitted to.
    volume : float
        Volume for which the scatter holds [(Mpc/h)^3].
    """

    def __init__(self, network: AleatoricNet, correlations: list[dict[str, np.ndarray]], volume: float):
        self.network = network.eval().requires_grad_(False)
        self.correlations = correlations
        Range(above=0).check("volume", volume)
        self.volume = float(volume)

    @staticmethod
    def variance(
        network: AleatoricNet, inputs: torch.Tensor, binning: int, statistic: str, xi: torch.Tensor, pairs: torch.Tensor
    ) -> torch.Tensor:
        """Return the variance of a measurement of one statistic in the volume, in the bins of one binning.

        Parameters
        ----------
        network : AleatoricNet
            In the precision and on the device of the inputs.
        inputs : tensor (n, 7)
            From :meth:`AleatoricNet.inputs`.
        binning : int
            Index of the binning.
        statistic : str
        xi, pairs : tensors (n, n_bins)
            Predicted xi, and expected number of ordered pairs in the volume.

        Returns
        -------
        tensor (n, n_bins)
        """
        factor = torch.exp(network(inputs)[:, network.columns(binning, statistic)])
        amplitude = (1.0 + xi) ** 2 if statistic == "xi" else 1.0
        return factor * amplitude / pairs

    def to_arrays(self) -> dict[str, np.ndarray]:
        """Return weights and correlations as arrays for a file.

        Returns
        -------
        dict of str to array
        """
        arrays = {f"network.{name}": value.cpu().numpy() for name, value in self.network.state_dict().items()}
        for binning, matrices in enumerate(self.correlations):
            arrays |= {f"correlation.{binning}.{name}": np.asarray(matrix) for name, matrix in matrices.items()}
        return arrays

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
        correlations = [
            {name: arrays[f"correlation.{binning}.{name}"] for name in STATISTICS}
            for binning in range(len(network.n_bins))
        ]
        return cls(network, correlations, volume)
