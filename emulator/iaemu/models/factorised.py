"""Emulator: loads a trained network and predicts xi, omega and eta."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import nn

from iaemu.artifact import ArtifactError, read_artifact, shipped_artifact, write_artifact
from iaemu.binning import BinningError, check_edges, nesting_matrix, rebin, shell_volumes
from iaemu.halomodel.alignment import ORIENTATION_INGREDIENTS, orientation_statistics
from iaemu.models.base import Deviations, scaled
from iaemu.models.fixed_occupation import FixedOccupation, without_alignment
from iaemu.networks.aleatoric import Aleatoric, AleatoricNet
from iaemu.networks.factorised import FactorisedNet
from iaemu.parameters import ALIGNMENT_PARAMETERS, PARAMETERS, Support, as_theta, has_tensor
from iaemu.prediction import STATISTICS, Prediction, check_statistics, reject

KIND = "emulator"
SHIPPED = "factorised-pm160.safetensors"

#: Fields of a prediction that hold standard deviations.
SIGMAS = ("sigma_aleatoric", "sigma_epistemic")

_NEEDS = {"xi": ("log_1p_xi",), **ORIENTATION_INGREDIENTS}


class Emulator(Deviations):
    """A trained network as a forward model; differentiable, in the precision of the parameters given.

    Load with :meth:`load`, which also gives the emulators of other networks (subclasses, such as
    :class:`iaemu.models.iaemunet.IAEmuNetEmulator`); made by ``iaemu-train fit``.

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
    aleatoric : Aleatoric or None
        Scatter of one measurement.
    members : list of FactorisedNet
        Further networks of an ensemble, trained like the one that predicts; their spread, times a factor for each
        statistic that was calibrated on noise-free labels (``metadata["epistemic_scale"]``), is the epistemic part.
    """

    parameters = PARAMETERS
    kind = KIND

    #: Largest batch that goes through the network at once: beyond, hidden layers leave the cache.
    _chunk = 4096

    def __init__(
        self,
        network: FactorisedNet,
        binnings,
        metadata: dict,
        members: Sequence[FactorisedNet] = (),
        aleatoric: Aleatoric | None = None,
    ):
        self.binnings = [check_edges(edges) for edges in binnings]
        if tuple(len(edges) - 1 for edges in self.binnings) != network.n_bins:
            raise ArtifactError(f"The network has {network.n_bins} bins, the binnings {self.binnings}.")
        self.metadata = metadata
        self.support = Support.from_dict(metadata["support"])
        self._trained = network.eval().requires_grad_(False)
        self.members = [member.eval().requires_grad_(False) for member in members]
        self._networks: dict = {}
        self._plans: dict = {}
        self.aleatoric = aleatoric

    @property
    def r_edges(self) -> np.ndarray:
        return self.binnings[0]

    @property
    def aleatoric(self) -> Aleatoric | None:
        return self._aleatoric

    @aleatoric.setter
    def aleatoric(self, aleatoric: Aleatoric | None) -> None:
        self._aleatoric = aleatoric
        self._networks = {key: network for key, network in self._networks.items() if key[0] != "aleatoric"}

    @property
    def network(self) -> nn.Module:
        """The network that predicts, as trained."""
        return self._trained

    @property
    def has_uncertainties(self) -> bool:
        """Whether ``predict`` takes ``uncertainties=True``."""
        return bool(self.members or self.aleatoric)

    # ------------------------------------------------------------------ files

    @classmethod
    def load(cls, path=None) -> Emulator:
        """Load an emulator from a file, by default the one shipped with the package.

        The file says of which network it is; a subclass loads its own kind only.

        Raises
        ------
        ArtifactError
            The file is missing, corrupt, foreign or of another kind, or its golden predictions are not reproduced.
        """
        from iaemu.models.iaemunet import IAEmuNetEmulator

        path = shipped_artifact(SHIPPED) if path is None else path
        classes = {known.kind: known for known in (Emulator, IAEmuNetEmulator, cls) if issubclass(known, cls)}
        tensors, metadata = read_artifact(path, tuple(classes))
        try:
            emulator = classes[metadata["kind"]]._restore(tensors, metadata)
            golden = {name: np.asarray(value) for name, value in metadata["golden"].items()}
            values = emulator._golden(golden.pop("theta"))
            missing = set(values) - set(golden)
        except (KeyError, RuntimeError, TypeError) as error:
            raise ArtifactError(f"{path} is incomplete or does not fit this version: {error}") from error
        if missing:
            raise ArtifactError(f"{path} is incomplete: it lacks golden predictions of {', '.join(sorted(missing))}.")
        for name, value in values.items():
            if not np.allclose(value, golden[name], rtol=1e-4, atol=1e-7):
                raise ArtifactError(f"{path}: the golden predictions of {name} are not reproduced.")
        return emulator

    def save(self, path) -> None:
        """Write the emulator with golden predictions that :meth:`load` checks."""
        tensors, network = self._contents()
        tensors.update({f"binning.{index}": edges for index, edges in enumerate(self.binnings)})
        theta = self.support.sample(4, np.random.default_rng(20250407))
        golden = {name: value.tolist() for name, value in {"theta": theta, **self._golden(theta)}.items()}
        write_artifact(path, self.kind, tensors, {**self.metadata, "network": network, "golden": golden})

    def _contents(self) -> tuple[dict[str, np.ndarray], dict]:
        """Tensors to write, and the arguments of the network's constructor."""
        tensors = {f"network.{name}": value for name, value in self._trained.to_arrays().items()}
        for number, member in enumerate(self.members):
            tensors.update({f"member.{number}.{name}": value for name, value in member.to_arrays().items()})
        if self.aleatoric is not None:
            tensors.update({f"aleatoric.{name}": value for name, value in self.aleatoric.to_arrays().items()})
            self.metadata["aleatoric"] = {
                **self.metadata.get("aleatoric", {}),
                "network": self.aleatoric.network.config,
                "volume": self.aleatoric.volume,
            }
        self.metadata["n_members"] = len(self.members)
        return tensors, self._trained.config

    @classmethod
    def _restore(cls, tensors, metadata) -> Emulator:
        """The emulator that :meth:`_contents` describes."""
        support = Support.from_dict(metadata["support"])
        networks = []
        for prefix in ("network.", *(f"member.{number}." for number in range(metadata.get("n_members", 0)))):
            networks.append(FactorisedNet(support, **metadata["network"]))
            networks[-1].load_state_dict(with_prefix(tensors, prefix))
        metadata["box_volumes"]  # KeyError here, rather than at the first prediction
        aleatoric = None
        if "aleatoric" in metadata:
            config, volume = metadata["aleatoric"]["network"], metadata["aleatoric"]["volume"]
            aleatoric = Aleatoric.from_arrays(with_prefix(tensors, "aleatoric."), config, volume)
        binnings = [tensors[f"binning.{index}"] for index in range(len(networks[0].n_bins))]
        return cls(networks[0], binnings, metadata, networks[1:], aleatoric)

    def _golden(self, theta, **options) -> dict[str, np.ndarray]:
        """What must come out the same after loading; ``options`` of :meth:`predict`."""
        values = self.predict(theta, uncertainties=self.has_uncertainties, **options)
        golden = {name: getattr(values, name) for name in STATISTICS}
        for field in SIGMAS:
            golden.update({f"{field}.{name}": value for name, value in (getattr(values, field) or {}).items()})
        return golden

    # ------------------------------------------------------------------ predictions

    def predict(
        self,
        theta,
        r_edges=None,
        statistics=STATISTICS,
        support: str = "raise",
        uncertainties: bool = False,
        volume: float | None = None,
    ) -> Prediction:
        """Correlation functions at one or more points.

        Parameters
        ----------
        theta : mapping of names, array or tensor (..., 7)
            Computed in its floating dtype; arrays and numbers in float64.
        r_edges : array (n_bins + 1,), optional
            One of ``binnings`` (the first by default), or coarser edges that nest in one of them.
        statistics : subset of ("xi", "omega", "eta")
        support : "raise", "reject" (NaN outside) or "warn"
        uncertainties : bool
            Also give ``sigma_epistemic``, the standard error of the prediction as an expectation, and
            ``sigma_aleatoric``, the standard deviation of one measurement about it, as far as the emulator has them.
            Costs as much again for each member.
        volume : float, optional
            Of the measurement [(Mpc/h)^3], which ``sigma_aleatoric`` belongs to; by default that of the catalogue.

        Returns
        -------
        Prediction
            Statistics (..., n_bins), ``n_gal`` (in one box of the catalogue) and ``f_sat`` (...).

        Raises
        ------
        SupportError, iaemu.binning.BinningError, ValueError
        """
        statistics = check_statistics(statistics)
        binning, nesting = self._plan(r_edges)
        edges = self.binnings[binning] if r_edges is None else check_edges(r_edges)
        if uncertainties and not self.has_uncertainties:
            raise ValueError("This emulator has no uncertainties: set uncertainties=False, or load another.")
        if volume is not None and not volume > 0:
            raise ValueError(f"volume must be positive [(Mpc/h)^3], got {volume}.")
        points = as_theta(theta)
        inside = self.support.enforce(points, support)

        def predict(part):
            values = self._predict(part, self._network(part), binning, nesting, statistics)
            if uncertainties:
                values.update(self._epistemic(part, values, binning, nesting, statistics))
                values.update(self._aleatoric_sigma(part, binning, nesting, statistics, volume))
            return values

        values = self._evaluate(points, predict, inside if support == "reject" else None)
        prediction = as_prediction(edges, values)
        return prediction if has_tensor(theta) else prediction.numpy()

    def at_occupation(self, occupation, r_edges=None, statistics=STATISTICS, support: str = "raise") -> FixedOccupation:
        """The predictions at one occupation as functions of the alignment strengths: the network is evaluated once.

        Parameters
        ----------
        occupation : mapping of names, or sequence of the five numbers in the order of ``OCCUPATION_PARAMETERS``
            Computed in float64.
        r_edges, statistics
            As in :meth:`predict`.
        support : "raise" or "warn"

        Raises
        ------
        SupportError, iaemu.binning.BinningError, KeyError, ValueError
        """
        statistics = check_statistics(statistics)
        binning, nesting = self._plan(r_edges)
        theta = without_alignment(occupation)
        self.support.enforce(theta, support)
        # Tensors made under inference mode could not take part in a later gradient.
        with torch.inference_mode(False), torch.no_grad():
            values, columns = self._ingredients(theta, self._network(theta), binning, nesting, statistics)
            ingredients = {name: value[0].clone() for name, value in {**values, **columns}.items()}
        counts = {name: float(ingredients.pop(name)) for name in ("n_gal", "f_sat")}
        edges = self.binnings[binning] if r_edges is None else check_edges(r_edges)
        return FixedOccupation(
            edges, ingredients, **counts, deviations=self._fixed_deviations(theta, edges, statistics)
        )

    def expected_pairs(self, prediction: Prediction):
        """Expected number of ordered pairs (..., n_bins) in all boxes of the catalogue together."""
        volumes = np.asarray(self.metadata["box_volumes"])
        density = prediction.n_gal[..., None] / float(np.mean(volumes))
        shells = shell_volumes(prediction.r_edges)
        if isinstance(density, torch.Tensor):
            shells = torch.as_tensor(shells).to(density)
        return (1.0 + prediction.xi) * density**2 * float(np.sum(volumes)) * shells

    def _evaluate(
        self, theta: torch.Tensor, predict: Callable, inside: torch.Tensor | None = None, chunk: int | None = None
    ) -> dict[str, torch.Tensor]:
        """What ``predict`` maps points (n, 7) to, tensors (n, ...) by name, for points of any batch shape.

        Points that are not ``inside`` (...,) get NaN.
        """
        shape = theta.shape[:-1]
        flat = theta.reshape(-1, len(PARAMETERS))
        with torch.set_grad_enabled(torch.is_grad_enabled() and flat.requires_grad):
            parts = [predict(part) for part in flat.split(chunk or self._chunk)]
            values = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
            if inside is not None:
                values = reject(values, inside)
            return {name: value.reshape(shape + value.shape[1:]) for name, value in values.items()}

    def _predict(self, theta, network, binning, nesting, statistics) -> dict[str, torch.Tensor]:
        values, columns = self._ingredients(theta, network, binning, nesting, statistics)
        return {**orientation_statistics(theta[:, :2], columns, statistics), **values}

    def _ingredients(self, theta, network, binning, nesting, statistics):
        """What does not depend on alignment: xi, n_gal and f_sat; and the ingredients of omega and eta."""
        needs = [name for statistic in statistics for name in _NEEDS[statistic]]
        if needs and nesting is not None and "log_1p_xi" not in needs:
            needs = ["log_1p_xi", *needs]
        n_bins = network.n_bins[binning]
        rows = torch.cat([*([network.rows(binning, needs)] if needs else []), network.scalar_rows()])
        outputs = network(theta[:, len(ALIGNMENT_PARAMETERS) :], rows)
        columns = dict(zip(needs, outputs[:, : n_bins * len(needs)].split(n_bins, dim=1), strict=True)) if needs else {}
        pairs = torch.exp(columns.pop("log_1p_xi")) if "log_1p_xi" in columns else None
        if needs and nesting is not None:
            pairs, columns = coarser(pairs, columns, *nesting)
        values = {"xi": pairs - 1.0} if "xi" in statistics else {}
        values["n_gal"] = 10.0 ** outputs[:, -2] * float(np.mean(self.metadata["box_volumes"]))
        values["f_sat"] = outputs[:, -1]
        return values, columns

    def _epistemic(self, theta, values, binning, nesting, statistics) -> dict[str, torch.Tensor]:
        """Spread of the ensemble, scaled to the errors that were found at held-out points."""
        if not self.members:
            return {}
        scale = self.metadata.get("epistemic_scale", {})
        others = [
            self._predict(theta, member, binning, nesting, statistics)
            for member in self._copy(nn.ModuleList(self.members), "members", theta)
        ]
        return {
            f"sigma_epistemic.{name}": float(scale.get(name, 1.0))
            * torch.stack([values[name], *(other[name] for other in others)]).std(dim=0)
            for name in statistics
        }

    @property
    def _n_epistemic(self) -> int:
        return len(self.members) + 1 if self.members else 0

    def _epistemic_deviations(self, theta, r_edges, statistics) -> dict[str, torch.Tensor]:
        """The ensemble's, scaled as ``sigma_epistemic``, whose square is their sum of squares."""
        binning, nesting = self._plan(r_edges)
        scale = self.metadata.get("epistemic_scale", {})
        networks = [self._network(theta), *self._copy(nn.ModuleList(self.members), "members", theta)]
        found = [self._ingredients(theta, network, binning, nesting, statistics) for network in networks]
        found = [{**values, **columns} for values, columns in found]
        return {
            name: scaled(torch.stack([values[name] for values in found], dim=1), float(scale.get(statistic, 1.0)))
            for statistic in statistics
            for name in ORIENTATION_INGREDIENTS.get(statistic, (statistic,))
        }

    def _aleatoric_sigma(self, theta, binning, nesting, statistics, volume) -> dict[str, torch.Tensor]:
        """Scatter of one measurement; in coarser bins, by error propagation with the bin-bin correlation."""
        if self.aleatoric is None:
            return {}
        native = self._predict(theta, self._network(theta), binning, None, ("xi",))
        edges = self.binnings[binning]
        pairs = self.expected_pairs(Prediction(edges, xi=native["xi"], n_gal=native["n_gal"]))
        inputs = AleatoricNet.inputs(self._network(theta), theta)
        network = self._copy(self.aleatoric.network, "aleatoric", theta)
        scale = 1.0 if volume is None else self.aleatoric.volume / volume
        sigmas = {}
        for name in statistics:
            variance = scale * self.aleatoric.variance(network, inputs, binning, name, native["xi"], pairs)
            if nesting is not None:
                matrix, volumes = (tensor.to(variance) for tensor in nesting)
                # xi joins bins by volume, omega and eta by pairs.
                weight = matrix * (volumes if name == "xi" else pairs.unsqueeze(-2))
                weight = weight / weight.sum(dim=-1, keepdim=True) * variance.sqrt().unsqueeze(-2)
                correlation = torch.as_tensor(self.aleatoric.correlations[binning][name]).to(variance)
                variance = ((weight @ correlation) * weight).sum(dim=-1)
            sigmas[f"sigma_aleatoric.{name}"] = variance.sqrt()
        return sigmas

    def _network(self, theta: torch.Tensor) -> nn.Module:
        """The trained network in the precision and on the device of ``theta``."""
        return self._copy(self._trained, "trained", theta)

    def _copy(self, module: nn.Module, name: str, theta: torch.Tensor) -> nn.Module:
        key = (name, theta.dtype, theta.device)
        if key not in self._networks:
            # A copy made under inference mode could not take part in a later gradient.
            with torch.inference_mode(False):
                self._networks[key] = copy.deepcopy(module).to(dtype=theta.dtype, device=theta.device)
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


