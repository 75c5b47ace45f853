"""The only place where this package uses private names of Cobaya.

Cobaya has no public way to find out on what its components depend, in which order they are evaluated, and which
functions compute parameters. If a version of Cobaya lacks one of these names, the error names it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import cobaya
from cobaya.collection import SampleCollection
from cobaya.likelihood import LikelihoodExternalFunction
from cobaya.log import LoggedError, get_logger
from cobaya.model import Model

#: Versions of Cobaya with which the tests pass.
TRIED = "3.6 to 3.6.2"


class Component(NamedTuple):
    """A theory or likelihood that is evaluated.

    Attributes
    ----------
    component : Theory
    is_likelihood : bool
    params : list of str
        Input parameters on which its result depends: its own first, then those of the theories that it requires.
    required : set of Theory
        Theories that it requires, directly or through others.
    """

    component: Any
    is_likelihood: bool
    params: list[str]
    required: set


def evaluation_order(model: Model) -> list[Component]:
    """Return the components of a model in the order in which they are evaluated.

    Parameters
    ----------
    model : Model

    Returns
    -------
    list of Component
    """
    order, required = _private(model, "_component_order"), _private(model, "_dependencies")
    return [
        Component(one, place is not None, [*one.input_params, *sorted(params - {*one.input_params})], required[one])
        for (one, place), params in zip(order.items(), _private(model, "_params_of_dependencies"), strict=True)
    ]


def input_functions(model: Model) -> dict[str, tuple[Callable, list[str]]]:
    """Return input parameters that are functions of sampled ones, in an order in which they can be evaluated.

    Parameters
    ----------
    model : Model

    Returns
    -------
    dict of name to (function, names of its arguments)
    """
    wrapped = _private(model.parameterization, "_wrapped_input_funcs")
    return {name: (function, list(arguments)) for name, (function, arguments, _) in wrapped.items()}


def likelihood_arguments(likelihood: LikelihoodExternalFunction) -> set[str] | None:
    """Return the parameters of the function of an external likelihood; None if it uses products of theories as well.

    Parameters
    ----------
    likelihood : LikelihoodExternalFunction

    Returns
    -------
    set of str, or None
    """
    return None if _private(likelihood, "_uses_self_arg") else _private(likelihood, "_args")


def append_draws(collection: SampleCollection, other: SampleCollection) -> None:
    """Append the draws of another collection of the same model to a collection.

    Parameters
    ----------
    collection, other : SampleCollection
    """
    _private(collection, "_append")(other)


def _private(owner: object, name: str) -> Any:
    try:
        return getattr(owner, name)
    except AttributeError:
        message = "Cobaya %s has no %s.%s, which this package needs. It was tried with Cobaya %s: install one of these."
        where = type(owner).__name__
        raise LoggedError(get_logger("iaemu_cobaya"), message, cobaya.__version__, where, name, TRIED) from None
