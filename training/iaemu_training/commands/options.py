"""Options of a command, from the dataclass that they fill: names, types, defaults and help are stated there once."""

from __future__ import annotations

import argparse
import logging
import math
import os
import re
import sys
import warnings
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import fields, is_dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from iaemu.ranges import Range, numbers_of
from iaemu_training.commands.program import VERSION


def add_settings(
    parser: argparse.ArgumentParser | argparse._ArgumentGroup,
    settings: Any,
    prefix: str = "",
    skip: Collection[str] = (),
    defaults: bool = True,
    **special: dict,
) -> None:
    """Add an option for each field of settings, with hyphens: ``--n-mocked``, ``--one-halo-dlog-mass``.

    Ranges are those that the fields are annotated with.

    Parameters
    ----------
    parser : argparse.ArgumentParser or argument group
    settings : dataclass
        Holds the defaults; a field may be a dataclass itself.
    prefix : str
        Of the names, with a dot at its end, if the settings are a field of others.
    skip : collection of str
        Fields that get no option.
    defaults : bool
        Whether the help states them.
    **special : dict
        By field: keywords for ``add_argument`` in place of its own, and ``flags``, further names.
    """
    texts, numbers = _help_texts(type(settings)), numbers_of(type(settings))
    for name in (field.name for field in fields(settings) if field.name not in skip):
        value = getattr(settings, name)
        if is_dataclass(value):
            add_settings(parser, value, f"{prefix}{name}.", defaults=defaults)
            continue
        keywords: dict[str, Any] = {"dest": prefix + name, "default": argparse.SUPPRESS, "help": texts.get(name)}
        notes = []
        if name in numbers:
            kinds, optional = numbers[name]
            keywords["type"] = partial(_read_number, *kinds[0], optional)
            if len(kinds) > 1:
                keywords["nargs"] = len(kinds)
            if kinds[0][1] != Range():
                notes.append(str(kinds[0][1]))
        keywords |= special.get(name, {})
        if "choices" not in keywords:
            keywords["metavar"] = name.upper()
        if defaults:
            shown = " ".join(map(str, value)) if isinstance(value, tuple) else value
            notes.append(f"default: {shown}")
        if notes:
            keywords["help"] = f"{keywords['help'] or ''} ({'; '.join(notes)})".lstrip()
        flags = keywords.pop("flags", ())
        parser.add_argument(option_of(prefix + name), *flags, **keywords)


def option_of(name: str) -> str:
    """Return the option of a parameter or field: ``--mu-cen``, ``--logmmin``, ``--one-halo-dlog-mass``.

    Parameters
    ----------
    name : str

    Returns
    -------
    str
    """
    return "--" + re.sub("[._]", "-", name).lower()


def add_output(parser: argparse.ArgumentParser, text: str, metavar: str = "FILE", **keywords: Any) -> None:
    """Add the option ``--output``.

    Parameters
    ----------
    parser : argparse.ArgumentParser
    text : str
        Its help.
    metavar : str
    **keywords : dict
        For ``add_argument``; by default it is required.
    """
    keywords = {"required": "default" not in keywords} | keywords
    parser.add_argument("-o", "--output", type=Path, metavar=metavar, help=text, **keywords)


def add_json(parser: argparse.ArgumentParser, what: str) -> None:
    """Add the option ``--json``.

    Parameters
    ----------
    parser : argparse.ArgumentParser
    what : str
        That is printed.
    """
    parser.add_argument("--json", action="store_true", help=f"print {what} as one JSON document, and nothing else")


def add_common(parser: argparse.ArgumentParser) -> None:
    """Add the options of all commands, if they are not there.

    Parameters
    ----------
    parser : argparse.ArgumentParser
    """
    if "--quiet" in parser._option_string_actions:
        return
    parser.add_argument(
        "-q", "--quiet", action="store_true", help="print results and errors only: no progress bars, notes or warnings"
    )
    parser.add_argument("--version", action="version", version=VERSION, help="print the version, and stop")


def number(kind: type, **limits: Any) -> Callable[[str], Any]:
    """What reads a number of an option: ``type=number(float, above=0)``.

    Parameters
    ----------
    kind : int or float
    **limits : float
        As of :class:`iaemu.ranges.Range`.

    Returns
    -------
    callable
        Raises argparse.ArgumentTypeError, so that the error names the option.
    """
    return partial(_read_number, kind, Range(**limits), False)


