"""Check the options of Cobaya components against their annotations: type, range, and whether null is allowed."""

from __future__ import annotations

import inspect
import reprlib
import typing
from typing import Any

import torch
from cobaya.log import LoggedError
from cobaya.typing import validate_type

from iaemu.ranges import Range, number_of


class ChecksOptions:
    """Mixin for Cobaya components that raises a LoggedError with the name of an option that is not valid.

    Options are the annotated attributes of the classes of this package. Numbers can have a range, as in
    ``Annotated[int, Range(at_least=1)]``. Cobaya's own check has no ranges, and raises a TypeError, which ends a run
    with a traceback.
    """

    log: Any

    @classmethod
    def _get_desc(cls, info: Any = None) -> str:
        """Return the first paragraph of the docstring, for ``cobaya-bib``."""
        return inspect.cleandoc(cls.__doc__ or "").partition("\n\n")[0]

    def validate_info(self, name: str, value: Any, annotations: dict) -> None:
        """Do nothing. Cobaya's method would raise an AttributeError for options that are True or False.

        Parameters
        ----------
        name, value, annotations
            Not used.
        """

    def validate_attributes(self, annotations: dict) -> None:
        """Check all options, before Cobaya calls ``initialize``.

        Parameters
        ----------
        annotations : dict
            Types of all attributes, by name.

        Raises
        ------
        LoggedError
            An option has the wrong type, or is out of its range; or the default device of torch is not the CPU.
        """
        # Before version 2.3, torch had no function for this.
        device = getattr(torch, "get_default_device", lambda: torch.device("cpu"))()
        if device.type != "cpu":
            message = "torch's default device is %s, but Cobaya runs on the CPU: call torch.set_default_device('cpu')."
            raise LoggedError(self.log, message, device)
        ours = [cls for cls in type(self).__mro__ if cls.__module__.partition(".")[0] == __name__.partition(".")[0]]
        names = {name for cls in ours for name in vars(cls).get("__annotations__", {})}
        ranges, types = typing.get_type_hints(type(self), include_extras=True), typing.get_type_hints(type(self))
        for name in annotations:
            value = getattr(self, name, None)
            try:
                if name in names:
                    _check(name, value, ranges[name])
                validate_type(types[name], value, name)
            except _Refused as error:
                # Cobaya prints the whole traceback, so keep it short.
                raise LoggedError(self.log, "%s", error) from None
            except (TypeError, ValueError, RuntimeError) as error:
                # Cobaya's check compares values, which fails for arrays and tensors.
                raise LoggedError(self.log, "%s: %s; got %s.", name, error, reprlib.repr(value)) from None


class _Refused(ValueError):
    """An option that is not valid."""


def _check(name: str, value: Any, wanted: Any) -> None:
    """Check that a number is in its range, and that None is allowed."""
    choices = typing.get_args(wanted) if typing.get_origin(wanted) is not typing.Annotated else (wanted,)
    choices = choices or (wanted,)
    if value is None:
        if any(choice in (str, bool) or number_of(choice) for choice in choices) and type(None) not in choices:
            known = number_of(wanted)
            if known is None:
                raise _Refused(f"{name} must not be null. Omit it to get its default.")
            known[1].check(name, value, known[0], _Refused)
        return
    found = [number_of(choice) for choice in choices if choice is not type(None)]
    # Check the range if the option can only be a number.
    if found and all(found):
        kind, limits = next(entry for entry in found if entry is not None)
        limits.check(name, value, kind, _Refused)


def check_seed(seed: Any, log: Any) -> None:
    """Check that a seed is a whole number of at least 0, or a list of them.

    Parameters
    ----------
    seed : object
    log : logging.Logger

    Raises
    ------
    LoggedError
        The seed is something else.
    """
    several = isinstance(seed, typing.Sequence) and not isinstance(seed, str | bytes)
    try:
        for entry in seed if several else [seed]:
            Range(at_least=0).check("seed", entry, int)
    except ValueError as error:
        raise LoggedError(log, "%s", error) from error
