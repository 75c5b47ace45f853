"""Artifacts: files that hold a model as named arrays and JSON metadata in safetensors, sealed with SHA-256.

There is no pickle: a file can hold only numbers and text. A file that is incomplete, altered or not ours is refused.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from iaemu._version import __version__
from iaemu.files import write_whole
from iaemu.ranges import real_array

FORMAT = "iaemu-artifact-1"

#: Called with the metadata, the shapes of the tensors by name, and the path of a file.
Check = Callable[[dict[str, Any], dict[str, tuple[int, ...]], Path], None]

#: Largest header of a file [bytes]. Those of shipped files are below 43 000, and parsing takes many times the memory.
_MAX_HEADER = 2**23

#: Types of numbers that a file may hold, as safetensors names them.
_DTYPES = {"F64", "F32", "F16", "I64", "I32", "I16", "I8", "U64", "U32", "U16", "U8", "BOOL"}


#: What reads a file that was given to something else.
_READERS = {
    "tables": "iaemu.TabulatedModel, or in Cobaya iaemu_cobaya.TabulatedIA",
    "emulator": "iaemu.Emulator, or in Cobaya iaemu_cobaya.IAEmu",
    "iaemunet-emulator": "iaemu.IAEmuNetEmulator, or in Cobaya iaemu_cobaya.IAEmu",
    "box-error": "the option box_error of a theory, or iaemu.BoxError",
}


class ArtifactError(ValueError):
    """Raised if an artifact file is missing, incomplete, damaged, not made by iaemu, or of another kind."""


def write_artifact(path: str | Path, kind: str, tensors: Mapping[str, np.ndarray], metadata: Mapping[str, Any]) -> None:
    """Write an artifact completely, or leave an older file as it was.

    Parameters
    ----------
    path : str or Path
    kind : str
        Kind of model, such as ``"tables"``; :func:`read_artifact` refuses other kinds than it is asked for.
    tensors : mapping of str to array
    metadata : mapping
        Anything that JSON can hold. ``code_version`` is added.
    """
    tensors = {name: np.ascontiguousarray(value) for name, value in tensors.items()}
    text = json.dumps({"code_version": __version__, **metadata, "format": FORMAT, "kind": kind}, sort_keys=True)
    content = _in_order(save(tensors, metadata={"iaemu": text, "sha256": _digest(text, tensors)}))
    write_whole(path, lambda file: file.write(content))


def read_artifact(
    path: str | Path, kind: str | Collection[str], check: Check | None = None
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Read an artifact and check its hash.

    Parameters
    ----------
    path : str or Path
        A file, or the name of a shipped artifact, see :func:`shipped_artifacts`.
    kind : str or collection of str
        Kinds that are accepted; ``metadata["kind"]`` is the one that was found.
    check : callable, optional
        Called before tensors are read, with the metadata, the shapes of the tensors by name, and the path.

    Returns
    -------
    tensors : dict of str to array
    metadata : dict

    Raises
    ------
    ArtifactError
        The file is missing, not a regular file, not safetensors, truncated, not made by iaemu, or of another kind; its
        hash differs; or ``check`` raised an exception.
    """
    with _refusing(path):
        path = _file_of(path)
        with open(path, "rb") as file:
            length = int.from_bytes(file.read(8), "little")
        if length > _MAX_HEADER:
            raise ArtifactError(f"{path.name} is truncated, corrupt or not a safetensors file: its header is too long.")
        try:
            # Tensors are mapped, and read only when they are asked for.
            with safe_open(path, framework="numpy") as file:
                header = file.metadata() or {}
                metadata = _metadata(header, kind, path)
                slices = {name: file.get_slice(name) for name in file.keys()}
                foreign = sorted({part.get_dtype() for part in slices.values()} - _DTYPES)
                if foreign:
                    raise ArtifactError(
                        f"{path.name} holds numbers of type {', '.join(foreign)}, which iaemu does not write."
                    )
                if check is not None:
                    check(metadata, {name: tuple(part.get_shape()) for name, part in slices.items()}, path)
                tensors = {name: file.get_tensor(name) for name in slices}
        except (SafetensorError, OSError) as error:
            raise ArtifactError(f"{path.name} is truncated, corrupt or not a safetensors file: {error}") from error
        if header.get("sha256") != _digest(header["iaemu"], tensors):
            raise ArtifactError(
                f"{path.name}: the SHA-256 of the content differs from the stored one: the file is altered or damaged. "
                "Copy or make it again."
            )
    return tensors, metadata


