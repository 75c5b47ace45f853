"""Halo catalogues whose columns have names of one's own: every format, parents, units, and what is refused."""

import numpy as np
import pytest
from astropy.table import Table

h5py = pytest.importorskip("h5py")

from iaemu_training.commands import iaemu_train  # noqa: E402
from iaemu_training.halos.catalogue import CatalogueError, HaloCatalogue, load_stated  # noqa: E402
from iaemu_training.halos.columns import COLUMNS  # noqa: E402

NAMES = {"id": "ID", "parent": "PARENT", "mass": "M", "positions": ["X", "Y", "Z"], "axes": ["AX", "AY", "AZ"]}


@pytest.fixture(scope="module")
def halos(pm40):
    """The halos of pm40 in random order; some sub-halos have a sub-halo as parent, and some of no host are added."""
    table = pm40.to_halotools().halo_table
    upid = np.array(table["halo_upid"])
    found = {
        "ID": np.array(table["halo_id"]) + 1000,
        "PARENT": np.where(upid == -1, -1, upid + 1000),
        "M": np.array(table["halo_mvir"]),
        **{name: np.array(table[f"halo_{name.lower()}"]) for name in "XYZ"},
        **{f"A{name}": np.array(table[f"halo_axisA_{name.lower()}"]) * 1.7 for name in "xyz"},
    }
    found = {key.upper(): values for key, values in found.items()}
    n = len(pm40.mass)
    # The second sub-halo of each host with two or more gets the first as its parent.
    first = n + pm40.first_subhalo[pm40.n_subhalos > 1]
    found["PARENT"][first + 1] = found["ID"][first]
    lost = {key: np.array(values[-5:]) for key, values in found.items()}
    lost["ID"], lost["PARENT"] = lost["ID"] + 50_000, np.full(5, 77_000_000)
    order = np.random.default_rng(1).permutation(len(upid) + 5)
    return {key: np.concatenate([values, lost[key]])[order] for key, values in found.items()}


def read(path, **options):
    return HaloCatalogue.read_columns(path, **{**NAMES, "Lbox": 40.0, **options})


def assert_same(found, wanted):
    np.testing.assert_allclose(found.mass, wanted.mass, rtol=1e-6)
    np.testing.assert_allclose(found.position, wanted.position, atol=1e-4)
    np.testing.assert_allclose(found.axis, wanted.axis, atol=1e-5)
    np.testing.assert_array_equal(found.n_subhalos, wanted.n_subhalos)
    np.testing.assert_allclose(found.offset, wanted.offset, atol=2e-4)


def write_csv(path, halos):
    Table(halos).write(path, format="ascii.csv", overwrite=True)


def test_every_format_gives_the_same_catalogue(halos, pm40, tmp_path):
    write_csv(tmp_path / "halos.csv", halos)
    Table(halos).write(tmp_path / "halos.fits")
    text = " ".join(halos)
    np.savetxt(tmp_path / "halos.txt", np.stack(list(halos.values()), axis=1), header=text, fmt="%.10g")
    np.savez(tmp_path / "halos.npz", **halos)
    with h5py.File(tmp_path / "halos.hdf5", "w") as file:
        for key in ("ID", "PARENT", "M"):
            file[f"Subhalo/{key}"] = halos[key]
        file["Subhalo/Pos"] = np.stack([halos[key] for key in "XYZ"], axis=1)
        file["Subhalo/Axis"] = np.stack([halos[f"A{key}"] for key in "XYZ"], axis=1)
        file["Group/ID"] = np.arange(3)  # other objects
        file.attrs.update(Lbox=40.0, redshift=0.25)
    for name in ("halos.csv", "halos.txt", "halos.fits", "halos.npz"):
        assert_same(read(tmp_path / name), pm40)
    found = read(tmp_path / "halos.hdf5", positions=["Pos"], axes=["Axis"], Lbox=None)
    assert_same(found, pm40)
    assert found.Lbox == 40 and found.attributes["redshift"] == 0.25
    assert "id = Subhalo/ID" in found.attributes["columns"]


def test_parents_of_hosts_units_and_ranks(halos, pm40, tmp_path):
    other = dict(halos)
    is_host = halos["PARENT"] == -1
    for parent, options in (
        (np.where(is_host, halos["ID"], halos["PARENT"]), {}),
        (np.where(is_host, 0, halos["PARENT"]), {"no_parent": 0}),
        (np.where(is_host, 0, halos["PARENT"]).astype(np.uint64), {"no_parent": 0}),
    ):
        np.savez(tmp_path / "h.npz", **{**other, "PARENT": parent})
        assert_same(read(tmp_path / "h.npz", **options), pm40)
    other = {key: values * 1000 if key in ("X", "Y", "Z") else values for key, values in halos.items()}
    other |= {"M": halos["M"] / 1e10, "VPEAK": np.log(halos["M"]), "Lbox": np.float64(40_000)}
    np.savez(tmp_path / "h.npz", **other)
    units = {"scale": 1e-3, "mass_scale": 1e10, "Lbox": None}
    assert_same(read(tmp_path / "h.npz", **units), pm40)
    ranked = read(tmp_path / "h.npz", **units, rank="VPEAK")  # by another quantity than a mass, in the same order
    assert_same(ranked, pm40)
    assert ranked.attributes["ranked_by"] == "VPEAK"
    reverse = read(tmp_path / "h.npz", **units, rank="Y")
    assert np.abs(reverse.offset - pm40.offset).max() > 0.01


