"""Train an emulator. A YAML file describes its network, data, optimiser, epochs, seed and device.

--config takes such a file, or the name of a shipped one: factorised (the default emulator, about 40 minutes of one
core) or iaemunet (the paper's network and recipe, for a GPU). --show prints it in full. If it is interrupted, run the
same command again: it resumes from the checkpoint beside the output.
"""

from __future__ import annotations

import argparse
from dataclasses import fields
from pathlib import Path

import yaml

from iaemu.files import remove_leftovers
from iaemu_training.commands.options import (
    add_json,
    add_output,
    add_settings,
    check_output,
    number,
    read_options,
    shows_progress,
)
from iaemu_training.commands.printing import note, show
from iaemu_training.fitting.config import (
    Config,
    ConfigError,
    FitSettings,
    IAEmuNetSettings,
    TrainingSettings,
    checkpoint_paths,
    parse_yaml,
    radial_checkpoint,
    read_config,
)

#: Run again, it resumes.
RESUMES = True

#: Options that are no keys of the configuration.
_OWN = ("output", "config", "show", "set", "json", "quiet")


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.usage = "%(prog)s -o FILE [--config NAME|FILE] [OPTION ...]"  # there are forty of them
    add_output(parser, "emulator to write (.safetensors)")
    parser.add_argument(
        "--config", default="factorised", metavar="NAME|FILE", help="factorised (default), iaemunet, or a YAML file"
    )
    parser.add_argument("--show", action="store_true", help="print the configuration in full, as YAML, and stop")
    add_json(parser, "the errors at held-out points")
    _add_overrides(parser)


def main(parser: argparse.ArgumentParser, argv: list[str]) -> None:
    add_options(parser)
    arguments = read_options(parser, argv, positional=True)

    config = read_config(arguments.config, _overrides(arguments))
    if arguments.show:
        print(yaml.safe_dump(config.to_dict(), sort_keys=False), end="")
        return
    checkpoint = arguments.output.with_suffix(".checkpoint")
    if checkpoint == arguments.output:
        raise ValueError(f"{checkpoint} would be the checkpoint; give the output another name (.safetensors).")
    checkpoints = [path for path in checkpoint_paths(checkpoint, getattr(config.settings, "members", 1)) if path]
    checkpoints.append(radial_checkpoint(checkpoint))
    for path in checkpoints:
        check_output(path)
    from iaemu_training.work.parts import only_writer

    with only_writer(checkpoint):
        for path in (arguments.output, *checkpoints):
            remove_leftovers(path)
        note(arguments, _plan(config))
        fit = {"factorised": _fit_factorised, "iaemunet": _fit_iaemunet}[config.network]
        emulator = fit(config, checkpoint, shows_progress(arguments))
        emulator.metadata["config"] = config.to_dict()
        emulator.save(arguments.output)
        for path in checkpoints:
            path.unlink(missing_ok=True)
    held_out = emulator.metadata.get("held_out")
    if held_out is not None or arguments.json:
        from iaemu_training.evaluation.card import accuracy_in_words, accuracy_table

        text = "" if held_out is None else "\n".join([*accuracy_table(held_out), "", accuracy_in_words(held_out)])
        show(arguments, text, {"output": arguments.output, "held_out": held_out})
    note(arguments, f"Emulator written to {arguments.output}.")


def _add_overrides(parser: argparse.ArgumentParser) -> None:
    """Flags in place of what the configuration says; what is not given is not in the namespace."""
    group = parser.add_argument_group("options of both networks, which win over the configuration")
    group.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="set any key of the configuration; may be repeated",
    )
    absent = argparse.SUPPRESS
    group.add_argument(
        "--dataset",
        default=absent,
        help="data set (.hdf5): its mocks give the aleatoric error of factorised, and train iaemunet",
    )
    group.add_argument("--accelerator", default=absent, help="auto (a GPU if there is one), cpu or gpu")
    group.add_argument(
        "--devices",
        type=number(int, at_least=1, at_most=1024),
        default=absent,
        help="number of GPUs, or of processes on the CPU, that share a batch",
    )
    common = [field.name for field in fields(TrainingSettings)]
    add_settings(group, TrainingSettings(), defaults=False)
    group = parser.add_argument_group("options of factorised")
    group.add_argument(
        "--tables",
        nargs="+",
        metavar="FILE",
        default=absent,
        help="tables (.safetensors; default: the shipped ones); several, of the same boxes at several redshifts, make "
        "an emulator that predicts at any redshift between them",
    )
    add_settings(group, FitSettings(), skip=common)
    group = parser.add_argument_group("options of iaemunet")
    group.add_argument(
        "--scatter", default=absent, help="emulator that gives the scatter of mocks (default: the shipped one)"
    )
    add_settings(group, IAEmuNetSettings(), skip=common)


def _overrides(arguments: argparse.Namespace) -> dict:
    overrides = {}
    for item in arguments.set:
        key, separator, value = item.partition("=")
        if not separator:
            raise ConfigError(f"--set takes KEY=VALUE, got {item!r}.")
        overrides[key.strip()] = parse_yaml(value, f"--set {item}")
    given = {name: value for name, value in vars(arguments).items() if name not in _OWN}
    return overrides | given


def _plan(config: Config) -> str:
    """Say what will be trained; the time that it takes is known after some epochs."""
    members = getattr(config.settings, "members", 1)
    points = f", from {config.settings.n_train} points" if isinstance(config.settings, FitSettings) else ""
    networks = f"{members} networks one after the other" if members > 1 else "1 network"
    return f"Training {networks}, each {config.settings.epochs} epochs{points}. It resumes if it is interrupted."


def _fit_factorised(config: Config, checkpoint: Path, progress: bool):
    from iaemu.models import InterpolatedTables, TabulatedModel
    from iaemu_training.dataset.file import SHIPPED_MOCKS, Dataset
    from iaemu_training.fitting.factorised import fit_factorised

    assert isinstance(config.settings, FitSettings)
    tables, mocks = config.sources.get("tables"), config.sources.get("dataset")
    if mocks is None and tables is None:
        mocks = SHIPPED_MOCKS
    return fit_factorised(
        InterpolatedTables.load(tables) if isinstance(tables, list) else TabulatedModel.load(tables),
        config.settings,
        checkpoint=checkpoint,
        progress=progress,
        accelerator=config.accelerator,
        devices=config.devices,
        mocks=None if mocks is None else Dataset(mocks),
    )


def _fit_iaemunet(config: Config, checkpoint: Path, progress: bool):
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
        progress=progress,
        accelerator=config.accelerator,
        devices=config.devices,
    )
