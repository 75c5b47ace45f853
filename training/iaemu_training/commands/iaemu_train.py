"""``iaemu train``: from halo catalogues to tables, data sets and trained networks."""

from __future__ import annotations

import sys

from iaemu_training.commands.program import Command, run_program

_HOME = "iaemu_training.commands"
COMMANDS = {
    "simulate": Command(f"{_HOME}.simulate", "simulate boxes of dark matter, and make their halo catalogues"),
    "tabulate": Command(f"{_HOME}.tabulate", "make tables of a halo catalogue"),
    "box-error": Command(f"{_HOME}.box_error", "estimate the error of predictions from the finite size of the boxes"),
    "dataset": Command(f"{_HOME}.dataset", "make a training set: labels from tables, and halotools-IA mocks"),
    "check": Command(f"{_HOME}.check", "compare the mocks of a data set with its labels"),
    "fit": Command(f"{_HOME}.fit", "train an emulator"),
    "evaluate": Command(f"{_HOME}.evaluate", "report the errors of an emulator on held-out mocks"),
    "card": Command(f"{_HOME}.card", "print the model card of an emulator"),
    "pack": Command(f"{_HOME}.pack", "reduce a halo catalogue to the columns that mocks and tables use"),
}


def main(argv: list[str] | None = None, program: str = "iaemu-train") -> int:
    """Entry point ``iaemu-train``; the exit code."""
    description = "From halo catalogues to tables, training sets and trained emulators."
    return run_program(program, description, {"commands": COMMANDS}, argv)


if __name__ == "__main__":
    sys.exit(main())
