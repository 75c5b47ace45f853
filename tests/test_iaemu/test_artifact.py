"""Artifacts: what is written is read; anything else is refused with a reason."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file
from safetensors.torch import save_file as save_torch

import iaemu
from iaemu.artifact import ArtifactError, check_shapes, read_artifact, require, write_artifact
from iaemu.models.box_error import BoxError


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


def test_only_regular_files_are_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path, "/dev/null"):
        with pytest.raises(ArtifactError, match="is a folder, a pipe or a device"):
            read_artifact(path, "tables")
    for path, words in (("a" * 300, "name too long"), ("a\0b", "no artifact file|null byte"), (3, "TypeError")):
        with pytest.raises(ArtifactError, match=words):
            read_artifact(path, "tables")


def test_types_and_metadata_that_are_none_of_ours(tmp_path):
    path = tmp_path / "odd.safetensors"
    ours = json.dumps({"format": "iaemu-artifact-1", "kind": "tables"})
    for dtype in (torch.bfloat16, torch.float8_e4m3fn):
        save_torch({"a": torch.zeros(2, dtype=dtype)}, path, metadata={"iaemu": ours})
        with pytest.raises(ArtifactError, match=r"numbers of type (BF16|F8_E4M3)"):
            read_artifact(path, "tables")
    for text, words in (
        ("[]", "are a list"),
        ("[" * 100_000, "not valid JSON"),
        ('{"format": ' + "9" * 5000 + "}", "not valid JSON"),
        (json.dumps({"format": "iaemu-artifact-1", "kind": ["tables"]}), r"but 'tables' was asked for\.$"),
        (
            json.dumps({"format": "iaemu-artifact-1", "kind": "emulator"}),
            r"asked for\. Use iaemu.Emulator, or .*IAEmu\.",
        ),
        (" " * 2**23, "header is too long"),
    ):
        save_file({"a": np.zeros(2)}, path, metadata={"iaemu": text})
        with pytest.raises(ArtifactError, match=words):
            read_artifact(path, "tables")


def test_shapes_are_compared_by_size_and_by_what_axes_have_in_common(tmp_path):
    wanted = {"a": ("n", 2), "b": ("n", "m"), "c": ("m",)}
    check_shapes({"a": (5, 2), "b": (5, 3)}, wanted, "file", optional=("c",))
    for shapes, words in (
        ({"a": (5, 2)}, r"lacks the tensor\(s\) b"),
        ({"a": (5, 2), "b": (5, 3), "d": (1,)}, r"unknown tensor\(s\): d"),
        ({"a": (5, 2), "b": (4, 3)}, r"b has shape \(4, 3\); expected \(5, m\)"),
        ({"a": (5, 3), "b": (5, 3)}, r"a has shape \(5, 3\); expected \(n, 2\)"),
        ({"a": (5, 2), "b": (5, 3), "c": (3, 1)}, "c has shape"),
    ):
        with pytest.raises(ArtifactError, match=words):
            check_shapes(shapes, wanted, "file", optional=("c",))
    with pytest.raises(ArtifactError, match="must have one size"):
        check_shapes({"s": (3, 4)}, {"s": ("n", "n")}, "file")


PEAK = """
import resource, sys, iaemu
iaemu.load()
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    iaemu.load(sys.argv[1])
except ValueError as error:
    print(type(error).__name__, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


@pytest.mark.parametrize("what", ["foreign", "ours", "wide"])
def test_a_file_is_refused_before_its_numbers_take_memory(what, tmp_path):
    path = tmp_path / "large.safetensors"
    if what == "wide":  # the network that the metadata state would take 3 GB
        tensors, metadata = read_artifact("factorised-pm160", "emulator")
        write_artifact(path, "emulator", tensors, {**metadata, "network": {**metadata["network"], "width": 20000}})
    else:  # 3 GB of zeros, of which the file system stores none
        header = {"two_halo_DD": {"dtype": "F32", "shape": [750_000_000], "data_offsets": [0, 3_000_000_000]}}
        if what == "ours":
            _, metadata = read_artifact("tables-pm160", "tables")
            header["__metadata__"] = {"iaemu": json.dumps(metadata), "sha256": ""}
        text = json.dumps(header).encode()
        with open(path, "wb") as file:
            file.write(len(text).to_bytes(8, "little") + text)
            file.truncate(8 + len(text) + 3_000_000_000)
    found = subprocess.run([sys.executable, "-c", PEAK, path], capture_output=True, text=True, timeout=120, check=True)
    kind, megabytes = found.stdout.split()
    assert kind == "ArtifactError" and int(megabytes) < 60


@pytest.mark.parametrize("name", ["factorised-pm160", "tables-pm160", "iaemunet-pm160", "box-error-pm160"])
def test_loading_leaves_torchs_generator_as_it_was(name):
    state = torch.get_rng_state()
    BoxError.load() if name.startswith("box-error") else iaemu.load(name)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    ("shipped", "kind", "name"),
    [
        ("box-error-pm160", "box-error", "sums.ss"),
        ("box-error-pm160", "box-error", "products.one_cs"),
        ("box-error-pm160", "box-error", "satellite_pair.coefficient"),
        ("tables-pm160", "tables", "two_halo_S_eta"),
        ("tables-pm160", "tables", "one_halo.values"),
        ("factorised-pm160", "emulator", "aleatoric.correlation.eta"),
        ("factorised-pm160", "emulator", "network.output_mean"),
    ],
)
def test_numbers_that_changed_are_found_whatever_the_seal(shipped, kind, name, tmp_path):
    tensors, metadata = read_artifact(shipped, kind)
    load = BoxError.load if kind == BoxError.kind else iaemu.load
    path = tmp_path / "altered.safetensors"
    altered = tensors[name].copy()
    altered.flat[len(altered.flat) // 3] += 0.1 * np.abs(altered).max()
    write_artifact(path, kind, {**tensors, name: altered}, metadata)
    with pytest.raises(ArtifactError, match=r"golden predictions of .* are not reproduced"):
        load(path)
    write_artifact(path, kind, {**tensors, name: tensors[name][..., :-1]}, metadata)
    with pytest.raises(ArtifactError):
        load(path)
    support = {**metadata["support"], "n_rmse": 4.5}
    # A model of several redshifts has the supported region of each.
    snapshots = [{**one, "support": {**one["support"], "n_rmse": 4.5}} for one in metadata.get("snapshots", [])]
    write_artifact(path, kind, tensors, {**metadata, "support": support, "snapshots": snapshots})
    with pytest.raises(ArtifactError, match="golden predictions of theta"):
        load(path)
    write_artifact(path, kind, tensors, {key: value for key, value in metadata.items() if key != "golden"})
    with pytest.raises(ArtifactError, match="incomplete"):
        load(path)


def test_equal_contents_are_equal_files(tmp_path):
    """Whatever process wrote them: hash tables of safetensors start from another seed in each."""
    script = (
        "import sys, numpy as np; from iaemu.artifact import write_artifact; "
        "write_artifact(sys.argv[1], 'x', {'b': np.eye(3), 'a': np.arange(5)}, {'note': 'µ'})"
    )
    for name in "abcde":
        subprocess.run([sys.executable, "-c", script, str(tmp_path / name)], check=True)
    assert len({(tmp_path / name).read_bytes() for name in "abcde"}) == 1
    tensors, metadata = read_artifact(tmp_path / "a", "x")
    assert metadata["note"] == "µ" and np.array_equal(tensors["a"], np.arange(5))
