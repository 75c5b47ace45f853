"""Comparison of mocks with noise-free labels: pulls, and their distribution."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats

from iaemu.binning import PAPER_EDGES, bin_centers
from iaemu.progress import BAR_AFTER, tqdm
from iaemu.statistics import STATISTICS
from iaemu_training.dataset.file import Dataset, DatasetError


@dataclass(frozen=True, repr=False)
class Pulls:
    """Deviations of the mean of mocks from the label, in units of its standard error.

    Parameters
    ----------
    t : dict of str to (n_points, n_bins)
        By statistic: the mean of z_i = S_i - label * D_i over mocks i, divided by its standard error, where S / D is
        the statistic. Sums are compared, because a mean of ratios is biased if there are few pairs. NaN where there are
        too few pairs.
    n_realisations : int
        Number of mocks at each point. If z is normal, t follows Student's distribution with ``n_realisations`` - 1
        degrees of freedom.
    r_edges : (n_bins + 1,)
        Edges of the bins [Mpc/h].
    min_pairs : float
        Least expected number of (unordered) pairs of a mock in a bin, for the bin to be used.
    """

    t: dict[str, np.ndarray]
    n_realisations: int
    r_edges: np.ndarray
    min_pairs: float

    def __repr__(self) -> str:
        n_points, n_bins = next(iter(self.t.values())).shape
        return f"<Pulls: {n_points} points with {self.n_realisations} mocks each, {n_bins} bins>"

    @property
    def student(self) -> Any:
        """Student's distribution, which t follows if mocks agree with labels."""
        return stats.t(self.n_realisations - 1)


def find_pulls(
    dataset: Dataset,
    r_edges: np.ndarray = PAPER_EDGES,
    min_pairs: float = 30.0,
    max_borrowed: float = 1.0,
    progress: bool = False,
) -> Pulls:
    """Compare all mocks of a data set with its labels.

    Parameters
    ----------
    dataset : Dataset
        Data set with mocks.
    r_edges : (n_bins + 1,)
        Edges of the bins [Mpc/h].
    min_pairs : float
        See :class:`Pulls`.
    max_borrowed : float
        Leave out points where a larger share of the satellites of the mocks is borrowed. For borrowed satellites the
        labels have two-halo pairs from a few random draws only.
    progress : bool
        Show a progress bar if it takes more than two seconds.

    Returns
    -------
    Pulls

    Raises
    ------
    DatasetError
        The data set has no mocks, or one mock at each point, or no point is left.
    """
    if not dataset.has_mocks:
        raise DatasetError(f"{dataset.path} has no mocks; make it with --n-mocked.")
    n_sat, n_borrowed = (dataset.read(f"mocks/{name}").sum(axis=(1, 2)) for name in ("n_sat", "n_borrowed"))
    kept = np.flatnonzero(n_borrowed <= max_borrowed * n_sat)
    if not len(kept):
        raise DatasetError(
            f"{dataset.path}: there is no point with at most {max_borrowed:g} of its satellites borrowed; raise this "
            "limit."
        )
    rows = dataset.mocked[kept]
    expected = dataset.expected_sums(rows, r_edges)
    labels = dataset.labels(rows, r_edges)
    t = {name: np.full((len(rows), len(r_edges) - 1), np.nan) for name in STATISTICS}
    n = 0
    for row, index in enumerate(tqdm(kept, "points", unit="point", delay=BAR_AFTER) if progress else kept):
        mocks = dataset.realisations(int(index), r_edges)
        n = len(mocks)
        if n < 2:
            raise DatasetError(
                f"{dataset.path} has one mock at each point, which has no standard error; make it with at least 2 "
                "(--n-realisations)."
            )
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
    """Summarise the pulls for each statistic and bin, and for each statistic over all bins.

    Parameters
    ----------
    pulls : Pulls
        The pulls.

    Returns
    -------
    list of dict
        ``statistic``; ``r``, the centre of the bin [Mpc/h], or None for all bins; ``n``, the number of values;
        ``mean``; ``z``, the mean divided by its standard error (None for all bins, which are not independent); ``std``
        and ``std_expected``; ``inside_68`` and ``inside_95``, the shares of t inside Student's central intervals; ``p``
        of a Kolmogorov-Smirnov test (None for all bins).
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
    """Return the summary as a table in Markdown, with a last line that counts the failed tests.

    Parameters
    ----------
    pulls : Pulls
        The pulls.

    Returns
    -------
    str
    """
    lines = [
        f"Pulls: (mean of {pulls.n_realisations} mocks - label) / standard error, in bins where a mock is expected to "
        f"have at least {pulls.min_pairs:g} pairs. If mocks agree with labels, they follow Student's t distribution "
        f"with {pulls.n_realisations - 1} degrees of freedom, whose standard deviation is {pulls.student.std():.3f}.",
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
        f"{np.sum(p < 0.05)} of {len(p)} tests have p < 0.05 (expected: {0.05 * len(p):.1f}). The smallest p is "
        f"{p.min(initial=1.0):.2g} (times the number of tests: {min(1.0, len(p) * p.min(initial=1.0)):.2g}).",
    ]
    return "\n".join(lines)
