"""The interface of forward models, and the code that they share: batches, supported region, files, errors.

Emulators, tables and mocks map the same parameters to xi, omega and eta, and have the interface of
:class:`ForwardModel`. A model implements a few methods, listed at the end of the class.
"""

from __future__ import annotations

import re
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar, Self, cast

import numpy as np
import torch
from numpy.typing import ArrayLike

from iaemu.artifact import check_golden, load_artifact, shipped_artifact
from iaemu.binning import Rebinning, check_edges, shell_volumes
from iaemu.display import describe_bins, shorten
from iaemu.models.deviations import Deviations
from iaemu.models.fixed_occupation import AtOccupation, EvaluatedOccupation, FixedOccupation, without_alignment
from iaemu.models.projecting import Projecting
from iaemu.models.redshifts import AtRedshift
from iaemu.observables.projected import Projection
from iaemu.parameters import OCCUPATION_PARAMETERS, PARAMETERS, Support, as_theta, has_tensor
from iaemu.prediction import FewPairsWarning, Prediction, in_parts
from iaemu.ranges import Range
from iaemu.statistics import STATISTICS, check_statistics

#: Fewest unordered pairs that are expected in all halo catalogues together, for a bin to be predicted. With fewer, a
#: ratio of expectations says little about what is measured, and truncations could make it unphysical.
MIN_PAIRS = 3.0

#: Our names of what catalogues state of their cosmology.
_COSMOLOGY = {"Om0": "Om", "Om": "Om", "Ob0": "Ob", "Ob": "Ob", "h": "h", "sigma8": "sigma8", "ns": "ns"}

#: Allowed volumes of a measurement [(Mpc/h)^3]; the largest exceeds that of the observable Universe.
_VOLUME = Range(at_least=1, at_most=1e15)


