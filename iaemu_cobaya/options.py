"""Options of Cobaya components, held against what their annotations state: type, range, and whether null will do."""

from __future__ import annotations

import reprlib
import typing
from typing import Any

import torch
from cobaya.log import LoggedError
from cobaya.typing import validate_type

from iaemu.ranges import Range, number_of


class ChecksOptions:
    """Mixin for Cobaya components: what is wrong with an option of theirs is a LoggedError that names it.

    Options are the annotated attributes of the classes of this package; numbers may have a range, as in
    ``Annotated[int, Range(at_least=1)]``. Cobaya's own check raises TypeError, which ends a run in a traceback, and has
    no ranges.
    """

    log: Any

    def validate_info(self, name: str, value: Any, annotations: dict) -> None:
        """Nothing: Cobaya looks at True and False here already, with an AttributeError.

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
            Of all attributes, by name.

        Raises
        ------
        LoggedError
            One is of another type, or out of its range; or torch makes its tensors on another device than the CPU.
        """
        # Where torch lacks the question (before 2.3), nobody has asked for another device.
        device = getattr(torch, "get_default_device", lambda: torch.device("cpu"))()
        if device.type != "cpu":
            message = "torch's default device is %s, but this runs on the CPU: call torch.set_default_device('cpu')."
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
                # Cobaya prints the whole traceback: no longer than need be.
                raise LoggedError(self.log, "%s", error) from None
            except (TypeError, ValueError, RuntimeError) as error:
                # The comparisons of Cobaya's check fail on arrays and tensors.
                raise LoggedError(self.log, "%s: %s; got %s.", name, error, reprlib.repr(value)) from None


class _Refused(ValueError):
    """An option that will not do."""


def _check(name: str, value: Any, wanted: Any) -> None:
    """See that a number is in its range, and that None stands only where it may."""
    choices = typing.get_args(wanted) if typing.get_origin(wanted) is not typing.Annotated else (wanted,)
    choices = choices or (wanted,)
    if value is None:
        if any(choice in (str, bool) or number_of(choice) for choice in choices) and type(None) not in choices:
            known = number_of(wanted)
            if known is None:
                raise _Refused(f"{name} must not be null: leave it out for its default.")
            known[1].check(name, value, known[0], _Refused)
        return
    found = [number_of(choice) for choice in choices if choice is not type(None)]
    # A number is checked where nothing else will do.
    if found and all(found):
        kind, limits = next(entry for entry in found if entry is not None)
        limits.check(name, value, kind, _Refused)


def check_seed(seed: Any, log: Any) -> None:
    """See that numpy takes a seed: a whole number that is not negative, or several.

    Parameters
    ----------
    seed : object
    log : logging.Logger

    Raises
    ------
    LoggedError
        It does not.
    """
    several = isinstance(seed, typing.Sequence) and not isinstance(seed, str | bytes)
    try:
        for entry in seed if several else [seed]:
            Range(at_least=0).check("seed", entry, int)
    except ValueError as error:
        raise LoggedError(log, "%s", error) from error
