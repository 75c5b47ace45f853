"""``iaemu-train``: catalogues in; tables, data sets and trained networks out."""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path


def main(argv=None) -> int:
    """Entry point; the exit status."""
    parser = argparse.ArgumentParser(
        prog="iaemu-train",
        description="From halo catalogues to tables of pair sums, training sets and trained emulators.",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_tabulate(commands)
    _add_box_error(commands)
    _add_dataset(commands)
    _add_check(commands)
    _add_fit(commands)
    _add_evaluate(commands)
    _add_card(commands)
    _add_pack(commands)
    arguments = parser.parse_args(argv)
    try:
        if arguments.output is not None and not arguments.output.parent.is_dir():
            raise ValueError(f"The folder {arguments.output.parent} does not exist; make it first.")
        return arguments.run(arguments)
    except (ValueError, OSError, ImportError) as error:
        print(f"iaemu-train {arguments.command}: {error}", file=sys.stderr)
        return 1


def _add_tabulate(commands) -> None:
    parser = commands.add_parser(
        "tabulate",
        help="tabulate expected pair sums of halo catalogues",
        description="Tabulate expected pair sums of one or more halo catalogues over (mass bin, rank bin) species. "
        "Pair sums of several boxes are added. About 3 minutes a box of 160 Mpc/h on 2 cores.",
    )
    parser.add_argument("output", type=Path, help="tables to write (.safetensors)")
    parser.add_argument(
        "--catalogue",
        "-c",
        action="append",
        required=True,
        help="HDF5 file in halotools columns, ROCKSTAR ascii (.list), a shipped catalogue (pm160a, pm160b, pm40), or a "
        "name in halotools' cache (bolplanck); repeat for several boxes",
    )
    parser.add_argument(
        "--logMmin",
        nargs=2,
        type=float,
        default=None,
        metavar=("LOW", "HIGH"),
        help="range (default: what the catalogues' resolution and volume support, which is printed)",
    )
    parser.add_argument(
        "--complete-above",
        type=float,
        default=None,
        metavar="LOG10_MASS",
        help="halo mass [log10 Msun/h] above which the catalogue is complete (default: 40 particle masses or the mass "
        "that it was cut at, as it states them)",
    )
    parser.add_argument(
        "--logM0-max",
        type=float,
        default=None,
        metavar="LOG10_MASS",
        help="largest logM0 (default: the mass above which the catalogues hold 100 hosts)",
    )
    parser.add_argument("--dlog-mass", type=float, default=None, help="width of the host-mass bins [dex]")
    parser.add_argument("--seed", type=int, default=1, help="of the donors drawn for hosts that lack sub-halos")
    parser.set_defaults(run=_tabulate)


def _tabulate(arguments) -> int:
    from dataclasses import replace

    from iaemu_training.halos.catalogue import HaloCatalogue
    from iaemu_training.halos.limits import CatalogueLimits
    from iaemu_training.tables.tabulate import TabulationSettings, tabulate

    catalogues = [HaloCatalogue.load(name) for name in arguments.catalogue]
    limits = CatalogueLimits.of(catalogues, arguments.complete_above)
    print(f"These catalogues support {limits}.")
    support = limits.support(arguments.logMmin, arguments.logM0_max)
    settings = TabulationSettings(seed=arguments.seed)
    if arguments.dlog_mass is not None:
        settings = replace(
            settings,
            one_halo=replace(settings.one_halo, dlog_mass=arguments.dlog_mass),
            two_halo=replace(settings.two_halo, dlog_mass=arguments.dlog_mass),
        )
    model = tabulate(catalogues, support, settings=settings)
    model.save(arguments.output)
    print(f"Tables of {', '.join(c.name for c in catalogues)} written to {arguments.output}.")
    return 0


def _add_tables(parser) -> None:
    """Options of what is made from tables together with their catalogues."""
    parser.add_argument("--tables", type=Path, default=None, help="tables (default: the shipped ones)")
    parser.add_argument(
        "--catalogue",
        "-c",
        action="append",
        help="the catalogues that the tables were made from (default: by the names that the tables state)",
    )


def _add_box_error(commands) -> None:
    parser = commands.add_parser(
        "box-error",
        help="find the error that the size of the catalogues' boxes gives to predictions",
        description="A jackknife over regions of the halo catalogues that tables were made from, as a function of the "
        "occupation: what the models' deviations() needs. About 10 minutes of one core for two boxes of 160 Mpc/h. If "
        "killed, run the same command again: it goes on.",
    )
    parser.add_argument("output", type=Path, help="box error to write (.safetensors)")
    _add_tables(parser)
    parser.add_argument(
        "--per-side", type=int, default=None, help="regions along each axis of a box (default: 3, so 27 regions)"
    )
    parser.add_argument(
        "--held-out", type=int, default=None, help="points at which it is checked by direct counts (default: 8)"
    )
    parser.add_argument("--seed", type=int, default=None, help="of the points that modes are fitted to (default: 1)")
    parser.set_defaults(run=_box_error)


def _box_error(arguments) -> int:
    import json

    from iaemu.models.tables import TabulatedModel
    from iaemu_training.halos.catalogue import HaloCatalogue
    from iaemu_training.tables.box_error import BoxErrorSettings, make_box_error

    tables = TabulatedModel.load(arguments.tables)
    catalogues = [HaloCatalogue.load(name) for name in arguments.catalogue or tables.metadata["catalogues"]]
    given = {"per_side": arguments.per_side, "n_held_out": arguments.held_out, "seed": arguments.seed}
    settings = BoxErrorSettings(**{name: value for name, value in given.items() if value is not None})
    folder = arguments.output.with_name(arguments.output.name + ".parts")
    box_error = make_box_error(catalogues, tables, folder, settings)
    box_error.save(arguments.output)
    shutil.rmtree(folder)
    if "held_out" in box_error.metadata:
        print("Standard errors over those of direct counts, at held-out points:")
        print(json.dumps(box_error.metadata["held_out"]["sigma_ratio"], indent=2))
    print(f"Box error of {', '.join(c.name for c in catalogues)} written to {arguments.output}.")
    return 0


def _add_dataset(commands) -> None:
    parser = commands.add_parser(
        "dataset",
        help="make a training set: noise-free labels, and halotools-IA mocks at a subset of points",
        description="Make a training set in one HDF5 file: noise-free labels from tables at all points, halotools-IA "
        "mocks at some, the paper's cleaning as masks, a 70/10/20 split by point. If killed, run the same command "
        "again: it goes on. On 2 cores about 3 minutes for the labels of 110,526 points, and 0.2 s a mock.",
    )
    parser.add_argument("output", type=Path, help="data set to write (.hdf5)")
    _add_tables(parser)
    parser.add_argument(
        "--points",
        choices=("tube", "sobol"),
        default=None,
        help="the paper's set (evenly spaced logMmin, uniform tube; default), or a Sobol sequence",
    )
    parser.add_argument("--n", "-n", type=int, default=None, help="number of points (default: 110526, the paper's)")
    parser.add_argument("--n-mocked", type=int, default=None, help="points with mocks (default: 400)")
    parser.add_argument("--n-realisations", type=int, default=None, help="mocks a point and box (default: 10)")
    parser.add_argument("--seed", type=int, default=None, help="of points, split and mocks (default: 1)")
    parser.add_argument("--min-pairs", type=float, default=None, help="fewer expected pairs: an empty bin (default: 3)")
    parser.add_argument("--max-xi-ratio", type=float, default=None, help="largest xi / xi_DM (default: 100)")
    parser.add_argument(
        "--matter",
        type=Path,
        default=None,
        help="matter correlation function xi_DM (default: Bolshoi-Planck cosmology at z = 0; make another with "
        "python -m iaemu_training.dataset.make_xi_matter)",
    )
    parser.add_argument(
        "--workers", type=int, default=None, help="worker processes or SLURM jobs (default: one a core, one job)"
    )
    parser.add_argument(
        "--dask",
        nargs="?",
        const="local",
        default=None,
        metavar="CLUSTER",
        help="run on Dask: local (default), slurm (configured in ~/.config/dask/jobqueue.yaml), or the address or "
        "scheduler file of a running scheduler",
    )
    parser.set_defaults(run=_dataset)


def _dataset(arguments) -> int:
    from dataclasses import fields

    from iaemu_training.dataset.make import DatasetSettings, make_dataset
    from iaemu_training.dataset.matter import MatterCorrelation

    given = {field.name: getattr(arguments, field.name, None) for field in fields(DatasetSettings)}
    settings = DatasetSettings(**{name: value for name, value in given.items() if value is not None})
    dataset = make_dataset(
        arguments.output,
        settings,
        tables=arguments.tables,
        catalogues=arguments.catalogue,
        n_workers=arguments.workers,
        dask=arguments.dask,
        matter=MatterCorrelation.load(arguments.matter),
    )
    print(dataset.summary())
    return 0


def _add_check(commands) -> None:
    parser = commands.add_parser(
        "check",
        help="compare the mocks of a data set with its noise-free labels",
        description="The distribution of (mock mean - label) / standard error over the points of a data set, by "
        "statistic and bin, beside Student's t distribution, which it must follow.",
    )
    parser.add_argument("dataset", type=Path, help="data set with mocks (.hdf5)")
    parser.add_argument("--output", "-o", type=Path, default=None, help="figure to write (.png, .pdf)")
    parser.add_argument("--min-pairs", type=float, default=30.0, help="expected pairs a mock that a bin needs")
    parser.add_argument(
        "--max-borrowed", type=float, default=1.0, help="leave out points where more of the satellites are borrowed"
    )
    parser.set_defaults(run=_check)


def _check(arguments) -> int:
    from iaemu_training.dataset.file import Dataset
    from iaemu_training.evaluation.pulls import draw_pulls, find_pulls, table

    pulls = find_pulls(Dataset(arguments.dataset), min_pairs=arguments.min_pairs, max_borrowed=arguments.max_borrowed)
    print(table(pulls))
    if arguments.output is not None:
        draw_pulls(pulls, arguments.output)
        print(f"Figure written to {arguments.output}.")
    return 0


#: Keys of a configuration that have a flag, with type and help; any other is set with --set.
_FIT_FLAGS = {
    "tables": (Path, "factorised: tables (.safetensors; default: the shipped ones)"),
    "dataset": (Path, "data set (.hdf5): factorised: mocks for the aleatoric part; iaemunet: what it is trained on"),
    "n_train": (int, "factorised: labelled points"),
    "n_validation": (int, "factorised: labelled points for the validation loss"),
    "width": (int, "factorised: units in a hidden layer"),
    "depth": (int, "factorised: hidden layers"),
    "members": (int, "factorised: networks to train, from different seeds"),
    "realisations": (str, "iaemunet: all realisations of a point in an epoch, or one"),
    "epochs": (int, None),
    "batch_size": (int, None),
    "learning_rate": (float, None),
    "seed": (int, "of everything random"),
    "accelerator": (str, "auto (a GPU if there is one), cpu or gpu"),
    "devices": (int, "GPUs, or processes on the CPU, that share a batch"),
}


def _add_fit(commands) -> None:
    parser = commands.add_parser(
        "fit",
        help="train a network: FactorisedNet on tables, or IAEmuNet on mocks",
        description="Train a network as a YAML file describes: the network, its data and sizes, optimiser, learning "
        "rate, epochs, seed and device. --config takes a file, or the name of one that is shipped: factorised (the "
        "default emulator, about a quarter of an hour on 2 cores) or iaemunet (the paper's network and recipe, for a "
        "GPU). Copy one (--show prints it) to change more than the flags do. If killed, run the same command again: "
        "it goes on from the checkpoint beside OUTPUT.",
    )
    parser.add_argument("output", type=Path, help="emulator to write (.safetensors)", metavar="OUTPUT")
    parser.add_argument(
        "--config", default="factorised", metavar="NAME|FILE", help="factorised (default), iaemunet, or a YAML file"
    )
    parser.add_argument("--show", action="store_true", help="print the configuration in full, as YAML, and stop")
    flags = parser.add_argument_group("in place of what the configuration says")
    for name, (kind, text) in _FIT_FLAGS.items():
        flags.add_argument(f"--{name.replace('_', '-')}", type=kind, default=None, help=text)
    flags.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="any other key, such as patience=50; repeatable"
    )
    parser.set_defaults(run=_fit)


