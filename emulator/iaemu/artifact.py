"""One file for what is shipped: named float arrays and JSON metadata in safetensors, sealed with SHA-256.

No pickle: a file can hold numbers and text only. Anything missing, foreign or altered is refused.
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

#: Of metadata, shapes of tensors by name, and the path.
Check = Callable[[dict[str, Any], dict[str, tuple[int, ...]], Path], None]

#: Bytes of the header of a file: those of shipped files have 43 000 at most, and text takes many times its length.
_MAX_HEADER = 2**23

#: What is written, in the names of safetensors.
_DTYPES = {"F64", "F32", "F16", "I64", "I32", "I16", "I8", "U64", "U32", "U16", "U8", "BOOL"}


class ArtifactError(ValueError):
    """A file that is missing, foreign, incomplete, corrupt, or of another kind than asked for."""


def write_artifact(path: str | Path, kind: str, tensors: Mapping[str, np.ndarray], metadata: Mapping[str, Any]) -> None:
    """Write an artifact, whole or not at all.

    Parameters
    ----------
    path : str or Path
    kind : str
        What it is, e.g. ``"tables"``; :func:`read_artifact` refuses another.
    tensors : mapping of str to array
    metadata : mapping
        Anything JSON can hold. ``code_version`` is added.
    """
    tensors = {name: np.ascontiguousarray(value) for name, value in tensors.items()}
    text = json.dumps({"code_version": __version__, **metadata, "format": FORMAT, "kind": kind}, sort_keys=True)
    content = _in_order(save(tensors, metadata={"iaemu": text, "sha256": _digest(text, tensors)}))
    write_whole(path, lambda file: file.write(content))


def read_artifact(
    path: str | Path, kind: str | Collection[str], check: Check | None = None
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Read an artifact.

    Parameters
    ----------
    path : str or Path
        Or the name of a shipped one, see :func:`shipped_artifacts`.
    kind : str or collection of str
        The kinds that will do; ``metadata["kind"]`` says which it is.
    check : callable, optional
        Of the metadata, the shapes of the tensors by name, and the path, before tensors are read.

    Returns
    -------
    tensors : dict of str to array
    metadata : dict

    Raises
    ------
    ArtifactError
        The file is missing, no regular file, not safetensors, truncated, not one of ours, of another kind, or its hash
        differs; or the check raised something.
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
                    raise ArtifactError(f"{path.name} holds numbers of type {', '.join(foreign)}, which it never does.")
                if check is not None:
                    check(metadata, {name: tuple(part.get_shape()) for name, part in slices.items()}, path)
                tensors = {name: file.get_tensor(name) for name in slices}
        except (SafetensorError, OSError) as error:
            raise ArtifactError(f"{path.name} is truncated, corrupt or not a safetensors file: {error}") from error
        if header.get("sha256") != _digest(header["iaemu"], tensors):
            raise ArtifactError(
                f"{path.name}: the SHA-256 of the content differs from the stored one; the file is altered."
            )
    return tensors, metadata


def load_artifact(path: str | Path, kinds: Mapping[str, Any]) -> Any:
    """The object in a file, once it has reproduced the golden predictions that the file holds.

    Parameters
    ----------
    path : str or Path
        As of :func:`read_artifact`.
    kinds : mapping of kind to class
        Each with ``_check_layout(metadata, shapes, path)``, which refuses a file before its tensors are read;
        ``_restore(tensors, metadata, path)``; and, of what that gives, ``_check_golden(golden, path)``. Whatever these
        raise comes out as an ArtifactError.

    Returns
    -------
    object
        Of one of the classes.

    Raises
    ------
    ArtifactError
        The file is missing, corrupt, foreign or of another kind, or its golden predictions are not reproduced.
    """
    tensors, metadata = read_artifact(
        path, tuple(kinds), lambda metadata, *layout: kinds[metadata["kind"]]._check_layout(metadata, *layout)
    )
    with _refusing(path):
        bad = [name for name, value in tensors.items() if not np.all(np.isfinite(value))]
        if bad:
            raise ArtifactError(f"{path}: there are NaN or infinite values in {', '.join(bad)}.")
        found = kinds[metadata["kind"]]._restore(tensors, metadata, path)
        found._check_golden(metadata["golden"], path)
    return found


def check_golden(
    stored: Mapping[str, Any], found: Mapping[str, np.ndarray], path: Any, rtol: float, atol: float
) -> None:
    """Compare what a file says that its model predicts with what it predicts.

    Parameters
    ----------
    stored, found : mapping of names to arrays
    path : path-like
        For messages.
    rtol, atol : float

    Raises
    ------
    ArtifactError
        A name of ``found`` is not in ``stored``, or values differ.
    """
    missing = sorted(set(found) - set(stored))
    if missing:
        raise ArtifactError(
            f"{path} is incomplete: it lacks golden predictions of {', '.join(missing)}. Make it again, if it is of "
            "an earlier version."
        )
    for name, value in found.items():
        expected = real_array(stored[name], f"golden predictions of {name}", ArtifactError)
        if expected.shape != np.shape(value) or not np.allclose(value, expected, rtol=rtol, atol=atol):
            raise ArtifactError(f"{path}: the golden predictions of {name} are not reproduced.")


def check_shapes(
    shapes: Mapping[str, tuple[int, ...]],
    wanted: Mapping[str, Sequence[int | str]],
    path: str | Path,
    optional: Collection[str] = (),
) -> None:
    """Check that a file has what is needed, and nothing else.

    Parameters
    ----------
    shapes : mapping of name to tuple of int
        Of its tensors.
    wanted : mapping of name to sequence of int or str
        Sizes by axis. A name of a size stands for the same size wherever it is.
    path : str or Path
        Of the file.
    optional : collection of str
        Names in ``wanted`` that may be missing.

    Raises
    ------
    ArtifactError
        Names the tensor.
    """
    require(shapes, [name for name in wanted if name not in optional], path)
    unknown = sorted(set(shapes) - set(wanted))
    if unknown:
        raise ArtifactError(f"{Path(path).name} has tensor(s) that do not belong in it: {', '.join(unknown)[:200]}.")
    sizes: dict[str, int] = {}
    for name in (name for name in wanted if name in shapes):
        axes, shape = wanted[name], shapes[name]
        expected = [sizes.get(axis, axis) if isinstance(axis, str) else axis for axis in axes]
        if len(shape) != len(axes) or any(
            isinstance(size, int) and size != have for size, have in zip(expected, shape, strict=True)
        ):
            raise ArtifactError(
                f"{Path(path).name}: the tensor {name} has shape {shape}, "
                f"({', '.join(map(str, expected))}) is expected."
            )
        for axis, size in zip(axes, shape, strict=True):
            if isinstance(axis, str) and sizes.setdefault(axis, size) != size:
                raise ArtifactError(f"{Path(path).name}: the tensor {name} has shape {shape}: both {axis} must agree.")


def require(tensors: Collection[str], names: Iterable[str], path: str | Path) -> None:
    """Check that a file has what is needed.

    Parameters
    ----------
    tensors, names : collections of str
        What it has, and what is needed.
    path : str or Path
        Of the file.

    Raises
    ------
    ArtifactError
        Names the tensors that are missing.
    """
    missing = [name for name in names if name not in tensors]
    if missing:
        raise ArtifactError(f"{Path(path).name} lacks the tensor(s) {', '.join(missing)}.")


def shipped_artifact(name: str) -> Path:
    """Path of an artifact that is part of the package.

    Parameters
    ----------
    name : str
        Of the file.

    Returns
    -------
    Path
    """
    return Path(str(resources.files("iaemu.artifacts") / name))


def shipped_artifacts() -> list[str]:
    """Names of the artifacts that are part of the package.

    Returns
    -------
    list of str
    """
    folder = resources.files("iaemu.artifacts")
    return sorted(Path(entry.name).stem for entry in folder.iterdir() if entry.name.endswith(".safetensors"))


@contextmanager
def _refusing(path: Any) -> Iterator[None]:
    """Whatever a file makes Python, torch or safetensors raise is an ArtifactError: what it holds is anybody's."""
    try:
        yield
    except ArtifactError:
        raise
    except Exception as error:
        raise ArtifactError(
            f"{str(path)[:300]} is incomplete or does not fit this version: {type(error).__name__}: {str(error)[:300]}"
        ) from error


