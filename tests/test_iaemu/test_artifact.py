"""Artifacts: what is written is read; anything else is refused with a reason."""

import json

import numpy as np
import pytest
from safetensors.numpy import save_file

from iaemu.artifact import ArtifactError, read_artifact, require, write_artifact


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "thing.safetensors"
    write_artifact(path, "tables", {"a": np.arange(5.0), "b": np.eye(2, dtype=np.float32)}, {"note": "µ"})
    return path


def test_round_trip(path):
    tensors, metadata = read_artifact(path, "tables")
    np.testing.assert_array_equal(tensors["a"], np.arange(5.0))
    assert tensors["b"].dtype == np.float32
    assert metadata["note"] == "µ" and metadata["kind"] == "tables" and "code_version" in metadata
    assert not list(path.parent.glob("*.tmp"))


def test_every_flipped_byte_of_the_data_is_refused(path):
    data = bytearray(path.read_bytes())
    for offset in (-1, -20, -50):
        broken = bytearray(data)
        broken[offset] ^= 1
        path.write_bytes(broken)
        with pytest.raises(ArtifactError, match="SHA-256"):
            read_artifact(path, "tables")


def test_truncated_is_refused(path):
    data = path.read_bytes()
    for length in (0, 5, 60, len(data) - 1):
        path.write_bytes(data[:length])
        with pytest.raises(ArtifactError, match="truncated, corrupt"):
            read_artifact(path, "tables")


def test_changed_metadata_is_refused(path):
    data = path.read_bytes()
    assert data.count(b"code_version") == 1
    path.write_bytes(data.replace(b"code_version", b"code_wersion"))
    with pytest.raises(ArtifactError, match="SHA-256"):
        read_artifact(path, "tables")


def test_foreign_missing_and_other_kinds_are_told_apart(path, tmp_path):
    with pytest.raises(ArtifactError, match="no artifact file"):
        read_artifact(tmp_path / "nothing.safetensors", "tables")
    with pytest.raises(ArtifactError, match="'tables', but 'emulator'"):
        read_artifact(path, "emulator")
    foreign = tmp_path / "foreign.safetensors"
    save_file({"a": np.zeros(2)}, foreign)
    with pytest.raises(ArtifactError, match="not made by iaemu"):
        read_artifact(foreign, "tables")
    save_file({"a": np.zeros(2)}, foreign, metadata={"iaemu": json.dumps({"format": "other"})})
    with pytest.raises(ArtifactError, match="format 'other'"):
        read_artifact(foreign, "tables")


def test_missing_tensors_are_named(path):
    with pytest.raises(ArtifactError, match=r"lacks the tensor\(s\) c, d"):
        require({"a": 1}, ("a", "c", "d"), path)
