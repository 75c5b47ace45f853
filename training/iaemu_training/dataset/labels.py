"""Noise-free training labels: what the tables predict, for the networks to learn."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from tqdm import tqdm

from iaemu.models.tables import PairSums, TabulatedModel
from iaemu.networks.factorised import INGREDIENTS
from iaemu_training.work.cluster import one_thread

BATCH = 16  # keeps the occupations of all species in the cache


@dataclass
class Labels:
    """Labels at n points.

    Attributes
    ----------
    theta : (n, 5) float64, in the order of ``OCCUPATION_PARAMETERS``
    values : (n, 6 n_bins + 2) float64
        Ingredients of each binning and the two scalars, laid out as the outputs of ``FactorisedNet``.
    binnings : list of arrays (n_bins + 1,) [Mpc/h]
    """

    theta: np.ndarray
    values: np.ndarray
    binnings: list[np.ndarray]


def iterate_sums(model: TabulatedModel, theta: np.ndarray) -> Iterator[tuple[torch.Tensor, PairSums]]:
    """Expected pair sums in the tables' bins, batch by batch of points (n, 7) or (n, 5), with the points.

    On one thread: batches this small gain nothing from more, which on a busy machine wait for each other.
    """
    for start in range(0, len(theta), BATCH):
        part = torch.as_tensor(theta[start : start + BATCH])
        with one_thread(), torch.no_grad():
            sums = model.sums(part)
        yield part, sums


def make_labels(
    model: TabulatedModel, theta: np.ndarray, binnings: Sequence[np.ndarray], progress: bool = True
) -> Labels:
    """Labels at occupation parameters (n, 5) from tables; points with an empty bin get NaN there."""
    volume = float(np.mean(model.box_volumes))
    rows = []
    batches = -(-len(theta) // BATCH)
    for _, fine in tqdm(iterate_sums(model, theta), total=batches, desc="labels", unit="batch", disable=not progress):
        # One pass through the occupations serves every binning.
        columns = []
        for edges in binnings:
            sums = model.rebin(fine, edges)
            ratio = {name: getattr(sums, name) / sums.DD for name in INGREDIENTS[1:]}
            columns += [torch.log(sums.DD / sums.RR), *ratio.values()]
        columns += [torch.log10(fine.n_galaxies / volume)[:, None], fine.f_sat[:, None]]
        rows.append(torch.cat(columns, dim=1).numpy())
    return Labels(np.asarray(theta), np.concatenate(rows), [np.asarray(edges) for edges in binnings])
