"""Metrics on data whose answer is known."""

import warnings

import numpy as np
import pytest
from scipy import stats

from iaemu_training.evaluation import metrics as m

N, K, BINS = 400, 10, 20


@pytest.fixture(autouse=True)
def no_warnings():
    """Empty bins and zeros are foreseen: no division warns."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


@pytest.fixture(scope="module")
def gaussian():
    """Mocks that are normal about a known truth, with a known scatter that varies over points and bins."""
    rng = np.random.default_rng(1)
    truth = rng.normal(size=(N, BINS)) + 3.0
    sigma = np.exp(rng.normal(scale=0.5, size=(N, BINS)))
    return truth, sigma, truth[:, None] + sigma[:, None] * rng.normal(size=(N, K, BINS))


class TestMoments:
    def test_correction_factors_are_the_tabulated_ones(self):
        assert m.c4(2) == pytest.approx(np.sqrt(2 / np.pi))
        assert m.c4(10) == pytest.approx(0.9727, abs=1e-4)
        assert m.chi_median(2) == pytest.approx(stats.norm.ppf(0.75))
        assert m.chi_median(10) < m.c4(10) < 1

    def test_sigma_is_unbiased_and_without_the_correction_it_is_not(self, gaussian):
        _, sigma, mocks = gaussian
        moments = m.mock_moments(mocks)
        error = np.std(moments.sigma / sigma) / np.sqrt(sigma.size)
        assert np.mean(moments.sigma / sigma) == pytest.approx(1.0, abs=4 * error)
        assert np.mean(np.sqrt(moments.variance) / sigma) < 1.0 - 4 * error

    def test_an_entry_with_one_missing_realisation_is_missing(self):
        mocks = np.ones((3, 4, 2))
        mocks[1, 2, 0] = np.nan
        moments = m.mock_moments(mocks)
        np.testing.assert_array_equal(np.isnan(moments.mean), [[False, False], [True, False], [False, False]])
        np.testing.assert_array_equal(m.count_entries(moments.mean, np.zeros((3, 2))), [2, 3])

    @pytest.mark.parametrize("shape", [(5, 1, 3), (5, 3)])
    def test_one_realisation_has_no_scatter(self, shape):
        with pytest.raises(ValueError, match="at least 2 realisations"):
            m.mock_moments(np.zeros(shape))


class TestFractionalError:
    def test_its_sign_is_relative_to_the_truth(self):
        error = m.fractional_error([[1.1, -1.1, 0.9, 2.0]], [[1.0, -1.0, 1.0, 0.0]])
        np.testing.assert_allclose(error, [[0.1, 0.1, -0.1, np.nan]])

    def test_known_errors_average_as_they_should(self):
        truth = np.full((4, 2), 2.0)
        prediction = truth * (1 + np.array([[0.1, 0.2], [-0.1, 0.2], [0.1, 0.2], [-0.1, -0.2]]))
        error = m.fractional_error(prediction, truth)
        np.testing.assert_allclose(m.bin_mean(np.abs(error)), [0.1, 0.2])
        np.testing.assert_allclose(m.bin_mean(error), [0.0, 0.1], atol=1e-15)
        np.testing.assert_allclose(m.bin_median(np.abs(error)), [0.1, 0.2])
        assert m.average([0.1, 0.2]) == pytest.approx(0.15)
        assert m.average([0.1, 0.2], weights=[1.0, 3.0]) == pytest.approx(0.175)
        assert m.average([np.nan, 0.2], weights=[1.0, 3.0]) == pytest.approx(0.2)

    def test_mean_of_absolute_values_is_at_least_half_of_smape(self):
        # Why the paper's mean fractional errors cannot be means of absolute values.
        rng = np.random.default_rng(2)
        for scale in (0.01, 0.3, 3.0, 100.0):
            truth = rng.normal(size=(200, 5))
            prediction = truth + scale * rng.normal(size=(200, 5))
            error = m.bin_mean(np.abs(m.fractional_error(prediction, truth)))
            assert np.all(error >= m.smape(prediction, truth) / 2)

    def test_share_of_accurate_predictions(self):
        truth = np.ones((4, 3))
        prediction = truth + np.array([[0.05, 0.05, 9.0], [0.05, 0.2, 0.2], [0.0, 0.0, 0.0], [np.nan] * 3])
        assert m.share_accurate(prediction, truth) == pytest.approx(2 / 3)

    def test_outliers_follow_the_mocks_but_for_a_bin_near_zero(self):
        truth = np.tile([8.0, 6.0, 4.0, 2.0, 1e-4], (4, 1))
        sigma = np.full_like(truth, 1.0)
        prediction = truth.copy()
        prediction[0, -1] = 0.1  # follows, and a thousand times too large in one bin
        prediction[1, -1] = 1e-3  # not far enough off
        prediction[2] = [-50.0, 40.0, 60.0, 90.0, 80.0]  # far off, but does not follow at all
        prediction[3] = [7.8, 8.1, 7.9, 7.7, 8.0]  # likewise: no order, and within sigma in less than half of the bins
        np.testing.assert_array_equal(m.outliers(prediction, truth, sigma, 100.0), [True, False, False, False])
        # Within sigma in most bins, although in another order.
        near = np.array([[1.0, 2.0, 3.0, 2.0, 2.0]])
        truth = np.array([[1.2, 1.8, 1e-3, 2.2, 2.6]])
        assert m.spearman(near.T, truth.T)[0] < 0.5
        assert m.outliers(near, truth, np.full((1, 5), 0.9), 100.0).all()
        assert not m.outliers(near, truth, np.full((1, 5), 0.1), 100.0).any()


class TestResiduals:
    def test_in_units_of_sigma(self):
        np.testing.assert_allclose(m.residuals([[3.0, 1.0]], [[2.0, 2.0]], [[0.5, 0.0]]), [[2.0, np.nan]])

    def test_in_the_logarithm_where_asked_for(self):
        logarithmic = np.array([False, True, True])
        values = m.residuals([[3.0, 3.0, -3.0]], [[2.0, 2.0, 2.0]], [[0.5, 0.5, 0.5]], logarithmic)
        np.testing.assert_allclose(values, [[2.0, np.log(1.5) / 0.25, np.nan]])


class TestRankCorrelation:
    def test_unchanged_by_monotone_maps(self):
        rng = np.random.default_rng(3)
        truth = rng.normal(size=(60, 4))
        prediction = truth + rng.normal(size=(60, 4))
        expected = m.spearman(prediction, truth)
        np.testing.assert_allclose(m.spearman(np.exp(prediction), truth**3), expected)
        np.testing.assert_allclose(m.spearman(-prediction, truth), -expected)
        np.testing.assert_allclose(m.spearman(np.exp(truth), truth), 1.0)

    def test_agrees_with_scipy_also_with_ties_and_missing_entries(self):
        rng = np.random.default_rng(4)
        truth, prediction = rng.integers(0, 6, size=(2, 50, 3)).astype(float)
        prediction[::7, 1] = np.nan
        truth[3, 2] = np.inf
        found = m.spearman(prediction, truth)
        for column in range(3):
            ok = np.isfinite(prediction[:, column]) & np.isfinite(truth[:, column])
            assert found[column] == pytest.approx(stats.spearmanr(prediction[ok, column], truth[ok, column])[0])

    def test_undefined_without_variation_or_points(self):
        varying = np.arange(5.0)[:, None]
        assert np.isnan(m.spearman(np.ones((5, 1)), varying)[0])
        assert np.isnan(m.spearman(varying[:2], varying[:2])[0])
        sparse = np.where(varying < 2, varying, np.nan)
        assert np.isnan(m.spearman(sparse, varying)[0])


class TestErrors:
    def test_nrmse(self):
        truth = np.array([[3.0], [4.0]])
        np.testing.assert_allclose(m.nrmse(np.zeros((2, 1)), truth), 1.0)
        np.testing.assert_allclose(m.nrmse(truth + [[0.3], [-0.4]], truth), 0.1)
        np.testing.assert_allclose(m.nrmse(-7.0 * truth, -7.0 * 2.0 * truth), 0.5)

    def test_smape(self):
        np.testing.assert_allclose(m.smape([[3.0]], [[1.0]]), 1.0)
        np.testing.assert_allclose(m.smape([[-1.0]], [[1.0]]), 2.0)
        np.testing.assert_allclose(m.smape([[0.0]], [[0.0]]), 0.0)

    def test_amplitude_bias(self):
        np.testing.assert_allclose(m.amplitude_bias([[-10.0, 0.0]], [[1.0, 1.0]]), [[1.0, np.nan]])

    def test_relative_rms(self):
        truth = np.array([[1.0, 2.0], [3.0, 4.0], [1.0, np.nan], [1.0, 2.0]])
        prediction = np.array([[1.1, 2.2], [3.0, 4.5], [1.3, 7.0], [np.nan, 2.0]])
        np.testing.assert_allclose(m.relative_rms(prediction, truth), [0.1, 0.1, 0.3, np.nan])


class TestMissingEntries:
    def test_are_left_out_one_by_one(self):
        rng = np.random.default_rng(5)
        truth = rng.normal(size=(30, 3))
        prediction = truth + 0.1 * rng.normal(size=(30, 3))
        holes = truth.copy()
        holes[:10, 0], holes[:, 2] = np.nan, np.nan
        for metric in (m.nrmse, m.smape, m.spearman):
            found = metric(prediction, holes)
            np.testing.assert_allclose(found[0], metric(prediction[10:], truth[10:])[0])
            np.testing.assert_allclose(found[1], metric(prediction, truth)[1])
            assert np.isnan(found[2])
        np.testing.assert_array_equal(m.count_entries(prediction, holes), [20, 30, 0])
        assert np.isnan(m.bin_median(holes)[2])
        assert np.isnan(m.bin_mean(holes)[2])
        assert np.isnan(m.average([np.nan, np.nan]))
        assert np.isnan(m.percentile([np.nan], 50))

    def test_in_coverage(self):
        pit = np.array([[0.5, np.nan], [0.99, np.nan]])
        np.testing.assert_allclose(m.coverage(pit, 0.68), [0.5, np.nan])
        assert m.pooled_coverage(pit, 0.68) == (0.5, 0.5)
        assert np.isnan(m.pooled_coverage(np.full((2, 2), np.nan), 0.68)[0])


class TestCalibration:
    def test_a_perfect_prediction_is_calibrated(self, gaussian):
        truth, sigma, mocks = gaussian
        moments = m.mock_moments(mocks)
        singles, means = m.pit_of_realisations(mocks, truth, sigma), m.pit_of_mean(moments, truth, sigma)
        for pit in (singles, means):
            assert stats.kstest(pit.ravel(), "uniform").pvalue > 1e-3
            for level in (0.68, 0.95):
                n = pit.size // BINS
                assert np.all(np.abs(m.coverage(pit, level) - level) < 4 * m.binomial_error(level, n))
                share, error = m.pooled_coverage(pit, level)
                assert share == pytest.approx(level, abs=4 * error)
                assert error == pytest.approx(m.binomial_error(level, pit.size), rel=0.2)

    def test_the_bias_of_a_perfect_sigma_is_zero_and_without_the_chi_correction_it_is_not(self, gaussian):
        _, sigma, mocks = gaussian
        moments = m.mock_moments(mocks)
        error = 1.2533 * np.std(m.sigma_bias(sigma, moments)) / np.sqrt(sigma.size)  # of a median
        assert error < 0.003
        assert m.percentile(m.sigma_bias(sigma, moments), 50) == pytest.approx(0.0, abs=4 * error)
        uncorrected = np.median(np.log10(sigma / np.sqrt(moments.variance)))
        assert uncorrected == pytest.approx(-np.log10(m.chi_median(K)), abs=4 * error)
        assert uncorrected > 4 * error
        assert m.average(m.pooled_sigma_bias(sigma, moments)) == pytest.approx(0.0, abs=0.01)
        assert m.average(m.variance_ratio_bias(sigma, moments)) == pytest.approx(0.0, abs=0.01)

    def test_twice_the_sigma_is_a_third_of_a_dex(self, gaussian):
        _, sigma, mocks = gaussian
        moments = m.mock_moments(mocks)
        for bias in (m.sigma_bias, m.pooled_sigma_bias, m.variance_ratio_bias):
            np.testing.assert_allclose(bias(2 * sigma, moments) - bias(sigma, moments), np.log10(2), rtol=1e-9)

    def test_half_the_sigma_covers_too_little(self, gaussian):
        truth, sigma, mocks = gaussian
        expected = 2 * stats.norm.cdf(0.5 * stats.norm.ppf(0.84)) - 1
        share, error = m.pooled_coverage(m.pit_of_realisations(mocks, truth, sigma / 2), 0.68)
        assert share == pytest.approx(expected, abs=4 * error)

    def test_errors_of_the_prediction_are_covered_by_epistemic_sigmas(self, gaussian):
        truth, sigma, mocks = gaussian
        moments, epistemic = m.mock_moments(mocks), 0.7 * sigma
        prediction = truth + epistemic * np.random.default_rng(6).normal(size=truth.shape)
        share, error = m.pooled_coverage(m.pit_of_mean(moments, prediction, sigma, epistemic), 0.68)
        assert share == pytest.approx(0.68, abs=4 * error)
        share, _ = m.pooled_coverage(m.pit_of_realisations(mocks, prediction, sigma, epistemic), 0.68)
        assert share == pytest.approx(0.68, abs=0.02)
        assert m.pooled_coverage(m.pit_of_mean(moments, prediction, sigma), 0.68)[0] < 0.5

    def test_bins_in_common_do_not_make_the_error_smaller(self):
        pit = np.random.default_rng(7).uniform(size=(100, 1))
        one, many = m.pooled_coverage(pit, 0.68), m.pooled_coverage(np.repeat(pit, 50, axis=1), 0.68)
        np.testing.assert_allclose(many, one)

    def test_epistemic_ratio(self):
        np.testing.assert_allclose(m.epistemic_ratio([[1.0, 1.0]], [[0.1, 0.0]]), [[-1.0, np.nan]])


def test_terciles_are_a_partition_in_order():
    values = np.random.default_rng(8).normal(size=100)
    regions = m.terciles(values)
    assert [mask.sum() for _, _, mask in regions] == [34, 33, 33]
    np.testing.assert_array_equal(sum(mask.astype(int) for _, _, mask in regions), 1)
    assert regions[0][1] < regions[1][0] <= regions[1][1] < regions[2][0]
    assert len(m.terciles([1.0, 2.0])) == 2
