"""``iaemu-train``: catalogues in; tables, data sets and trained networks out."""

from __future__ import annotations

import sys

from iaemu_training.commands.program import run

COMMANDS = {
    "tabulate": "tabulate expected pair sums of halo catalogues",
    "box-error": "find the error that the size of the catalogues' boxes gives to predictions",
    "dataset": "make a training set: noise-free labels, and halotools-IA mocks at a subset of points",
    "check": "compare the mocks of a data set with its noise-free labels",
    "fit": "train a network: FactorisedNet on tables, or IAEmuNet on mocks",
    "evaluate": "report how good an emulator is on the held-out points of a data set",
    "card": "print the model card of an emulator",
    "pack": "pack a halo catalogue in 16-bit integers",
}


def main(argv: list[str] | None = None) -> int:
    """Entry point; the exit status."""
    description = "From halo catalogues to tables of pair sums, training sets and trained emulators."
    return run("iaemu-train", description, COMMANDS, argv)


if __name__ == "__main__":
    sys.exit(main())
