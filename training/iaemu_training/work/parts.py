"""Long computations in parts that can be resumed: each finished part is a file, written complete or not at all."""

from __future__ import annotations

import concurrent.futures
import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import portalocker

from iaemu.files import read_text, write_text, write_whole
from iaemu.progress import tqdm
from iaemu.ranges import short
from iaemu_training.work.cluster import Workers


class Task(NamedTuple):
    """A part of a computation: ``function(*arguments)`` returns arrays by name and depends on nothing else.

    Function and arguments must be picklable, and workers must be able to import the function. ``weight`` is the
    relative cost of the task, for the progress bar.
    """

    function: Callable[..., dict[str, np.ndarray]]
    arguments: tuple
    weight: float = 1.0


class PartsError(ValueError):
    """The parts belong to a computation with other settings, are damaged, or are in use by another process."""


#: Array of a part with the names of the others, since an array that a damaged file has lost would not be missed.
_NAMES = "_names"


@contextmanager
def only_writer(path: str | Path) -> Iterator[None]:
    """Keep other processes from working on the same output, with a file ``<path>.lock``.

    Parameters
    ----------
    path : path-like
        The output.

    Yields
    ------
    None

    Raises
    ------
    PartsError
        Another process is working on this output.
    """
    lock = Path(f"{path}.lock")
    with _locked(lock, f"working on {path}"):
        try:
            yield
        finally:
            lock.unlink(missing_ok=True)


@contextmanager
def _locked(path: Path, doing: str) -> Iterator[None]:
    # The operating system releases the lock when the process ends, even if it is killed.
    try:
        with portalocker.Lock(path, mode="a", timeout=0, fail_when_locked=True):
            yield
    except portalocker.LockException as error:
        raise PartsError(f"Another process is {doing}; wait for it, or stop it.") from error


def remove_parts(folder: str | Path) -> None:
    """Remove a folder of parts: the parts first, then the file with their settings.

    Parameters
    ----------
    folder : path-like
        The folder.
    """
    for part in Path(folder).glob("*.npz"):
        part.unlink()
    shutil.rmtree(folder)


class PartStore:
    """A folder of finished parts, for one process at a time; use it in a ``with`` block.

    Parameters
    ----------
    folder : path-like
        The folder; it is made if it does not exist.
    identity : dict
        Everything that determines the result, in JSON types. Work is resumed only if it is the same.

    Raises
    ------
    PartsError
        On entering the block: the folder holds parts with another identity, or another process is writing to it.
    """

    def __init__(self, folder: str | Path, identity: Mapping):
        self.folder = Path(folder)
        self.identity = json.loads(json.dumps(identity))
        self._held = ExitStack()

    def __enter__(self) -> PartStore:
        if self.folder.exists() and not self.folder.is_dir():
            raise PartsError(f"{self.folder} is a file, but a folder for finished parts is needed there; move it away.")
        made = not self.folder.exists()
        self.folder.mkdir(exist_ok=True)
        with ExitStack() as held:
            held.enter_context(_locked(self.folder / "lock", f"writing to {self.folder}"))
            if made:
                held.push(self._leave_no_empty_folder)
            self._claim()
            self._held = held.pop_all()
        return self

    def __exit__(self, *error) -> None:
        self._held.__exit__(*error)

    def _leave_no_empty_folder(self, kind, *_) -> None:
        if kind is not None and {path.name for path in self.folder.iterdir()} <= {"identity.json", "lock"}:
            shutil.rmtree(self.folder)

    def _claim(self) -> None:
        for leftover in self.folder.glob("*.tmp"):  # from a process that was killed while it wrote
            leftover.unlink()
        path = self.folder / "identity.json"
        if not path.exists():
            for part in self.folder.glob("*.npz"):  # their settings are not known
                part.unlink()
            write_text(path, json.dumps(self.identity, indent=1))
            return
        try:
            found = json.loads(read_text(path))
            if not isinstance(found, dict):
                raise ValueError(f"it holds {short(found)}")
        except (OSError, ValueError, RecursionError) as error:
            raise PartsError(f"{path} is damaged ({error}); remove the folder and run again.") from error
        differing = [key for key in {**found, **self.identity} if found.get(key) != self.identity.get(key)]
        if differing:
            key = differing[0]
            raise PartsError(
                f"{self.folder} holds unfinished work with other settings: {key} = {short(found.get(key))}, now "
                f"{short(self.identity.get(key))}. Use those settings, choose another output, or remove the folder."
            )

    def path(self, name: str) -> Path:
        """Return the path of the file of a part."""
        return self.folder / f"{name}.npz"

    def __contains__(self, name: str) -> bool:
        return self.path(name).exists()

    def read(self, name: str) -> dict[str, np.ndarray]:
        """Read the arrays of a finished part.

        Parameters
        ----------
        name : str
            Name of the part.

        Returns
        -------
        dict of str to array

        Raises
        ------
        PartsError
            The file is damaged.
        """
        try:
            with np.load(self.path(name), allow_pickle=False) as file:
                arrays = {key: file[key] for key in file.files}
                # numpy stops reading where the array ends, which can be before the checksum is verified.
                damaged = file.zip.testzip()
            if damaged is not None:
                raise ValueError(f"the checksum of {damaged} is wrong")
            if not all(isinstance(array, np.ndarray) for array in arrays.values()):
                raise ValueError("a member is not an array")
            if sorted(arrays.pop(_NAMES).tolist()) != sorted(arrays):
                raise ValueError("an array is missing")
            return arrays
        except Exception as error:  # zipfile, zlib and numpy raise various classes
            raise PartsError(f"{self.path(name)} is damaged ({error}); remove it and run again.") from error

    def run(self, tasks: Mapping[str, Task], workers: Workers, description: str, progress: bool = True) -> int:
        """Run the tasks that are not finished yet.

        Parts are written by this process, so that workers need no common folder. An error in a task ends the run; the
        parts that are finished stay.

        Parameters
        ----------
        tasks : mapping of str to Task
            Tasks by the names of their parts.
        workers : Workers
            Where the tasks are run.
        description : str
            Description of the progress bar.
        progress : bool
            Show a progress bar.

        Returns
        -------
        int
            Number of tasks that were run.
        """
        if not tasks:
            return 0
        missing = {name: task for name, task in tasks.items() if name not in self}
        done = sum(task.weight for name, task in tasks.items() if name not in missing)
        queue = iter(missing.items())
        running: dict[concurrent.futures.Future, str] = {}
        total = sum(task.weight for task in tasks.values())
        with tqdm(total=total, initial=done, desc=description, disable=not progress, unit_scale=True) as bar:
            try:
                while True:
                    while len(running) < workers.window and (item := next(queue, None)) is not None:
                        name, task = item
                        running[workers.executor.submit(task.function, *task.arguments)] = name
                    if not running:
                        return len(missing)
                    finished, _ = concurrent.futures.wait(running, return_when=concurrent.futures.FIRST_COMPLETED)
                    for future in finished:
                        name = running.pop(future)
                        try:
                            arrays = future.result()
                        except concurrent.futures.BrokenExecutor as error:
                            raise PartsError(
                                f"A worker process ended before its task was done ({error}). If memory is short, use "
                                "fewer workers. Run the same command again to resume."
                            ) from error
                        write_whole(self.path(name), partial(np.savez, **{**arrays, _NAMES: np.array(list(arrays))}))
                        bar.update(tasks[name].weight)
            finally:
                for future in running:
                    future.cancel()

    def remove(self) -> None:
        """Remove the folder, see :func:`remove_parts`."""
        remove_parts(self.folder)
