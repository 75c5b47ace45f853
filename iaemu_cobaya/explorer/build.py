"""Write the explorer's page: one HTML file that needs no other, no server and no network."""

from __future__ import annotations

import json
from importlib import resources
from pathlib import Path
from typing import cast

from iaemu import __version__
from iaemu.files import write_text
from iaemu.models.factorised import Emulator
from iaemu_cobaya.explorer.export import explorer_data

#: Scripts, in the order in which the browser reads them.
_SCRIPTS = ("model.js", "plots.js", "page.js")


def explorer_page(model: Emulator | None = None) -> str:
    """Return the page as text.

    Parameters
    ----------
    model : Emulator, optional
        By default the shipped one.

    Returns
    -------
    str
    """
    shown = model if model is not None else cast(Emulator, Emulator.load())
    data = json.dumps(explorer_data(shown), separators=(",", ":"))
    parts = {
        "style": _source("style.css"),
        "plot_style": _source("plot.css"),
        "script": "\n".join(_source(name) for name in _SCRIPTS),
        "version": __version__,
        # Within an element, "</" would end it.
        "data": data.replace("</", "<\\/"),
    }
    page = _source("page.html")
    for name, text in parts.items():
        page = page.replace("{{" + name + "}}", text)
    return page


def write_explorer(path: str | Path, model: Emulator | None = None) -> None:
    """Write the page to a file.

    Parameters
    ----------
    path : str or Path
    model : Emulator, optional
        By default the shipped one.
    """
    write_text(path, explorer_page(model))


def _source(name: str) -> str:
    return (resources.files("iaemu_cobaya.explorer") / name).read_text(encoding="utf-8")
