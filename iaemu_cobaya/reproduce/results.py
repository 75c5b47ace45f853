"""Write the results of all routes as tables and as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np

from iaemu.files import write_text
from iaemu.parameters import ALIGNMENT_PARAMETERS
from iaemu_cobaya.chains.paper import TABLE_2
from iaemu_cobaya.reproduce.routes import Route, Sampled


def write_results(
    folder: Path, routes: Mapping[int, Sequence[Route]], sampled: Mapping[tuple[int, str], Sampled], mocks: bool
) -> str:
    """Write ``results.md`` and ``results.json``.

    Parameters
    ----------
    folder : Path
    routes : mapping of sample to routes
    sampled : mapping of (sample, model) to Sampled
    mocks : bool
        Whether there is a Figure 6.

    Returns
    -------
    str
        Content of ``results.md``.
    """
    parts = [
        "# Posteriors of the paper, reproduced by several routes",
        "`iaemu reproduce` wrote this file; [reproduction](../validation/reproduction.md) explains and discusses it. "
        "Posteriors are given as mean ± standard deviation, those of the paper as in its Table 2. Shifts are relative "
        "to *tables, HMC*, in standard deviations of the row.",
        _comparison_table(routes),
        "## With the error of the prediction in the likelihood",
        _error_table(sampled),
        "![Posteriors](figure7.png)",
        *(["![Correlation functions](figure6.png)"] if mocks else []),
    ]
    text = "\n\n".join(parts)
    write_text(folder / "results.md", text + "\n")
    write_text(folder / "results.json", _as_json(routes, sampled))
    return text


def _comparison_table(routes: Mapping[int, Sequence[Route]]) -> str:
    """Return a Markdown table of all routes and Table 2 of the paper."""
    lines = [
        "| sample | route | mu_cen | mu_sat | shift of mu_cen, mu_sat [sigma] | Monte Carlo error [sigma] | effective "
        "draws | mocks |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for sample, found in routes.items():
        reference = next(route for route in found if route.label == "tables, HMC").moments
        for route in found:
            m = route.moments
            shift = (m.mean - reference.mean) / m.std
            values = [f"{mean:.4f} ± {std:.4f}" for mean, std in zip(m.mean, m.std, strict=True)]
            relative = m.error / m.std
            lines.append(
                f"| {sample} | {route.label} | {values[0]} | {values[1]} | {shift[0]:+.2f}, {shift[1]:+.2f} | "
                f"{relative[0]:.2f}, {relative[1]:.2f} | {m.effective:.0f} | {route.n_mocks} |"
            )
        for label, entries in TABLE_2[sample].items():
            published = [entries[name] for name in ALIGNMENT_PARAMETERS]
            cells = [f"*{value:.2f} +{up:.2f} -{down:.2f}*" for value, up, down in published]
            shifts = [
                2.0 * (value - mean) / (up + down)
                for (value, up, down), mean in zip(published, reference.mean, strict=True)
            ]
            lines.append(
                f"| {sample} | *paper: {label}* | {cells[0]} | {cells[1]} | {shifts[0]:+.1f}, {shifts[1]:+.1f} | "
                "*not stated* | *4000 draws* | *not stated* |"
            )
    return "\n".join(lines)


def _error_table(sampled: Mapping[tuple[int, str], Sampled]) -> str:
    """Return a Markdown table of the effect of the error of the prediction on each posterior."""
    lines = [
        "| sample | model | sigma_emu / sigma_data of omega, median (largest) | shift of mu_cen, mu_sat [sigma] | "
        "ratio of widths of mu_cen, mu_sat |",
        "|---|---|---|---|---|",
    ]
    for (sample, model), both in sampled.items():
        without, with_error, ratio = both.route.moments, both.with_error.moments, both.sigma_ratio
        shift = (with_error.mean - without.mean) / without.std
        width = with_error.std / without.std
        lines.append(
            f"| {sample} | {model} | {np.median(ratio):.3f} ({ratio.max():.3f}) | {shift[0]:+.3f}, {shift[1]:+.3f} | "
            f"{width[0]:.3f}, {width[1]:.3f} |"
        )
    return "\n".join(lines)


def _as_json(routes: Mapping[int, Sequence[Route]], sampled: Mapping[tuple[int, str], Sampled]) -> str:
    content = {
        "parameters": list(ALIGNMENT_PARAMETERS),
        "routes": {
            str(sample): {route.label: {**asdict(route.moments), "n_mocks": route.n_mocks} for route in found}
            for sample, found in routes.items()
        },
        "paper": {str(sample): table for sample, table in TABLE_2.items() if sample in routes},
        "with_emulator_error": {
            f"{sample}, {model}": {**asdict(both.with_error.moments), "sigma_ratio": both.sigma_ratio}
            for (sample, model), both in sampled.items()
        },
    }
    return json.dumps(content, indent=1, default=np.ndarray.tolist) + "\n"
