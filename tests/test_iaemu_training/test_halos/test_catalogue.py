"""Halo catalogues: what is read, refused, ordered and packed."""

import dataclasses
import warnings

import numpy as np
import pytest

h5py = pytest.importorskip("h5py")

from iaemu_training.halos.catalogue import (  # noqa: E402
    CatalogueError,
    HaloCatalogue,
    shipped_catalogues,
    subhalo_mass_bins,
)

L = 50.0


@pytest.fixture
def columns():
    """Three hosts and four sub-halos; host 11 has no axis; sub-halo 23 has no host."""
    table = dict(
        halo_id=[10, 11, 12, 20, 21, 22, 23],
        halo_upid=[-1, -1, -1, 12, 12, 11, 99],
        halo_hostid=[10, 11, 12, 12, 12, 11, 99],
        halo_mvir_host_halo=[3e12, 5e12, 2e12, 2e12, 2e12, 5e12, 1e12],
        halo_mpeak=[3e12, 5e12, 2e12, 1e10, 5e10, 1e11, 1e11],
        halo_x=[1.0, 2.0, 49.9, 0.1, 49.8, 2.1, 3.0],
        halo_y=[1.0, 2.0, 3.0, 3.1, 3.0, 2.0, 3.0],
        halo_z=[1.0, 2.0, 3.0, 3.0, 3.2, 2.0, 3.0],
        halo_axisA_x=[2.0, 0.0, 0.0, 1.0, 1.0, 1.0, 1.0],
        halo_axisA_y=[0.0, 0.0, 3.0, 0.0, 0.0, 0.0, 0.0],
        halo_axisA_z=[0.0, 0.0, 4.0, 0.0, 0.0, 0.0, 0.0],
    )
    return {key: np.array(value) for key, value in table.items()}


def write(path, columns, **attributes):
    with h5py.File(path, "w") as file:
        for key, value in columns.items():
            file[key] = value
        file.attrs.update(attributes)


def test_prepared_as_the_mock_model_does(columns):
    catalogue = HaloCatalogue.from_columns(columns, L)
    assert catalogue.mass.tolist() == [2e12, 3e12]  # ascending; the host without an axis is gone
    np.testing.assert_allclose(catalogue.axis, [[0, 0.6, 0.8], [1, 0, 0]])
    assert catalogue.n_subhalos.tolist() == [2, 0]  # sub-halos of removed or missing hosts are gone
    # By descending halo_mpeak, offsets across the periodic boundary.
    np.testing.assert_allclose(catalogue.offset, [[-0.1, 0.0, 0.2], [0.2, 0.1, 0.0]], atol=1e-12)


def test_a_missing_column_is_named(columns, tmp_path):
    del columns["halo_axisA_y"]
    write(tmp_path / "c.hdf5", columns, Lbox=L)
    with pytest.raises(CatalogueError, match=r"lacks the column\(s\) halo_axisA_y"):
        HaloCatalogue.load(tmp_path / "c.hdf5")


def test_a_position_outside_the_box_is_named(columns, tmp_path):
    write(tmp_path / "c.hdf5", columns, Lbox=40.0)
    with pytest.raises(CatalogueError, match=r"2 halos lie outside the box \[0, 40\].*halo_x = 49\.9 in row 2"):
        HaloCatalogue.load(tmp_path / "c.hdf5")


@pytest.mark.parametrize("side", [np.nan, -1.0, [50.0, 100.0, 50.0], "wide"])
def test_a_box_that_is_not_a_cube_is_refused(columns, side):
    with pytest.raises(CatalogueError, match="not the side of a cubic box"):
        HaloCatalogue.from_columns(columns, side)


def test_columns_of_different_lengths_and_double_ids_are_refused(columns):
    with pytest.raises(CatalogueError, match="differ in length"):
        HaloCatalogue.from_columns({**columns, "halo_x": columns["halo_x"][:-1]}, L)
    columns["halo_id"][2] = 10
    with pytest.raises(CatalogueError, match="halo_id 10 belongs to more than one host"):
        HaloCatalogue.from_columns(columns, L)


def test_nan_is_named(columns):
    columns["halo_y"][4] = np.nan
    with pytest.raises(CatalogueError, match="halo_y has 1 NaN or infinite values, first in row 4"):
        HaloCatalogue.from_columns(columns, L)


