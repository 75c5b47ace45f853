"""Sampling of differentiable densities with many chains at once: Hamiltonian Monte Carlo and NUTS in torch.

It does not depend on cosmology. A log-density maps points (n, d) to values (n,):

>>> import torch
>>> from iaemu.sampling import sample
>>> def log_density(x):
...     return -0.5 * (x[:, 0] / 2.0) ** 2 - x[:, 1]
>>> result = sample(log_density, start=[1.0, 0.5], bounds=([None, 0.0], None), n_draws=200, progress=False)
>>> bool(result.rhat.max() < 1.01), tuple(result.draws.shape)
(True, (64, 200, 2))

``print(result)`` shows a table. :class:`Sampler` does the same in steps, and can be saved and resumed.
"""

from iaemu.sampling.errors import SamplingError
from iaemu.sampling.hmc import HMCInfo, State
from iaemu.sampling.laplace import Laplace
from iaemu.sampling.metric import Metric
from iaemu.sampling.nuts import NUTSInfo
from iaemu.sampling.polytope import region
from iaemu.sampling.run import SamplingResult, sample
from iaemu.sampling.sampler import Draws, Sampler
from iaemu.sampling.settings import Settings
from iaemu.sampling.transforms import Transform

__all__ = [
    "Draws",
    "HMCInfo",
    "Laplace",
    "Metric",
    "NUTSInfo",
    "Sampler",
    "SamplingError",
    "SamplingResult",
    "Settings",
    "State",
    "Transform",
    "region",
    "sample",
]
