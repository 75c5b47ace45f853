"""Evaluation of an emulator at the test points of a data set, with the metrics of the paper.

Mocks are noisy, so not even a perfect emulator agrees with them exactly. Each metric of accuracy is therefore also
computed with the noise-free label in place of the prediction; this is its *ceiling*. Sections, figures and equations
are those of arXiv:2504.05235.
"""

from __future__ import annotations

import math

import numpy as np

from iaemu import __version__
from iaemu.binning import PAPER_EDGES, bin_centers, check_edges
from iaemu.models.base import ForwardModel
from iaemu.parameters import PARAMETERS
from iaemu.progress import BAR_AFTER, tqdm
from iaemu.statistics import STATISTICS
from iaemu_training.dataset.file import SPLITS, Dataset, at_redshift_of
from iaemu_training.evaluation import metrics as m
from iaemu_training.evaluation.report import Report
from iaemu_training.evaluation.scores import LEVELS, METRICS, Case, HeldOut, coverage_key

#: Parameters in whose terciles coverage is reported.
REGION_PARAMETERS = ("logMmin", "mu_cen")


def hold_out(
    emulator: ForwardModel,
    dataset: Dataset,
    r_edges: np.ndarray = PAPER_EDGES,
    cleaned: bool = False,
    progress: bool = True,
) -> HeldOut:
    """Collect predictions, mocks and labels at the test points with mocks of a data set.

    Parameters
    ----------
    emulator : iaemu.models.base.ForwardModel
        The emulator.
    dataset : Dataset
        Data set with mocks.
    r_edges : (n_bins + 1,)
        Edges of the bins [Mpc/h].
    cleaned : bool
        Leave out the points that the paper's cleaning removes.
    progress : bool
        Show a progress bar.

    Returns
    -------
    HeldOut

    Raises
    ------
    ValueError
        There is no such point, none is in the supported region of the emulator, or a predicted standard deviation is
        not positive.
    iaemu.binning.BinningError
        The emulator or the data set does not have these bins.
    """
    edges = check_edges(r_edges)
    if not dataset.has_mocks:
        raise ValueError("The data set has no mocks to compare with; make it with --n-mocked.")
    mocked = np.asarray(dataset.mocked)
    use = np.asarray(dataset.split)[mocked] == SPLITS.index("test")
    if not use.any():
        raise ValueError(f"None of the {len(mocked)} points with mocks is in the test split of the data set.")
    inside = np.asarray(emulator.support.contains(dataset.theta[mocked]))
    n_outside = int(np.sum(use & ~inside))
    use &= inside
    if not use.any():
        raise ValueError(
            f"None of the {n_outside} test points with mocks is in the supported region of the emulator; make a data "
            "set there."
        )
    n_cleaned = 0
    if cleaned:
        left = np.asarray(dataset.cleaned)[mocked]
        n_cleaned = int(np.sum(use & ~left))
        use &= left
        if not use.any():
            raise ValueError(f"The paper's cleaning removes all of the {n_cleaned} test points with mocks.")
    rows = np.flatnonzero(use)
    points = mocked[rows]
    theta = np.asarray(dataset.theta)[points]
    bar = tqdm(rows, "mocks", unit="point", delay=BAR_AFTER, disable=not progress)
    mocks = [dataset.realisations(int(row), edges) for row in bar]
    labels = dataset.labels(points, edges)
    prediction = emulator.predict(theta, edges, uncertainties=emulator.has_uncertainties)
    cases = {
        name: Case(
            statistic=name,
            r=bin_centers(edges),
            prediction=np.asarray(getattr(prediction, name), dtype=np.float64),
            label=np.asarray(labels[name], dtype=np.float64),
            realisations=np.stack([getattr(mock, name) for mock in mocks]),
            sigma_aleatoric=_sigma(prediction.sigma_aleatoric, name, "aleatoric"),
            sigma_epistemic=_sigma(prediction.sigma_epistemic, name, "epistemic"),
        )
        for name in STATISTICS
    }
    return HeldOut(theta, edges, cases, n_outside, n_cleaned)


def _sigma(sigmas, statistic: str, kind: str) -> np.ndarray | None:
    if sigmas is None or sigmas.get(statistic) is None:
        return None
    values = np.asarray(sigmas[statistic], dtype=np.float64)
    if np.any(values < 0) or (kind == "aleatoric" and np.any(values == 0)):
        raise ValueError(f"The emulator predicts {kind} standard deviations of {statistic} that are not positive.")
    return values


