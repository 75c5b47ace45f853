"""Progress bars of a run of HMC, on a terminal and in notebooks."""

from __future__ import annotations

import sys
import time
from typing import Any

from iaemu.progress import in_notebook, tqdm


def can_show() -> bool:
    """Return whether somebody can see a bar: standard error is a terminal, or this is a notebook.

    Returns
    -------
    bool
    """
    return in_notebook() or (sys.stderr is not None and sys.stderr.isatty())


def progress_bar(show: bool, **options: Any) -> tqdm:
    """Make a progress bar that disappears when it is closed.

    Parameters
    ----------
    show : bool
        If not, the bar does nothing.
    **options
        Of tqdm.

    Returns
    -------
    tqdm
    """
    return tqdm(disable=not (show and can_show()), leave=False, dynamic_ncols=True, **options)


class DrawsBar:
    """A bar that counts draws, and estimates how many the run will need.

    Draws are made in blocks, one for each check of convergence: first all chains are moved, then Cobaya evaluates each
    draw. Within a block the bar advances through both, in proportion to the time that they took in the block before.

    Parameters
    ----------
    show : bool
    initial : int
        Draws that a resumed run has already.
    total : int, optional
        Draws at which the run will stop, if this is known.
    """

    def __init__(self, show: bool, initial: int = 0, total: int | None = None):
        # smoothing = 0: the time left is estimated from the mean speed, since checks of convergence take time too.
        self._bar = progress_bar(show, desc="draws", unit=" draws", initial=initial, total=total, smoothing=0)
        self._share = 0.5
        self.begin(initial, 1, 1)

    def __enter__(self) -> DrawsBar:
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.close()

    def begin(self, stop: int, n_steps: int, n_points: int) -> None:
        """Begin a block.

        Parameters
        ----------
        stop : int
            Draws at its end.
        n_steps : int
            Transitions that it takes.
        n_points : int
            Draws that Cobaya evaluates.
        """
        self._start, self._stop = self._bar.n, stop
        self._n_steps, self._n_points = n_steps, n_points
        self._step, self._point = 0, 0
        self._began = self._moved = time.perf_counter()

    def moved(self, *_: object) -> None:
        """Count a transition of all chains.

        Parameters
        ----------
        *_
            Not used.
        """
        self._step += 1
        self._moved = time.perf_counter()
        self._advance(self._share * self._step / self._n_steps)

    def evaluated(self) -> None:
        """Count a draw that Cobaya has evaluated."""
        self._point += 1
        self._advance(self._share + (1.0 - self._share) * self._point / self._n_points)

    def _advance(self, share: float) -> None:
        self._bar.update(self._start + int(share * (self._stop - self._start)) - self._bar.n)

    def clear(self) -> None:
        """Take the bar off the terminal, so that a line of the log can be printed."""
        self._bar.clear()

    def end(self, total: int | None, text: str) -> None:
        """End a block.

        Parameters
        ----------
        total : int, optional
            Draws at which the run is expected to stop; None if unknown.
        text : str
            Shown behind the bar.
        """
        now = time.perf_counter()
        self._share = (self._moved - self._began) / max(now - self._began, 1e-9)
        self._bar.update(self._stop - self._bar.n)
        self._bar.total = total
        if hasattr(self._bar, "container") and total:
            # A widget in a notebook keeps its own total.
            widget = self._bar.container.children[1]
            widget.max, widget.bar_style, widget.layout.width = total, "", None
        self._bar.set_postfix_str(text)
