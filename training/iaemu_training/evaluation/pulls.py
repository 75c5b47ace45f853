"""Mocks against noise-free labels: whether they are centred on them, and as scattered as their standard error says."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats

from iaemu.binning import PAPER_EDGES, bin_centers
from iaemu.prediction import STATISTICS
from iaemu_training.dataset.file import Dataset, DatasetError


@dataclass(frozen=True)
class Pulls:
    """Deviations of mocks from labels in units of the mocks' standard error.

    Parameters
    ----------
    t : dict of statistic to (n_points, n_bins)
        With z_i = S_i - label * D_i over realisations i (S / D is the statistic), mean(z) over its standard error.
        Sums are compared, not ratios: a mean of ratios is biased where pairs are few. NaN where pairs are too few.
    n_realisations : int
        If z is normal, t follows Student's distribution with one degree of freedom less.
    r_edges : (n_bins + 1,) [Mpc/h]
    min_pairs : float
        Unordered pairs that a mock must be expected to have in a bin, for the bin to be used.
    """

    t: dict[str, np.ndarray]
    n_realisations: int
    r_edges: np.ndarray
    min_pairs: float

    @property
    def student(self) -> Any:
        """The distribution that t follows if mocks agree with labels."""
        return stats.t(self.n_realisations - 1)


def find_pulls(
    dataset: Dataset, r_edges: np.ndarray = PAPER_EDGES, min_pairs: float = 30.0, max_borrowed: float = 1.0
) -> Pulls:
    """Compare all mocks of a data set with its labels.

    Parameters
    ----------
    dataset : Dataset
    r_edges : (n_bins + 1,) [Mpc/h]
    min_pairs : float
        See :class:`Pulls`.
    max_borrowed : float
        Leave out points where a larger share of the mocks' satellites is borrowed: there, two-halo pairs of the labels
        rest on a few seeded draws of donors.

    Returns
    -------
    Pulls

    Raises
    ------
    DatasetError
        The data set has no mocks, or one a point, or no point is left.
    """
    if not dataset.has_mocks:
        raise DatasetError(f"{dataset.path} has no mocks; make it with --n-mocked.")
    n_sat, n_borrowed = (dataset.read(f"mocks/{name}").sum(axis=(1, 2)) for name in ("n_sat", "n_borrowed"))
    kept = np.flatnonzero(n_borrowed <= max_borrowed * n_sat)
    if not len(kept):
        raise DatasetError(f"{dataset.path}: no point with at most {max_borrowed:g} of its satellites borrowed.")
    rows = dataset.mocked[kept]
    expected = dataset.expected_sums(rows, r_edges)
    labels = dataset.labels(rows, r_edges)
    t = {name: np.full((len(rows), len(r_edges) - 1), np.nan) for name in STATISTICS}
    n = 0
    for row, index in enumerate(kept):
        mocks = dataset.realisations(int(index), r_edges)
        n = len(mocks)
        if n < 2:
            raise DatasetError(f"{dataset.path} has one mock a point: no standard error.")
        used = 0.5 * expected["DD"][row] >= min_pairs
        cases = {
            "xi": (mocks.DD, mocks.RR, 1.0 + labels["xi"][row]),
            "omega": (mocks.S_omega, mocks.DD, labels["omega"][row]),
            "eta": (mocks.S_eta, mocks.DD, labels["eta"][row]),
        }
        for name, (S, D, label) in cases.items():
            z = (S - label * D)[:, used]
            t[name][row, used] = z.mean(axis=0) / (z.std(axis=0, ddof=1) / np.sqrt(n))
    return Pulls(t, n, np.asarray(r_edges), min_pairs)


def pull_statistics(pulls: Pulls) -> list[dict]:
    """One row per statistic and bin, and one per statistic for all bins.

    Parameters
    ----------
    pulls : Pulls

    Returns
    -------
    list of dict
        ``statistic``; ``r`` (bin centre [Mpc/h], None for all bins); ``n`` points (times bins); ``mean`` and its
        ``z`` (over its standard error; None for all bins, which are not independent); ``std``, and ``std_expected``;
        ``inside_68``, ``inside_95``: fractions of t within Student's central intervals; ``p``: Kolmogorov-Smirnov
        test (None for all bins).
    """
    student = pulls.student
    rows = []
    for name, t in pulls.t.items():
        columns = [*zip(bin_centers(pulls.r_edges), t.T, strict=True), (None, t)]
        for r, column in columns:
            values = column[np.isfinite(column)]
            n = len(values)
            row = {"statistic": name, "r": r, "n": n, "std_expected": float(student.std())}
            if n >= 8:
                row |= {
                    "mean": float(values.mean()),
                    "z": None if r is None else float(values.mean() / (student.std() / np.sqrt(n))),
                    "std": float(values.std(ddof=1)),
                    "inside_68": float(np.mean(np.abs(values) < student.ppf(0.84))),
                    "inside_95": float(np.mean(np.abs(values) < student.ppf(0.975))),
                    "p": None if r is None else float(stats.kstest(values, student.cdf).pvalue),
                }
            rows.append(row)
    return rows


def table(pulls: Pulls) -> str:
    """The rows of :func:`pull_statistics` as Markdown, with a last line that counts the tests that fail.

    Parameters
    ----------
    pulls : Pulls

    Returns
    -------
    str
    """
    lines = [
        f"(mean of {pulls.n_realisations} mocks - label) / standard error, bins with at least {pulls.min_pairs:g} "
        f"expected pairs a mock; Student's t with {pulls.n_realisations - 1} degrees of freedom has standard deviation "
        f"{pulls.student.std():.3f}.",
        "",
        "| statistic | r [Mpc/h] | n | mean | mean / error | std | in 68 % | in 95 % | p (KS) |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    rows = pull_statistics(pulls)
    for row in rows:
        where = "all" if row["r"] is None else f"{row['r']:.3f}"
        if "mean" not in row:
            lines.append(f"| {row['statistic']} | {where} | {row['n']} | - | - | - | - | - | - |")
            continue
        z, p_value = ("-" if row[key] is None else f"{row[key]:{form}}" for key, form in (("z", "+.1f"), ("p", ".2g")))
        lines.append(
            f"| {row['statistic']} | {where} | {row['n']} | {row['mean']:+.3f} | {z} | {row['std']:.3f} "
            f"| {row['inside_68']:.1%} | {row['inside_95']:.1%} | {p_value} |"
        )
    p = np.array([row["p"] for row in rows if row.get("p") is not None])
    lines += [
        "",
        f"{len(p)} tests, {np.sum(p < 0.05)} with p < 0.05 (expected {0.05 * len(p):.1f}), smallest p "
        f"{p.min(initial=1.0):.2g} (times the number of tests: {min(1.0, len(p) * p.min(initial=1.0)):.2g}).",
    ]
    return "\n".join(lines)
