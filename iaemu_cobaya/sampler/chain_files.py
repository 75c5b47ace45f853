"""The files of a run of HMC: chains, draws, progress and checkpoint, so that a run can be resumed.

Chains are text with eight digits. Each process also writes its draws in full precision to a binary file ``.draws``:
float64 (n_kept, n_chains, d). Convergence is computed from these, so that a resumed run stops where it would have
stopped without the interruption.
"""

from __future__ import annotations

import base64
import math
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from cobaya import mpi
from cobaya.collection import SampleCollection
from cobaya.log import LoggedError
from cobaya.yaml import yaml_dump
from pandas import DataFrame
from safetensors.torch import load, save
from torch import Tensor

from iaemu.files import write_text

#: Columns of the progress file and their widths: those of Cobaya's mcmc, and our own. Time is not one of them, so that
#: a resumed run has the same file as an uninterrupted one.
PROGRESS = {
    "N": 9,
    "acceptance_rate": 15,
    "Rminus1": 15,
    "Rminus1_cl": 15,
    "ess_bulk": 15,
    "ess_tail": 15,
    "ess_mean": 15,
    "divergences": 15,
}


#: Extension of the files with the draws in full precision.
DRAWS = "draws"


class ChainFiles:
    """The files that one process writes. Only the main process writes progress and checkpoint.

    The checkpoint contains the number of valid draws. When a run is resumed, later draws in the files are removed, and
    are made again with the same values.

    Parameters
    ----------
    run : HMC
        The sampler, which has read its checkpoint.
    resuming : bool
        Whether to resume from the checkpoint.

    Attributes
    ----------
    collections : list of SampleCollection
    progress : DataFrame

    Raises
    ------
    LoggedError
        Files contain fewer draws than the checkpoint says, or contain draws although there is no checkpoint.
    """

    def __init__(self, run: Any, resuming: bool):
        self._run = run
        self._chains_per_file = run.n_chains // run.n_files
        first = 1 + mpi.rank() * run.n_files
        names = [str(first + number) for number in range(run.n_files)]
        if run.output.is_resuming():
            for name in names:
                self._prepare(Path(run.output.prepare_collection(name=name)[0]), resuming)
        several = run.n_files * mpi.size() > 1
        self.collections = [
            SampleCollection(run.model, run.output, name=name, resuming=resuming, sample_type="mcmc", is_batch=several)
            for name in names
        ]
        self.progress = DataFrame(columns=list(PROGRESS))
        if run.output:
            self._draws = Path(run.output.prepare_collection(name=str(1 + mpi.rank()), extension=DRAWS)[0])
            if not resuming:
                self._draws.write_bytes(b"")
                self._write_progress([])

    def _prepare(self, path: Path, resuming: bool) -> None:
        """Cut a file to the draws that the checkpoint counts; without one, check that few draws would be lost."""
        run = self._run
        lines = path.read_bytes().splitlines(keepends=True) if path.is_file() else []
        n_counted = run.n_kept * self._chains_per_file
        # Without a checkpoint the run starts anew. Only draws from before the first checkpoint may be lost in this way.
        if not resuming and len(lines) > 1 + run.check_every * self._chains_per_file:
            lost = run.checkpoint_filename()
            message = "%s contains draws, but the checkpoint %s is missing or empty. Restore it, or start anew with -f."
            raise LoggedError(run.log, message, path, lost)
        if resuming and len(lines) < 1 + n_counted:
            message = "%s should contain the %d draws of the checkpoint, but contains %d. Start anew with -f."
            raise LoggedError(run.log, message, path, n_counted, max(0, len(lines) - 1))
        if resuming and len(lines) > 1 + n_counted:
            write_text(path, b"".join(lines[: 1 + n_counted]).decode())

    def resume(self) -> np.ndarray:
        """Restore the state of the sampler and the table of progress at the checkpoint.

        Returns
        -------
        array (n_chains, n_kept, d)
            Draws of this process up to the checkpoint.

        Raises
        ------
        LoggedError
            The state cannot be read.
        """
        run = self._run
        try:
            run.sampler.load_state_dict(from_text(run.states[mpi.rank()]))
        except (ValueError, RuntimeError) as error:
            raise LoggedError(run.log, "%s: %s Start anew with -f.", run.checkpoint_filename(), error) from error
        if mpi.is_main_process():
            self._read_progress()
        return self._read_draws()

    def _read_draws(self) -> np.ndarray:
        """Read the draws that the checkpoint counts, and remove later ones."""
        run, path = self._run, self._draws
        shape = (run.n_kept, run.n_chains, len(run.density.names))
        size = 8 * math.prod(shape)
        if not path.is_file() or path.stat().st_size < size:
            message = "%s, with the draws in full precision, is missing or too short. Start anew with -f."
            raise LoggedError(run.log, message, path)
        os.truncate(path, size)
        draws = np.fromfile(path, dtype="<f8").astype(np.float64).reshape(shape)
        return np.ascontiguousarray(draws.transpose(1, 0, 2))

    def _write_progress(self, rows: Iterable[Mapping[str, float]]) -> None:
        if mpi.is_main_process():
            header = " ".join(name.rjust(width) for name, width in PROGRESS.items())
            write_text(self._run.progress_filename(), f"#{header}\n" + "".join(map(_progress_line, rows)))

    def _read_progress(self) -> None:
        """Read the table of progress up to the checkpoint, and remove later lines of the file."""
        path = Path(self._run.progress_filename())
        header, *lines = path.read_text(encoding="utf-8").splitlines() or [""] if path.is_file() else [""]
        columns = header.lstrip("#").split()
        for line in lines:
            cells = line.split()
            if not cells or len(cells) != len(columns) or float(cells[0]) > self._run.n_draws():
                continue
            row = dict(zip(columns, map(float, cells), strict=True))
            # Files of earlier versions have fewer columns.
            self.progress.loc[len(self.progress)] = {name: row.get(name, math.nan) for name in PROGRESS}
        self._write_progress(row for _, row in self.progress.iterrows())

    def write(self, draws: np.ndarray, covariance: np.ndarray) -> None:
        """Write the draws and the last row of progress, and then the checkpoint with the number of valid draws.

        Parameters
        ----------
        draws : array (n_chains, n, d)
            New draws of this process.
        covariance : array (d, d)
            Covariance of the draws so far, for the file ``.covmat``.
        """
        run = self._run
        for collection in self.collections:
            collection.out_update()
        if not run.output:
            return
        with open(self._draws, "ab") as file:
            file.write(draws.transpose(1, 0, 2).astype("<f8").tobytes())
        states = mpi.gather(to_text(run.sampler.state_dict()))
        n_divergent = mpi.gather(run.n_divergent)
        if not mpi.is_main_process():
            return
        run.dump_covmat(covariance)
        with open(run.progress_filename(), "a", encoding="utf-8") as file:
            file.write(_progress_line(self.progress.iloc[-1]))
        checkpoint = {
            "converged": run.converged,
            "mpi_size": mpi.size(),
            "n_kept": run.n_kept,
            "n_divergent": n_divergent,
            "states": states,
        }
        write_text(run.checkpoint_filename(), yaml_dump({"sampler": {run.get_name(): checkpoint}}))


def _progress_line(row: Mapping[str, float]) -> str:
    whole = ("N", "divergences")
    cells = (f"{row[name]:{'.0f' if name in whole else '.6g'}}" for name in PROGRESS)
    return " " + " ".join(map(str.rjust, cells, PROGRESS.values())) + "\n"


def to_text(state: Mapping) -> dict:
    """Convert a state of tensors and plain values to plain values that YAML stores without loss.

    Parameters
    ----------
    state : mapping

    Returns
    -------
    dict
    """
    tensors = {name: value.contiguous() for name, value in state.items() if isinstance(value, Tensor)}
    plain = {name: value for name, value in state.items() if name not in tensors}
    return {"values": plain, "tensors": base64.b64encode(save(tensors)).decode("ascii")}


def from_text(text: Mapping) -> dict:
    """Invert :func:`to_text`.

    Parameters
    ----------
    text : mapping

    Returns
    -------
    dict

    Raises
    ------
    ValueError
        The text is not such a state.
    """
    try:
        return {**text["values"], **load(base64.b64decode(text["tensors"], validate=True))}
    except Exception as error:
        raise ValueError(f"The state of the sampler cannot be read: {error}") from error
