"""Print the model card of an emulator: supported region, halo catalogue, uncertainties, errors, training."""

from __future__ import annotations

import argparse
from pathlib import Path

from iaemu_training.commands.options import add_json, add_output, read_options
from iaemu_training.commands.printing import note, show


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "artifact", metavar="ARTIFACT", help="emulator (.safetensors), or the name of a shipped one (factorised-pm160)"
    )
    add_output(parser, "Markdown file to write (default: print)", default=None)
    add_json(parser, "supported region, bins and metadata")


def main(parser: argparse.ArgumentParser, argv: list[str]) -> None:
    add_options(parser)
    arguments = read_options(parser, argv)

    from iaemu.artifact import shipped_artifact, shipped_artifacts
    from iaemu.files import sha256_of_file, write_text
    from iaemu.models.factorised import Emulator
    from iaemu.parameters import PARAMETERS
    from iaemu_training.evaluation.card import model_card

    name = arguments.artifact
    path = shipped_artifact(f"{name}.safetensors") if name in shipped_artifacts() else Path(name)
    emulator = Emulator.load(path)
    text = model_card(emulator, path)
    if arguments.output is not None:
        write_text(arguments.output, text)
        note(arguments, f"Model card written to {arguments.output}.")
    if arguments.output is None or arguments.json:
        document = {
            "artifact": path.name,
            "sha256": sha256_of_file(path),
            "parameters": PARAMETERS,
            "nodes": emulator.nodes,
            "support": vars(emulator.support),
            "metadata": emulator.metadata,
        }
        show(arguments, text.rstrip("\n"), document)
