"""Every command answers --help; settings become options with their names, types, defaults and texts."""

import argparse
import importlib
import pkgutil
import subprocess
import sys
from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from functools import partial
from typing import Annotated

import pytest

pytest.importorskip("numba")

import iaemu_training
from iaemu.ranges import Range, check_fields, numbers_of
from iaemu_cobaya.commands import door
from iaemu_training.commands import iaemu_train
from iaemu_training.commands.options import add_settings, changed_settings, log10_mass, number, read_options
from iaemu_training.dataset.make import DatasetSettings
from iaemu_training.fitting.config import FitSettings, IAEmuNetSettings
from iaemu_training.tables.box_error import BoxErrorSettings
from iaemu_training.tables.tabulate import TabulationSettings

#: (Program as it is called, its main, command, module), of all commands.
COMMANDS = [
    *(("iaemu", door.main, name, command.module) for group in door.GROUPS.values() for name, command in group.items()),
    *(("iaemu-train", iaemu_train.main, name, command.module) for name, command in iaemu_train.COMMANDS.items()),
]


@dataclass
class Inner:
    """Inside.

    Attributes
    ----------
    width : float
        In 68 % of all cases, see :class:`~somewhere.Else`.
    """

    width: float = 0.5


@dataclass
class Base:
    """Inherited.

    Attributes
    ----------
    patience : int or None
        Of ``both``.
    """

    patience: int | None = None


@dataclass
class Outer(Base):
    """Outside.

    Attributes
    ----------
    first_part : Inner
    n_low, n_high : int
        Ends.
    """

    first_part: Inner = field(default_factory=lambda: Inner(0.25))
    n_low: int = 1
    n_high: int = 9
    split: tuple[float, float] = (0.5, 0.5)


def shown_help(main, capsys, *argv) -> str:
    with pytest.raises(SystemExit) as end:
        main([*argv, "--help"])
    assert end.value.code == 0
    return capsys.readouterr().out


@pytest.mark.parametrize(("program", "main", "name", "module"), COMMANDS)
def test_every_command_answers_help(program, main, name, module, capsys):
    text = shown_help(main, capsys, *name.split())
    assert text.startswith(f"usage: {program} {name} ")
    assert f"    {name}" in shown_help(main, capsys)


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("tabulate", TabulationSettings),
        ("box-error", BoxErrorSettings),
        ("dataset", DatasetSettings),
        ("fit", FitSettings),
        ("fit", IAEmuNetSettings),
    ],
)
def test_every_field_of_the_settings_has_an_option(name, settings, capsys):
    def flags(settings, prefix="--"):
        for part in fields(settings):
            value, flag = getattr(settings, part.name), prefix + part.name.replace("_", "-")
            yield from flags(value, f"{flag}-") if is_dataclass(value) else (flag,)

    words = {word.strip("[],") for word in shown_help(iaemu_train.main, capsys, name).split()}
    assert set(flags(settings())) <= words


def test_options_are_read_into_settings(capsys):
    parser = argparse.ArgumentParser("program")
    add_settings(parser, Outer(), n_low={"flags": ["-n"]})
    text = " ".join(parser.format_help().split())
    assert "--first-part-width WIDTH In 68 % of all cases, see somewhere.Else. (default: 0.25)" in text
    assert "--n-high N_HIGH Ends. (default: 9)" in text and "Of both. (default: None)" in text
    assert changed_settings(Outer(), read_options(parser, [])) == Outer()
    argv = ["--first-part-width", "2", "-n", "3", "--split", "0", "1", "--patience", "7"]
    assert changed_settings(Outer(), read_options(parser, argv)) == Outer(7, Inner(2.0), 3, split=(0.0, 1.0))
    assert changed_settings(Outer(4), read_options(parser, ["--patience", "null"])) == Outer()
    with pytest.raises(SystemExit) as end:
        read_options(parser, ["--patience", "long"])
    assert end.value.code == 2
    assert "argument --patience: it, unless null, must be a whole number, finite; got 'long'" in capsys.readouterr().err


@dataclass(frozen=True)
class Limited:
    """With ranges.

    Attributes
    ----------
    width : float
        How wide.
    split : (float, float)
    patience : int or None
    """

    width: Annotated[float, Range(above=0, at_most=1)] = 0.5
    split: tuple[Annotated[float, Range(at_least=0)], Annotated[float, Range(at_least=0)]] = (0.5, 0.5)
    patience: Annotated[int, Range(at_least=1)] | None = None

    def __post_init__(self):
        check_fields(self)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--width", "0"], "argument --width: it must be a number, above 0 and at most 1; got 0.0"),
        (["--width", "nan"], "got nan"),
        (["--width", "1e400"], "got inf"),
        (["--width", "wide"], "got 'wide'"),
        (["--split", "1", "-1"], "argument --split: it must be a number, at least 0; got -1.0"),
        (["--patience", "0"], "argument --patience: it, unless null, must be a whole number, at least 1; got 0"),
        (["--patience", "1.5"], "got '1.5'"),
        (["--patience", "9" * 5000], "got '9999"),
        (["--seed", "-1"], "argument --seed: it must be a whole number, at least 0; got -1"),
    ],
)
def test_options_have_the_ranges_of_the_fields(argv, message, capsys):
    parser = argparse.ArgumentParser("program")
    add_settings(parser, Limited())
    parser.add_argument("--seed", type=number(int, at_least=0))
    assert "How wide. (above 0 and at most 1; default: 0.5)" in " ".join(parser.format_help().split())
    with pytest.raises(SystemExit) as end:
        read_options(parser, argv)
    assert end.value.code == 2 and message in capsys.readouterr().err