def _fit(arguments) -> int:
    import json

    import yaml

    from iaemu_training.fitting.config import ConfigError, checkpoint_paths, read_config

    overrides = {}
    for item in arguments.set:
        key, separator, value = item.partition("=")
        if not separator:
            raise ConfigError(f"--set takes KEY=VALUE, got {item!r}.")
        overrides[key.strip()] = yaml.safe_load(value)
    overrides.update({name: value for name in _FIT_FLAGS if (value := getattr(arguments, name)) is not None})
    config = read_config(arguments.config, overrides)
    if arguments.show:
        print(yaml.safe_dump(config.to_dict(), sort_keys=False), end="")
        return 0
    checkpoint = arguments.output.with_suffix(".checkpoint")
    emulator = {"factorised": _fit_factorised, "iaemunet": _fit_iaemunet}[config.network](config, checkpoint)
    emulator.metadata["config"] = config.to_dict()
    emulator.save(arguments.output)
    for path in checkpoint_paths(checkpoint, getattr(config.settings, "members", 1)):
        path.unlink(missing_ok=True)
    if "held_out" in emulator.metadata:
        print(json.dumps(emulator.metadata["held_out"], indent=2))
    print(f"Emulator written to {arguments.output}.")
    return 0


def _add_evaluate(commands) -> None:
    parser = commands.add_parser(
        "evaluate",
        help="report how good an emulator is on the held-out points of a data set",
        description="Compare an emulator with the mocks and the noise-free labels at the test points of a data set "
        "that have mocks. Writes report.md, report.json and figures: the metrics of arXiv:2504.05235 beside its "
        "published figures and beside what the noise-free label scores on the same mocks, calibration of the "
        "uncertainties if the emulator has them, and errors against the labels. About 20 seconds for 100 points.",
    )
    parser.add_argument(
        "artifact", metavar="ARTIFACT", help="emulator or tables (.safetensors), or shipped for the shipped emulator"
    )
    parser.add_argument(
        "dataset", metavar="DATASET", type=Path, help="data set with mocks, from iaemu-train dataset (.hdf5)"
    )
    parser.add_argument(
        "--output", "-o", type=Path, required=True, metavar="FOLDER", help="folder to write to; made if it is missing"
    )
    parser.add_argument(
        "--cleaned", action="store_true", help="leave out the points that the paper's cleaning removes (default: keep)"
    )
    parser.add_argument(
        "--bootstrap",
        type=int,
        default=200,
        metavar="N",
        help="samples of the points for errors (default: 200; 0: none)",
    )
    parser.add_argument("--seed", type=int, default=1, help="of these samples and of the examples drawn (default: 1)")
    parser.set_defaults(run=_evaluate)


