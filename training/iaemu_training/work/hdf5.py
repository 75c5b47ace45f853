"""Writing of HDF5 files, complete or not at all, and their attributes."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from iaemu.files import write_whole


def write_hdf5(path: str | Path, fill: Callable[[h5py.File], Any]) -> None:
    """Write an HDF5 file under a temporary name, then rename it.

    The file is made in memory first, because the HDF5 library crashes the process when the disk is full.

    Parameters
    ----------
    path : str or Path
        The file to write.
    fill : callable
        Function that fills the open, empty file.

    Raises
    ------
    OSError
        The file cannot be written.
    """
    with io.BytesIO() as memory:
        with h5py.File(memory, "w") as hdf5:
            fill(hdf5)
        with memory.getbuffer() as content:
            write_whole(path, lambda file: file.write(content))


def plain(value: Any) -> Any:
    """Convert an attribute of a file to text, a number, or a list of these.

    Parameters
    ----------
    value : bytes, str, numpy scalar or array
        The attribute as h5py or astropy return it.

    Returns
    -------
    str, bool, int, float or list
        A value of any other type is returned unchanged.
    """
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    if isinstance(value, (np.ndarray, np.generic)):
        value = value.tolist()
    return [plain(entry) for entry in value] if isinstance(value, list) else value
