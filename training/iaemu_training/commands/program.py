"""What all programs share: only the chosen command is imported, an error is one line, and exit codes."""

from __future__ import annotations

import argparse
import importlib
import logging
import os
import sys
import warnings
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import NamedTuple

from iaemu import __version__
from iaemu.extras import it_takes

#: Exit codes that shells give to a process that a signal ended.
_INTERRUPTED, _BROKEN_PIPE = 130, 141

VERSION = f"iaemu {__version__}"

EXIT_CODES = """\
exit codes:
  0    done
  1    an error, told in one line; older outputs are unchanged
  2    a command or option that does not exist, or a value out of its range
  130  stopped with Ctrl-C
  141  the reader of the output has ended, as in "iaemu ... | head"
"""


class _Paragraphs(argparse.HelpFormatter):
    """Keeps the paragraphs of a description."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        paragraphs = text.strip().split("\n\n")
        return "\n\n".join(super(_Paragraphs, self)._fill_text(part, width, indent) for part in paragraphs)


class Command(NamedTuple):
    """A command: the module that runs it, and what it does in one line."""

    module: str
    text: str


def run_program(
    program: str,
    description: str,
    groups: Mapping[str, Mapping[str, Command]],
    argv: list[str] | None = None,
    completion: Callable[[str], str] | None = None,
) -> int:
    """Run the command that a command line names first.

    Parameters
    ----------
    program, description : str
    groups : mapping of heading to commands by name
        A name of several words, such as ``train fit``, is listed, but not run.
    argv : list of str, optional
        By default the arguments of the process.
    completion : callable, optional
        The script for a shell, which ``--print-completion`` prints.

    Returns
    -------
    int
        The exit code, as of :func:`run_command`.
    """
    argv = sys.argv[1:] if argv is None else argv
    commands = {name: command for group in groups.values() for name, command in group.items()}
    if argv and argv[0] in commands:
        return run_command(f"{program} {argv[0]}", commands[argv[0]].module, argv[1:])
    parser = argparse.ArgumentParser(
        program,
        usage="%(prog)s COMMAND ...",
        description=description,
        epilog=f'"{program} COMMAND --help" lists the options of a command.\n\n{EXIT_CODES}',
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=VERSION, help="print the version, and stop")
    if completion is not None:
        parser.add_argument(
            "--print-completion",
            metavar="SHELL",
            choices=("bash", "zsh", "tcsh"),
            help="print the script that completes commands and options in bash, zsh or tcsh, and stop",
        )
    width = max(map(len, commands))
    for heading, group in groups.items():
        lines = [f"  {name:<{width}}  {command.text}" for name, command in group.items()]
        parser.add_argument_group(heading, "\n".join(lines))
    parser.add_argument("command", nargs="?", choices=list(commands), metavar="COMMAND", help=argparse.SUPPRESS)

    def without_command() -> None:
        arguments = parser.parse_args(argv)
        if completion is None or arguments.print_completion is None:
            parser.error("the following arguments are required: COMMAND")
        print(completion(arguments.print_completion), end="")

    return _run(program, without_command)


def run_command(name: str, module: str, argv: list[str] | None = None) -> int:
    """Run ``main`` of a module, which may return an exit code.

    A module whose ``RESUMES`` is true continues where it was stopped, if it is run again.

    Parameters
    ----------
    name : str
        What messages call the command: ``iaemu measure``.
    module : str
    argv : list of str, optional
        By default the arguments of the process.

    Returns
    -------
    int
        The exit code: 0; 1 after an error, which is one line; 130 after Ctrl-C; 141 if nobody reads the output.
    """
    loaded = None

    def main() -> int | None:
        nonlocal loaded
        loaded = importlib.import_module(module)
        parser = argparse.ArgumentParser(name, description=loaded.__doc__, formatter_class=_Paragraphs)
        return loaded.main(parser, sys.argv[1:] if argv is None else argv)

    return _run(name, main, lambda: getattr(loaded, "RESUMES", False))


def _run(name: str, main: Callable[[], int | None], resumes: Callable[[], bool] = lambda: False) -> int:
    # A path that is no text, or a terminal that knows no Greek, is no reason to fail once the work is done.
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="backslashreplace")
    disabled = logging.root.manager.disable
    try:
        try:
            with warnings.catch_warnings():  # --quiet changes these, and the level of logging
                return main() or 0
        finally:
            logging.disable(disabled)
            # Now, where an error of it is still the command's.
            if sys.stdout is not None:
                sys.stdout.flush()
    except KeyboardInterrupt:
        complain(name, "interrupted." + (" Run the same command again: it resumes." if resumes() else ""))
        return _INTERRUPTED
    except BrokenPipeError:
        _discard_output()
        return _BROKEN_PIPE
    except ImportError as error:
        complain(name, it_takes(error))
    except (ValueError, OSError, MemoryError) as error:
        complain(name, str(error) or "out of memory.")
    _discard_output()
    return 1


def complain(name: str, message: str) -> None:
    """Print an error or a warning in one line on stderr.

    Parameters
    ----------
    name : str
        Of the command.
    message : str
    """
    with suppress(OSError):  # nobody may read this either
        print(f"{name}: {' '.join(line.strip() for line in message.splitlines())}", file=sys.stderr)


def _discard_output() -> None:
    """What is still in the buffer and cannot be written would be complained of once more when the process ends."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except AttributeError:  # closed: None
        pass
