"""The log-posterior of a Cobaya model as a differentiable function of batches of points.

:mod:`iaemu_cobaya.gradients` describes what theories and likelihoods need for this.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from cobaya.log import HasLogger, LoggedError
from cobaya.model import Model

from iaemu_cobaya.gradients.check import check_points
from iaemu_cobaya.gradients.cobaya_values import NumericalLogPosterior, Term
from iaemu_cobaya.gradients.limits import transform_of
from iaemu_cobaya.gradients.plan import Function, Plan, make_plan
from iaemu_cobaya.gradients.reference import Reference
from iaemu_cobaya.gradients.torch_functions import RejectedRows
from iaemu_cobaya.gradients.torch_prior import TorchPrior

__all__ = ["GRADIENTS", "LogPosterior", "RejectedRows"]

GRADIENTS = ("auto", "autograd", "finite_difference")


class LogPosterior(HasLogger):
    """Log-posterior of a Cobaya model at batches of points, ``model.logposterior(x).logpost``, with gradient.

    Parameters
    ----------
    model : cobaya.model.Model
    gradient : "auto", "autograd" or "finite_difference"
        ``autograd`` or ``auto``: automatic differentiation, for which components need methods of their own, see
        :mod:`iaemu_cobaya.gradients`. ``finite_difference``: Cobaya's log-posterior, point by point, and its central
        differences. This works for every model, but a gradient takes 2 d evaluations for d parameters.
    rng : numpy.random.Generator, optional
        Draws the points at which functions of the user are tried, and constant components are evaluated.
    scales : array (d,), optional
        Typical widths of the posterior in each parameter, for example from a covariance matrix. Numerical derivatives
        use steps of a thousandth of them. By default the widths of the proposals, otherwise of the reference
        distribution, otherwise of the prior.

    Attributes
    ----------
    names : tuple of str
        Sampled parameters, in the order of the columns of x.
    bounds : pair of arrays (d,)
        Lower and upper limits of the prior, infinite if there is none.
    transform : Transform
        Unbounded coordinates of the points within the bounds, or of a smaller region outside which the theories reject
        all points.
    scales : array (d,)
    gradient : str
        ``autograd`` or ``finite_difference``.
    reference : Reference
        Draws points from the reference distribution.
    plan : Plan
        What is evaluated, with ``autograd``.

    Raises
    ------
    LoggedError
        An option is not valid, or components have no gradient; the message names them and the parameters on which they
        depend.
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
            raise LoggedError(self.log, "gradient: must be one of %s; got '%s'.", ", ".join(GRADIENTS), gradient)
        self.model = model
        self.gradient = "autograd" if gradient == "auto" else gradient
        self.names = tuple(model.parameterization.sampled_params())
        self._prior = TorchPrior(model.prior)
        self.bounds = (self._prior.low.numpy().copy(), self._prior.high.numpy().copy())
        self.reference = Reference(model, self.bounds, scales, self.log)
        self.scales = self.reference.scales
        self._warned_nan = False
        self._kept: dict[Any, dict] = {}  # results of theories that are constant
        if self.gradient == "autograd":
            self.plan = make_plan(model, self.reference, np.random.default_rng() if rng is None else rng, self.log)
        plan = self.plan if self.gradient == "autograd" else None
        self.transform = transform_of(model, plan, self.bounds, self.log)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Return the log-posterior densities of a batch of points.

        Parameters
        ----------
        x : tensor (n, d), float64
            Sampled parameters, in the order of ``names``.

        Returns
        -------
        tensor (n,)
            -inf, with zero gradient, outside the bounds, where components reject the point, and for NaN. A row does not
            depend on the others.
        """
        x = torch.as_tensor(x, dtype=torch.float64)
        if x.ndim != 2 or x.shape[1] != len(self.names):
            message = "Points must have shape (n, %d), for %s; got %s."
            raise LoggedError(self.log, message, len(self.names), self.names, tuple(x.shape))
        inside = self._prior.inside(x)
        evaluate = self._evaluate if self.gradient == "autograd" else self._numerical
        return evaluate(x) if bool(inside.all()) else self._only(inside, x, evaluate)

    def prepare(self, x: np.ndarray) -> None:
        """Let theories compute many points at once, for which Cobaya will be asked one after the other.

        Parameters
        ----------
        x : array (n, d)
        """
        if self.gradient != "autograd":
            return
        # Cobaya's own functions of the user: their rounding must not differ. It returns the same dictionary each time.
        rows = [dict(self.model.parameterization.to_input(point)) for point in x]
        for theory, params, varies, _ in self.plan.theories:
            known = all(name in rows[0] for name in params) if rows else False
            if varies and known and callable(getattr(theory, "prepare", None)):
                theory.prepare({name: np.array([row[name] for row in rows], dtype=np.float64) for name in params})

    def terms(self, x: torch.Tensor) -> dict[Term, torch.Tensor | float]:
        """Return the terms whose sum is the log-posterior, with ``autograd``.

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
            Points have zero likelihood.
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
            Where to compare. By default, points of positive posterior from the reference distribution; a parameter with
            a single number as reference is moved by a fraction of its scale.
        rng : numpy.random.Generator, optional
        n_points : int
            Number of points to draw.

        Raises
        ------
        LoggedError
            The two differ (the message names the prior or likelihood, the point, and both numbers), or no point was
            found.
        """
        if self.gradient == "finite_difference":
            return
        rng = np.random.default_rng() if rng is None else rng
        if points is None:
            points = np.array([self.reference.draw(rng) for _ in range(n_points)])
        check_points(self, np.atleast_2d(points))

    def _only(self, keep: torch.Tensor, x: torch.Tensor, evaluate) -> torch.Tensor:
        """Return ``evaluate`` for the rows to keep, and -inf for the others, which are not evaluated."""
        rows = keep.nonzero().squeeze(1)
        part = x[rows]
        # Without any rows, the result must still be part of the graph, with a gradient of zero.
        values = evaluate(part) if len(rows) else part.sum(dim=1)
        return x.new_full((len(x),), -torch.inf).index_put((rows,), values)

    def _evaluate(self, x: torch.Tensor) -> torch.Tensor:
        """Return the sum of all terms at points (n, d) within the bounds."""
        guarded = x.view_as(x)
        values = self._values(guarded)
        total = sum(self._priors(guarded, values).values())
        # As in Cobaya, likelihoods are not evaluated at points of zero prior.
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
            total = total + 0.0 * guarded.sum(dim=1)  # a constant has a gradient of zero
        if np.isfinite(float(total.detach().sum())):  # one operation where isfinite().all() takes five
            return total
        finite = torch.isfinite(total.detach())
        if guarded.requires_grad:
            # Going back, zero times infinity would be NaN.
            guarded.register_hook(lambda slope: torch.where(finite[:, None], slope, 0.0))
        return self._without_nan(total, terms)

    def _values(self, x: torch.Tensor) -> dict:
        """Return all input parameters by name: tensors (n,) and constants."""
        values = {**self.plan.constants, **dict(zip(self.names, x.unbind(dim=1), strict=True))}
        for name, function in self.plan.functions.items():
            values[name] = _call(function, values)
        return values

    def _priors(self, x, values) -> dict[str, torch.Tensor | float]:
        """Return the terms by Cobaya's names of the priors."""
        terms = {next(iter(self.model.prior)): self._prior(x)}
        for name, prior in self.plan.external_priors.items():
            terms[name] = _call(prior, values) if isinstance(prior, Function) else prior
        return terms

    def _log_likelihoods(self, values) -> dict[str, torch.Tensor | float]:
        """Return the terms by Cobaya's names of the likelihoods."""
        products: dict = {}
        for theory, params, varies, _ in self.plan.theories:
            if not varies and theory in self._kept:
                products.update(self._kept[theory])
                continue
            given = theory.forward_torch(self._params(theory, params, values, products), products)
            # If several theories can provide a product, Cobaya has chosen one.
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
                # A sum over the batch would not be noticed for a single point.
                message = "logp_torch of %s returned shape %s for %d points. It must return one number for each point."
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
                    "%s requires the parameter %s, which forward_torch of %s does not return. Add it to the returned "
                    "dictionary, or set 'gradient: finite_difference'.",
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
            message = (
                "The log-density of %s is NaN at %d of %d points, which get zero likelihood. (This is not repeated.)"
            )
            self.log.warning(message, ", ".join(guilty) or "the priors", int(lost.sum()), len(total))
        return torch.where(lost, -torch.inf, total)

    def _numerical(self, x: torch.Tensor) -> torch.Tensor:
        return NumericalLogPosterior.apply(x, self.model, self.scales, self.bounds)


def _call(function: Function, values) -> torch.Tensor:
    return function.call(**{name: values[name] for name in function.arguments})
