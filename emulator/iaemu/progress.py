"""Progress bars: text in a terminal, widgets in a notebook that has ipywidgets, text in one that has not."""

from __future__ import annotations

import warnings

from tqdm import TqdmWarning

with warnings.catch_warnings():
    # tqdm warns in a notebook without ipywidgets, and then prints its bar as text.
    warnings.simplefilter("ignore", TqdmWarning)
    from tqdm.auto import tqdm

__all__ = ["BAR_AFTER", "tqdm"]

#: Seconds before a bar appears, where the work is often done sooner.
BAR_AFTER = 2.0
