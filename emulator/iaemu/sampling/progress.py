"""The progress bar: text in a terminal, a widget in a notebook that has ipywidgets, else text there too."""

from __future__ import annotations

import warnings

from tqdm import TqdmWarning

with warnings.catch_warnings():
    # Without ipywidgets a notebook gets the bar of a terminal, which shows the same.
    warnings.simplefilter("ignore", TqdmWarning)
    from tqdm.auto import tqdm

__all__ = ["tqdm"]
