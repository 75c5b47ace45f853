"""Noise-free training labels for the networks: predictions of the tables."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from iaemu.models.tables import PairSums, TabulatedModel
from iaemu.networks.factorised import INGREDIENTS
from iaemu.progress import tqdm
from iaemu_training.work.cluster import one_thread

BATCH = 16  # so few that the occupations of all species fit into the cache


@dataclass(repr=False)
class Labels:
    """Labels at n points.

    Attributes
    ----------
    theta : (n, 5) float64
        Occupation parameters in the order of ``OCCUPATION_PARAMETERS``.
    values : (n, n_outputs) float64
        log(1 + xi), A and E for each set of bins, log10 of the number density [(h/Mpc)^3] and satellite fraction, in
        the order of the outputs of ``FactorisedNet``.
    binnings : list of (n_bins + 1,) arrays
        Edges of each set of bins [Mpc/h].
    """

    theta: np.ndarray
    values: np.ndarray
    binnings: list[np.ndarray]

    def __repr__(self) -> str:
        bins = " and ".join(str(len(edges) - 1) for edges in self.binnings)
        return f"<Labels: {len(self.theta)} points, {bins} bins>"


def iterate_sums(model: TabulatedModel, theta: np.ndarray) -> Iterator[tuple[torch.Tensor, PairSums]]:
    """Give batches of points, of shape (n, 7) or (n, 5), with their expected pair sums in the tables' bins.

    It uses one thread: more do not help with such small batches, and would wait for each other on a busy machine.
    """
    for start in range(0, len(theta), BATCH):
        part = torch.as_tensor(theta[start : start + BATCH])
        with one_thread(), torch.no_grad():
            sums = model.sums(part)
        yield part, sums


def make_labels(
    model: TabulatedModel, theta: np.ndarray, binnings: Sequence[np.ndarray], progress: bool = True
) -> Labels:
    """Compute labels at occupation parameters (n, 5) from tables; they are NaN in bins without pairs."""
    volume = float(np.mean(model.box_volumes))
    rows = []
    batches = -(-len(theta) // BATCH)
    for _, fine in tqdm(iterate_sums(model, theta), total=batches, desc="labels", unit="batch", disable=not progress):
        # The occupations are computed once for all sets of bins.
        columns = []
        for edges in binnings:
            sums = model.rebin(fine, edges)
            ratio = {name: getattr(sums, name) / sums.DD for name in INGREDIENTS[1:]}
            columns += [torch.log(sums.DD / sums.RR), *ratio.values()]
        columns += [torch.log10(fine.n_galaxies / volume)[:, None], fine.f_sat[:, None]]
        rows.append(torch.cat(columns, dim=1).numpy())
    return Labels(np.asarray(theta), np.concatenate(rows), [np.asarray(edges) for edges in binnings])
