"""The likelihoods alone, without a theory."""

import numpy as np
import pytest
from cobaya.log import LoggedError
from scipy import stats

from iaemu_cobaya import Bins, Covariance, IACorrelations, Measurement, TNG300Sample1, TNG300Sample2, TNG300Sample3

SAMPLES = (TNG300Sample1, TNG300Sample2, TNG300Sample3)

# chi^2 of no alignment at all in the bins of omega that are used by default, from the published figures
NULL_CHI2 = {TNG300Sample1: 1010.8235631683, TNG300Sample2: 543.0419721497, TNG300Sample3: 156.44461641930445}
N_BINS = {TNG300Sample1: 12, TNG300Sample2: 12, TNG300Sample3: 17}
#: Sample 3 in 14 bins, 12 of them to 13.9 Mpc/h, with a covariance from 27 regions.
FEW_REGIONS = {"data": "tng300/sample3", "r_max": 13.9}


def toy(correlation=0.3, n_regions=27, n=6, statistics=("omega",)):
    """A measurement with one covariance over all its statistics, errors of 10 %."""
    edges = np.logspace(-1, 1, n + 1)
    bins = {
        name: Bins(edges[:-1], edges[1:], np.linspace(0.2, 0.1, n) * scale, 0.1 * np.linspace(0.2, 0.1, n) * scale)
        for name, scale in zip(statistics, (1.0, 100.0, 0.01), strict=False)
    }
    error = np.concatenate([entry.error for entry in bins.values()])
    matrix = np.outer(error, error) * (correlation + (1 - correlation) * np.eye(len(error)))
    return Measurement(bins, [Covariance(statistics, matrix, n_regions)])


@pytest.mark.parametrize("sample", SAMPLES)
def test_chi2_of_no_alignment_is_pinned(sample):
    like = sample()
    assert len(like.data_vector) == N_BINS[sample]
    assert like.chi2(np.zeros(N_BINS[sample])) == pytest.approx(NULL_CHI2[sample], rel=1e-9)


@pytest.mark.parametrize("sample", SAMPLES)
def test_log_likelihood_is_minus_half_chi2_and_zero_at_the_data(sample):
    like = sample({"statistics": ["xi", "omega", "eta"], "distribution": "hartlap"})
    assert len(like.data_vector) == 24 + N_BINS[sample]
    assert like.log_likelihood(like.data_vector) == 0.0
    vector = 0.9 * like.data_vector
    value = like.log_likelihood(vector)
    assert type(value) is float
    residuals = like.residuals(vector)
    assert -2 * value == pytest.approx(residuals @ like.inverse_covariance @ residuals, rel=1e-10)


def test_hartlap_factor_of_sample_3_is_a_half():
    with_factor, without = (TNG300Sample3({**FEW_REGIONS, "distribution": name}) for name in ("hartlap", "gaussian"))
    assert with_factor.hartlap_factors == {"omega": 0.5}
    assert without.hartlap_factors == {"omega": 1.0}
    zero = np.zeros(12)
    assert with_factor.chi2(zero) == pytest.approx(0.5 * without.chi2(zero), rel=1e-12)
    data = without.data_vector
    assert without.chi2(zero) == pytest.approx(data @ np.linalg.solve(without.covariance_matrix, data), rel=1e-10)


def test_hartlap_factor_follows_the_number_of_used_bins():
    like = TNG300Sample3({**FEW_REGIONS, "r_min": 0.5, "distribution": "hartlap"})
    assert like.hartlap_factors["omega"] == pytest.approx((27 - 8 - 2) / 26)


@pytest.mark.parametrize("options", [{}, {"covariance": "diagonal"}, {"distribution": "hartlap"}])
def test_published_errors_alone_get_no_hartlap_factor(options):
    like = TNG300Sample1(options)
    assert like.hartlap_factors == {"omega": 1.0}
    expected = np.sum((like.data_vector / like.bins["omega"].error) ** 2)
    assert like.chi2(np.zeros(12)) == pytest.approx(expected, rel=1e-12)


