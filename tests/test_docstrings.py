"""Public names say what they take and what they give: numpydoc's checks, as listed in pyproject.toml."""

import ast
import importlib
import inspect
import pkgutil
import tomllib
from pathlib import Path

import pytest

validate = pytest.importorskip("numpydoc.validate")

import iaemu
import iaemu_cobaya

SETTINGS = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["tool"]["numpydoc_validation"]
PACKAGES = (iaemu, iaemu_cobaya)


def modules(package):
    yield package.__name__
    for found in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
        if not found.name.rpartition(".")[2].startswith("_"):
            yield found.name


def public_names(module_name):
    """Functions, classes and methods that a module defines and does not hide, by full name."""
    module = importlib.import_module(module_name)
    for name, value in vars(module).items():
        if name.startswith("_") or getattr(value, "__module__", None) != module_name:
            continue
        if inspect.isfunction(value):
            yield f"{module_name}.{name}"
        elif inspect.isclass(value):
            yield f"{module_name}.{name}"
            for attribute, member in vars(value).items():
                kind = isinstance(member, property | staticmethod | classmethod) or inspect.isfunction(member)
                if kind and not attribute.startswith("_") and not inherits_its_text(value, attribute, member):
                    yield f"{module_name}.{name}.{attribute}"


def inherits_its_text(cls, attribute, member):
    """Whether a method stands for one that is described in a base class, ours or that of a library."""
    inherited = any(hasattr(base, attribute) for base in cls.__mro__[1:])
    return inherited and not getattr(member, "__doc__", None)


@pytest.mark.parametrize("module", [name for package in PACKAGES for name in modules(package)])
def test_docstrings_are_complete(module):
    wrong = []
    for name in public_names(module):
        result = validate.validate(name)
        is_property = result["type"] == "property"
        for code, message in result["errors"]:
            if code in SETTINGS["checks"] and not (is_property and code == "RT01"):
                wrong.append(f"{result['file_line']} {name}: {code} {message}")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("module", [name for package in PACKAGES for name in modules(package)])
def test_public_functions_are_annotated(module):
    file = Path(inspect.getsourcefile(importlib.import_module(module)))
    wrong = []
    for parent in ast.walk(ast.parse(file.read_text())):
        if not isinstance(parent, ast.Module | ast.ClassDef):
            continue
        for node in parent.body:
            if not isinstance(node, ast.FunctionDef) or node.name.startswith("_"):
                continue
            given = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
            lacking = [a.arg for a in given if a.annotation is None and a.arg not in ("self", "cls", "ctx")]
            if getattr(parent, "name", "").startswith("_"):
                continue
            if lacking or node.returns is None:
                wrong.append(f"{file.name}:{node.lineno} {node.name}: {', '.join(lacking) or 'what it returns'}")
    assert not wrong, "\n".join(wrong)