def log10_mass(text: str) -> float:
    """Read log10 of a mass in Msun/h that an option gives.

    Parameters
    ----------
    text : str

    Returns
    -------
    float

    Raises
    ------
    argparse.ArgumentTypeError
        It is not from 5 to 20; of a mass itself the message gives log10.
    """
    try:
        return _read_number(float, Range(at_least=5, at_most=20), False, text)
    except argparse.ArgumentTypeError as error:
        with suppress(ValueError):
            if 1e5 <= float(text) <= 1e20:
                raise argparse.ArgumentTypeError(
                    f"{str(error).rstrip('.')}. It is log10 of a mass: give {math.log10(float(text)):.4g}"
                ) from None
        raise


def add_tables(parser: argparse.ArgumentParser) -> None:
    """Add the options of what is made from tables together with their catalogues.

    Parameters
    ----------
    parser : argparse.ArgumentParser
    """
    parser.add_argument("--tables", type=Path, metavar="FILE", help="tables (.safetensors; default: the shipped ones)")
    parser.add_argument(
        "-c",
        "--catalogue",
        action="append",
        help="halo catalogue that the tables were made from; may be repeated (default: those that the tables name, if "
        "they are shipped or in halotools' cache)",
    )


def add_workers(parser: argparse.ArgumentParser, text: str) -> None:
    """Add the options ``--workers`` and ``--dask``.

    Parameters
    ----------
    parser : argparse.ArgumentParser
    text : str
        What the workers are, and their default.
    """
    parser.add_argument(
        "--workers",
        type=number(int, at_least=1, at_most=1024),
        metavar="N",
        help=f"{text}; or SLURM jobs (default: 1)",
    )
    parser.add_argument(
        "--dask",
        nargs="?",
        const="local",
        metavar="CLUSTER",
        help="run on Dask: local (default), slurm (configured in ~/.config/dask/jobqueue.yaml), or the address or "
        "scheduler file of a running scheduler",
    )


def read_options(
    parser: argparse.ArgumentParser,
    argv: list[str],
    folder: bool = False,
    suffixes: Collection[str] = (),
    positional: bool = False,
    check: bool = True,
) -> argparse.Namespace:
    """Add the common options, read a command line, and check before any work whether ``output`` can be written.

    Options may be spelled with upper case and underscores too, as they were before: ``--logMmin``, ``--mu_cen``.

    Parameters
    ----------
    parser : argparse.ArgumentParser
    argv : list of str
    folder : bool
        Whether ``output`` is a folder, which need not exist.
    suffixes : collection of str
        What its name may end in, if not anything.
    positional : bool
        Whether the output may be given as the last word without ``--output``, as it was before.
    check : bool
        Whether to check the output here.

    Returns
    -------
    argparse.Namespace

    Raises
    ------
    ValueError
        See :func:`check_output`; or the name ends in something else.
    """
    add_common(parser)
    arguments = _parse(parser, argv, positional)
    if arguments.quiet:
        warnings.simplefilter("ignore")
        logging.disable(logging.WARNING)
    output = getattr(arguments, "output", None)
    if output is None or not check:
        return arguments
    if suffixes and output.suffix.lower() not in suffixes:
        raise ValueError(f"{output}: name the file {' or '.join(suffixes)}, which is what is written.")
    check_output(output, folder, arguments)
    return arguments


def _parse(parser: argparse.ArgumentParser, argv: list[str], positional: bool) -> argparse.Namespace:
    known = parser._option_string_actions
    argv = [_spelled_with_dashes(word, known) for word in argv]
    for word in argv:
        if word.startswith("--") and word.endswith("=--"):  # of which argparse makes an empty list
            parser.error(f"argument {word.removesuffix('=--')}: expected one argument")
    action = known.get("--output")
    if not positional or action is None or not action.required:
        return parser.parse_args(argv)
    # Required in the help only: it may still come as a word.
    parser.usage = parser.format_usage().removeprefix("usage: ").strip().replace("%", "%%")
    action.required = False
    arguments, words = parser.parse_known_args(argv)
    words = words[1:] if words[:1] == ["--"] else words
    if arguments.output is None and len(words) == 1 and (not words[0].startswith("-") or words == ["-"]):
        arguments.output = Path(words.pop())
    if words:
        parser.error(f"unrecognized arguments: {' '.join(words)}")
    if arguments.output is None and not getattr(arguments, "show", False):  # which writes nothing
        parser.error("the following arguments are required: -o/--output")
    return arguments


