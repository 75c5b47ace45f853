"""What is missing is named the same way everywhere."""

import re
from pathlib import Path

import iaemu
import iaemu_cobaya
from iaemu.extras import it_takes


def test_the_command_is_named_once():
    message = it_takes("Mocks need halotools.")
    assert message == "Mocks need halotools. It takes: pip install 'iaemu-cobaya[training]'"
    assert it_takes(ImportError(message)) == message
    assert it_takes(ModuleNotFoundError("No module named 'dask'"), "dask").endswith("'iaemu-cobaya[dask]'")


def test_no_other_place_names_the_extras():
    roots = {Path(iaemu.__file__).parent, Path(iaemu_cobaya.__file__).parent}
    roots |= {root.parent.parent / "training" / "iaemu_training" for root in roots}
    found = [
        path.name
        for root in roots
        for path in root.rglob("*.py")
        if path.name != "extras.py" and re.search(r"iaemu-cobaya\[", path.read_text())
    ]
    assert not found
