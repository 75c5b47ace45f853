"""Files that are there whole, or not at all."""

import bz2
import gzip
import lzma
import multiprocessing
import os
import stat
import subprocess
import sys

import pytest

from iaemu.files import read_text, write_text, write_together, write_whole


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_an_error_leaves_the_older_file_and_nothing_else(tmp_path):
    path = tmp_path / "table.txt"
    write_text(path, "old")

    def fail(file):
        file.write(b"half")
        raise RuntimeError("stopped")

    with pytest.raises(RuntimeError, match="stopped"):
        write_whole(path, fail)
    assert contents(tmp_path) == {"table.txt": b"old"}


def test_several_files_appear_together_or_not_at_all(tmp_path):
    write_text(tmp_path / "a", "old")

    def fail(file):
        raise OSError("No space left on device")

    with pytest.raises(OSError, match="No space"):
        write_together({tmp_path / "a": lambda file: file.write(b"new"), tmp_path / "b": fail})
    assert contents(tmp_path) == {"a": b"old"}
    write_together({tmp_path / name: lambda file, name=name: file.write(name.encode()) for name in "ab"})
    assert contents(tmp_path) == {"a": b"a", "b": b"b"}


def test_other_peoples_temporary_files_and_links_are_not_touched(tmp_path):
    other = tmp_path / "other"
    other.write_text("precious")
    (tmp_path / "table.txt.tmp").symlink_to(other)
    write_text(tmp_path / "table.txt", "new")
    assert other.read_text() == "precious"
    assert (tmp_path / "table.txt.tmp").is_symlink()


def test_the_target_of_a_link_is_replaced(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "link.txt").symlink_to(tmp_path / "disk" / "table.txt")
    for text in ("first", "second"):
        write_text(tmp_path / "link.txt", text)
        assert (tmp_path / "link.txt").is_symlink()
        assert contents(tmp_path / "disk") == {"table.txt": text.encode()}


def test_the_mode_is_kept_and_that_of_a_new_file_is_the_users(tmp_path):
    path = tmp_path / "table.txt"
    old = os.umask(0o027)
    try:
        write_text(path, "1")
        assert stat.S_IMODE(path.stat().st_mode) == 0o640
        path.chmod(0o600)
        write_text(path, "2")
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    finally:
        os.umask(old)


def test_a_folder_is_not_a_file(tmp_path):
    with pytest.raises(IsADirectoryError, match="is a folder"):
        write_text(tmp_path, "x")
    with pytest.raises(FileNotFoundError, match="make it first"):
        write_text(tmp_path / "none" / "table.txt", "x")


def _write_often(path, text):
    for _ in range(100):
        write_text(path, text)


def test_two_writers_do_not_meet(tmp_path):
    context = multiprocessing.get_context("spawn")
    texts = ["a" * 10_000, "b" * 10_000]
    writers = [context.Process(target=_write_often, args=(tmp_path / "x", text)) for text in texts]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert [writer.exitcode for writer in writers] == [0, 0]
    assert [path.name for path in tmp_path.iterdir()] == ["x"]
    assert (tmp_path / "x").read_text() in texts


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("plain.txt", "r = 1 µm\n".encode()),
        ("bom.txt", b"\xef\xbb\xbf" + "r = 1 µm\n".encode()),
        ("latin.txt", "r = 1 µm\n".encode("latin-1")),
        ("windows.txt", "r = 1 µm\r\n".encode()),
        ("a.txt.gz", gzip.compress("r = 1 µm\n".encode(), mtime=0)),
        ("a.txt.bz2", bz2.compress("r = 1 µm\n".encode())),
        ("a.txt.XZ", lzma.compress("r = 1 µm\n".encode())),
    ],
)
def test_text_as_people_have_it(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    assert read_text(tmp_path / name) == "r = 1 µm\n"


@pytest.mark.parametrize("name", ["a.gz", "a.bz2", "a.xz"])
def test_damaged_compressed_text_is_an_error_of_the_file(tmp_path, name):
    module = {"a.gz": gzip, "a.bz2": bz2, "a.xz": lzma}[name]
    content = module.compress(bytes(range(1, 256)) * 100)
    for damaged in (content[:-10], content[:30] + b"xxxxxxxx" + content[38:], b"no", b""):
        (tmp_path / name).write_bytes(damaged)
        if damaged == b"" and name == "a.gz":
            continue  # an empty gzip file reads as no text
        with pytest.raises(OSError):
            read_text(tmp_path / name)


def test_binary_files_are_no_text(tmp_path):
    (tmp_path / "x").write_bytes(b"\x89HDF\0\0")
    with pytest.raises(ValueError, match="not a text file"):
        read_text(tmp_path / "x")


def test_what_killed_writers_leave_is_removed_and_what_living_ones_write_is_not(tmp_path):
    code = "import os, sys; from iaemu.files import write_whole; "
    code += "write_whole(sys.argv[1], lambda file: os.kill(os.getpid(), 9))"
    for _ in range(3):
        subprocess.run([sys.executable, "-c", code, str(tmp_path / "a.txt")])
    assert len(list(tmp_path.glob(".a.txt.*.tmp"))) == 1  # each takes away what the one before it left

    def write(file):
        write_whole(tmp_path / "a.txt", lambda other: other.write(b"first"))  # another writer at the same time
        file.write(b"second")

    write_whole(tmp_path / "a.txt", write)
    assert [file.name for file in tmp_path.iterdir()] == ["a.txt"]
    assert (tmp_path / "a.txt").read_bytes() == b"second"