def test_correlation_of_sample_3_can_be_used_for_sample_1():
    like = TNG300Sample1({"covariance": "correlation", "distribution": "hartlap"})
    source = TNG300Sample3(FEW_REGIONS)
    assert np.sqrt(np.diag(like.covariance_matrix)) == pytest.approx(like.bins["omega"].error)

    def correlation(matrix):
        return matrix / np.sqrt(np.outer(np.diag(matrix), np.diag(matrix)))

    assert correlation(like.covariance_matrix) == pytest.approx(correlation(source.covariance_matrix))
    assert like.hartlap_factors == {"omega": 0.5}


def test_too_few_regions_for_the_bins_says_what_to_do():
    with pytest.raises(LoggedError, match=r"8 regions, too few for 6 bins.*'distribution: t'.*at most 3 bins"):
        IACorrelations({"data": toy(n_regions=8)})
    with pytest.raises(LoggedError, match=r"8 regions, too few for 6 bins.*at most 5 bins.*'distribution: gaussian'"):
        IACorrelations({"data": toy(n_regions=8), "distribution": "hartlap"})
    assert IACorrelations({"data": toy(n_regions=8), "distribution": "gaussian"}).n_regions == {"omega": 8}


def test_cuts_keep_whole_bins_and_can_differ_between_statistics():
    like = TNG300Sample1({"statistics": ["xi", "omega"], "r_min": {"xi": 1.0}, "r_max": {"omega": 5.0}})
    assert like.bins["xi"].r_low[0] == pytest.approx(10 ** (-1 + 2.5 * 6 / 14))
    assert len(like.bins["xi"]) == 8
    assert like.bins["omega"].r_high[-1] == pytest.approx(10 ** (-1 + 2.5 * 9 / 14))
    assert like.slices == {"xi": slice(0, 8), "omega": slice(8, 17)}
    assert TNG300Sample1({"r_max": None}).used["omega"].all()


def test_requested_edges_are_those_of_the_used_bins():
    requirements = TNG300Sample1({"statistics": ["omega", "eta"], "r_min": {"eta": 0.3}}).get_requirements()
    assert set(requirements) == {"ia_omega", "ia_eta", "ia_omega_deviations", "ia_eta_deviations"}
    assert requirements["ia_omega"]["r_edges"] == pytest.approx(np.logspace(-1, 1.5, 15)[:13])
    assert len(requirements["ia_eta"]["r_edges"]) == 10


def test_cross_covariance_between_statistics_is_used():
    data = toy(statistics=("omega", "xi"), n_regions=40)
    joint = IACorrelations({"data": data, "statistics": ["xi", "omega"], "distribution": "hartlap"})
    assert joint.covariance_matrix[0, 6] == pytest.approx(0.3 * joint.bins["xi"].error[0] * data.bins["omega"].error[0])
    assert joint.hartlap_factors == pytest.approx({"xi": 26 / 39, "omega": 26 / 39})
    alone = IACorrelations({"data": data, "statistics": ["omega"]})
    assert alone.covariance_matrix == pytest.approx(data.covariances[0].matrix[:6, :6])
    apart = IACorrelations({"data": data, "statistics": ["xi", "omega"], "covariance": {"xi": "diagonal"}})
    assert apart.covariance_matrix[0, 6] == 0


def test_chi2_does_not_depend_on_the_order_of_statistics():
    data = toy(statistics=("omega", "xi"), n_regions=40)
    first = IACorrelations({"data": data, "statistics": ["xi", "omega"]})
    second = IACorrelations({"data": data, "statistics": ["omega", "xi"]})
    assert first.chi2(np.zeros(12)) == pytest.approx(second.chi2(np.zeros(12)), rel=1e-10)


