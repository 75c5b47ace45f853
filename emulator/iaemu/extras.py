"""What to install where a library of an optional part is missing."""

from __future__ import annotations


def it_takes(missing: object, extra: str = "training") -> str:
    """A message about something that is not installed, with the command that installs it.

    Parameters
    ----------
    missing : str or ImportError
        What is missing, or what the import said. If it names a command already, that is kept.
    extra : str
        One of the package's: "training" or "dask".

    Returns
    -------
    str
    """
    text = str(missing).rstrip(".")
    return text if "pip install" in text else f"{text}. It takes: pip install 'iaemu-cobaya[{extra}]'"