def test_columns_that_follow_from_others(pm40, tmp_path):
    table = pm40.to_halotools().halo_table
    columns = {name: np.array(table[name]) for name in COLUMNS}
    few = {name: values for name, values in columns.items() if name not in COLUMNS[2:5]}
    few["halo_mvir"] = np.array(table["halo_mvir"])
    found = HaloCatalogue.from_columns(few, 40.0)
    assert found.sha256 == HaloCatalogue.from_columns(columns, 40.0).sha256
    with h5py.File(tmp_path / "few.hdf5", "w") as file:
        for name, values in few.items():
            file[f"halos/{name}"] = values
    assert HaloCatalogue.load(tmp_path / "few.hdf5", Lbox=40.0).sha256 == found.sha256
    del few["halo_mvir"]
    with pytest.raises(CatalogueError, match=r"lacks the column\(s\) halo_mvir_host_halo, halo_mpeak\."):
        HaloCatalogue.from_columns(few, 40.0)


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        ({}, {"Lbox": None}, "does not state the side of its box: give --lbox"),
        ({}, {"id": "halo_number"}, r"has no column halo_number \(--id\). It has: ID, PARENT, M"),
        ({}, {"axes": ["X", "Y", "Z"]}, "not isotropic: .* absolute values.*axes = X Y Z"),
        ({}, {"mass_scale": 1e-10}, r"largest of a host is 2.1e\+04. Those in 1e10 Msun/h .*--mass-scale 1e10"),
        ({"PARENT": 0}, {}, "no row has halo_upid = -1.* most frequent value is 0, in 11876 rows.*--no-parent 0"),
        ({"AX": 0, "AY": 0, "AZ": 0}, {}, "no host halo above 10.10.5 Msun/h has a major axis"),
        ({"R": 0}, {"rank": "R"}, "halo_mpeak is 0 for all 9660 sub-halos, so that they cannot be ranked"),
        ({"halo_mpeak": np.nan}, {}, "halo_mpeak has 11876 NaN"),
        ({"ID": 5}, {}, "id 5 belongs to more than one halo"),
        ({"ID": 0.5}, {}, "must hold whole numbers"),
        ({}, {"scale": 0.001}, "fill the box only from"),
        ({}, {"scale": 1000.0}, "lie outside the box"),
    ],
)
def test_what_is_refused(halos, tmp_path, change, options, message):
    changed = {key: np.full(len(halos["ID"]), value) for key, value in change.items()}
    np.savez(tmp_path / "h.npz", **{**halos, **changed})
    with pytest.raises(CatalogueError, match=message):
        read(tmp_path / "h.npz", **options)


def test_a_peak_mass_that_is_none_is_refused(pm40):
    table = pm40.to_halotools().halo_table
    columns = {name: np.array(table[name]) for name in COLUMNS}
    columns["halo_mpeak"] = columns["halo_mpeak"] ** (1 / 3) / 1e5  # radii
    with pytest.raises(CatalogueError, match=r"halo_mpeak of sub-halos is 0.*which are no masses in Msun/h"):
        HaloCatalogue.from_columns(columns, 40.0)
    assert len(HaloCatalogue.from_columns(columns, 40.0, attributes={"ranked_by": "radius"}).offset) == 9660


def test_pack_names_columns_and_states_what_the_file_does_not(halos, pm40, tmp_path, capsys):
    write_csv(tmp_path / "halos.csv", halos)
    packed = tmp_path / "packed.hdf5"
    argv = ["pack", str(tmp_path / "halos.csv"), "-o", str(packed), "--lbox", "40"]
    assert iaemu_train.main(argv) == 1
    error = capsys.readouterr().err
    assert "is not a catalogue of ROCKSTAR" in error and "name them: iaemu train pack FILE --id COLUMN" in error
    words = "--id ID --parent PARENT --mass M --positions X Y Z --axes AX AY AZ --redshift 0.5 --cosmology Om=0.3"
    assert iaemu_train.main([*argv, *words.split()]) == 0
    assert "give --particle-mass" in capsys.readouterr().out
    assert iaemu_train.main([*argv, *words.split(), "--particle-mass", "2.6e9"]) == 0
    text = capsys.readouterr().out
    assert "positions = X Y Z, axes = AX AY AZ, id = ID" in text and "particle mass" not in text
    found = HaloCatalogue.load(packed)
    assert_same_but_for_packing(found, pm40)
    assert {key: found.attributes[key] for key in ("redshift", "Om0", "h", "particle_mass")} == {
        **{"redshift": 0.5, "Om0": 0.3, "h": 0.678, "particle_mass": 2.6e9}
    }
    # Of a catalogue that needs no names, attributes are replaced; its side is not.
    again = ["pack", str(packed), "-o", str(tmp_path / "again.hdf5"), "--redshift", "0"]
    assert iaemu_train.main(again) == 0
    assert HaloCatalogue.load(tmp_path / "again.hdf5").attributes["redshift"] == 0
    assert iaemu_train.main([*again, "--lbox", "50"]) == 1
    assert "states the side of its box, 40 Mpc/h" in capsys.readouterr().err


def test_a_catalogue_that_tables_name_but_that_is_a_file_is_asked_for(pm40):
    assert load_stated("pm40").sha256 == pm40.sha256
    with pytest.raises(CatalogueError, match=r"made from mybox, .* Give the files of all .* with -c \(--catalogue\)"):
        load_stated("mybox")


def assert_same_but_for_packing(found, wanted):
    np.testing.assert_array_equal(found.n_subhalos, wanted.n_subhalos)
    assert np.abs(found.position - wanted.position).max() < 40 / 2**16
    assert np.abs(found.offset - wanted.offset).max() < 1e-3