def _spelled_with_dashes(word: str, known: Collection[str]) -> str:
    name, equals, value = word.partition("=")
    spelled = option_of(name[2:]) if name.startswith("--") else name
    return f"{spelled}{equals}{value}" if spelled in known else word


def shows_progress(arguments: argparse.Namespace) -> bool:
    """Tell whether a command shows its progress, as :class:`iaemu.progress.tqdm` does: without ``--quiet``.

    Parameters
    ----------
    arguments : argparse.Namespace

    Returns
    -------
    bool
    """
    return not arguments.quiet and sys.stderr is not None


def check_output(output: Path, folder: bool = False, inputs: argparse.Namespace | None = None) -> None:
    """Refuse an output that cannot be written, as far as one can know beforehand.

    Parameters
    ----------
    output : Path
    folder : bool
        Whether it is a folder, which need not exist.
    inputs : argparse.Namespace, optional
        Options whose files it must not destroy.

    Raises
    ------
    ValueError
        It is a folder, or is none; its folder does not exist, or nothing may be written there; or it is an input.
    """
    if folder and os.path.exists(output):
        if not os.path.isdir(output):
            raise ValueError(f"{output} is a file; give the name of a folder.")
        parent = output
    else:
        if os.path.isdir(output):
            raise ValueError(f"{output} is a folder; give the name of a file.")
        # Of a link, its target is written.
        parent = Path(os.path.realpath(output)).parent
        if not os.path.isdir(parent):
            raise ValueError(f"The folder {output.parent} does not exist; make it first.")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise ValueError(f"Nothing can be written in the folder {parent}; choose another, or change its permissions.")
    for name, value in vars(inputs).items() if inputs is not None else ():
        for given in value if isinstance(value, list | tuple) else [value]:
            if name != "output" and isinstance(given, str | Path) and _same_file(output, given):
                raise ValueError(f"The output {output} is the {name} itself; give it another name.")


def changed_settings(settings: Any, arguments: argparse.Namespace, prefix: str = "") -> Any:
    """Settings with the values that options give.

    Parameters
    ----------
    settings : dataclass
    arguments : argparse.Namespace
    prefix : str
        As for :func:`add_settings`.

    Returns
    -------
    dataclass
    """
    changes = {}
    for name in (field.name for field in fields(settings)):
        value = getattr(settings, name)
        if is_dataclass(value):
            changes[name] = changed_settings(value, arguments, f"{prefix}{name}.")
        elif hasattr(arguments, prefix + name):
            given = getattr(arguments, prefix + name)
            changes[name] = tuple(given) if isinstance(value, tuple) else given
    return replace(settings, **changes)


def _same_file(path: Path, other: str | Path) -> bool:
    try:
        return os.path.samefile(path, other)
    except (OSError, ValueError):  # one is not there, or has a name that no file can have
        return False


def _help_texts(settings_class: type) -> dict[str, str]:
    """What the docstrings of a dataclass and of those that it inherits from say of each field."""
    import docstring_parser  # of the extra 'training': the rest of the package does without

    texts: dict[str, str] = {}
    for part in settings_class.__mro__[-2::-1]:
        for parameter in docstring_parser.parse(part.__doc__ or "").params:
            if parameter.description:
                text = re.sub(r":\w+:`~?([^`]*)`|``", r"\1", parameter.description).replace("%", "%%")
                texts |= dict.fromkeys(parameter.arg_name.split(", "), text)
    return texts


def _read_number(kind: type, limits: Range, optional: bool, text: str) -> Any:
    if optional and text == "null":
        return None
    try:
        value = kind(text)
    except ValueError:
        value = text
    limits.check("it, unless null," if optional else "it", value, kind, argparse.ArgumentTypeError)
    return value
