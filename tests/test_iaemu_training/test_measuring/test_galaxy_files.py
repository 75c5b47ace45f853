"""Galaxy catalogues of many formats."""

import bz2
import gzip
import lzma

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
        (dict(positions=["x", "y"]), "three columns, or one column of triples; got 2"),
        (dict(axes=["log_mass"]), r"three numbers for each galaxy, got shape \(12,\)"),
        (dict(select=["mass > 3"]), r"no column mass \(--select\)"),
        (dict(select=["log_mass ~ 3"]), "of the form"),
        (dict(select=["log_mass > many"]), "of the form"),
        (dict(select=["log_mass > 99"]), "none of the 12 galaxies meets log_mass > 99"),
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


# ---------------------------------------------------------------------- several tables


def structured(columns):
    return np.array(list(zip(*columns.values(), strict=True)), dtype=[(name, "f8") for name in columns])


@pytest.fixture
def galaxies_and_halos(galaxies):
    """Tables of as many rows, of which both have x, y, z and one has axes."""
    halos = dict(zip("xyz", np.random.default_rng(5).uniform(0, 10, (3, N)), strict=True)) | {"mvir": np.arange(N)}
    return structured(as_columns(*galaxies)), structured(halos)


def write_two(path, tables):
    if path.suffix == ".fits":
        fits = pytest.importorskip("astropy.io.fits")
        units = [fits.BinTableHDU(table, name=name) for name, table in zip(("G", "H"), tables, strict=True)]
        fits.HDUList([fits.PrimaryHDU(), *units]).writeto(path)
    elif path.suffix == ".npz":
        np.savez(path, G=tables[0], H=tables[1])
    else:
        with h5py.File(path, "w") as file:
            for name, table in zip(("G", "H"), tables, strict=True):
                if path.stem == "tables":
                    file[name] = table
                else:
                    for field in table.dtype.names:
                        file[f"{name}/{field}"] = table[field]
    return path


@pytest.mark.parametrize("name", ["tables.hdf5", "groups.hdf5", "two.npz", "two.fits"])
def test_two_tables_are_not_mixed(tmp_path, galaxies, galaxies_and_halos, name):
    path = write_two(tmp_path / name, galaxies_and_halos)
    message = "columns x y z are in the table G and the table H. Name those that you want: --positions G/x G/y G/z"
    with pytest.raises(GalaxyFileError, match=message):
        read_galaxies(path)
    found = read_galaxies(path, ["G/x", "G/y", "G/z"], select=["log_mass > 10"])
    keep = galaxies[2] > 10
    assert found.positions == pytest.approx(galaxies[0][keep]) and found.axes == pytest.approx(galaxies[1][keep])
    with pytest.raises(GalaxyFileError, match="these columns are in the table H and the table G: H/x, H/y, H/z, G/gal"):
        read_galaxies(path, ["H/x", "H/y", "H/z"])
    with pytest.raises(
        GalaxyFileError, match=r"column x \(--positions\) is in the table G and the table H.*G/x or H/x"
    ):
        read_galaxies(path, ["x", "y", "z"])
    both = read_galaxies(path, ["H/x", "H/y", "H/z"], [f"G/{name}" for name in NAMES[3:]], ["G/log_mass > 10"])
    assert both.positions[:, 0] == pytest.approx(galaxies_and_halos[1]["x"][keep])


@pytest.mark.parametrize("name", ["tables.hdf5", "groups.hdf5", "two.npz", "two.fits"])
def test_a_column_that_one_table_has_needs_no_other_name(tmp_path, galaxies, galaxies_and_halos, name):
    halos = structured({"mvir": np.arange(N)})
    path = write_two(tmp_path / name, (galaxies_and_halos[0], halos))
    assert read_galaxies(path).positions == pytest.approx(galaxies[0])
    assert read_galaxies(path, ["x", "y", "z"]).axes == pytest.approx(galaxies[1])
    with pytest.raises(GalaxyFileError, match="no column nothing"):
        read_galaxies(path, select=["nothing > 1"])


# ---------------------------------------------------------------------- files as people have them


