"""Files that are there whole, or not at all."""

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

#: Called with the open binary file, which can be read and sought too.
Write = Callable[[IO[bytes]], Any]


def write_whole(path: str | Path, write: Write) -> None:
    """Write a file under a temporary name, then rename it: an older one is replaced at once, or stays as it was.

    Parameters
    ----------
    path : str or Path
        Of a link, its target is replaced. The mode of an older file is kept.
    write : callable
        Called with the open binary file, which can be read and sought too.

    Raises
    ------
    OSError
        The file cannot be written; it is as it was before, or absent.
    """
    write_together({path: write})


def write_together(files: Mapping[str | Path, Write]) -> None:
    """:func:`write_whole` of several files: none is renamed before all are written.

    Parameters
    ----------
    files : mapping of path to callable
        They are renamed in this order.

    Raises
    ------
    OSError
        One of them cannot be written; all are as they were before.
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
                if error.errno is not None and error.filename is None:  # a full disk: of which file?
                    error.filename = str(path)
                raise
            written.append((temporary, target))
        for temporary, target in written:
            os.replace(temporary, target)


def remove_leftovers(path: str | Path) -> None:
    """Remove what processes left behind that were killed while they wrote a file.

    Parameters
    ----------
    path : str or Path
        The file. What another process is writing just now stays.
    """
    target = Path(os.path.realpath(path))
    for leftover in target.parent.glob(f".{glob.escape(target.name[:100])}.????????.tmp"):
        with suppress(OSError), open(leftover, "rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            leftover.unlink()


def write_text(path: str | Path, text: str) -> None:
    """:func:`write_whole` of text, in UTF-8.

    Parameters
    ----------
    path : str or Path
    text : str
    """
    write_whole(path, lambda file: file.write(text.encode()))


def read_text(path: str | Path) -> str:
    """The text of a file as people have it: in UTF-8, with a byte-order mark or without, or in latin-1; compressed too.

    Parameters
    ----------
    path : str or Path
        Compressed if it ends in ``.gz``, ``.bz2`` or ``.xz``.

    Returns
    -------
    str
        Lines end in newlines, whatever they end in in the file.

    Raises
    ------
    OSError
        The file cannot be read, or is not what its compression says.
    ValueError
        It is not text: it holds NUL bytes.
    """
    opener: Any = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}.get(Path(path).suffix.lower(), open)
    try:
        with opener(path, "rb") as file:
            content = file.read()
    except (EOFError, lzma.LZMAError, zlib.error) as error:
        raise OSError(f"{path} is damaged: {error}") from error
    if b"\0" in content:
        raise ValueError(f"{path} is not a text file: it holds NUL bytes.")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = content.decode("latin-1")
    return text.replace("\r\n", "\n").replace("\r", "\n")


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


def _temporary(target: Path) -> tuple[IO[bytes], Path]:
    """A new file of a name that nobody else has, beside the target: a rename across file systems is a copy.

    It is locked as long as its writer lives.
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
        file.close()  # another writer took it for abandoned before it was locked