def load_artifact(path: str | Path, kinds: Mapping[str, Any]) -> Any:
    """Load the object in a file, and check that it reproduces the golden predictions stored there.

    Parameters
    ----------
    path : str or Path
        See :func:`read_artifact`.
    kinds : mapping of kind to class
        Each class has ``_check_layout(metadata, shapes, path)``, which refuses a file before its tensors are read, and
        ``_restore(tensors, metadata, path)``; the object that this returns has ``_check_golden(golden, path)``. Every
        exception that they raise becomes an ArtifactError.

    Returns
    -------
    object
        An instance of one of the classes.

    Raises
    ------
    ArtifactError
        The file is missing, damaged, not made by iaemu or of another kind, or does not reproduce its golden
        predictions.
    """
    tensors, metadata = read_artifact(
        path, tuple(kinds), lambda metadata, *layout: kinds[metadata["kind"]]._check_layout(metadata, *layout)
    )
    with _refusing(path):
        bad = [name for name, value in tensors.items() if not np.all(np.isfinite(value))]
        if bad:
            raise ArtifactError(f"{path}: {', '.join(bad)} contain NaN or infinite values.")
        found = kinds[metadata["kind"]]._restore(tensors, metadata, path)
        found._check_golden(metadata["golden"], path)
    return found


def check_golden(
    stored: Mapping[str, Any], found: Mapping[str, np.ndarray], path: Any, rtol: float, atol: float
) -> None:
    """Compare the predictions of a model with the golden predictions in its file.

    Parameters
    ----------
    stored, found : mapping of names to arrays
        From the file, and from the model.
    path : path-like
        Named in messages.
    rtol, atol : float
        Relative and absolute tolerance.

    Raises
    ------
    ArtifactError
        A name of ``found`` is not in ``stored``, or values differ.
    """
    missing = sorted(set(found) - set(stored))
    if missing:
        raise ArtifactError(
            f"{path} is incomplete: it has no golden predictions of {', '.join(missing)}. If an earlier version made "
            "it, make it again."
        )
    for name, value in found.items():
        expected = real_array(stored[name], f"golden predictions of {name}", ArtifactError)
        if expected.shape != np.shape(value) or not np.allclose(value, expected, rtol=rtol, atol=atol, equal_nan=True):
            raise ArtifactError(
                f"{path}: the golden predictions of {name} are not reproduced: the file is damaged, or was made by a "
                "version that computes something else."
            )


def check_shapes(
    shapes: Mapping[str, tuple[int, ...]],
    wanted: Mapping[str, Sequence[int | str]],
    path: str | Path,
    optional: Collection[str] = (),
) -> None:
    """Check that a file has the tensors that are needed, in the right shapes, and no others.

    Parameters
    ----------
    shapes : mapping of name to tuple of int
        Shapes of the tensors in the file.
    wanted : mapping of name to sequence of int or str
        Size of each axis. A size given by a name must be the same wherever the name occurs.
    path : str or Path
        The file, named in messages.
    optional : collection of str
        Names in ``wanted`` that may be missing.

    Raises
    ------
    ArtifactError
        A tensor is missing, unknown or of another shape; the message names it.
    """
    require(shapes, [name for name in wanted if name not in optional], path)
    unknown = sorted(set(shapes) - set(wanted))
    if unknown:
        raise ArtifactError(f"{Path(path).name} holds unknown tensor(s): {', '.join(unknown)[:200]}.")
    sizes: dict[str, int] = {}
    for name in (name for name in wanted if name in shapes):
        axes, shape = wanted[name], shapes[name]
        expected = [sizes.get(axis, axis) if isinstance(axis, str) else axis for axis in axes]
        if len(shape) != len(axes) or any(
            isinstance(size, int) and size != have for size, have in zip(expected, shape, strict=True)
        ):
            raise ArtifactError(
                f"{Path(path).name}: the tensor {name} has shape {shape}; expected ({', '.join(map(str, expected))})."
            )
        for axis, size in zip(axes, shape, strict=True):
            if isinstance(axis, str) and sizes.setdefault(axis, size) != size:
                raise ArtifactError(
                    f"{Path(path).name}: the tensor {name} has shape {shape}; its axes '{axis}' must have one size."
                )


