"""Files that are there whole, or not at all."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path


def write_whole(path, write: Callable) -> None:
    """Write a file under a temporary name, then rename it: an older one is replaced at once, or stays as it was.

    ``write`` is called with the open binary file, which can be read and sought too (HDF5 needs it).
    """
    path = Path(path)
    temporary = path.with_name(path.name + ".tmp")
    try:
        with open(temporary, "w+b") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_text(path, text: str) -> None:
    """:func:`write_whole` of text, in UTF-8."""
    write_whole(path, lambda file: file.write(text.encode()))


def sha256_of_file(path: str | Path) -> str:
    """SHA-256 of a file.

    Parameters
    ----------
    path : path-like

    Returns
    -------
    str
        In hexadecimal.
    """
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
