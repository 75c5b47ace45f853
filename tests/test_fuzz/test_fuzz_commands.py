"""Command lines of iaemu-train, settings, and configurations: what they refuse is one line that names the thing."""

import argparse
import contextlib
import importlib
import io

import numpy as np
import pytest

pytest.importorskip("numba")
pytest.importorskip("docstring_parser")

import yaml
from fuzzing import NUMBERS, awkward_number, spoilt_bytes, spoilt_text

from iaemu_training.commands import iaemu_train
from iaemu_training.dataset.make import DatasetSettings
from iaemu_training.fitting.config import Config, ConfigError, FitSettings, IAEmuNetSettings, read_config
from iaemu_training.fitting.objective import BetaSchedule
from iaemu_training.fitting.scatter import ScatterSettings
from iaemu_training.tables.box_error import BoxErrorSettings
from iaemu_training.tables.species import Resolution
from iaemu_training.tables.tabulate import TabulationSettings

#: Command lines that get as far as their inputs, which are not there.
BASES = {
    "tabulate": ["OUT", "-c", "MISSING"],
    "box-error": ["OUT", "--tables", "MISSING"],
    "dataset": ["OUT", "--tables", "MISSING"],
    "check": ["MISSING", "-o", "OUT"],
    "fit": ["OUT"],
    "evaluate": ["shipped", "MISSING", "-o", "OUT"],
    "card": ["MISSING", "-o", "OUT"],
    "pack": ["MISSING", "OUT"],
}
#: At the end of each, so that none begins its work whatever else it says.
STOPS = {
    "box-error": ["--tables", "MISSING"],
    "dataset": ["--tables", "MISSING"],
    "tabulate": ["-c", "MISSING"],
}
WORDS = [
    *(
        "0",
        "-1",
        "1",
        "2",
        "nan",
        "inf",
        "-inf",
        "1e400",
        "1e-400",
        "9" * 400,
        "9" * 5000,
        "1_0",
        "1.5",
        "0x10",
        "null",
    ),
    *("", " ", "x", "--", "-", "-x", "--help=1", "=", "\u0661", "\u00e9", "\udcff", "a\0b", "x" * 300, "y" * 5000, "."),
    *("/", "/dev/null", "/proc/self/mem", "MISSING", "FILE", "FOLDER", "FILE/below", "OUT", "~", "*", "True", "none"),
    *(
        "epochs=[",
        "epochs=3",
        "epochs",
        "=3",
        "network=[]",
        "network=iaemunet",
        "a: b",
        "width=" + "9" * 400,
        "seed=.nan",
    ),
    *(
        "optimiser=!!bool foo",
        "x=&a [*a]",
        "dataset=2001-02-30",
        "factorised",
        "iaemunet",
        "adam",
        "muon",
        "sgd",
        "gpu",
    ),
]


class Refused(Exception):
    """The command ended with a status that says so, and with its line."""


@pytest.fixture(scope="module")
def options():
    """Options of each command, as argparse knows them."""
    found = {}
    for name in iaemu_train.COMMANDS:
        parser = argparse.ArgumentParser(name)
        module = importlib.import_module(f"iaemu_training.commands.{name.replace('-', '_')}")
        with contextlib.redirect_stdout(io.StringIO()), pytest.raises(SystemExit):
            module.main(parser, ["--help"])
        found[name] = [option for action in parser._actions for option in action.option_strings]
    return found


def command(argv):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            status = iaemu_train.main(argv)
        except SystemExit as end:
            status = end.code or 0
    lines = err.getvalue().splitlines()
    assert "Traceback" not in err.getvalue()
    if status == 2:
        assert ": error: " in lines[-1], lines
    elif status:
        assert status == 1 and len(lines) == 1 and lines[0].startswith("iaemu-train"), (status, lines)
    if status:
        raise Refused(lines[-1])
    return out.getvalue()


@pytest.mark.parametrize("name", iaemu_train.COMMANDS)
def test_command_lines(fuzz, options, name, tmp_path, monkeypatch):
    # In a folder without anything but what the words name: what a command line leaves there, it should not.
    monkeypatch.chdir(tmp_path)
    (tmp_path / "FILE").write_text("some text\n")
    (tmp_path / "FOLDER").mkdir()
    before = sorted(path.name for path in tmp_path.iterdir())

    def make(rng):
        argv = list(BASES[name])
        for _ in range(rng.integers(1, 4)):
            action = rng.integers(6)
            word = WORDS[rng.integers(len(WORDS))]
            if action == 0 and argv:
                argv[rng.integers(len(argv))] = word
            elif action == 1 and argv:
                del argv[rng.integers(len(argv))]
            elif action == 2:
                argv.insert(rng.integers(len(argv) + 1), word)
            else:
                option = options[name][rng.integers(len(options[name]))]
                argv += [option] if rng.random() < 0.1 else [f"{option}={word}"] if option[1] == "-" else [option, word]
        # The last one counts, but after "--" it would be taken for a name.
        return [name, "--show", *argv] if name == "fit" else [name, *argv, *STOPS.get(name, [])]

    fuzz(f"iaemu-train {name}", 900, make, command, Refused)
    assert sorted(path.name for path in tmp_path.iterdir()) == before


