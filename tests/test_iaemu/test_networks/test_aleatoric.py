"""Uncertainties of the default emulator: scaling, rebinning, gradients, files."""

import numpy as np
import pytest
import torch

from iaemu.binning import TNG_EDGES
from iaemu.models.factorised import Emulator
from iaemu.prediction import STATISTICS

POINT = dict(mu_cen=0.8, mu_sat=0.3, logMmin=12.54, sigma_logM=0.26, logM0=12.68, logM1=13.48, alpha=1.0)


@pytest.fixture(scope="module")
def emulator():
    return Emulator.load()


def test_prediction_is_the_same_with_and_without(emulator):
    plain, full = emulator.predict(POINT), emulator.predict(POINT, uncertainties=True)
    for name in STATISTICS:
        np.testing.assert_array_equal(getattr(plain, name), getattr(full, name))
        for sigmas in (full.sigma_aleatoric, full.sigma_epistemic):
            assert sigmas[name].shape == full.xi.shape
            assert np.all(np.isfinite(sigmas[name]))
    assert plain.sigma_aleatoric is None and plain.sigma_epistemic is None


def test_only_what_was_asked_for(emulator):
    prediction = emulator.predict(POINT, statistics=("omega",), uncertainties=True)
    assert set(prediction.sigma_aleatoric) == set(prediction.sigma_epistemic) == {"omega"}


def test_aleatoric_variance_is_inverse_to_volume_and_epistemic_is_not(emulator):
    volume = emulator.aleatoric.volume
    assert volume == pytest.approx(sum(emulator.metadata["box_volumes"]))
    own = emulator.predict(POINT, uncertainties=True)
    other = emulator.predict(POINT, uncertainties=True, volume=4.0 * volume)
    for name in STATISTICS:
        np.testing.assert_allclose(other.sigma_aleatoric[name], 0.5 * own.sigma_aleatoric[name], rtol=1e-12)
        np.testing.assert_array_equal(other.sigma_epistemic[name], own.sigma_epistemic[name])
    with pytest.raises(ValueError, match=r"volume \[\(Mpc/h\)\^3\] must be a number, at least 1"):
        emulator.predict(POINT, uncertainties=True, volume=0.0)


def test_random_orientations_have_the_variance_of_independent_pairs(emulator):
    """Without alignment (e.r)^2 has the variance 4/45, and pairs that share few galaxies are independent."""
    unaligned = POINT | dict(mu_cen=0.0, mu_sat=0.0)
    prediction = emulator.predict(unaligned, uncertainties=True)
    pairs = emulator.expected_pairs(prediction)
    ratio = prediction.sigma_aleatoric["omega"] ** 2 * pairs / (4.0 / 45.0)
    assert np.all(ratio > 0.7)
    assert np.median(ratio[:8]) == pytest.approx(1.0, abs=0.35)


def test_epistemic_part_vanishes_where_the_prediction_is_exact(emulator):
    unaligned = POINT | dict(mu_cen=0.0, mu_sat=0.0)
    sigmas = emulator.predict(unaligned, uncertainties=True).sigma_epistemic
    np.testing.assert_array_equal(sigmas["omega"], 0.0)
    np.testing.assert_array_equal(sigmas["eta"], 0.0)
    assert np.all(sigmas["xi"] > 0)


def test_joining_bins_follows_the_correlation(emulator):
    known = emulator.aleatoric.r_edges
    edges = known[[0, 1, 4, 8]]
    joined = emulator.predict(POINT, edges, uncertainties=True)
    fine = emulator.predict(POINT, known, uncertainties=True)
    pairs = emulator.expected_pairs(fine)
    for first, last, b in ((0, 1, 0), (1, 4, 1), (4, 8, 2)):
        weight = pairs[first:last] / pairs[first:last].sum()
        sigma = fine.sigma_aleatoric["omega"][first:last]
        correlation = np.asarray(emulator.aleatoric.correlations["omega"])[first:last, first:last]
        expected = np.sqrt((weight * sigma) @ correlation @ (weight * sigma))
        assert joined.sigma_aleatoric["omega"][b] == pytest.approx(expected, rel=1e-10)
    # Nearly independent bins: the sigma of a sum is below any of its parts.
    assert joined.sigma_aleatoric["omega"][2] < fine.sigma_aleatoric["omega"][4:8].min()


