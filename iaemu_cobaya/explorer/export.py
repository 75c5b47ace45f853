"""What the explorer's page computes with: weights of the network, matrices, supported regions, data and best fits.

All is plain numbers. Arrays are written as base64, in the byte order of little-endian machines, which all browsers use.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch

from iaemu import __version__
from iaemu.binning import R_MAX, Rebinning, shell_volumes, union_edges
from iaemu.halomodel.abundance import growth_factor
from iaemu.halomodel.alignment import mean_p2
from iaemu.models.base import MIN_PAIRS
from iaemu.models.factorised import Emulator
from iaemu.networks.factorised import INGREDIENTS
from iaemu.observables.large_scale import C1_RHO_CRITICAL
from iaemu.observables.projected import Projection
from iaemu.parameters import OCCUPATION_PARAMETERS, Support
from iaemu.statistics import STATISTICS
from iaemu_cobaya.explorer.fits import best_fits
from iaemu_cobaya.likelihoods import packaged
from iaemu_cobaya.likelihoods.correlations import IACorrelations
from iaemu_cobaya.theories.derived import SHAPE_PARAMETERS

#: Likelihoods of TNG300-1, whose data are selected on the page, and of the survey.
SAMPLES, SURVEY = ("TNG300Sample1", "TNG300Sample2", "TNG300Sample3"), "LOWZ"

#: Functions of one variable are tabulated, and interpolated by cubic polynomials: q(mu) to 1e-9, the others to 1e-6.
_N_STRENGTHS, _N_REDSHIFTS = 1025, 21

#: Separations of the curves of w_gg and w_g+ [Mpc/h].
_RP = np.geomspace(0.1, 60.0, 57)

#: Edges of the curves of xi, omega and eta [Mpc/h]: about as wide as IAEmu's. In narrower bins the noise of the halo
#: catalogues shows.
_EDGES = np.logspace(-1.0, np.log10(R_MAX), 23)


def explorer_data(model: Emulator) -> dict[str, Any]:
    """Return the content of the page as a dictionary that JSON can hold.

    Parameters
    ----------
    model : Emulator
        It must state its cosmology and redshifts.

    Returns
    -------
    dict

    Raises
    ------
    ValueError
        The emulator is of one redshift, or does not state its cosmology.
    """
    low, high = model.redshift_range or (0.0, 0.0)
    Om = (model.cosmology or {}).get("Om")
    if low == high or Om is None:
        raise ValueError(
            "The explorer needs an emulator of several redshifts that states its cosmology, such as the shipped one; "
            f"this one is of {'one redshift' if low == high else 'an unknown cosmology'}. Train it on tables at "
            "several (`iaemu train fit --tables FILE FILE ...`)."
        )
    survey: IACorrelations = getattr(packaged, SURVEY)()
    samples = [getattr(packaged, name)({"statistics": list(STATISTICS)}) for name in SAMPLES]
    redshifts = np.linspace(low, high, _N_REDSHIFTS)
    projection = survey.requests["w_gg"]["projection"]
    curves = Projection.of(rp=_RP, pi_max=projection.pi_max)
    return {
        "version": __version__,
        "redshifts": [low, high],
        "network": _network(model, low, high),
        "nodes": model.nodes.tolist(),
        "shells": packed(shell_volumes(model.nodes)),
        "box_volume": float(model.box_volumes.sum()),
        "fewest_pairs": 2.0 * MIN_PAIRS,
        "q": _table(np.linspace(-1.0, 1.0, _N_STRENGTHS), lambda mu: [float(mean_p2(torch.tensor(mu)))]),
        "amplitude_of_e_rms": SHAPE_PARAMETERS["e_rms"],
        "large_scales": _large_scales(model, Om, redshifts),
        "of_A_IA": 1.5 / (C1_RHO_CRITICAL * Om),
        "supports": _supports(model, low, high),
        "bins": _bins(model.nodes, _EDGES),
        "projection": _projection(model, curves, redshifts),
        "pi_max": projection.pi_max,
        "samples": [_sample(like, model.nodes) for like in samples],
        "survey": _survey(survey) | {"projection": _projection(model, projection, redshifts)},
        "presets": best_fits(model, [*(getattr(packaged, name)() for name in SAMPLES), survey]),
    }


def packed(values: Any) -> dict[str, Any]:
    """Return an array as its shape, type and base64.

    Parameters
    ----------
    values : array
        Of float32, or what becomes float64.

    Returns
    -------
    dict
    """
    array = np.ascontiguousarray(values)
    array = array.astype("<f4" if array.dtype == np.float32 else "<f8")
    name = "float32" if array.dtype.itemsize == 4 else "float64"
    return {"shape": list(array.shape), "type": name, "base64": base64.b64encode(array.tobytes()).decode()}


def _network(model: Emulator, low: float, high: float) -> dict[str, Any]:
    """Return the network whose outputs are the prediction.

    The redshift is folded into the bias of the first layer, which is linear in it.
    """
    first, last = model.at_redshift(low).network, model.at_redshift(high).network
    state = {name: value.numpy() for name, value in first.state_dict().items()}
    weights = sorted(name for name in state if name.startswith("hidden.") and name.endswith("weight"))
    head, head_bias = first.head()
    layers = [(state[name], state[name.replace("weight", "bias")]) for name in weights]
    layers.append((head.numpy(), head_bias.numpy()))
    return {
        "activation": first.config["activation"],
        "ingredients": list(INGREDIENTS),
        "occupation": list(OCCUPATION_PARAMETERS),
        **{name: state[name].tolist() for name in ("line_slope", "line_intercept", "half_width")},
        "layers": [{"weight": packed(weight), "bias": packed(bias)} for weight, bias in layers],
        "first_bias_at_last_redshift": packed(last.state_dict()["hidden.0.bias"].numpy()),
    }


def _table(x: np.ndarray, function: Callable[[float], Sequence[float]]) -> dict[str, Any]:
    """Return a function of one variable on an even grid."""
    values = np.array([function(float(at)) for at in x])
    return {"low": float(x[0]), "step": float(x[1] - x[0]), "values": packed(values)}


def _supports(model: Emulator, first: float, last: float) -> list[dict[str, Any]]:
    """Return the supported regions at the redshifts of halo catalogues, and between them, where they are others."""
    known = {float(one["redshift"]) for one in model.metadata.get("snapshots") or []}
    ends = sorted(known | {first, last})
    ranges = [(z, z) for z in ends] + list(pairwise(ends))
    return [
        {"low": low, "high": high, "bounds": _bounds(model.at_redshift(0.5 * (low + high)).support)}
        for low, high in ranges
    ]


def _bounds(support: Support) -> dict[str, dict[str, list]]:
    """Return the limits of each parameter as lines in logMmin, (slope, offset); the narrowest of each side counts."""
    mass = support.parameters.index("logMmin")
    bounds: dict[str, dict[str, list]] = {name: {"low": [], "high": []} for name in support.parameters}
    for row, limit in zip(*support.inequalities(), strict=True):
        (own, *_), slope = [*np.flatnonzero(np.delete(row, mass)), None], row[mass]
        if own is None:  # of logMmin itself
            column, sign, slope = mass, row[mass], 0.0
        else:
            column = int(own) + (own >= mass)
            sign = row[column]
        side = "high" if sign > 0 else "low"
        bounds[support.parameters[column]][side].append([float(-slope / sign), float(limit / sign)])
    return bounds


def _bins(nodes: np.ndarray, edges: np.ndarray) -> dict[str, Any]:
    found = Rebinning.between(nodes, edges)
    centres = 0.5 * (edges[1:] + edges[:-1])
    return {"r": centres.tolist()} | {name: packed(getattr(found, name)) for name in ("weights", "volumes", "missing")}


def _projection(model: Emulator, projection: Projection, redshifts: np.ndarray) -> dict[str, Any]:
    """Return the matrices of a projection: a part within the nodes, and one beyond, which changes with redshift."""
    matrices = [projection.matrices(model.nodes, z) for z in redshifts]
    first, found = matrices[0], {}
    for name, whole, tail, amplitude, pairs in (
        ("w_gg", "of_xi", "tail_of_xi", "bias", "pairs_gg"),
        ("w_gplus", "of_omega", "tail_of_omega", "alignment", "pairs_gplus"),
    ):
        low, high = projection.limits(name)
        tails = np.array([getattr(one, tail) for one in matrices])
        near = getattr(first, whole) - np.outer(tails[0], getattr(first, amplitude)[0])
        found[name] = {
            "r": (0.5 * (low + high)).tolist(),
            "near": packed(near),
            "tail": {
                "low": float(redshifts[0]),
                "step": float(redshifts[1] - redshifts[0]),
                "values": packed(tails),
            },
            "pairs": packed(getattr(first, pairs)),
        }
    return found


def _large_scales(model: Emulator, Om: float, redshifts: np.ndarray) -> dict[str, Any]:
    """Return, as functions of redshift, the weights of b^2 and K between nodes, and the growth factor."""
    projection = Projection.of_large_scales()
    matrices = {float(z): projection.matrices(model.nodes, z) for z in redshifts}
    return {
        "bias": _table(redshifts, lambda z: matrices[z].bias[0]),
        "alignment": _table(redshifts, lambda z: matrices[z].alignment[0]),
        "growth": _table(redshifts, lambda z: [growth_factor(Om, z)]),
    }


def _points(like: IACorrelations, statistic: str) -> dict[str, Any]:
    """Return all measured values of one statistic, and which of them the likelihood uses."""
    bins = like.measurement.bins[statistic]
    names = ("r_low", "r_high", "r", "value", "error")
    return {name: getattr(bins, name).tolist() for name in names} | {"used": like.used[statistic].tolist()}


def _chi2(like: IACorrelations, statistics: Sequence[str]) -> dict[str, Any]:
    """Return what chi^2 of some statistics is computed from: their block of the covariance of the data."""
    index = np.concatenate([np.arange(len(like.data_vector))[like.slices[name]] for name in statistics])
    block = np.linalg.inv(like.covariance_matrix[np.ix_(index, index)])
    return {
        "statistics": list(statistics),
        "data": like.data_vector[index].tolist(),
        "inverse_covariance": packed(block),
    }


def _described(like: IACorrelations) -> dict[str, Any]:
    metadata = like.measurement.metadata
    return {
        "likelihood": type(like).__name__,
        "reference": metadata["reference"],
        "redshift": float(metadata["redshift"]),
        "points": {name: _points(like, name) for name in like.statistics},
    }


def _sample(like: IACorrelations, nodes: np.ndarray) -> dict[str, Any]:
    bins = {}
    for name in like.statistics:
        edges = union_edges(np.union1d(like.bins[name].r_low, like.bins[name].r_high))
        bins[name] = _bins(nodes, edges)
    return _described(like) | {
        "log_stellar_mass_min": like.measurement.metadata["log_stellar_mass_min"],
        "bins": bins,
        "chi2": [_chi2(like, [name]) for name in like.statistics],
    }


def _survey(like: IACorrelations) -> dict[str, Any]:
    parts = [*([name] for name in like.statistics), like.statistics]
    return _described(like) | {"chi2": [_chi2(like, part) for part in parts]}
