"""Measurements by name, and the shipped figures of TNG300 and of surveys."""

import numpy as np
import pytest

from iaemu import measurement
from iaemu.measurement import check_covariance
from iaemu_cobaya import Measurement
from iaemu_cobaya.likelihoods.data_files import packaged_names, resolve

EDGES = {14: np.logspace(-1, 1.5, 15), 19: np.logspace(-1, 1.4, 20)}

# statistic, value and error of the first and of the last bin, as published
PUBLISHED = {
    "tng300/sample1": {
        "xi": (1897.4714583803736, 1068.8519441363278, 0.06659643544785276, 0.015828233222437274),
        "omega": (0.07925523255267208, 0.007472666053440515, 0.004017586754466174, 0.0007958062733846809),
        "eta": (0.03529337513748265, 0.012399837827128756, 0.00012505405734059005, 0.0002289638581366619),
    },
    "tng300/sample3": {
        "omega": (0.012106390398007483, 0.001487687792913839, 0.00048105461663916493, 0.00023204205386184173),
    },
    "tng300/sample3_19bins": {
        "omega": (0.013665541574007527, 0.0023492741180958857, 0.0006297134963922062, 0.0002678755784544332),
    },
    # of w in Mpc/h
    "surveys/lowz": {
        "w_gg": (2169.2802450639306, 35.413150157776, -0.09584201323895, 0.26845857697630),
        "w_gplus": (24.7147627956875, 1.14582390807, 0.0144332982327, 0.0182724170738),
    },
    "surveys/gama_red": {
        "w_gg": (663.88783958, 35.37334872471081, 6.33186596, 5.534767363022496),
        "w_gplus": (4.383363281225075, 1.392091451663751, 0.1973488443271119, 0.04533743894296750),
    },
    "tng300/projected": {
        "w_gg": (218.1643390852498, 4.28044573402, 0.8566900581895158, 1.15500000780),
        "w_gplus": (2.790038474851196, 0.1362390629280, 0.01074527287423335, 0.00753172554671),
    },
}

#: Of projected statistics: limits of r_p of the bins of w_gg, pi_max and the range of r_p that the fits use [Mpc/h].
SAMPLES = ("tng300/sample1", "tng300/sample2", "tng300/sample3", "tng300/sample3_19bins")
PROJECTED = {
    "surveys/gama_red": (np.logspace(-1, np.log10(60), 12), 60.0, (0.0, 60.0)),
    "surveys/lowz": (np.logspace(-1, np.log10(200), 21), 100.0, (0.3, 30.0)),
    "tng300/projected": (np.logspace(-1, np.log10(68), 13)[:-1], 68.0, (0.0, 68.0)),
}


def test_packaged_measurements_are_those_of_tng300_and_of_surveys():
    assert packaged_names() == sorted([*SAMPLES, *PROJECTED])


@pytest.mark.parametrize("name", SAMPLES)
def test_packaged_measurements_hold_all_published_bins_and_their_source(name):
    data = Measurement.read(name)
    assert set(data.statistics) == {"xi", "omega", "eta"}
    for bins in data.bins.values():
        edges = EDGES[len(bins)]
        assert np.allclose(bins.r_low, edges[:-1], rtol=1e-10)
        assert np.allclose(bins.r_high, edges[1:], rtol=1e-10)
    assert "b90f4999" in data.metadata["source"]
    assert data.metadata["redshift"] == 0


@pytest.mark.parametrize("name", PUBLISHED)
def test_first_and_last_bins_are_as_published(name):
    data = Measurement.read(name)
    for statistic, (first, first_error, last, last_error) in PUBLISHED[name].items():
        bins = data.bins[statistic]
        assert bins.value[[0, -1]] == pytest.approx([first, last], rel=1e-10)
        assert bins.error[[0, -1]] == pytest.approx([first_error, last_error], rel=1e-10)


@pytest.mark.parametrize("name", PROJECTED)
def test_projected_statistics_have_bins_errors_and_a_source(name):
    data = Measurement.read(name)
    edges, pi_max, _ = PROJECTED[name]
    assert data.statistics == ("w_gg", "w_gplus")
    assert np.allclose(data.bins["w_gg"].r_low, edges[:-1], rtol=1e-10)
    assert np.allclose(data.bins["w_gg"].r_high, edges[1:], rtol=1e-10)
    assert data.metadata["pi_max"] == pi_max
    assert "arXiv:" in data.metadata["reference"] and "repository" in data.metadata["source"]
    for statistic, bins in data.bins.items():
        assert np.all(bins.value[bins.r < 20] > 0)  # radial alignment is positive
        assert data.covariance_of(statistic) is not None


@pytest.mark.parametrize("name", PROJECTED)
def test_covariances_of_projected_statistics_are_positive_definite_in_the_range_of_fits(name):
    data = Measurement.read(name)
    low, high = PROJECTED[name][2]
    for covariance in data.covariances:
        bins = [data.bins[statistic] for statistic in covariance.statistics]
        used = np.concatenate([(entry.r_low >= low) & (entry.r_high <= high) for entry in bins])
        assert used.sum() >= 11
        check_covariance(covariance.matrix[np.ix_(used, used)], name)
        assert covariance.n_regions is None  # two are analytic; the regions of the third are not known


@pytest.mark.parametrize(("name", "n_bins", "n_regions"), [("sample3", 14, 27), ("sample3_19bins", 19, 125)])
def test_sample_3_has_the_covariance_of_omega_from_regions(name, n_bins, n_regions):
    data = Measurement.read(f"tng300/{name}")
    covariance = data.covariance_of("omega")
    assert covariance.matrix.shape == (n_bins, n_bins)
    assert covariance.n_regions == n_regions
    assert np.sqrt(np.diag(covariance.matrix)) == pytest.approx(data.bins["omega"].error, rel=1e-9)
    assert data.covariance_of("xi") is None


def test_a_file_and_its_packaged_name_give_the_same(tmp_path):
    by_path = Measurement.read(resolve("tng300/sample3"))
    generic = measurement.Measurement.read(resolve("tng300/sample3"))
    by_name = Measurement.read("tng300/sample3")
    assert by_name.name == "tng300/sample3"
    for other in (by_path, generic):
        assert other.metadata == by_name.metadata
        assert np.array_equal(other.bins["omega"].value, by_name.bins["omega"].value)
        assert np.array_equal(other.covariances[0].matrix, by_name.covariances[0].matrix)
    assert not isinstance(generic, Measurement)


def test_missing_file_lists_what_is_packaged(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nothing\.txt.*tng300/sample1"):
        resolve(tmp_path / "nothing.txt")
