"""Read the "2pt" FITS format, in which the echo-IA collaboration keeps w_gg, w_g+ and w_++ of many surveys.

Extensions ``wgg``, ``wgp`` and ``wpp`` are tables with columns ``SEP`` (r_p) and ``VALUE`` (w), and ``BIN1``, ``BIN2``,
``SAMPLE1``, ``SAMPLE2``, which tell apart pairs of samples. ``COVMAT`` is the covariance of all of them: ``NAME_i``
are the extensions, ``STRT_i`` their first rows. Extensions whose names begin with ``nz`` are redshift distributions:
``Z_MID``, and n(z) in ``BIN1``.

Source: github.com/echo-IA/IAmeasurementsStore, code/make_fits.ipynb.
"""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import numpy as np

from iaemu.measurement import MeasurementError

_STATISTICS = {"wgg": "w_gg", "wgp": "w_gplus", "wpp": "w_plusplus"}
_SEPARATIONS = ("SEP", "R_P", "RP")
_ANGLES = ("ANG", "THETA", "ANGLE")
_ERRORS = ("ERROR", "ERR", "SIGMA")
_PAIR = ("SAMPLE", "SAMPLE1", "SAMPLE2", "BIN", "BIN1", "BIN2")

#: Bytes of a line of a header, and of the blocks of which a FITS file is made.
_CARD, _BLOCK = 80, 2880

#: Units of separations in Mpc/h, without what is neither letter nor number.
_MPC_H = ("", "mpch", "mpch1", "h1mpc", "hmpc", "1hmpc", "mpcperh")

#: n(z) of one sample that differ by more (half of the integral of their difference) are of samples that differ.
_DIFFERENT, _SEPARATE = 0.1, 0.5


def statistic_of(name: str) -> str | None:
    """Return the statistic that a name stands for, such as wgp, w_g+ or w_gplus.

    Parameters
    ----------
    name : str

    Returns
    -------
    str or None
        None if it is none of w_gg, w_gplus and w_plusplus.
    """
    plain = re.sub(r"[\s_{}^$\\]", "", name.lower()).replace("plus", "p").replace("+", "p")
    return _STATISTICS.get(plain)


@dataclass(frozen=True)
class SurveyTable:
    """One statistic as it stands in a file.

    Attributes
    ----------
    label : str
        File and part of it, for messages.
    r : array (n,)
        Separations [Mpc/h].
    value : array (n,)
        [Mpc/h]
    error : array (n,) or None
    limits : array (n, 2) or None
        Limits of the bins [Mpc/h], if the file states them.
    """

    label: str
    r: np.ndarray
    value: np.ndarray
    error: np.ndarray | None = None
    limits: np.ndarray | None = None


@dataclass(frozen=True)
class SurveyFile:
    """What is in a file, or in several.

    Attributes
    ----------
    tables : dict of statistic to SurveyTable
    covariances : list of (tuple of str, array)
        Statistics, and the covariance of all their rows, one statistic after the other.
    n_regions : int or None
        Number of realisations that the file states.
    metadata : dict
    notes : list of str
        What a user must know.
    """

    tables: dict[str, SurveyTable]
    covariances: list[tuple[tuple[str, ...], np.ndarray]]
    n_regions: int | None
    metadata: dict[str, Any]
    notes: list[str]


@dataclass(frozen=True)
class _Extension:
    """Header and columns, or image, of one part of a FITS file."""

    name: str
    header: Mapping[str, Any]
    columns: Mapping[str, np.ndarray]
    units: Mapping[str, str]
    image: np.ndarray | None