def parser_of(module) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(module)
    with pytest.raises(SystemExit):
        importlib.import_module(module).main(parser, ["--help"])
    return parser


#: Ranges of the other options of the plugin's commands are checked where they are used.
MODULES = sorted({module for *_, module in COMMANDS if module.startswith("iaemu_training")} | {f"{door._OURS}.convert"})


@pytest.mark.parametrize("module", MODULES)
def test_every_numeric_option_has_a_range(module, capsys):
    bare = []
    for action in parser_of(module)._actions:
        numeric = action.type in (int, float) or isinstance(action.default, int | float)
        limits = [part for part in action.type.args if isinstance(part, Range)] if _is_number(action) else []
        if (numeric and not isinstance(action.default, bool) and not limits) or Range() in limits:
            bare.append(action.option_strings)
    assert not bare


def _is_number(action) -> bool:
    return isinstance(action.type, partial) and action.type.func.__name__ == "_read_number"


def settings_classes() -> list[type]:
    """Dataclasses of the package whose fields all have defaults: what one sets, not what comes out."""
    found = {}
    for info in pkgutil.walk_packages(iaemu_training.__path__, "iaemu_training."):
        for kind in vars(importlib.import_module(info.name)).values():
            if isinstance(kind, type) and is_dataclass(kind) and kind.__module__.startswith("iaemu_training."):
                if all(part.default is not MISSING or part.default_factory is not MISSING for part in fields(kind)):
                    found[kind.__qualname__] = kind
    return list(found.values())


def test_all_settings_are_found():
    names = {kind.__name__ for kind in settings_classes()}
    assert names >= {"Resolution", "TabulationSettings", "BoxErrorSettings", "DatasetSettings", "ScatterSettings"}
    assert names >= {"TrainingSettings", "FitSettings", "IAEmuNetSettings", "BetaSchedule", "Config"}


@pytest.mark.parametrize("kind", settings_classes(), ids=lambda kind: kind.__name__)
def test_every_number_of_the_settings_has_a_range_and_is_checked(kind):
    for name, (kinds, _) in numbers_of(kind).items():
        assert all(limits != Range() for _, limits in kinds), f"{kind.__name__}.{name} has no range"
        for bad in (float("nan"), float("inf"), -(10**400), "1", True, 1j):
            several = len(kinds) > 1
            with pytest.raises(ValueError, match=f"^{name} must be "):
                kind(**{name: (bad,) * len(kinds) if several else bad})


def test_numbers_that_gave_wrong_tables(tmp_path):
    """In a process of its own: some crashed it."""
    cases = [
        *(["tabulate", "-c", "pm40", "--dlog-mass", value] for value in ("0", "nan", "inf", "-1")),
        ["tabulate", "-c", "pm40", "--two-halo-dlog-mass", "1e-9"],
        ["tabulate", "-c", "pm40", "--logMmin", "nan", "12"],
        ["tabulate", "-c", "pm40", "--complete-above", "1e400"],
        ["box-error", "--per-side", "-1"],
        ["dataset", "--workers", "0"],
        ["fit", "--devices", "0"],
        ["fit", "--width", "20000"],
    ]
    argvs = [[name, str(tmp_path / "out"), *options] for name, *options in cases]
    code = f"""
from iaemu_training.commands.iaemu_train import main
for argv in {argvs}:
    try:
        print(main(argv))
    except SystemExit as end:
        print(end.code)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.split() == ["2"] * len(cases), done.stderr
    errors = [line for line in done.stderr.splitlines() if ": error: " in line]
    for case, error in zip(cases, errors, strict=True):
        option = next(word for word in case if word.startswith("--"))
        assert error.startswith(f"iaemu-train {case[0]}: error: argument {option.lower()}: it must be a")
    assert not list(tmp_path.iterdir())


def test_of_a_mass_its_logarithm_is_suggested():
    assert log10_mass("11.4") == 11.4
    with pytest.raises(argparse.ArgumentTypeError, match=r"at most 20; got 26.*0\. It is log10 .* give 11\.41$"):
        log10_mass("2.6e11")
    for text in ("4", "x", "nan", "1e30"):
        with pytest.raises(argparse.ArgumentTypeError, match=r"at least 5 and at most 20; got [^I]*$"):
            log10_mass(text)


@pytest.mark.parametrize(
    ("argv", "status"), [([], 2), (["bogus"], 2), (["dataset"], 2), (["dataset", "o", "--n", "x"], 2)]
)
def test_usage_errors(argv, status):
    with pytest.raises(SystemExit) as end:
        iaemu_train.main(argv)
    assert end.value.code == status


def test_what_is_missing_is_said_in_one_line():
    code = "import sys; sys.modules['docstring_parser'] = None; from iaemu_training.commands.iaemu_train import main; "
    code += "sys.exit(main(['dataset', 'out.hdf5']))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr.count("\n") == 1
    assert done.stderr.startswith("iaemu-train dataset: ")
    assert done.stderr.endswith("It takes: pip install 'iaemu-cobaya[training]'\n")


def test_the_list_of_commands_needs_no_library():
    code = "import sys; from iaemu_training.commands.iaemu_train import main\ntry: main(['-h'])\n"
    code += "except SystemExit: print(*{'torch', 'numba', 'numpy'} & set(sys.modules), file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stderr == "\n" and "box-error" in done.stdout
