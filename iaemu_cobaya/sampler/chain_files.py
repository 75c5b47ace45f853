"""The files of a run of HMC: chains, progress and checkpoint, written so that a run that was killed can go on."""

from __future__ import annotations

import base64
from collections.abc import Mapping
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

#: Columns of the progress file, with their widths: those of Cobaya's mcmc, and ours.
PROGRESS = {
    "N": 9,
    "timestamp": 26,
    "acceptance_rate": 15,
    "Rminus1": 15,
    "Rminus1_cl": 15,
    "ess_bulk": 15,
    "ess_tail": 15,
    "divergences": 15,
}


class ChainFiles:
    """The files that one process writes; progress and checkpoint only the main one.

    A checkpoint says how many draws of the files count: later ones are dropped, and will be made again, the same.

    Parameters
    ----------
    run : HMC
        Whose files, with what Cobaya has read of its checkpoint.
    resuming : bool
        Go on from the checkpoint.

    Attributes
    ----------
    collections : list of SampleCollection
    progress : DataFrame

    Raises
    ------
    LoggedError
        Files hold fewer draws than the checkpoint counts, or draws although there is no checkpoint.
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
        if not resuming:
            self._begin_progress()

    def _prepare(self, path: Path, resuming: bool) -> None:
        """Cut a file to the draws that the checkpoint counts; without one, see that it holds few draws or none."""
        run = self._run
        lines = path.read_bytes().splitlines(keepends=True) if path.is_file() else []
        n_counted = run.n_kept * self._chains_per_file
        # Without a checkpoint a run begins anew, which must not cost more than the draws before the first one.
        if not resuming and len(lines) > 1 + run.check_every * self._chains_per_file:
            lost = run.checkpoint_filename()
            message = "%s holds draws, but the checkpoint %s is missing or empty: restore it, or start anew with -f."
            raise LoggedError(run.log, message, path, lost)
        if resuming and len(lines) < 1 + n_counted:
            message = "%s should hold the %d draws of the checkpoint, but holds %d. Start anew with -f."
            raise LoggedError(run.log, message, path, n_counted, max(0, len(lines) - 1))
        if resuming and len(lines) > 1 + n_counted:
            write_text(path, b"".join(lines[: 1 + n_counted]).decode())

    def resume(self) -> np.ndarray:
        """Take up a run that was stopped: the sampler's state and the table of progress, up to the checkpoint.

        Returns
        -------
        array (n_chains, n_kept, d)
            The draws of this process.

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
        draws = self._read_draws(list(run.density.names))
        if mpi.is_main_process():
            self._read_progress()
        return draws

    def _read_draws(self, names: list[str]) -> np.ndarray:
        run, n_files = self._run, self._run.n_files
        draws = np.empty((run.n_chains, run.n_kept, len(names)))
        for number, collection in enumerate(self.collections):
            rows, start = collection[names].to_numpy(dtype=np.float64), 0
            for n in run.blocks:
                block, rows = np.split(rows, [n * self._chains_per_file])
                draws[number::n_files, start : start + n] = block.reshape(-1, n, len(names))
                start += n
        return draws

    def _begin_progress(self) -> None:
        if self._run.output and mpi.is_main_process():
            header = " ".join(name.rjust(width) for name, width in PROGRESS.items())
            write_text(self._run.progress_filename(), f"#{header}\n")

    def _read_progress(self) -> None:
        """The table of progress up to the checkpoint; later lines of the file go."""
        path = Path(self._run.progress_filename())
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)[1:] if path.is_file() else []
        lines = [line for line in lines if len(line.split()) == len(PROGRESS)]
        lines = [line for line in lines if float(line.split()[0]) <= self._run.n_draws()]
        self._begin_progress()
        with open(path, "a", encoding="utf-8") as file:
            file.writelines(lines)
        for line in lines:
            cells = dict(zip(PROGRESS, line.split(), strict=True))
            row = {name: cell if name == "timestamp" else float(cell) for name, cell in cells.items()}
            self.progress.loc[len(self.progress)] = row

    def write(self, covariance: np.ndarray) -> None:
        """Write the draws and the last row of progress, then the checkpoint that says how much of them counts.

        Parameters
        ----------
        covariance : array (d, d)
            Of the draws so far, for ``.covmat``.
        """
        run = self._run
        for collection in self.collections:
            collection.out_update()
        if not run.output:
            return
        states = mpi.gather(to_text(run.sampler.state_dict()))
        n_divergent = mpi.gather(run.n_divergent)
        if not mpi.is_main_process():
            return
        run.dump_covmat(covariance)
        row = self.progress.iloc[-1]
        with open(run.progress_filename(), "a", encoding="utf-8") as file:
            whole = ("N", "divergences")
            cells = (
                str(row[name]) if name == "timestamp" else f"{row[name]:{'.0f' if name in whole else '.6g'}}"
                for name in PROGRESS
            )
            file.write(" " + " ".join(map(str.rjust, cells, PROGRESS.values())) + "\n")
        checkpoint = {
            "converged": run.converged,
            "mpi_size": mpi.size(),
            "n_kept": run.n_kept,
            "blocks": run.blocks,
            "n_divergent": n_divergent,
            "states": states,
        }
        write_text(run.checkpoint_filename(), yaml_dump({"sampler": {run.get_name(): checkpoint}}))


def to_text(state: Mapping) -> dict:
    """Put a state of tensors and plain values into plain values only, of which YAML loses nothing.

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
        Not such a text.
    """
    try:
        return {**text["values"], **load(base64.b64decode(text["tensors"], validate=True))}
    except Exception as error:
        raise ValueError(f"The state of the sampler cannot be read: {error}") from error
