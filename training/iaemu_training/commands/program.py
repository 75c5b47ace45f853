"""What the entry points have in common: only the chosen command is imported, and an error is one line."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Mapping
from contextlib import suppress

from iaemu.extras import it_takes

#: Exit statuses that shells give a process that a signal ended.
_INTERRUPTED, _BROKEN_PIPE = 130, 141


def run(program: str, description: str, commands: Mapping[str, str], argv: list[str] | None = None) -> int:
    """Run the command that a command line chooses: ``main`` of the module of its name.

    A module whose ``RESUMES`` is true goes on where it was stopped, if it is run again.

    Parameters
    ----------
    program, description : str
    commands : mapping of str to str
        What each command does, by name.
    argv : list of str, optional
        By default that of the process, without the program.

    Returns
    -------
    int
        The exit status: 0; 1 after an error, which is one line; 130 after Ctrl-C; 141 if nobody reads what is printed.
    """
    argv = sys.argv[1:] if argv is None else argv
    name, module = program, None
    # A path that is no text, or a terminal that knows no Greek, is no reason to fail once the work is done.
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        try:
            parser = argparse.ArgumentParser(program, description=description)
            subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
            for command, text in commands.items():
                subparsers.add_parser(command, help=text)
            command = parser.parse_args(argv[:1]).command
            name = f"{program} {command}"
            module = importlib.import_module(f"iaemu_training.commands.{command.replace('-', '_')}")
            module.main(argparse.ArgumentParser(name, description=module.__doc__), argv[1:])
        finally:
            # Now, where an error of it is still the command's.
            if sys.stdout is not None:
                sys.stdout.flush()
    except KeyboardInterrupt:
        resumes = getattr(module, "RESUMES", False)
        _complain(name, "interrupted." + (" Run the same command again: it goes on." if resumes else ""))
        return _INTERRUPTED
    except BrokenPipeError:
        _discard_output()
        return _BROKEN_PIPE
    except ImportError as error:
        _complain(name, it_takes(error))
    except (ValueError, OSError, MemoryError) as error:
        _complain(name, str(error) or "out of memory.")
    else:
        return 0
    _discard_output()
    return 1


def _complain(name: str, message: str) -> None:
    """An error in one line, whatever it quotes."""
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
