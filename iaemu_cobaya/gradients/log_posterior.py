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

import numbers
from collections.abc import Mapping

import numpy as np
import torch
from cobaya.likelihood import LikelihoodExternalFunction
from cobaya.log import HasLogger, LoggedError
from torch.autograd.function import once_differentiable

from iaemu_cobaya.gradients.torch_functions import RejectedRows, TorchFunction, differences
from iaemu_cobaya.gradients.torch_prior import TorchPrior

__all__ = ["GRADIENTS", "LogPosterior", "RejectedRows"]

GRADIENTS = ("auto", "autograd", "finite_difference")

#: Step of differences of Cobaya's log-posterior, in the scale of each parameter: large against the noise of its value,
#: small against the width of a posterior.
STEP = 1e-3

#: Agreement that the self-check asks for: of log-densities, and of slopes in the scale of each parameter.
VALUE_TOLERANCE = 1e-7
SLOPE_TOLERANCE = 1e-4

_MAX_TRIES = 1000
_N_EXAMPLES = 4


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

    Raises
    ------
    LoggedError
        Unknown option; or components without a gradient, named together with the parameters that feed them.
    """

    def __init__(self, model, gradient: str = "auto", rng: np.random.Generator | None = None, scales=None):
        self.set_logger(name="gradient")
        if gradient not in GRADIENTS:
            raise LoggedError(self.log, "gradient: must be one of %s, got '%s'.", ", ".join(GRADIENTS), gradient)
        self.model = model
        self.gradient = "autograd" if gradient == "auto" else gradient
        self.names = tuple(model.parameterization.sampled_params())
        self._prior = TorchPrior(model.prior)
        self.bounds = (self._prior.low.numpy().copy(), self._prior.high.numpy().copy())
        self.scales = self._default_scales() if scales is None else np.asarray(scales, dtype=np.float64)
        if self.scales.shape != (len(self.names),) or not (self.scales > 0).all():
            raise LoggedError(
                self.log, "scales: needs a positive number for each of %s, got %s.", ", ".join(self.names), scales
            )
        self.scales = np.minimum(self.scales, self.bounds[1] - self.bounds[0])
        self._warned_nan = False
        if self.gradient == "autograd":
            self._plan(np.random.default_rng() if rng is None else rng)

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
            raise LoggedError(
                self.log, "Points must have shape (n, %d), for %s; got %s.", len(self.names), self.names, tuple(x.shape)
            )
        inside = self._prior.inside(x)
        evaluate = self._evaluate if self.gradient == "autograd" else self._evaluate_cobaya
        return evaluate(x) if bool(inside.all()) else self._only(inside, x, evaluate)

    # ------------------------------------------------------------------ the model's graph

    def _plan(self, rng) -> None:
        """What is called in which order, with which parameters; and what is constant."""
        model, parameterization = self.model, self.model.parameterization
        dependencies = parameterization.input_dependencies

        def fed_by(names) -> list[str]:
            return [p for p in self.names if any(p == name or p in dependencies.get(name, ()) for name in names)]

        params = {
            component: [*component.input_params, *sorted(required - set(component.input_params))]
            for component, required in zip(model._component_order, model._params_of_dependencies, strict=True)
        }
        fed = {component: fed_by(names) for component, names in params.items()}
        likelihoods = [component for component, index in model._component_order.items() if index is not None]
        needed = set().union(*(model._dependencies.get(like, set()) for like in likelihoods if fed[like]))
        theories = [component for component in params if component in needed]

        self._constants = parameterization.constant_params()
        used = {name for like in likelihoods if fed[like] for name in params[like]}
        used.update(model.prior.external_dependence)
        used |= {name for p in used for name in dependencies.get(p, ())}
        functions = {
            name: (function, list(arguments))
            for name, (function, arguments, _) in parameterization._wrapped_input_funcs.items()
            if name in used
        }
        self._refuse_missing(
            {like: fed[like] for like in likelihoods if fed[like] and not _differentiable_likelihood(like)}
            | {theory: fed[theory] for theory in theories if fed[theory] and not _has(theory, "forward_torch")}
        )

        # (component, names of its parameters, whether they vary), theories in the order of evaluation.
        self._theories = [
            (theory, params[theory], bool(fed[theory])) for theory in theories if _has(theory, "forward_torch")
        ]
        self._kept: dict = {}
        external = [like for like in likelihoods if fed[like] and isinstance(like, LikelihoodExternalFunction)]
        self._functions, self._external_priors = {}, {}
        calls = {}
        if functions or model.prior.external or external:
            values = self._example_values(rng)
            for name, (function, arguments) in functions.items():
                self._functions[name] = self._as_torch(function, arguments, values, f"the parameter {name}"), arguments
                values[name] = self._functions[name][0](**{p: values[p] for p in arguments})
            for name, prior in model.prior.external.items():
                if not fed_by(prior.params):
                    value = float(prior.logp(**{p: values[p] for p in prior.params}))
                    self._external_priors[name] = value, ()
                    continue
                self._external_priors[name] = (
                    self._as_torch(prior.logp, prior.params, values, f"the external prior {name}"),
                    tuple(prior.params),
                )
            for like in external:
                arguments = [p for p in params[like] if p in like._args]
                label = f"the likelihood {like.get_name()}"
                calls[like] = self._as_torch(like.external_function, arguments, values, label), arguments
            self._refuse_missing({like: fed[like] for like, (call, _) in calls.items() if not call.takes_tensors})

        self._likelihoods = [
            (like.get_name(), calls.get(like, (like, None)), params[like], like) for like in likelihoods if fed[like]
        ]
        self._constant_likelihoods = {}
        if any(not fed[component] for component in [*likelihoods, *theories]):
            # Also leaves the constant theories in the state in which likelihoods look them up.
            self._draw(rng)
            self._constant_likelihoods = {
                like.get_name(): float(like.current_logp) for like in likelihoods if not fed[like]
            }

    def _refuse_missing(self, missing: Mapping) -> None:
        if not missing:
            return
        parts = []
        for component, parameters in missing.items():
            if isinstance(component, LikelihoodExternalFunction):
                lacks = "a function that does not take tensors"
            else:
                lacks = f"no {'logp_torch' if _is_likelihood(component) else 'forward_torch'}"
            parts.append(f"{component.get_name()} ({lacks}; fed by {', '.join(parameters)})")
        everything = [name for name in self.names if any(name in fed for fed in missing.values())]
        raise LoggedError(
            self.log,
            "No gradient of: %s. Use 'sampler: mcmc'; or fix %s; or set 'gradient: finite_difference', at the cost of "
            "%d evaluations of the model for each gradient.",
            "; ".join(parts),
            ", ".join(everything),
            2 * len(self.names),
        )

    def _as_torch(self, function, arguments, values, label) -> TorchFunction:
        examples = {
            name: value.detach() if isinstance(value, torch.Tensor) else value
            for name, value in ((p, values[p]) for p in arguments)
        }
        return TorchFunction(function, label, self.log, examples)

    def _example_values(self, rng) -> dict:
        """Sampled parameters as tensors (m,) at points of the reference, and constants."""
        points = np.array([self._reference(rng) for _ in range(_N_EXAMPLES)])
        return {**self._constants, **dict(zip(self.names, torch.as_tensor(points).unbind(dim=1), strict=True))}

    def _values(self, x: torch.Tensor) -> dict:
        values = {**self._constants, **dict(zip(self.names, x.unbind(dim=1), strict=True))}
        for name, (function, arguments) in self._functions.items():
            values[name] = function(**{p: values[p] for p in arguments})
        return values

    # ------------------------------------------------------------------ evaluation

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
        if self._external_priors or self._prior.can_be_zero:
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

    def _priors(self, x, values) -> dict[str, torch.Tensor | float]:
        """Terms by Cobaya's names of the priors."""
        terms = {next(iter(self.model.prior)): self._prior(x)}
        for name, (function, arguments) in self._external_priors.items():
            terms[name] = function(**{p: values[p] for p in arguments}) if callable(function) else function
        return terms

    def _log_likelihoods(self, values) -> dict[str, torch.Tensor | float]:
        """Terms by Cobaya's names of the likelihoods."""
        products: dict = {}
        for theory, params, varies in self._theories:
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
        terms = dict(self._constant_likelihoods)
        for name, (call, arguments), params, like in self._likelihoods:
            if arguments is not None:
                terms[name] = call(**{p: values[p] for p in arguments})
            else:
                terms[name] = like.logp_torch(self._params(like, params, values, products), products)
            if terms[name].shape != values[self.names[0]].shape:
                # Sums over the batch would pass unnoticed for a single point.
                raise LoggedError(
                    self.log,
                    "logp_torch of %s gives the shape %s for %d points: it must give one number for each.",
                    name,
                    tuple(terms[name].shape),
                    len(values[self.names[0]]),
                )
        return terms

    def _params(self, component, names, values, products) -> dict:
        params = {name: values[name] for name in names}
        for name in component.input_params_extra:
            if name in products:
                params[name] = products[name]
                continue
            theory = self.model.provider.requirement_providers[name]
            if any(theory is known.get_provider() for known, _, varies in self._theories if varies):
                raise LoggedError(
                    self.log,
                    "%s requires the parameter %s, which forward_torch of %s does not give. Add it to what that "
                    "returns, or set 'gradient: finite_difference'.",
                    component.get_name(),
                    name,
                    theory,
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
            self.log.warning(
                "The log-density of %s is NaN at %d of %d points: zero likelihood. (Said once.)",
                ", ".join(guilty) or "the priors",
                int(lost.sum()),
                len(total),
            )
        return torch.where(lost, -torch.inf, total)

    def _evaluate_cobaya(self, x: torch.Tensor) -> torch.Tensor:
        return _CobayaRows.apply(x, self)

    def _cobaya(self, points: np.ndarray) -> np.ndarray:
        """Log-posteriors (n,) of Cobaya at points (n, d); -inf for NaN."""
        values = np.array([self.model.logposterior(point, return_derived=False).logpost for point in points])
        return np.where(np.isnan(values), -np.inf, values)

    # ------------------------------------------------------------------ self-check

    def check(self, points=None, rng: np.random.Generator | None = None, n_points: int = 3) -> None:
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
        points = np.array([self._draw(rng) for _ in range(n_points)]) if points is None else np.atleast_2d(points)
        for point in points:
            self._check_point(np.asarray(point, dtype=np.float64))
        with torch.no_grad():
            together = self(torch.as_tensor(points, dtype=torch.float64)).numpy()
        expected = self._cobaya(points)
        if not np.allclose(together, expected, rtol=VALUE_TOLERANCE, atol=VALUE_TOLERANCE):
            raise LoggedError(
                self.log,
                "Log-posteriors of %d points evaluated together are %s, by Cobaya %s: in a forward_torch or logp_torch "
                "rows depend on one another. Correct it, or set 'gradient: finite_difference'.",
                len(points),
                together,
                expected,
            )

    def _check_point(self, point) -> None:
        x = torch.as_tensor(point)[None].clone().requires_grad_()
        expected = self._cobaya_terms(point)
        with torch.enable_grad():
            values = self._values(x)
            try:
                terms = {("prior", name): term for name, term in self._priors(x, values).items()}
                terms.update({("likelihood", name): term for name, term in self._log_likelihoods(values).items()})
            except RejectedRows as rejected:
                raise LoggedError(
                    self.log,
                    "At %s the log-posterior of Cobaya is finite, %.10g, but forward_torch rejects the point: correct "
                    "it, or set 'gradient: finite_difference'.",
                    self._describe(point),
                    sum(expected.values()),
                ) from rejected
            slopes = {}
            for key, term in terms.items():
                slope = None
                if isinstance(term, torch.Tensor) and term.requires_grad:
                    (slope,) = torch.autograd.grad(term.sum(), x, retain_graph=True, allow_unused=True)
                slopes[key] = np.zeros(len(point)) if slope is None else slope[0].numpy()
        for key, term in terms.items():
            value = float(torch.as_tensor(term).detach().sum())
            if not abs(value - expected[key]) <= VALUE_TOLERANCE * max(1.0, abs(expected[key])):
                self._refuse(key, f"is {value:.10g}, Cobaya's own {expected[key]:.10g}", point)
        for index in range(len(point)):
            self._check_slopes(point, index, expected, slopes)

    def _check_slopes(self, point, index, centre, slopes) -> None:
        """Slopes in the scale of the parameter against Richardson's extrapolation of differences."""
        scale = self.scales[index]
        for step in (10.0 * STEP, STEP, 0.1 * STEP):
            found = []
            for size in (step, 0.5 * step):
                ends = [self._cobaya_terms(self._moved(point, index, sign * size * scale)) for sign in (1.0, -1.0)]
                found.append(
                    {key: (ends[0].get(key, np.nan) - ends[1].get(key, np.nan)) / (2 * size) for key in centre}
                )
            coarse, fine = found
            if all(np.isfinite(value) for value in (*coarse.values(), *fine.values())):
                error = {key: abs(fine[key] - coarse[key]) for key in centre}
                if all(error[key] <= 0.01 * max(1.0, abs(fine[key])) for key in centre):
                    break
        else:
            self.log.debug("Not checked: the slope with %s at %s.", self.names[index], self._describe(point))
            return
        for key, value in centre.items():
            expected = (4.0 * fine[key] - coarse[key]) / 3.0
            slope = slopes[key][index] * scale
            allowed = SLOPE_TOLERANCE * abs(expected) + error[key] + 1e-6 * max(1.0, abs(value))
            if not abs(slope - expected) <= allowed:
                self._refuse(
                    key,
                    f"has the slope {slope / scale:.8g} with {self.names[index]}, by differences of Cobaya's own "
                    f"{expected / scale:.8g}",
                    point,
                )

    def _moved(self, point, index, amount):
        moved = point.copy()
        moved[index] += amount
        return moved

    def _cobaya_terms(self, point) -> dict:
        """Terms by (kind, name) of Cobaya; empty out of bounds."""
        result = self.model.logposterior(point, return_derived=False)
        if not np.isfinite(result.logpost):
            return {}
        terms = {("prior", name): float(v) for name, v in zip(self.model.prior, result.logpriors, strict=True)}
        order = {like.get_name() for like, index in self.model._component_order.items() if index is not None}
        likes = zip(self.model.likelihood, result.loglikes, strict=True)
        # The likelihood "one" of Cobaya is no component that is evaluated.
        terms.update({("likelihood", name): float(v) for name, v in likes if name in order})
        return terms

    def _refuse(self, key, difference: str, point) -> None:
        kind, name = key
        if kind == "prior":
            what = "product of the 1-d priors" if name == next(iter(self.model.prior)) else f"external prior {name}"
        else:
            what = f"log-likelihood of {name}"
        raise LoggedError(
            self.log,
            "The %s, in the form that has gradients, %s at %s. Correct logp_torch or the forward_torch of what it "
            "requires, or set 'gradient: finite_difference'.",
            what,
            difference,
            self._describe(point),
        )

    def _describe(self, point) -> str:
        return ", ".join(f"{name} = {value:.10g}" for name, value in zip(self.names, point, strict=True))

    # ------------------------------------------------------------------ points and scales

    def _draw(self, rng) -> np.ndarray:
        """A point of the reference with finite log-posterior."""
        for _ in range(_MAX_TRIES):
            point = self._reference(rng)
            if np.isfinite(self._cobaya(point[None])[0]):
                return point
        raise LoggedError(
            self.log,
            "No point of finite log-posterior in %d draws of the reference: give the sampled parameters a 'ref' in the "
            "region that the model supports.",
            _MAX_TRIES,
        )

    def _reference(self, rng) -> np.ndarray:
        """A draw of the reference; of positive prior, different from the next one also if the reference is a point."""
        prior = self.model.prior
        pointlike = np.array([isinstance(ref, numbers.Real) and not np.isnan(ref) for ref in prior.ref_pdf])
        for _ in range(_MAX_TRIES):
            point = prior.reference(max_tries=_MAX_TRIES, warn_if_no_ref=False, random_state=rng)
            point[pointlike] += 0.3 * (self.scales * rng.standard_normal(len(point)))[pointlike]
            # Not at an edge, where differences are one-sided.
            margin = 0.02 * self.scales
            low, high = self.bounds
            if ((point > low + margin) & (point < high - margin)).all() and prior.logp(point) > -np.inf:
                return point
        raise LoggedError(
            self.log,
            "No point within the prior in %d draws of the reference: widen the prior or the 'ref'.",
            _MAX_TRIES,
        )

    def _default_scales(self) -> np.ndarray:
        prior = self.model.prior
        proposals = self.model.parameterization.get_sampled_params_proposals()
        scales = []
        for name, pdf, reference in zip(self.names, prior.pdf, prior.ref_pdf, strict=True):
            candidates = [proposals.get(name) or np.nan]
            candidates.append(float(reference.std()) if hasattr(reference, "std") else np.nan)
            candidates += [float(pdf.std()), 0.5 * float(np.diff(pdf.interval(0.68))[0]), 1.0]
            scale = next(value for value in candidates if np.isfinite(value) and value > 0)
            low, high = pdf.interval(1)
            scales.append(min(scale, high - low))
        return np.array(scales)


class _CobayaRows(torch.autograd.Function):
    """Cobaya's log-posterior, point by point, with central differences for a gradient."""

    @staticmethod
    def forward(ctx, x, density):
        ctx.density, ctx.points = density, x.detach().numpy().copy()
        values = density._cobaya(ctx.points)
        ctx.finite = np.isfinite(values)
        return torch.as_tensor(values)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        density = ctx.density
        slopes = np.zeros_like(ctx.points)
        if ctx.finite.any():
            points = ctx.points[ctx.finite]
            slopes[ctx.finite] = differences(density._cobaya, points, STEP * density.scales, density.bounds)
        return grad[:, None] * torch.as_tensor(slopes), None


def _has(component, method: str) -> bool:
    return callable(getattr(component, method, None))


def _is_likelihood(component) -> bool:
    return isinstance(getattr(type(component), "current_logp", None), property)


def _differentiable_likelihood(like) -> bool:
    """Whether it may have a gradient; that a function takes tensors is found out later."""
    if isinstance(like, LikelihoodExternalFunction):
        return not like._uses_self_arg and not like.output_params
    return _has(like, "logp_torch")
