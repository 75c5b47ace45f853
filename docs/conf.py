"""Sphinx: python -m sphinx -W -b html docs docs/_build."""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path

from iaemu import __version__
from iaemu_cobaya.explorer.build import write_explorer

project = "iaemu-cobaya"
author = "the iaemu-cobaya developers"
version = release = __version__

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.mathjax",
    "numpydoc",
    "sphinx_copybutton",
]
exclude_patterns = ["_build", "joss"]

html_theme = "furo"
html_title = f"iaemu-cobaya {version}"
html_show_copyright = False
html_static_path = []
# Offline builds: the folder of a copy of MathJax, in place of its server.
if "MATHJAX" in os.environ:
    html_static_path = [os.environ["MATHJAX"]]
    mathjax_path = "tex-mml-chtml.js"

myst_enable_extensions = ["amsmath", "deflist", "dollarmath"]
myst_heading_anchors = 3
# Pages with code run when the site is built: a cell that fails is an error.
nb_execution_mode = "force"
nb_execution_raise_on_error = True
nb_execution_timeout = 900
nb_merge_streams = True
# Notebooks call commands of this environment, which need not be activated.
# They show their figures, whatever backend is chosen outside.
os.environ.pop("MPLBACKEND", None)
# One thread each: several wait for one another where other work shares the machine.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])

autodoc_member_order = "bysource"
autodoc_typehints = "none"
numpydoc_show_class_members = False
numpydoc_class_members_toctree = False
# Cobaya and torch document themselves in other styles.
suppress_warnings = ["mystnb.unknown_mime_type"]

linkcheck_ignore = [r"https?://.*"]


def write_explorer_page(app, exception):
    """Write the page that explorer.md shows, from the emulator and the data of the package."""
    logging.getLogger("iaemu_cobaya").setLevel(logging.WARNING)  # of likelihoods, which tell what data they read
    if exception is None and app.builder.format == "html":
        write_explorer(Path(app.outdir) / "_static" / "explorer.html")


def setup(app):
    app.connect("build-finished", write_explorer_page)
