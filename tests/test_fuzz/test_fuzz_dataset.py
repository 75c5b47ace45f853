"""Data sets and folders of parts with something wrong in them."""

import json

import h5py
import numpy as np
import pytest

pytest.importorskip("portalocker")

from fuzzing import NUMBERS, spoilt_bytes

from iaemu.binning import PAPER_EDGES
from iaemu.parameters import PARAMETERS, Support
from iaemu_training.dataset.file import _COUNTS, _MOCK_SUMS, FORMAT, SUMS, Dataset, DatasetError
from iaemu_training.work.cluster import workers
from iaemu_training.work.parts import PartsError, PartStore, Task

N, M, K, FINE = 6, 2, 3, len(PAPER_EDGES) - 1


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """A data set in the layout of the real ones, of six points."""
    path = tmp_path_factory.mktemp("sound") / "sound.hdf5"
    rng = np.random.default_rng(1)
    arrays = {"theta": Support().sample(N, rng), "split": np.array([0, 0, 1, 2, 2, 2], dtype=np.uint8)}
    arrays |= {"r_edges": PAPER_EDGES, "fine_edges": PAPER_EDGES, "xi_matter": np.ones(FINE)}
    arrays |= {f"labels/{name}": rng.random((N, FINE)) for name in ("xi", "omega", "eta")}
    arrays |= {f"labels/sums/{name}": 100 * rng.random((N, FINE)) + 50 for name in SUMS}
    arrays |= {f"labels/{name}": rng.random(N) for name in ("n_gal", "f_sat")}
    arrays |= {f"masks/{name}": np.zeros(N, dtype=bool) for name in ("empty_bins", "unphysical_xi")}
    arrays |= {"mocks/index": np.array([1, 4]), "mocks/n_empty": np.zeros((M, FINE), dtype=int)}
    arrays |= {f"mocks/{name}": 100 * rng.random((M, K, FINE)) for name in _MOCK_SUMS}
    arrays |= {f"mocks/{name}": rng.integers(100, 200, (M, K, 1)) for name in _COUNTS}
    with h5py.File(path, "w") as h5:
        h5.attrs["format"] = FORMAT
        h5.attrs["parameters"] = list(PARAMETERS)
        h5.attrs["identity"] = json.dumps({"settings": {"points": "tube"}, "boxes_sha256": ["0"]})
        h5.attrs["support"] = json.dumps(Support().to_dict())
        h5.attrs["box_sizes"] = "[40.0]"
        for name, values in arrays.items():
            h5.create_dataset(name, data=values, chunks=values.shape, compression="gzip", fletcher32=True)
    return path


def use(path):
    """All that one does with a data set."""
    data = Dataset(path)
    mocks = data.realisations(0)
    return [data.summary(), data.theta, data.cleaned, data.labels(slice(None)), mocks.xi, mocks.omega, data.support]


def test_the_sound_one_is_read(sound):
    assert "6 points (tube), 2 train, 1 validation, 3 test" in use(sound)[0]


def test_bytes(fuzz, sound, tmp_path):
    path, content = tmp_path / "d.hdf5", sound.read_bytes()

    def read(spoilt):
        path.write_bytes(spoilt)
        return use(path)

    expected = use(sound)[3]

    def check(found):
        # Of arrays there are checksums.
        return all(np.array_equal(found[3][name], expected[name], equal_nan=True) for name in expected)

    chunks = []

    def note(_, item):
        if isinstance(item, h5py.Dataset):
            chunks.append(item.id.get_chunk_info(0))

    with h5py.File(sound) as h5:
        h5.visititems(note)

    def make(rng):
        # Not in what describes the arrays: there the HDF5 library itself can loop for ever.
        if rng.random() < 0.3:
            return content[: rng.integers(len(content))]
        chunk = chunks[rng.integers(len(chunks))]
        start, end = chunk.byte_offset, chunk.byte_offset + chunk.size
        spoilt = spoilt_bytes(rng, content[start:end])[: chunk.size]
        return content[:start] + spoilt.ljust(chunk.size, b"\0") + content[end:]

    fuzz("Dataset, spoilt bytes", 1500, make, read, DatasetError, check)


def test_members(fuzz, sound, tmp_path):
    path, content = tmp_path / "d.hdf5", sound.read_bytes()
    with h5py.File(sound) as h5:
        names, keys = [], list(h5.attrs)
        h5.visititems(lambda name, item: names.append(name))

    def make(rng):
        name, key = names[rng.integers(len(names))], keys[rng.integers(len(keys))]
        texts = [
            "",
            "[",
            "[]",
            "{}",
            "null",
            "5",
            "[" * 3000,
            "9" * 5000,
            '{"settings": []}',
            "[-1]",
            '["x"]',
            "\ufeff{}",
        ]
        values = [
            *(np.zeros((2, 2)), np.array(["x"], dtype="S1"), np.zeros(0), np.full((N, 7), np.nan), np.full(N, 9)),
            *(
                np.array([0, 99]),
                np.array([-1, 2]),
                np.zeros((N, 7), complex),
                3.0,
                "text",
                np.arange(FINE + 1.0)[::-1],
            ),
            *(h5py.Empty("f"), np.zeros(M, dtype=[("a", "f8")])),
        ]
        return rng.integers(5), name, key, texts[rng.integers(len(texts))], values[rng.integers(len(values))]

    def read(change):
        action, name, key, text, value = change
        path.write_bytes(content)
        with h5py.File(path, "r+") as h5:
            if action == 0:
                del h5[name]
            elif action == 1:
                del h5[name]
                h5[name] = value
            elif action == 2:
                del h5.attrs[key]
            elif action == 3:
                h5.attrs[key] = text
            else:
                h5.attrs[key] = value
        return use(path)

    fuzz("Dataset, other members", 1500, make, read, DatasetError)


def test_objects(fuzz, sound):
    data = Dataset(sound)

    def make(rng):
        return rng.integers(3), NUMBERS[rng.integers(len(NUMBERS))]

    def call(given):
        action, value = given
        if action == 0:
            return data.realisations(value)
        if action == 1:
            return data.read(value)
        return data.labels(value)

    fuzz("Dataset, arguments", 600, make, call, DatasetError)


def one():
    return {"x": np.arange(5.0), "n": np.array([3])}


def test_parts(fuzz, tmp_path):
    folder = tmp_path / "parts"
    identity = {"settings": {"n": 5, "seed": 1}, "hashes": ["a", "b"]}
    with PartStore(folder, identity) as store, workers(1) as crew:
        store.run({"part": Task(one, ())}, crew, "", progress=False)
    files = {name: (folder / name).read_bytes() for name in ("part.npz", "identity.json")}

    def make(rng):
        name = ["part.npz", "identity.json"][rng.integers(2)]
        words = [b"", b"[]", b"{}", b"null", b"[" * 3000, b"\xff\xfe", b"\x93NUMPY", b"9" * 5000, b'{"settings": NaN}']
        return name, words[rng.integers(len(words))] if rng.random() < 0.2 else spoilt_bytes(rng, files[name])

    def go_on(change):
        for name, content in files.items():
            (folder / name).write_bytes(content)
        (folder / change[0]).write_bytes(change[1])
        with PartStore(folder, identity) as store:
            return store.read("part")

    def check(found):
        return set(found) == {"x", "n"} and np.array_equal(found["x"], np.arange(5.0))

    fuzz("PartStore", 2500, make, go_on, PartsError, check)
