"""Write the explorer, a page with sliders for all parameters and curves beside data, and open it in the browser.

The page is one HTML file, which holds the emulator and the data of TNG300 and LOWZ: it needs no server and no network,
and can be sent to others. Its address holds what it shows.
"""

from __future__ import annotations

import argparse
import webbrowser
from pathlib import Path

from iaemu_training.commands.options import add_output, read_options
from iaemu_training.commands.printing import note


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command.

    Parameters
    ----------
    parser : argparse.ArgumentParser
    """
    default = Path("explorer.html")
    add_output(parser, "page to write (default: %(default)s); an older one is replaced", default=default)
    parser.add_argument("--no-browser", action="store_true", help="do not open it")


def main(parser: argparse.ArgumentParser, argv: list[str]) -> None:
    """Run the command."""
    add_options(parser)
    arguments = read_options(parser, argv, suffixes=(".html", ".htm"))
    from iaemu_cobaya.explorer.build import write_explorer

    write_explorer(arguments.output)
    note(arguments, f"wrote {arguments.output}")
    if not arguments.no_browser and not webbrowser.open(arguments.output.resolve().as_uri()):
        note(arguments, "No browser was found; open the file in one.")
