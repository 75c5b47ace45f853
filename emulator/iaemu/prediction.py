"""What every forward model gives: the emulator, the tables and the halotools mocks share this contract."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Protocol, runtime_checkable

import numpy as np
import torch

from iaemu.parameters import Support

STATISTICS = ("xi", "omega", "eta")


def check_statistics(statistics) -> tuple[str, ...]:
    """The statistics asked for (one name or several) in the order of ``STATISTICS``; ValueError for an unknown one."""
    names = (statistics,) if isinstance(statistics, str) else tuple(statistics)
    unknown = [str(name) for name in names if name not in STATISTICS]
    if unknown:
        raise ValueError(f"Unknown statistic(s) {', '.join(unknown)}; known are {', '.join(STATISTICS)}.")
    return tuple(name for name in STATISTICS if name in names)


@dataclass
class Prediction:
    """Correlation functions at one or more parameter points.

    Arrays if the parameters came as numbers or arrays, tensors (with gradients) if they came as tensors.

    Attributes
    ----------
    r_edges : array (n_bins + 1,)
        Edges of the radial bins [Mpc/h].
    xi : (..., n_bins)
        Position-position correlation, equation 1 of arXiv:2504.05235; dimensionless, like the others.
    omega : (..., n_bins)
        Position-orientation correlation <|e.r|^2> - 1/3, equation 2.
    eta : (..., n_bins)
        Orientation-orientation correlation <|e1.e2|^2> - 1/3, equation 3.
    sigma_aleatoric, sigma_epistemic : dict of statistic to (..., n_bins), or None
        Standard deviations, where the model has them.
    n_gal : (...), or None
        Expected number of galaxies in one box of the catalogue (in the mean of its boxes, if there are several).
    f_sat : (...), or None
        Expected satellite fraction.
    """

    r_edges: np.ndarray
    xi: np.ndarray | torch.Tensor | None = None
    omega: np.ndarray | torch.Tensor | None = None
    eta: np.ndarray | torch.Tensor | None = None
    sigma_aleatoric: dict | None = None
    sigma_epistemic: dict | None = None
    n_gal: np.ndarray | torch.Tensor | None = None
    f_sat: np.ndarray | torch.Tensor | None = None

    @property
    def r(self) -> np.ndarray:
        """Bin centres: arithmetic means of the edges [Mpc/h]."""
        return 0.5 * (self.r_edges[1:] + self.r_edges[:-1])

    def numpy(self) -> Prediction:
        """The same prediction as numpy arrays, detached from any gradient."""

        def convert(value):
            if isinstance(value, dict):
                return {key: convert(entry) for key, entry in value.items()}
            return value.detach().cpu().numpy() if isinstance(value, torch.Tensor) else value

        return Prediction(**{field.name: convert(getattr(self, field.name)) for field in fields(self)})


def reject(values: dict[str, torch.Tensor], inside: torch.Tensor) -> dict[str, torch.Tensor]:
    """The values (n, ...) with NaN for the points that are not ``inside``, a bool tensor of n entries in any shape."""
    outside = ~inside.reshape(-1)
    return {
        name: torch.where(outside.reshape(-1, *[1] * (value.ndim - 1)), torch.full_like(value, torch.nan), value)
        for name, value in values.items()
    }


@runtime_checkable
class ForwardModel(Protocol):
    """Protocol of everything that maps parameters to correlation functions.

    ``predict(theta, r_edges=None, statistics=STATISTICS)``: ``theta`` a mapping of names, an array or a tensor
    (..., 7) in the order of ``parameters``; numbers in, arrays out; tensors in, tensors out, differentiable. ``None``
    edges are the model's own; others must nest in them, or :class:`iaemu.binning.BinningError` is raised.
    """

    parameters: tuple[str, ...]
    support: Support
    r_edges: np.ndarray

    def predict(self, theta, r_edges=None, statistics=STATISTICS) -> Prediction: ...
