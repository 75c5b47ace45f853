"""One file for what is shipped: named float arrays and JSON metadata in safetensors, sealed with SHA-256.

No pickle: a file can hold numbers and text only. Anything missing, foreign or altered is refused.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterable, Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from iaemu._version import __version__
from iaemu.files import write_whole

FORMAT = "iaemu-artifact-1"


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
    content = save(tensors, metadata={"iaemu": text, "sha256": _digest(text, tensors)})
    write_whole(path, lambda file: file.write(content))


def read_artifact(path: str | Path, kind: str | Collection[str]) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Read an artifact.

    Parameters
    ----------
    path : str or Path
        Or the name of a shipped one, see :func:`shipped_artifacts`.
    kind : str or collection of str
        The kinds that will do; ``metadata["kind"]`` says which it is.

    Returns
    -------
    tensors : dict of str to array
    metadata : dict

    Raises
    ------
    ArtifactError
        The file is missing, not safetensors, truncated, not one of ours, of another kind, or its hash differs.
    """
    path = Path(path)
    if not path.exists() and str(path) in shipped_artifacts():
        path = shipped_artifact(f"{path}.safetensors")
    if not path.exists():
        raise ArtifactError(
            f"There is no artifact file {path}, and none is shipped under that name; shipped are "
            f"{', '.join(shipped_artifacts())}."
        )
    try:
        with safe_open(path, framework="numpy") as file:
            header = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}
    except (SafetensorError, OSError, ValueError) as error:
        raise ArtifactError(f"{path.name} is truncated, corrupt or not a safetensors file: {error}") from error
    if "iaemu" not in header:
        raise ArtifactError(f"{path.name} is a safetensors file, but not made by iaemu (no 'iaemu' metadata).")
    try:
        metadata = json.loads(header["iaemu"])
    except json.JSONDecodeError as error:
        raise ArtifactError(f"{path.name}: the metadata are not valid JSON: {error}") from error
    if metadata.get("format") != FORMAT:
        raise ArtifactError(
            f"{path.name} has format {metadata.get('format')!r}; this version ({__version__}) reads {FORMAT!r}."
        )
    kinds = (kind,) if isinstance(kind, str) else tuple(kind)
    if metadata.get("kind") not in kinds:
        wanted = " or ".join(map(repr, kinds))
        raise ArtifactError(f"{path.name} holds {metadata.get('kind')!r}, but {wanted} was asked for.")
    if header.get("sha256") != _digest(header["iaemu"], tensors):
        raise ArtifactError(
            f"{path.name}: the SHA-256 of the content differs from the stored one; the file is altered."
        )
    return tensors, metadata


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


def _digest(text: str, tensors: Mapping[str, np.ndarray]) -> str:
    digest = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        array = tensors[name]
        digest.update(f"{name}:{array.dtype.str}:{array.shape};".encode())
        # Its bytes without a copy. The buffers of arrays are known to the type checker from Python 3.12.
        digest.update(np.ascontiguousarray(array))  # type: ignore[arg-type]
    return digest.hexdigest()