@pytest.mark.parametrize("suffix", [".csv", ".CSV", ".txt", ".dat", ".ascii", ".csv.gz", ".txt.bz2", ".dat.xz"])
@pytest.mark.parametrize("style", ["plain", "commented names", "byte-order mark", "latin-1", "windows"])
def test_text_is_read_in_the_forms_that_there_are(tmp_path, galaxies, suffix, style):
    columns = as_columns(*galaxies)
    between = "," if "csv" in suffix.lower() else " "
    rows = [
        between.join(columns),
        *(between.join(map(repr, map(float, row))) for row in zip(*columns.values(), strict=True)),
    ]
    if style == "commented names":
        rows[0] = f"# {rows[0]}"
    text = "".join(f"{row}\n" for row in ["# by Müller", *rows] if style == "latin-1" or not row.startswith("# by"))
    content = text.encode("latin-1")
    if style == "byte-order mark":
        content = b"\xef\xbb\xbf" + content
    elif style == "windows":
        content = content.replace(b"\n", b"\r\n")
    path = tmp_path / f"galaxies{suffix}"
    pack = {".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress}.get(path.suffix, bytes)
    path.write_bytes(pack(content))
    pytest.importorskip("astropy")
    found = read_galaxies(path)
    assert np.array_equal(found.positions, galaxies[0]) and np.array_equal(found.axes, galaxies[1])


@pytest.mark.parametrize("side", [10.0, [10.0, 10.0, 10.0], np.float32(10), b"10"])
def test_the_side_of_the_box_in_the_forms_that_there_are(tmp_path, galaxies, side):
    path = write(tmp_path / "galaxies.hdf5", galaxies)
    with h5py.File(path, "a") as file:
        del file.attrs["Lbox"]
        file.attrs["LBOX"] = side
    assert read_galaxies(path).Lbox == 10.0


@pytest.mark.parametrize("side", [[10.0, 10.0, 20.0], -1.0, "wide", np.nan, 0.0])
def test_a_side_that_is_none_is_named(tmp_path, galaxies, side):
    path = write(tmp_path / "galaxies.hdf5", galaxies)
    with h5py.File(path, "a") as file:
        file.attrs["Lbox"] = side
    with pytest.raises(GalaxyFileError, match=r"its Lbox = .* is not the side of a cubic box"):
        read_galaxies(path)


def test_the_header_of_tng_states_the_side_in_the_unit_of_the_positions(tmp_path, galaxies):
    path = tmp_path / "fof_subhalo_tab_099.hdf5"
    with h5py.File(path, "w") as file:
        file["Subhalo/SubhaloPos"], file["Subhalo/axes"] = galaxies[0] * 3e3, galaxies[1]
        file.create_group("Header").attrs["BoxSize"] = 30_000.0
    found = read_galaxies(path, ["Subhalo/SubhaloPos"], scale=0.001)
    assert found.Lbox == pytest.approx(30.0) and found.axes == pytest.approx(galaxies[1])
    with pytest.raises(GalaxyFileError, match=r"BoxSize = 30000 makes a box of 30000 Mpc/h.*--scale 0\.001"):
        read_galaxies(path, ["SubhaloPos"])


def test_masked_and_missing_values_are_named_by_their_row_in_the_file(tmp_path, galaxies):
    table = pytest.importorskip("astropy.table").Table(as_columns(*galaxies) | {"id": np.arange(N)}, masked=True)
    table["id"].mask[4] = table["y"].mask[7] = True
    path = tmp_path / "galaxies.ecsv"
    table.write(path)
    with pytest.raises(
        GalaxyFileError, match=r"x y z hold values that are missing.*1 rows, first in row 7 of the file"
    ):
        read_galaxies(path, select=["log_mass > 9.5"])
    found = read_galaxies(path, select=["id != 7"])  # a missing identifier is not another one
    assert len(found.positions) == N - 2
    table["y"].mask[7] = False
    table["galaxy_axisA_x"][3] = table["galaxy_axisA_y"][3] = table["galaxy_axisA_z"][3] = 0
    table.write(path, overwrite=True)
    with pytest.raises(GalaxyFileError, match="axes of length 0 in 1 rows, first in row 3"):
        read_galaxies(path)


def test_identifiers_are_compared_as_whole_numbers(tmp_path, galaxies):
    path = tmp_path / "galaxies.npz"
    np.savez(path, positions=galaxies[0], axes=galaxies[1], id=2**53 + np.arange(N))
    assert len(read_galaxies(path, select=[f"id == {2**53 + 1}"]).positions) == 1


@pytest.mark.parametrize(
    "column",
    [
        np.ones((N, 3)) * 1j,
        np.full((N, 3), "1.5"),
        np.ones((N, 2)),
        np.float64(1),
        np.ones((N, 3), bool),
        np.ones((5, 3)),
    ],
)
def test_columns_that_are_no_positions_are_named(tmp_path, galaxies, column):
    np.savez(tmp_path / "galaxies.npz", positions=column, axes=galaxies[1])
    with pytest.raises(GalaxyFileError, match="positions"):
        read_galaxies(tmp_path / "galaxies.npz")


@pytest.mark.filterwarnings("ignore::astropy.io.fits.verify.VerifyWarning")
@pytest.mark.parametrize("suffix", [".hdf5", ".npz", ".npy", ".fits"])
def test_files_cut_short_are_named(tmp_path, galaxies, suffix):
    path = write(tmp_path / f"galaxies{suffix}", galaxies)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(GalaxyFileError, match="galaxies"):
        read_galaxies(path)


@pytest.mark.parametrize(
    "change, message",
    [
        (dict(positions=np.ones((N, 2))), "three finite numbers"),
        (dict(axes=np.full((N, 3), np.nan)), "three finite numbers"),
        (dict(Lbox=0), "Lbox must be a number, above 0"),
        (dict(columns={"a": [1]}), "column a has shape"),
        (dict(columns={"a": [object()] * N}), "cannot be written as HDF5"),
        (dict(attributes={"a": object()}), "cannot be written as HDF5"),
    ],
)
def test_what_cannot_be_written_is_named_and_an_older_file_stays(tmp_path, galaxies, change, message):
    path = write(tmp_path / "galaxies.hdf5", galaxies)
    before = path.read_bytes()
    with pytest.raises(GalaxyFileError, match=message):
        write_galaxies(path, **(dict(positions=galaxies[0], axes=galaxies[1], Lbox=10.0) | change))
    assert path.read_bytes() == before and len(list(tmp_path.iterdir())) == 1