def test_description_says_what_is_used():
    assert "omega: 12 of 14 bins, 0.1 to 13.89 Mpc/h, independent errors" in TNG300Sample1().describe()
    assert "covariance from 125 regions, t-distribution" in TNG300Sample3().describe()
    few = TNG300Sample3({**FEW_REGIONS, "distribution": "hartlap"})
    assert "covariance from 27 regions, Hartlap factor 0.5" in few.describe()
    assert "6 of 6 bins, 0.1 to 10 Mpc/h, covariance" in IACorrelations({"data": toy(n_regions=None)}).describe()


def test_normalised_residuals_are_in_units_of_the_errors():
    like = TNG300Sample3()
    vector = like.data_vector - 2.0 * like.bins["omega"].error
    assert like.residuals(vector, normalised=True) == pytest.approx(np.full(17, 2.0))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_prediction_that_is_not_finite_has_zero_likelihood_or_stops(bad):
    vector = np.zeros(12)
    vector[3] = bad
    assert TNG300Sample1().log_likelihood(vector) == -np.inf
    with pytest.raises(LoggedError, match=r"omega is (nan|inf) in 1 of 12 bins.*0\.343"):
        TNG300Sample1({"stop_at_error": True}).log_likelihood(vector)


def test_users_data_need_only_a_path(tmp_path):
    path = toy().write(tmp_path / "mine.txt")
    like = IACorrelations({"data": str(path)})
    assert like.n_regions == {"omega": 27}
    assert like.chi2(0.9 * like.data_vector) > 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "data: give a file"),
        ({"data": "no_such_file.txt"}, r"no_such_file\.txt.*tng300/sample1"),
        ({"data": "tng300/sample1", "statistics": ["w_gp"]}, "statistics: give one or more of xi, omega, eta"),
        ({"data": "tng300/sample1", "statistics": []}, "statistics: give one or more of"),
        ({"data": "tng300/sample1", "statistics": ["xi", "xi"]}, "twice"),
        ({"data": "tng300/sample1", "r_min": 50.0}, r"No bin of omega.*r_min = 50.*0\.1 to 31"),
        ({"data": "tng300/sample1", "r_min": {"gamma": 1.0}}, r"r_min: unknown statistic\(s\) gamma"),
        ({"data": "tng300/sample1", "covariance": "banana"}, "covariance: must be one of auto.*banana"),
        ({"data": "tng300/sample1", "covariance": "full"}, "no covariance of omega"),
        ({"data": "tng300/sample1", "covariance": "correlation"}, "needs the option correlation_from"),
        (
            {"data": "tng300/sample1", "covariance": "correlation", "correlation_from": "tng300/sample2"},
            "sample2 has no covariance of omega",
        ),
        ({"data": toy(), "covariance": "correlation", "correlation_from": "tng300/sample3"}, "no bin of omega from"),
    ],
)
def test_bad_options_are_named(options, message):
    with pytest.raises(LoggedError, match=message):
        IACorrelations(options)


def test_types_of_options_are_checked():
    with pytest.raises(LoggedError, match=r"(?s)r_max.*got 'far'"):
        TNG300Sample1({"r_max": "far"})
    with pytest.raises(LoggedError, match=r"r_min of omega \[Mpc/h\] must be a number, finite; got nan"):
        TNG300Sample1({"r_min": {"omega": float("nan")}})
    with pytest.raises(LoggedError, match=r"stop_at_error.*boolean.*got 'yes'"):
        TNG300Sample1({"stop_at_error": "yes"})
    with pytest.raises(LoggedError, match="distribution must not be null"):
        TNG300Sample1({"distribution": None})
    with pytest.raises(LoggedError, match=r"distribution: must be one of t, sellentin-heavens, .*; got 'normal'"):
        TNG300Sample1({"distribution": "normal"})
    with pytest.raises(LoggedError, match="n_parameters must be a whole number, at least 0; got -1"):
        TNG300Sample1({"n_parameters": -1})
    with pytest.raises(LoggedError, match="File name too long"):
        TNG300Sample1({"data": "x" * 300})


