"""Estimate the box error: the error of predictions because the halo catalogue of the tables is finite.

It is a jackknife over regions of the catalogue, as a function of the occupation. Models use it for deviations() and
emulator_error. Takes about 10 minutes of one core for two boxes of 160 Mpc/h. If it is interrupted, run the same
command again: it resumes.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping

from iaemu.files import remove_leftovers
from iaemu.models.tables import TabulatedModel
from iaemu_training.commands.options import (
    add_json,
    add_output,
    add_settings,
    add_tables,
    changed_settings,
    read_options,
    shows_progress,
)
from iaemu_training.commands.printing import note, show
from iaemu_training.halos.catalogue import HaloCatalogue, load_stated
from iaemu_training.tables.box_error import BoxErrorSettings, make_box_error
from iaemu_training.work.parts import remove_parts

#: Run again, it resumes.
RESUMES = True


def add_options(parser: argparse.ArgumentParser) -> None:
    add_output(parser, "box error to write (.safetensors)")
    add_tables(parser)
    add_settings(parser, BoxErrorSettings(), n_held_out={"flags": ["--held-out"]})
    add_json(parser, "the check at held-out points")


def main(parser: argparse.ArgumentParser, argv: list[str]) -> None:
    add_options(parser)
    arguments = read_options(parser, argv, positional=True)

    tables = TabulatedModel.load(arguments.tables)
    progress = shows_progress(arguments)
    if arguments.catalogue:
        catalogues = [HaloCatalogue.load(name, progress) for name in arguments.catalogue]
    else:
        catalogues = [load_stated(name, progress) for name in tables.metadata["catalogues"]]
    folder = arguments.output.with_name(arguments.output.name + ".parts")
    settings = changed_settings(BoxErrorSettings(), arguments)
    box_error = make_box_error(catalogues, tables, folder, settings, progress=progress)
    remove_leftovers(arguments.output)
    box_error.save(arguments.output)
    remove_parts(folder)
    held_out = box_error.metadata.get("held_out")
    if held_out is not None or arguments.json:
        text = "" if held_out is None else _table(held_out["sigma_ratio"])
        show(arguments, text, {"output": arguments.output, "held_out": held_out})
    note(arguments, f"Box error of {', '.join(c.name for c in catalogues)} written to {arguments.output}.")


def _table(ratios: Mapping[str, Mapping[str, float]]) -> str:
    lines = ["Standard errors over those of direct counts, at held-out points and bins (1 is perfect):"]
    lines += [f"{'':8s}{'5 %':>8s}{'median':>8s}{'95 %':>8s}"]
    lines += [f"{name:8s}{row['p5']:8.2f}{row['median']:8.2f}{row['p95']:8.2f}" for name, row in ratios.items()]
    return "\n".join(lines)
