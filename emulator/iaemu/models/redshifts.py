"""Redshifts of forward models: those of their halo catalogues, and what lies between them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike

from iaemu.parameters import Support
from iaemu.ranges import Range

#: Differences in redshift that are of no importance: the halo catalogues of a simulation are rarely at round redshifts.
TOLERANCE = 0.01


class RedshiftError(ValueError):
    """A model cannot go to a redshift."""


class AtRedshift:
    """The part of :class:`iaemu.ForwardModel` for the redshift of its predictions."""

    metadata: dict[str, Any]

    @property
    def redshift(self) -> float | None:
        """Redshift of the predictions; None if it is not known."""
        redshift = self.metadata.get("redshift")
        return None if redshift is None else float(redshift)

    @property
    def redshift_range(self) -> tuple[float, float] | None:
        """Least and largest redshift to which :meth:`at_redshift` can go; None if no redshift is known."""
        known = [snapshot["redshift"] for snapshot in self.metadata.get("snapshots") or []]
        known = known or [self.redshift]
        return None if known[0] is None else (float(min(known)), float(max(known)))

    def at_redshift(self, redshift: float) -> Self:
        """Return the model at another redshift.

        Parameters
        ----------
        redshift : float
            Within ``redshift_range``; up to 0.01 beyond, it is that of the nearest halo catalogue.

        Returns
        -------
        ForwardModel
            A model of the same kind, or this one if its redshift is the same. It has the same box error.

        Raises
        ------
        RedshiftError
            It is outside the range, or the redshift of the model is not known. It is a ``ValueError``.
        """
        Range(above=-1).check("redshift", redshift, error=RedshiftError)
        if self.redshift_range is None:
            raise RedshiftError(
                f"redshift = {redshift:.4g} was asked for, but this {type(self).__name__} does not state the redshift "
                "of its halo catalogues. Leave the option out, or make its tables again from catalogues that state it."
            )
        low, high = self.redshift_range
        if not low - TOLERANCE <= redshift <= high + TOLERANCE:
            raise RedshiftError(
                f"redshift = {redshift:.4g} is outside {_words(low, high)} of the halo catalogues of this "
                f"{type(self).__name__}. Choose one of those, or a model of other redshifts: iaemu.load([FILE, ...]) "
                "of tables at several, or an emulator trained on them (`iaemu train fit --tables FILE FILE ...`)."
            )
        redshift = float(min(max(redshift, low), high))
        return self if redshift == self.redshift else self._moved(redshift)

    def _moved(self, redshift: float) -> Self:
        """Return the model at another redshift of its range."""
        return self


def _words(low: float, high: float) -> str:
    return f"{low:.4g}, the redshift" if low == high else f"{low:.4g} to {high:.4g}, the redshifts"


def usual_redshift(low: float, high: float) -> float:
    """Return the redshift of a model of several if none is chosen: 0, or the nearest to it in the range.

    Parameters
    ----------
    low, high : float
        The range.

    Returns
    -------
    float
    """
    return float(min(max(0.0, low), high))


def snapshot_weights(known: Sequence[float], redshift: ArrayLike) -> np.ndarray:
    """Return the weights of halo catalogues in an interpolation between their redshifts.

    Between two redshifts it is a mean of the two parabolas in z through both and the next on either side, each with the
    weight of its distance (Overhauser 1968), so that the derivative is continuous. In the first and the last interval
    it is the only parabola, and linear if there are two redshifts.

    For mass functions and biases of Tinker et al. (2008, 2010), z = 0, 0.3 and 0.6, and random occupations of the
    supported region it is within 0.3 % in the number density, 0.1 % in b^2 D^2 and 0.6 % in the number of pairs of one
    halo (median at z = 0.15). Parabolas in the growth factor are within 0.6, 0.1 and 0.5 %, in the scale factor 1.2,
    0.3 and 0.6 %. What is linear between 0 and 0.3 is within 0.4, 0.6 and 0.5 % in z, and 1.1, 0.4 and 2.2 % in the
    scale factor.

    Parameters
    ----------
    known : sequence of float
        Redshifts of the catalogues, increasing.
    redshift : array (n,)
        Within their range.

    Returns
    -------
    array (n, n_known)
        Their sum is 1. At the redshift of a catalogue, its weight is 1 and the others are 0.
    """
    nodes, z = np.asarray(known, dtype=np.float64), np.asarray(redshift, dtype=np.float64)
    weights = np.zeros((len(z), len(nodes)))
    if len(nodes) == 1:
        return weights + 1.0
    intervals = np.clip(np.searchsorted(nodes, z, side="right") - 1, 0, len(nodes) - 2)
    for row, (i, at) in enumerate(zip(intervals, z, strict=True)):
        t = (at - nodes[i]) / (nodes[i + 1] - nodes[i])
        pieces = [(share, start) for share, start in ((1.0 - t, i - 1), (t, i)) if 0 <= start <= len(nodes) - 3]
        if not pieces:
            weights[row, [i, i + 1]] = 1.0 - t, t
        for share, start in pieces:
            three = slice(start, start + 3)
            weights[row, three] += (share if len(pieces) > 1 else 1.0) * _lagrange(nodes[three], at)
    return weights


def _lagrange(nodes: np.ndarray, at: float) -> np.ndarray:
    """Return the weights of values at nodes (n,) in the polynomial through all of them."""
    others = [np.delete(nodes, i) for i in range(len(nodes))]
    return np.array([np.prod((at - rest) / (node - rest)) for node, rest in zip(nodes, others, strict=True)])


def support_at(snapshots: Sequence[Mapping], redshift: float) -> Support:
    """Return the supported region at a redshift: what all halo catalogues support that are used there.

    At the redshift of a catalogue this is its own region. Catalogues at high redshift hold fewer massive hosts.

    Parameters
    ----------
    snapshots : sequence of mapping
        The "redshift" and the "support" of each, redshifts increasing.
    redshift : float
        Within their range.

    Returns
    -------
    Support

    Raises
    ------
    ValueError
        The regions have nothing in common.
    """
    weights = snapshot_weights([one["redshift"] for one in snapshots], [redshift])[0]
    known = [one["support"] for one, weight in zip(snapshots, weights, strict=True) if weight]
    limits = {
        "n_rmse": min(one["n_rmse"] for one in known),
        "sigma_logM_min": max(one["sigma_logM_min"] for one in known),
        "n_sigma_complete": max(one["n_sigma_complete"] for one in known),
        "log_mass_complete": max((one["log_mass_complete"] for one in known if one["log_mass_complete"]), default=None),
        "logM0_max": min((one["logM0_max"] for one in known if one["logM0_max"]), default=None),
    }
    logMmin = max(one["logMmin"][0] for one in known), min(one["logMmin"][1] for one in known)
    return Support(logMmin=logMmin, **limits)


def nearest_snapshot(metadata: dict, redshift: float | None = None) -> dict | None:
    """Return the entry of the halo catalogues whose redshift is nearest to that of a model.

    Parameters
    ----------
    metadata : dict
        Metadata of the model.
    redshift : float, optional
        By default that of the model.

    Returns
    -------
    dict or None
        Its ``redshift``, ``catalogues``, ``catalogue_sha256`` and ``support``; None for a model of one redshift.
    """
    found = metadata.get("snapshots") or []
    wanted = metadata["redshift"] if redshift is None and found else redshift
    return min(found, key=lambda snapshot: abs(snapshot["redshift"] - wanted)) if found else None