def read_2pt(content: bytes, label: str, pair: Mapping[str, int] | None = None) -> SurveyFile:
    """Read a file in the 2pt format.

    Parameters
    ----------
    content : bytes
        The file.
    label : str
        Its name in messages.
    pair : mapping of str to int, optional
        Which rows to use if a table holds several pairs of samples: column (BIN1, SAMPLE2, ...) to its value.

    Returns
    -------
    SurveyFile

    Raises
    ------
    MeasurementError
        The file is damaged, lacks something, has other units, or holds several pairs of samples.
    """
    extensions = _extensions(content, label)
    found: dict[str, _Extension] = {}
    for extension in extensions:
        statistic = statistic_of(extension.name)
        if statistic is None:
            continue
        if statistic in found:
            raise MeasurementError(f"{label} has two extensions of {statistic}; keep one.")
        found[statistic] = extension
    if not found:
        names = ", ".join(extension.name or "(no name)" for extension in extensions) or "none"
        raise MeasurementError(
            f"{label} has no extension called wgg, wgp or wpp; its extensions are: {names}. Is it a file in the 2pt "
            "format of echo-IA with w_gg or w_g+?"
        )
    rows = {name: _rows_of_pair(f"{label}, {entry.name}", entry, pair or {}) for name, entry in found.items()}
    tables = {name: _table(label, entry, rows[name]) for name, entry in found.items()}
    covariances, n_regions = [], None
    matrices = [entry for entry in extensions if entry.name.upper() in ("COVMAT", "COV", "COVARIANCE")]
    if matrices:
        sizes = {name: len(next(iter(entry.columns.values()))) for name, entry in found.items()}
        order, matrix = _covariance(label, matrices[0], sizes, rows)
        covariances, n_regions = [(order, matrix)], _realisations(matrices[0].header)
    elif any(table.error is None for table in tables.values()):
        raise MeasurementError(
            f"{label} has no extension COVMAT, so its values have no errors. Write plain tables 'r_p value error' and "
            "give these."
        )
    metadata, notes = _samples(label, extensions, pair or {})
    return SurveyFile(tables, covariances, n_regions, metadata, notes)


def _extensions(content: bytes, label: str) -> list[_Extension]:
    from astropy.io import fits

    _check_structure(content, label)
    found = []
    try:
        with (
            warnings.catch_warnings(action="ignore"),
            fits.open(BytesIO(content), memmap=False, lazy_load_hdus=False, disable_image_compression=True) as hdus,
        ):
            for hdu in hdus[1:]:
                columns, units, image = {}, {}, None
                if isinstance(hdu, fits.BinTableHDU | fits.TableHDU):
                    columns = {name.upper().strip(): np.array(hdu.data[name]) for name in hdu.columns.names}
                    units = {entry.name.upper().strip(): str(entry.unit or "") for entry in hdu.columns}
                elif isinstance(hdu, fits.ImageHDU) and hdu.data is not None:
                    image = np.array(hdu.data, dtype=np.float64)
                header = {str(key).upper(): value for key, value in hdu.header.items()}
                found.append(_Extension(str(hdu.name).strip(), header, columns, units, image))
    except (Exception, MemoryError) as error:  # astropy raises whatever a damaged header leads to
        raise _damaged(label, " ".join(str(error).split())[:200] or type(error).__name__) from error
    return found


