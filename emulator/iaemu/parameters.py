"""The seven parameters, and the region of them that a model supports.

The occupation parameters of observed galaxy samples lie near a line. Models are therefore tabulated and trained near
it: ``logM0, logM1, sigma_logM, alpha`` each lie within a number of RMSE of a linear fit in ``logMmin`` to Table 1 of
Zheng et al. 2007 (ApJ 667, 760), as in IAEmu (arXiv:2504.05235, section 2.2).
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Annotated, Any, ClassVar, NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike

from iaemu.ranges import Range, check_fields, real_array

ALIGNMENT_PARAMETERS = ("mu_cen", "mu_sat")
OCCUPATION_PARAMETERS = ("logMmin", "sigma_logM", "logM0", "logM1", "alpha")
PARAMETERS = ALIGNMENT_PARAMETERS + OCCUPATION_PARAMETERS

#: Slopes of strengths that vary: of centrals with the log of their host mass, of satellites with that of their radius.
SLOPES = ("mu_cen_slope", "mu_sat_slope")

#: How parameters may be given: by name, or as (..., n_parameters) in the order of the model's ``parameters``.
Theta = Mapping[str, Any] | ArrayLike | torch.Tensor


#: log10 of a halo mass in Msun/h; the range includes all halos that host galaxies.
LogMass = Annotated[float, Range(at_least=5, at_most=20)]


class LinearFit(NamedTuple):
    """A line ``slope * logMmin + intercept``, with the RMSE of Table 1 of Zheng et al. 2007 about it."""

    slope: float
    intercept: float
    rmse: float

    def __call__(self, logMmin: Any) -> Any:
        return self.slope * logMmin + self.intercept


ZHENG07_LINE: Mapping[str, LinearFit] = {
    "sigma_logM": LinearFit(0.17341474, -1.78405470, 0.06561238),
    "logM0": LinearFit(1.12840622, -1.89515523, 0.41188001),
    "logM1": LinearFit(0.72541259, 4.43594518, 0.17059834),
    "alpha": LinearFit(-0.00162070, 1.03329860, 0.10065349),
}

POLICIES = ("raise", "reject", "warn")


class SupportError(ValueError):
    """Raised if parameters lie outside the supported region of a model."""


class SupportWarning(UserWarning):
    """Issued if parameters lie outside the supported region of a model, so that its prediction is an extrapolation."""


def as_theta(theta: Theta, parameters: Sequence[str] = PARAMETERS) -> torch.Tensor:
    """Return parameters as one tensor.

    Parameters
    ----------
    theta : mapping of name to number, array or tensor; or array or tensor (..., n_parameters)
        A mapping must contain every parameter, in any order; its values are broadcast together.
    parameters : sequence of str
        Names, in the order of the last axis.

    Returns
    -------
    tensor (..., n_parameters)
        In the precision of the tensors in ``theta``, otherwise in double precision.

    Raises
    ------
    ValueError
        A parameter is missing or unknown; the last axis has another size, or shapes do not broadcast; a value is not a
        finite real number.
    """
    if isinstance(theta, Mapping):
        missing = [name for name in parameters if name not in theta]
        unknown = [name for name in theta if name not in parameters]
        if missing:
            raise ValueError(f"Missing parameter(s) {', '.join(missing)}. Give all of {', '.join(parameters)}.")
        if unknown:
            raise ValueError(
                f"Unknown parameter(s) {', '.join(map(str, unknown))}. The parameters are {', '.join(parameters)}."
            )
        tensor = _stack([theta[name] for name in parameters], parameters)
    elif isinstance(theta, list | tuple) and has_tensor(theta):
        names = parameters if len(theta) == len(parameters) else [f"theta[{index}]" for index in range(len(theta))]
        tensor = _stack(theta, names)
    else:
        tensor = real_tensor(theta, "theta")
    if tensor.ndim == 0 or tensor.shape[-1] != len(parameters):
        raise ValueError(
            f"theta has shape {tuple(tensor.shape)}; its last axis must hold the {len(parameters)} parameters "
            f"{', '.join(parameters)}, in this order."
        )
    finite = torch.isfinite(tensor)
    if not bool(finite.all()):
        bad = [
            name for name, ok in zip(parameters, finite.reshape(-1, len(parameters)).all(dim=0), strict=True) if not ok
        ]
        raise ValueError(f"Parameter(s) {', '.join(bad)} are NaN or infinite; give finite values.")
    return tensor


def has_tensor(theta: Theta) -> bool:
    """Return whether parameters are a tensor, or a mapping or sequence that contains one.

    Models then return tensors, and arrays otherwise.

    Parameters
    ----------
    theta : see :func:`as_theta`

    Returns
    -------
    bool
    """
    values = theta.values() if isinstance(theta, Mapping) else theta if isinstance(theta, list | tuple) else (theta,)
    return any(isinstance(value, torch.Tensor) for value in values)


def real_tensor(values: Any, name: str) -> torch.Tensor:
    """Return real numbers as a tensor.

    Parameters
    ----------
    values : tensor, or an argument of :func:`iaemu.ranges.real_array`
    name : str
        Name in messages.

    Returns
    -------
    tensor
        A floating tensor keeps its precision, but becomes at least float32; anything else becomes float64.

    Raises
    ------
    ValueError
        The values are complex or not numbers, or the tensor is sparse, nested, quantised or on the device "meta".
    """
    if not isinstance(values, torch.Tensor):
        return torch.from_numpy(real_array(values, name))
    form = (
        "nested"
        if values.is_nested
        else "quantised"
        if values.is_quantized
        else f"on the device {values.device}"
        if values.device.type == "meta"
        else f"of layout {values.layout}"
        if values.layout != torch.strided
        else f"of type {values.dtype}"
        if values.is_complex() or values.dtype == torch.bool
        else None
    )
    if form is not None:
        raise ValueError(f"{name} must be a dense tensor of real numbers; it is {form}.")
    if not values.is_floating_point():
        return values.double()
    return values if values.dtype in (torch.float32, torch.float64) else values.float()


def _stack(values: Sequence[Any], names: Sequence[str]) -> torch.Tensor:
    """Broadcast and stack columns, in the widest of their dtypes and on the device of the first tensor among them."""
    if all(isinstance(value, float) for value in values):
        return torch.tensor(values, dtype=torch.float64, device="cpu")
    devices = [value.device for value in values if isinstance(value, torch.Tensor)]
    columns = [real_tensor(value, name) for value, name in zip(values, names, strict=True)]
    # Plain numbers take the precision of the tensors; arrays and tensors keep theirs.
    dtypes = [column.dtype for column, value in zip(columns, values, strict=True) if not np.isscalar(value)]
    dtype = torch.float64 if torch.float64 in dtypes or not dtypes else torch.float32
    device = devices[0] if devices else torch.device("cpu")
    columns = [column.to(device=device, dtype=dtype) for column in columns]
    try:
        shape = np.broadcast_shapes(*(column.shape for column in columns))
    except ValueError as error:
        shapes = ", ".join(f"{name} {tuple(column.shape)}" for name, column in zip(names, columns, strict=True))
        raise ValueError(f"The shapes of the parameters do not broadcast: {shapes}.") from error
    return torch.stack([column.expand(shape) for column in columns], dim=-1)


@dataclass(frozen=True)
class Support:
    """The supported region: parameters for which a model was tabulated or trained.

    Attributes
    ----------
    logMmin : (float, float)
        Range of ``logMmin`` [log10 Msun/h].
    n_rmse : float
        Largest distance of ``sigma_logM``, ``logM0``, ``logM1`` and ``alpha`` from the line of Zheng et al. 2007, in
        RMSE of each parameter.
    sigma_logM_min : float
        Smallest ``sigma_logM`` [dex]. Four RMSE below the line it would be negative at low ``logMmin``, and <Ncen>
        would decrease with mass.
    log_mass_complete : float or None
        Halo mass above which the halo catalogue is complete [log10 Msun/h]. ``logMmin - n_sigma_complete * sigma_logM``
        must not be smaller, or too many centrals would be in halos that the catalogue does not contain.
    n_sigma_complete : float
        See ``log_mass_complete``. With 1.75 at most 1 % of the centrals are missing (halo mass function M^-0.9).
    logM0_max : float or None
        Largest ``logM0`` [log10 Msun/h]. Above it so few hosts have satellites that bins at small r are empty.
    """

    logMmin: tuple[LogMass, LogMass] = (11.0, 15.0)
    n_rmse: Annotated[float, Range(at_least=0.01, at_most=1000)] = 4.0
    sigma_logM_min: Annotated[float, Range(above=0)] = 0.01
    log_mass_complete: LogMass | None = None
    n_sigma_complete: Annotated[float, Range(at_least=0.01, at_most=1000)] = 1.75
    logM0_max: LogMass | None = None

    parameters: ClassVar[tuple[str, ...]] = PARAMETERS
    #: Fields that hold a lower and an upper limit.
    _pairs: ClassVar[tuple[str, ...]] = ("logMmin",)

    def __post_init__(self):
        for name in self._pairs:
            value = getattr(self, name)
            if isinstance(value, list) or (isinstance(value, np.ndarray) and value.ndim):
                object.__setattr__(self, name, tuple(value))
        check_fields(self)
        # Integers of numpy could overflow.
        for name, value in vars(self).items():
            if name in self._pairs or not (value is None or isinstance(value, tuple)):
                value = tuple(map(float, value)) if name in self._pairs else float(value)
                object.__setattr__(self, name, value)
        for name in self._pairs:
            low, high = getattr(self, name)
            if not low < high:
                raise ValueError(f"The lower end of {name} must be below its upper end; got {(low, high)}.")
        # Ranges are pieces of straight lines in logMmin, so they are narrowest at one of its ends.
        for logMmin in self.logMmin:
            for name in ZHENG07_LINE:
                low, high = self.bounds(name, logMmin)
                if not low < high:
                    raise ValueError(
                        f"At logMmin = {logMmin:g} no {name} is supported: its upper limit would be {high:.4g}, below "
                        f"its lower limit {low:.4g}. Raise the lower end of logMmin, lower log_mass_complete "
                        f"({self.log_mass_complete}), or raise logM0_max ({self.logM0_max})."
                    )

    def __repr__(self) -> str:
        parts = [
            f"logMmin {self.logMmin[0]:.5g} to {self.logMmin[1]:.5g}",
            f"the others within {self.n_rmse:.4g} RMSE of the Zheng et al. 2007 line",
            f"sigma_logM at least {self.sigma_logM_min:.4g}",
        ]
        if self.log_mass_complete is not None:
            parts[-1] += f" and at most (logMmin - {self.log_mass_complete:.6g}) / {self.n_sigma_complete:.4g}"
        if self.logM0_max is not None:
            parts.append(f"logM0 at most {self.logM0_max:.5g}")
        return f"{type(self).__name__}({'; '.join(parts)})"

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as a dictionary of plain values, for a file.

        Returns
        -------
        dict
        """
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Support:
        """Return the region of a dictionary from :meth:`to_dict`.

        Parameters
        ----------
        values : mapping

        Returns
        -------
        Support
        """
        return cls(**{**values, "logMmin": tuple(values["logMmin"])})

    def bounds(self, name: str, logMmin: Any) -> tuple[Any, Any]:
        """Return the range of one parameter.

        Parameters
        ----------
        name : str
            Name of the parameter.
        logMmin : float, array or tensor
            [log10 Msun/h]; not used for the strengths and ``logMmin`` itself, whose ranges do not depend on it.

        Returns
        -------
        low, high : floats, or arrays or tensors like ``logMmin``
        """
        if name in ALIGNMENT_PARAMETERS:
            return -1.0, 1.0
        if name == "logMmin":
            return self.logMmin
        fit = ZHENG07_LINE[name]
        low = fit(logMmin) - self.n_rmse * fit.rmse
        high = fit(logMmin) + self.n_rmse * fit.rmse
        if name == "sigma_logM":
            low = _at_least(low, self.sigma_logM_min)
            if self.log_mass_complete is not None:
                high = _at_most(high, (logMmin - self.log_mass_complete) / self.n_sigma_complete)
        if name == "logM0" and self.logM0_max is not None:
            high = _at_most(high, self.logM0_max)
        return low, high

    def inequalities(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the region as linear inequalities, ``matrix @ theta <= limits``.

        Returns
        -------
        matrix : array (m, n_parameters)
        limits : array (m,)
        """
        bounds = _linear_bounds(self, torch.float64, torch.device("cpu"))
        slope, low, high, cap_slope, cap, floor = (values.numpy() for values in bounds)
        own = np.eye(len(self.parameters))
        mass = own[self.parameters.index("logMmin")]
        matrix = np.concatenate([own - np.outer(slope, mass), np.outer(slope, mass) - own])
        matrix = np.concatenate([matrix, own - np.outer(cap_slope, mass), -own])
        limits = np.concatenate([high, -low, cap, -floor])
        return matrix[np.isfinite(limits)], limits[np.isfinite(limits)]

    def contains(self, theta: Theta) -> torch.Tensor:
        """Return whether each point lies in the supported region.

        Parameters
        ----------
        theta : mapping of names, array or tensor (..., n_parameters)

        Returns
        -------
        tensor of bool (...,)
        """
        return self._excess(as_theta(theta, self.parameters).detach()).amax(dim=-1) <= 0

    def nearest(self, theta: Theta) -> torch.Tensor:
        """Return the points with each parameter moved to the nearest value in its range.

        Parameters
        ----------
        theta : mapping of names, array or tensor (..., n_parameters)

        Returns
        -------
        tensor (..., n_parameters)
        """
        theta = as_theta(theta, self.parameters).detach().clone()
        index = self.parameters.index("logMmin")
        theta[..., index] = theta[..., index].clamp(*self.logMmin)
        for column, name in enumerate(self.parameters):
            low, high = self.bounds(name, theta[..., index])
            low, high = (torch.as_tensor(value, dtype=theta.dtype, device=theta.device) for value in (low, high))
            theta[..., column] = torch.minimum(torch.maximum(theta[..., column], low), high)
        return theta

    def _violations(self, theta: Theta) -> list[str]:
        """Return what is outside for the first point that is not supported, by parameter; [] if all points are."""
        theta = as_theta(theta, self.parameters).detach().reshape(-1, len(self.parameters))
        excess = self._excess(theta)
        outside = torch.nonzero(excess.amax(dim=-1) > 0).flatten()
        if len(outside) == 0:
            return []
        point = theta[outside[0]]
        nearest = self.nearest(point)
        # Ranges of the other parameters are given at a supported logMmin; elsewhere they may be empty.
        index = self.parameters.index("logMmin")
        moved = point.clone()
        moved[index] = nearest[index]
        excess = self._excess(moved)
        excess[index] = self._excess(point)[index]
        logMmin = float(nearest[index])
        sentences = []
        for column, name in enumerate(self.parameters):
            if excess[column] <= 0:
                continue
            low, high = (float(value) for value in self.bounds(name, logMmin))
            where = f" at {'' if moved[index] == point[index] else 'the nearest supported '}logMmin = {logMmin:.4g}"
            sentences.append(
                f"{name} = {float(point[column]):.6g} is outside [{low:.6g}, {high:.6g}]"
                f"{where if name in ZHENG07_LINE else ''} (nearest supported point: {float(nearest[column]):.6g})"
            )
        if len(outside) > 1:
            sentences.append(f"and {len(outside) - 1} more of {len(theta)} points are outside")
        return sentences

    def enforce(self, theta: Theta, policy: str = "raise", stacklevel: int = 3) -> torch.Tensor:
        """Raise, warn or do nothing if points lie outside the supported region.

        Parameters
        ----------
        theta : mapping of names, array or tensor (..., n_parameters)
        policy : "raise", "reject" or "warn"
            With "reject" nothing is raised: the caller assigns zero probability to points that are not inside.
        stacklevel : int
            Stack level of the warning, see ``warnings.warn``.

        Returns
        -------
        inside : tensor of bool, shape (...,)

        Raises
        ------
        SupportError
            A point is outside and the policy is "raise"; the message names parameter, value, range and the nearest
            supported value.
        ValueError
            The policy is unknown, or ``theta`` does not hold the parameters as finite real numbers.
        """
        if not isinstance(policy, str) or policy not in POLICIES:
            raise ValueError(f"support must be one of {', '.join(POLICIES)}; got {policy!r}.")
        inside = self.contains(theta)
        if policy != "reject" and not bool(inside.all()):
            message = "Outside the supported parameter region: " + "; ".join(self._violations(theta)) + "."
            if policy == "raise":
                raise SupportError(message)
            warnings.warn(message + " The prediction is an extrapolation.", SupportWarning, stacklevel=stacklevel)
        return inside

    def sample(self, n: int, rng: np.random.Generator) -> np.ndarray:
        """Draw points: ``logMmin`` uniform, and the other parameters uniform in their ranges at that ``logMmin``.

        Parameters
        ----------
        n : int
            Number of points.
        rng : numpy.random.Generator

        Returns
        -------
        array (n, n_parameters)

        Raises
        ------
        ValueError
            ``n`` is not a whole number, or negative.
        """
        Range(at_least=0).check("n", n, int)
        return self.from_unit_cube(rng.uniform(size=(n, len(self.parameters))))

    def from_unit_cube(self, unit: np.ndarray) -> np.ndarray:
        """Map points of the unit cube one-to-one to the supported region, for random or quasi-random points.

        Parameters
        ----------
        unit : array (n, n_parameters)
            Numbers in [0, 1].

        Returns
        -------
        array (n, n_parameters)

        Raises
        ------
        ValueError
            ``unit`` has another shape, or numbers outside [0, 1].
        """
        unit = real_array(unit, "unit")
        if unit.ndim != 2 or unit.shape[1] != len(self.parameters) or not np.all((unit >= 0) & (unit <= 1)):
            raise ValueError(
                f"unit must hold numbers in [0, 1] in the shape (n, {len(self.parameters)}); got shape {unit.shape}."
            )
        theta = np.empty_like(unit)
        index = self.parameters.index("logMmin")
        theta[:, index] = self.logMmin[0] + unit[:, index] * (self.logMmin[1] - self.logMmin[0])
        for column, name in enumerate(self.parameters):
            if name != "logMmin":
                low, high = self.bounds(name, theta[:, index])
                theta[:, column] = low + unit[:, column] * (high - low)
        return theta

    def _excess(self, theta: torch.Tensor) -> torch.Tensor:
        """Return how far each parameter lies outside its range, (..., n_parameters); 0 or less if it is inside.

        A tolerance for rounding is subtracted.
        """
        slope, low, high, cap_slope, cap, floor = _linear_bounds(self, theta.dtype, theta.device)
        logMmin = theta[..., self.parameters.index("logMmin"), None]
        line = slope * logMmin
        lowest = torch.maximum(line + low, floor)
        highest = torch.minimum(line + high, cap_slope * logMmin + cap)
        tolerance = 1e-9 if theta.dtype == torch.float64 else 1e-5
        return torch.maximum(lowest - theta, theta - highest) - tolerance


@lru_cache(maxsize=16)
def _linear_bounds(support: Support, dtype: torch.dtype, device: torch.device) -> tuple[torch.Tensor, ...]:
    """Return the limits of all parameters as pieces of straight lines in ``logMmin``, as :meth:`Support.bounds`.

    The tensors, each (n_parameters,), are: the slope, the offsets of the lower and the upper line, the slope and the
    offset of a second upper limit, and a constant lower limit.
    """
    n = len(support.parameters)
    slope, low, high = [0.0] * n, [0.0] * n, [0.0] * n
    cap_slope, cap, floor = [0.0] * n, [math.inf] * n, [-math.inf] * n
    for column, name in enumerate(support.parameters):
        if name in ZHENG07_LINE:
            fit = ZHENG07_LINE[name]
            slope[column] = fit.slope
            low[column] = fit.intercept - support.n_rmse * fit.rmse
            high[column] = fit.intercept + support.n_rmse * fit.rmse
        else:
            low[column], high[column] = support.bounds(name, None)
    sigma, logM0 = support.parameters.index("sigma_logM"), support.parameters.index("logM0")
    floor[sigma] = support.sigma_logM_min
    if support.log_mass_complete is not None:
        cap_slope[sigma] = 1.0 / support.n_sigma_complete
        cap[sigma] = -support.log_mass_complete / support.n_sigma_complete
    if support.logM0_max is not None:
        cap[logM0] = support.logM0_max
    values = (slope, low, high, cap_slope, cap, floor)
    return tuple(torch.tensor(value, dtype=dtype, device=device) for value in values)


def _at_most(values: Any, limit: Any) -> Any:
    if isinstance(values, torch.Tensor):
        return torch.minimum(values, torch.as_tensor(limit, dtype=values.dtype, device=values.device))
    return np.minimum(values, limit)


def _at_least(values: Any, limit: Any) -> Any:
    return -_at_most(-values, -limit)
