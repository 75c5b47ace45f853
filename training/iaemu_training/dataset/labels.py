"""Noise-free training labels for the networks: predictions of the tables."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from iaemu.models.pair_sums import PairSumModel, PairSums
from iaemu.networks.factorised import INGREDIENTS
from iaemu.progress import tqdm
from iaemu_training.work.cluster import one_thread

BATCH = 64  # so few that the tables' intermediate results fit into the cache


#: Labels are NaN in bins between nodes with fewer expected ordered pairs than this: hardly any of a user's bins with
#: enough pairs depends on them, and truncations of the tables matter there.
_LEAST_PAIRS = 1.0


@dataclass(repr=False)
class Labels:
    """Labels at n points.

    Attributes
    ----------
    theta : (n, 5) or (n, 6) float64
        Occupation parameters in the order of ``OCCUPATION_PARAMETERS``; then the redshift, if there are several.
    values : (n, n_outputs) float64
        log(1 + xi), A and E in each bin, log10 of the number density [(h/Mpc)^3] and satellite fraction, in the order
        of the outputs of ``FactorisedNet``. NaN in bins with hardly any pairs.
    nodes : (n_bins + 1,) float64
        Edges of the bins [Mpc/h].
    """

    theta: np.ndarray
    values: np.ndarray
    nodes: np.ndarray

    def __repr__(self) -> str:
        return f"<Labels: {len(self.theta)} points, {len(self.nodes) - 1} bins>"


def iterate_sums(model: PairSumModel, theta: np.ndarray) -> Iterator[tuple[torch.Tensor, PairSums]]:
    """Give batches of points, of shape (n, 7), (n, 5) or (n, 6), with their expected pair sums between nodes.

    It uses one thread: more do not help with such small batches, and would wait for each other on a busy machine.
    """
    for start in range(0, len(theta), BATCH):
        part = torch.as_tensor(theta[start : start + BATCH])
        with one_thread(), torch.no_grad():
            sums = model.sums(part)
        yield part, sums


def make_labels(model: PairSumModel, theta: np.ndarray, progress: bool = True) -> Labels:
    """Compute labels at occupation parameters (n, 5), or these and redshifts (n, 6), in the bins between nodes."""
    volume = float(np.mean(model.box_volumes))
    rows = []
    batches = -(-len(theta) // BATCH)
    for _, sums in tqdm(iterate_sums(model, theta), total=batches, desc="labels", unit="batch", disable=not progress):
        DD = torch.where(sums.DD < _LEAST_PAIRS, torch.nan, sums.DD)
        columns = [torch.log(DD / sums.RR), *(getattr(sums, name) / DD for name in INGREDIENTS[1:])]
        columns += [torch.log10(sums.n_galaxies / volume)[:, None], sums.f_sat[:, None]]
        rows.append(torch.cat(columns, dim=1).numpy())
    return Labels(np.asarray(theta), np.concatenate(rows), model.nodes)
