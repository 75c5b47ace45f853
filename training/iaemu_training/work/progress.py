"""Progress bars that work on the command line and in notebooks: use ``tqdm`` of this module."""

from __future__ import annotations

import warnings

with warnings.catch_warnings():
    # Without ipywidgets a notebook gets bars of text, which need no warning.
    warnings.filterwarnings("ignore", message="IProgress not found")
    from tqdm.auto import tqdm

__all__ = ["BAR_AFTER", "tqdm"]

#: Seconds before a progress bar appears, where work is often done sooner.
BAR_AFTER = 2.0