def _evaluate(arguments) -> int:
    from iaemu import Emulator, load
    from iaemu_training.dataset.file import Dataset
    from iaemu_training.evaluation.evaluate import evaluate
    from iaemu_training.evaluation.figures import draw_figures

    shipped = arguments.artifact == "shipped"
    report = evaluate(
        Emulator.load() if shipped else load(arguments.artifact),
        Dataset(arguments.dataset),
        cleaned=arguments.cleaned,
        n_bootstrap=arguments.bootstrap,
        seed=arguments.seed,
        names=(Emulator.shipped if shipped else Path(arguments.artifact).name, arguments.dataset.name),
    )
    arguments.output.mkdir(exist_ok=True)
    figures = draw_figures(report, arguments.output, arguments.seed)
    report.to_json(arguments.output / "report.json")
    report.to_markdown(arguments.output / "report.md", figures)
    print(report.table())
    print(f"\nReport and {len(figures)} figures written to {arguments.output}.")
    return 0


def _fit_factorised(config, checkpoint: Path):
    from iaemu.models.tables import TabulatedModel
    from iaemu_training.dataset.file import SHIPPED_MOCKS, Dataset
    from iaemu_training.fitting.factorised import fit

    tables, mocks = config.sources.get("tables"), config.sources.get("dataset")
    if mocks is None and tables is None:
        mocks = SHIPPED_MOCKS
    return fit(
        TabulatedModel.load(tables),
        config.settings,
        checkpoint=checkpoint,
        accelerator=config.accelerator,
        devices=config.devices,
        mocks=None if mocks is None else Dataset(mocks),
    )


