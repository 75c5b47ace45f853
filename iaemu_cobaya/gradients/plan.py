"""Find which parts of a Cobaya model are called with tensors, in which order and with which parameters."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from logging import Logger
from typing import Any, NamedTuple

import numpy as np
import torch
from cobaya.likelihood import LikelihoodExternalFunction
from cobaya.log import LoggedError
from cobaya.model import Model

from iaemu_cobaya.gradients import cobaya_internals
from iaemu_cobaya.gradients.reference import Reference
from iaemu_cobaya.gradients.torch_functions import TorchFunction

_N_EXAMPLES = 4


class Function(NamedTuple):
    """A function of a user and the names of its arguments."""

    call: TorchFunction
    arguments: tuple[str, ...]


class Step(NamedTuple):
    """A component, the names of its parameters, whether they vary, and the function if it is an external likelihood."""

    component: Any
    params: list[str]
    varies: bool
    function: Function | None = None


@dataclass
class Plan:
    """The parts of a model that are called, in the order of evaluation.

    Attributes
    ----------
    constants : dict of parameter to float
    functions : dict of parameter to Function
    external_priors : dict of prior to Function, or to float if it is constant
    theories : list of Step
        Theories with ``forward_torch``.
    likelihoods : list of Step
        Likelihoods that vary.
    constant_likelihoods : dict of likelihood to float
    """

    constants: dict[str, float]
    functions: dict[str, Function] = field(default_factory=dict)
    external_priors: dict[str, Function | float] = field(default_factory=dict)
    theories: list[Step] = field(default_factory=list)
    likelihoods: list[Step] = field(default_factory=list)
    constant_likelihoods: dict[str, float] = field(default_factory=dict)


def make_plan(model: Model, reference: Reference, rng: np.random.Generator, log: Logger) -> Plan:
    """Find the parts of a model that are called, and those that are constant.

    Parameters
    ----------
    model : Model
    reference : Reference
        Draws points at which functions of the user are tried, and constant components are evaluated.
    rng : Generator
    log : Logger

    Returns
    -------
    Plan

    Raises
    ------
    LoggedError
        Components have no gradient. The message names them, and the parameters on which they depend.
    """
    order = cobaya_internals.evaluation_order(model)
    params = {one.component: one.params for one in order}
    fed = {component: sampled_among(model, names) for component, names in params.items()}
    likelihoods = [one.component for one in order if one.is_likelihood]
    varying = [like for like in likelihoods if fed[like]]
    needed = set().union(*(one.required for one in order if one.component in varying))
    theories = [component for component in params if component in needed]
    missing = [like for like in varying if not _differentiable_likelihood(like)]
    missing += [theory for theory in theories if fed[theory] and not _has(theory, "forward_torch")]
    _refuse({component: fed[component] for component in missing}, model, log)
    plan = Plan(model.parameterization.constant_params())
    plan.theories = [Step(one, params[one], bool(fed[one])) for one in theories if _has(one, "forward_torch")]
    used = {name for like in varying for name in params[like]}.union(model.prior.external_dependence)
    external = {like: params[like] for like in varying if isinstance(like, LikelihoodExternalFunction)}
    calls = _plan_functions(plan, model, used, external, reference, rng, log)
    _refuse({like: fed[like] for like, function in calls.items() if not function.call.takes_tensors}, model, log)
    plan.likelihoods = [Step(like, params[like], True, calls.get(like)) for like in varying]
    if not all(fed[component] for component in [*likelihoods, *theories]):
        # This also evaluates the constant theories, so that likelihoods find their products.
        reference.draw(rng)
        plan.constant_likelihoods = {like.get_name(): float(like.current_logp) for like in likelihoods if not fed[like]}
    return plan


def _plan_functions(plan: Plan, model, used, external, reference, rng, log) -> dict[Any, Function]:
    """Add the user's functions for ``used`` parameters and external priors to the plan; return those of likelihoods."""
    dependencies = model.parameterization.input_dependencies
    used = used | {name for p in used for name in dependencies.get(p, ())}
    functions = {name: one for name, one in cobaya_internals.input_functions(model).items() if name in used}
    if not (functions or model.prior.external or external):
        return {}
    points = torch.as_tensor(np.array([reference.draw(rng, finite=False) for _ in range(_N_EXAMPLES)]))
    sampled = model.parameterization.sampled_params()
    values: dict[str, Any] = {**plan.constants, **dict(zip(sampled, points.unbind(dim=1), strict=True))}

    def as_torch(function, arguments, label) -> Function:
        examples = {p: values[p].detach() if isinstance(values[p], torch.Tensor) else values[p] for p in arguments}
        return Function(TorchFunction(function, label, log, examples), tuple(arguments))

    for name, (function, arguments) in functions.items():
        plan.functions[name] = as_torch(function, arguments, f"the parameter {name}")
        values[name] = plan.functions[name].call(**{p: values[p] for p in arguments})
    for name, prior in model.prior.external.items():
        if sampled_among(model, prior.params):
            plan.external_priors[name] = as_torch(prior.logp, prior.params, f"the external prior {name}")
        else:
            plan.external_priors[name] = float(prior.logp(**{p: values[p] for p in prior.params}))
    calls = {}
    for like, names in external.items():
        taken = cobaya_internals.likelihood_arguments(like) or ()
        arguments = [p for p in names if p in taken]
        calls[like] = as_torch(like.external_function, arguments, f"the likelihood {like.get_name()}")
    return calls


def sampled_among(model: Model, names: Collection[str]) -> list[str]:
    """Return the sampled parameters among ``names``, and those on which ``names`` depend.

    Parameters
    ----------
    model : Model
    names : collection of str

    Returns
    -------
    list of str
    """
    dependencies = model.parameterization.input_dependencies
    feeding = {*names}.union(*(dependencies.get(name, ()) for name in names))
    return [name for name in model.parameterization.sampled_params() if name in feeding]


def _refuse(missing: Mapping[Any, list[str]], model: Model, log: Logger) -> None:
    """Raise an error that names components without a gradient and their parameters, if there are any."""
    if not missing:
        return
    parts = []
    for component, parameters in missing.items():
        if isinstance(component, LikelihoodExternalFunction):
            lacks = "a function that does not accept tensors"
        else:
            lacks = f"no {'logp_torch' if _is_likelihood(component) else 'forward_torch'}"
        parts.append(f"{component.get_name()} ({lacks}; depends on {', '.join(parameters)})")
    sampled = list(model.parameterization.sampled_params())
    raise LoggedError(
        log,
        "No gradient of: %s. Use 'sampler: mcmc'; or fix %s; or set 'gradient: finite_difference', at the cost of "
        "%d evaluations of the model for each gradient.",
        "; ".join(parts),
        ", ".join(name for name in sampled if any(name in fed for fed in missing.values())),
        2 * len(sampled),
    )


def _has(component, method: str) -> bool:
    return callable(getattr(component, method, None))


def _is_likelihood(component) -> bool:
    return isinstance(getattr(type(component), "current_logp", None), property)


def _differentiable_likelihood(like) -> bool:
    """Return whether a likelihood may have a gradient; whether a function accepts tensors is tested later."""
    if isinstance(like, LikelihoodExternalFunction):
        return cobaya_internals.likelihood_arguments(like) is not None and not like.output_params
    return _has(like, "logp_torch")
