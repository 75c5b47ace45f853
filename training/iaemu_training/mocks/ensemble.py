"""Mocks of one or more boxes as a forward model: pooled statistics, and their standard error from the same mocks."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from contextlib import ExitStack
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch

from iaemu.binning import PAPER_EDGES, check_edges, nesting_matrix, union_edges
from iaemu.models.base import ForwardModel
from iaemu.parameters import Support, as_theta
from iaemu.prediction import STATISTICS, check_statistics
from iaemu.ranges import Range
from iaemu_training.halos.catalogue import HaloCatalogue
from iaemu_training.mocks.halotools import HalotoolsMocks
from iaemu_training.mocks.realisations import MockRealisations, concatenate, sum_boxes
from iaemu_training.work.cluster import Workers, one_thread, workers

SEED_POLICIES = ("fixed", "fresh")


class MockEnsemble(ForwardModel):
    """halotools-IA mocks, populated anew at each point.

    The i-th realisation is one mock in each box, their pair sums added. Statistics are ratios of sums over all
    realisations, which empty bins do not bias. The mocks of the last point are kept, so that asking for several
    statistics, bins and :meth:`deviations` costs nothing more.

    Parameters
    ----------
    catalogues : sequence of names or paths
        As for :meth:`iaemu_training.halos.catalogue.HaloCatalogue.load`.
    n_realisations : int
        At least 2.
    seed : int
    seeds : "fixed" or "fresh"
        The same seeds at every point, with misalignments drawn such that statistics are continuous functions of the
        strengths (``smooth`` of :meth:`iaemu_training.mocks.halotools.HalotoolsMocks.populate`; of the occupation they
        are not); or other seeds at other points. Either way a point always gets the same mocks.
    processes : int
        Worker processes; the result does not depend on it.
    support : Support, optional
        Region in which points are accepted; the paper's by default.

    Attributes
    ----------
    r_edges : (n_bins + 1,)
        Bins of :meth:`predict` if it is not told otherwise: the paper's 20 [Mpc/h].
    r_max : float
        Largest separation that the smallest box has [Mpc/h].
    n_mocks, n_points : int
        Mocks populated, and points at which they were, so far.
    n_deviations : int

    Raises
    ------
    ValueError, ImportError
        As :class:`HalotoolsMocks`; or an option is not valid.
    """

    # The mocks are those of given boxes.
    _takes_box_error = False

    def __init__(
        self,
        catalogues: Sequence,
        n_realisations: int = 40,
        seed: int = 1,
        seeds: str = "fixed",
        processes: int = 1,
        support: Support | None = None,
    ):
        if isinstance(catalogues, str | bytes) or not isinstance(catalogues, Sequence) or not catalogues:
            raise ValueError(f"catalogues: name at least one halo catalogue, in a list; got {catalogues!r:.60}.")
        wrong = [catalogue for catalogue in catalogues if not isinstance(catalogue, str | Path)]
        if wrong:
            raise ValueError(f"catalogues must be names or paths, got {wrong[0]!r:.60}.")
        # Of one mock there is no standard error.
        Range(at_least=2).check("n_realisations", n_realisations, int)
        if not isinstance(seeds, str) or seeds not in SEED_POLICIES:
            raise ValueError(f"seeds must be one of {', '.join(SEED_POLICIES)}, got {seeds!r:.60}.")
        Range(at_least=0).check("seed", seed, int)
        Range(at_least=1).check("processes", processes, int)
        if support is not None and not isinstance(support, Support):
            raise ValueError(f"support must be a Support, got {support!r:.60}.")
        self.catalogues = tuple(str(catalogue) for catalogue in catalogues)
        self.n_realisations, self.seed, self.seeds, self.processes = n_realisations, seed, seeds, processes
        self.support = Support() if support is None else support
        self.binnings = [PAPER_EDGES]
        self.n_mocks = self.n_points = 0
        self._edges: np.ndarray | None = None  # the union of what was asked for
        self._last: tuple[bytes, MockRealisations] | None = None
        self._lock = threading.RLock()
        boxes = [_load_box(catalogue) for catalogue in self.catalogues]
        self.metadata = {"catalogues": list(self.catalogues), "box_volumes": [box.Lbox**3 for box in boxes]}
        self.r_max = 0.5 * min(box.Lbox for box in boxes)
        self._exit = ExitStack()
        self._workers: Workers | None = None

    @property
    def n_deviations(self) -> int:
        return self.n_realisations

    def check_bins(self, r_edges) -> None:
        """Any bins up to half of the smallest box, see :meth:`count_in`."""
        self.count_in(r_edges)

    def count_in(self, r_edges) -> None:
        """Count pairs in bins in which ``r_edges`` nest from now on, so that one count serves all binnings in use.

        Raises
        ------
        ValueError
            Malformed, or beyond half of the smallest box.
        """
        edges = check_edges(r_edges)
        if edges[-1] > self.r_max:
            raise ValueError(
                f"r_edges reach {edges[-1]:.4g} Mpc/h, half of the smallest box is {self.r_max:.4g} Mpc/h."
            )
        if self._edges is not None:
            edges = union_edges(self._edges, edges)
        if self._edges is None or len(edges) > len(self._edges):
            self._edges, self._last = edges, None

    def realisations(self, theta) -> MockRealisations:
        """Pair sums of the mocks at one point (7,), all boxes together, in the bins of :meth:`count_in`."""
        if self._edges is None:
            self.count_in(self.r_edges)
        point = np.ascontiguousarray(as_theta(theta).detach().double().numpy())
        with self._lock:
            if self._last is not None and self._last[0] == point.tobytes():
                return self._last[1]
            if self._workers is None:
                self._workers = self._exit.enter_context(workers(self.processes))
            entropy = [self.seed] if self.seeds == "fixed" else [self.seed, *point.view(np.uint32).tolist()]
            futures = [
                self._workers.executor.submit(
                    _count, catalogue, point, entropy, (box, i), self._edges, self.seeds == "fixed"
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
        """Pooled statistics, and the mean density and satellite fraction of the mocks."""
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
        """Delete-one estimates over the realisations, times sqrt((n - 1) / n), minus their mean: the jackknife."""
        scale = ((self.n_realisations - 1) / self.n_realisations) ** 0.5
        without_one = [self._rebinned(point, r_edges).delete_one() for point in theta]
        estimates = {name: torch.as_tensor(np.stack([one[name] for one in without_one])) for name in names}
        return {name: scale * (values - values.mean(dim=1, keepdim=True)) for name, values in estimates.items()}

    def single(self, theta, r_edges=None, statistics=STATISTICS) -> dict[str, np.ndarray]:
        """Statistics of each realisation alone (n_realisations, n_bins), NaN in bins that are empty in it."""
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


@lru_cache(maxsize=8)
def _load_box(catalogue: str) -> HalotoolsMocks:
    return HalotoolsMocks(HaloCatalogue.load(catalogue))


def _count(catalogue, theta, entropy, key, r_edges, smooth) -> MockRealisations:
    """One mock; a function of its arguments alone, whatever process it runs in."""
    seed = np.random.SeedSequence(entropy, spawn_key=key)
    with one_thread():
        return _load_box(catalogue).realisations(theta, 1, seed, r_edges, smooth)