def test_parts_of_a_bin_have_the_scatter_of_their_pairs(emulator):
    """Shape noise at small r: the variance times pairs hardly depends on the bins; more so for xi at large r."""
    edges = np.geomspace(0.1, 24.0, 41)
    halves, wholes = (emulator.predict(POINT, each, uncertainties=True) for each in (edges, edges[::2]))
    product = [value.sigma_aleatoric["omega"] ** 2 * emulator.expected_pairs(value) for value in (halves, wholes)]
    np.testing.assert_allclose(0.5 * (product[0][:10:2] + product[0][1:10:2]), product[1][:5], rtol=0.15)
    for name in ("omega", "eta"):
        narrow, wide = halves.sigma_aleatoric[name], wholes.sigma_aleatoric[name]
        assert np.all(np.isfinite(narrow)) and np.all(np.minimum(narrow[::2], narrow[1::2]) > 0.7 * wide)
    xi = [value.sigma_aleatoric["xi"] / (1 + value.xi) for value in (halves, wholes)]
    assert np.all(np.minimum(xi[0][::2], xi[0][1::2]) > 0.7 * xi[1])
    # Independent halves would have a standard deviation larger by 1.4; correlated ones have less.
    assert np.median(0.5 * (xi[0][30::2] + xi[0][31::2]) / xi[1][15:]) < 1.3


def test_batches_tensors_and_gradients(emulator):
    theta = emulator.support.sample(6, np.random.default_rng(1))
    batch = emulator.predict(theta.reshape(2, 3, 7), uncertainties=True)
    single = emulator.predict(theta[4], uncertainties=True)
    for name in STATISTICS:
        np.testing.assert_allclose(batch.sigma_aleatoric[name][1, 1], single.sigma_aleatoric[name], rtol=1e-10)
        np.testing.assert_allclose(batch.sigma_epistemic[name][1, 1], single.sigma_epistemic[name], rtol=1e-6)
    point = torch.tensor(theta[0], requires_grad=True)
    sigma = emulator.predict(point, TNG_EDGES[1:13], uncertainties=True).sigma_aleatoric["omega"]
    (gradient,) = torch.autograd.grad(sigma.sum(), point)
    step = 1e-5
    for column in range(7):
        shift = np.zeros(7)
        shift[column] = step
        above, below = (
            emulator.predict(theta[0] + s * shift, TNG_EDGES[1:13], uncertainties=True, support="warn") for s in (1, -1)
        )
        numeric = (above.sigma_aleatoric["omega"].sum() - below.sigma_aleatoric["omega"].sum()) / (2 * step)
        assert float(gradient[column]) == pytest.approx(numeric, rel=1e-4, abs=1e-9)


def test_rejected_points_have_no_uncertainty(emulator):
    outside = POINT | dict(logMmin=15.0)
    prediction = emulator.predict(outside, support="reject", uncertainties=True)
    assert np.isnan(prediction.sigma_aleatoric["xi"]).all() and np.isnan(prediction.sigma_epistemic["xi"]).all()


def test_an_emulator_without_says_so(emulator):
    bare = Emulator(emulator.network, emulator.nodes, dict(emulator.metadata))
    with pytest.raises(ValueError, match="has no uncertainties"):
        bare.predict(POINT, uncertainties=True)


def test_files_keep_them(emulator, tmp_path):
    emulator.save(tmp_path / "copy.safetensors")
    copy = Emulator.load(tmp_path / "copy.safetensors")
    own, again = (model.predict(POINT, uncertainties=True) for model in (emulator, copy))
    for name in STATISTICS:
        np.testing.assert_array_equal(own.sigma_aleatoric[name], again.sigma_aleatoric[name])
        np.testing.assert_array_equal(own.sigma_epistemic[name], again.sigma_epistemic[name])
