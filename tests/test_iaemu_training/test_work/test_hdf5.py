"""HDF5 files on a disk that is full: an error, no crash of the process, and the older file stays."""

import subprocess
import sys

import pytest

pytest.importorskip("h5py")

#: A limit of the size of files stands for a full disk; the process must end by itself, which a crash would not.
SCRIPT = """
import resource, signal, sys
import numpy as np
{imports}
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
try:
    {write}
except OSError as error:
    print("refused:", error)
"""

WRITERS = {
    "write_hdf5": (
        "from iaemu_training.work.hdf5 import write_hdf5",
        "write_hdf5(sys.argv[1], lambda file: file.create_dataset('x', data=np.random.default_rng(1).random(10**5)))",
    ),
    "a packed catalogue": (
        "from iaemu_training.halos.catalogue import HaloCatalogue\ncatalogue = HaloCatalogue.load('pm40')",
        "catalogue.write_packed(sys.argv[1])",
    ),
}


@pytest.mark.parametrize("writer", WRITERS)
def test_a_full_disk_is_an_error_and_the_older_file_stays(writer, tmp_path):
    path = tmp_path / "file.hdf5"
    path.write_bytes(b"older")
    imports, write = WRITERS[writer]
    script = SCRIPT.format(imports=imports, write=write)
    done = subprocess.run([sys.executable, "-c", script, str(path)], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("refused: ") and "file.hdf5" in done.stdout
    assert {found.name: found.read_bytes() for found in tmp_path.iterdir()} == {"file.hdf5": b"older"}
