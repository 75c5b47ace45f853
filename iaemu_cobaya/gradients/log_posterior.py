"""The log-posterior of a Cobaya model as a differentiable function of batches of points: for samplers with gradients.

::

    density = LogPosterior(get_model(info))
    density.check()                                    # against Cobaya's own log-posterior
    x = torch.tensor(points, requires_grad=True)       # (n, d), in the order of density.names
    (gradient,) = torch.autograd.grad(density(x).sum(), x)

Cobaya has no interface for gradients. The classes of this package have two methods more than Cobaya asks for, and so
may those of anybody else, who need not import anything from here but :class:`RejectedRows`:

Theory: ``forward_torch(params, products) -> {product: anything}``
    ``params`` holds its input parameters by name: float64 tensors (n,), and plain floats for those that are constant.
    ``products`` holds what the theories that it requires have returned. What it returns goes to those that require
    *it*: products in any form that both sides agree on, and derived parameters that others require as tensors (n,).
    Points of zero likelihood, where ``calculate`` would return False: raise ``RejectedRows(rows)``; the call is
    repeated without these rows.

Likelihood: ``logp_torch(params, products) -> tensor (n,)``
    The same parameters, and all products of the theories that it requires. Row i depends on row i alone.

Components that no sampled parameter feeds are constants. Their likelihoods are evaluated once, through Cobaya; such
a theory needs no ``forward_torch``, since the others find its products with their ``provider``, as ever.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from cobaya.log import HasLogger, LoggedError
from cobaya.model import Model

from iaemu_cobaya.gradients.check import check_points
from iaemu_cobaya.gradients.cobaya_values import NumericalLogPosterior, Term
from iaemu_cobaya.gradients.plan import Function, Plan, make_plan
from iaemu_cobaya.gradients.reference import Reference
from iaemu_cobaya.gradients.torch_functions import RejectedRows
from iaemu_cobaya.gradients.torch_prior import TorchPrior

__all__ = ["GRADIENTS", "LogPosterior", "RejectedRows"]

GRADIENTS = ("auto", "autograd", "finite_difference")


class LogPosterior(HasLogger):
    """``model.logposterior(x).logpost`` of a batch of points, with gradient.

    Parameters
    ----------
    model : cobaya.model.Model
    gradient : "auto", "autograd" or "finite_difference"
        ``autograd`` (as ``auto``): through the components, which must offer it, see the module.
        ``finite_difference``: values of Cobaya, point by point, and central differences of them; for any model, at the
        cost of 2 d evaluations for each gradient.
    rng : numpy.random.Generator, optional
        For points at which functions of the user are tried, and constants evaluated.
    scales : array (d,), optional
        Typical widths of the posterior in each parameter, e.g. from a covariance matrix: steps of differences are
        a thousandth of them. By default the proposal widths, else those of the reference, else those of the prior.

    Attributes
    ----------
    names : tuple of str
        Sampled parameters, in the order of the columns of x.
    bounds : pair of arrays (d,)
        Lower and upper limits of the prior, infinite where open.
    scales : array (d,)
    gradient : str
        ``autograd`` or ``finite_difference``.
    reference : Reference
        Points of the model's reference.
    plan : Plan
        What is called, with ``autograd``.

    Raises
    ------
    LoggedError
        Unknown option; or components without a gradient, named together with the parameters that feed them.
    """

    plan: Plan

    def __init__(
        self,
        model: Model,
        gradient: str = "auto",
        rng: np.random.Generator | None = None,
        scales: np.ndarray | None = None,
    ):
        self.set_logger(name="gradient")
        if gradient not in GRADIENTS:
            raise LoggedError(self.log, "gradient: must be one of %s, got '%s'.", ", ".join(GRADIENTS), gradient)
        self.model = model
        self.gradient = "autograd" if gradient == "auto" else gradient
        self.names = tuple(model.parameterization.sampled_params())
        self._prior = TorchPrior(model.prior)
        self.bounds = (self._prior.low.numpy().copy(), self._prior.high.numpy().copy())
        self.reference = Reference(model, self.bounds, scales, self.log)
        self.scales = self.reference.scales
        self._warned_nan = False
        self._kept: dict[Any, dict] = {}  # what theories that do not vary have returned
        if self.gradient == "autograd":
            self.plan = make_plan(model, self.reference, np.random.default_rng() if rng is None else rng, self.log)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Log-posterior densities of a batch of points.

        Parameters
        ----------
        x : tensor (n, d), float64
            Sampled parameters, in the order of ``names``.

        Returns
        -------
        tensor (n,)
            -inf, with zero gradient, out of bounds, where components reject the point, and for NaN. Each row is what it
            would be alone.
        """
        x = torch.as_tensor(x, dtype=torch.float64)
        if x.ndim != 2 or x.shape[1] != len(self.names):
            message = "Points must have shape (n, %d), for %s; got %s."
            raise LoggedError(self.log, message, len(self.names), self.names, tuple(x.shape))
        inside = self._prior.inside(x)
        evaluate = self._evaluate if self.gradient == "autograd" else self._numerical
        return evaluate(x) if bool(inside.all()) else self._only(inside, x, evaluate)

    def terms(self, x: torch.Tensor) -> dict[Term, torch.Tensor | float]:
        """The terms whose sum is the log-posterior, with ``autograd``.

        Parameters
        ----------
        x : tensor (n, d), float64
            Points within the bounds.

        Returns
        -------
        dict of Term to tensor (n,), or to one number for all points

        Raises
        ------
        RejectedRows
            Points of zero likelihood.
        """
        values = self._values(x)
        terms = {("prior", name): term for name, term in self._priors(x, values).items()}
        return terms | {("likelihood", name): term for name, term in self._log_likelihoods(values).items()}

    def check(
        self, points: np.ndarray | None = None, rng: np.random.Generator | None = None, n_points: int = 3
    ) -> None:
        """Compare values and gradient with Cobaya's own log-posterior, term by term.

        Parameters
        ----------
        points : array (n, d), optional
            Where; by default drawn from the reference, again where the posterior is zero. A parameter with a number as
            reference is moved by about its scale.
        rng : numpy.random.Generator, optional
        n_points : int
            How many to draw.

        Raises
        ------
        LoggedError
            They differ; names the prior or likelihood, the point, and both numbers. Or no point was found.
        """
        if self.gradient == "finite_difference":
            return
        rng = np.random.default_rng() if rng is None else rng
        if points is None:
            points = np.array([self.reference.draw(rng) for _ in range(n_points)])
        check_points(self, np.atleast_2d(points))

    def _only(self, keep: torch.Tensor, x: torch.Tensor, evaluate) -> torch.Tensor:
        """``evaluate`` for the rows to keep, -inf for the others, which nothing gets to see."""
        rows = keep.nonzero().squeeze(1)
        part = x[rows]
        # Also without rows the result belongs to the graph, with a gradient of zero.
        values = evaluate(part) if len(rows) else part.sum(dim=1)
        return x.new_full((len(x),), -torch.inf).index_put((rows,), values)

    def _evaluate(self, x: torch.Tensor) -> torch.Tensor:
        """The sum of all terms at points (n, d) within the bounds."""
        guarded = x.view_as(x)
        values = self._values(guarded)
        total = sum(self._priors(guarded, values).values())
        # As in Cobaya, likelihoods do not get to see points of zero prior.
        if self.plan.external_priors or self._prior.can_be_zero:
            likely = (torch.as_tensor(total, dtype=torch.float64).detach() > -torch.inf).expand(len(x))
            if not bool(likely.all()):
                return self._only(likely, x, self._evaluate)
        try:
            terms = self._log_likelihoods(values)
        except RejectedRows as rejected:
            return self._only(~rejected.rows, x, self._evaluate)
        for term in terms.values():
            total = total + term
        if not isinstance(total, torch.Tensor) or total.requires_grad != guarded.requires_grad:
            total = total + 0.0 * guarded.sum(dim=1)  # a constant, with a gradient of zero
        if np.isfinite(float(total.detach().sum())):  # one operation where isfinite().all() takes five
            return total
        finite = torch.isfinite(total.detach())
        if guarded.requires_grad:
            # Zero times what is not finite, somewhere on the way back, must not end as NaN.
            guarded.register_hook(lambda slope: torch.where(finite[:, None], slope, 0.0))
        return self._without_nan(total, terms)

    def _values(self, x: torch.Tensor) -> dict:
        """All input parameters by name: tensors (n,), and constants."""
        values = {**self.plan.constants, **dict(zip(self.names, x.unbind(dim=1), strict=True))}
        for name, function in self.plan.functions.items():
            values[name] = _call(function, values)
        return values

    def _priors(self, x, values) -> dict[str, torch.Tensor | float]:
        """Terms by Cobaya's names of the priors."""
        terms = {next(iter(self.model.prior)): self._prior(x)}
        for name, prior in self.plan.external_priors.items():
            terms[name] = _call(prior, values) if isinstance(prior, Function) else prior
        return terms

    def _log_likelihoods(self, values) -> dict[str, torch.Tensor | float]:
        """Terms by Cobaya's names of the likelihoods."""
        products: dict = {}
        for theory, params, varies, _ in self.plan.theories:
            if not varies and theory in self._kept:
                products.update(self._kept[theory])
                continue
            given = theory.forward_torch(self._params(theory, params, values, products), products)
            # Of several theories that could give a product, one was asked to.
            provider, providers = theory.get_provider(), self.model.provider.requirement_providers
            given = {name: value for name, value in given.items() if providers.get(name, provider) is provider}
            products.update(given)
            if not varies:
                self._kept[theory] = given
        terms: dict[str, torch.Tensor | float] = {**self.plan.constant_likelihoods}
        for like, params, _, function in self.plan.likelihoods:
            name = like.get_name()
            if function is not None:
                term = _call(function, values)
            else:
                term = like.logp_torch(self._params(like, params, values, products), products)
            if term.shape != values[self.names[0]].shape:
                # Sums over the batch would pass unnoticed for a single point.
                message = "logp_torch of %s gives the shape %s for %d points: it must give one number for each."
                raise LoggedError(self.log, message, name, tuple(term.shape), len(values[self.names[0]]))
            terms[name] = term
        return terms

    def _params(self, component, names, values, products) -> dict:
        params = {name: values[name] for name in names}
        for name in component.input_params_extra:
            if name in products:
                params[name] = products[name]
                continue
            theory = self.model.provider.requirement_providers[name]
            if any(theory is step.component.get_provider() for step in self.plan.theories if step.varies):
                raise LoggedError(
                    self.log,
                    "%s requires the parameter %s, which forward_torch of %s does not give. Add it to what that "
                    "returns, or set 'gradient: finite_difference'.",
                    *(component.get_name(), name, theory),
                )
            params[name] = theory.get_param(name)
        return params

    def _without_nan(self, total, terms):
        lost = torch.isnan(total.detach())
        if not bool(lost.any()):
            return total
        if not self._warned_nan:
            self._warned_nan = True
            guilty = [name for name, term in terms.items() if bool(torch.isnan(torch.as_tensor(term)).any())]
            message = "The log-density of %s is NaN at %d of %d points: zero likelihood. (Said once.)"
            self.log.warning(message, ", ".join(guilty) or "the priors", int(lost.sum()), len(total))
        return torch.where(lost, -torch.inf, total)

    def _numerical(self, x: torch.Tensor) -> torch.Tensor:
        return NumericalLogPosterior.apply(x, self.model, self.scales, self.bounds)


def _call(function: Function, values) -> torch.Tensor:
    return function.call(**{name: values[name] for name in function.arguments})
