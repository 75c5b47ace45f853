"""Emulator: loads a trained network and predicts xi, omega and eta."""

from __future__ import annotations

import copy

import numpy as np
import torch

from .alignment import mean_p2
from .artifact import ArtifactError, read_artifact, shipped_artifact, write_artifact
from .binning import BinningError, check_edges, nesting_matrix, rebin, shell_volumes
from .network import FactorisedNet
from .parameters import ALIGNMENT_PARAMETERS, PARAMETERS, Support, as_theta, has_tensor
from .prediction import STATISTICS, Prediction, check_statistics

KIND = "emulator"
SHIPPED = "factorised-pm160.safetensors"

_NEEDS = {
    "xi": ("log_1p_xi",),
    "omega": ("A_c", "A_s"),
    "eta": ("E_cc", "E_cs", "E_ss"),
}
#: Largest batch that goes through the network at once: beyond, hidden layers leave the cache.
_CHUNK = 4096


class Emulator:
    """A trained network as a forward model; differentiable, in the precision of the parameters given.

    Load with :meth:`load`; made by ``iaemu-train fit``.

    Attributes
    ----------
    parameters : tuple of str
    support : Support
        Where the network was trained.
    r_edges : array (n_bins + 1,)
        Edges of the first of its binnings, the default [Mpc/h].
    binnings : list of arrays
        All binnings that it predicts natively; coarser ones that nest in one of these can be asked for too.
    metadata : dict
        Catalogue, hashes, training and held-out errors.
    """

    parameters = PARAMETERS

    def __init__(self, network: FactorisedNet, binnings, metadata: dict):
        self.binnings = [check_edges(edges) for edges in binnings]
        if tuple(len(edges) - 1 for edges in self.binnings) != network.n_bins:
            raise ArtifactError(f"The network has {network.n_bins} bins, the binnings {self.binnings}.")
        self.metadata = metadata
        self.support = Support.from_dict(metadata["support"])
        self._trained = network.eval().requires_grad_(False)
        self._networks: dict = {}
        self._plans: dict = {}

    @property
    def r_edges(self) -> np.ndarray:
        return self.binnings[0]

    # ------------------------------------------------------------------ files

    @classmethod
    def load(cls, path=None) -> Emulator:
        """Load an emulator from a file, by default the one shipped with the package.

        Raises
        ------
        ArtifactError
            The file is missing, corrupt, foreign or of another kind, or its golden predictions are not reproduced.
        """
        path = shipped_artifact(SHIPPED) if path is None else path
        tensors, metadata = read_artifact(path, KIND)
        try:
            network = FactorisedNet(Support.from_dict(metadata["support"]), **metadata["network"])
            weights = {
                name.removeprefix("network."): torch.as_tensor(value)
                for name, value in tensors.items()
                if name.startswith("network.")
            }
            network.load_state_dict(weights)
            binnings = [tensors[f"binning.{index}"] for index in range(len(network.n_bins))]
            emulator = cls(network, binnings, metadata)
            golden = {name: np.asarray(metadata["golden"][name]) for name in ("theta", *STATISTICS)}
            metadata["box_volumes"]
        except (KeyError, RuntimeError, TypeError) as error:
            raise ArtifactError(f"{path} is incomplete or does not fit this version: {error}") from error
        values = emulator.predict(golden["theta"])
        for name in STATISTICS:
            if not np.allclose(getattr(values, name), golden[name], rtol=1e-4, atol=1e-7):
                raise ArtifactError(f"{path}: the golden predictions of {name} are not reproduced.")
        return emulator

    def save(self, path) -> None:
        """Write the emulator with golden predictions that :meth:`load` checks."""
        network = self._trained
        tensors = {f"network.{name}": value for name, value in network.to_arrays().items()}
        tensors.update({f"binning.{index}": edges for index, edges in enumerate(self.binnings)})
        theta = self.support.sample(4, np.random.default_rng(20250407))
        values = self.predict(theta)
        golden = {"theta": theta.tolist(), **{name: getattr(values, name).tolist() for name in STATISTICS}}
        write_artifact(path, KIND, tensors, {**self.metadata, "network": network.config, "golden": golden})

    # ------------------------------------------------------------------ predictions

    def predict(self, theta, r_edges=None, statistics=STATISTICS, support: str = "raise") -> Prediction:
        """Correlation functions at one or more points.

        Parameters
        ----------
        theta : mapping of names, array or tensor (..., 7)
            Computed in its floating dtype; arrays and numbers in float64.
        r_edges : array (n_bins + 1,), optional
            One of ``binnings`` (the first by default), or coarser edges that nest in one of them.
        statistics : subset of ("xi", "omega", "eta")
        support : "raise", "reject" (NaN outside) or "warn"

        Returns
        -------
        Prediction
            Statistics (..., n_bins), ``n_gal`` (in one box of the catalogue) and ``f_sat`` (...).

        Raises
        ------
        SupportError, iaemu.binning.BinningError, ValueError
        """
        is_tensor = has_tensor(theta)
        statistics = check_statistics(statistics)
        theta = as_theta(theta)
        inside = self.support.enforce(theta, support)
        binning, nesting = self._plan(r_edges)
        shape = theta.shape[:-1]
        flat = theta.reshape(-1, len(PARAMETERS))
        with torch.set_grad_enabled(torch.is_grad_enabled() and flat.requires_grad):
            parts = [self._predict(part, binning, nesting, statistics) for part in flat.split(_CHUNK)]
            values = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
            if support == "reject":
                rejected = ~inside.reshape(-1)
                for name, value in values.items():
                    mask = rejected.reshape(-1, *[1] * (value.ndim - 1))
                    values[name] = torch.where(mask, torch.full_like(value, torch.nan), value)
            values = {name: value.reshape(shape + value.shape[1:]) for name, value in values.items()}
        edges = self.binnings[binning] if r_edges is None else check_edges(r_edges)
        prediction = Prediction(r_edges=edges, **values)
        return prediction if is_tensor else prediction.numpy()

    def _predict(self, theta, binning, nesting, statistics) -> dict[str, torch.Tensor]:
        network = self._network(theta)
        needs = [name for statistic in statistics for name in _NEEDS[statistic]]
        if needs and nesting is not None and "log_1p_xi" not in needs:
            needs = ["log_1p_xi", *needs]
        n_bins = network.n_bins[binning]
        rows = torch.cat([*([network.rows(binning, needs)] if needs else []), network.scalar_rows()])
        outputs = network(theta[:, len(ALIGNMENT_PARAMETERS) :], rows)
        columns = dict(zip(needs, outputs[:, : n_bins * len(needs)].split(n_bins, dim=1), strict=True)) if needs else {}
        pairs = torch.exp(columns.pop("log_1p_xi")) if "log_1p_xi" in columns else None
        if needs and nesting is not None:
            pairs, columns = _coarser(pairs, columns, *nesting)
        values = {}
        if "xi" in statistics:
            values["xi"] = pairs - 1.0
        if "omega" in statistics or "eta" in statistics:
            q_cen, q_sat = mean_p2(theta[:, :2].clamp(-1.0, 1.0)).split(1, dim=1)
        if "omega" in statistics:
            values["omega"] = q_cen * columns["A_c"] + q_sat * columns["A_s"]
        if "eta" in statistics:
            values["eta"] = (
                q_cen**2 * columns["E_cc"] + 2.0 * q_cen * q_sat * columns["E_cs"] + q_sat**2 * columns["E_ss"]
            )
        values["n_gal"] = 10.0 ** outputs[:, -2] * float(np.mean(self.metadata["box_volumes"]))
        values["f_sat"] = outputs[:, -1]
        return values

    def _network(self, theta: torch.Tensor) -> FactorisedNet:
        key = (theta.dtype, theta.device)
        if key not in self._networks:
            # A copy made under inference mode could not take part in a later gradient.
            with torch.inference_mode(False):
                self._networks[key] = copy.deepcopy(self._trained).to(dtype=theta.dtype, device=theta.device)
        return self._networks[key]

    def _plan(self, r_edges):
        """Which native binning serves, and how it is summed to the one asked for (None: as it is)."""
        if r_edges is None:
            return 0, None
        edges = check_edges(r_edges)
        key = edges.tobytes()
        if key not in self._plans:
            self._plans[key] = self._make_plan(edges)
        return self._plans[key]

    def _make_plan(self, edges):
        for index, native in enumerate(self.binnings):
            try:
                nesting = nesting_matrix(native, edges)
            except BinningError:
                continue
            if len(edges) == len(native):
                return index, None
            with torch.inference_mode(False):
                return index, (torch.as_tensor(nesting), torch.as_tensor(shell_volumes(native)))
        available = "; ".join(np.array2string(native, precision=4, max_line_width=10**6) for native in self.binnings)
        raise BinningError(
            f"The bins do not nest in any binning of this emulator. Asked for edges "
            f"{np.array2string(edges, precision=4, max_line_width=10**6)} Mpc/h; use subsets of one of {available}."
        )


def _coarser(pairs, columns, nesting, volumes):
    """Sum to coarser bins: 1 + xi averages over volume, the others over pairs, volume * (1 + xi)."""
    nesting, volumes = nesting.to(pairs), volumes.to(pairs)
    columns = {name: rebin(value, pairs * volumes, nesting) for name, value in columns.items()}
    return rebin(pairs, volumes, nesting), columns
