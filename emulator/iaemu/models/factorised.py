"""Emulator: a network predicts what does not depend on the alignment strengths, which enter as exact factors."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from numpy.typing import ArrayLike
from torch import nn

from iaemu.artifact import ArtifactError, check_shapes
from iaemu.halomodel.alignment import ORIENTATION_INGREDIENTS, orientation_statistics
from iaemu.models.deviations import scaled
from iaemu.models.network import NativeBins, NetworkModel, coarser, on_meta, state_shapes, with_prefix
from iaemu.networks.aleatoric import Aleatoric, AleatoricNet
from iaemu.networks.factorised import FactorisedNet
from iaemu.parameters import ALIGNMENT_PARAMETERS, Support
from iaemu.prediction import Prediction
from iaemu.ranges import Range
from iaemu.statistics import STATISTICS

#: Outputs of the network that each statistic needs.
_NEEDS = {"xi": ("log_1p_xi",), **ORIENTATION_INGREDIENTS}


class Emulator(NetworkModel):
    """The emulator: a network, or an ensemble of networks, that stands in for the tables.

    It is loaded with :func:`iaemu.load` and made by ``iaemu train fit``. It predicts in the precision and on the device
    of the parameters; numbers and arrays are computed in double precision.

    Parameters
    ----------
    network : FactorisedNet
        The network whose outputs are the prediction.
    binnings : sequence of arrays (n_bins + 1,)
        Edges of the bins that it predicts directly [Mpc/h].
    metadata : dict
        Must contain ``support`` and ``box_volumes``.
    members : sequence of FactorisedNet
        Further networks of the ensemble, trained like the first. The epistemic error is their spread, multiplied by a
        factor for each statistic that was calibrated on noise-free labels (``metadata["epistemic_scale"]``).
    aleatoric : Aleatoric, optional
        Model of the scatter of one measurement.

    Raises
    ------
    ArtifactError
        The network has other numbers of bins than the binnings.
    """

    kind = "emulator"
    factorises = True

    # Emulator.load also loads files of other networks.
    load = NetworkModel.load  # type: ignore[assignment]

    def __init__(
        self,
        network: FactorisedNet,
        binnings: Sequence[ArrayLike],
        metadata: dict,
        members: Sequence[FactorisedNet] = (),
        aleatoric: Aleatoric | None = None,
    ):
        super().__init__(network, binnings, metadata)
        if tuple(len(edges) - 1 for edges in self.binnings) != network.n_bins:
            raise ArtifactError(f"The network has {network.n_bins} bins, but the binnings are {self.binnings}.")
        self.network = network
        self.members = [member.eval().requires_grad_(False) for member in members]
        self.aleatoric = aleatoric

    @property
    def aleatoric(self) -> Aleatoric | None:
        """Model of the scatter of one measurement, or None; it can be set."""
        return self._aleatoric

    @aleatoric.setter
    def aleatoric(self, aleatoric: Aleatoric | None) -> None:
        self._aleatoric = aleatoric
        self._copies = {key: module for key, module in self._copies.items() if key[0] != "aleatoric"}

    def _details(self) -> list[str]:
        n_networks = len(self.members) + 1
        details = ["one network" if n_networks == 1 else f"ensemble of {n_networks} networks"]
        return [*details, "with aleatoric errors" if self.aleatoric is not None else "without aleatoric errors"]

    @property
    def has_uncertainties(self) -> bool:
        return bool(self.members or self.aleatoric)

    # ------------------------------------------------------------------ files

    def _contents(self):
        tensors = {f"network.{name}": value for name, value in self.network.to_arrays().items()}
        for number, member in enumerate(self.members):
            tensors |= {f"member.{number}.{name}": value for name, value in member.to_arrays().items()}
        if self.aleatoric is not None:
            tensors |= {f"aleatoric.{name}": value for name, value in self.aleatoric.to_arrays().items()}
            self.metadata["aleatoric"] = {
                **self.metadata.get("aleatoric", {}),
                "network": self.aleatoric.network.config,
                "volume": self.aleatoric.volume,
            }
        self.metadata["n_members"] = len(self.members)
        return tensors, self.network.config

    @classmethod
    def _check_layout(cls, metadata, shapes, path) -> None:
        network = on_meta(lambda: FactorisedNet(Support.from_dict(metadata["support"]), **metadata["network"]))
        wanted: dict[str, tuple[int, ...]] = {}
        for index, n_bins in enumerate(network.n_bins):
            wanted[f"binning.{index}"] = (n_bins + 1,)
        for prefix in cls._prefixes(metadata):
            wanted |= {f"{prefix}{name}": tuple(value.shape) for name, value in network.state_dict().items()}
        if "aleatoric" in metadata:
            wanted |= state_shapes(lambda: AleatoricNet(**metadata["aleatoric"]["network"]), "aleatoric.network.")
            for index, n_bins in enumerate(network.n_bins):
                wanted |= {f"aleatoric.correlation.{index}.{name}": (n_bins, n_bins) for name in STATISTICS}
        check_shapes(shapes, wanted, path)

    @staticmethod
    def _prefixes(metadata) -> list[str]:
        """Return the prefixes of the names of tensors, one for each network."""
        n_members = metadata.get("n_members", 0)
        Range(at_least=0, at_most=1000).check("n_members", n_members, int)
        return ["network.", *(f"member.{number}." for number in range(n_members))]

    @classmethod
    def _restore(cls, tensors, metadata, path) -> Emulator:
        support = Support.from_dict(metadata["support"])
        blank, networks = on_meta(lambda: FactorisedNet(support, **metadata["network"])), []
        for prefix in cls._prefixes(metadata):
            networks.append(copy.deepcopy(blank))
            networks[-1].load_state_dict(with_prefix(tensors, prefix), assign=True)
        metadata["box_volumes"]  # a missing entry raises KeyError here, not at the first prediction
        aleatoric = None
        if "aleatoric" in metadata:
            config, volume = metadata["aleatoric"]["network"], metadata["aleatoric"]["volume"]
            parts = {name: value.numpy() for name, value in with_prefix(tensors, "aleatoric.").items()}
            aleatoric = Aleatoric.from_arrays(parts, config, volume)
        binnings = [tensors[f"binning.{index}"] for index in range(len(networks[0].n_bins))]
        return cls(networks[0], binnings, metadata, networks[1:], aleatoric)

    def _golden_bins(self):
        # Correlations between bins matter where bins are joined: here all of them in one bin.
        joined = {f"binning.{index}.joined.": edges[[0, -1]] for index, edges in enumerate(self.binnings)}
        others = {f"binning.{index}.": edges for index, edges in enumerate(self.binnings) if index}
        return super()._golden_bins() | others | joined

    # ------------------------------------------------------------------ predictions

    def _predict(self, theta, bins, names) -> dict[str, torch.Tensor]:
        return self._evaluate(self._network(theta), theta, bins, names)

    def _evaluate(self, network, theta, bins: NativeBins, names) -> dict[str, torch.Tensor]:
        ingredients = self._ingredients(network, theta, bins, names)
        oriented = orientation_statistics(theta[:, : len(ALIGNMENT_PARAMETERS)], ingredients, names)
        return oriented | {name: ingredients[name] for name in ("xi", "n_gal", "f_sat") if name in ingredients}

    def _ingredients_at(self, theta, bins, names) -> dict[str, torch.Tensor]:
        return self._ingredients(self._network(theta), theta, bins, names)

    def _ingredients(self, network, theta, bins: NativeBins, names) -> dict[str, torch.Tensor]:
        """Return xi, n_gal, f_sat and the ingredients of omega and eta, which do not depend on the strengths."""
        needs = [name for statistic in names for name in _NEEDS[statistic]]
        if needs and bins.nesting is not None and "log_1p_xi" not in needs:
            needs = ["log_1p_xi", *needs]
        n_bins = network.n_bins[bins.binning]
        rows = torch.cat([*([network.rows(bins.binning, needs)] if needs else []), network.scalar_rows()])
        outputs = network(theta[:, len(ALIGNMENT_PARAMETERS) :], rows)
        values = dict(zip(needs, outputs[:, : n_bins * len(needs)].split(n_bins, dim=1), strict=True)) if needs else {}
        if "log_1p_xi" in values:
            pairs, values = coarser(torch.exp(values.pop("log_1p_xi")), values, bins)
            if "xi" in names:
                values["xi"] = pairs - 1.0
        values["n_gal"] = 10.0 ** outputs[:, -2]
        values["f_sat"] = outputs[:, -1]
        return values

    # ------------------------------------------------------------------ uncertainties

    def _sigmas(self, theta, values, bins, names, volume) -> dict[str, torch.Tensor]:
        return self._epistemic_sigma(theta, values, bins, names) | self._aleatoric_sigma(theta, bins, names, volume)

    def _others(self, theta: torch.Tensor) -> Sequence:
        """Return the further networks of the ensemble, in the precision and on the device of ``theta``."""
        return self._copy(nn.ModuleList(self.members), "members", theta) if self.members else ()

    def _epistemic_sigma(self, theta, values, bins, names) -> dict[str, torch.Tensor]:
        """Return the spread of the ensemble, scaled to the errors at points that were held out of the training."""
        others = [self._evaluate(member, theta, bins, names) for member in self._others(theta)]
        scale = self.metadata.get("epistemic_scale", {})
        return {
            f"sigma_epistemic.{name}": float(scale.get(name, 1.0))
            * torch.stack([values[name], *(other[name] for other in others)]).std(dim=0)
            for name in (names if others else ())
        }

    def _aleatoric_sigma(self, theta, bins: NativeBins, names, volume) -> dict[str, torch.Tensor]:
        """Return the scatter of one measurement; in joined bins by error propagation with the bin-bin correlation."""
        if self.aleatoric is None:
            return {}
        native = self._predict(theta, NativeBins(bins.binning), ("xi",))
        pairs = self.expected_pairs(Prediction.of(self.binnings[bins.binning], native))
        inputs = AleatoricNet.inputs(self._network(theta), theta)
        network = self._copy(self.aleatoric.network, "aleatoric", theta)
        scale = 1.0 if volume is None else self.aleatoric.volume / volume
        sigmas = {}
        for name in names:
            variance = scale * self.aleatoric.variance(network, inputs, bins.binning, name, native["xi"], pairs)
            if bins.nesting is not None and bins.volumes is not None:
                matrix, volumes = bins.nesting.to(variance), bins.volumes.to(variance)
                # Joined bins are means weighted by volume for xi, and by pairs for omega and eta.
                weight = matrix * (volumes if name == "xi" else pairs.unsqueeze(-2))
                weight = weight / weight.sum(dim=-1, keepdim=True) * variance.sqrt().unsqueeze(-2)
                correlation = torch.as_tensor(self.aleatoric.correlations[bins.binning][name]).to(variance)
                variance = ((weight @ correlation) * weight).sum(dim=-1)
            sigmas[f"sigma_aleatoric.{name}"] = variance.sqrt()
        return sigmas

    @property
    def _n_epistemic(self) -> int:
        return len(self.members) + 1 if self.members else 0

    def _epistemic_deviations(self, theta, r_edges, names) -> dict[str, torch.Tensor]:
        """Return deviations of the ensemble, whose sum of squares is the square of ``sigma_epistemic``."""
        bins, scale = self._bins(r_edges), self.metadata.get("epistemic_scale", {})
        networks = [self._network(theta), *self._others(theta)]
        found = [self._ingredients(network, theta, bins, names) for network in networks]
        return {
            name: scaled(torch.stack([values[name] for values in found], dim=1), float(scale.get(statistic, 1.0)))
            for statistic in names
            for name in ORIENTATION_INGREDIENTS.get(statistic, (statistic,))
        }