def _check_structure(content: bytes, label: str) -> None:
    """Raise unless headers and data follow one another to the end of the file.

    Of a file that was cut short or damaged, astropy drops what comes after, with a warning at most, and sizes that are
    no numbers take it minutes.
    """
    at = 0
    while content[at:].strip(b"\0 "):
        sizes, start = {}, at
        for at in range(start, len(content), _CARD):
            card = content[at : at + _CARD]
            if at == start and not card.startswith(b"XTENSION= '" if at else b"SIMPLE  =                    T"):
                raise _damaged(label, f"no part begins at byte {at}, where one should")
            key, value = card[:8].decode("latin-1").strip(), card[10:].partition(b"/")[0].strip()
            if key == "END":
                break
            if re.fullmatch("BITPIX|[PG]COUNT|NAXIS[1-9]?", key):
                if not re.fullmatch(rb"-?[0-9]{1,12}", value) or (int(value) < 0 and key != "BITPIX"):
                    raise _damaged(label, f"{key} is {value.decode('latin-1')} at byte {at}")
                sizes[key] = int(value)
        else:
            raise _damaged(label, f"the header that begins at byte {start} has no end")
        axes = [sizes.get(f"NAXIS{axis}", -1) for axis in range(1, sizes.get("NAXIS", 0) + 1)]
        if not {"BITPIX", "NAXIS"} <= set(sizes) or -1 in axes or sizes["BITPIX"] not in (8, 16, 32, 64, -32, -64):
            raise _damaged(label, f"the header that begins at byte {start} does not say how much data follow")
        size = abs(sizes["BITPIX"]) // 8 * sizes.get("GCOUNT", 1) * (sizes.get("PCOUNT", 0) + math.prod(axes))
        at = -(-(at + _CARD) // _BLOCK) * _BLOCK
        if axes:
            if at + size > len(content):
                raise _damaged(label, f"it needs {at + size} bytes, but has {len(content)}")
            at += -(-size // _BLOCK) * _BLOCK


def _damaged(label: str, reason: str) -> MeasurementError:
    return MeasurementError(
        f"{label} is damaged or cut short, and cannot be read as FITS ({reason}). Copy or download it again."
    )


def _column(label: str, entry: _Extension, names: Sequence[str], rows: np.ndarray) -> np.ndarray | None:
    name = next((name for name in names if name in entry.columns), None)
    if name is None:
        return None
    values = entry.columns[name]
    if values.ndim != 1 or values.dtype.kind != "f":
        raise MeasurementError(f"{label}: the column {name} must hold one real number (TFORM D or E) per row.")
    unit = entry.units.get(name, "") or (_stated_unit(entry.header) if name in _SEPARATIONS else "")
    if name not in _ERRORS and re.sub(r"[^a-z0-9]", "", unit.lower()) not in _MPC_H:
        raise MeasurementError(
            f"{label}: the column {name} is in {unit!r}. Separations and w must be in Mpc/h: convert both, and write "
            "them again."
        )
    return values[rows].astype(np.float64)


def _stated_unit(header: Mapping[str, Any]) -> str:
    keys = ("SEP_UNITS", "SEP_UNIT", "SEPUNITS", "SEPUNIT", "R_UNIT", "UNITS", "UNIT")
    return next((str(header[key]).strip() for key in keys if key in header), "")


def _table(label: str, entry: _Extension, rows: np.ndarray) -> SurveyTable:
    label = f"{label}, {entry.name}"
    separation = _column(label, entry, _SEPARATIONS, rows)
    value = _column(label, entry, ("VALUE",), rows)
    if separation is None and any(name in entry.columns for name in _ANGLES):
        raise MeasurementError(
            f"{label} has angles, not separations. The models predict w as a function of r_p [Mpc/h], which needs a "
            "column SEP."
        )
    for name, column in (("SEP", separation), ("VALUE", value)):
        if column is None:
            held = ", ".join(entry.columns) or "none"
            raise MeasurementError(f"{label} has no column {name}; its columns are: {held}.")
    return SurveyTable(label, separation, value, _column(label, entry, _ERRORS, rows))  # type: ignore[arg-type]


def _rows_of_pair(label: str, entry: _Extension, pair: Mapping[str, int]) -> np.ndarray:
    """Rows of the one pair of samples that is to be used."""
    if not entry.columns or not len(next(iter(entry.columns.values()))):
        raise MeasurementError(f"{label} has no rows.")
    keys = [name for name in _PAIR if name in entry.columns and entry.columns[name].dtype.kind in "iuf"]
    chosen = np.ones(len(next(iter(entry.columns.values()))), dtype=bool)
    for name, number in pair.items():
        if name.upper() in keys:
            chosen &= entry.columns[name.upper()] == number
        elif name.upper() not in _PAIR:
            raise MeasurementError(f"pair: {name} is none of {', '.join(_PAIR)}.")
    found = np.unique(np.stack([entry.columns[name][chosen] for name in keys], axis=1), axis=0) if keys else np.empty(0)
    if not chosen.any():
        raise MeasurementError(f"{label} has no row with {_as_text(pair)}.")
    if len(found) > 1:
        vary = [column for column in range(len(keys)) if len(np.unique(found[:, column])) > 1]
        kinds = [{keys[column]: int(row[column]) for column in vary} for row in found[:6]]
        more = "" if len(found) <= 6 else f" and {len(found) - 6} more"
        raise MeasurementError(
            f"{label} holds {len(found)} pairs of samples: {'; '.join(map(_as_text, kinds))}{more}. Choose one, as in "
            f"pair: {{{', '.join(f'{name}: {number}' for name, number in kinds[0].items())}}}."
        )
    bins = [found[0][keys.index(name)] for name in ("BIN1", "BIN2") if name in keys]
    if len(bins) == 2 and bins[0] != bins[1]:
        raise MeasurementError(
            f"{label} is the correlation of redshift bin {bins[0]:g} with bin {bins[1]:g}. The models have one sample: "
            "choose a pair with BIN1 = BIN2."
        )
    return np.flatnonzero(chosen)


def _as_text(pair: Mapping[str, int]) -> str:
    return ", ".join(f"{name} = {number}" for name, number in pair.items())


def _covariance(
    label: str, entry: _Extension, sizes: Mapping[str, int], rows: Mapping[str, np.ndarray]
) -> tuple[tuple[str, ...], np.ndarray]:
    """Statistics in the order of the matrix, and the matrix of their chosen rows."""
    matrix, label = entry.image, f"{label}, {entry.name}"
    if matrix is None or matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1]:
        shape = "no image" if matrix is None else f"shape {matrix.shape}"
        raise MeasurementError(f"{label} must be a square matrix; got {shape}.")
    starts: dict[str, int] = {}
    for key, name in entry.header.items():
        start = entry.header.get(f"STRT_{key[5:]}")
        if re.fullmatch(r"NAME_\d+", key):
            if isinstance(start, bool) or not isinstance(start, int) or not 0 <= start < len(matrix):
                raise MeasurementError(f"{label}: the first row of {name} in its header, STRT_{key[5:]}, is {start!r}.")
            starts[statistic_of(str(name)) or str(name)] = start
    lost = [name for name in _STATISTICS.values() if name in starts and name not in sizes]
    if lost:
        raise MeasurementError(f"{label} has a part of {', '.join(lost)}, but there is no such extension in the file.")
    missing = [name for name in sizes if name not in starts]
    if missing:
        raise MeasurementError(
            f"{label}: its header does not say where {', '.join(missing)} begins; it needs NAME_0, STRT_0, and so on, "
            "for each extension."
        )
    for name, size in sizes.items():
        stop = min((start for start in starts.values() if start > starts[name]), default=len(matrix))
        if stop - starts[name] != size:
            raise MeasurementError(
                f"{label} has {len(matrix)} rows, {stop - starts[name]} of them for {name}, which has {size} values in "
                "the file. Is the covariance that of these values?"
            )
    order = tuple(sorted(sizes, key=starts.__getitem__))
    chosen = np.concatenate([starts[name] + rows[name] for name in order])
    return order, matrix[np.ix_(chosen, chosen)]


def _realisations(header: Mapping[str, Any]) -> int | None:
    number = header.get("NREAL")
    return number if isinstance(number, int) and not isinstance(number, bool) and number > 1 else None


def _samples(label: str, extensions: Sequence[_Extension], pair: Mapping[str, int]) -> tuple[dict[str, Any], list[str]]:
    """Redshifts of the samples as metadata, and notes; raises if the samples are not the same."""
    found = {}
    for entry in extensions:
        if not entry.name.lower().startswith("nz") or "Z_MID" not in entry.columns:
            continue
        number = {key.upper(): value for key, value in pair.items()}.get("BIN1", 1)
        density = entry.columns.get(f"BIN{number}", entry.columns.get("BIN1"))
        z = entry.columns["Z_MID"]
        if density is None or density.shape != z.shape or not np.all(np.isfinite([z, density])) or np.any(density < 0):
            raise MeasurementError(f"{label}, {entry.name}: n(z) must be numbers that are not negative.")
        if not density[(z > 0) & (z < 20)].sum() > 0 or np.any(np.diff(z) <= 0):
            raise MeasurementError(f"{label}, {entry.name}: Z_MID must increase, and n(z) be positive at some z > 0.")
        kind = "shape" if re.search("shape|source", entry.name.lower()) else "density"
        found[kind] = z.astype(np.float64), density / density.sum()
    if not found:
        return {}, []
    (z, shape), (other_z, density) = (found.get(kind) or next(iter(found.values())) for kind in ("shape", "density"))
    density = np.interp(z, other_z, density, left=0.0, right=0.0)
    density = density / (density.sum() or 1.0)
    distance = 0.5 * float(np.abs(shape - density).sum())
    means = {kind: float(round(np.sum(z * weight), 4)) for kind, (z, weight) in found.items()}
    text = (
        f"the n(z) of the shape and of the density sample differ ({100 * distance:.0f} % of their area; mean redshifts "
        f"{', '.join(f'{mean:.3f}' for mean in means.values())})"
    )
    if distance > _SEPARATE:
        raise MeasurementError(f"{label}: {text}. The models have one sample for both, so they cannot be fitted.")
    metadata: dict[str, Any] = {"redshift": _effective_redshift(z, shape, density)}
    if len(found) == 2:
        metadata["redshift_of_samples"] = means
    return metadata, [f"{text}, but the models have one sample for both"] if distance > _DIFFERENT else []


def _effective_redshift(z: np.ndarray, shape: np.ndarray, density: np.ndarray) -> float:
    """Mean redshift of pairs: weights n_s n_d / (chi^2 dchi/dz), see Mandelbaum et al. 2011, arXiv:0911.5347."""
    from astropy.cosmology import FlatLambdaCDM

    used = (z > 0) & (shape * density > 0)
    cosmology = FlatLambdaCDM(H0=100, Om0=0.3)  # the mean depends on it by less than 0.001
    z, weight = z[used], (shape * density)[used]
    weight = weight * cosmology.efunc(z) / cosmology.comoving_distance(z).value ** 2
    return float(round(np.sum(z * weight) / np.sum(weight), 4))
