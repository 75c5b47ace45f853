"""Model card of an artifact: what it is, where it holds, how good it is, what it must not be used for."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import yaml

from iaemu.files import sha256_of_file
from iaemu.models.factorised import Emulator
from iaemu.models.network import NetworkModel
from iaemu.parameters import PARAMETERS, Support


def model_card(emulator: NetworkModel, path: str | Path) -> str:
    """The card as Markdown, from what the artifact says of itself.

    Parameters
    ----------
    emulator : NetworkModel
    path : path-like
        Its file, for name, size and SHA-256.

    Returns
    -------
    str
    """
    metadata = emulator.metadata
    path = Path(path)
    lines = [
        f"# {path.stem}",
        "",
        f"{metadata.get('description', 'An emulator')}, {metadata.get('made_by', 'unknown')}.",
        "",
        f"File: {path.name}, {path.stat().st_size / 1e6:.2f} MB, SHA-256 `{sha256_of_file(path)}`.",
        "",
        "## What it predicts",
        "",
        "xi(r), omega(r) and eta(r) of halotools-IA mock galaxies; parameters in order: "
        + ", ".join(f"`{parameter}`" for parameter in PARAMETERS)
        + ". Native bins [Mpc/h]:",
        "",
        *[f"- {len(edges) - 1} bins from {edges[0]:.4g} to {edges[-1]:.4g}" for edges in emulator.binnings],
        *["", "## Where it holds", "", *_support(emulator.support), ""],
    ]
    boxes = ", ".join(map(str, metadata.get("catalogues") or ["not stated"]))
    sides = ", ".join(f"{side:g}" for side in metadata.get("box_sizes") or [])
    lines += [
        f"Halo catalogue: {boxes}" + (f" (sides {sides} Mpc/h)" if sides else "") + f"; {metadata.get('cosmology')}; "
        f"redshift {metadata.get('redshift')}. SHA-256 of the catalogues: "
        + ", ".join(f"`{digest[:16]}...`" for digest in metadata.get("catalogue_sha256") or ["not stated"])
        + ".",
        "",
        "Not for another cosmology or redshift, for redshift space, or for shapes (orientations have no ellipticity).",
        "",
        "## Uncertainties",
        "",
        *_uncertainties(emulator),
        "",
        "## How good it is",
        "",
        *_held_out(metadata.get("held_out")),
        "",
        "## How it was trained",
        "",
        f"On {metadata.get('trained_on', 'noise-free labels from tables')}.",
        "",
        "```yaml",
        yaml.safe_dump(metadata.get("config") or metadata.get("fit") or {}, sort_keys=False).rstrip(),
        "```",
    ]
    return "\n".join(lines) + "\n"


def _support(support: Support) -> list[str]:
    lines = ["| parameter | at the lowest logMmin | at the highest |", "|---|---|---|"]
    for parameter in PARAMETERS:
        cells = []
        for logMmin in support.logMmin:
            low, high = support.bounds(parameter, logMmin)
            cells.append(f"{low:.4g} to {high:.4g}")
        lines.append(f"| {parameter} | {cells[0]} | {cells[1]} |")
    return lines


def _uncertainties(emulator: NetworkModel) -> list[str]:
    metadata = emulator.metadata
    if not isinstance(emulator, Emulator):
        return ["- aleatoric: second output of the network; epistemic: Monte Carlo dropout, 50 passes."]
    lines = []
    if emulator.aleatoric is not None:
        lines.append(
            f"- aleatoric: scatter of one measurement in {emulator.aleatoric.volume:.4g} (Mpc/h)^3, fitted to mocks at "
            f"{metadata['aleatoric'].get('n_points')} points; scales inversely with `volume` in variance."
        )
    if emulator.members:
        factors = ", ".join(f"{name} {factor:.2f}" for name, factor in metadata.get("epistemic_scale", {}).items())
        lines.append(f"- epistemic: spread of {len(emulator.members) + 1} networks, times {factors}.")
    return lines or ["None."]


def _held_out(held_out: Mapping | None) -> list[str]:
    if not held_out:
        return ["See its report of `iaemu-train evaluate`."]
    lines = [
        f"Against noise-free tables at {held_out['n_points']} random points of the support: rms over bins of the "
        "error, relative to the rms of the statistic.",
        "",
        "| bins | statistic | median over points | 95 % of points below |",
        "|---|---|---|---|",
    ]
    for binning, entry in held_out.items():
        if isinstance(entry, Mapping):
            for name, values in entry.items():
                lines.append(f"| {binning} | {name} | {values['median']:.2%} | {values['p95']:.2%} |")
    return lines
