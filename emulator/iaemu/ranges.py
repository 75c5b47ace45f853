"""Checks of numbers that users give: ranges, stated in the annotation of a field, and arrays of real numbers.

@dataclass(frozen=True)
class Settings:
    width: Annotated[float, Range(above=0, at_most=1)] = 0.1

    def __post_init__(self):
        check_fields(self)
"""

from __future__ import annotations

import math
import numbers
import reprlib
import types
import typing
from dataclasses import dataclass, fields
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Range:
    """A range of numbers; it never contains NaN.

    Attributes
    ----------
    above, below : float, optional
        Exclusive limits.
    at_least, at_most : float, optional
        Inclusive limits.
    infinite : bool
        Whether infinity is allowed where there is no limit.
    """

    above: float | None = None
    at_least: float | None = None
    below: float | None = None
    at_most: float | None = None
    infinite: bool = False

    def __contains__(self, value: Any) -> bool:
        return (
            (self.infinite or math.isfinite(value))
            and (self.above is None or value > self.above)
            and (self.at_least is None or value >= self.at_least)
            and (self.below is None or value < self.below)
            and (self.at_most is None or value <= self.at_most)
        )

    def __str__(self) -> str:
        limits = {"above": self.above, "at least": self.at_least, "below": self.below, "at most": self.at_most}
        shown = {
            word: limit if isinstance(limit, int) else f"{limit:g}"
            for word, limit in limits.items()
            if limit is not None
        }
        words = [f"{word} {limit}" for word, limit in shown.items()]
        return " and ".join(words) or "finite"

    def check(self, name: str, value: Any, kind: type = float, error: type[Exception] = ValueError) -> None:
        """Raise an exception unless a value is a number of the kind and in the range.

        Parameters
        ----------
        name : str
            Name of the value in messages.
        value : object
        kind : type
            ``int`` for whole numbers, ``float`` for real numbers. True and False are never accepted.
        error : type
            Class of the exception.
        """
        whole = kind is int
        what = "a whole number" if whole else "a number"
        wanted = numbers.Integral if whole else numbers.Real
        if not isinstance(value, wanted) or isinstance(value, bool):
            raise error(f"{name} must be {what}, {self}; got {short(value)}.")
        try:
            inside = value in self
        except OverflowError:
            inside = False
        if not inside:
            raise error(f"{name} must be {what}, {self}; got {short(value)}.")


#: A seed for numpy and torch.
Seed = typing.Annotated[int, Range(at_least=0, at_most=2**32 - 1)]


def check_fields(settings: Any, error: type[Exception] = ValueError) -> None:
    """Check all numbers of a dataclass against the ranges in its annotations.

    Parameters
    ----------
    settings : dataclass
        An instance whose fields are annotated ``Annotated[int, Range(...)]``, also in tuples or with ``| None``. A
        number without a range must be finite.
    error : type
        Class of the exception.
    """
    for name, (kinds, optional) in numbers_of(type(settings)).items():
        value = getattr(settings, name)
        if value is None and optional:
            continue
        several = len(kinds) > 1
        if several and (not isinstance(value, tuple) or len(value) != len(kinds)):
            raise error(f"{name} must be {len(kinds)} numbers; got {short(value)}.")
        for (kind, limits), entry in zip(kinds, value if several else (value,), strict=True):
            limits.check(name, entry, kind, error)


def number_of(wanted: Any) -> tuple[type, Range] | None:
    """Return the kind of number and the range in an annotation such as ``Annotated[int, Range(...)]`` or ``int``.

    Parameters
    ----------
    wanted : type
        An entry of ``typing.get_type_hints(..., include_extras=True)``.

    Returns
    -------
    (type, Range) or None
        ``int`` or ``float``, and the range; None if the annotation is not of a number.
    """
    limits = Range()
    if typing.get_origin(wanted) is typing.Annotated:
        wanted, *extras = typing.get_args(wanted)
        limits = next((extra for extra in extras if isinstance(extra, Range)), limits)
    return (wanted, limits) if wanted in (int, float) else None


def real_array(values: Any, name: str, error: type[Exception] = ValueError) -> np.ndarray:
    """Return an array of real numbers as a copy in float64, or raise an exception.

    Complex numbers, text, dates, True, False and masked entries are refused, also where numpy would convert them.

    Parameters
    ----------
    values : array, number, or nested sequence of numbers
        NaN and infinity are accepted.
    name : str
        Name in messages.
    error : type
        Class of the exception.

    Returns
    -------
    array of float64
    """
    try:
        array = np.asanyarray(values)
        masked = _is_masked(values)
    except Exception as reason:  # the object's own conversion may raise anything
        raise error(f"{name} must be an array of real numbers; got {short(values)}: {reason}") from reason
    if masked:
        raise error(f"{name} must be real numbers, but has masked entries. Fill them, or leave them out.")
    if array.dtype == object and all(
        isinstance(entry, numbers.Real) and not isinstance(entry, bool) for entry in array.flat
    ):
        try:
            return np.array([float(entry) for entry in array.flat]).reshape(array.shape)
        except OverflowError as reason:
            raise error(f"{name} must be real numbers within double precision; got {short(values)}.") from reason
    if array.dtype.kind not in "fiu":
        raise error(f"{name} must be real numbers, not of type {array.dtype}; got {short(values)}.")
    return np.array(array, dtype=np.float64)


def _is_masked(values: Any) -> bool:
    if isinstance(values, np.ma.MaskedArray):
        return bool(np.ma.is_masked(values))
    return isinstance(values, list | tuple) and any(map(_is_masked, values))


def numbers_of(settings_class: type) -> dict[str, tuple[list[tuple[type, Range]], bool]]:
    """Return the fields of a dataclass that hold numbers.

    Parameters
    ----------
    settings_class : type

    Returns
    -------
    dict of str to (list of (type, Range), bool)
        For each field, kind and range of each of its numbers, and whether None is allowed.
    """
    hints = typing.get_type_hints(settings_class, include_extras=True)
    found = {}
    for name in (field.name for field in fields(settings_class)):
        wanted, optional = hints[name], False
        if typing.get_origin(wanted) in (types.UnionType, typing.Union):
            choices = [choice for choice in typing.get_args(wanted) if choice is not type(None)]
            optional = len(choices) < len(typing.get_args(wanted))
            wanted = choices[0]
        parts = typing.get_args(wanted) if typing.get_origin(wanted) is tuple else (wanted,)
        kinds = [kind for part in parts if (kind := number_of(part)) is not None]
        if len(kinds) == len(parts):
            found[name] = (kinds, optional)
    return found


def short(value: Any) -> str:
    """Return a value's repr for a message, cut to 60 characters.

    Parameters
    ----------
    value : object
        Of any size and depth.

    Returns
    -------
    str
    """
    try:
        text = " ".join(_SHORT.repr(value).split())
    except ValueError:  # Python does not print whole numbers of more than 4300 digits.
        text = "a number of thousands of digits"
    except Exception:
        text = f"an object of type {type(value).__name__}"
    return text if len(text) <= 60 else text[:57] + "..."


_SHORT = reprlib.Repr()
_SHORT.maxlevel, _SHORT.maxstring, _SHORT.maxlong, _SHORT.maxother = 2, 80, 80, 80