def test_missing_box_foreign_and_unknown_files(columns, tmp_path):
    write(tmp_path / "c.hdf5", columns)
    with pytest.raises(CatalogueError, match="no attribute Lbox"):
        HaloCatalogue.load(tmp_path / "c.hdf5")
    (tmp_path / "text.hdf5").write_text("not HDF5")
    with pytest.raises(CatalogueError, match="cannot be read as HDF5"):
        HaloCatalogue.load(tmp_path / "text.hdf5")
    with pytest.raises(CatalogueError, match="no catalogue file"):
        HaloCatalogue.load(tmp_path / "nothing.hdf5")


def test_an_unknown_name_gives_the_shipped_ones_and_the_download_command():
    pytest.importorskip("halotools")
    with pytest.raises(CatalogueError, match=r"(?s)pm160a, pm160b, pm40.*download_processed_halo_table\('nosuchsim'"):
        HaloCatalogue.load("nosuchsim")


def test_shipped_catalogues_are_the_documented_ones():
    assert set(shipped_catalogues()) == {"pm160a", "pm160b", "pm40"}


def test_packing_rounds_within_the_documented_steps_and_is_idempotent(pm40, tmp_path):
    rng = np.random.default_rng(5)
    shaken = HaloCatalogue(**{**vars(pm40), "position": rng.uniform(0, pm40.Lbox, pm40.position.shape)})
    shaken.write_packed(tmp_path / "a.hdf5")
    once = HaloCatalogue.load(tmp_path / "a.hdf5")
    apart = np.abs(once.position - shaken.position)
    assert np.minimum(apart, pm40.Lbox - apart).max() <= 0.5001 * pm40.Lbox / 2**16
    assert np.abs(once.offset - shaken.offset).max() <= 0.5001 * np.abs(shaken.offset).max() / (2**15 - 1)
    np.testing.assert_allclose(np.linalg.norm(once.axis, axis=1), 1.0)
    once.write_packed(tmp_path / "b.hdf5")
    assert HaloCatalogue.load(tmp_path / "b.hdf5").sha256 == once.sha256


