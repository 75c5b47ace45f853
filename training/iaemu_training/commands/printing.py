"""What commands print: results, as text or as JSON, and notes, which ``--quiet`` leaves out."""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from iaemu_training.commands.program import complain

if TYPE_CHECKING:
    from iaemu.measurement import Measurement


def show(arguments: argparse.Namespace, text: str, document: Any) -> None:
    """Print a result: the text, or with ``--json`` the document.

    Parameters
    ----------
    arguments : argparse.Namespace
    text : str
    document : object
        Of what JSON knows, paths and NumPy's arrays and numbers. What is not finite becomes null.
    """
    # At once: a file would get it when the command ends.
    print(as_json(document) if arguments.json else text, flush=True)


def as_json(document: Any) -> str:
    """Return a result as JSON.

    Parameters
    ----------
    document : object
        As of :func:`show`.

    Returns
    -------
    str
    """
    return json.dumps(_plain(document), indent=2, allow_nan=False)


def note(arguments: argparse.Namespace, text: str) -> None:
    """Print what was done, unless ``--quiet``; with ``--json`` on stderr.

    Parameters
    ----------
    arguments : argparse.Namespace
    text : str
    """
    if not arguments.quiet:
        print(text, file=sys.stderr if getattr(arguments, "json", False) else sys.stdout, flush=True)


def warn(arguments: argparse.Namespace, name: str, text: str) -> None:
    """Print a warning in one line on stderr, unless ``--quiet``.

    Parameters
    ----------
    arguments : argparse.Namespace
    name : str
        Of the command.
    text : str
    """
    if not arguments.quiet:
        complain(name, text)


def measurement_table(measurement: Measurement) -> str:
    """Return the bins of a measurement as text, one row for each.

    Parameters
    ----------
    measurement : Measurement

    Returns
    -------
    str
    """
    width = max(6, *(len(name) for name in measurement.bins))
    lines = [f"{'':{width}s} {'r_low':>8s} {'r_high':>8s} {'value':>11s} {'error':>10s}"]
    for name, bins in measurement.bins.items():
        rows = zip(bins.r_low, bins.r_high, bins.value, bins.error, strict=True)
        lines += [
            f"{name:{width}s} {low:8.4f} {high:8.4f} {value:11.4g} {error:10.2g}" for low, high, value, error in rows
        ]
    return "\n".join(lines)


def measurement_document(measurement: Measurement, **more: Any) -> dict[str, Any]:
    """Return a measurement as a document for :func:`show`.

    Parameters
    ----------
    measurement : Measurement
    **more
        Further entries.

    Returns
    -------
    dict
        With ``r_unit``, ``bins`` by statistic, ``covariances`` and ``metadata``.
    """
    columns = ("r_low", "r_high", "value", "error")
    return {
        **more,
        "r_unit": "Mpc/h",
        "bins": {
            name: {column: getattr(bins, column) for column in columns} for name, bins in measurement.bins.items()
        },
        "covariances": [
            {"statistics": covariance.statistics, "n_regions": covariance.n_regions, "matrix": covariance.matrix}
            for covariance in measurement.covariances
        ],
        "metadata": measurement.metadata,
    }


def _plain(value: Any) -> Any:
    """In terms of JSON's own types."""
    if isinstance(value, Mapping):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, str | int) else str(value)
