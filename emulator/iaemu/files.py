"""Files that are written completely or not at all, and text files that are read."""

from __future__ import annotations

import bz2
import fcntl
import glob
import gzip
import hashlib
import lzma
import os
import secrets
import zlib
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import IO, Any

#: Called with the open binary file, which also allows reading and seeking.
Write = Callable[[IO[bytes]], Any]


def write_whole(path: str | Path, write: Write) -> None:
    """Write a file under a temporary name and rename it, so that an older file is replaced in one step or kept.

    Parameters
    ----------
    path : str or Path
        If it is a link, its target is replaced. The mode of an older file is kept.
    write : callable
        Called with the open binary file, which also allows reading and seeking.

    Raises
    ------
    OSError
        The file cannot be written. An older file is unchanged.
    """
    write_together({path: write})


def write_together(files: Mapping[str | Path, Write]) -> None:
    """Write several files as :func:`write_whole` does, and rename them only when all are written.

    Parameters
    ----------
    files : mapping of path to callable
        The files are renamed in this order.

    Raises
    ------
    OSError
        One of the files cannot be written. Older files are unchanged.
    """
    with ExitStack() as leftovers:
        written = []
        for path, write in files.items():
            target = Path(os.path.realpath(path))
            if target.is_dir():
                raise IsADirectoryError(f"{path} is a folder; give the name of a file.")
            if not target.parent.is_dir():
                raise FileNotFoundError(f"The folder {target.parent} of {path} does not exist; make it first.")
            remove_leftovers(target)
            file, temporary = _temporary(target)
            leftovers.enter_context(file)
            leftovers.callback(temporary.unlink, missing_ok=True)
            try:
                write(file)
                file.flush()
                if target.exists():
                    os.fchmod(file.fileno(), target.stat().st_mode & 0o7777)
                os.fsync(file.fileno())
            except OSError as error:
                if error.errno is not None and error.filename is None:  # if the disk is full, the error names no file
                    error.filename = str(path)
                raise
            written.append((temporary, target))
        for temporary, target in written:
            os.replace(temporary, target)


def remove_leftovers(path: str | Path) -> None:
    """Remove the temporary files of processes that were killed while they wrote a file.

    Parameters
    ----------
    path : str or Path
        The file. The temporary file of a process that is still writing is kept.
    """
    target = Path(os.path.realpath(path))
    for leftover in target.parent.glob(f".{glob.escape(target.name[:100])}.????????.tmp"):
        with suppress(OSError), open(leftover, "rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            leftover.unlink()


def write_text(path: str | Path, text: str) -> None:
    """Write text in UTF-8 as :func:`write_whole` does.

    Parameters
    ----------
    path : str or Path
    text : str
    """
    write_whole(path, lambda file: file.write(text.encode()))


def read_text(path: str | Path) -> str:
    """Read a text file in UTF-8, with or without a byte-order mark, or else in Latin-1.

    Parameters
    ----------
    path : str or Path
        A name that ends in ``.gz``, ``.bz2`` or ``.xz`` is taken as compressed.

    Returns
    -------
    str
        Text whose lines end in newlines; carriage returns are replaced.

    Raises
    ------
    OSError
        The file cannot be read or decompressed.
    ValueError
        The file contains NUL bytes, so it is not text.
    """
    opener: Any = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}.get(Path(path).suffix.lower(), open)
    try:
        with opener(path, "rb") as file:
            content = file.read()
    except (EOFError, lzma.LZMAError, zlib.error) as error:
        raise OSError(f"{path} is damaged: {error}") from error
    if b"\0" in content:
        raise ValueError(f"{path} is not a text file: it contains NUL bytes.")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = content.decode("latin-1")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def sha256_of_file(path: str | Path) -> str:
    """Return the SHA-256 of a file in hexadecimal.

    Parameters
    ----------
    path : path-like

    Returns
    -------
    str
    """
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _temporary(target: Path) -> tuple[IO[bytes], Path]:
    """Open a new, uniquely named file in the folder of the target, as a rename cannot cross file systems.

    The file is locked as long as its writer lives.
    """
    while True:
        path = target.with_name(f".{target.name[:100]}.{secrets.token_hex(4)}.tmp")
        try:
            file = open(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666), "w+b")
        except FileExistsError:
            continue
        with suppress(OSError):  # a file system without locks
            fcntl.flock(file, fcntl.LOCK_EX)
        if path.exists():
            return file, path
        file.close()  # another process removed it as a leftover before it was locked
