"""Long work in parts that survive a kill at any moment: each finished part is one file, written whole or not at all."""

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
from tqdm import tqdm

from iaemu.files import read_text, write_text, write_whole
from iaemu.ranges import short
from iaemu_training.work.cluster import Workers


class Task(NamedTuple):
    """A part of the work: ``function(*arguments)`` returns its arrays by name, and depends on nothing else.

    Both must be picklable, and the function found by name on the worker. ``weight`` is for the progress bar.
    """

    function: Callable[..., dict[str, np.ndarray]]
    arguments: tuple
    weight: float = 1.0


class PartsError(ValueError):
    """Parts that belong to other work, or that another process is writing."""


#: Array of a part that names the others: what is lost from the directory of a damaged file would not be missed.
_NAMES = "_names"


@contextmanager
def only_writer(path: str | Path) -> Iterator[None]:
    """Keep other processes from working on the same output; a file ``<path>.lock`` is there meanwhile.

    Parameters
    ----------
    path : path-like

    Raises
    ------
    PartsError
        Another process is at it.
    """
    lock = Path(f"{path}.lock")
    with _locked(lock, f"working on {path}"):
        try:
            yield
        finally:
            lock.unlink(missing_ok=True)


@contextmanager
def _locked(path: Path, doing: str) -> Iterator[None]:
    # The system lets go of the lock when the process ends, however it ends.
    try:
        with portalocker.Lock(path, mode="a", timeout=0, fail_when_locked=True):
            yield
    except portalocker.LockException as error:
        raise PartsError(f"Another process is {doing}; wait for it, or stop it.") from error


def remove_parts(folder: str | Path) -> None:
    """Remove a folder of parts, the parts before the file that says what they are of.

    Parameters
    ----------
    folder : path-like
    """
    for part in Path(folder).glob("*.npz"):
        part.unlink()
    shutil.rmtree(folder)


class PartStore:
    """A folder of finished parts, for one process at a time; use as a context.

    Parameters
    ----------
    folder : path-like
        Made if it does not exist.
    identity : dict
        What determines the result, JSON types only. Parts are gone on with only if it is the same.

    Raises
    ------
    PartsError
        On entering: the folder holds parts of other work, which is named; or another process is writing to it.
    """

    def __init__(self, folder: str | Path, identity: Mapping):
        self.folder = Path(folder)
        self.identity = json.loads(json.dumps(identity))
        self._held = ExitStack()

    def __enter__(self) -> PartStore:
        if self.folder.exists() and not self.folder.is_dir():
            raise PartsError(f"{self.folder} is a file, where a folder for finished parts is to be; move it away.")
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
        if kind is not None and not any(self.folder.glob("*.npz")):
            shutil.rmtree(self.folder)

    def _claim(self) -> None:
        for leftover in self.folder.glob("*.tmp"):  # of a process that was killed while it wrote
            leftover.unlink()
        path = self.folder / "identity.json"
        if not path.exists():
            for part in self.folder.glob("*.npz"):  # nobody knows of what
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
                f"{short(self.identity.get(key))}. Go on with those settings, choose another output, or remove the "
                "folder."
            )

    def path(self, name: str) -> Path:
        """File of a part."""
        return self.folder / f"{name}.npz"

    def __contains__(self, name: str) -> bool:
        return self.path(name).exists()

    def read(self, name: str) -> dict[str, np.ndarray]:
        """Arrays of a finished part.

        Raises
        ------
        PartsError
            The file is damaged.
        """
        try:
            with np.load(self.path(name), allow_pickle=False) as file:
                arrays = {key: file[key] for key in file.files}
                # numpy stops reading where its array ends, which can be before the checksum is looked at.
                damaged = file.zip.testzip()
            if damaged is not None:
                raise ValueError(f"the checksum of {damaged} is wrong")
            if not all(isinstance(array, np.ndarray) for array in arrays.values()):
                raise ValueError("a member is not an array")
            if sorted(arrays.pop(_NAMES).tolist()) != sorted(arrays):
                raise ValueError("an array is missing")
            return arrays
        except Exception as error:  # zipfile, zlib and numpy raise whatever they meet
            raise PartsError(f"{self.path(name)} is damaged ({error}); remove it and run again.") from error

    def run(self, tasks: Mapping[str, Task], workers: Workers, description: str, progress: bool = True) -> int:
        """Do the tasks that are not done yet; the number of those done now.

        Parts are written here, not by the workers, which therefore need no folder in common. An error in a task ends
        the run; what is finished by then stays.
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
                                f"A worker process ended before its task was done ({error}). If memory is short, take "
                                "fewer workers. Run the same command again: it goes on."
                            ) from error
                        write_whole(self.path(name), partial(np.savez, **{**arrays, _NAMES: np.array(list(arrays))}))
                        bar.update(tasks[name].weight)
            finally:
                for future in running:
                    future.cancel()

    def remove(self) -> None:
        """Remove the folder, its parts first of all."""
        remove_parts(self.folder)
