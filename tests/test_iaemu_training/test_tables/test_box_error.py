"""Pair sums by region against brute force, and the box error that is made of them."""

import numpy as np
import pytest
import torch
from scipy.special import erf
from scipy.stats import poisson

pytest.importorskip("numba")

from iaemu.artifact import ArtifactError
from iaemu.models.box_error import BoxError
from iaemu.models.tables import TabulatedModel
from iaemu_training.halos.catalogue import CatalogueError, HaloCatalogue
from iaemu_training.pairs.tracers_by_region import region_of_hosts
from iaemu_training.tables.box_error import BoxErrorSettings, count_directly, direct_deviations, make_box_error
from iaemu_training.work.parts import PartsError

THETA = np.array([12.4, 0.2, 12.3, 13.3, 1.0])
EDGES = np.array([0.1, 0.4, 1.0, 3.0, 8.0, 15.0])
SMALL = BoxErrorSettings(per_side=2, mode_samples=256, n_held_out=4)
NAMES = ("DD", "A_c", "A_s", "E_cc", "E_cs", "E_ss")


@pytest.fixture(scope="module")
def box_error(pm40, pm40_tables, tmp_path_factory):
    return make_box_error([pm40], pm40_tables, tmp_path_factory.mktemp("box") / "parts", SMALL, progress=False)


def brute_force(catalogue, theta, r_edges, use):
    """Expected sums (6, n_bins) over ordered pairs whose first member's host is in ``use`` (no borrowing)."""
    logMmin, sigma, logM0, logM1, alpha = theta
    ncen = 0.5 * (1.0 + erf((catalogue.log_mass - logMmin) / sigma))
    nsat = (np.maximum(catalogue.mass - 10**logM0, 0.0) / 10**logM1) ** alpha
    host = catalogue.subhalo_host
    rank = np.arange(len(host)) - catalogue.first_subhalo[host] + 1
    tail = poisson.sf(rank - 1, nsat[host])
    hosting, used = np.flatnonzero(ncen > 1e-7), tail > 1e-7
    position = np.concatenate([catalogue.position[hosting], catalogue.position[host[used]] + catalogue.offset[used]])
    radial = catalogue.offset[used] / np.linalg.norm(catalogue.offset[used], axis=1, keepdims=True)
    axis = np.concatenate([catalogue.axis[hosting], radial])
    weight = np.concatenate([ncen[hosting], tail[used]])
    owner = np.concatenate([hosting, host[used]])
    satellite = np.repeat([False, True], [len(hosting), used.sum()])
    sums = np.zeros((6, len(r_edges) - 1))
    for i in np.flatnonzero(use[owner]):
        d = position - position[i]
        d -= catalogue.Lbox * np.round(d / catalogue.Lbox)
        r = np.linalg.norm(d, axis=1)
        r[i] = 0.0
        where = np.searchsorted(r_edges, r) - 1
        j = np.flatnonzero((where >= 0) & (where < len(r_edges) - 1))
        together = weight[i] * weight[j]
        same = (owner[j] == owner[i]) & satellite[i] & satellite[j]
        together[same] = np.minimum(weight[i], weight[j][same])
        omega = (d[j] @ axis[i] / r[j]) ** 2 - 1 / 3
        eta = (axis[j] @ axis[i]) ** 2 - 1 / 3
        np.add.at(sums[0], where[j], together)
        np.add.at(sums[2 if satellite[i] else 1], where[j], together * omega)
        for row, members in ((3, ~satellite[j] & ~satellite[i]), (5, satellite[j] & satellite[i])):
            np.add.at(sums[row], where[j[members]], (together * eta)[members])
        mixed = satellite[j] != satellite[i]
        np.add.at(sums[4], where[j[mixed]], 0.5 * (together * eta)[mixed])
    return sums


def test_sums_without_a_region_are_those_counted_without_its_galaxies(pm40):
    found = count_directly(pm40, THETA, 2, EDGES)
    regions = region_of_hosts(pm40, 2)
    for left_out in (0, 5):
        expected = brute_force(pm40, THETA, EDGES, regions != left_out)
        assert expected[0].min() > 1  # pairs in every bin
        for name, values in zip(NAMES, expected, strict=True):
            rest = found[name].sum(axis=0) - found[name][left_out]
            np.testing.assert_allclose(rest, values, rtol=1e-5, atol=1e-5 * expected[0].max(), err_msg=name)
            np.testing.assert_allclose(rest, values, rtol=1e-3, atol=1e-5, err_msg=name)


