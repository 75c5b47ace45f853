"""The names of docs/api/iaemu_training.md are documented in full, since Sphinx renders them."""

import importlib
import inspect
import re
import tomllib
from pathlib import Path

import pytest

validate = pytest.importorskip("numpydoc.validate").validate

ROOT = Path(__file__).parents[2]
CHECKS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["numpydoc_validation"]["checks"]
PAGE = (ROOT / "docs/api/iaemu_training.md").read_text()
NAMES = re.findall(r"^\.\. auto(?:class|function):: (\S+)$", PAGE, flags=re.MULTILINE)


def members(name):
    """A name of the page, and the public members of a class, with whether they are attributes."""
    module, _, short = name.rpartition(".")
    value = getattr(importlib.import_module(module), short)
    yield name, False
    for attribute, member in vars(value).items() if inspect.isclass(value) else ():
        is_attribute = not (inspect.isfunction(member) or isinstance(member, classmethod | staticmethod))
        if not attribute.startswith("_") and getattr(member, "__doc__", None) and hasattr(member, "__get__"):
            yield f"{name}.{attribute}", is_attribute


def test_the_page_is_read():
    assert "iaemu_training.halos.catalogue.HaloCatalogue" in NAMES


@pytest.mark.parametrize("name", NAMES)
def test_docstrings_of_the_page_are_complete(name):
    wrong = []
    for full, is_attribute in members(name):
        found = validate(full)
        # Fields of classes are described as attributes; what a property returns is in its summary.
        spared = {"RT01"} if is_attribute else {"PR01"} if "Attributes\n" in found["docstring"] else set()
        wrong += [f"{full}: {code} {text}" for code, text in found["errors"] if code in set(CHECKS) - spared]
    assert not wrong, "\n".join(wrong)