SETTINGS = [
    *(Resolution, TabulationSettings, BoxErrorSettings, DatasetSettings, ScatterSettings),
    *(FitSettings, IAEmuNetSettings, BetaSchedule),
]


@pytest.mark.parametrize("kind", SETTINGS, ids=lambda kind: kind.__name__)
def test_settings(fuzz, kind):
    default = vars(kind())
    names = [name for name, value in default.items() if not hasattr(value, "__dataclass_fields__")]

    def make(rng):
        values = {}
        for _ in range(rng.integers(1, 3)):
            name = names[rng.integers(len(names))]
            value = awkward_number(rng)
            if isinstance(default[name], tuple) and rng.random() < 0.7:
                value = tuple(value if rng.random() < 0.5 else part for part in default[name])
            values[name] = value
        return values

    def check(settings):
        numbers = []
        for value in vars(settings).values():
            numbers += value if isinstance(value, tuple) else [value]
        return all(np.isfinite(float(part)) for part in numbers if isinstance(part, int | float))

    fuzz(kind.__name__, 400, make, lambda values: kind(**values), ValueError, check)


YAML = """# A configuration
network: factorised
dataset: null
epochs: 30
batch_size: 32
optimiser: muon
learning_rate: 4e-3
gradient_clip: 1.5
n_train: 1024
width: 64
activation: gelu
threads: 1
seed: 5
accelerator: cpu
"""
YAML_WORDS = [
    *("[", "]", "{", "}", "[]", "{}", "&a", "*a", "!!int", "!!float x", "!!bool foo", "!!binary x", "!!timestamp x"),
    *(
        "!!python/object:os.system",
        "!!set {}",
        "2001-02-30",
        "1:2:3",
        ".nan",
        ".inf",
        "-.inf",
        "null",
        "~",
        "true",
        "'",
    ),
    *('"', "|", ">", "%YAML 9.9", "---", "...", "- x", "? x", ": y", "<<: *a", "\t", "9" * 400, "9" * 5000, "[" * 400),
    *("epochs: 3", "epochs: [1, 2]", "network: iaemunet", "dropout: 0.1", "\u00e9", "\u2028", "\x07", "1e400", "0o7"),
]


def test_configurations(fuzz, tmp_path):
    path = tmp_path / "config.yaml"

    def make(rng):
        content = spoilt_text(rng, YAML, YAML_WORDS)
        return spoilt_bytes(rng, content) if rng.random() < 0.3 else content

    def read(content):
        path.write_bytes(content)
        return read_config(path)

    def check(config):
        return isinstance(config, Config) and 0 < config.settings.learning_rate <= 10

    fuzz("read_config", 3000, make, read, ConfigError, check)


def test_alias_bombs(fuzz, tmp_path):
    path = tmp_path / "config.yaml"

    def make(rng):
        kind = rng.integers(3)
        lines = [["a0: &a0 [x, x]", "a0: &a0 {x: 1}", "a0: &a0 x"][kind]]
        for level in range(1, int(rng.integers(2, 40))):
            many = ", ".join([f"*a{level - 1}"] * 9)
            lines.append(f"a{level}: &a{level} " + (f"{{<<: [{many}]}}" if kind == 1 else f"[{many}]"))
        return "\n".join(lines) + f"\n{['network', 'epochs', 'x'][rng.integers(3)]}: *a{len(lines) - 1}\n"

    def read(text):
        path.write_text(text)
        return read_config(path)

    fuzz("read_config, alias bombs", 300, make, read, ConfigError)


def test_values_of_configurations(fuzz):
    keys = [*yaml.safe_load(YAML), "network", "devices", "tables", "dropout", "x", 3, None]
    base = yaml.safe_load(YAML)

    def make(rng):
        values = dict(base)
        for _ in range(rng.integers(1, 3)):
            values[keys[rng.integers(len(keys))]] = NUMBERS[rng.integers(len(NUMBERS))]
        return values

    fuzz("Config.from_dict", 1000, make, Config.from_dict, ConfigError)
