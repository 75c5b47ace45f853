"""Cobaya theories that give the alignment correlation functions xi(r), omega(r), eta(r) of galaxies.

A likelihood asks for what it needs, in its own bins::

    def get_requirements(self):
        return {"ia_omega": {"r_edges": [0.1, 0.151, 0.228]}}     # Mpc/h

    def logp(self, **params):
        omega = self.provider.get_ia_omega(r_edges=[0.1, 0.151, 0.228])    # array (2,)

Products are ``ia_xi``, ``ia_omega`` and ``ia_eta``, and the error of each as ``ia_xi_deviations``, ... Only requested
statistics and bins are computed; several likelihoods can ask for different bins. With the option ``tag`` the names end
in it (``ia_omega_sample1``), so that one run can hold a theory for each of several galaxy samples.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import torch
from cobaya.log import LoggedError
from cobaya.theory import Theory
from numpy.typing import ArrayLike

from iaemu import __version__
from iaemu.models.base import ForwardModel
from iaemu.parameters import OCCUPATION_PARAMETERS, POLICIES
from iaemu.prediction import STATISTICS
from iaemu_cobaya.gradients.torch_functions import RejectedRows
from iaemu_cobaya.naming import MapsParameters, check_tag, mapped_names, product_name
from iaemu_cobaya.options import ChecksOptions
from iaemu_cobaya.theories.evaluation import COUNTS, EdgesKey, Evaluation, edges_key
from iaemu_cobaya.theories.prior_checks import compare_prior_with_support, sampled_cosmology

#: Derived parameters, as {name in Cobaya: attribute of the prediction}.
DERIVED = {f"{name}_ia": name for name in COUNTS}


class ForwardModelTheory(MapsParameters, ChecksOptions, Theory):
    """Base of the theories: everything but the loading of the forward model, and gradients.

    Attributes
    ----------
    artifact : path, ForwardModel or None
        What predicts; see the YAML file of each class, and of the options below.
    support : str
    param_map : dict
    tag : str
    model : ForwardModel
        The loaded model.
    names : tuple of str
        Names in this run of the model's parameters, in the model's order.
    """

    artifact: str | os.PathLike | ForwardModel | None
    support: str
    param_map: dict
    tag: str | None

    # ------------------------------------------------------------------ set-up

    # Tensors made in a caller's inference mode would have no gradients later.
    @torch.inference_mode(False)
    def initialize(self) -> None:
        """Load the forward model."""
        if self.support not in POLICIES:
            raise LoggedError(self.log, "support: must be one of %s, got '%s'.", ", ".join(POLICIES), self.support)
        self.param_map = dict(self.param_map or {})
        self.tag = check_tag(self.tag, self.log)
        self._products = {product_name(statistic, self.tag): statistic for statistic in STATISTICS}
        self._deviations = {product_name(statistic, self.tag, deviations=True): statistic for statistic in STATISTICS}
        self._derived = {f"{name}_{self.tag}" if self.tag else name: value for name, value in DERIVED.items()}
        self.model = self._load_model()
        self.names = mapped_names(self.model.parameters, self.param_map, self.log)
        self._evaluation = Evaluation(self.model, self.names, self.support, self.log, lambda: self.stop_at_error)
        self._required_params: list[str] = []
        self._varying = set(self.names)
        self._checked = False
        self._warned_box_error = False

    def _load_model(self) -> ForwardModel:
        if isinstance(self.artifact, ForwardModel):
            return self.artifact
        try:
            return self._load_artifact(self.artifact)
        except (ValueError, OSError) as error:
            what = self.artifact or "the file that should come with the package"
            raise LoggedError(self.log, "artifact: cannot load %s: %s", what, error) from error

    def _load_artifact(self, path) -> ForwardModel:
        raise NotImplementedError

    def get_version(self) -> str:
        """Version of the package that made the prediction.

        Returns
        -------
        str
        """
        return __version__

    def get_requirements(self) -> dict[str, None]:
        """The model's parameters, under their names in this run.

        Returns
        -------
        dict
        """
        return {name: None for name in self.names}

    def get_can_provide_params(self) -> list[str]:
        """Names of the derived parameters that this theory can give.

        Returns
        -------
        list of str
        """
        return list(self._derived)

    def get_can_provide(self) -> list[str]:
        """Names of the products.

        Returns
        -------
        list of str
        """
        return [*self._products, *self._deviations]

    def get_can_provide_methods(self) -> dict:
        """The ``get_ia_...`` methods, which are of the names without a tag.

        Returns
        -------
        dict
        """
        return {} if self.tag else super().get_can_provide_methods()

    def must_provide(self, **requirements: Mapping | None) -> None:
        """Register what a likelihood needs; can be called any number of times.

        Parameters
        ----------
        **requirements : ``ia_xi``, ``ia_omega``, ``ia_eta``: None or {"r_edges": array (n_bins + 1,) or None}
            Edges in Mpc/h; None stands for the model's own. The same for ``ia_xi_deviations``, ...

        Raises
        ------
        LoggedError
            Unknown options, malformed edges, or bins that do not nest in those of the model; deviations of a model
            that does not know its error.
        """
        super().must_provide(**requirements)
        for product, options in requirements.items():
            if product in self._products:
                key = self._check_request(product, options)
                self._evaluation.requests.setdefault(key, set()).add(self._products[product])
            elif product in self._deviations:
                key = self._check_request(product, options)
                if not self.model.n_deviations:
                    raise LoggedError(
                        self.log,
                        "%s was requested, but this model does not know the error of its predictions. Set "
                        "'emulator_error: False' in the likelihood, or use a model that does: the shipped emulator or "
                        "tables, your own with the option 'box_error' (made by iaemu-train box-error), or HalotoolsIA.",
                        product,
                    )
                self._evaluation.deviation_requests.setdefault(key, set()).add(self._deviations[product])
                self._warn_without_box_error()

    def _warn_without_box_error(self) -> None:
        if not self._warned_box_error and self.model.box_error is None:
            self._warned_box_error = True
            self.mpi_warning(
                "The error of the prediction is that of the network alone: the variance of the halo catalogues that "
                "this artifact is made from, mostly the larger part, is not known. Make it with 'iaemu-train "
                "box-error', and name the file in the option 'box_error'."
            )

    def _check_request(self, product: str, options: Mapping | None) -> EdgesKey:
        options = dict(options or {})
        key = edges_key(options.pop("r_edges", None))
        if options:
            raise LoggedError(
                self.log, "%s: unknown option(s) %s; known is 'r_edges'.", product, ", ".join(map(str, options))
            )
        if key is None:
            return None
        try:
            self.model.check_bins(key)
        except ValueError as error:
            raise LoggedError(
                self.log,
                "%s was requested in bins that this model cannot give: %s It covers %.5g to %.5g Mpc/h: cut the data "
                "(options r_min and r_max of the IA likelihoods), or use a model with these edges.",
                product,
                error,
                self.model.r_edges[0],
                self.model.r_edges[-1],
            ) from error
        return key

    def initialize_with_provider(self, provider: Any) -> None:
        """Compare, once, the run's priors and parameters with what the model was made for.

        Parameters
        ----------
        provider : cobaya.theory.Provider

        Raises
        ------
        LoggedError
            No point of the run is supported by the model.
        """
        super().initialize_with_provider(provider)
        self._required_params = [name for name in self._derived if name in provider.requirement_providers]
        # Tensors tell that the occupation varies; of numbers, the model keeps what it makes of it.
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
            "reject": "points outside get zero likelihood, which clips the prior",
            "raise": "the run stops at the first point outside",
            "warn": "predictions outside are extrapolations",
        }[self.support]
        for sentence in impossible + clipped:
            self.mpi_warning("%s; %s (option 'support: %s').", sentence, consequence, self.support)
        cosmology = sampled_cosmology(provider.model)
        if cosmology:
            own = self.model.metadata.get("cosmology")
            self.mpi_warning(
                "This run samples cosmological parameters (%s), but the alignment model is at one fixed cosmology%s: "
                "its prediction does not depend on them.",
                ", ".join(cosmology),
                f" ({own})" if own else "",
            )

    # ------------------------------------------------------------------ evaluation

    def calculate(self, state: dict, want_derived: bool = True, **params_values_dict: float) -> bool:
        """Fill ``state`` with what was requested, by evaluating a batch of one point.

        Parameters
        ----------
        state : dict
        want_derived : bool
        **params_values_dict
            The model's parameters, under their names in this run.

        Returns
        -------
        bool
            False (zero likelihood) outside the support, with the option ``support: reject``.
        """
        params = {
            name: torch.tensor([value], dtype=torch.float64) if name in self._varying else value
            for name, value in params_values_dict.items()
        }
        derived = dict.fromkeys([*self.output_params, *self._required_params]) if want_derived else ()
        try:
            with torch.no_grad():
                found = self._evaluate(params, derived)
        except RejectedRows:
            return False
        state.update(
            {
                product: {key: value[0].double().numpy() for key, value in found[product].items()}
                for product in (*self._products, *self._deviations)
            }
        )
        if want_derived:
            state["derived"] = {name: float(found[name]) for name in derived}
        return True

    def _evaluate(self, params: Mapping, derived: Collection[str]) -> dict[str, Any]:
        """What was requested at a batch of points; ``params`` and result as of ``forward_torch``.

        ``derived`` are names of derived parameters, (n,) in the result.
        """
        values = [params[name] for name in self.names]
        found: dict[str, Any] = {product: {} for product in (*self._products, *self._deviations)}
        prediction: Mapping[str, Any] = {}
        for key, statistics in self._evaluation.requests.items():
            prediction = self._evaluation.predict(values, key, statistics, bool(derived))
            for statistic in statistics:
                found[product_name(statistic, self.tag)][key] = prediction[statistic]
        for key, statistics in self._evaluation.deviation_requests.items():
            deviations = self._evaluation.deviations(values, key, statistics)
            for statistic in statistics:
                found[product_name(statistic, self.tag, deviations=True)][key] = deviations[statistic]
        if derived and not prediction:
            prediction = self._evaluation.predict(values, None, set(), True)
        for name in derived:
            found[name] = prediction[self._derived[name]]
            if found[name] is None:
                raise LoggedError(
                    self.log, "%s: this model does not predict it; remove it from params, or use TabulatedIA.", name
                )
        return found

    # ------------------------------------------------------------------ products

    def get_ia_xi(self, r_edges: ArrayLike | None = None) -> np.ndarray:
        """Position-position correlation xi.

        Parameters
        ----------
        r_edges : array (n_bins + 1,), optional
            As requested [Mpc/h].

        Returns
        -------
        array (n_bins,)
            Dimensionless.
        """
        return self._product(product_name("xi", self.tag), r_edges)

    def get_ia_omega(self, r_edges: ArrayLike | None = None) -> np.ndarray:
        """Position-orientation correlation <|e.r|^2> - 1/3.

        Parameters
        ----------
        r_edges : array (n_bins + 1,), optional
            As requested [Mpc/h].

        Returns
        -------
        array (n_bins,)
            Dimensionless.
        """
        return self._product(product_name("omega", self.tag), r_edges)

    def get_ia_eta(self, r_edges: ArrayLike | None = None) -> np.ndarray:
        """Orientation-orientation correlation <|e1.e2|^2> - 1/3.

        Parameters
        ----------
        r_edges : array (n_bins + 1,), optional
            As requested [Mpc/h].

        Returns
        -------
        array (n_bins,)
            Dimensionless.
        """
        return self._product(product_name("eta", self.tag), r_edges)

    def get_result(self, result_name: str, **kwargs: Any) -> Any:
        """As the ``get_ia_...`` methods, by name; and by name only: deviations, and all products with a tag.

        ``ia_omega_deviations``, ... are (K, n_bins): scaled deviations d_k of the prediction such that sum_k d_k d_k^T
        is the covariance of its error. The k-th row belongs together over statistics and bins, so that rows laid side
        by side give cross-covariances.

        Parameters
        ----------
        result_name : str
        **kwargs
            ``r_edges``.

        Returns
        -------
        array
        """
        if result_name in self._products or result_name in self._deviations:
            return self._product(result_name, **kwargs)
        return super().get_result(result_name, **kwargs)

    def _product(self, product: str, r_edges: ArrayLike | None = None) -> np.ndarray:
        available = self.current_state[product]
        key = edges_key(r_edges)
        if key in available:
            return available[key]
        # Without edges there is no doubt if only one binning was requested.
        if key is None and len(available) == 1:
            return next(iter(available.values()))
        raise LoggedError(
            self.log,
            "%s was not requested in these bins (%s). Request them in get_requirements, as {'%s': {'r_edges': [...]}}; "
            "requested so far: %s.",
            product,
            _describe_key(key),
            product,
            "; ".join(_describe_key(entry) for entry in available) or "none",
        )


class DifferentiableTheory(ForwardModelTheory):
    """Base of the theories whose forward model has gradients."""

    def forward_torch(self, params: Mapping, products: Mapping | None = None) -> dict[str, Any]:
        """The requested statistics at a batch of points, differentiable; see :mod:`iaemu_cobaya.gradients`.

        With all five occupation parameters constant, the forward model is evaluated at the first call only.

        Parameters
        ----------
        params : mapping of name in the run to tensor (n,), or to float if it is constant
        products : mapping, optional
            Of other theories; not used.

        Returns
        -------
        dict of product to {edges: tensor (n, n_bins)}
            Edges as the tuple of numbers that was requested, or None for the model's own; n = 1 if all parameters are
            constant. Derived parameters that other components require, (n,), are there under their names.

        Raises
        ------
        RejectedRows
            Points outside the support, with the option ``support: reject``.
        LoggedError
            The same with ``support: raise``; or the prediction failed.
        """
        return self._evaluate(params, self._required_params)


def _describe_key(key: EdgesKey) -> str:
    if key is None:
        return "the model's own bins"
    return f"{len(key) - 1} bins from {key[0]:.5g} to {key[-1]:.5g} Mpc/h"
