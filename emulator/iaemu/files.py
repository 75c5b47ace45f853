"""Files that are there whole, or not at all."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any


def write_whole(path: str | Path, write: Callable[[IO[bytes]], Any]) -> None:
    """Write a file under a temporary name, then rename it: an older one is replaced at once, or stays as it was.

    Parameters
    ----------
    path : str or Path
    write : callable
        Called with the open binary file, which can be read and sought too (HDF5 needs it).
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


def write_text(path: str | Path, text: str) -> None:
    """:func:`write_whole` of text, in UTF-8.

    Parameters
    ----------
    path : str or Path
    text : str
    """
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
