"""Progress: a bar in a terminal, a widget in a notebook that has ipywidgets, and lines where the output is a file."""

from __future__ import annotations

import sys
import warnings
from time import monotonic
from typing import Any, ClassVar

from tqdm import TqdmWarning

with warnings.catch_warnings():
    # tqdm warns in a notebook without ipywidgets, and then prints its bar as text.
    warnings.simplefilter("ignore", TqdmWarning)
    from tqdm.auto import tqdm as _tqdm

__all__ = ["BAR_AFTER", "LINES_APART", "in_notebook", "tqdm"]

#: Seconds before a bar appears, where the work is often done sooner.
BAR_AFTER = 2.0
#: Least seconds before the first line of a file, and between lines.
LINES_APART = 5.0


class tqdm(_tqdm):
    """tqdm's progress bar. In a file, such as the log of a job, it is a line for each tenth of the work.

    Parameters
    ----------
    *arguments, **options
        Those of tqdm.
    """

    #: When a line was written last, by any bar: those inside another one must not flood the file.
    _last_line: ClassVar[float] = 0.0

    def __init__(self, *arguments: Any, **options: Any):
        self._as_lines = _is_file(options.get("file") or sys.stderr)
        self._tenth, self._began = -1, monotonic()
        self._written: float | None = None
        if self._as_lines:
            options |= {"ncols": 0, "dynamic_ncols": False}  # numbers without the bar
        super().__init__(*arguments, **options)

    def display(self, *arguments: Any, **options: Any) -> bool:
        """Show the present state; tqdm calls it.

        Parameters
        ----------
        *arguments, **options
            Those of tqdm.

        Returns
        -------
        bool
        """
        if not self._as_lines:
            return super().display(*arguments, **options)
        # Without a total it is the numbers of minutes that count.
        tenth = int(10 * self.n / self.total) if self.total else int((monotonic() - self._began) / 60)
        if tenth > self._tenth and monotonic() - max(tqdm._last_line, self._began) > LINES_APART:
            self._write(tenth)
        return True

    def close(self) -> None:
        """End the bar."""
        if self._as_lines and not self.disable:
            if self._written not in (None, self.n):
                self._write(self._tenth)
            self.sp = None  # tqdm has nothing to clear
        super().close()

    def _write(self, tenth: int) -> None:
        self._tenth, self._written, tqdm._last_line = tenth, self.n, monotonic()
        print(str(self), file=self.fp, flush=True)


def in_notebook() -> bool:
    """Tell whether this is a notebook.

    Returns
    -------
    bool
    """
    return "IPython" in sys.modules and getattr(sys.modules["IPython"].get_ipython(), "kernel", None) is not None


def _is_file(output: Any) -> bool:
    """Tell whether text goes to a file or pipe, where a bar would be one long line."""
    return output is not None and not in_notebook() and not (hasattr(output, "isatty") and output.isatty())
