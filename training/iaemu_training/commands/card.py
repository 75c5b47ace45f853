"""Print as Markdown what an emulator says of itself: range, catalogue, uncertainties, held-out errors, training."""

from __future__ import annotations

import argparse
from pathlib import Path

from iaemu_training.commands.options import read_options


def main(parser: argparse.ArgumentParser, argv: list[str]) -> None:
    parser.add_argument("artifact", help="emulator (.safetensors), or the name of a shipped one (factorised-pm160)")
    parser.add_argument("--output", "-o", type=Path, help="file to write (.md; default: print)")
    arguments = read_options(parser, argv)

    from iaemu.artifact import shipped_artifact, shipped_artifacts
    from iaemu.files import write_text
    from iaemu.models.factorised import Emulator
    from iaemu_training.evaluation.card import model_card

    name = arguments.artifact
    path = shipped_artifact(f"{name}.safetensors") if name in shipped_artifacts() else Path(name)
    text = model_card(Emulator.load(path), path)
    if arguments.output is None:
        print(text, end="")
    else:
        write_text(arguments.output, text)
