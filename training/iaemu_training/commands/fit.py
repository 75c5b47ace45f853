"""Train a network as a YAML file describes: its data and sizes, optimiser, learning rate, epochs, seed and device.

--config takes a file, or the name of one that is shipped: factorised (the default emulator, about a quarter of an hour
on 2 cores) or iaemunet (the paper's network and recipe, for a GPU). --show prints it in full. If killed, run the same
command again: it goes on from the checkpoint beside OUTPUT.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import fields
from pathlib import Path

import yaml

from iaemu.files import remove_leftovers
from iaemu_training.commands.options import add_settings, check_output, number, read_options
from iaemu_training.fitting.config import (
    Config,
    ConfigError,
    FitSettings,
    IAEmuNetSettings,
    TrainingSettings,
    checkpoint_paths,
    parse_yaml,
    read_config,
)

#: Run again, it goes on.
RESUMES = True


def main(parser: argparse.ArgumentParser, argv: list[str]) -> None:
    parser.add_argument("output", type=Path, help="emulator to write (.safetensors)", metavar="OUTPUT")
    parser.add_argument(
        "--config", default="factorised", metavar="NAME|FILE", help="factorised (default), iaemunet, or a YAML file"
    )
    parser.add_argument("--show", action="store_true", help="print the configuration in full, as YAML, and stop")
    _add_overrides(parser)
    arguments = read_options(parser, argv)

    config = read_config(arguments.config, _overrides(arguments))
    if arguments.show:
        print(yaml.safe_dump(config.to_dict(), sort_keys=False), end="")
        return
    checkpoint = arguments.output.with_suffix(".checkpoint")
    if checkpoint == arguments.output:
        raise ValueError(f"{checkpoint} would be the checkpoint; give the output another name (.safetensors).")
    checkpoints = [path for path in checkpoint_paths(checkpoint, getattr(config.settings, "members", 1)) if path]
    for path in checkpoints:
        check_output(path)
    from iaemu_training.work.parts import only_writer

    with only_writer(checkpoint):
        for path in (arguments.output, *checkpoints):
            remove_leftovers(path)
        emulator = {"factorised": _fit_factorised, "iaemunet": _fit_iaemunet}[config.network](config, checkpoint)
        emulator.metadata["config"] = config.to_dict()
        emulator.save(arguments.output)
        for path in checkpoints:
            path.unlink(missing_ok=True)
    if "held_out" in emulator.metadata:
        print(json.dumps(emulator.metadata["held_out"], indent=2))
    print(f"Emulator written to {arguments.output}.")


def _add_overrides(parser: argparse.ArgumentParser) -> None:
    """Flags in place of what the configuration says; what is not given is not in the namespace."""
    group = parser.add_argument_group("in place of what the configuration says, whichever the network")
    group.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="any key; repeatable")
    absent = argparse.SUPPRESS
    group.add_argument(
        "--dataset",
        default=absent,
        help="data set (.hdf5): factorised: mocks for the aleatoric part; iaemunet: what it is trained on",
    )
    group.add_argument("--accelerator", default=absent, help="auto (a GPU if there is one), cpu or gpu")
    group.add_argument(
        "--devices",
        type=number(int, at_least=1, at_most=1024),
        default=absent,
        help="GPUs, or processes on the CPU, that share a batch",
    )
    common = [field.name for field in fields(TrainingSettings)]
    add_settings(group, TrainingSettings(), defaults=False)
    group = parser.add_argument_group("factorised only")
    group.add_argument("--tables", default=absent, help="tables (.safetensors; default: the shipped ones)")
    add_settings(group, FitSettings(), skip=common)
    group = parser.add_argument_group("iaemunet only")
    group.add_argument(
        "--scatter", default=absent, help="emulator whose scatter gives draws (default: the shipped one)"
    )
    add_settings(group, IAEmuNetSettings(), skip=common)


def _overrides(arguments: argparse.Namespace) -> dict:
    overrides = {}
    for item in arguments.set:
        key, separator, value = item.partition("=")
        if not separator:
            raise ConfigError(f"--set takes KEY=VALUE, got {item!r}.")
        overrides[key.strip()] = parse_yaml(value, f"--set {item}")
    given = {name: value for name, value in vars(arguments).items() if name not in ("output", "config", "show", "set")}
    return overrides | given


def _fit_factorised(config: Config, checkpoint: Path):
    from iaemu.models.tables import TabulatedModel
    from iaemu_training.dataset.file import SHIPPED_MOCKS, Dataset
    from iaemu_training.fitting.factorised import fit_factorised

    assert isinstance(config.settings, FitSettings)
    tables, mocks = config.sources.get("tables"), config.sources.get("dataset")
    if mocks is None and tables is None:
        mocks = SHIPPED_MOCKS
    return fit_factorised(
        TabulatedModel.load(tables),
        config.settings,
        checkpoint=checkpoint,
        accelerator=config.accelerator,
        devices=config.devices,
        mocks=None if mocks is None else Dataset(mocks),
    )


def _fit_iaemunet(config: Config, checkpoint: Path):
    from iaemu.models.factorised import Emulator
    from iaemu_training.dataset.file import Dataset
    from iaemu_training.fitting.iaemunet import fit_iaemunet
    from iaemu_training.fitting.scatter import training_arrays

    source = config.sources.get("dataset")
    if source is None:
        raise ValueError("network: iaemunet needs a data set: give --dataset, or dataset: in the YAML.")
    dataset = Dataset(source)
    settings = config.settings
    assert isinstance(settings, IAEmuNetSettings)
    arrays, origin = training_arrays(
        dataset, lambda: Emulator.load(config.sources.get("scatter")), settings.n_realisations, settings.seed
    )
    return fit_iaemunet(
        *arrays,
        dataset.support,
        settings,
        origin,
        checkpoint=checkpoint,
        accelerator=config.accelerator,
        devices=config.devices,
    )
