"""Halo catalogues: what is read, refused, ordered and packed."""

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
