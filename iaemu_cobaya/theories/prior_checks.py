"""Checks of a Cobaya model against what an alignment model was made for; done once, before sampling."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from cobaya.model import Model

from iaemu.parameters import ZHENG07_LINE, Support

#: Names, in Cobaya's usual spelling, of parameters that change the matter distribution.
COSMOLOGICAL_PARAMETERS = frozenset(
    "H0 h theta_MC_100 cosmomc_theta thetastar theta_s_100 theta_s_1e2 omegam Omega_m Omega_cdm Omega_b ombh2 omch2 "
    "omegabh2 omegach2 omegamh2 nnu N_eff "
    "omega_b omega_cdm omegak omk Omega_k sigma8 S8 As A_s logA ns n_s nrun w w0 wa w0_fld wa_fld mnu m_ncdm".split()
)

#: An unbounded prior is taken to reach as far as this central probability.
CONFIDENCE = 0.9999995

_N_GRID = 65
_TOLERANCE = 1e-9


def sampled_cosmology(model: Model) -> list[str]:
    """Names of the cosmological parameters that a Cobaya model samples.

    Parameters
    ----------
    model : Model

    Returns
    -------
    list of str
    """
    return [name for name in model.parameterization.sampled_params() if name in COSMOLOGICAL_PARAMETERS]


def parameter_ranges(model: Model, names: Mapping[str, str]) -> dict[str, tuple[float, float]]:
    """Range of each parameter of a run.

    Parameters
    ----------
    model : Model
    names : mapping of our name to the name in the run

    Returns
    -------
    dict of our name to (low, high)
        Equal if fixed. Parameters that are functions of others, or come from another component, are left out.
    """
    sampled = list(model.parameterization.sampled_params())
    bounds = model.prior.bounds(confidence_for_unbounded=CONFIDENCE) if sampled else []
    ranges = {}
    for name, run_name in names.items():
        if run_name in sampled:
            low, high = bounds[sampled.index(run_name)]
            ranges[name] = (float(low), float(high))
            continue
        value = model.parameterization.constant_params().get(run_name)
        if value is not None:
            ranges[name] = (float(value), float(value))
    return ranges


def compare_prior_with_support(model: Model, names: Mapping[str, str], support: Support) -> tuple[list[str], list[str]]:
    """Compare the ranges of a run's parameters with a model's support.

    The supported range of an occupation parameter depends on ``logMmin``, so it is taken over the range of ``logMmin``
    in the run: a parameter is fine if its range is supported at all of them.

    Parameters
    ----------
    model : Model
    names : mapping of our name to the name in the run
    support : Support

    Returns
    -------
    impossible, clipped : list of str
        One sentence per parameter whose range lies outside altogether, or reaches outside; with ranges.
    """
    ranges = parameter_ranges(model, names)
    low, high = ranges.get("logMmin", support.logMmin)
    masses = np.linspace(np.clip(low, *support.logMmin), np.clip(high, *support.logMmin), _N_GRID)
    impossible: list[str] = []
    clipped: list[str] = []
    for name, (low, high) in ranges.items():
        lows, highs = (np.broadcast_to(value, masses.shape) for value in support.bounds(name, masses))
        apart = np.maximum(lows - high, low - highs)
        excess = np.maximum(lows - low, high - highs)
        what = f"{names[name]} = {low:.6g}" if low == high else f"the prior of {names[name]}, [{low:.6g}, {high:.6g}],"
        reaches = "lies outside" if low == high else "reaches outside"
        # Quote the supported range where it comes nearest, or where most is cut off.
        for values, worst, found, verb in (
            (apart, np.argmin(apart), apart.min() > _TOLERANCE, "lies outside"),
            (excess, np.argmax(excess), excess.max() > _TOLERANCE, reaches),
        ):
            if found:
                depends = name in ZHENG07_LINE
                at = f" at {names['logMmin']} = {masses[worst]:.5g}" if depends else ""
                sentence = f"{what} {verb} the supported range [{lows[worst]:.6g}, {highs[worst]:.6g}]{at}"
                (impossible if values is apart else clipped).append(sentence)
                break
    return impossible, clipped
