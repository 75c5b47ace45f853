"""The code that all emulators share: native bins, precision and device, files."""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import nn

from iaemu.artifact import write_artifact
from iaemu.binning import Rebinning, check_edges, shell_volumes
from iaemu.models.base import ForwardModel
from iaemu.parameters import Support
from iaemu.prediction import SIGMAS
from iaemu.statistics import STATISTICS


class NativeBins(NamedTuple):
    """How predictions in some bins follow from those between nodes.

    Attributes
    ----------
    edges : array (n_bins + 1,)
        Edges of the bins [Mpc/h].
    used : slice
        Which bins between nodes contribute.
    weights : tensor (n_bins, n_used), or None
        See :class:`iaemu.binning.Rebinning`; None if the bins are those between nodes.
    native : tensor (n_used,)
        Volumes of the bins between nodes [(Mpc/h)^3].
    volumes, missing : tensors (n_bins,)
        See :class:`iaemu.binning.Rebinning`.
    """

    edges: np.ndarray
    used: slice
    weights: torch.Tensor | None
    native: torch.Tensor
    volumes: torch.Tensor
    missing: torch.Tensor


class NetworkModel(ForwardModel):
    """A trained network as a forward model, in the precision and on the device of the parameters.

    Parameters
    ----------
    trained : nn.Module
        All modules that are evaluated.
    nodes : array (n_nodes,)
        Edges of the bins that it predicts directly [Mpc/h].
    metadata : dict
        Must contain ``support``.
    """

    shipped = "factorised-pm160.safetensors"

    #: Options of ``predict`` for the golden predictions.
    _golden_options: dict[str, Any] = {}

    def __init__(self, trained: nn.Module, nodes: ArrayLike, metadata: dict):
        self.nodes = check_edges(nodes)
        self.metadata = metadata
        self.support = Support.from_dict(metadata["support"])
        self._trained: Any = trained.eval().requires_grad_(False)
        self._copies: dict[tuple, nn.Module] = {}
        self._plans: dict[bytes, NativeBins] = {}

    # ------------------------------------------------------------------ files

    def save(self, path: Any) -> None:
        """Write the emulator to a file, with golden predictions that are checked when it is loaded.

        Parameters
        ----------
        path : path-like
        """
        tensors, network = self._contents()
        tensors |= {"nodes": self.nodes}
        metadata = {**self.metadata, "network": network, "golden": self._new_golden()}
        write_artifact(path, self.kind, tensors, metadata)

    @abstractmethod
    def _contents(self) -> tuple[dict[str, np.ndarray], dict]:
        """Return the tensors to write, and the arguments of the network's constructor."""

    def _golden(self, theta: np.ndarray) -> dict[str, np.ndarray]:
        golden: dict[str, np.ndarray] = {}
        for place, edges in self._golden_bins().items():
            # With "reject" there is no warning of bins with few pairs; the points are supported.
            options = {"support": "reject", "uncertainties": self.has_uncertainties, **self._golden_options}
            values = self.predict(theta, edges, **options)
            golden |= {f"{place}{name}": getattr(values, name) for name in STATISTICS}
            for field in SIGMAS:
                golden |= {f"{place}{field}.{name}": value for name, value in (getattr(values, field) or {}).items()}
            if not place and values.n_gal is not None:
                golden |= {"n_gal": values.n_gal, "f_sat": values.f_sat}
        return golden

    def _golden_bins(self) -> dict[str, np.ndarray]:
        """Return the edges of golden predictions, by the prefix of their names."""
        return {"": self.r_edges}

    # ------------------------------------------------------------------ bins, precision, device

    def _bins(self, r_edges: ArrayLike | None) -> NativeBins:
        edges = self.r_edges if r_edges is None else check_edges(r_edges)
        key = edges.tobytes()
        if key not in self._plans:
            found = Rebinning.between(self.nodes, edges)
            columns = np.flatnonzero(np.any(found.weights != 0, axis=0))
            used = slice(int(columns[0]), int(columns[-1]) + 1)
            weights = found.weights[:, used]
            same = weights.shape[0] == weights.shape[1] and np.array_equal(weights, np.eye(len(weights)))
            # Tensors made under inference mode could not be used in a later gradient.
            with torch.inference_mode(False):
                self._plans[key] = NativeBins(
                    edges,
                    used,
                    None if same else torch.as_tensor(weights),
                    torch.as_tensor(shell_volumes(self.nodes)[used]),
                    torch.as_tensor(found.volumes),
                    torch.as_tensor(found.missing),
                )
        return self._plans[key]

    def _copy(self, module: nn.Module, name: str, theta: torch.Tensor) -> Any:
        """Return a copy of a module in the precision and on the device of ``theta``, and keep it for later calls."""
        key = (name, theta.dtype, theta.device)
        if key not in self._copies:
            # A copy made under inference mode could not be used in a later gradient.
            with torch.inference_mode(False):
                self._copies[key] = copy.deepcopy(module).to(dtype=theta.dtype, device=theta.device)
        return self._copies[key]

    def _network(self, theta: torch.Tensor) -> Any:
        return self._copy(self._trained, "trained", theta)


def state_shapes(make: Callable[[], nn.Module], prefix: str) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the tensors of a module, without allocating them.

    Parameters
    ----------
    make : callable
        Returns the module.
    prefix : str
        Prefix of the names.

    Returns
    -------
    dict of str to tuple of int
    """
    return {f"{prefix}{name}": tuple(value.shape) for name, value in on_meta(make).state_dict().items()}


def on_meta(make: Callable[[], nn.Module]) -> Any:
    """Make a module without allocating its tensors and without drawing random numbers.

    ``load_state_dict(..., assign=True)`` then gives it the tensors of a file.

    Parameters
    ----------
    make : callable
        Returns the module.

    Returns
    -------
    nn.Module
    """
    with torch.device("meta"):
        return make()


def rebinned(
    pairs: torch.Tensor, columns: dict[str, torch.Tensor], bins: NativeBins
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Return predictions in bins: 1 + xi is averaged over volume, the others over pairs, volume * (1 + xi).

    Parameters
    ----------
    pairs : tensor (..., n_used)
        1 + xi between the nodes that are used.
    columns : dict of str to tensor (..., n_used)
        Means over pairs, such as omega.
    bins : NativeBins

    Returns
    -------
    pairs : tensor (..., n_bins)
    columns : dict of str to tensor (..., n_bins)
    """
    if bins.weights is None:
        return pairs, columns
    native, weights, volumes, missing = (
        part.to(pairs) for part in (bins.native, bins.weights.T, bins.volumes, bins.missing)
    )
    number = pairs * native
    total = number @ weights + missing
    inverse = 1.0 / total
    return total / volumes, {name: ((value * number) @ weights) * inverse for name, value in columns.items()}


def with_prefix(tensors: dict[str, np.ndarray], prefix: str) -> dict[str, torch.Tensor]:
    """Return the tensors of one part of an artifact, without the prefix of their names.

    Parameters
    ----------
    tensors : dict of str to array
    prefix : str
        Prefix of the names of this part.

    Returns
    -------
    dict of str to tensor
    """
    return {
        name.removeprefix(prefix): torch.as_tensor(value) for name, value in tensors.items() if name.startswith(prefix)
    }