def evaluate(
    emulator: ForwardModel,
    dataset: Dataset,
    r_edges: np.ndarray = PAPER_EDGES,
    cleaned: bool = False,
    n_bootstrap: int = 200,
    seed: int = 1,
    names: tuple[str, str] = ("The emulator", "the data set"),
    progress: bool = True,
) -> Report:
    """Compute the metrics of an emulator at the test points with mocks of a data set.

    Parameters
    ----------
    emulator : iaemu.models.base.ForwardModel
        The emulator. If it has several redshifts, that of the data set is chosen. Its aleatoric errors, if any, must be
        those of one mock of all boxes added as one volume, like the realisations of the data set.
    dataset : Dataset
        Data set with mocks.
    r_edges : (n_bins + 1,)
        Edges of the bins [Mpc/h]; by default the paper's, for which its metrics are published.
    cleaned : bool
        Leave out the points that the paper's cleaning removes (section 2.2).
    n_bootstrap : int
        Number of bootstrap samples of the points, for the errors of the metrics; no errors if fewer than 2.
    seed : int
        Seed of these samples.
    names : (str, str)
        Names of emulator and data set, for the report.
    progress : bool
        Show progress bars.

    Returns
    -------
    Report

    Raises
    ------
    ValueError
        ``n_bootstrap`` is negative; or as for :func:`hold_out`.
    """
    if n_bootstrap < 0:
        raise ValueError(f"The number of bootstrap samples must not be negative, got {n_bootstrap}.")
    emulator = at_redshift_of(dataset, emulator)
    held_out = hold_out(emulator, dataset, r_edges, cleaned, progress)
    used = [
        metric
        for metric in METRICS
        if (metric.group != "uncertainties" or held_out.has_sigmas) and (not metric.epistemic or held_out.has_epistemic)
    ]
    cases = held_out.cases
    ceilings = {name: case.ceiling() for name, case in cases.items()}
    scores = _score(used, cases, ceilings)
    errors = _bootstrap(used, cases, ceilings, n_bootstrap, seed, progress)
    return Report(
        about=_about(held_out, names, cleaned, n_bootstrap, seed, emulator, dataset),
        notes=_notes(held_out, cleaned, emulator, dataset),
        scores=_combine(used, scores, errors),
        by_bin={name: _by_bin(used, case, ceilings[name]) for name, case in cases.items()},
        regions=_regions(held_out) if held_out.has_sigmas else [],
        held_out=held_out,
        history=emulator.metadata.get("history") or [],
    )


def _score(used, cases: dict[str, Case], ceilings: dict[str, Case]) -> dict[tuple[str, str, str], float]:
    """Return overall metrics by metric, statistic, and "value", "ceiling" or their "difference"."""
    found = {}
    for metric in used:
        for name, case in cases.items():
            found[metric.key, name, "value"] = value = metric.overall(case)
            if metric.group == "mocks":
                found[metric.key, name, "ceiling"] = ceiling = metric.overall(ceilings[name])
                found[metric.key, name, "difference"] = value - ceiling
    return found


def _bootstrap(used, cases, ceilings, n_bootstrap: int, seed: int, progress: bool) -> dict:
    """Return the standard deviations of all overall metrics over bootstrap samples of the points."""
    if n_bootstrap < 2:
        return {}
    rng = np.random.default_rng(seed)
    n = len(next(iter(cases.values())).prediction)
    samples = []
    for _ in tqdm(range(n_bootstrap), "bootstrap", unit="sample", delay=BAR_AFTER, disable=not progress):
        rows = rng.integers(n, size=n)  # the same points for emulator and ceiling
        taken = ({name: case.take(rows) for name, case in part.items()} for part in (cases, ceilings))
        samples.append(_score(used, *taken))
    return {key: _spread(np.array([sample[key] for sample in samples])) for key in samples[0]}


def _spread(values) -> float:
    values = values[np.isfinite(values)]
    return float(values.std(ddof=1)) if len(values) > 1 else math.nan


def _combine(used, scores, errors) -> dict:
    combined: dict = {}
    for (key, name, kind), score in scores.items():
        entry = combined.setdefault(key, {}).setdefault(name, {})
        if kind != "difference":
            entry[kind] = score
        entry["error" if kind == "value" else f"{kind}_error"] = errors.get((key, name, kind), math.nan)
    for metric in used:
        for name, published in metric.paper.items():
            combined[metric.key][name]["paper"] = published
    return combined