class ForwardModel(Deviations, Projecting, AtRedshift, ABC):
    """A model that maps parameters to correlation functions; the common interface of emulators, tables and mocks.

    If parameters are numbers or arrays, predictions are arrays. If they are tensors, predictions are tensors, and
    ``predict``, ``deviations`` and ``at_occupation`` are differentiable. :func:`iaemu.load` loads a model from a file.

    Attributes
    ----------
    parameters : tuple of str
        Names, in the order of the last axis of ``theta``.
    statistics : tuple of str
        Names of the correlation functions that it predicts.
    support : Support
        The supported region of the parameters.
    nodes : array (n_nodes,)
        Separations [Mpc/h] up to which the numbers of pairs are known exactly. Predictions in any bins between the
        first and the last follow, see :class:`iaemu.binning.Rebinning`.
    metadata : dict
        Halo catalogues, their hashes, cosmology, and how the model was made; empty if nothing is known.
    factorises : bool
        Whether :meth:`at_occupation` evaluates the occupation only once, because the strengths enter as factors q(mu).
    """

    parameters: tuple[str, ...] = PARAMETERS
    statistics: tuple[str, ...] = STATISTICS
    support: Support
    nodes: np.ndarray
    metadata: dict[str, Any]
    factorises: bool = False

    #: Kind of artifact file, and name of the shipped file, of models that are stored in files.
    kind: ClassVar[str]
    shipped: ClassVar[str]
    _kinds: ClassVar[dict[str, type[ForwardModel]]] = {}

    #: Number of points that are evaluated together, so that tensors fit in the cache.
    _at_once: int = 4096
    #: Number of random points of golden predictions, and the tolerance (relative, absolute) of these.
    _n_golden: ClassVar[int] = 4
    _golden_tolerance: ClassVar[tuple[float, float]] = (1e-4, 1e-7)
    #: Whether everything is computed on the CPU in double precision, whatever the parameters are.
    _in_double: bool = False

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if "kind" in vars(cls):
            ForwardModel._kinds[cls.kind] = cls

    @classmethod
    def load(cls, path: Any = None) -> Self:
        """Load a model from a file.

        Parameters
        ----------
        path : path-like, optional
            A file, or the name of a shipped model such as ``tables-pm160``; by default the shipped model of this
            class.

        Returns
        -------
        ForwardModel
            An instance of this class or of a subclass, as stated in the file.

        Raises
        ------
        ArtifactError
            The file is missing, corrupt, not made by iaemu or of another kind, or does not reproduce its golden
            predictions.
        """
        kinds = {kind: known for kind, known in ForwardModel._kinds.items() if issubclass(known, cls)}
        path = shipped_artifact(cls.shipped) if path is None else path
        # Tensors made under inference mode could not be used in a later gradient. Tables and networks are made on the
        # CPU, whatever default device the caller has set.
        with torch.inference_mode(False), torch.device("cpu"):
            return cast(Self, load_artifact(path, kinds))

    def __repr__(self) -> str:
        catalogues = ", ".join(map(str, self.metadata.get("catalogues") or ["unknown halo catalogues"]))
        lines = [
            f"{type(self).__name__}: {', '.join(self.statistics)} for {shorten(catalogues)}",
            f"bins from {self.nodes[0]:.4g} to {self.nodes[-1]:.4g} Mpc/h, by default {describe_bins(self.r_edges)}; "
            f"logMmin {self.support.logMmin[0]:.5g} to {self.support.logMmin[1]:.5g}",
        ]
        details = self._details()
        return "\n  ".join(lines + (["; ".join(details)] if details else []))

    def _details(self) -> list[str]:
        """What the last line of the repr says of this model, in a few words each."""
        return []

    @property
    def slopes(self) -> tuple[str, ...]:
        """Names of the slopes of :class:`iaemu.VaryingStrengthModel` that it knows, or has as parameters."""
        return ()

    @property
    def r_edges(self) -> np.ndarray:
        """Edges of the default bins, (n_bins + 1,) [Mpc/h]."""
        return self.nodes

    @property
    def box_volumes(self) -> np.ndarray:
        """Volumes of the boxes of the halo catalogues, (n_boxes,) [(Mpc/h)^3]; ValueError if they are not known."""
        if "box_volumes" not in self.metadata:
            raise ValueError("The volumes of the halo catalogues are not in this model's metadata['box_volumes'].")
        return np.asarray(self.metadata["box_volumes"], dtype=np.float64)

    @property
    def cosmology(self) -> dict[str, float] | None:
        """What the halo catalogues state of Om, Ob, h, sigma8, ns and others, with the redshift; None if nothing."""
        held = (self.metadata.get("catalogue_attributes") or [{}])[0]
        text = self.metadata.get("cosmology") or held.get("cosmology") or ""
        found = {name: float(value) for name, value in re.findall(r"(\w+)\s*=\s*([-+.\deE]*\d)", str(text))}
        found = {name: held[name] for name in _COSMOLOGY if isinstance(held.get(name), (int, float))} | found
        found = {_COSMOLOGY.get(name, name): value for name, value in found.items() if name != "z"}
        return found | {"redshift": self.redshift or 0.0} if found else None

    @property
    def has_uncertainties(self) -> bool:
        """Whether ``predict`` accepts ``uncertainties=True``."""
        return False

    def check_slopes(self, names: Iterable[str]) -> None:
        """Raise ValueError if strengths with these slopes do not follow from the model.

        Parameters
        ----------
        names : iterable of str
            Names in ``iaemu.parameters.SLOPES``.
        """
        unknown = [name for name in names if name not in self.slopes]
        if unknown:
            raise ValueError(f"{type(self).__name__} does not know {', '.join(unknown)}; use the tables (TabulatedIA).")

    def with_constants(self, constants: Mapping[str, float]) -> ForwardModel:
        """Return a simpler model that predicts the same if some parameters are constant, or this one.

        Parameters
        ----------
        constants : mapping of str to float
            Values of the constant parameters.

        Returns
        -------
        ForwardModel
            Its parameters are some of those of this model.
        """
        return self

    def check_bins(self, r_edges: ArrayLike | Projection) -> None:
        """Raise an exception if the model cannot predict in these bins.

        Parameters
        ----------
        r_edges : array (n_bins + 1,), or Projection
            [Mpc/h]

        Raises
        ------
        iaemu.binning.BinningError
            The edges are malformed, or a bin is beyond the nodes or thinner than they resolve.
        """
        if isinstance(r_edges, Projection):
            self._matrices(r_edges)
        else:
            Rebinning.between(self.nodes, r_edges)

    # ------------------------------------------------------------------ predictions

    def predict(
        self,
        theta: Any,
        r_edges: ArrayLike | None = None,
        statistics: str | Iterable[str] = STATISTICS,
        support: str = "raise",
        uncertainties: bool = False,
        volume: float | None = None,
    ) -> Prediction:
        """Predict correlation functions at one or more points.

        Parameters
        ----------
        theta : mapping of names, array or tensor (..., n_parameters)
            Parameters. Emulators compute numbers and arrays in float64 and tensors in their own precision; tables
            always compute in float64.
        r_edges : array (n_bins + 1,), optional
            Edges of any bins between the first and the last of ``nodes`` [Mpc/h]; by default ``self.r_edges``.
        statistics : subset of ("xi", "omega", "eta")
            If it is empty, only ``n_gal`` and ``f_sat`` are predicted.
        support : "raise", "reject" or "warn"
            What to do at points outside the supported region: raise an exception, return NaN, or warn and extrapolate.
            With "reject" there is no warning of bins with few pairs either.
        uncertainties : bool
            Whether to predict errors too, as far as the model has them: ``sigma_epistemic``, the standard error of the
            prediction, and ``sigma_aleatoric``, the standard deviation of one measurement about the prediction.
        volume : float, optional
            Volume of the measurement for ``sigma_aleatoric``, from 1 to 1e15 [(Mpc/h)^3]; by default that of the halo
            catalogues.

        Returns
        -------
        Prediction
            Statistics (..., n_bins), and ``n_gal`` [(h/Mpc)^3] and ``f_sat`` (...) if the model predicts them. In bins
            with fewer than 3 expected pairs in all halo catalogues together they are NaN, with a
            :class:`FewPairsWarning`.

        Raises
        ------
        ValueError
            An argument is not allowed. It is a :class:`iaemu.SupportError` if a point is outside the supported region,
            and an :class:`iaemu.binning.BinningError` if the model cannot predict in these bins.
        """
        sigmas = self._sigmas if uncertainties else None
        return self._predict_batch(theta, r_edges, statistics, support, sigmas, volume)

    def at_occupation(
        self,
        occupation: Any,
        r_edges: ArrayLike | None = None,
        statistics: str | Iterable[str] = STATISTICS,
        support: str = "raise",
    ) -> AtOccupation:
        """Return the predictions at one occupation as functions of the alignment strengths.

        Models with ``factorises`` evaluate the occupation once, others at each call.

        Parameters
        ----------
        occupation : mapping of names, or sequence of five numbers
            ``logMmin, sigma_logM, logM0, logM1, alpha``, a sequence in this order.
        r_edges, statistics
            See :meth:`predict`.
        support : "raise", "reject" or "warn"
            With "reject" the occupation is not checked, and there is no warning of bins with few pairs.

        Returns
        -------
        AtOccupation
            A callable that maps strengths (n, 2) to a dictionary of statistics (n, n_bins).

        Raises
        ------
        ValueError
            An argument is not allowed, see :meth:`predict`.
        """
        names, theta = check_statistics(statistics), without_alignment(occupation, self.parameters)
        self.support.enforce(theta, support)
        # Tensors made under inference mode could not be used in a later gradient.
        with torch.inference_mode(False), torch.no_grad():
            return self._at_occupation(theta, r_edges, names, support != "reject")

    def expected_pairs(self, prediction: Prediction) -> Any:
        """Return the expected number of ordered pairs in all boxes of the halo catalogues together.

        Parameters
        ----------
        prediction : Prediction
            A prediction of this model that contains ``xi`` and ``n_gal``.

        Returns
        -------
        array or tensor (..., n_bins)

        Raises
        ------
        ValueError
            The prediction does not contain ``xi`` and ``n_gal``, or the volumes of the boxes are not known.
        """
        if prediction.n_gal is None or prediction.xi is None:
            raise ValueError("Numbers of pairs follow from xi and n_gal, but this prediction does not contain both.")
        density = prediction.n_gal[..., None]
        shells: Any = shell_volumes(prediction.r_edges)
        if isinstance(density, torch.Tensor):
            shells = torch.as_tensor(shells).to(density)
        return (1.0 + prediction.xi) * density**2 * float(np.sum(self.box_volumes)) * shells

    # ------------------------------------------------------------------ batches

    def _predict_batch(
        self, theta, r_edges, statistics, support: str, sigmas: Callable | None, volume, at_once: int | None = None
    ) -> Prediction:
        """Predict as :meth:`predict` does; ``sigmas`` is the method :meth:`_sigmas`, or None."""
        names, bins = check_statistics(statistics), self._bins(r_edges)
        if sigmas is not None and not self.has_uncertainties:
            raise ValueError("This model has no uncertainties. Set uncertainties=False, or load another model.")
        if volume is not None:
            _VOLUME.check("volume [(Mpc/h)^3]", volume)
        points = as_theta(theta, self.parameters)
        inside = self.support.enforce(points.double() if self._in_double else points, support, stacklevel=4)

        def evaluate(part):
            values = self._predict(part, bins, names)
            return values if sigmas is None else values | sigmas(part, values, bins, names, volume)

        keep = inside if support == "reject" else None
        values = in_parts(points, evaluate, keep, at_once or self._at_once, self._in_double)
        edges = self.r_edges if r_edges is None else check_edges(r_edges)
        pairs = values.pop("pairs", None)
        if pairs is not None:
            values = self._without_few_pairs(values, pairs, (edges[:-1], edges[1:]), points, support != "reject")
        prediction = Prediction.of(edges, values)
        return prediction if has_tensor(theta) else prediction.numpy()

    def _without_few_pairs(
        self, values: dict, pairs: torch.Tensor, limits: tuple, points: torch.Tensor, warn: bool
    ) -> dict:
        """Return statistics (..., n_bins) with NaN, and a warning, where few ordered pairs are expected."""
        few = pairs.detach() < 2.0 * MIN_PAIRS
        if not bool(few.any()):
            return values
        if warn:
            self._warn_of_few_pairs(few, limits, points)
        return {
            name: torch.where(few, torch.nan, value) if value.shape == few.shape else value
            for name, value in values.items()
        }

    def _warn_of_few_pairs(self, few: torch.Tensor, limits: tuple, points: torch.Tensor) -> None:
        bins = few.reshape(-1, few.shape[-1])
        row = int(torch.nonzero(bins.any(dim=1))[0])
        column = int(torch.nonzero(bins[row])[0])
        point = ", ".join(
            f"{name} = {float(value):.4g}"
            for name, value in zip(self.parameters, points.detach().reshape(-1, points.shape[-1])[row], strict=True)
            if name in OCCUPATION_PARAMETERS
        )
        warnings.warn(
            f"{int(bins.any(dim=0).sum())} of {few.shape[-1]} bins are NaN at {int(bins.any(dim=1).sum())} of "
            f"{len(bins)} points, because fewer than {MIN_PAIRS:g} pairs are expected in the halo catalogues: the "
            f"first is the bin from {limits[0][column]:.4g} to {limits[1][column]:.4g} Mpc/h at {point}. Use wider "
            "bins there, or leave them out.",
            FewPairsWarning,
            stacklevel=5,
        )

    # ------------------------------------------------------------------ hooks

    @classmethod
    def _check_layout(cls, metadata: dict, shapes: dict[str, tuple[int, ...]], path: Any) -> None:
        """Raise any exception if the metadata and tensors of a file do not fit; allocate nothing large."""
        raise NotImplementedError

    @classmethod
    def _restore(cls, tensors: dict[str, np.ndarray], metadata: dict, path: Any) -> ForwardModel:
        """Return the model of the tensors and metadata of a file, or raise any exception."""
        raise NotImplementedError

    def _golden(self, theta: np.ndarray) -> dict[str, np.ndarray]:
        """Return values that must be the same after loading, and depend on every number in the file."""
        raise NotImplementedError

    def _new_golden(self) -> dict[str, Any]:
        """Return golden predictions for a file, with their points also in the unit cube, which tests the support."""
        # One point has centrals and most satellites down to the lowest masses; the others are random.
        full = [1.0 if name in ("mu_cen", "mu_sat", "sigma_logM", "alpha") else 0.0 for name in self.parameters]
        rng = np.random.default_rng(20250407)
        unit = np.concatenate([rng.uniform(size=(self._n_golden, len(self.parameters))), [full]])
        theta = self.support.from_unit_cube(unit)
        values = {"unit": unit, "theta": theta, **self._golden(theta)}
        return {name: np.asarray(value).tolist() for name, value in values.items()}

    def _check_golden(self, golden: Mapping[str, Any], path: Any) -> None:
        """Raise ArtifactError if golden predictions are not reproduced, see :func:`iaemu.artifact.check_golden`."""
        check_golden(golden, {"theta": self.support.from_unit_cube(golden["unit"])}, path, rtol=1e-9, atol=1e-9)
        theta = np.asarray(golden["theta"])
        check_golden(golden, self._golden(theta), path, *self._golden_tolerance)

    def _bins(self, r_edges: ArrayLike | None) -> Any:
        """Return what the other methods need to know of bins; BinningError if the model cannot predict in them."""
        return r_edges

    @abstractmethod
    def _predict(self, theta: torch.Tensor, bins: Any, names: tuple[str, ...]) -> dict[str, torch.Tensor]:
        """Predict statistics (n, n_bins), and n_gal and f_sat (n,) if possible, at points (n, n_parameters).

        With ``pairs``, the expected number of ordered pairs in all halo catalogues together, bins with few are masked.
        """

    def _sigmas(
        self, theta: torch.Tensor, values: dict, bins: Any, names: tuple[str, ...], volume: float | None
    ) -> dict[str, torch.Tensor]:
        """Return standard deviations (n, n_bins) of ``values``, by names such as ``sigma_aleatoric.xi``."""
        return {}

    def _at_occupation(
        self, theta: torch.Tensor, r_edges: ArrayLike | None, names: tuple[str, ...], warn: bool
    ) -> AtOccupation:
        """Return the model at the occupation of one point (1, n_parameters)."""
        if isinstance(r_edges, Projection):
            found, edges = self._mask_projected(self._projected(theta, r_edges), r_edges, theta, warn), r_edges
            found = {name: found[name] for name in ("xi", "A_c", "A_s", "n_gal", "f_sat")}
        else:
            found = self._ingredients_at(theta, self._bins(r_edges), names)
            if found is None:
                return EvaluatedOccupation(self, theta, r_edges, names)
            edges = self.r_edges if r_edges is None else check_edges(r_edges)
            pairs = found.pop("pairs", None)
            if pairs is not None:
                found = self._without_few_pairs(found, pairs, (edges[:-1], edges[1:]), theta, warn)
        ingredients = {name: value[0].clone() for name, value in found.items()}
        counts = {name: float(ingredients.pop(name)) for name in ("n_gal", "f_sat")}

        return FixedOccupation(
            edges,
            ingredients,
            self._limits(),
            **counts,
            deviations=lambda: self._deviations_of_occupation(theta, r_edges, names),
        )

    def _deviations_of_occupation(self, theta: torch.Tensor, r_edges, names) -> dict[str, torch.Tensor] | None:
        """Return deviations of the ingredients (n_deviations, n_bins) at one point (1, n_parameters), if there are."""
        if not self.n_deviations or not names:
            return None
        with torch.inference_mode(False), torch.no_grad():
            found = self._ingredient_deviations(theta, r_edges, names)
            return {name: value[0].clone() for name, value in found.items()}

    def _limits(self) -> dict[str, tuple[float, float]]:
        """Return the ranges of the parameters that are not of the occupation, by name."""
        return {name: self.support.bounds(name, None) for name in self.parameters if name not in OCCUPATION_PARAMETERS}

    def _ingredients_at(self, theta: torch.Tensor, bins: Any, names: tuple[str, ...]) -> dict[str, torch.Tensor] | None:
        """Return xi and the ingredients of omega and eta (1, n_bins), and n_gal and f_sat (1,).

        None if the strengths do not enter as factors.
        """
        return None
