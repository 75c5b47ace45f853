"""The code that all emulators share: native bins, precision and device, files."""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import nn

from iaemu.artifact import write_artifact
from iaemu.binning import BinningError, check_edges, nesting_matrix, rebin, shell_volumes
from iaemu.models.base import ForwardModel
from iaemu.parameters import Support
from iaemu.prediction import SIGMAS
from iaemu.statistics import STATISTICS


class NativeBins(NamedTuple):
    """The binning in which an emulator is evaluated, and how its bins are joined.

    Attributes
    ----------
    binning : int
        Index of the binning.
    nesting : tensor (n_coarse, n_fine), or None
        See :func:`iaemu.binning.nesting_matrix`; None if the bins are not joined.
    volumes : tensor (n_fine,), or None
        Volumes of the native bins [(Mpc/h)^3].
    """

    binning: int
    nesting: torch.Tensor | None = None
    volumes: torch.Tensor | None = None


class NetworkModel(ForwardModel):
    """A trained network as a forward model, in the precision and on the device of the parameters.

    Parameters
    ----------
    trained : nn.Module
        All modules that are evaluated.
    binnings : sequence of arrays (n_bins + 1,)
        Edges of the bins that it predicts directly [Mpc/h].
    metadata : dict
        Must contain ``support``.
    """

    shipped = "factorised-pm160.safetensors"

    #: Options of ``predict`` for the golden predictions.
    _golden_options: dict[str, Any] = {}

    def __init__(self, trained: nn.Module, binnings: Sequence[ArrayLike], metadata: dict):
        self.binnings = [check_edges(edges) for edges in binnings]
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
        tensors |= {f"binning.{index}": edges for index, edges in enumerate(self.binnings)}
        metadata = {**self.metadata, "network": network, "golden": self._new_golden()}
        write_artifact(path, self.kind, tensors, metadata)

    @abstractmethod
    def _contents(self) -> tuple[dict[str, np.ndarray], dict]:
        """Return the tensors to write, and the arguments of the network's constructor."""

    def _golden(self, theta: np.ndarray) -> dict[str, np.ndarray]:
        golden: dict[str, np.ndarray] = {}
        for place, edges in self._golden_bins().items():
            values = self.predict(theta, edges, uncertainties=self.has_uncertainties, **self._golden_options)
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
        if r_edges is None:
            return NativeBins(0)
        edges = check_edges(r_edges)
        key = edges.tobytes()
        if key not in self._plans:
            self._plans[key] = self._plan(edges)
        return self._plans[key]

    def _plan(self, edges: np.ndarray) -> NativeBins:
        for index, native in enumerate(self.binnings):
            try:
                nesting = nesting_matrix(native, edges)
            except BinningError:
                continue
            if len(edges) == len(native):
                return NativeBins(index)
            # Tensors made under inference mode could not be used in a later gradient.
            with torch.inference_mode(False):
                return NativeBins(index, torch.as_tensor(nesting), torch.as_tensor(shell_volumes(native)))
        available = "; ".join(np.array2string(native, precision=4, max_line_width=10**6) for native in self.binnings)
        raise BinningError(
            f"The edges {np.array2string(edges, precision=4, max_line_width=10**6)} Mpc/h are not among those of one "
            f"binning of this emulator. Choose all edges from one of {available}."
        )

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


def coarser(
    pairs: torch.Tensor, columns: dict[str, torch.Tensor], bins: NativeBins
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Join native bins: 1 + xi is averaged over volume, the others over pairs, volume * (1 + xi).

    Parameters
    ----------
    pairs : tensor (..., n_fine)
        1 + xi.
    columns : dict of str to tensor (..., n_fine)
        Means over pairs, such as omega.
    bins : NativeBins

    Returns
    -------
    pairs : tensor (..., n_coarse)
    columns : dict of str to tensor (..., n_coarse)
    """
    if bins.nesting is None or bins.volumes is None:
        return pairs, columns
    nesting, volumes = bins.nesting.to(pairs), bins.volumes.to(pairs)
    columns = {name: rebin(value, pairs * volumes, nesting) for name, value in columns.items()}
    return rebin(pairs, volumes, nesting), columns


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
