"""Cobaya's private names: all that this package uses are here, each in one small function.

Cobaya has no public way to ask what its components depend on, in which order they are evaluated, or for the functions
behind parameters. Where another version calls one of these otherwise, the error says which.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import cobaya
from cobaya.collection import SampleCollection
from cobaya.likelihood import LikelihoodExternalFunction
from cobaya.log import LoggedError, get_logger
from cobaya.model import Model
from cobaya.parameterization import Parameterization
from cobaya.theory import Theory

#: Versions of Cobaya with which the tests pass.
TRIED = "3.5 to 3.6.2"


def evaluation_order(model: Model) -> dict[Theory, int | None]:
    """The components that are evaluated, in this order, each with its place among the likelihoods; None for theories.

    Parameters
    ----------
    model : Model

    Returns
    -------
    dict of component to int or None
    """
    return _private(model, "_component_order")


def component_parameters(model: Model) -> dict[Theory, list[str]]:
    """Input parameters that the result of each component depends on: its own first, then those of what it requires.

    Parameters
    ----------
    model : Model

    Returns
    -------
    dict of component to list of str
    """
    required = zip(evaluation_order(model), _private(model, "_params_of_dependencies"), strict=True)
    return {
        component: [*component.input_params, *sorted(names - {*component.input_params})]
        for component, names in required
    }


def required_components(model: Model, component: Theory) -> set[Theory]:
    """The theories that a component requires, directly or through others.

    Parameters
    ----------
    model : Model
    component : Theory

    Returns
    -------
    set of Theory
    """
    return _private(model, "_dependencies").get(component, set())


def input_functions(parameterization: Parameterization) -> dict[str, tuple[Callable, list[str]]]:
    """Input parameters that are functions of sampled ones, in an order in which they can be evaluated.

    Parameters
    ----------
    parameterization : Parameterization

    Returns
    -------
    dict of name to (function, names of its arguments)
    """
    wrapped = _private(parameterization, "_wrapped_input_funcs")
    return {name: (function, list(arguments)) for name, (function, arguments, _) in wrapped.items()}


def likelihood_arguments(likelihood: LikelihoodExternalFunction) -> set[str]:
    """Parameters that the function of an external likelihood takes.

    Parameters
    ----------
    likelihood : LikelihoodExternalFunction

    Returns
    -------
    set of str
    """
    return _private(likelihood, "_args")


def asks_for_itself(likelihood: LikelihoodExternalFunction) -> bool:
    """Whether the function of an external likelihood takes ``_self``, from which it has products of theories.

    Parameters
    ----------
    likelihood : LikelihoodExternalFunction

    Returns
    -------
    bool
    """
    return _private(likelihood, "_uses_self_arg")


def append_draws(collection: SampleCollection, other: SampleCollection) -> None:
    """Put the draws of another collection of the same model at the end of a collection.

    Parameters
    ----------
    collection, other : SampleCollection
    """
    _private(collection, "_append")(other)


def _private(owner: object, name: str) -> Any:
    try:
        return getattr(owner, name)
    except AttributeError:
        raise LoggedError(
            get_logger("iaemu_cobaya"),
            "Cobaya %s has no %s.%s, which this package needs. It was tried with Cobaya %s: install one of these.",
            cobaya.__version__,
            type(owner).__name__,
            name,
            TRIED,
        ) from None
