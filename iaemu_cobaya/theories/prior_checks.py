"""Compare the priors of a Cobaya model with the supported region of an alignment model, once, before sampling."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from cobaya.model import Model

from iaemu.parameters import ZHENG07_LINE, Support

#: Usual names, in Cobaya runs, of parameters that change the matter distribution.
COSMOLOGICAL_PARAMETERS = frozenset(
    "H0 h theta_MC_100 cosmomc_theta thetastar theta_s_100 theta_s_1e2 omegam Omega_m Omega_cdm Omega_b ombh2 omch2 "
    "omegabh2 omegach2 omegamh2 nnu N_eff "
    "omega_b omega_cdm omegak omk Omega_k sigma8 S8 As A_s logA ns n_s nrun w w0 wa w0_fld wa_fld mnu m_ncdm".split()
)

#: The range of an unbounded prior is taken as the interval that contains this probability.
CONFIDENCE = 0.9999995

#: Relative differences of cosmological parameters that are not worth a warning.
COSMOLOGY_TOLERANCE = 0.01

_N_GRID = 65
_TOLERANCE = 1e-9


def sampled_cosmology(model: Model) -> list[str]:
    """Return the names of the cosmological parameters that a Cobaya model samples.

    Parameters
    ----------
    model : Model

    Returns
    -------
    list of str
    """
    return [name for name in model.parameterization.sampled_params() if name in COSMOLOGICAL_PARAMETERS]


def other_cosmology(model: Model, own: Mapping[str, float]) -> list[str]:
    """Return which cosmological parameters a Cobaya model fixes at other values than those of an alignment model.

    Parameters
    ----------
    model : Model
    own : mapping of str to float
        What is known of Om, Ob, h, sigma8 and ns of the alignment model.

    Returns
    -------
    list of str
        Such as "H0 = 70 (the model: 67.8)", for each that differs by more than ``COSMOLOGY_TOLERANCE``.
    """
    constants, found = model.parameterization.constant_params(), []
    for needs, value, names in (
        ("h", lambda h: 100.0 * h, ("H0",)),
        ("h", lambda h: h, ("h",)),
        ("Om", lambda Om: Om, ("omegam", "Omega_m")),
        ("sigma8", lambda sigma8: sigma8, ("sigma8",)),
        ("ns", lambda ns: ns, ("ns", "n_s")),
        ("Ob h", lambda Ob, h: Ob * h**2, ("ombh2", "omega_b")),
        ("Om Ob h", lambda Om, Ob, h: (Om - Ob) * h**2, ("omch2", "omega_cdm")),
    ):
        if not set(needs.split()) <= set(own):
            continue
        mine = value(*(own[name] for name in needs.split()))
        for name in names:
            if name in constants and abs(constants[name] / mine - 1.0) > COSMOLOGY_TOLERANCE:
                found.append(f"{name} = {constants[name]:.5g} (the model: {mine:.5g})")
    return found


def parameter_ranges(model: Model, names: Mapping[str, str]) -> dict[str, tuple[float, float]]:
    """Return the range of each parameter of a run.

    Parameters
    ----------
    model : Model
    names : mapping of name in the alignment model to name in the run

    Returns
    -------
    dict of name in the alignment model to (low, high)
        Both are equal for a fixed parameter. Parameters that depend on others, or that another component computes, are
        left out.
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
    """Compare the ranges of the parameters of a run with the supported region of a model.

    The supported range of an occupation parameter depends on ``logMmin``. A parameter passes if its range is supported
    for all values of ``logMmin`` in the run.

    Parameters
    ----------
    model : Model
    names : mapping of name in the alignment model to name in the run
    support : Support

    Returns
    -------
    impossible, clipped : list of str
        One sentence with both ranges for each parameter whose range lies completely, or partly, outside.
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
        # Quote the supported range at the logMmin where it is nearest, or where most of the prior is cut off.
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
