"""A script that completes commands and options in a shell, made by shtab from all parsers."""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Mapping
from pathlib import Path

from iaemu.extras import it_takes
from iaemu_training.commands.options import add_common
from iaemu_training.commands.program import VERSION, Command

#: Arguments that are files, or may be, though they are not read as paths.
_NAMES_OF_FILES = ("CHAIN", "CATALOGUE", "ARTIFACT", "EDGES", "NAME|FILE")


def completion_script(program: str, groups: Mapping[str, Mapping[str, Command]], shell: str) -> str:
    """Return the script for a shell.

    Parameters
    ----------
    program : str
    groups : mapping of heading to commands by name
        As of :func:`iaemu_training.commands.program.run_program`.
    shell : {"bash", "zsh", "tcsh"}

    Returns
    -------
    str
    """
    try:
        import shtab
    except ImportError as error:
        raise ImportError(it_takes(f"{error}. It takes: pip install shtab")) from error
    parser = full_parser(program, groups)
    for action in _all_actions(parser):
        if action.type is Path or action.metavar in _NAMES_OF_FILES:
            action.complete = shtab.FILE  # type: ignore[attr-defined]
    return shtab.complete(parser, shell) + "\n"


def full_parser(program: str, groups: Mapping[str, Mapping[str, Command]]) -> argparse.ArgumentParser:
    """Build the parser of a program with those of all its commands.

    Commands whose libraries are not installed have no options in it.

    Parameters
    ----------
    program : str
    groups : mapping of heading to commands by name

    Returns
    -------
    argparse.ArgumentParser
    """
    parser = argparse.ArgumentParser(program)
    parser.add_argument("--version", action="version", version=VERSION)
    parents = {"": parser.add_subparsers()}
    for group in groups.values():
        for name, command in group.items():
            parent, _, last = name.rpartition(" ")
            if parent not in parents:
                parents[parent] = parents[""].add_parser(parent, help=parent).add_subparsers()
            # The texts are for people: shells would run what stands between backquotes.
            child = parents[parent].add_parser(last, help=command.text.replace("`", "'"))
            try:
                importlib.import_module(command.module).add_options(child)
            except ImportError:
                continue
            add_common(child)
    return parser


def _all_actions(parser: argparse.ArgumentParser) -> list[argparse.Action]:
    found: list[argparse.Action] = []
    for action in parser._actions:
        found.append(action)
        if isinstance(action, argparse._SubParsersAction):
            for child in action.choices.values():
                found += _all_actions(child)
    return found
