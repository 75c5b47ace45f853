"""A forward model that populates mocks at each point: their statistics, and the standard errors of these."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch

from iaemu.binning import PAPER_EDGES, check_edges, nesting_matrix, union_edges
from iaemu.models.base import ForwardModel
from iaemu.models.laws import PIVOT, StrengthSupport
from iaemu.parameters import PARAMETERS, SLOPES, Support, as_theta
from iaemu.ranges import Range
from iaemu.statistics import STATISTICS, check_statistics
from iaemu_training.halos.catalogue import HaloCatalogue
from iaemu_training.mocks.halotools import HalotoolsMocks, check_pivot, check_slopes
from iaemu_training.mocks.realisations import MockRealisations, concatenate, sum_boxes
from iaemu_training.work.cluster import Workers, one_thread, workers

SEED_POLICIES = ("fixed", "fresh")


class MockEnsemble(ForwardModel):
    """Mean statistics of halotools-IA mocks, which are populated at each point.

    One realisation is a mock in each box, with their pair sums added. Statistics are ratios of sums over all
    realisations, so that empty bins do not bias them. The mocks of the last point are kept: further statistics and bins
    at the same point, and :meth:`deviations`, need no new mocks.

    Parameters
    ----------
    catalogues : sequence of str or path-like
        Halo catalogues, see :meth:`iaemu_training.halos.catalogue.HaloCatalogue.load`.
    n_realisations : int
        Number of realisations at each point, at least 2.
    seed : int
        Seed of the mocks.
    seeds : "fixed" or "fresh"
        "fixed": the same random numbers at all points, so that statistics are continuous functions of the alignment
        strengths, though not of the occupation (``smooth`` of
        :meth:`iaemu_training.mocks.halotools.HalotoolsMocks.populate`). "fresh": independent mocks at each point. In
        both cases the same point always gets the same mocks.
    processes : int
        Number of worker processes; the result does not depend on it.
    support : Support, optional
        Region in which points are accepted, without slopes; by default the paper's. Ranges of ``slopes`` are added.
    slopes : sequence of str
        Which slopes of the strengths are parameters, see :class:`iaemu_training.mocks.halotools.HalotoolsMocks`.
    pivot : float
        log10 of the host mass [Msun/h] at which the strength of centrals is ``mu_cen``.

    Attributes
    ----------
    r_edges : (n_bins + 1,)
        Default bins of :meth:`predict`: the paper's 20 [Mpc/h].
    r_max : float
        Largest possible separation, half of the side of the smallest box [Mpc/h].
    n_mocks, n_points : int
        Number of mocks that were populated, and of points at which they were.
    n_deviations : int
        Number of vectors that :meth:`deviations` returns.

    Raises
    ------
    ValueError, ImportError
        See :class:`HalotoolsMocks`; or an option is not valid.
    """

    # The mocks are those of the given boxes.
    _takes_box_error = False

    def __init__(
        self,
        catalogues: Sequence,
        n_realisations: int = 40,
        seed: int = 1,
        seeds: str = "fixed",
        processes: int = 1,
        support: Support | None = None,
        slopes: Sequence[str] = (),
        pivot: float = PIVOT,
    ):
        if isinstance(catalogues, str | bytes) or not isinstance(catalogues, Sequence) or not catalogues:
            raise ValueError(f"catalogues must be a list of at least one halo catalogue, got {catalogues!r:.60}.")
        wrong = [catalogue for catalogue in catalogues if not isinstance(catalogue, str | Path)]
        if wrong:
            raise ValueError(f"catalogues must be names or paths, got {wrong[0]!r:.60}.")
        # One mock has no standard error.
        Range(at_least=2).check("n_realisations", n_realisations, int)
        if not isinstance(seeds, str) or seeds not in SEED_POLICIES:
            raise ValueError(f"seeds must be one of {', '.join(SEED_POLICIES)}, got {seeds!r:.60}.")
        Range(at_least=0).check("seed", seed, int)
        Range(at_least=1).check("processes", processes, int)
        if support is not None and (not isinstance(support, Support) or isinstance(support, StrengthSupport)):
            raise ValueError(f"support must be a Support without slopes, got {support!r:.60}.")
        check_pivot(pivot)
        slopes = check_slopes(slopes)
        self.catalogues = tuple(str(catalogue) for catalogue in catalogues)
        self.n_realisations, self.seed, self.seeds, self.processes = n_realisations, seed, seeds, processes
        self._region, self.pivot = Support() if support is None else support, pivot
        self.support = StrengthSupport.of(self._region, slopes) if slopes else self._region
        self.parameters = self.support.parameters
        self.n_mocks = self.n_points = 0
        self._edges: np.ndarray | None = None  # the union of all bins asked for
        self._last: tuple[bytes, MockRealisations] | None = None
        self._lock = threading.RLock()
        boxes = [_load_box(catalogue, pivot) for catalogue in self.catalogues]
        self.metadata = {"catalogues": list(self.catalogues), "box_volumes": [box.Lbox**3 for box in boxes]}
        self.r_max = 0.5 * min(box.Lbox for box in boxes)
        self.nodes = np.array([0.0, self.r_max])  # pairs are counted in any bins
        self._exit = ExitStack()
        self._workers: Workers | None = None

    def __repr__(self) -> str:
        return (
            f"<MockEnsemble: {self.n_realisations} halotools-IA mocks in {', '.join(self.catalogues)} at each point, "
            f"{self.seeds} seeds>"
        )

    @property
    def r_edges(self) -> np.ndarray:
        """The paper's bins [Mpc/h]."""
        return PAPER_EDGES

    @property
    def n_deviations(self) -> int:
        return self.n_realisations

    @property
    def slopes(self) -> tuple[str, ...]:
        """Which slopes are parameters."""
        return self.parameters[len(PARAMETERS) :]

    def with_constants(self, constants: Mapping[str, float]) -> MockEnsemble:
        rest = tuple(name for name in self.slopes if constants.get(name) != 0.0)
        if rest == self.slopes:
            return self
        options = (self.n_realisations, self.seed, self.seeds, self.processes, self._region, rest, self.pivot)
        model = MockEnsemble(self.catalogues, *options)
        model._edges = self._edges
        return model

    def check_bins(self, r_edges) -> None:
        """Check that bins end within half of the side of the smallest box, see :meth:`count_in`."""
        self.count_in(r_edges)

    def count_in(self, r_edges) -> None:
        """Add ``r_edges`` [Mpc/h] to the edges in which pairs are counted, so that one count serves all bins in use.

        Raises
        ------
        ValueError
            The edges are malformed, or exceed half of the side of the smallest box.
        """
        edges = check_edges(r_edges)
        if edges[-1] > self.r_max:
            raise ValueError(
                f"r_edges end at {edges[-1]:.4g} Mpc/h; they must not exceed half of the side of the smallest box, "
                f"{self.r_max:.4g} Mpc/h."
            )
        if self._edges is not None:
            edges = union_edges(self._edges, edges)
        if self._edges is None or len(edges) > len(self._edges):
            self._edges, self._last = edges, None

    def realisations(self, theta) -> MockRealisations:
        """Return pair sums of the mocks at one point, added over boxes, in the bins of :meth:`count_in`."""
        if self._edges is None:
            self.count_in(self.r_edges)
        point = np.ascontiguousarray(as_theta(theta, self.parameters).detach().double().numpy())
        with self._lock:
            if self._last is not None and self._last[0] == point.tobytes():
                return self._last[1]
            if self._workers is None:
                self._workers = self._exit.enter_context(workers(self.processes))
            entropy = [self.seed] if self.seeds == "fixed" else [self.seed, *point.view(np.uint32).tolist()]
            values = dict.fromkeys(SLOPES, 0.0) | dict(zip(self.parameters, point.tolist(), strict=True))
            futures = [
                self._workers.executor.submit(
                    _count, (catalogue, self.pivot), values, entropy, (box, i), self._edges, self.seeds == "fixed"
                )
                for box, catalogue in enumerate(self.catalogues)
                for i in range(self.n_realisations)
            ]
            counted = [future.result() for future in futures]
            n = self.n_realisations
            mocks = sum_boxes(concatenate(counted[n * box : n * (box + 1)]) for box in range(len(self.catalogues)))
            self.n_mocks += len(counted)
            self.n_points += 1
            self._last = point.tobytes(), mocks
            return mocks

    def _bins(self, r_edges) -> np.ndarray:
        edges = self.r_edges if r_edges is None else check_edges(r_edges)
        self.count_in(edges)
        return edges

    def _predict(self, theta, bins, names) -> dict[str, torch.Tensor]:
        """Return pooled statistics, and the mean number density and satellite fraction of the mocks."""
        found: dict[str, list] = {name: [] for name in (*names, "n_gal", "f_sat")}
        for point in theta:
            mocks = self._rebinned(point, bins)
            pooled = mocks.pooled()
            pooled["n_gal"] = mocks.n_gal.mean() / self.box_volumes.sum()
            pooled["f_sat"] = mocks.n_sat.sum() / max(mocks.n_gal.sum(), 1)
            for name, values in found.items():
                values.append(torch.as_tensor(pooled[name]))
        return {name: torch.stack(values) for name, values in found.items()}

    def _deviations(self, theta, r_edges, names) -> dict[str, torch.Tensor]:
        """Return the deviations of delete-one estimates from their mean, times sqrt((n - 1) / n): the jackknife."""
        scale = ((self.n_realisations - 1) / self.n_realisations) ** 0.5
        without_one = [self._rebinned(point, r_edges).delete_one() for point in theta]
        estimates = {name: torch.as_tensor(np.stack([one[name] for one in without_one])) for name in names}
        return {name: scale * (values - values.mean(dim=1, keepdim=True)) for name, values in estimates.items()}

    def single(self, theta, r_edges=None, statistics=STATISTICS) -> dict[str, np.ndarray]:
        """Return statistics of each realisation (n_realisations, n_bins), NaN in bins without pairs."""
        mocks = self._rebinned(theta, r_edges)
        return {name: getattr(mocks, name) for name in check_statistics(statistics)}

    def close(self) -> None:
        """End the worker processes."""
        self._workers = None
        self._exit.close()

    def _rebinned(self, theta, r_edges) -> MockRealisations:
        edges = self._bins(r_edges)
        mocks = self.realisations(theta)
        return mocks.rebinned(nesting_matrix(mocks.r_edges, edges), edges)


# With slopes of 0 the mocks are those without, so that one object for each box is enough.
@lru_cache(maxsize=8)
def _load_box(catalogue: str, pivot: float) -> HalotoolsMocks:
    return HalotoolsMocks(HaloCatalogue.load(catalogue, progress=False), slopes=SLOPES, pivot=pivot)


def _count(box, theta, entropy, key, r_edges, smooth) -> MockRealisations:
    """Count the pairs of one mock; the result depends on the arguments only, in any process."""
    seed = np.random.SeedSequence(entropy, spawn_key=key)
    with one_thread():
        return _load_box(*box).realisations(theta, 1, seed, r_edges, smooth)
