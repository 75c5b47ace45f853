"""Emulator: a network predicts what does not depend on the alignment strengths, which enter as exact factors."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from numpy.typing import ArrayLike
from scipy.special import stdtrit
from torch import nn

from iaemu.artifact import ArtifactError, check_shapes
from iaemu.binning import PAPER_EDGES
from iaemu.halomodel.alignment import ORIENTATION_INGREDIENTS, orientation_statistics
from iaemu.halomodel.radial import N_TWO, RADII
from iaemu.models.deviations import scaled
from iaemu.models.network import NativeBins, NetworkModel, on_meta, rebinned, state_shapes, with_prefix
from iaemu.models.projecting import projected
from iaemu.models.radial import StrengthResponse
from iaemu.models.redshifts import nearest_snapshot, support_at, usual_redshift
from iaemu.networks.aleatoric import Aleatoric, AleatoricNet
from iaemu.networks.factorised import FactorisedNet, RadialNet
from iaemu.observables.projected import Projection
from iaemu.parameters import ALIGNMENT_PARAMETERS, SLOPES, Support
from iaemu.ranges import Range
from iaemu.statistics import STATISTICS

#: Probability of one standard deviation about the mean of a normal distribution.
ONE_SIGMA = 0.6827

#: Number of selections of outputs whose weights are kept in memory.
_MAX_HEADS = 64

#: Outputs of the network that each statistic needs.
_NEEDS: dict[str, tuple[str, ...]] = {"xi": (), **ORIENTATION_INGREDIENTS}


class Emulator(NetworkModel):
    """The emulator: a network, or an ensemble of networks, that stands in for the tables.

    It is loaded with :func:`iaemu.load` and made by ``iaemu train fit``. It predicts in the precision and on the device
    of the parameters; numbers and arrays are computed in double precision.

    Parameters
    ----------
    network : FactorisedNet
        The network whose outputs are the prediction. If it is one of several redshifts, so are the others, and the
        emulator is at that of its metadata, or else at 0 or the nearest to it.
    nodes : array (n_nodes,)
        Edges of the bins that it predicts directly [Mpc/h].
    metadata : dict
        Must contain ``support`` and ``box_volumes``.
    members : sequence of FactorisedNet
        Further networks of the ensemble, trained like the first. The epistemic error is their spread, multiplied by a
        factor for each statistic that was calibrated on noise-free labels (``metadata["epistemic_scale"]``) such that
        68 % of the errors are within one sigma. In units of a spread of M networks, errors follow Student's t with
        M - 1 degrees of freedom: of 4 networks, 90 % are within two sigma, and their standard deviation is 1.45 sigma.
    aleatoric : Aleatoric, optional
        Model of the scatter of one measurement.
    radial : RadialNet, optional
        Network for strengths of satellites that depend on their distance from the centre of their host.

    Raises
    ------
    ArtifactError
        The network has another number of bins.
    """

    kind = "emulator"
    factorises = True
    #: Few enough that the outputs fit into the cache of a core.
    _at_once = 1024

    # Emulator.load also loads files of other networks.
    load = NetworkModel.load  # type: ignore[assignment]

    def __init__(
        self,
        network: FactorisedNet,
        nodes: ArrayLike,
        metadata: dict,
        members: Sequence[FactorisedNet] = (),
        aleatoric: Aleatoric | None = None,
        radial: RadialNet | None = None,
    ):
        #: The networks of a file, before their redshift is chosen.
        self._stored = network, list(members), radial
        for net in (network, *members, *([] if radial is None else [radial])):
            net.eval().requires_grad_(False)
        if network.redshifts is not None:
            metadata = _at_one_redshift(metadata, network.redshifts)
            network, *members = (net.at_redshift(metadata["redshift"]) for net in (network, *members))
            radial = None if radial is None else radial.at_redshift(metadata["redshift"])
        super().__init__(network, nodes, metadata)
        if len(self.nodes) - 1 != network.n_bins:
            raise ArtifactError(f"The network has {network.n_bins} bins, but {len(self.nodes)} nodes.")
        self.network = network
        self._heads: dict[tuple, tuple[torch.Tensor, torch.Tensor]] = {}
        self.members = [member.eval().requires_grad_(False) for member in members]
        self.aleatoric = aleatoric
        self.radial = None if radial is None else radial.eval().requires_grad_(False)

    @property
    def redshift_range(self) -> tuple[float, float] | None:
        return self._stored[0].redshifts or super().redshift_range

    def _moved(self, redshift: float) -> Emulator:
        network, members, radial = self._stored
        if network.redshifts is None:
            return self
        metadata = {**self.metadata, "redshift": redshift}
        moved = Emulator(network, self.nodes, metadata, members, self.aleatoric, radial)
        if "_box_error" in vars(self):
            moved._box_error = self._box_error
        return moved

    @property
    def r_edges(self) -> np.ndarray:
        """Edges of the default bins: the paper's, or those between nodes if these do not contain the paper's."""
        return PAPER_EDGES if np.isin(np.round(PAPER_EDGES, 9), np.round(self.nodes, 9)).all() else self.nodes

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
        network, members, radial = self._stored
        tensors = {f"network.{name}": value for name, value in network.to_arrays().items()}
        for number, member in enumerate(members):
            tensors |= {f"member.{number}.{name}": value for name, value in member.to_arrays().items()}
        if self.aleatoric is not None:
            tensors |= {f"aleatoric.{name}": value for name, value in self.aleatoric.to_arrays().items()}
            self.metadata["aleatoric"] = {
                **self.metadata.get("aleatoric", {}),
                "network": self.aleatoric.network.config,
                "volume": self.aleatoric.volume,
            }
        if radial is not None:
            tensors |= {f"radial.{name}": value for name, value in radial.to_arrays().items()}
            self.metadata["radial"] = {**self.metadata.get("radial", {}), "network": radial.config}
        self.metadata["n_members"] = len(self.members)
        return tensors, network.config

    @classmethod
    def _check_layout(cls, metadata, shapes, path) -> None:
        network = on_meta(lambda: FactorisedNet(Support.from_dict(metadata["support"]), **metadata["network"]))
        wanted: dict[str, tuple[int, ...]] = {"nodes": (network.n_bins + 1,)}
        for prefix in cls._prefixes(metadata):
            wanted |= {f"{prefix}{name}": tuple(value.shape) for name, value in network.state_dict().items()}
        if "aleatoric" in metadata:
            config = metadata["aleatoric"]["network"]
            wanted |= state_shapes(lambda: AleatoricNet(**config), "aleatoric.network.")
            wanted |= {f"aleatoric.correlation.{name}": (config["n_bins"],) * 2 for name in STATISTICS}
            wanted["aleatoric.r_edges"] = (config["n_bins"] + 1,)
        if "radial" in metadata:
            support, config = Support.from_dict(metadata["support"]), metadata["radial"]["network"]
            wanted |= state_shapes(lambda: RadialNet(support, **config), "radial.")
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
        radial = None
        if "radial" in metadata:
            radial = on_meta(lambda: RadialNet(support, **metadata["radial"]["network"]))
            radial.load_state_dict(with_prefix(tensors, "radial."), assign=True)
        return cls(networks[0], tensors["nodes"], metadata, networks[1:], aleatoric, radial)

    def _golden_bins(self):
        # All nodes matter here, and where bins are joined also correlations between bins.
        return super()._golden_bins() | {"nodes.": self.nodes, "joined.": self.nodes[[0, -1]]}

    def _golden(self, theta):
        golden = super()._golden(theta)
        # Predictions see the correlations only of bins that are joined. These sums see all, with different weights.
        for name, matrix in ({} if self.aleatoric is None else self.aleatoric.correlations).items():
            golden[f"correlation.{name}"] = np.cos(np.arange(1.0, len(matrix) + 1.0)) @ np.asarray(matrix)
        if self.radial is not None:
            points = torch.as_tensor(theta, dtype=torch.float64)
            factors = torch.cos(torch.arange(len(RADII), dtype=torch.float64)).expand(len(points), -1)
            values = self._weighted(points, self._bins(self.nodes), STATISTICS, None, factors)
            golden |= {f"radial.{name}": values[name].numpy() for name in ("A_s", "E_cs", "E_ss")}
        return golden

    # ------------------------------------------------------------------ predictions

    def _predict(self, theta, bins, names) -> dict[str, torch.Tensor]:
        return self._evaluate(self._network(theta), theta, bins, names)

    def _evaluate(self, network, theta, bins: NativeBins, names) -> dict[str, torch.Tensor]:
        pairs, columns, values = self._between_nodes(network, theta, bins, names)
        # Statistics are formed between nodes, since they are fewer than their ingredients.
        oriented = orientation_statistics(theta[:, : len(ALIGNMENT_PARAMETERS)], columns, names)
        return self._in_bins(pairs, oriented, values, bins, names)

    # ------------------------------------------------------------------ strengths that vary

    @property
    def slopes(self) -> tuple[str, ...]:
        return SLOPES[1:] if self.radial is not None else ()

    def check_slopes(self, names) -> None:
        super().check_slopes([name for name in names if name != SLOPES[1]])
        if SLOPES[1] in names:
            self._require_radial(torch.empty(0))

    def _require_radial(self, theta: torch.Tensor) -> RadialNet:
        """Return the network of satellites by radius, in the precision and on the device of ``theta``."""
        if self.radial is None:
            raise ValueError(
                "This emulator does not know where satellites are in their hosts, so mu_sat_slope must be 0. Train it "
                "again with `iaemu train fit`, from tables made by `iaemu train tabulate`."
            )
        return self._copy(self.radial, "radial", theta)

    @property
    def satellite_profile(self) -> torch.Tensor:
        """Share of satellites by radius, in the mean over all hosts, (n_radii,); see ``iaemu.halomodel.radial``."""
        return self._require_radial(torch.empty(0, dtype=torch.float64)).profile

    def _weighted(
        self,
        theta: torch.Tensor,
        bins: NativeBins,
        names: Sequence[str],
        central: Callable | None,
        satellite: torch.Tensor | None,
    ) -> dict[str, torch.Tensor]:
        """Return xi, and the ingredients of omega and eta with weights; see :meth:`TabulatedModel._weighted`."""
        if central is not None:
            self.check_slopes(SLOPES[:1])
        pairs, columns, values = self._between_nodes(self._network(theta), theta, bins, names)
        if satellite is not None and columns:
            whole = {name: columns[name] for name in RadialNet.SUMS if name in columns}
            occupation = theta[:, len(ALIGNMENT_PARAMETERS) :]
            columns |= self._require_radial(theta).weighted(occupation, satellite, whole, bins.used)
        return self._in_bins(pairs, columns, values, bins, names)

    def _by_radius(self, theta, columns: Mapping[str, torch.Tensor], bins: NativeBins) -> dict[str, torch.Tensor]:
        whole = {name: columns[name] for name in RadialNet.SUMS if name in columns}
        return self._require_radial(theta).sums(theta[:, len(ALIGNMENT_PARAMETERS) :], whole, bins.used)

    def _to_basis(self, like: torch.Tensor) -> torch.Tensor:
        return self._require_radial(like).to_basis[:, :N_TWO].to(like)

    def _strength_response(
        self,
        theta: torch.Tensor,
        r_edges: ArrayLike | None = None,
        of_mass: bool = False,
        of_radius: bool = True,
    ) -> StrengthResponse:
        """Return the sums at one occupation as functions of weights; see :meth:`TabulatedModel._strength_response`."""
        if of_mass:
            self.check_slopes(SLOPES[:1])
        bins = self._bins(r_edges)
        with torch.inference_mode(False), torch.no_grad():
            theta = torch.nn.functional.pad(theta[None].double(), (len(ALIGNMENT_PARAMETERS), 0))
            pairs, columns, values = self._between_nodes(self._network(theta), theta, bins, STATISTICS)
            if of_radius:
                columns |= {
                    name: part[0].flatten(0, -2) for name, part in self._by_radius(theta, columns, bins).items()
                }
            found = self._in_bins(pairs, columns, values, bins, STATISTICS)
            one = torch.ones(1, 1, dtype=torch.float64)
            number = found["pairs"]
            A_s, E_cs, E_ss = (found[name] * number for name in ("A_s", "E_cs", "E_ss"))
            n = N_TWO if of_radius else 1
            return StrengthResponse(
                log_mass=None,
                A_c=found["A_c"] * number,
                A_s=A_s,
                E_cs=E_cs[None],
                modes=one,
                E_cc=(found["E_cc"] * number).T[..., None],
                E_ss=E_ss.reshape(n, n, -1),
                to_basis=self._to_basis(one) if of_radius else one,
                xi=found["xi"],
                pairs=number,
                n_gal=float(found["n_gal"]),
                f_sat=float(found["f_sat"]),
            )

    def _ingredients_at(self, theta, bins, names) -> dict[str, torch.Tensor]:
        return self._ingredients(self._network(theta), theta, bins, names)

    def _ingredients(self, network, theta, bins: NativeBins, names) -> dict[str, torch.Tensor]:
        """Return xi, n_gal, f_sat and the ingredients of omega and eta, which do not depend on the strengths."""
        return self._in_bins(*self._between_nodes(network, theta, bins, names), bins, names)

    def _between_nodes(self, network, theta, bins: NativeBins, names) -> tuple[torch.Tensor | None, dict, dict]:
        """Return 1 + xi and the ingredients of omega and eta between nodes, and n_gal and f_sat."""
        needs = tuple(dict.fromkeys(name for statistic in names for name in ("log_1p_xi", *_NEEDS[statistic])))
        key = (id(network), needs, bins.used.start, bins.used.stop)
        if key not in self._heads:
            rows = torch.cat([*([network.rows(needs, bins.used)] if needs else []), network.scalar_rows()])
            # Tensors made under inference mode could not be used in a later gradient.
            with torch.inference_mode(False):
                self._heads[key] = network.head(rows)
            while len(self._heads) > _MAX_HEADS:
                self._heads.pop(next(iter(self._heads)))
        outputs = network(theta[:, len(ALIGNMENT_PARAMETERS) :], self._heads[key])
        values = {"n_gal": 10.0 ** outputs[:, -2], "f_sat": outputs[:, -1]}
        if not needs:
            return None, {}, values
        columns = dict(zip(needs, outputs[:, :-2].split(len(bins.native), dim=1), strict=True))
        return torch.exp(columns.pop("log_1p_xi")), columns, values

    def _in_bins(self, pairs, columns, values: dict, bins: NativeBins, names) -> dict[str, torch.Tensor]:
        """Return means over pairs, xi and the expected numbers of pairs in the bins, with n_gal and f_sat."""
        if pairs is None:
            return values
        pairs, columns = rebinned(pairs, columns, bins)
        density = values["n_gal"].square() * float(self.box_volumes.sum())
        values = columns | values | {"pairs": pairs * bins.volumes.to(pairs) * density.unsqueeze(1)}
        return values | ({"xi": pairs - 1.0} if "xi" in names else {})

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
        """Return the scatter of one measurement; in other bins than those of the fit by error propagation."""
        if self.aleatoric is None:
            return {}
        network = self._network(theta)
        known, everything = self._bins(self.aleatoric.r_edges), self._bins(self.nodes)
        between, values = (self._ingredients(network, theta, part, ("xi",)) for part in (everything, known))
        # Which share of the pairs of each bin of the fit is in each of the bins that are asked for.
        within = torch.as_tensor(_intersections(bins.edges, known.edges, self.nodes)).to(between["pairs"])
        together = torch.einsum("kjb,nb->nkj", within, between["pairs"])
        whole = torch.as_tensor(_intersections(known.edges[[0, -1]], known.edges, self.nodes)).to(together)
        shares = together / torch.einsum("kjb,nb->nkj", whole, between["pairs"])
        inputs = AleatoricNet.inputs(network, theta)
        variances = self._copy(self.aleatoric.network, "aleatoric", theta)
        scale = 1.0 if volume is None else self.aleatoric.volume / volume
        return {
            f"sigma_aleatoric.{name}": torch.sqrt(
                scale * self.aleatoric.variance(variances, inputs, name, values["xi"], values["pairs"], shares)
            )
            for name in names
        }

    @property
    def _n_epistemic(self) -> int:
        return len(self.members) + 1 if self.members else 0

    def _epistemic_deviations(self, theta, r_edges, names) -> dict[str, torch.Tensor]:
        """Return deviations of the ensemble, whose sum of squares is the variance of its errors.

        ``sigma_epistemic`` is half the width of an interval of 68 %. A covariance needs the variance, that of Student's
        t, which is infinite below three degrees of freedom; then that of three is used.
        """
        scale = self.metadata.get("epistemic_scale", {})
        dof = max(self._n_epistemic - 1, 3)
        width = (dof / (dof - 2.0)) ** 0.5 / float(stdtrit(dof, 0.5 + 0.5 * ONE_SIGMA))
        networks = [self._network(theta), *self._others(theta)]
        if isinstance(r_edges, Projection):
            bins, matrices = self._bins(self.nodes), self._matrices(r_edges)
            shells = [self._ingredients(network, theta, bins, ("xi", "omega")) for network in networks]
            found = [projected(each, matrices) for each in shells]
        else:
            found = [self._ingredients(network, theta, self._bins(r_edges), names) for network in networks]
        return {
            name: scaled(torch.stack([each[name] for each in found], dim=1), width * float(scale.get(statistic, 1.0)))
            for statistic in names
            for name in ORIENTATION_INGREDIENTS.get(statistic, (statistic,))
        }


def _at_one_redshift(metadata: dict, redshifts: tuple[float, float]) -> dict:
    """Return metadata with the redshift of the predictions, what is supported there, and the nearest catalogues."""
    redshift = metadata.get("redshift")
    redshift = usual_redshift(*redshifts) if redshift is None else min(max(float(redshift), redshifts[0]), redshifts[1])
    snapshot = nearest_snapshot(metadata, redshift) or {}
    known = {name: snapshot[name] for name in ("catalogues", "catalogue_sha256") if name in snapshot}
    if snapshot:
        known["support"] = support_at(metadata["snapshots"], redshift).to_dict()
    return {**metadata, **known, "redshift": redshift}


def _intersections(first: np.ndarray, second: np.ndarray, third: np.ndarray) -> np.ndarray:
    """Return which fraction of the volume of each bin of the third edges is in bins of the first and of the second."""
    edges = first[:, None, None], second[None, :, None], third[None, None, :]
    low = np.maximum(np.maximum(edges[0][:-1], edges[1][:, :-1]), edges[2][..., :-1])
    high = np.minimum(np.minimum(edges[0][1:], edges[1][:, 1:]), edges[2][..., 1:])
    return np.clip(high**3 - low**3, 0.0, None) / np.diff(third**3)
