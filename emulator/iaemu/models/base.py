"""The contract of forward models, and what they have in common: batches, support, files, the error of a prediction.

Emulators, tables and mocks map the same parameters to xi, omega and eta. Callers use what :class:`ForwardModel`
promises, and need not know which of them they have. A model fills in a few hooks, listed at the end of the class.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ClassVar, Self, cast

import numpy as np
import torch
from numpy.typing import ArrayLike

from iaemu.artifact import check_golden, load_artifact, shipped_artifact
from iaemu.binning import BinningError, check_edges, find_edges, shell_volumes
from iaemu.display import describe_bins, shorten
from iaemu.models.deviations import Deviations
from iaemu.models.fixed_occupation import AtOccupation, EvaluatedOccupation, FixedOccupation, without_alignment
from iaemu.parameters import OCCUPATION_PARAMETERS, PARAMETERS, Support, as_theta, has_tensor
from iaemu.prediction import STATISTICS, Prediction, check_statistics, in_parts
from iaemu.ranges import Range

#: Of a survey [(Mpc/h)^3], up to that of the observable universe and beyond.
_VOLUME = Range(at_least=1, at_most=1e15)


class ForwardModel(Deviations, ABC):
    """Maps parameters to correlation functions; ``predict``, ``deviations`` and ``at_occupation`` are differentiable.

    Numbers or arrays in, arrays out; tensors in, tensors out, with gradients. A file holds one model:
    ``ForwardModel.load(path)``, or ``iaemu.load(path)``, gives whichever it is.

    Attributes
    ----------
    parameters : tuple of str
        Names, in the order of the last axis of ``theta``.
    statistics : tuple of str
        What it predicts.
    support : Support
        Where it may be used.
    binnings : sequence of arrays (n_bins + 1,)
        Bins that it gives natively [Mpc/h]; any that nest in one of them can be asked for.
    metadata : dict
        Halo catalogues, their hashes, cosmology, and how the model was made; empty if nothing is known.
    factorises : bool
        Whether :meth:`at_occupation` pays for the occupation once: the strengths are factors, see
        :mod:`iaemu.halomodel.alignment`.
    """

    parameters: tuple[str, ...] = PARAMETERS
    statistics: tuple[str, ...] = STATISTICS
    support: Support
    binnings: Sequence[np.ndarray]
    metadata: dict[str, Any]
    factorises: bool = False

    #: Of a model with a file of its own: its kind, and the one that comes with the package.
    kind: ClassVar[str]
    shipped: ClassVar[str]
    _kinds: ClassVar[dict[str, type[ForwardModel]]] = {}

    #: Points that are evaluated together: more would leave the cache.
    _at_once: ClassVar[int] = 4096
    #: Random points of golden predictions, and how closely (relative, absolute) these must be reproduced.
    _n_golden: ClassVar[int] = 4
    _golden_tolerance: ClassVar[tuple[float, float]] = (1e-4, 1e-7)
    #: Whether everything is computed on the CPU in double precision, whatever the parameters are.
    _in_double: ClassVar[bool] = False

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if "kind" in vars(cls):
            ForwardModel._kinds[cls.kind] = cls

    @classmethod
    def load(cls, path: Any = None) -> Self:
        """The model in a file, which says of which kind it is.

        Parameters
        ----------
        path : path-like, optional
            A file, or the name of a shipped one, such as ``tables-pm160``; by default the shipped one of this class.

        Returns
        -------
        ForwardModel
            Of this class, or of a subclass.

        Raises
        ------
        ArtifactError
            The file is missing, corrupt, foreign or of another kind, or its golden predictions are not reproduced.
        """
        kinds = {kind: known for kind, known in ForwardModel._kinds.items() if issubclass(known, cls)}
        path = shipped_artifact(cls.shipped) if path is None else path
        # Tensors made under inference mode could not take part in a later gradient. The caller's default device is
        # for tensors of his own.
        with torch.inference_mode(False), torch.device("cpu"):
            return cast(Self, load_artifact(path, kinds))

    def __repr__(self) -> str:
        catalogues = ", ".join(map(str, self.metadata.get("catalogues") or ["unknown halo catalogues"]))
        lines = [
            f"{type(self).__name__}: {', '.join(self.statistics)} for {shorten(catalogues)}",
            f"{' or '.join(describe_bins(edges) for edges in self.binnings)}; "
            f"logMmin {self.support.logMmin[0]:.5g} to {self.support.logMmin[1]:.5g}",
        ]
        details = self._details()
        return "\n  ".join(lines + (["; ".join(details)] if details else []))

    def _details(self) -> list[str]:
        """What the last line of the repr says of this model, in a few words each."""
        return []

    @property
    def r_edges(self) -> np.ndarray:
        """Edges of its default bins, the first of ``binnings``, (n_bins + 1,) [Mpc/h]."""
        return self.binnings[0]

    @property
    def box_volumes(self) -> np.ndarray:
        """Volumes of the boxes of its halo catalogues, (n_boxes,) [(Mpc/h)^3]; ValueError if they are not known."""
        if "box_volumes" not in self.metadata:
            raise ValueError("This model does not state the volumes of its halo catalogues (metadata['box_volumes']).")
        return np.asarray(self.metadata["box_volumes"], dtype=np.float64)

    @property
    def has_uncertainties(self) -> bool:
        """Whether ``predict`` takes ``uncertainties=True``."""
        return False

    def check_bins(self, r_edges: ArrayLike) -> None:
        """Whether bins can be asked for.

        Parameters
        ----------
        r_edges : array (n_bins + 1,)
            [Mpc/h]

        Raises
        ------
        iaemu.binning.BinningError
            They are malformed, or nest in none of ``binnings``.
        """
        edges, errors = check_edges(r_edges), []
        for available in self.binnings:
            try:
                find_edges(available, edges)
                return
            except BinningError as error:
                errors.append(error)
        raise BinningError(" Nor: ".join(map(str, errors)))

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
        """Correlation functions at one or more points.

        Parameters
        ----------
        theta : mapping of names, array or tensor (..., n_parameters)
            Arrays and numbers are computed in float64; tensors in their own precision, by tables in float64.
        r_edges : array (n_bins + 1,), optional
            Edges that nest in one of ``binnings``, of which the first is the default [Mpc/h].
        statistics : subset of ("xi", "omega", "eta")
            If it is empty, ``n_gal`` and ``f_sat`` alone are predicted.
        support : "raise", "reject" (NaN outside) or "warn"
        uncertainties : bool
            Also give ``sigma_epistemic``, the standard error of the prediction as an expectation, and
            ``sigma_aleatoric``, the standard deviation of one measurement about it, as far as the model has them.
        volume : float, optional
            Of the measurement [(Mpc/h)^3], from 1 to 1e15, which ``sigma_aleatoric`` belongs to; by default that of
            the catalogue.

        Returns
        -------
        Prediction
            Statistics (..., n_bins); ``n_gal`` [(h/Mpc)^3] and ``f_sat`` (...), where the model predicts them; NaN
            where no pair is expected.

        Raises
        ------
        ValueError
            An argument is none of these. A :class:`iaemu.parameters.SupportError` if a point is outside the support, an
            :class:`iaemu.binning.BinningError` if bins are malformed or do not nest.
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
        """The predictions at one occupation, as functions of the alignment strengths.

        What does not depend on them is evaluated once, where the model knows it apart; else at each call.

        Parameters
        ----------
        occupation : mapping of names, or sequence of the five numbers in the order of ``OCCUPATION_PARAMETERS``
        r_edges, statistics
            As in :meth:`predict`.
        support : "raise" or "warn"

        Returns
        -------
        AtOccupation

        Raises
        ------
        ValueError
            As of :meth:`predict`.
        """
        names, theta = check_statistics(statistics), without_alignment(occupation, self.parameters)
        self.support.enforce(theta, support)
        # Tensors made under inference mode could not take part in a later gradient.
        with torch.inference_mode(False), torch.no_grad():
            return self._at_occupation(theta, r_edges, names)

    def expected_pairs(self, prediction: Prediction) -> Any:
        """Expected number of ordered pairs in all boxes of the catalogue together.

        Parameters
        ----------
        prediction : Prediction
            With xi and ``n_gal``.

        Returns
        -------
        array or tensor (..., n_bins)

        Raises
        ------
        ValueError
            The model does not predict the number of galaxies.
        """
        if prediction.n_gal is None or prediction.xi is None:
            raise ValueError("Numbers of pairs follow from xi and n_gal, and this prediction does not hold both.")
        density = prediction.n_gal[..., None]
        shells: Any = shell_volumes(prediction.r_edges)
        if isinstance(density, torch.Tensor):
            shells = torch.as_tensor(shells).to(density)
        return (1.0 + prediction.xi) * density**2 * float(np.sum(self.box_volumes)) * shells

    # ------------------------------------------------------------------ batches

    def _predict_batch(
        self, theta, r_edges, statistics, support: str, sigmas: Callable | None, volume, at_once: int | None = None
    ) -> Prediction:
        """:meth:`predict`; ``sigmas`` is the hook :meth:`_sigmas`, or None."""
        names, bins = check_statistics(statistics), self._bins(r_edges)
        if sigmas is not None and not self.has_uncertainties:
            raise ValueError("This model has no uncertainties: set uncertainties=False, or load another.")
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
        prediction = Prediction.of(edges, values)
        return prediction if has_tensor(theta) else prediction.numpy()

    # ------------------------------------------------------------------ hooks

    @classmethod
    def _check_layout(cls, metadata: dict, shapes: dict[str, tuple[int, ...]], path: Any) -> None:
        """Any exception if a file with these metadata and tensors is none of its own; nothing large is allocated."""
        raise NotImplementedError

    @classmethod
    def _restore(cls, tensors: dict[str, np.ndarray], metadata: dict, path: Any) -> ForwardModel:
        """The model of the tensors and metadata of a file; any exception if they do not do."""
        raise NotImplementedError

    def _golden(self, theta: np.ndarray) -> dict[str, np.ndarray]:
        """What must come out the same after loading, such that each number of the file has its part in it."""
        raise NotImplementedError

    def _new_golden(self) -> dict[str, Any]:
        """Golden predictions for a file: the points also as those of the unit cube, which tells the support."""
        # Of all centrals, and most satellites, down to the lowest masses; others are anywhere.
        full = [1.0 if name in ("mu_cen", "mu_sat", "sigma_logM", "alpha") else 0.0 for name in self.parameters]
        rng = np.random.default_rng(20250407)
        unit = np.concatenate([rng.uniform(size=(self._n_golden, len(self.parameters))), [full]])
        theta = self.support.from_unit_cube(unit)
        values = {"unit": unit, "theta": theta, **self._golden(theta)}
        return {name: np.asarray(value).tolist() for name, value in values.items()}

    def _check_golden(self, golden: Mapping[str, Any], path: Any) -> None:
        """ArtifactError if what the file says of itself is not reproduced, see :func:`iaemu.artifact.check_golden`."""
        check_golden(golden, {"theta": self.support.from_unit_cube(golden["unit"])}, path, rtol=1e-9, atol=1e-9)
        theta = np.asarray(golden["theta"])
        check_golden(golden, self._golden(theta), path, *self._golden_tolerance)

    def _bins(self, r_edges: ArrayLike | None) -> Any:
        """What the model needs to know of the bins asked for, handed on to the hooks; BinningError if it has none."""
        return r_edges

    @abstractmethod
    def _predict(self, theta: torch.Tensor, bins: Any, names: tuple[str, ...]) -> dict[str, torch.Tensor]:
        """Statistics (n, n_bins), and n_gal and f_sat (n,) where known, at points (n, n_parameters)."""

    def _sigmas(
        self, theta: torch.Tensor, values: dict, bins: Any, names: tuple[str, ...], volume: float | None
    ) -> dict[str, torch.Tensor]:
        """Standard deviations (n, n_bins) by names such as ``sigma_aleatoric.xi``; ``values`` are the predictions."""
        return {}

    def _at_occupation(self, theta: torch.Tensor, r_edges: ArrayLike | None, names: tuple[str, ...]) -> AtOccupation:
        """The model at the occupation of one point (1, n_parameters)."""
        found = self._ingredients_at(theta, self._bins(r_edges), names)
        if found is None:
            return EvaluatedOccupation(self, theta, r_edges, names)
        ingredients = {name: value[0].clone() for name, value in found.items()}
        counts = {name: float(ingredients.pop(name)) for name in ("n_gal", "f_sat")}

        def deviations() -> dict[str, torch.Tensor] | None:
            if not self.n_deviations or not names:
                return None
            with torch.inference_mode(False), torch.no_grad():
                found = self._ingredient_deviations(theta, r_edges, names)
                return {name: value[0].clone() for name, value in found.items()}

        edges = self.r_edges if r_edges is None else check_edges(r_edges)
        return FixedOccupation(edges, ingredients, self._limits(), **counts, deviations=deviations)

    def _limits(self) -> dict[str, tuple[float, float]]:
        """Ranges of what it has beside the occupation, by name."""
        return {name: self.support.bounds(name, None) for name in self.parameters if name not in OCCUPATION_PARAMETERS}

    def _ingredients_at(self, theta: torch.Tensor, bins: Any, names: tuple[str, ...]) -> dict[str, torch.Tensor] | None:
        """xi and the ingredients of omega and eta (1, n_bins), n_gal and f_sat (1,); None: strengths are no factors."""
        return None
