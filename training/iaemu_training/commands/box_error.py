"""A jackknife over regions of the halo catalogues that tables were made from, as a function of the occupation.

It is what the models' deviations() needs. About 10 minutes of one core for two boxes of 160 Mpc/h. If killed, run the
same command again: it goes on.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from iaemu.files import remove_leftovers
from iaemu.models.tables import TabulatedModel
from iaemu_training.commands.options import add_settings, add_tables, changed_settings, read_options
from iaemu_training.halos.catalogue import HaloCatalogue
from iaemu_training.tables.box_error import BoxErrorSettings, make_box_error
from iaemu_training.work.parts import remove_parts

#: Run again, it goes on.
RESUMES = True


def main(parser: argparse.ArgumentParser, argv: list[str]) -> None:
    parser.add_argument("output", type=Path, help="box error to write (.safetensors)")
    add_tables(parser)
    add_settings(parser, BoxErrorSettings(), n_held_out={"flags": ["--held-out"]})
    arguments = read_options(parser, argv)

    tables = TabulatedModel.load(arguments.tables)
    catalogues = [HaloCatalogue.load(name) for name in arguments.catalogue or tables.metadata["catalogues"]]
    folder = arguments.output.with_name(arguments.output.name + ".parts")
    box_error = make_box_error(catalogues, tables, folder, changed_settings(BoxErrorSettings(), arguments))
    remove_leftovers(arguments.output)
    box_error.save(arguments.output)
    remove_parts(folder)
    if "held_out" in box_error.metadata:
        print("Standard errors over those of direct counts, at held-out points:")
        print(json.dumps(box_error.metadata["held_out"]["sigma_ratio"], indent=2))
    print(f"Box error of {', '.join(c.name for c in catalogues)} written to {arguments.output}.")
