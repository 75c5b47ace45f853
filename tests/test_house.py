"""The house: imports run one way, in no circle; the packages that are installed are all there are."""

import ast
import configparser
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
HOMES = {
    "iaemu": ROOT / "emulator" / "iaemu",
    "iaemu_training": ROOT / "training" / "iaemu_training",
    "iaemu_cobaya": ROOT / "iaemu_cobaya",
}

#: A package may import those before it.
PACKAGES = ("iaemu", "iaemu_training", "iaemu_cobaya")

#: Within iaemu_training a room may import those before it.
TRAINING_ROOMS = (
    *(
        "work",
        "halos",
        "pairs",
        "measuring",
        "mocks",
        "simulate",
        "tables",
        "dataset",
        "evaluation",
        "fitting",
        "commands",
    ),
)

#: The plugin runs without what trains emulators: it may import that in functions of these only.
MAY_USE_TRAINING = ("iaemu_cobaya.theories.halotools", "iaemu_cobaya.reproduce", "iaemu_cobaya.commands")

#: All commands share these, which need no library of the extra "training".
SHARED_BY_COMMANDS = tuple(
    f"iaemu_training.commands.{name}" for name in ("iaemu_train", "options", "printing", "program")
)

#: The sampler knows no cosmology; what it needs of its own package is itself, and what formats tables.
CLOSED_ROOMS = ("iaemu.sampling",)
MAY_USE = ("iaemu.display", "iaemu.progress")


def module_name(package, path):
    parts = path.relative_to(HOMES[package]).with_suffix("").parts
    return ".".join((package, *(parts[:-1] if parts[-1] == "__init__" else parts)))


FILES = {
    module_name(package, path): path
    for package, home in HOMES.items()
    for path in home.rglob("*.py")
    if ".venv" not in path.parts
}


def imports_of(path):
    """(module, whether at import time) of everything that a file imports from our packages; functions included."""
    tree = ast.parse(path.read_text())
    inside = {
        id(node)
        for outer in ast.walk(tree)
        if isinstance(outer, ast.FunctionDef | ast.Lambda)
        for node in ast.walk(outer)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found = [f"{node.module}.{alias.name}" for alias in node.names]
            names = [name if name in FILES else node.module for name in found]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            continue
        yield from ((name, id(node) not in inside) for name in names if name.split(".")[0] in PACKAGES)


ARROWS = [(name, target, early) for name, path in FILES.items() for target, early in imports_of(path)]


def test_packages_import_one_way():
    order = {package: rank for rank, package in enumerate(PACKAGES)}
    upward = [(name, target) for name, target, _ in ARROWS if order[target.split(".")[0]] > order[name.split(".")[0]]]
    assert not upward


def test_rooms_of_the_training_package_import_one_way():
    rooms = {path.name for path in HOMES["iaemu_training"].iterdir() if (path / "__init__.py").exists()}
    assert rooms == set(TRAINING_ROOMS)
    rank = {f"iaemu_training.{room}": number for number, room in enumerate(TRAINING_ROOMS)}
    inner = [
        (name, target)
        for name, target, _ in ARROWS
        if all(".".join(module.split(".")[:2]) in rank for module in (name, target))
    ]
    upward = [
        (name, target)
        for name, target in inner
        if rank[".".join(target.split(".")[:2])] > rank[".".join(name.split(".")[:2])]
    ]
    assert inner and not upward


def test_the_plugin_imports_the_training_package_late_and_in_three_places():
    wrong = [
        (name, target)
        for name, target, early in ARROWS
        if name.startswith("iaemu_cobaya") and target.startswith("iaemu_training")
        if (early or not name.startswith(MAY_USE_TRAINING))
        and not (name.startswith("iaemu_cobaya.commands") and target.startswith(SHARED_BY_COMMANDS))
    ]
    assert not wrong


@pytest.mark.parametrize("room", CLOSED_ROOMS)
def test_closed_rooms_import_nothing_of_ours(room):
    outward = [a for a in ARROWS if a[0].startswith(room) and not a[1].startswith((room, *MAY_USE))]
    assert not outward
    assert not [a for a in ARROWS if a[0] in MAY_USE]


def test_no_files_import_each_other():
    """Depth first over all imports, those inside functions included; a package's __init__ is no file of its own."""
    graph = {name: sorted({target for source, target, _ in ARROWS if source == name}) for name in FILES}
    done, path = set(), []

    def visit(name):
        if name in path:
            raise AssertionError("circle: " + " -> ".join([*path[path.index(name) :], name]))
        if name in done:
            return
        path.append(name)
        for target in graph.get(name, []):
            visit(target)
        path.pop()
        done.add(name)

    for name in FILES:
        visit(name)
    assert done == set(FILES) | {target for _, target, _ in ARROWS}


def test_all_packages_are_installed():
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    listed = config["options"]["packages"].split()
    there = [module_name(package, path) for package, home in HOMES.items() for path in home.rglob("__init__.py")]
    assert sorted(listed) == sorted(there)


@pytest.mark.parametrize(
    ("package", "unwanted"),
    [
        ("iaemu", ["torch", "cobaya", "halotools", "matplotlib", "iaemu_training", "iaemu_cobaya"]),
        ("iaemu.models", ["cobaya", "halotools", "matplotlib", "iaemu_training", "iaemu_cobaya"]),
        ("iaemu_cobaya", ["torch", "cobaya", "getdist", "matplotlib", "iaemu_training"]),
        ("iaemu_cobaya.theories.models", ["halotools", "numba", "h5py", "lightning", "iaemu_training"]),
        ("iaemu_cobaya.theories.halotools", ["halotools", "numba", "h5py", "lightning", "iaemu_training"]),
        ("iaemu_cobaya.likelihoods.packaged", ["halotools", "numba", "h5py", "lightning", "iaemu_training"]),
        ("iaemu_cobaya.sampler.hmc", ["halotools", "numba", "h5py", "lightning", "iaemu_training"]),
        ("iaemu_cobaya.commands.door", ["numpy", "torch", "cobaya", "matplotlib", "numba", "docstring_parser"]),
        ("iaemu.measurement", ["torch", "cobaya", "matplotlib"]),
        ("iaemu_training.commands.measure", ["torch", "cobaya", "matplotlib", "numba", "h5py"]),
        ("iaemu_cobaya.commands.plot", ["torch", "cobaya", "matplotlib", "numba", "docstring_parser"]),
    ],
)
def test_imports_stay_cheap(package, unwanted):
    code = f"import sys, {package}; print(*sorted(set({unwanted}) & set(sys.modules)))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.split() == []
