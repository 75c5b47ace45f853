"""Galaxy catalogues of many formats."""

import numpy as np
import pytest

pytest.importorskip("h5py")

import h5py

from iaemu.files import sha256_of_file
from iaemu_training.measuring.galaxy_files import GalaxyFileError, read_galaxies, write_galaxies

N = 12
NAMES = ("x", "y", "z", "galaxy_axisA_x", "galaxy_axisA_y", "galaxy_axisA_z")


@pytest.fixture
def galaxies():
    rng = np.random.default_rng(0)
    return rng.uniform(0, 10, (N, 3)), rng.normal(size=(N, 3)), np.linspace(9, 12, N)


def as_columns(x, e, mass):
    return dict(zip(NAMES, np.concatenate([x, e], axis=1).T, strict=True)) | {"log_mass": mass}


def write(path, galaxies):
    columns = as_columns(*galaxies)
    if path.suffix == ".hdf5":
        write_galaxies(path, *galaxies[:2], 10.0, {"log_mass": galaxies[2]}, {"seed": 3})
    elif path.suffix == ".npz":
        np.savez(path, positions=galaxies[0], axes=galaxies[1], log_mass=galaxies[2], Lbox=10.0)
    elif path.suffix == ".npy":
        np.save(path, np.array(list(zip(*columns.values(), strict=True)), dtype=[(name, "f8") for name in columns]))
    else:
        table = pytest.importorskip("astropy.table").Table(columns)
        if path.suffix in (".ecsv", ".fits"):
            table.meta["Lbox"] = 10.0
        table.write(path, format={".txt": "ascii"}.get(path.suffix))
    return path


@pytest.mark.parametrize("suffix", [".hdf5", ".npz", ".npy", ".csv", ".ecsv", ".fits", ".txt"])
def test_all_formats_give_the_same_galaxies(tmp_path, galaxies, suffix):
    path = write(tmp_path / f"galaxies{suffix}", galaxies)
    found = read_galaxies(path, select=["log_mass > 10", "log_mass <= 11.5"])
    keep = (galaxies[2] > 10) & (galaxies[2] <= 11.5)
    assert found.positions == pytest.approx(galaxies[0][keep])
    assert found.axes == pytest.approx(galaxies[1][keep])
    assert found.positions.dtype == np.float64
    assert found.Lbox == (None if suffix in (".npy", ".csv", ".txt") else 10.0)


def test_columns_in_groups_and_other_units(tmp_path, galaxies):
    path = tmp_path / "simulation.h5"
    with h5py.File(path, "w") as file:
        file["Subhalo/Pos"], file["Subhalo/Axes/major"] = galaxies[0] * 1000, galaxies[1]
        file.attrs["BoxSize"] = 10_000.0
    found = read_galaxies(path, ["Subhalo/Pos"], ["Subhalo/Axes/major"], scale=0.001)
    assert found.positions == pytest.approx(galaxies[0])
    assert found.axes == pytest.approx(galaxies[1])
    assert found.Lbox is None  # its unit is not known
    with h5py.File(path, "a") as file:
        file.attrs["Lbox"] = 10_000.0
    assert read_galaxies(path, ["Subhalo/Pos"], ["Subhalo/Axes/major"], scale=0.001).Lbox == pytest.approx(10.0)
    with pytest.raises(GalaxyFileError, match=r"--positions.*It has: .*Subhalo/Pos"):
        read_galaxies(path)


def test_one_table_in_hdf5(tmp_path, galaxies):
    path = tmp_path / "table.hdf5"
    columns = as_columns(*galaxies)
    with h5py.File(path, "w") as file:
        file["data"] = np.array(list(zip(*columns.values(), strict=True)), dtype=[(name, "f4") for name in columns])
    assert read_galaxies(path).positions == pytest.approx(galaxies[0], rel=1e-6)


def test_attributes_come_along(tmp_path, galaxies):
    found = read_galaxies(write(tmp_path / "galaxies.hdf5", galaxies))
    assert found.metadata == {"seed": 3}


def test_the_hash_is_that_of_the_file(tmp_path):
    (tmp_path / "empty").touch()
    assert sha256_of_file(tmp_path / "empty").startswith("e3b0c44298fc1c14")


@pytest.mark.parametrize(
    "change, message",
    [
        (dict(positions=["x", "y", "w"]), r"no column w \(--positions\). It has: .*log_mass"),
        (dict(positions=["x", "y"]), "one column of threes or three columns, got 2"),
        (dict(axes=["log_mass"]), r"three numbers a galaxy, got the shape \(12,\)"),
        (dict(select=["mass > 3"]), r"no column mass \(--select\)"),
        (dict(select=["log_mass ~ 3"]), "of the form"),
        (dict(select=["log_mass > many"]), "of the form"),
        (dict(select=["log_mass > 99"]), "none of 12 galaxies is left after log_mass > 99"),
    ],
)
def test_bad_requests_are_named(tmp_path, galaxies, change, message):
    path = write(tmp_path / "galaxies.hdf5", galaxies)
    with pytest.raises(GalaxyFileError, match=message):
        read_galaxies(path, **change)


def test_bad_files_are_named(tmp_path, galaxies):
    with pytest.raises(FileNotFoundError, match=r"nothing\.csv"):
        read_galaxies(tmp_path / "nothing.csv")
    (tmp_path / "galaxies.root").touch()
    with pytest.raises(GalaxyFileError, match=r"unknown format '\.root'; known are \.hdf5"):
        read_galaxies(tmp_path / "galaxies.root")
    (tmp_path / "broken.hdf5").write_text("not HDF5")
    with pytest.raises(GalaxyFileError, match=r"broken\.hdf5 cannot be read"):
        read_galaxies(tmp_path / "broken.hdf5")
    np.save(tmp_path / "plain.npy", galaxies[0])
    with pytest.raises(GalaxyFileError, match="named columns"):
        read_galaxies(tmp_path / "plain.npy")
    np.savez(tmp_path / "words.npz", positions=np.array([["a", "b", "c"]]), axes=np.ones((1, 3)))
    with pytest.raises(GalaxyFileError, match="positions does not hold numbers"):
        read_galaxies(tmp_path / "words.npz")
