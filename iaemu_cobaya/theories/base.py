"""Base of the Cobaya theories, which predict the alignment correlation functions xi(r), omega(r), eta(r) of galaxies.

A likelihood requests what it needs, in its own bins::

    def get_requirements(self):
        return {"ia_omega": {"r_edges": [0.1, 0.151, 0.228]}}     # Mpc/h

    def logp(self, **params):
        omega = self.provider.get_ia_omega(r_edges=[0.1, 0.151, 0.228])    # array (2,)

The products are ``ia_xi``, ``ia_omega`` and ``ia_eta``, and what surveys measure: ``ia_wgg``, ``ia_wgplus`` and the
quadrupole ``ia_xigplus2``. Those are requested in bins of r_p, or at single separations::

    {"ia_wgg": {"rp_edges": [0.1, 0.2, 0.4], "pi_max": 60}, "ia_wgplus": {"rp": [0.15, 0.3], "pi_max": 60}}

and need the shape amplitude, see :meth:`ForwardModelTheory.shape_amplitude`. The error of each prediction is a product
too, such as ``ia_xi_deviations``. Only requested statistics and bins are computed, and several likelihoods can request
different bins. The option ``tag`` adds a suffix to the names (``ia_omega_sample1``), so that a run can have one theory
for each of several galaxy samples.

A request may state the mean redshift of the data, ``{"ia_omega": {"r_edges": ..., "redshift": 0.27}}``. A model of
several redshifts then predicts at that one, unless the option ``redshift`` chooses it.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from typing import Annotated, Any

import numpy as np
import torch
from cobaya.log import LoggedError
from cobaya.theory import Theory
from numpy.typing import ArrayLike

from iaemu import __version__
from iaemu.binning import check_edges
from iaemu.models.base import ForwardModel
from iaemu.models.fixed_occupation import Factored, dense
from iaemu.models.redshifts import TOLERANCE
from iaemu.observables.projected import AMPLITUDE_OF, PROJECTION_OF, Projection
from iaemu.parameters import OCCUPATION_PARAMETERS, POLICIES
from iaemu.ranges import Range
from iaemu.statistics import PROJECTED, STATISTICS
from iaemu_cobaya.gradients.torch_functions import RejectedRows
from iaemu_cobaya.naming import MapsParameters, check_tag, product_name
from iaemu_cobaya.options import ChecksOptions
from iaemu_cobaya.theories.derived import SHAPES, DerivesParameters
from iaemu_cobaya.theories.evaluation import EdgesKey, Evaluation, edges_key
from iaemu_cobaya.theories.prior_checks import compare_prior_with_support, other_cosmology, sampled_cosmology

#: What models predict as products.
PRODUCTS = (*STATISTICS, *PROJECTION_OF)

#: Points that are prepared in one call of the model.
_BATCH = 512


class ForwardModelTheory(DerivesParameters, MapsParameters, ChecksOptions, Theory):
    """Base of the theories. Subclasses load the forward model.

    Attributes
    ----------
    artifact : path, list of path, ForwardModel or None
        The model that predicts. ``cobaya-doc`` describes this and the other options.
    support : str
    param_map : dict
    tag : str
    model : ForwardModel
        The loaded model.
    names : tuple of str
        Names of the model's parameters in this run, in the order of the model.
    """

    artifact: str | os.PathLike | list | tuple | ForwardModel | None
    support: str
    param_map: dict
    tag: str | None
    responsivity: Annotated[float, Range(above=0, at_most=2)] | None

    #: Redshift that the run has chosen, if the theory has such an option.
    _chosen_redshift: float | None = None

    # ------------------------------------------------------------------ set-up

    # Tensors made in a caller's inference mode would not have gradients later.
    @torch.inference_mode(False)
    def initialize(self) -> None:
        """Load the forward model."""
        if self.support not in POLICIES:
            raise LoggedError(self.log, "support: must be one of %s; got '%s'.", ", ".join(POLICIES), self.support)
        self.param_map = dict(self.param_map or {})
        self.tag = check_tag(self.tag, self.log)
        self._products = {product_name(statistic, self.tag): statistic for statistic in PRODUCTS}
        self._deviations = {product_name(statistic, self.tag, deviations=True): statistic for statistic in PRODUCTS}
        self.model = self._general_model = self._load_model()
        self._map_names()
        self._evaluation = Evaluation(self.model, self.names, self.support, self.log, lambda: self.stop_at_error)
        self._varying = set(self.names)
        self._checked = False
        self._warned_box_error = False
        self._asked_redshift: tuple[str, float] | None = None
        self._prepared: dict[tuple[float, ...], dict] = {}

    def _load_model(self) -> ForwardModel:
        if isinstance(self.artifact, ForwardModel):
            return self.artifact
        try:
            return self._load_artifact(self.artifact)
        except (ValueError, OSError) as error:
            what = self.artifact or "the file that comes with the package"
            raise LoggedError(self.log, "artifact: cannot load %s: %s", what, error) from error

    def _load_artifact(self, path) -> ForwardModel:
        raise NotImplementedError

    def get_version(self) -> str:
        """Return the version of the package, which makes the prediction.

        Returns
        -------
        str
        """
        return __version__

    def get_requirements(self) -> dict[str, None]:
        """Return the model's parameters, under their names in this run.

        Returns
        -------
        dict
        """
        return {name: None for name in self.names}

    @property
    def _inputs(self) -> tuple[str, ...]:
        """Names in the run of all parameters on which the products depend."""
        return self.names if self._shape is None else (*self.names, self._shape[0])

    def get_can_provide(self) -> list[str]:
        """Return the names of the products.

        Returns
        -------
        list of str
        """
        return [*self._products, *self._deviations]

    def get_can_provide_methods(self) -> dict:
        """Return the ``get_ia_...`` methods, which exist for products without a tag only.

        Returns
        -------
        dict
        """
        return {} if self.tag else super().get_can_provide_methods()

    def must_provide(self, **requirements: Mapping | None) -> dict[str, Any] | None:
        """Register what a likelihood needs. Cobaya can call this several times.

        Parameters
        ----------
        **requirements : ``ia_xi``, ``ia_omega``, ``ia_eta``: None or {"r_edges": array (n_bins + 1,) or None}
            Bin edges [Mpc/h]; None stands for those of the model. The same holds for ``ia_xi_deviations``, ...
            ``ia_wgg`` and ``ia_wgplus``: {"rp_edges" or "rp": array, "pi_max": float} [Mpc/h]; ``ia_xigplus2``:
            {"r_edges": array}; all three: {"projection": Projection}. Each may have "redshift", that of the data.

        Returns
        -------
        dict or None
            What is needed of other components in turn; None here.

        Raises
        ------
        LoggedError
            There are unknown options, the edges are not valid or not all among those of the model, deviations are
            requested from a model that does not know its error, or the redshift differs from that of other data.
        """
        super().must_provide(**requirements)
        for product, options in requirements.items():
            if product in self._products or product in self._deviations:
                options = dict(options or {})
                self._go_to(options.pop("redshift", None), product)
            if product in self._products:
                key = self._check_request(product, options)
                self._evaluation.requests.setdefault(key, set()).add(self._products[product])
            elif product in self._deviations:
                key = self._check_request(product, options)
                if not self.model.n_deviations:
                    raise LoggedError(
                        self.log,
                        "%s was requested, but this model does not know the error of its predictions. Set "
                        "'emulator_error: False' in the likelihood, or use a model that knows it: the shipped emulator "
                        "or tables, your own model with the option 'box_error' (a file of 'iaemu train box-error'), or "
                        "HalotoolsIA.",
                        product,
                    )
                self._evaluation.deviation_requests.setdefault(key, set()).add(self._deviations[product])
                self._warn_without_box_error()
        return None

    def _go_to(self, redshift: float | None, product: str) -> None:
        """Use the model at the redshift of data, or the nearest to it, unless the run has chosen one."""
        low, high = self._general_model.redshift_range or (0.0, 0.0)
        if self._chosen_redshift is not None or low == high:
            return
        if redshift is None:
            if self._products.get(product) in PROJECTED:
                self.mpi_warning(
                    "The data of %s do not state their redshift, so predictions are at z = %.3g, that of the model. "
                    "Give it to the data ('read_options: {redshift: ...}', or 'redshift' in the header of their file), "
                    "or to the theory (option 'redshift').",
                    product,
                    self.model.redshift or 0.0,
                )
            return
        redshift = min(max(float(redshift), low), high)
        if self._asked_redshift is None:
            self._asked_redshift = product, redshift
            self.model = self._general_model = self._general_model.at_redshift(redshift)
            self._map_names()
            self._evaluation.use(self.model, self.names)
            self.mpi_info("Predictions are at z = %.4g, for the mean redshift of the data (%s).", redshift, product)
        elif abs(redshift - self._asked_redshift[1]) > TOLERANCE:
            raise LoggedError(
                self.log,
                "%s is requested at z = %.4g, and %s at z = %.4g, but a theory has one redshift. Choose it with the "
                "option 'redshift' of the theory, or give each galaxy sample a theory of its own, with the same 'tag' "
                "in theory and likelihood.",
                *self._asked_redshift,
                product,
                redshift,
            )

    def _warn_without_box_error(self) -> None:
        if not self._warned_box_error and self.model.box_error is None:
            self._warned_box_error = True
            self.mpi_warning(
                "The error of the prediction contains the epistemic error of the network only. The box error, due to "
                "the finite halo catalogues that this artifact is made from, is usually larger, but is not known. "
                "Compute it with 'iaemu train box-error', and give the file as the option 'box_error'."
            )

    def _check_request(self, product: str, options: Mapping | None) -> EdgesKey:
        statistic = self._products.get(product) or self._deviations[product]
        try:
            key = _bins_key(statistic, dict(options or {}))
        except ValueError as error:
            raise LoggedError(self.log, "%s: %s", product, error) from error
        if key is None:
            return None
        try:
            self.model.check_bins(key)
        except ValueError as error:
            raise LoggedError(
                self.log,
                "%s was requested in bins that this model cannot give: %s Cut the data with the options r_min and "
                "r_max of the IA likelihoods.",
                product,
                error,
            ) from error
        return key

    def initialize_with_provider(self, provider: Any) -> None:
        """Compare the priors and parameters of the run with the supported region of the model, once.

        Parameters
        ----------
        provider : cobaya.theory.Provider

        Raises
        ------
        LoggedError
            No point of the run is supported by the model.
        """
        super().initialize_with_provider(provider)
        self._simplify(provider.model.parameterization.constant_params())
        self._find_derived(provider)
        # A varying occupation is passed as tensors. If it is passed as numbers, the model caches what depends on it.
        constants = provider.model.parameterization.constant_params()
        occupation = {
            name
            for name, known in zip(self.names, self.model.parameters, strict=True)
            if known in OCCUPATION_PARAMETERS
        }
        self._varying = set() if occupation <= set(constants) else occupation
        if self._checked:
            return
        self._checked = True
        impossible, clipped = compare_prior_with_support(
            provider.model, dict(zip(self.model.parameters, self.names, strict=True)), self.model.support
        )
        if impossible and self.support != "warn":
            raise LoggedError(
                self.log,
                "No point of this run is supported by the model: %s. Change these parameters, or set 'support: warn' "
                "to extrapolate.",
                "; ".join(impossible),
            )
        consequence = {
            "reject": "points outside get zero likelihood, which truncates the prior",
            "raise": "the run stops at the first point outside",
            "warn": "predictions outside are extrapolations",
        }[self.support]
        for sentence in impossible + clipped:
            self.mpi_warning("%s; %s (option 'support: %s').", sentence, consequence, self.support)
        self._compare_cosmology(provider.model)

    def _compare_cosmology(self, model: Any) -> None:
        """Warn if the run has, or samples, another cosmology than the model."""
        sampled, fixed = sampled_cosmology(model), other_cosmology(model, self.model.cosmology or {})
        if not sampled and not fixed:
            return
        what = [f"samples cosmological parameters ({', '.join(sampled)})"] if sampled else []
        what += [f"fixes {', '.join(fixed)}"] if fixed else []
        own = self.model.metadata.get("cosmology")
        self.mpi_warning(
            "This run %s, but the alignment model has one fixed cosmology%s: %s.",
            " and ".join(what),
            f" ({own})" if own else "",
            self._what_follows_cosmology(),
        )

    def _what_follows_cosmology(self) -> str:
        """What to say of the prediction in a run of another cosmology than the model's."""
        return "its prediction does not depend on them"

    def _simplify(self, constants: Mapping[str, float]) -> None:
        """Use a simpler model if slopes of the strengths are constant at 0."""
        known = self._run_names
        self.model = self._general_model.with_constants(
            {name: float(constants[run_name]) for name, run_name in known.items() if run_name in constants}
        )
        try:
            self.model.check_slopes(self.model.slopes)
        except ValueError as error:
            raise LoggedError(self.log, "%s", error) from error
        self.names = tuple(known[name] for name in self.model.parameters)
        self._evaluation.use(self.model, self.names)

    def close(self, *args: Any) -> None:
        """Log how many points were rejected because a bin had hardly any pairs.

        Parameters
        ----------
        *args
            Arguments of Cobaya.
        """
        if self._evaluation.n_few_pairs:
            self.log.info("%d points were rejected because of bins with few pairs.", self._evaluation.n_few_pairs)

    # ------------------------------------------------------------------ evaluation

    def calculate(self, state: dict, want_derived: bool = True, **params_values_dict: float) -> bool:
        """Compute what was requested at one point, and store it in ``state``.

        Parameters
        ----------
        state : dict
        want_derived : bool
        **params_values_dict
            The model's parameters, under their names in this run.

        Returns
        -------
        bool
            False, for zero likelihood, at points outside the supported region with the option ``support: reject``.
        """
        if not set(self.names) <= set(params_values_dict):
            # Without a Cobaya model, slopes need not be given.
            self._simplify({name: 0.0 for name in self.names if name not in params_values_dict})
        prepared = self._prepared.pop(tuple(params_values_dict[name] for name in self._inputs), None)
        if prepared is not None:
            state.update(prepared)
            return True
        params = {
            name: torch.tensor([value], dtype=torch.float64) if name in self._varying else value
            for name, value in params_values_dict.items()
        }
        derived = self._derived_names() if want_derived else []
        try:
            with torch.no_grad():
                found = self._evaluate(params, derived)
        except RejectedRows:
            return False
        (row,) = self._rows(found, derived, 1)
        if not want_derived:
            del row["derived"]
        state.update(row)
        return True

    def _rows(self, found: Mapping, derived: Collection[str], n: int) -> list[dict]:
        """Split what :meth:`_evaluate` returns for n points into what Cobaya stores for each."""
        products: dict[str, dict] = {}
        for product in (*self._products, *self._deviations):
            values = {key: dense(value).double() for key, value in found[product].items()}
            products[product] = {key: value.expand(n, *value.shape[1:]).numpy() for key, value in values.items()}
        numbers = {name: found[name].double().expand(n).tolist() for name in derived}
        return [
            {
                **{product: {key: value[row] for key, value in one.items()} for product, one in products.items()},
                "derived": {name: values[row] for name, values in numbers.items()},
            }
            for row in range(n)
        ]

    def _evaluate(self, params: Mapping, derived: Collection[str]) -> dict[str, Any]:
        """Compute what was requested at a batch of points; see ``forward_torch`` for ``params`` and the result.

        The result also contains the derived parameters named in ``derived``, each (n,).
        """
        values = [params[name] for name in self.names]
        found: dict[str, Any] = {product: {} for product in (*self._products, *self._deviations)}
        predictions: dict[EdgesKey, Mapping[str, Any]] = {}
        amplitude = self.shape_amplitude(params)
        requests, deviation_requests = self._evaluation.requests, self._evaluation.deviation_requests
        for key in dict.fromkeys([*requests, *deviation_requests]):
            prediction, deviations = self._evaluation.predict(values, key, bool(derived))
            predictions[key] = prediction
            for statistic in requests.get(key, set()) - set(AMPLITUDE_OF):
                value = prediction[statistic]
                found[product_name(statistic, self.tag)][key] = _scaled(value, amplitude, statistic)
            for statistic in deviation_requests.get(key, ()):
                value = deviations[statistic]
                found[product_name(statistic, self.tag, deviations=True)][key] = _scaled(value, amplitude, statistic)
        if derived and not any(predictions.values()):
            predictions[None], _ = self._evaluation.predict(values, None, True)
        return found | self._derive(params, derived, predictions)

    def __repr__(self) -> str:
        names = ", ".join(getattr(self, "names", ()))
        return f"<{type(self).__name__} '{self.get_name()}' of {names or 'no model yet'}>"

    def __str__(self) -> str:
        return self.get_name()

    # ------------------------------------------------------------------ products

    def get_ia_xi(self, r_edges: ArrayLike | None = None) -> np.ndarray:
        """Return the position-position correlation xi at the current point.

        Parameters
        ----------
        r_edges : array (n_bins + 1,), optional
            Bin edges as they were requested [Mpc/h].

        Returns
        -------
        array (n_bins,)
            Dimensionless.
        """
        return self._product(product_name("xi", self.tag), r_edges=r_edges)

    def get_ia_omega(self, r_edges: ArrayLike | None = None) -> np.ndarray:
        """Return the position-orientation correlation omega, <(e.r)^2> - 1/3, at the current point.

        Parameters
        ----------
        r_edges : array (n_bins + 1,), optional
            Bin edges as they were requested [Mpc/h].

        Returns
        -------
        array (n_bins,)
            Dimensionless.
        """
        return self._product(product_name("omega", self.tag), r_edges=r_edges)

    def get_ia_eta(self, r_edges: ArrayLike | None = None) -> np.ndarray:
        """Return the orientation-orientation correlation eta, <(e1.e2)^2> - 1/3, at the current point.

        Parameters
        ----------
        r_edges : array (n_bins + 1,), optional
            Bin edges as they were requested [Mpc/h].

        Returns
        -------
        array (n_bins,)
            Dimensionless.
        """
        return self._product(product_name("eta", self.tag), r_edges=r_edges)

    def get_ia_wgg(self, **bins: Any) -> np.ndarray:
        """Return the projected correlation function w_gg at the current point.

        Parameters
        ----------
        **bins
            As they were requested: ``rp_edges`` or ``rp``, and ``pi_max``; or ``projection``.

        Returns
        -------
        array (n_rp,) [Mpc/h]
        """
        return self._product(product_name("w_gg", self.tag), **bins)

    def get_ia_wgplus(self, **bins: Any) -> np.ndarray:
        """Return the projected position-shape correlation w_g+ at the current point, positive for radial alignment.

        Parameters
        ----------
        **bins
            See :meth:`get_ia_wgg`.

        Returns
        -------
        array (n_rp,) [Mpc/h]
        """
        return self._product(product_name("w_gplus", self.tag), **bins)

    def get_ia_xigplus2(self, **bins: Any) -> np.ndarray:
        """Return the quadrupole of the position-shape correlation at the current point (arXiv:2307.02545).

        Parameters
        ----------
        **bins
            As they were requested: ``r_edges``, or ``projection``.

        Returns
        -------
        array (n_bins,)
            Dimensionless.
        """
        return self._product(product_name("xi_gplus_2", self.tag), **bins)

    def get_result(self, result_name: str, **kwargs: Any) -> Any:
        """Return a product by name; the only way to get deviations, and products with a tag.

        ``ia_omega_deviations``, ... are (K, n_bins): vectors d_k whose products sum to the covariance of the error of
        the prediction, sum_k d_k d_k^T. The k-th rows of all statistics belong together: concatenated, they give the
        covariance between statistics as well.

        Parameters
        ----------
        result_name : str
            Name of the product.
        **kwargs
            The bins as they were requested, such as ``r_edges``.

        Returns
        -------
        array
        """
        if result_name in self._products or result_name in self._deviations:
            return self._product(result_name, **kwargs)
        return super().get_result(result_name, **kwargs)

    def _product(self, product: str, **bins: Any) -> np.ndarray:
        available = self.current_state[product]
        given = {name: value for name, value in bins.items() if value is not None}
        key = _bins_key(self._products.get(product) or self._deviations[product], given) if given else None
        if key in available:
            return available[key]
        # Edges may be left out if only one binning was requested.
        if key is None and len(available) == 1:
            return next(iter(available.values()))
        raise LoggedError(
            self.log,
            "%s was not requested in these bins (%s). Request them in get_requirements, as {'%s': {'r_edges': [...]}}. "
            "Requested so far: %s.",
            product,
            _describe_key(key),
            product,
            "; ".join(_describe_key(entry) for entry in available) or "none",
        )