def _file_of(path: Any) -> Path:
    """The regular file of this path or shipped name; reading from a pipe could wait for ever."""
    path = Path(path)
    if not path.exists() and str(path) in shipped_artifacts():
        path = shipped_artifact(f"{path}.safetensors")
    if not path.exists():
        raise ArtifactError(
            f"There is no artifact file {path}, and none is shipped under that name; shipped are "
            f"{', '.join(shipped_artifacts())}."
        )
    if not path.is_file():
        raise ArtifactError(f"{path} is a folder, a pipe or a device; give the path of an artifact file.")
    return path


def _metadata(header: Mapping[str, str], kind: str | Collection[str], path: Path) -> dict[str, Any]:
    """The metadata of a file of ours, and of one of the kinds."""
    if "iaemu" not in header:
        raise ArtifactError(f"{path.name} is a safetensors file, but not made by iaemu (no 'iaemu' metadata).")
    try:
        metadata = json.loads(header["iaemu"])
    except (ValueError, RecursionError) as error:
        raise ArtifactError(f"{path.name}: the metadata are not valid JSON: {error}") from error
    if not isinstance(metadata, dict):
        raise ArtifactError(f"{path.name}: the metadata are a {type(metadata).__name__}, not a mapping of names.")
    if metadata.get("format") != FORMAT:
        raise ArtifactError(
            f"{path.name} has format {str(metadata.get('format'))[:100]!r}; this version ({__version__}) reads "
            f"{FORMAT!r}."
        )
    kinds = (kind,) if isinstance(kind, str) else tuple(kind)
    if metadata.get("kind") not in kinds:
        wanted = " or ".join(map(repr, kinds))
        raise ArtifactError(f"{path.name} holds {str(metadata.get('kind'))[:100]!r}, but {wanted} was asked for.")
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
        # Its bytes without a copy. The buffers of arrays are known to the type checker from Python 3.12.
        digest.update(np.ascontiguousarray(array))  # type: ignore[arg-type]
    return digest.hexdigest()