def as_prediction(r_edges, values: dict[str, torch.Tensor]) -> Prediction:
    """A prediction from values by name, with those of ``sigma_aleatoric.xi`` and the like put where they belong."""
    sigmas = {}
    for field in SIGMAS:
        found = {name: values[f"{field}.{name}"] for name in STATISTICS if f"{field}.{name}" in values}
        sigmas[field] = found or None
    return Prediction(r_edges, **{name: value for name, value in values.items() if "." not in name}, **sigmas)


def coarser(pairs, columns, nesting, volumes):
    """Sum to coarser bins: 1 + xi averages over volume, the others over pairs, volume * (1 + xi).

    Parameters
    ----------
    pairs : tensor (..., n_fine)
        1 + xi.
    columns : dict of str to tensor (..., n_fine)
        Means over pairs, such as omega.
    nesting, volumes : tensors (n_coarse, n_fine), (n_fine,)

    Returns
    -------
    pairs, columns in the coarser bins
    """
    nesting, volumes = nesting.to(pairs), volumes.to(pairs)
    columns = {name: rebin(value, pairs * volumes, nesting) for name, value in columns.items()}
    return rebin(pairs, volumes, nesting), columns


def with_prefix(tensors: dict, prefix: str) -> dict[str, torch.Tensor]:
    """Tensors of one part of an artifact, under the names that they have in it."""
    return {
        name.removeprefix(prefix): torch.as_tensor(value) for name, value in tensors.items() if name.startswith(prefix)
    }