def _fit_iaemunet(config, checkpoint: Path):
    from iaemu.models.factorised import Emulator
    from iaemu_training.dataset.file import Dataset
    from iaemu_training.fitting.iaemunet import fit_iaemunet
    from iaemu_training.fitting.scatter import training_arrays

    if config.sources.get("dataset") is None:
        raise ValueError("network: iaemunet needs a data set: give --dataset, or dataset: in the YAML.")
    dataset = Dataset(config.sources["dataset"])
    settings = config.settings
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


def _add_card(commands) -> None:
    parser = commands.add_parser(
        "card",
        help="print the model card of an emulator",
        description="Print as Markdown what an emulator says of itself: range, catalogue, uncertainties, held-out "
        "errors, training.",
    )
    parser.add_argument("artifact", help="emulator (.safetensors), or the name of a shipped one (factorised-pm160)")
    parser.add_argument("--output", "-o", type=Path, default=None, help="file to write (.md; default: print)")
    parser.set_defaults(run=_card)


def _card(arguments) -> int:
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
    return 0


def _add_pack(commands) -> None:
    parser = commands.add_parser(
        "pack",
        help="pack a halo catalogue in 16-bit integers",
        description="Keep only what the mock model uses of a halo catalogue, in about 8 bytes a sub-halo.",
    )
    parser.add_argument("catalogue", help="HDF5 file in halotools columns, or a name in halotools' cache")
    parser.add_argument("output", type=Path, help="packed catalogue to write (.hdf5)")
    parser.set_defaults(run=_pack)


def _pack(arguments) -> int:
    from iaemu_training.halos.catalogue import HaloCatalogue

    catalogue = HaloCatalogue.load(arguments.catalogue)
    catalogue.write_packed(arguments.output)
    print(f"{catalogue.name}: {len(catalogue.mass)} hosts, {len(catalogue.offset)} sub-halos to {arguments.output}.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
