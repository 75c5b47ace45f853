"""Model card of an emulator: what it predicts, its supported region, its accuracy, and its training."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import yaml

from iaemu.files import sha256_of_file
from iaemu.models.factorised import Emulator
from iaemu.models.iaemunet import IAEmuNetEmulator
from iaemu.models.network import NetworkModel
from iaemu.parameters import PARAMETERS, Support


def model_card(emulator: NetworkModel, path: str | Path) -> str:
    """Write the card as Markdown, from the metadata of the emulator.

    Parameters
    ----------
    emulator : NetworkModel
        The emulator.
    path : path-like
        Its file, for name, size and SHA-256.

    Returns
    -------
    str
    """
    metadata = emulator.metadata
    path = Path(path)
    made_by = str(metadata.get("made_by", "unknown software")).replace("iaemu-train ", "iaemu train ")  # older files
    lines = [
        f"# {path.stem}",
        "",
        f"{metadata.get('description', 'An emulator')}. Made by {made_by}.",
        "",
        f"File: {path.name}, {path.stat().st_size / 1e6:.2f} MB, SHA-256 `{sha256_of_file(path)}`.",
        "",
        "## What it predicts",
        "",
        "xi(r), omega(r) and eta(r) of galaxies that halotools-IA places in a halo catalogue, in real space. The "
        "parameters are, in this order, " + ", ".join(f"`{parameter}`" for parameter in PARAMETERS) + ". It predicts "
        f"in any bins between {emulator.nodes[0]:.4g} and {emulator.nodes[-1]:.4g} Mpc/h, interpolated between "
        f"{len(emulator.nodes)} nodes.",
        *["", "## Supported region", "", *_support(emulator.support), ""],
    ]
    boxes = ", ".join(map(str, metadata.get("catalogues") or ["not stated"]))
    sides = ", ".join(f"{side:g}" for side in metadata.get("box_sizes") or [])
    lines += [
        f"Halo catalogues: {boxes}" + (f" (sides {sides} Mpc/h)" if sides else "") + f"; {metadata.get('cosmology')}; "
        f"{_redshifts(emulator)}. SHA-256 of the catalogues: "
        + ", ".join(f"`{digest[:16]}...`" for digest in metadata.get("catalogue_sha256") or ["not stated"])
        + ".",
        "",
        "Do not use it for another cosmology or redshift, for redshift space, or for ellipticities: galaxies have "
        "orientations only.",
        "",
        "## Uncertainties",
        "",
        *_uncertainties(emulator),
        "",
        "## Accuracy",
        "",
        *_accuracy(metadata.get("held_out")),
        "",
        "## Training",
        "",
        f"It was trained on {metadata.get('trained_on', 'noise-free labels from tables')}, with these settings:",
        "",
        "```yaml",
        yaml.safe_dump(metadata.get("config") or metadata.get("fit") or {}, sort_keys=False).rstrip(),
        "```",
    ]
    return "\n".join(lines) + "\n"


def _redshifts(emulator: NetworkModel) -> str:
    low, high = emulator.redshift_range or (None, None)
    if low == high:
        return f"redshift {low}"
    known = ", ".join(f"{snapshot['redshift']:g}" for snapshot in emulator.metadata.get("snapshots") or [])
    return f"redshifts {low:g} to {high:g}, an option (tables at {known})"


def _support(support: Support) -> list[str]:
    lines = ["| parameter | range at the lowest logMmin | range at the highest logMmin |", "|---|---|---|"]
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
        calibrated = isinstance(emulator, IAEmuNetEmulator) and emulator.calibration is not None
        return [
            "- aleatoric: the variances that the network predicts.",
            "- epistemic: the scatter between 50 passes with dropout.",
            *(["", "Both were corrected after the training, on validation points."] if calibrated else []),
        ]
    lines = []
    if emulator.aleatoric is not None:
        lines.append(
            f"- aleatoric: the scatter of one measurement in {emulator.aleatoric.volume:.4g} (Mpc/h)^3, fitted to "
            f"mocks at {metadata['aleatoric'].get('n_points')} points. Its variance is inversely proportional to "
            "`volume`."
        )
    if emulator.members:
        factors = ", ".join(f"{name} {factor:.2f}" for name, factor in metadata.get("epistemic_scale", {}).items())
        lines.append(
            f"- epistemic: the spread of {len(emulator.members) + 1} networks, times a factor ({factors}) that makes "
            "68 % of the errors smaller than one standard deviation."
        )
    return lines or ["None."]


def _accuracy(held_out: Mapping | None) -> list[str]:
    if not held_out:
        return ["See its report, made by `iaemu train evaluate`."]
    return [
        "The predictions were compared with the tables, which have no noise, at random points of the supported region, "
        "on its faces and at its corners. The error at a point is the rms over bins of prediction minus tables, "
        "divided by the rms of the statistic.",
        "",
        *accuracy_table(held_out),
    ]


def accuracy_table(held_out: Mapping) -> list[str]:
    """Return the errors at held-out points as the lines of a table in Markdown.

    Parameters
    ----------
    held_out : mapping
        See :func:`iaemu_training.fitting.factorised.held_out_errors`.

    Returns
    -------
    list of str
    """
    rows = [("where", "points", "statistic", "median over points", "95 % of points are below")]
    for place, entry in held_out.items():
        rows += [
            (place, f"{entry['n_points']}", name, f"{values['median']:.2%}", f"{values['p95']:.2%}")
            for name, values in entry.items()
            if name != "n_points"
        ]
    heading, *lines = ("| " + " | ".join(row) + " |" for row in rows)
    return [heading, "|" + "---|" * len(rows[0]), *lines]


def accuracy_in_words(held_out: Mapping) -> str:
    """Return what the errors at held-out points mean, in a sentence.

    Parameters
    ----------
    held_out : mapping
        See :func:`iaemu_training.fitting.factorised.held_out_errors`.

    Returns
    -------
    str
    """
    inside = {name: values["p95"] for name, values in held_out["inside"].items() if name != "n_points"}
    parts = ", ".join(f"{share:.2g} % of {name}" for name, share in ((n, 100 * p) for n, p in inside.items()))
    return f"95 % of the points inside the supported region are closer to the tables than {parts} (rms over bins)."
