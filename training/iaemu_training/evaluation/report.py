"""Report of an evaluation, as JSON and as a page in Markdown."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from iaemu.statistics import STATISTICS
from iaemu_training.evaluation.scores import LEVELS, METRICS, HeldOut, Metric, coverage_key


@dataclass(repr=False)
class Report:
    """Metrics of an emulator.

    Parameters
    ----------
    about : dict
        What was compared: names, numbers of points and realisations, entries that were left out, versions.
    notes : list of str
        Notes for the reader.
    scores : dict of metric to statistic to dict
        ``value`` and its ``error`` (standard deviation over bootstrap samples of the points). For comparisons with
        mocks also ``ceiling``, ``ceiling_error`` and ``difference_error``, the error of value - ceiling, which is small
        because their noise is nearly the same. ``paper`` if published. As fractions, not in per cent.
    by_bin : dict of statistic to dict of lists
        ``r`` [Mpc/h], the number of points ``n``, and each metric that is defined in a bin, with its ceiling as
        ``<metric>_ceiling``.
    regions : list of dict
        Coverage in terciles of parameters: ``parameter``, ``low``, ``high``, the number of points ``n``, and by
        statistic the (value, error) of each coverage. Empty without uncertainties.
    held_out : HeldOut
        Predictions, mocks and labels; not written.
    history : list of dict
        Losses by ``epoch``, ``train`` and ``validation``, if the artifact has them.
    """

    about: dict
    notes: list[str]
    scores: dict[str, dict[str, dict]]
    by_bin: dict[str, dict[str, list]]
    regions: list[dict]
    held_out: HeldOut = field(repr=False)
    history: list[dict] = field(default_factory=list)

    def __repr__(self) -> str:
        about = self.about
        return (
            f"<Report of {about['emulator']} on {about['dataset']}: {about['n_points']} points with "
            f"{about['n_realisations']} mocks each, {about['n_bins']} bins>"
        )

    def json(self) -> str:
        """Return everything except ``held_out`` as JSON, with null for NaN.

        Returns
        -------
        str
        """
        content = {name: getattr(self, name) for name in ("about", "notes", "scores", "by_bin", "regions", "history")}
        text = json.dumps(content, default=lambda value: value.tolist())  # for numpy's numbers and arrays
        finite = json.loads(text, parse_constant=lambda _: None)
        return json.dumps(finite, indent=1, allow_nan=False) + "\n"

    def markdown(self, figures: Sequence[tuple[str, str]] = ()) -> str:
        """Return the report as a page in Markdown.

        Parameters
        ----------
        figures : sequence of (str, str)
            File name and caption of each figure.

        Returns
        -------
        str
        """
        about = self.about
        masked = ", ".join(f"{count} of {name}" for name, count in about["masked_entries"].items())
        lines = [
            f"# {about['emulator']} on {about['dataset']}",
            "",
            f"The emulator is compared with mocks at {about['n_points']} points that it was not trained on, with "
            f"{about['n_realisations']} mocks each, in {about['n_bins']} bins to {about['r_max']:.3f} Mpc/h. These are "
            "left out:",
            "",
            f"- points: {about['n_outside']} outside the supported region of the emulator, and {about['n_cleaned']} "
            "that the paper's cleaning removes;",
            f"- entries (of {about['n_points'] * about['n_bins']} for each statistic) where a mock has no pair or the "
            f"prediction is missing: {masked};",
            f"- from mean fractional errors only, by the paper's rule for outliers: {about['outliers']['omega']} "
            f"predictions of omega, {about['outliers']['eta']} of eta.",
            "",
            self.table(),
            "",
            "Errors are standard deviations over bootstrap samples of the points. A metric that is defined by bin is "
            "averaged over bins.",
            "",
            *[f"- {note}" for note in self.notes],
            "",
            *self._bin_tables(),
            *self._region_table(),
        ]
        for name, caption in figures:
            lines += [f"![{caption.split(':')[0]}]({name})", "", caption, ""]
        return "\n".join(lines).rstrip() + "\n"

    def table(self) -> str:
        """Return a table of the metrics with their ceilings and the paper's values.

        Returns
        -------
        str
            Markdown.
        """
        head = ("metric", "statistic", "emulator", "ceiling", "emulator - ceiling", "paper")
        titles = {
            "mocks": "Comparison with means over mocks",
            "uncertainties": "Uncertainties",
            "noise-free": "Comparison with noise-free labels",
        }
        blocks = []
        for group, title in titles.items():
            rows = []
            for metric in METRICS:
                if metric.group != group or metric.key not in self.scores:
                    continue
                for statistic, score in self.scores[metric.key].items():
                    difference = score["value"] - score["ceiling"] if "ceiling" in score else None
                    cells = (
                        metric.label,
                        statistic,
                        _number(score["value"], score["error"], metric.unit),
                        _number(score.get("ceiling"), score.get("ceiling_error"), metric.unit),
                        _number(difference, score.get("difference_error"), metric.unit, sign=True),
                        _published(score.get("paper"), metric.unit),
                    )
                    rows.append(f"| {' | '.join(cells)} |")
            if rows:
                blocks.append(
                    "\n".join([f"## {title}", "", f"| {' | '.join(head)} |", "|---" * len(head) + "|", *rows])
                )
        return "\n\n".join(blocks)

    def _bin_tables(self) -> list[str]:
        lines = []
        for statistic, columns in self.by_bin.items():
            shown = [metric for metric in METRICS if metric.key in columns]
            heads = ["r [Mpc/h]", "points", *[_head(metric) for metric in shown]]
            lines += [f"## {statistic} by bin (emulator / ceiling)", "", f"| {' | '.join(heads)} |"]
            lines += ["|---" * len(heads) + "|"]
            for index, r in enumerate(columns["r"]):
                cells = [f"{r:.3f}", str(columns["n"][index])]
                for metric in shown:
                    scale = 100.0 if metric.unit == "%" else 1.0
                    values = [scale * columns[metric.key][index]]
                    if f"{metric.key}_ceiling" in columns:
                        values.append(scale * columns[f"{metric.key}_ceiling"][index])
                    cells.append(" / ".join(_number(value) for value in values))
                lines.append(f"| {' | '.join(cells)} |")
            lines.append("")
        return lines

    def _region_table(self) -> list[str]:
        if not self.regions:
            return []
        keys = [coverage_key(kind, level) for kind in ("realisations", "mean") for level in LEVELS]
        heads = ["region", "points", "statistic"]
        heads += [f"{kind} inside {level:.0%}" for kind in ("single mocks", "means over mocks") for level in LEVELS]
        lines = ["## Coverage by region", "", f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
        for region in self.regions:
            where = f"{region['parameter']} {region['low']:.2f} to {region['high']:.2f}"
            for statistic in STATISTICS:
                cells = [where, str(region["n"]), statistic]
                cells += [_number(value, error, "%") for value, error in map(region[statistic].get, keys)]
                lines.append(f"| {' | '.join(cells)} |")
        return [*lines, ""]


# ---------------------------------------------------------------------- text


def _head(metric: Metric) -> str:
    label = metric.bin_label or metric.label
    return f"{label} [{metric.unit}]" if metric.unit else label


def _published(value, unit: str) -> str:
    """Format a number with the digits with which it was published."""
    if value is None or isinstance(value, str):
        return value or "-"
    return f"{round(100 * value, 6):g} %" if unit == "%" else f"{value:g} {unit}".rstrip()


def _number(value, error=None, unit: str = "", sign: bool = False) -> str:
    """Format a number with two digits of its error, or with three digits without an error; "-" for no number."""
    if value is None or not math.isfinite(value):
        return "-"
    scale, suffix = (100.0, " %") if unit == "%" else (1.0, f" {unit}".rstrip())
    value, plus = scale * value, "+" if sign else ""
    if error is None or not math.isfinite(error) or error <= 0:
        return f"{value:{plus}.{_digits(value, 3)}f}{suffix}"
    digits = _digits(scale * error, 2)
    return f"{value:{plus}.{digits}f} ± {scale * error:.{digits}f}{suffix}"


def _digits(value: float, significant: int) -> int:
    """Return the number of digits after the point."""
    return 0 if value == 0 else min(max(significant - 1 - math.floor(math.log10(abs(value))), 0), 5)
