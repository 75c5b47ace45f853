"""What the entry points have in common: only the chosen command is imported, and an error is one line."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Mapping


def run(program: str, description: str, commands: Mapping[str, str], argv: list[str] | None = None) -> int:
    """Run the command that a command line chooses: ``main`` of the module of its name.

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
        The exit status: 1 after an error, else 0.
    """
    argv = sys.argv[1:] if argv is None else argv
    parser = argparse.ArgumentParser(program, description=description)
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, text in commands.items():
        subparsers.add_parser(name, help=text)
    command = parser.parse_args(argv[:1]).command
    try:
        module = importlib.import_module(f"iaemu_training.commands.{command.replace('-', '_')}")
        module.main(argparse.ArgumentParser(f"{program} {command}", description=module.__doc__), argv[1:])
        sys.stdout.flush()
    except BrokenPipeError:
        # Whoever read the output has seen enough ("| head -1"). Python would write the rest once more at the end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except ImportError as error:
        needs = "" if "pip install" in str(error) else ". It takes: pip install 'iaemu-cobaya[training]'"
        print(f"{program} {command}: {error}{needs}", file=sys.stderr)
        return 1
    except (ValueError, OSError) as error:
        print(f"{program} {command}: {error}", file=sys.stderr)
        return 1
    return 0