def require(tensors: Collection[str], names: Iterable[str], path: str | Path) -> None:
    """Check that a file has the tensors that are needed.

    Parameters
    ----------
    tensors, names : collections of str
        Names of the tensors in the file, and of those that are needed.
    path : str or Path
        The file, named in messages.

    Raises
    ------
    ArtifactError
        Tensors are missing; the message names them.
    """
    missing = [name for name in names if name not in tensors]
    if missing:
        raise ArtifactError(f"{Path(path).name} is incomplete: it lacks the tensor(s) {', '.join(missing)}.")


def shipped_artifact(name: str) -> Path:
    """Return the path of an artifact that is part of the package.

    Parameters
    ----------
    name : str
        Name of the file, with its suffix.

    Returns
    -------
    Path
    """
    return Path(str(resources.files("iaemu.artifacts") / name))


def shipped_artifacts() -> list[str]:
    """Return the names of the artifacts that are part of the package.

    Returns
    -------
    list of str
    """
    folder = resources.files("iaemu.artifacts")
    return sorted(Path(entry.name).stem for entry in folder.iterdir() if entry.name.endswith(".safetensors"))


@contextmanager
def _refusing(path: Any) -> Iterator[None]:
    """Turn every exception into an ArtifactError: a file from elsewhere can make Python or torch raise any."""
    try:
        yield
    except ArtifactError:
        raise
    except Exception as error:
        raise ArtifactError(
            f"{str(path)[:300]} is incomplete or does not fit this version: {type(error).__name__}: {str(error)[:300]}"
        ) from error


def _file_of(path: Any) -> Path:
    """Return the regular file of a path or shipped name. Reading from a pipe could wait for ever."""
    path = Path(path)
    if not path.exists() and str(path) in shipped_artifacts():
        path = shipped_artifact(f"{path}.safetensors")
    if not path.exists():
        raise ArtifactError(
            f"There is no artifact file {path}, and none of this name is shipped. Shipped are "
            f"{', '.join(shipped_artifacts())}."
        )
    if not path.is_file():
        raise ArtifactError(f"{path} is a folder, a pipe or a device; give the path of an artifact file.")
    return path


def _metadata(header: Mapping[str, str], kind: str | Collection[str], path: Path) -> dict[str, Any]:
    """Return the metadata, if iaemu made the file and it is of one of the kinds."""
    if "iaemu" not in header:
        raise ArtifactError(f"{path.name} is a safetensors file, but not made by iaemu (no 'iaemu' metadata).")
    try:
        metadata = json.loads(header["iaemu"])
    except (ValueError, RecursionError) as error:
        raise ArtifactError(f"{path.name}: the metadata are not valid JSON: {error}") from error
    if not isinstance(metadata, dict):
        raise ArtifactError(f"{path.name}: the metadata are a {type(metadata).__name__}; expected a mapping.")
    if metadata.get("format") != FORMAT:
        raise ArtifactError(
            f"{path.name} has format {str(metadata.get('format'))[:100]!r}; this version ({__version__}) reads "
            f"{FORMAT!r}."
        )
    kinds = (kind,) if isinstance(kind, str) else tuple(kind)
    if metadata.get("kind") not in kinds:
        wanted = " or ".join(map(repr, kinds))
        found = str(metadata.get("kind"))[:100]
        use = f" Use {_READERS[found]}." if found in _READERS else ""
        raise ArtifactError(f"{path.name} holds {found!r}, but {wanted} was asked for.{use}")
    return metadata


def _in_order(content: bytes) -> bytes:
    """The same file with its header in alphabetical order: safetensors writes metadata in an order that varies."""
    end = 8 + int.from_bytes(content[:8], "little")
    header = json.dumps(json.loads(content[8:end]), sort_keys=True, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    return len(header).to_bytes(8, "little") + header + content[end:]


def _digest(text: str, tensors: Mapping[str, np.ndarray]) -> str:
    digest = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        array = tensors[name]
        digest.update(f"{name}:{array.dtype.str}:{array.shape};".encode())
        # Reads the bytes without a copy. The type checker knows arrays as buffers from Python 3.12.
        digest.update(np.ascontiguousarray(array))  # type: ignore[arg-type]
    return digest.hexdigest()
