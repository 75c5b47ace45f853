"""Find measurements by name: files of :mod:`iaemu.measurement`, and those that come with this package."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Any, cast

from iaemu import measurement
from iaemu.measurement import SUFFIX


class Measurement(measurement.Measurement):
    """:class:`iaemu.measurement.Measurement` that also reads packaged measurements, such as ``tng300/sample1``."""

    @classmethod
    def read(cls, source: Any, name: str | None = None) -> Measurement:
        """Read and check a measurement.

        Parameters
        ----------
        source : str or path
            A file, or the name of a packaged measurement (see :func:`packaged_names`), such as ``tng300/sample1``.
        name : str, optional
            Name in error messages; by default the packaged name, or the path.

        Returns
        -------
        Measurement

        Raises
        ------
        MeasurementError
            The content is not valid; the message names file, line or bin, and the value.
        FileNotFoundError
            There is no such file or packaged name; the message lists the packaged names.
        """
        path = resolve(source)
        found = super().read(path, name or (str(source) if path == _packaged(source) else None))
        return cast(Measurement, found)


def packaged_names() -> list[str]:
    """Return the names of the measurements that come with this package, such as ``tng300/sample1``.

    Returns
    -------
    list of str
        Without cosmic shear, which :class:`iaemu_cobaya.likelihoods.shear_data.ShearData` reads.
    """
    return [name for name in _names() if not name.startswith("shear/")]


def _names() -> list[str]:
    root = _data_folder()
    files = sorted(root.glob(f"*/*{SUFFIX}"))
    return [str(file.relative_to(root).with_suffix("").as_posix()) for file in files if "_covariance" not in file.stem]


def resolve(source: Any) -> Path:
    """Return the path of a packaged measurement or covariance, or of a user's file.

    Packaged names come first, so that a run does not depend on the folder in which it is started.

    Parameters
    ----------
    source : str or path-like

    Returns
    -------
    Path

    Raises
    ------
    FileNotFoundError
        There is no such file or packaged name.
    """
    packaged = _packaged(source)
    if packaged.is_file():
        return packaged
    path = Path(source).expanduser()
    if not path.is_file():
        raise FileNotFoundError(
            f"There is no file {str(path)!r} (in the folder {Path.cwd()}), and no packaged measurement of this name. "
            f"Packaged are: {', '.join(_names())}."
        )
    return path


def _packaged(source) -> Path:
    """Return the path that a packaged measurement of this name would have; an absolute path stays unchanged."""
    return _data_folder() / f"{source}{SUFFIX}"


def _data_folder() -> Path:
    return Path(str(resources.files("iaemu_cobaya.likelihoods.data")))