def test_regions_share_out_the_pairs_of_the_tables(pm40, pm40_tables):
    edges = pm40_tables.r_edges
    found = count_directly(pm40, THETA, 2, edges)
    sums = pm40_tables.sums(THETA[None])
    for name in NAMES:
        whole = getattr(sums, name)[0].numpy()
        # Relative to DD, since at large r some sums nearly vanish.
        limit = 0.01 * np.abs(whole) + 0.01 * np.abs(whole).max() + 1e-4 * sums.DD[0].numpy()
        assert np.all(np.abs(found[name].sum(axis=0) - whole) < limit), name


def test_standard_errors_follow_direct_counts_at_held_out_points(box_error):
    for name, ratio in box_error.metadata["held_out"]["sigma_ratio"].items():
        assert 0.9 < ratio["median"] < 1.1, name
        assert 0.6 < ratio["p5"] and ratio["p95"] < 1.8, name


def test_coarser_bins_are_those_of_summed_pairs(pm40, box_error):
    edges = box_error.r_edges[[0, 7, 15, 24, 30]]
    boxes = [count_directly(pm40, THETA, 2, edges)]
    direct = direct_deviations(boxes, edges, [pm40.Lbox], 2)
    found = box_error.deviations(torch.as_tensor(THETA)[None], edges)
    for name, value in direct.items():
        guess = found[name][0].numpy()
        size, expected = (np.linalg.norm(x, axis=0) for x in (guess, value))
        used = expected > 1e-3 * expected.max()  # no pairs of centrals at small r
        assert np.all((np.sum(guess * value, axis=0) > 0.9 * size * expected)[used]), name
        np.testing.assert_allclose(size[used], expected[used], rtol=0.35, err_msg=name)


def test_deviations_add_up_to_nothing(box_error):
    for name, value in box_error.deviations(torch.as_tensor(THETA)[None]).items():
        assert torch.all(value.sum(dim=1).abs() < 1e-10 * value.abs().sum(dim=1) + 1e-15), name


def test_tables_take_the_box_error_of_their_own_catalogues_only(box_error, pm40_tables, tmp_path):
    tables = TabulatedModel(pm40_tables._tensors, pm40_tables.metadata)
    theta = np.concatenate([[0.8, 0.3], THETA])
    assert tables.n_deviations == 0  # the shipped box error is of other boxes
    with pytest.raises(ValueError, match="iaemu train box-error"):
        tables.deviations(theta)
    with pytest.raises(ValueError, match="iaemu train box-error"):
        tables.at_occupation(THETA).deviations(torch.zeros(1, 2))
    box_error.save(tmp_path / "box.safetensors")
    tables.box_error = BoxError.load(tmp_path / "box.safetensors")
    assert tables.n_deviations == 8
    assert tables.deviations(theta)["omega"].shape == (8, len(tables.r_edges) - 1)
    wider = {**tables.metadata, "support": {**tables.metadata["support"], "logMmin": [11.4, 12.8]}}
    with pytest.raises(ArtifactError, match="logMmin"):
        TabulatedModel(pm40_tables._tensors, wider).box_error = box_error
    with pytest.raises(ArtifactError, match="pm40"):
        TabulatedModel.load().box_error = box_error


def test_other_catalogues_and_regions_too_small_are_refused(pm40, pm40_tables, tmp_path):
    with pytest.raises(CatalogueError, match="pm40"):
        make_box_error([pm40, pm40], pm40_tables, tmp_path / "parts", SMALL)
    with pytest.raises(ValueError, match=r"at most 2 regions along a side \(--per-side 2\)"):
        make_box_error([pm40], pm40_tables, tmp_path / "parts", BoxErrorSettings(per_side=3))


def test_finished_regions_are_gone_on_with_and_other_settings_refused(pm40, pm40_tables, box_error, tmp_path):
    few = BoxErrorSettings(per_side=2, mode_samples=64, n_held_out=0, n_central=4, n_satellite=6)
    first = make_box_error([pm40], pm40_tables, tmp_path / "parts", few, progress=False)
    part = tmp_path / "parts" / "0-3.npz"
    part.unlink()
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "parts").glob("*.npz")}
    again = make_box_error([pm40], pm40_tables, tmp_path / "parts", few, progress=False)
    assert part.exists() and all(path.stat().st_mtime_ns == time for path, time in times.items())
    for name, value in first._tensors.items():
        np.testing.assert_array_equal(again._tensors[name], value)
    with pytest.raises(PartsError, match="settings"):
        make_box_error([pm40], pm40_tables, tmp_path / "parts", SMALL, progress=False)


def test_the_catalogue_is_not_changed(pm40, box_error):
    assert pm40.sha256 == HaloCatalogue.load("pm40").sha256 == box_error.metadata["catalogue_sha256"][0]
