"""Every command answers --help; settings become options with their names, types, defaults and texts."""

import argparse
import subprocess
import sys
from dataclasses import dataclass, field, fields, is_dataclass

import pytest

pytest.importorskip("numba")

from iaemu_training.commands import iaemu, iaemu_train
from iaemu_training.commands.options import add_settings, changed_settings, read_options
from iaemu_training.dataset.make import DatasetSettings
from iaemu_training.fitting.config import FitSettings, IAEmuNetSettings
from iaemu_training.tables.box_error import BoxErrorSettings
from iaemu_training.tables.tabulate import TabulationSettings

COMMANDS = [(program, name) for program in (iaemu, iaemu_train) for name in program.COMMANDS]


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


def shown_help(program, capsys, *argv) -> str:
    with pytest.raises(SystemExit) as end:
        program.main([*argv, "--help"])
    assert end.value.code == 0
    return capsys.readouterr().out


@pytest.mark.parametrize(("program", "name"), COMMANDS)
def test_every_command_answers_help(program, name, capsys):
    text = shown_help(program, capsys, name)
    assert text.startswith(f"usage: {program.__name__.split('.')[-1].replace('_', '-')} {name} ")
    assert f"    {name}" in shown_help(program, capsys)


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

    words = shown_help(iaemu_train, capsys, name).split()
    assert set(flags(settings())) <= set(words)


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
    assert "argument --patience: invalid int or null value: 'long'" in capsys.readouterr().err


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
