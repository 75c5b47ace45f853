"""How tables are packed for a file: without empty bins, and symmetric matrices as triangles."""

from __future__ import annotations

import numpy as np
import torch

from iaemu.artifact import ArtifactError


def pack_rows(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return tables without the bins beyond the largest separation of each row, for a file.

    Parameters
    ----------
    values : array (n_rows, n_bins, n_columns)

    Returns
    -------
    values : array (n_filled, n_columns)
    n_bins : array of int16 (n_rows,)
        Number of bins of each row that are kept.
    """
    filled = np.any(values != 0, axis=2)
    n_bins = np.where(filled.any(axis=1), filled.shape[1] - np.argmax(filled[:, ::-1], axis=1), 0)
    used = np.arange(filled.shape[1]) < n_bins[:, None]
    return values[used], n_bins.astype(np.int16)


def unpack_rows(values: np.ndarray, n_used: np.ndarray, n_bins: int) -> np.ndarray:
    """Return the tables from the arrays of :func:`pack_rows`.

    Parameters
    ----------
    values, n_used : arrays
    n_bins : int
        Number of bins of the tables.

    Returns
    -------
    array (n_rows, n_bins, n_columns), float64

    Raises
    ------
    ArtifactError
        The arrays do not fit together.
    """
    if n_used.sum() != len(values) or n_used.max(initial=0) > n_bins:
        raise ArtifactError(f"The one-halo table has {len(values)} rows; expected {n_used.sum()}.")
    sums = np.zeros((len(n_used), n_bins, *values.shape[1:]))
    sums[np.arange(n_bins) < n_used[:, None]] = values
    return sums


def pack_symmetric(matrices: np.ndarray) -> np.ndarray:
    """Return the upper triangles of symmetric matrices.

    Parameters
    ----------
    matrices : array (..., n, n)

    Returns
    -------
    array (..., n (n + 1) / 2)
    """
    rows, columns = np.triu_indices(matrices.shape[-1])
    return 0.5 * (matrices[..., rows, columns] + matrices[..., columns, rows])


def unpack_symmetric(packed: torch.Tensor, n: int) -> torch.Tensor:
    """Return the symmetric matrices of :func:`pack_symmetric`.

    Parameters
    ----------
    packed : tensor (..., n (n + 1) / 2)
    n : int

    Returns
    -------
    tensor (..., n, n)

    Raises
    ------
    ArtifactError
        There is another number of columns.
    """
    if packed.shape[-1] != n * (n + 1) // 2:
        raise ArtifactError(f"A packed table has {packed.shape[-1]} columns; expected {n * (n + 1) // 2}.")
    rows, columns = np.triu_indices(n)
    full = torch.zeros(*packed.shape[:-1], n, n, dtype=packed.dtype)
    full[..., rows, columns] = packed
    full[..., columns, rows] = packed
    return full
