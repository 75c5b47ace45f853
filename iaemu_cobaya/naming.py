"""Names of our parameters (option ``param_map``) and products (option ``tag``) in a Cobaya run."""

from __future__ import annotations

import re
import reprlib
from collections.abc import Mapping, Sequence
from logging import Logger

from cobaya.log import LoggedError, get_logger

_TAG = re.compile(r"\w*")


def product_name(statistic: str, tag: str | None = "", deviations: bool = False) -> str:
    """Return the name of a product: ``ia_omega`` or ``ia_wgplus``, or ``ia_omega_sample1`` with a tag.

    Parameters
    ----------
    statistic, tag : str
    deviations : bool
        Return the name of the deviations, see :meth:`iaemu_cobaya.theories.base.ForwardModelTheory.get_result`.

    Returns
    -------
    str
    """
    name = statistic.replace("_", "")
    return "_".join(["ia", name, *(["deviations"] if deviations else []), *([tag] if tag else [])])


def check_tag(tag: str | None, log: Logger) -> str:
    """Check that a tag consists of letters, digits and underscores.

    Parameters
    ----------
    tag : str, optional
    log : Logger

    Returns
    -------
    str
        The tag, or "" for None.

    Raises
    ------
    LoggedError
        The tag contains other characters, or begins with "deviations".
    """
    tag = tag or ""
    if tag.startswith("deviations"):
        raise LoggedError(
            log,
            "tag: '%s' would be taken for the error of a prediction; it must not begin with 'deviations'.",
            tag,
        )
    if not _TAG.fullmatch(tag):
        raise LoggedError(log, "tag: use letters, digits and underscores only; got '%s'.", tag)
    return tag


def mapped_names(parameters: Sequence[str], param_map: Mapping, log: Logger) -> tuple[str, ...]:
    """Return the names of a model's parameters in a run.

    Parameters
    ----------
    parameters : sequence of str
    param_map : mapping of parameter to name
    log : logging.Logger

    Returns
    -------
    tuple of str

    Raises
    ------
    LoggedError
        A parameter is unknown, or two get the same name.
    """
    unknown = [name for name in param_map if name not in parameters]
    if unknown:
        raise LoggedError(
            log,
            "param_map: unknown parameter(s) %s; the parameters are %s.",
            ", ".join(map(str, unknown)),
            ", ".join(parameters),
        )
    named = [param_map.get(name, name) for name in parameters]
    if any(not isinstance(name, str) or not name for name in named):
        raise LoggedError(log, "param_map: names must be text, as in {alpha: alpha_hod}; got %s.", reprlib.repr(named))
    names = tuple(named)
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise LoggedError(log, "param_map: more than one parameter gets the name %s.", ", ".join(twice))
    return names


class MapsParameters:
    """Mixin for Cobaya components that renames their default parameters with the option ``param_map``.

    This happens when Cobaya collects defaults. The renamed parameters thus keep prior, proposal and label, and Cobaya
    assigns them to the component. Cobaya's own ``renames`` does neither.
    """

    @classmethod
    def get_modified_defaults(cls, defaults: dict, input_options: Mapping | None = None) -> dict:
        """Rename the parameters among a component's defaults.

        Parameters
        ----------
        defaults : dict
        input_options : mapping, optional
            Options of the run.

        Returns
        -------
        dict
        """
        param_map = (input_options or {}).get("param_map") or {}
        if isinstance(param_map, Mapping) and isinstance(defaults, dict) and defaults.get("params"):
            params, names = defaults["params"], [*defaults["params"]]
            new = mapped_names(
                names, {name: param_map[name] for name in names if name in param_map}, get_logger(cls.__name__)
            )
            defaults["params"] = {name: params[old] for name, old in zip(new, names, strict=True)}
        return defaults
