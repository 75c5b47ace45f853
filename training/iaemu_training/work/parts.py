"""Long work in parts that survive a kill at any moment: each finished part is one file, written whole or not at all."""

from __future__ import annotations

import concurrent.futures
import json
import shutil
import zipfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import portalocker
from tqdm import tqdm

from iaemu.files import write_whole
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
        # The system lets go of the lock when the process ends, however it ends.
        self._lock = portalocker.Lock(self.folder / "lock", mode="a", timeout=0, fail_when_locked=True)

    def __enter__(self) -> PartStore:
        self.folder.mkdir(exist_ok=True)
        try:
            self._lock.acquire()
        except portalocker.LockException as error:
            raise PartsError(f"Another process is writing to {self.folder}; wait for it, or stop it.") from error
        try:
            self._claim()
        except BaseException:
            self._lock.release()
            raise
        return self

    def __exit__(self, *_) -> None:
        self._lock.release()

    def _claim(self) -> None:
        path = self.folder / "identity.json"
        if not path.exists():
            write_whole(path, lambda file: file.write(json.dumps(self.identity, indent=1).encode()))
            return
        found = json.loads(path.read_text())
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
                return {key: file[key] for key in file.files}
        except (OSError, ValueError, zipfile.BadZipFile) as error:
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
                        write_whole(self.path(name), partial(np.savez, **future.result()))
                        bar.update(tasks[name].weight)
            finally:
                for future in running:
                    future.cancel()

    def remove(self) -> None:
        """Remove the folder, its parts first of all."""
        shutil.rmtree(self.folder)
