"""The message that says what to install if an optional library is missing."""

from __future__ import annotations


def it_takes(missing: object, extra: str = "training") -> str:
    """Return a message about a missing library, with the command that installs it.

    Parameters
    ----------
    missing : str or ImportError
        What is missing. A text that already contains a ``pip install`` command is returned as it is.
    extra : str
        Extra of this package that contains the library: "training", "dask", "abacus", "lensing" or "evidence".

    Returns
    -------
    str
    """
    text = str(missing).rstrip(".")
    return text if "pip install" in text else f"{text}. It takes: pip install 'iaemu-cobaya[{extra}]'"
