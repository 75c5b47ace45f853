"""Parameters beside those of the model: the shape amplitude, and what theories derive for chains and other components.

Derived are the number density and the satellite fraction, ``n_gal_ia`` and ``f_sat_ia``, and what the galaxies are on
large scales (:meth:`iaemu.ForwardModel.large_scale`): ``b_g``, ``log10_M_h`` and ``A_IA``, the alignment amplitude of
the NLA model. List them in ``params``, or require them in another component, as in::

    def get_requirements(self):
        return {"A_IA": None}

    def logp(self, **params):
        A_IA = self.provider.get_param("A_IA")

``param_map`` renames them, and a ``tag`` is added to the names.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import Any

import torch
from cobaya.log import LoggedError

from iaemu.models.base import ForwardModel
from iaemu.observables.projected import AMPLITUDE_OF, Projection
from iaemu.parameters import OCCUPATION_PARAMETERS
from iaemu.prediction import ProjectedPrediction
from iaemu_cobaya.naming import mapped_names
from iaemu_cobaya.theories.evaluation import COUNTS, Evaluation, columns

#: What is derived on large scales.
LARGE_SCALES = ("A_IA", "b_g", "log10_M_h")

#: Derived parameters, as {name in Cobaya: attribute of the prediction}.
DERIVED = {**{f"{name}_ia": name for name in COUNTS}, **{name: name for name in LARGE_SCALES}}

#: Parameters of which one gives the shape amplitude, as {name: amplitude of one}. The rms ellipticity of axes of random
#: direction is sqrt(8/15) times that of a galaxy whose axis is perpendicular to the line of sight.
SHAPE_PARAMETERS = {"e_rms": math.sqrt(15.0 / 8.0), "a_shape": 1.0}

#: Products that are proportional to the shape amplitude.
SHAPES = {"w_gplus", "xi_gplus_2"}

#: The bins of a request for the amplitudes of the large scales.
AMPLITUDES = Projection.of_large_scales()


class DerivesParameters:
    """The part of :class:`iaemu_cobaya.theories.base.ForwardModelTheory` for these parameters."""

    log: Any
    param_map: dict
    tag: str | None
    responsivity: float | None
    model: ForwardModel
    names: tuple[str, ...]
    input_params: Collection[str]
    output_params: Collection[str]
    _general_model: ForwardModel
    _evaluation: Evaluation

    def _map_names(self) -> None:
        """Find the names in the run of the model's parameters, of the shape amplitude and of what is derived."""
        groups = (self._general_model.parameters, tuple(SHAPE_PARAMETERS), tuple(DERIVED))
        known = [name for group in groups for name in group]
        named = dict(zip(known, mapped_names(known, self.param_map, self.log), strict=True))
        self.names, shape, derived = (tuple(named[name] for name in group) for group in groups)
        self._run_names = dict(zip(groups[0], self.names, strict=True))
        self._shape_names = dict(zip(SHAPE_PARAMETERS, shape, strict=True))
        self._derived = {}
        for name, run_name in zip(DERIVED, derived, strict=True):
            suffix = f"_{self.tag}" if self.tag and name not in self.param_map else ""
            self._derived[run_name + suffix] = DERIVED[name]
        self._shape: tuple[str, float] | None = None
        self._required_params: list[str] = []

    def get_can_support_params(self) -> list[str]:
        """Return the names of the optional parameters: those of the shape amplitude.

        Returns
        -------
        list of str
        """
        return list(self._shape_names.values())

    def get_can_provide_params(self) -> list[str]:
        """Return the names of the derived parameters that this theory can compute.

        Returns
        -------
        list of str
        """
        return list(self._derived)

    def _find_derived(self, provider: Any) -> None:
        """Find which parameters the run and other components want, and what that takes."""
        self._required_params = [name for name in self._derived if name in provider.requirement_providers]
        wanted = {self._derived[name]: name for name in self._derived_names() if name in self._derived}
        if not wanted.keys().isdisjoint(LARGE_SCALES):
            try:
                self.model.check_large_scales()
            except ValueError as error:
                names = ", ".join(wanted[name] for name in LARGE_SCALES if name in wanted)
                raise LoggedError(self.log, "%s: %s", names, error) from error
            self._evaluation.requests.setdefault(AMPLITUDES, set()).update(AMPLITUDE_OF)
        self._find_shape([wanted["A_IA"]] if "A_IA" in wanted else [])

    def _derived_names(self) -> list[str]:
        return list(dict.fromkeys([*self.output_params, *self._required_params]))

    def _find_shape(self, derived: Collection[str]) -> None:
        """Find the parameter of the shape amplitude, which shapes need, and A_IA if it is derived."""
        requested = set().union(*self._evaluation.requests.values(), *self._evaluation.deviation_requests.values())
        given = [name for name, run_name in self._shape_names.items() if run_name in self.input_params]
        needed = bool(requested & SHAPES or derived)
        if len(given) != 1 and needed:
            raise LoggedError(
                self.log,
                "%s the shape amplitude: give one of the parameters %s in 'params' of the run, as a "
                "number or with a prior; %s. e_rms is the rms ellipticity of the sample (both components), from which "
                "the amplitude is sqrt(15/8) e_rms.",
                "w_g+ and xi_g+,2 need" if requested & SHAPES else f"{', '.join(derived)} needs",
                " and ".join(self._shape_names.values()),
                "both are given" if given else "none is given",
            )
        if len(given) == 1:
            self._shape = self._shape_names[given[0]], SHAPE_PARAMETERS[given[0]] / (2.0 * (self.responsivity or 0.5))

    @property
    def has_shape_amplitude(self) -> bool:
        """Whether the run has a parameter of the shape amplitude."""
        return self._shape is not None

    def shape_amplitude(self, params: Mapping) -> Any:
        """Return the factor a of w_g+: the ellipticity of a galaxy seen with its axis in the plane of the sky.

        Parameters
        ----------
        params : mapping of name in the run to tensor (n,) or float
            ``a_shape``, or ``e_rms``, the rms ellipticity of the sample (both components), with a = sqrt(15/8) e_rms.

        Returns
        -------
        tensor (n,) or float
            Divided by 2 R with the option ``responsivity`` R, for shapes in units of shear; 1 if no parameter is used.
        """
        return 1.0 if self._shape is None else params[self._shape[0]] * self._shape[1]

    def _derive(self, params: Mapping, derived: Collection[str], found: Mapping[Any, Mapping]) -> dict[str, Any]:
        """Return derived parameters, tensors (n,), from the predictions in each binning that was requested."""
        kinds = {name: self._derived[name] for name in derived}
        known = dict(next(filter(None, found.values()), {}))
        if set(kinds.values()) & set(LARGE_SCALES):
            known |= self._on_large_scales(params, found[AMPLITUDES])
        for name, kind in kinds.items():
            if known[kind] is None:
                raise LoggedError(
                    self.log, "%s: this model does not predict it. Remove it from params, or use TabulatedIA.", name
                )
        return {name: known[kind] for name, kind in kinds.items()}

    def _on_large_scales(self, params: Mapping, prediction: Mapping[str, Any]) -> dict[str, Any]:
        """Return what is derived from a prediction of the amplitudes of the large scales."""
        names = dict(zip(self.model.parameters, self.names, strict=True))
        occupation = columns([params[names[known]] for known in OCCUPATION_PARAMETERS])
        shape = torch.as_tensor(self.shape_amplitude(params), dtype=torch.float64).reshape(-1, 1)
        amplitudes = ProjectedPrediction(AMPLITUDES, b2=prediction["b2"], K=shape * prediction["K"])
        found = self._evaluation.model.from_amplitudes(amplitudes, occupation)
        return {name: getattr(found, name) for name in LARGE_SCALES}
