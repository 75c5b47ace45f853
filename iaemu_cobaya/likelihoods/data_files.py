"""Measurements by name: files of :mod:`iaemu.measurement`, and those that come with this package."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Any, cast

from iaemu import measurement
from iaemu.measurement import SUFFIX


class Measurement(measurement.Measurement):
    """:class:`iaemu.measurement.Measurement` that also finds the packaged ones, such as ``tng300/sample1``."""

    @classmethod
    def read(cls, source: Any, name: str | None = None) -> Measurement:
        """Read and check a measurement.

        Parameters
        ----------
        source : str or path
            A file, or the name of a packaged measurement (see :func:`packaged_names`), such as ``tng300/sample1``.
        name : str, optional
            What error messages call it; by default the packaged name, or the path.

        Returns
        -------
        Measurement

        Raises
        ------
        MeasurementError
            Anything wrong with the content; the message names file, line or bin, and the value.
        FileNotFoundError
            Neither a packaged name nor a file; the message lists the packaged names.
        """
        path = resolve(source)
        found = super().read(path, name or (str(source) if path == _packaged(source) else None))
        return cast(Measurement, found)


def packaged_names() -> list[str]:
    """Names of the measurements that come with this package, such as ``tng300/sample1``.

    Returns
    -------
    list of str
    """
    root = _data_folder()
    files = sorted(root.glob(f"*/*{SUFFIX}"))
    return [str(file.relative_to(root).with_suffix("").as_posix()) for file in files if "_covariance" not in file.stem]


def resolve(source: Any) -> Path:
    """Path of a packaged measurement or covariance given by name, or of a user's file.

    Packaged names win, so that a run does not depend on the folder in which it is started.

    Parameters
    ----------
    source : str or path-like

    Returns
    -------
    Path

    Raises
    ------
    FileNotFoundError
        There is neither.
    """
    packaged = _packaged(source)
    if packaged.is_file():
        return packaged
    path = Path(source).expanduser()
    if not path.is_file():
        raise FileNotFoundError(
            f"There is no file {str(path)!r} (looked for in {Path.cwd()}), nor is it a packaged measurement; "
            f"these are {', '.join(packaged_names())}."
        )
    return path


def _packaged(source) -> Path:
    """Where a measurement of this name would be in the package; an absolute path stays itself."""
    return _data_folder() / f"{source}{SUFFIX}"


def _data_folder() -> Path:
    return Path(str(resources.files("iaemu_cobaya.likelihoods.data")))
