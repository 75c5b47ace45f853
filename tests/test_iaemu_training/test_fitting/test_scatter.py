"""Aleatoric scatter: measured, fitted, and drawn from."""

import numpy as np
import pytest
import torch

pytest.importorskip("h5py")

from iaemu.binning import PAPER_EDGES, nesting_matrix
from iaemu.models.factorised import Emulator
from iaemu.networks.aleatoric import AleatoricNet
from iaemu.prediction import STATISTICS
from iaemu_training.dataset.file import SPLITS, Dataset, DatasetError
from iaemu_training.fitting.scatter import ScatterSettings, fit_scatter, measure_scatter, training_arrays

QUICK = ScatterSettings(steps=150, n_members=2, width=32)


@pytest.fixture(scope="module")
def mocks():
    return Dataset("calibration-pm160")


@pytest.fixture(scope="module")
def emulator():
    return Emulator.load()


@pytest.fixture(scope="module")
def fitted(emulator, mocks):
    return fit_scatter(emulator, mocks, QUICK, progress=False)


def test_measured_scatter_is_the_sample_variance(mocks):
    row = 3
    scatter = measure_scatter(mocks, [row], PAPER_EDGES)
    realisations = mocks.realisations(row)
    full = np.all(realisations.DD > 0, axis=0)
    for name in STATISTICS:
        expected = getattr(realisations, name).var(axis=0, ddof=1)
        np.testing.assert_allclose(scatter.variance[name][0, full], expected[full], rtol=1e-10)
        assert np.all(scatter.dof[name][0, full] == 9)


def test_bins_with_too_few_mocks_are_not_used(mocks):
    row = int(np.argmax(mocks.read("mocks/n_empty").max(axis=1)))
    n_empty = np.sum(mocks.realisations(row).DD == 0, axis=0)
    scatter = measure_scatter(mocks, [row], PAPER_EDGES)
    np.testing.assert_array_equal(scatter.dof["omega"][0] == 0, n_empty > 5)
    assert np.isnan(scatter.variance["omega"][0, n_empty > 5]).all()


def test_fit_beats_a_constant_factor_and_is_reproducible(emulator, mocks, fitted):
    aleatoric, report = fitted
    assert report["loss_validation"] < report["loss_validation_constant"] - 0.1
    again, _ = fit_scatter(emulator, mocks, QUICK, progress=False)
    for name, array in aleatoric.to_arrays().items():
        np.testing.assert_array_equal(array, again.to_arrays()[name])
    assert aleatoric.volume == pytest.approx(2 * 160.0**3)


def test_correlations_are_correlations(fitted):
    aleatoric, _ = fitted
    for matrix in aleatoric.correlations.values():
        np.testing.assert_allclose(np.diag(matrix), 1.0)
        np.testing.assert_allclose(matrix, matrix.T, atol=1e-12)
        assert np.linalg.eigvalsh(matrix).min() > 0
    # Number density moves all of xi together; shape noise does not.
    xi, omega = (aleatoric.correlations[name] for name in ("xi", "omega"))
    assert np.mean(xi[24:, 24:]) > np.mean(omega[24:, 24:])


def test_it_continues_beyond_the_mocks(emulator, mocks, fitted):
    """In the last bins, log(variance x pairs) follows the trend of those before, and all of the range is covered."""
    aleatoric, _ = fitted
    n = len(mocks.fine_edges) - 1
    np.testing.assert_array_equal(aleatoric.r_edges[: n + 1], mocks.fine_edges)
    assert aleatoric.r_edges[-1] == pytest.approx(emulator.nodes[-1])
    inputs = AleatoricNet.inputs(emulator.network, torch.as_tensor(mocks.theta[:50]))
    factors = aleatoric.network(inputs)[:, aleatoric.network.columns("omega")].numpy()
    x = np.log(aleatoric.r_edges[1:] * aleatoric.r_edges[:-1]) / 2
    slope = np.polyfit(x[n - 12 : n], factors[:, n - 12 : n].T, 1)[0]
    np.testing.assert_allclose(factors[:, n:] - factors[:, n - 1 : n], slope[:, None] * (x[n:] - x[n - 1]), rtol=1e-6)


def test_shipped_scatter_is_that_of_held_out_mocks(emulator, mocks):
    """Unseen points: median bias below 0.03 dex, and sample variances as wide about it as chi^2."""
    from scipy.stats import chi2

    held = np.flatnonzero(mocks.split[mocks.mocked] == SPLITS.index("test"))
    scatter = measure_scatter(mocks, held, PAPER_EDGES)
    sigma = emulator.predict(mocks.theta[mocks.mocked[held]], uncertainties=True).sigma_aleatoric
    for name in STATISTICS:
        full = (scatter.dof[name] == 9) & np.isfinite(sigma[name])
        ratio = sigma[name][full] ** 2 / scatter.variance[name][full]
        dex = 0.5 * (np.median(np.log10(ratio)) + np.log10(chi2.median(9) / 9))
        assert abs(dex) < 0.03
        assert np.std(np.log(ratio)) == pytest.approx(0.4987, rel=0.25)  # trigamma(9/2)^(1/2)


class TestTrainingArrays:
    def test_draws_have_the_labels_mean_and_the_fitted_covariance(self, mocks, emulator):
        (theta, y, _, held_y), origin = training_arrays(mocks, lambda: emulator, 50, 1)
        assert y.shape == (len(theta), 50, 3, 20) and held_y.shape[1:] == y.shape[1:]
        assert "draws" in origin["trained_on"]
        # Neither the test points nor those that the cleaning removes.
        assert len(theta) == np.sum(mocks.cleaned & (mocks.split == 0))
        sigma = emulator.predict(theta, uncertainties=True).sigma_aleatoric["omega"]
        rows = mocks.cleaned & (mocks.split == 0)
        z = (y[:, :, 1] - mocks.read("labels/omega")[rows][:, None]) / sigma[:, None]
        known = np.isfinite(z).all(axis=2)  # the emulator expects too few pairs elsewhere
        assert known.mean() > 0.97
        z = z[known]
        assert z.mean() == pytest.approx(0.0, abs=0.01)
        assert z.std() == pytest.approx(1.0, abs=0.01)
        drawn = np.corrcoef(z.T)
        matrix, nesting = emulator.aleatoric.correlations["omega"], nesting_matrix(mocks.fine_edges, PAPER_EDGES)
        share = nesting * np.sqrt(np.diff(mocks.fine_edges))
        joined = share @ matrix[:32, :32] @ share.T
        joined /= np.sqrt(np.outer(np.diag(joined), np.diag(joined)))
        np.testing.assert_allclose(drawn, joined, atol=0.03)

    def test_mocks_are_taken_where_all_points_have_them(self, mocks):
        class Subset:
            has_mocks = True
            mocked = np.arange(40)
            split = mocks.split[:40]
            cleaned = np.ones(40, dtype=bool)
            theta = mocks.theta[:40]
            identity, attributes, realisations = mocks.identity, mocks.attributes, mocks.realisations

            def __len__(self):
                return 40

        (_, y, _, _), origin = training_arrays(Subset(), None, 10, 1)
        assert origin["trained_on"] == "halotools-IA mock realisations"
        first = int(np.flatnonzero(mocks.split[:40] == 0)[0])
        np.testing.assert_array_equal(y[0, :, 2], mocks.realisations(first).eta)

    def test_without_scatter_it_says_so(self, mocks, emulator):
        bare = Emulator(emulator.network, emulator.nodes, dict(emulator.metadata))
        with pytest.raises(DatasetError, match="has no aleatoric errors"):
            training_arrays(mocks, lambda: bare, 10, 1)