def test_a_truncated_packed_file_is_refused(tmp_path):
    data = shipped_catalogues()["pm40"].read_bytes()
    (tmp_path / "cut.hdf5").write_bytes(data[: len(data) // 2])
    with pytest.raises(CatalogueError):
        HaloCatalogue.load(tmp_path / "cut.hdf5")


class TestPhysics:
    """pm40 in other units, or with another side."""

    def test_kiloparsecs_are_told_by_the_density_of_hosts(self, pm40):
        scaled = {key: 1000.0 * getattr(pm40, key) for key in ("Lbox", "position", "offset")}
        with pytest.raises(CatalogueError, match=r"as if all lengths were 972 times too large.*divide kpc/h by 1000"):
            dataclasses.replace(pm40, **scaled)
        with pytest.raises(CatalogueError, match="times too large"):
            dataclasses.replace(pm40, **{key: value / 1e6 for key, value in scaled.items()})  # Gpc/h

    def test_in_halotools_columns_too(self, pm40, tmp_path):
        pytest.importorskip("halotools")
        table = pm40.to_halotools().halo_table
        columns = {name: np.asarray(table[name]) for name in table.colnames}
        columns |= {name: 1000.0 * columns[name] for name in ("halo_x", "halo_y", "halo_z")}
        with pytest.raises(CatalogueError, match="times too large"):
            HaloCatalogue.from_columns(columns, 1000.0 * pm40.Lbox)

    @pytest.mark.parametrize("factor", [1.0 / 0.678, 2.0, 1000.0])
    def test_a_wrong_side_alone_leaves_part_of_the_box_empty(self, pm40, factor):
        with pytest.raises(CatalogueError, match=r"fill the box only from .* Give the side of the periodic box"):
            dataclasses.replace(pm40, Lbox=factor * pm40.Lbox)

    def test_a_part_of_a_box_is_refused(self, pm40):
        kept = pm40.position[:, 1] < 20.0
        with pytest.raises(CatalogueError, match=r"y = .* is not periodic"):
            HaloCatalogue(
                "half", 40.0, pm40.position[kept], pm40.mass[kept], pm40.axis[kept], 0 * pm40.n_subhalos[kept],
                np.zeros((0, 3)),
            )  # fmt: skip

    def test_masses_in_other_units(self, pm40):
        with pytest.raises(CatalogueError, match=r"but cosmologies near ours have .* at z = 0"):
            dataclasses.replace(pm40, mass=1e3 * pm40.mass)

    def test_sub_halos_far_from_their_hosts(self, pm40):
        offset = pm40.offset.copy()
        offset[7] = 15.0, 0.0, 0.0
        with pytest.warns(
            UserWarning, match=r"pm40: 1 sub-halos lie more than 5 .*, the farthest 15 Mpc/h from a host of"
        ):
            dataclasses.replace(pm40, offset=offset)
        with pytest.raises(CatalogueError, match=r"\d\d\.\d\d% of the sub-halos lie more than 5 virial radii"):
            dataclasses.replace(pm40, offset=9.0 * pm40.offset)

    def test_what_a_universe_can_be_passes(self, pm40):
        factor = 1.0 / 0.678  # Mpc for Mpc/h: this cannot be seen
        dataclasses.replace(pm40, **{key: factor * getattr(pm40, key) for key in ("Lbox", "position", "offset")})
        dataclasses.replace(pm40, mass=pm40.mass / 0.678)
        for redshift in (None, -0.002, 0.5, 1.0):
            dataclasses.replace(pm40, attributes={"redshift": redshift})
        massive = pm40.mass > 1e12
        few = dict(n_subhalos=0 * pm40.n_subhalos[massive], offset=np.zeros((0, 3)))
        dataclasses.replace(
            pm40, position=pm40.position[massive], mass=pm40.mass[massive], axis=pm40.axis[massive], **few
        )

    @pytest.mark.parametrize(
        "redshift, log_mass, low, high", [(0.0, 12.0, 3e-3, 6e-3), (0.0, 14.0, 1e-5, 6e-5), (2.0, 12.0, 1e-3, 3e-3)]
    )
    def test_the_mass_function_is_that_of_planck(self, redshift, log_mass, low, high):
        """Tinker et al. 2008 for Planck: n(> 1e12) = 4.2e-3, n(> 1e14) = 2.5e-5 at z = 0 (COLOSSUS, hmf)."""
        from iaemu_training.halos.checks import density_range

        least, most = density_range(np.array([10.0**log_mass]), redshift)
        assert low * 0.5 < least[0] < most[0] < high * 2.0
        assert np.sqrt(least[0] * most[0]) > low

    def test_the_summary_states_the_units_assumed(self, pm40):
        assert "Msun/h in a box of 40 Mpc/h (units as assumed" in str(pm40)


class TestArrays:
    @pytest.mark.parametrize(
        "change, what",
        [
            (lambda c: {"mass": np.where(np.arange(len(c.mass)) == 3, np.nan, c.mass)}, "mass must be positive.*row 3"),
            (lambda c: {"mass": -c.mass}, "mass must be positive"),
            (lambda c: {"mass": c.mass[::-1]}, "ascending"),
            (lambda c: {"offset": c.offset[:-1]}, r"offset has shape \(9659, 3\), but 2211 hosts with 9660 sub-halos"),
            (lambda c: {"position": c.position + 1.0}, r"position must be within \[0, 40\)"),
            (lambda c: {"axis": 0.0 * c.axis}, "axis must be unit vectors"),
            (lambda c: {"n_subhalos": c.n_subhalos.astype(float)}, "n_subhalos must hold whole numbers"),
            (lambda c: {"Lbox": np.nan}, "Lbox"),
            (lambda c: {"attributes": {"redshift": "soon"}}, "the attribute redshift must be a number"),
            (
                lambda c: {"attributes": {"particle_mass": -1.0}},
                "the attribute particle_mass must be a number, above 0",
            ),
        ],
    )
    def test_what_is_not_as_described_is_named(self, pm40, change, what):
        with pytest.raises(CatalogueError, match=what):
            dataclasses.replace(pm40, **change(pm40))


class TestSeal:
    @pytest.fixture
    def packed(self, pm40, tmp_path):
        pm40.write_packed(tmp_path / "packed.hdf5")
        return tmp_path / "packed.hdf5"

    def test_shipped_catalogues_are_sealed_and_what_they_were(self, pm40):
        """Hashes that the shipped tables, emulators and box errors refer to."""
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            hashes = [HaloCatalogue.load(name).sha256[:16] for name in ("pm160a", "pm160b", "pm40")]
        assert hashes == ["e5dc01fdf03a702a", "5c18b18f911af80d", "1464ab61c66137d8"]

    @pytest.mark.parametrize(
        "edit",
        [
            lambda file: file["mass"].write_direct(np.float32([3.4e10]), dest_sel=np.s_[0:1]),
            lambda file: file["offset"].write_direct(np.int16([[5, 5, 5]]), dest_sel=np.s_[8:9]),
            lambda file: file.attrs.update(offset_reach=1.1),
            lambda file: file.attrs.update(attribute_redshift=0.5),
            lambda file: file.attrs.update(name="pm41"),
            lambda file: file.attrs.pop("sha256"),
        ],
    )
    def test_an_edited_file_is_refused(self, packed, edit):
        with h5py.File(packed, "r+") as file:
            edit(file)
        with pytest.raises(CatalogueError, match=r"not as it was packed.*SHA-256"):
            HaloCatalogue.load(packed)

    def test_a_file_of_an_earlier_version_is_checked_and_read_with_a_warning(self, packed, tmp_path):
        whole = HaloCatalogue.load(packed)
        with h5py.File(packed, "r+") as file:
            file.attrs["format"] = "iaemu-packed-halos-1"
            del file.attrs["sha256"]
        with pytest.warns(UserWarning, match="earlier version and states no SHA-256.*Pack it again"):
            old = HaloCatalogue.load(packed)
        assert old.sha256 == whole.sha256
        old.write_packed(tmp_path / "sealed.hdf5")  # which iaemu-train pack does
        assert HaloCatalogue.load(tmp_path / "sealed.hdf5").sha256 == whole.sha256
        with h5py.File(packed, "r+") as file:
            file["mass"][5] = np.nan
        with pytest.warns(UserWarning), pytest.raises(CatalogueError, match="mass must be positive"):
            HaloCatalogue.load(packed)

    def test_packing_onto_itself_is_refused(self, packed, capsys):
        pytest.importorskip("torch")
        from iaemu_training.commands.iaemu_train import main

        before = packed.read_bytes()
        assert main(["pack", str(packed), str(packed)]) == 1
        assert "is the catalogue itself" in capsys.readouterr().err and packed.read_bytes() == before


class TestRounding:
    @pytest.mark.parametrize("x, wrapped", [(-1e-5, 49.99999), (L, 0.0), (L * (1 + 1e-7), 5e-6), (-1e-18, 0.0)])
    def test_a_rounding_outside_the_box_is_wrapped_with_a_note(self, columns, x, wrapped):
        columns["halo_x"][0] = x
        with pytest.warns(UserWarning, match="1 halos lie outside the box .* by rounding, .* first row 0"):
            catalogue = HaloCatalogue.from_columns(columns, L)
        assert catalogue.position[1, 0] == pytest.approx(wrapped, abs=1e-9)
        assert np.all((catalogue.position >= 0) & (catalogue.position < L))

    def test_more_is_an_error_with_the_remedy(self, columns):
        columns["halo_x"][0] = -0.1
        with pytest.raises(CatalogueError, match=r"halo_x = -0\.1 in row 0.*numpy\.mod"):
            HaloCatalogue.from_columns(columns, L)


class TestForms:
    """What people have, with the same catalogue in it."""

    def same(self, catalogue, columns):
        return catalogue.sha256 == HaloCatalogue.from_columns(columns, L).sha256

    def test_tables_groups_and_other_ids(self, columns, tmp_path):
        from astropy.table import Table

        unsigned = {name: columns[name].astype(np.uint64) for name in ("halo_id", "halo_upid", "halo_hostid")}
        assert unsigned["halo_upid"][0] == 2**64 - 1
        assert self.same(HaloCatalogue.from_columns({**columns, **unsigned}, L), columns)
        assert self.same(HaloCatalogue.from_columns(Table(columns), [L, L, L]), columns)
        assert self.same(HaloCatalogue.from_columns(Table(columns, masked=True), L), columns)
        assert self.same(HaloCatalogue.from_columns(Table(columns).as_array(), L), columns)
        with h5py.File(tmp_path / "group.hdf5", "w") as file:
            for name, values in columns.items():
                file[f"z0/halos/{name}"] = values
            file["z0"].attrs["Lbox"] = np.full(3, np.float32(L))
            file["other/halo_x"] = np.zeros(3)
        assert self.same(HaloCatalogue.load(tmp_path / "group.hdf5"), columns)

    def test_a_cache_file_of_halotools_by_path(self, columns, tmp_path):
        from astropy.table import Table

        path = tmp_path / "sim.rockstar.z0.0000.halotools_v0p4.hdf5"
        with h5py.File(path, "w") as file:
            file["data"] = Table(columns).as_array()
            file.attrs.update(Lbox=np.full(3, L), particle_mass=1e8, simname=np.bytes_("sim"))
            file.attrs.update(redshift=np.bytes_("0.0000"), halo_mpeak_row_cut_min=3e10)
        read = HaloCatalogue.load(path)
        assert self.same(read, columns) and read.name == "sim"
        assert read.attributes["redshift"] == 0.0 and read.attributes["min_mass"] == 3e10

    def test_the_box_of_tng_is_in_kpc(self, columns, tmp_path):
        write(tmp_path / "tng.hdf5", columns)
        with h5py.File(tmp_path / "tng.hdf5", "r+") as file:
            file.create_group("Header").attrs["BoxSize"] = 1000 * L
        read = HaloCatalogue.load(tmp_path / "tng.hdf5")
        assert self.same(read, columns) and "taken as kpc/h, as TNG has it" in read.attributes["Lbox_from"]
        with h5py.File(tmp_path / "tng.hdf5", "r+") as file:
            file["Header"].attrs["BoxSize"] = L
        with pytest.raises(CatalogueError, match=r"outside the box.*\(Lbox is Header/BoxSize = 50\.0, taken as kpc/h"):
            HaloCatalogue.load(tmp_path / "tng.hdf5")

    def test_two_catalogues_in_a_file_are_named(self, columns, tmp_path):
        with h5py.File(tmp_path / "two.hdf5", "w") as file:
            for name, values in columns.items():
                file[f"z0/{name}"] = file[f"z1/{name}"] = values
            file.attrs["Lbox"] = L
        with pytest.raises(CatalogueError, match="several catalogues, in z0 and z1"):
            HaloCatalogue.load(tmp_path / "two.hdf5")

    def test_columns_of_two_tables_are_not_mixed(self, columns, tmp_path):
        with h5py.File(tmp_path / "mixed.hdf5", "w") as file:
            for name, values in columns.items():
                file[f"{'shapes' if 'axis' in name else 'halos'}/{name}"] = values
            file.attrs["Lbox"] = L
        with pytest.raises(
            CatalogueError, match=r"lacks the column\(s\) halo_axisA_x.* in halos.*shapes has halo_axisA_x"
        ):
            HaloCatalogue.load(tmp_path / "mixed.hdf5")

    @pytest.mark.parametrize(
        "change, what",
        [
            (lambda v: np.ma.array(v, mask=v == 12), "halo_id has 1 missing .masked. values, first in row 2"),
            (lambda v: v + 0.5, r"halo_id must hold whole numbers.*10\.5 \(float64\) in row 0"),
            (lambda v: v + 2.0**60, "Store ids as 64-bit integers"),
            (lambda v: v.astype(str), "halo_id must hold real numbers, but holds <U"),
            (lambda v: v.astype(complex), "holds complex128"),
            (lambda v: v[:, None], r"has shape \(7, 1\)"),
            (lambda v: 3, r"has shape \(\)"),
        ],
    )
    def test_columns_of_other_kinds_are_named(self, columns, change, what):
        with pytest.raises(CatalogueError, match=what):
            HaloCatalogue.from_columns({**columns, "halo_id": change(columns["halo_id"])}, L)

    def test_what_is_no_catalogue_is_named(self, columns, tmp_path):
        np.savez(tmp_path / "halos.npz", **columns)
        with pytest.raises(CatalogueError, match=r"neither HDF5 nor text: it begins with 'PK"):
            HaloCatalogue.load(tmp_path / "halos.npz")
        with pytest.raises(CatalogueError, match="is a folder"):
            HaloCatalogue.load(tmp_path)
        for name in (None, 3, "", "x" * 5000 + "/y", "\0"):
            with pytest.raises(CatalogueError):
                HaloCatalogue.load(name)


def test_what_halotools_is_given_comes_back_the_same(pm40):
    pytest.importorskip("halotools")
    table = pm40.to_halotools().halo_table
    names = [name for name in table.colnames if name.startswith("halo_")]
    again = HaloCatalogue.from_columns({name: np.asarray(table[name]) for name in names}, pm40.Lbox)
    np.testing.assert_array_equal(again.n_subhalos, pm40.n_subhalos)
    np.testing.assert_allclose(again.offset, pm40.offset, atol=1e-9)
    np.testing.assert_array_equal(again.mass, pm40.mass)


def test_host_masses_outside_the_coarse_bins_are_refused():
    with pytest.raises(CatalogueError, match=r"must lie between 10\^10.5 and 10\^15.2"):
        subhalo_mass_bins([12.0, 15.5], [12.0, 12.0])