def test_wrong_shape_of_a_theory_vector_is_named():
    with pytest.raises(LoggedError, match=r"shape \(3,\).*12 bins of omega"):
        TNG300Sample1().chi2(np.zeros(3))


def test_plot_draws_data_and_prediction():
    from matplotlib.figure import Figure

    like = TNG300Sample3({"statistics": ["omega", "eta"]})
    axes = list(Figure().subplots(1, 2))
    vector = 1.1 * like.data_vector
    assert like.plot(vector, [0.9 * vector, 1.1 * vector], axes) == axes
    labels = axes[0].get_legend_handles_labels()[1]
    assert {"data", "not used", "prediction"} <= set(labels)
    with pytest.raises(ValueError, match="1 axes for 2 statistics"):
        like.plot(vector, axes=axes[:1])


@pytest.mark.parametrize("distribution", ["hartlap", "gaussian"])
def test_the_error_of_the_prediction_adds_to_the_covariance_and_to_its_determinant(distribution):
    like = TNG300Sample3({**FEW_REGIONS, "distribution": distribution})
    generator = np.random.default_rng(3)
    vector = 0.9 * like.data_vector
    deviations = 0.5 * like.bins["omega"].error * generator.normal(size=(5, 12))
    # The Hartlap factor is about the estimate of the data's covariance alone.
    data = like.covariance_matrix / like.hartlap_factors["omega"]
    total = data + deviations.T @ deviations
    expected = stats.multivariate_normal(cov=total).logpdf(like.residuals(vector))
    constant = -0.5 * (12 * np.log(2 * np.pi) + np.linalg.slogdet(data)[1])
    assert like.log_likelihood(vector, deviations) == pytest.approx(expected - constant, rel=1e-9)


def test_a_prediction_without_error_has_the_likelihood_of_none_given():
    like = TNG300Sample1()
    vector = 0.8 * like.data_vector
    assert like.log_likelihood(vector, np.zeros((3, 12))) == pytest.approx(like.log_likelihood(vector), rel=1e-12)


def test_an_error_in_all_bins_together_costs_what_one_common_factor_would():
    # With one deviation d proportional to the prediction, its amplitude is marginalised over a unit normal.
    like = TNG300Sample1()
    vector = 0.8 * like.data_vector
    deviation = 0.1 * vector
    amplitude, step = np.linspace(-9, 9, 4001, retstep=True)
    chi2 = np.array([like.chi2(vector + a * deviation) for a in amplitude])
    marginal = np.log(np.sum(np.exp(-0.5 * (chi2 + amplitude**2))) * step / np.sqrt(2 * np.pi))
    assert like.log_likelihood(vector, deviation[None]) == pytest.approx(marginal, rel=1e-9)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_an_error_that_is_not_finite_has_zero_likelihood(bad, caplog):
    like = TNG300Sample1()
    deviations = np.zeros((2, 12))
    deviations[1, 3] = bad
    assert like.log_likelihood(like.data_vector, deviations) == -np.inf
    with pytest.raises(LoggedError, match="error of the prediction is not finite"):
        TNG300Sample1({"stop_at_error": True}).log_likelihood(like.data_vector, deviations)


def test_a_batch_has_the_likelihoods_of_its_rows():
    like = TNG300Sample3()
    generator = np.random.default_rng(4)
    vectors = like.data_vector * generator.uniform(0.5, 1.5, size=(4, 1))
    deviations = 0.3 * like.bins["omega"].error * generator.normal(size=(4, 3, 17))
    for others in (None, deviations):
        rows = [like.log_likelihood(vectors[i], None if others is None else others[i]) for i in range(4)]
        assert like.log_likelihoods(vectors, others) == pytest.approx(rows, rel=1e-12)
    vectors[2, 5] = np.nan
    assert like.log_likelihoods(vectors)[2] == -np.inf