class DifferentiableTheory(ForwardModelTheory):
    """Base of the theories whose forward model has gradients."""

    def initialize_with_provider(self, provider: Any) -> None:
        """Check the run, see :class:`ForwardModelTheory`, and the requested bins at its reference point.

        Parameters
        ----------
        provider : cobaya.theory.Provider

        Raises
        ------
        LoggedError
            No point of the run is supported by the model, or hardly any pairs are expected in a bin.
        """
        super().initialize_with_provider(provider)
        self._check_bins_at_reference(provider.model)

    def _check_bins_at_reference(self, model: Any) -> None:
        """Raise LoggedError if a requested bin has hardly any pairs at the centre of the reference distribution."""
        centre = [float(ref.mean() if hasattr(ref, "mean") else ref) for ref in model.prior.ref_pdf]
        if not np.all(np.isfinite(centre)):
            return
        inputs = model.parameterization.to_input(
            dict(zip(model.parameterization.sampled_params(), centre, strict=True))
        )
        if not set(self.names) <= set(inputs):
            return  # another component computes them
        theta = torch.tensor([[float(inputs[name]) for name in self.names]], dtype=torch.float64)
        if not bool(self.model.support.contains(theta)):
            return
        for key in self._evaluation.requests:
            message = self._evaluation.few_pairs(theta, key)
            if message is not None:
                raise LoggedError(self.log, "At the reference point of this run, %s", message)

    def forward_torch(self, params: Mapping, products: Mapping | None = None) -> dict[str, Any]:
        """Predict what was requested at a batch of points, with gradients; see :mod:`iaemu_cobaya.gradients`.

        If all five occupation parameters are constant, what depends on them is computed at the first call only.

        Parameters
        ----------
        params : mapping of name in the run to tensor (n,), or to float if it is constant
            The model's parameters.
        products : mapping, optional
            Products of other theories; not used.

        Returns
        -------
        dict of product to {edges: tensor (n, n_bins)}
            The edges are a tuple of the numbers that were requested, or None for those of the model; n = 1 if all
            parameters are constant. Deviations are tensors (n, K, n_bins), or, at fixed occupation,
            :class:`iaemu.models.fixed_occupation.Factored`, whose ``dense()`` is that tensor. Derived parameters that
            other components require are included by name, each (n,).

        Raises
        ------
        RejectedRows
            Points are outside the supported region, with the option ``support: reject``.
        LoggedError
            Points are outside with ``support: raise``, or the prediction failed.
        """
        return self._evaluate(params, self._required_params)

    def prepare(self, params: Mapping[str, np.ndarray]) -> None:
        """Compute points at once that ``calculate`` will be asked for one after the other.

        Parameters
        ----------
        params : mapping of name in the run to array (n,)
            The model's parameters. Points that were prepared before are forgotten.
        """
        rows = np.stack([params[name] for name in self._inputs], axis=1)
        self._prepared = {}
        for part in np.array_split(rows, -(-len(rows) // _BATCH)):
            columns = dict(zip(self._inputs, part.T, strict=True))
            tensors = {
                name: torch.as_tensor(column.copy()) if name in self._varying or np.ptp(column) > 0 else column[0]
                for name, column in columns.items()
            }
            derived = self._derived_names()
            try:
                with torch.no_grad():
                    found = self._rows(self._evaluate(tensors, derived), derived, len(part))
            except (RejectedRows, LoggedError):
                continue  # calculate will meet the point, and report it
            self._prepared.update(zip(map(tuple, part.tolist()), found, strict=True))

    def inequalities(self) -> list[tuple[dict[str, float], float]]:
        """Return linear inequalities outside which points are rejected.

        Returns
        -------
        list of ({name in the run: coefficient}, limit)
            The sum of the parameters, each times its coefficient, is at most the limit. None, unless the option
            ``support`` is ``reject``.
        """
        if self.support != "reject" or self.stop_at_error:
            return []
        matrix, limits = self.model.support.inequalities()
        return [
            (dict(zip(self.names, row, strict=True)), limit)
            for row, limit in zip(matrix.tolist(), limits.tolist(), strict=True)
        ]


def _scaled(value: Any, amplitude: Any, statistic: str) -> Any:
    """Return predictions (n, ...) or deviations times the shape amplitude, a number or tensor (n,)."""
    if statistic not in SHAPES:
        return value
    if isinstance(value, Factored):
        return Factored(_scaled(value.factors, amplitude, statistic), value.rows)
    if isinstance(amplitude, torch.Tensor):
        amplitude = amplitude.reshape(-1, *[1] * (value.ndim - 1))
    return value * amplitude


def _bins_key(statistic: str, options: dict[str, Any]) -> EdgesKey:
    """Return the bins of a request as a key; ValueError if they are not valid for the statistic."""
    known = {"w_gg": ("rp_edges", "rp", "pi_max"), "w_gplus": ("rp_edges", "rp", "pi_max")}.get(statistic, ("r_edges",))
    if statistic in PROJECTION_OF:
        known = (*known, "projection")
    unknown = [str(name) for name in options if name not in known]
    if unknown:
        raise ValueError(f"unknown option(s) {', '.join(unknown)}; the options are {', '.join(known)}.")
    if statistic not in PROJECTION_OF:
        return edges_key(options.get("r_edges"))
    projection = options.pop("projection", None)
    if projection is None and statistic == "xi_gplus_2":
        if options.get("r_edges") is None:
            raise ValueError("give 'r_edges', the edges of the bins [Mpc/h].")
        edges = check_edges(options["r_edges"])
        return Projection.between({statistic: (edges[:-1], edges[1:])})
    if projection is None:
        return Projection.of(options.get("rp_edges"), options.get("pi_max"), options.get("rp"))
    if statistic not in projection.statistics or options:
        raise ValueError(f"give bins of {statistic} as one Projection, and nothing else.")
    return projection


def _describe_key(key: EdgesKey) -> str:
    if key is None:
        return "the model's own bins"
    if isinstance(key, Projection):
        return key.describe()
    return f"{len(key) - 1} bins from {key[0]:.5g} to {key[-1]:.5g} Mpc/h"
