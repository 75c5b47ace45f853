"""Public names say what they take and what they give: numpydoc's checks (pyproject.toml), annotations."""

import importlib
import inspect
import pkgutil
import re
import tomllib
from pathlib import Path

import pytest

import iaemu
import iaemu_cobaya

validate = pytest.importorskip("numpydoc.validate").validate

PROJECT = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())
SETTINGS = PROJECT["tool"]["numpydoc_validation"]
MODULES = [
    found.name
    for package in (iaemu, iaemu_cobaya)
    for found in pkgutil.walk_packages(package.__path__, f"{package.__name__}.")
    if not found.name.rpartition(".")[2].startswith("_")
]


def public_names(module_name):
    """(name, object, class or None) of functions, classes and methods that a module defines and does not hide."""
    for name, value in vars(importlib.import_module(module_name)).items():
        if name.startswith("_") or getattr(value, "__module__", None) != module_name:
            continue
        if inspect.isfunction(value) or inspect.isclass(value):
            yield f"{module_name}.{name}", value, None
        if inspect.isclass(value):
            for attribute, member in vars(value).items():
                known = isinstance(member, property | staticmethod | classmethod) or inspect.isfunction(member)
                if known and not attribute.startswith("_"):
                    yield f"{module_name}.{name}.{attribute}", member, value


def stands_for_another(member, cls, name):
    """Whether a method without a text of its own is described in a base class, ours or that of a library."""
    inherited = cls is not None and any(hasattr(base, name.rpartition(".")[2]) for base in cls.__mro__[1:])
    return inherited and not member.__doc__


@pytest.mark.parametrize("module", MODULES)
def test_docstrings_are_complete(module):
    wrong = []
    for name, value, cls in public_names(module):
        if stands_for_another(value, cls, name) or any(re.search(pattern, name) for pattern in SETTINGS["exclude"]):
            continue
        found = validate(name)
        # What a property gives says its summary. Fields are attributes; options of components are in their YAML.
        spared = "RT01" if isinstance(value, property) else None
        if inspect.isclass(value) and ("Attributes\n" in found["docstring"] or "__init__" not in vars(value)):
            spared = "PR01"
        errors = [(code, text) for code, text in found["errors"] if code in SETTINGS["checks"] and code != spared]
        wrong += [f"line {found['file_line']}, {name}: {code} {text}" for code, text in errors]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("module", MODULES)
def test_public_functions_are_annotated(module):
    wrong = []
    for name, value, cls in public_names(module):
        function = getattr(value, "fget", None) or getattr(value, "__func__", value)
        if inspect.isclass(value) or stands_for_another(value, cls, name) or not inspect.isfunction(function):
            continue
        parameters = list(inspect.signature(function).parameters.values())
        own = parameters[1:] if cls is not None and not isinstance(value, staticmethod) else parameters
        lacking = [parameter.name for parameter in own if parameter.annotation is parameter.empty]
        if inspect.signature(function).return_annotation is inspect.Signature.empty:
            lacking.append("what it returns")
        wrong += [f"{name}: {', '.join(lacking)}"] if lacking else []
    assert not wrong, "\n".join(wrong)
