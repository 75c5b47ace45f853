"""IAEmuNet: the network of the paper (IAEmu, arXiv:2504.05235, section 3.1), with 660,602 weights.

A perceptron maps the seven parameters to 128 features. Three convolutional decoders, one for each statistic, map these
to a mean and a variance in each of 20 bins. The paper does not state the widths; they are those of the published code.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise, repeat
from typing import Any

import torch
from torch import nn

from iaemu.parameters import PARAMETERS
from iaemu.ranges import Range
from iaemu.statistics import STATISTICS

N_BINS = 20

#: Numbers of features before, between and after the five linear layers of the embedding.
_EMBEDDING = (len(PARAMETERS), 128, 128, 256, 256, 128)
#: Numbers of channels before, between and after the six convolutions of a decoder that keep the signal's length.
_CHANNELS = (7, 14, 28, 28, 56, 112, 112)
_LENGTH = 100


class _Layer(nn.Module):
    """A linear map or a convolution, then LeakyReLU, batch normalisation and dropout.

    Parameters
    ----------
    operation : nn.Module
    shape : sequence of int
        Shape of the operation's output for one point; its first entry is the number of features or channels.
    dropout : float
    """

    def __init__(self, operation: nn.Module, shape: Sequence[int], dropout: float):
        super().__init__()
        self.operation = operation
        self.activation = nn.LeakyReLU()
        self.norm = nn.BatchNorm1d(shape[0])
        self.dropout = nn.Dropout(dropout)
        self.shape = tuple(shape)

    def forward(self, values: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        values = self.norm(self.activation(self.operation(values)))
        if mask is None:
            return self.dropout(values)
        # Rows are the points of the first pass, then those of the second, and so on; each pass has one mask.
        values = values.unflatten(0, (len(mask), -1)) * mask.unsqueeze(1)
        return values.flatten(0, 1) / (1.0 - self.dropout.p)


class _Decoder(nn.Module):
    """Maps the embedding (n, 128) to a mean and a raw variance (n, 2, 20) of one statistic."""

    def __init__(self, dropout: float, variance_bias: float):
        super().__init__()
        self.expand = _Layer(nn.Linear(_EMBEDDING[-1], _CHANNELS[0] * _LENGTH), (_CHANNELS[0] * _LENGTH,), dropout)
        self.convolutions = nn.ModuleList(
            _Layer(nn.Conv1d(n_in, n_out, kernel_size=3, padding=1), (n_out, _LENGTH), dropout)
            for n_in, n_out in pairwise(_CHANNELS)
        )
        self.output = nn.Conv1d(_CHANNELS[-1], 2, kernel_size=5, stride=5, padding=1)
        with torch.no_grad():
            self.output.get_parameter("bias")[1] = variance_bias

    def forward(self, latent: torch.Tensor, masks: Iterator) -> torch.Tensor:
        signal = self.expand(latent, next(masks)).unflatten(1, (_CHANNELS[0], _LENGTH))
        for number, convolution in enumerate(self.convolutions, start=1):
            previous = signal
            signal = convolution(previous, next(masks))
            if number in (3, 6):
                signal = signal + previous
        return self.output(signal)


class IAEmuNet(nn.Module):
    """The paper's network: maps standardised parameters to mean and variance of standardised log xi, omega and eta.

    The embedding has five linear layers, 7-128-128-256-256-128. The output of the second, projected to 256 features, is
    added to that of the third, and the sum to that of the fourth. A decoder has a linear layer to 7 x 100, six
    convolutions of width 3 with 14, 28, 28, 56, 112, 112 channels, where the output of the second is added to that of
    the third and the output of the fifth to that of the sixth, and a last convolution to 2 x 20. LeakyReLU, batch
    normalisation and dropout follow each layer except the last one and the projection. A softplus keeps the variance
    positive.

    Parameters
    ----------
    dropout : float
        Probability that a feature is dropped.
    variance_bias : float
        Initial bias of the variance outputs: 0 in the paper (Appendix C, after Sluijterman et al. 2023), 1 in the
        published code. With 0 and the default initial weights the first variances are near softplus(0) = 0.69 of the
        variance of the training set, but differ between bins.
    """

    n_bins = N_BINS

    def __init__(self, dropout: float = 0.2, variance_bias: float = 0.0):
        super().__init__()
        Range(at_least=0, below=1).check("dropout", dropout)
        Range().check("variance_bias", variance_bias)
        self.config = {"dropout": float(dropout), "variance_bias": float(variance_bias)}
        self.embedding = nn.ModuleList(
            _Layer(nn.Linear(n_in, n_out), (n_out,), dropout) for n_in, n_out in pairwise(_EMBEDDING)
        )
        self.projection = nn.Linear(_EMBEDDING[2], _EMBEDDING[3])
        self.decoders = nn.ModuleDict({name: _Decoder(dropout, variance_bias) for name in STATISTICS})

    def forward(
        self, inputs: torch.Tensor, masks: Sequence[torch.Tensor] | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return mean and variance of the standardised statistics.

        Parameters
        ----------
        inputs : tensor (n, 7)
            Standardised parameters.
        masks : sequence of tensors, optional
            From :meth:`draw_masks`: the features that each Monte Carlo pass keeps, instead of random dropout.

        Returns
        -------
        mean, variance : tensors (n, 3, 20), or (n_passes, n, 3, 20) with ``masks``
            In the order of ``iaemu.prediction.STATISTICS``.
        """
        if masks is None:
            return self._forward(inputs, repeat(None))
        if self.training:
            raise RuntimeError("Dropout masks can only be given in eval mode; call network.eval() first.")
        n_passes = len(masks[0])
        mean, variance = self._forward(inputs.expand(n_passes, *inputs.shape).flatten(0, 1), iter(masks))
        return mean.unflatten(0, (n_passes, -1)), variance.unflatten(0, (n_passes, -1))

    def _forward(self, inputs, masks: Iterator) -> tuple[torch.Tensor, torch.Tensor]:
        first, second, third, fourth, last = self.embedding
        narrow = second(first(inputs, next(masks)), next(masks))
        wide = third(narrow, next(masks)) + self.projection(narrow)
        wide = fourth(wide, next(masks)) + wide
        latent = last(wide, next(masks))
        outputs = torch.stack([decoder(latent, masks) for decoder in self.decoders.values()], dim=1)
        return outputs[:, :, 0], nn.functional.softplus(outputs[:, :, 1])

    def draw_masks(self, n_passes: int, seed: int) -> list[torch.Tensor]:
        """Draw the features that each Monte Carlo pass keeps, without using the global generator of torch.

        All points of a pass have the same mask. So a pass is a function of the parameters that is the same in any batch
        and smooth between points.

        Parameters
        ----------
        n_passes, seed : int

        Returns
        -------
        list of bool tensors (n_passes, *features)
            One for each layer with dropout.
        """
        generator = torch.Generator().manual_seed(seed)
        # Layers were registered in the order in which forward() uses them.
        layers = [module for module in self.modules() if isinstance(module, _Layer)]
        options: dict[str, Any] = {"generator": generator, "dtype": torch.float32, "device": "cpu"}
        return [torch.rand((n_passes, *layer.shape), **options) >= layer.dropout.p for layer in layers]