def _by_bin(used, case: Case, ceiling: Case) -> dict[str, list]:
    columns: dict = {"r": case.r.tolist(), "n": m.count_entries(case.prediction, case.moments.mean).tolist()}
    for metric in used:
        if metric.by_bin is not None:
            columns[metric.key] = np.asarray(metric.by_bin(case)).tolist()
            if metric.group == "mocks":
                columns[f"{metric.key}_ceiling"] = np.asarray(metric.by_bin(ceiling)).tolist()
    return columns


def _regions(held_out: HeldOut) -> list[dict]:
    regions = []
    for parameter in REGION_PARAMETERS:
        for low, high, mask in m.terciles(held_out.theta[:, PARAMETERS.index(parameter)]):
            region: dict = {"parameter": parameter, "low": low, "high": high, "n": int(mask.sum())}
            for name, case in held_out.cases.items():
                region[name] = {
                    coverage_key(kind, level): m.pooled_coverage(pit[mask], level)
                    for kind, pit in (("realisations", case.pit_of_realisations), ("mean", case.pit_of_mean))
                    for level in LEVELS
                }
            regions.append(region)
    return regions


def _about(held_out: HeldOut, names, cleaned, n_bootstrap, seed, emulator, dataset) -> dict:
    cases = held_out.cases
    n, n_bins = cases["xi"].prediction.shape
    return {
        "emulator": names[0],
        "emulator_class": type(emulator).__name__,
        "dataset": names[1],
        "catalogues": dataset.attributes.get("catalogues"),
        "redshift": emulator.redshift if isinstance(emulator, ForwardModel) else None,
        "n_points": n,
        "n_realisations": cases["xi"].moments.n_realisations,
        "n_bins": n_bins,
        "r_edges": held_out.r_edges.tolist(),
        "r_max": float(held_out.r_edges[-1]),
        "n_outside": held_out.n_outside,
        "n_cleaned": held_out.n_cleaned,
        "cleaned": cleaned,
        "masked_entries": {
            name: int(n * n_bins - m.count_entries(case.prediction, case.moments.mean).sum())
            for name, case in cases.items()
        },
        "outliers": {name: int(np.sum(~case.kept)) for name, case in cases.items()},
        "n_bootstrap": n_bootstrap,
        "seed": seed,
        "code_version": __version__,
    }


def _notes(held_out: HeldOut, cleaned: bool, emulator, dataset) -> list[str]:
    notes = [
        "The ceiling is the value of a metric if the noise-free label is compared with the same mocks: a perfect "
        "emulator would reach it. The paper's mocks have another volume and another range of parameters, so the "
        "ceiling of its values is another one.",
        "The paper gives no formula for its mean fractional errors. They cannot be means of absolute values, which are "
        "at least half of SMAPE. They are listed next to both possible readings.",
    ]
    if not cleaned:
        notes.append(
            "The paper's values are for points that its cleaning keeps. Here all points are used, also those where a "
            "bin can be empty. For a comparison with the paper use --cleaned."
        )
    if held_out.has_sigmas:
        notes.append(
            "Biases of aleatoric sigmas are corrected for the small number of mocks (0.016 dex for 10). The paper does "
            "not say whether it does this. Its values are those of its text; the caption of its figure 4 has 0.42 dex "
            "(omega) and 0.24 dex (eta)."
        )
    else:
        notes.append("This emulator predicts no uncertainties, so the report has none.")
    if held_out.has_sigmas and not held_out.has_epistemic:
        notes.append("This emulator predicts no epistemic errors; the coverage is that of the aleatoric errors alone.")
    unpredicted = sum(
        int(np.sum(np.isfinite(case.label) & ~np.isfinite(case.prediction))) for case in held_out.cases.values()
    )
    if unpredicted:
        notes.append(f"For {unpredicted} entries with a label the prediction is not finite; they are left out.")
    here = emulator.metadata.get("catalogue_sha256")
    there = dataset.attributes.get("catalogue_sha256")
    if here is not None and there is not None and sorted(here) != sorted(there):
        notes.append(
            "The emulator and the data set were made from different halo catalogues. Their difference is part of all "
            "errors."
        )
    return notes
