"""Range of a catalogue, and the sets of points that fill it."""

import numpy as np
import pytest
from scipy.stats import kstest

pytest.importorskip("h5py")

from iaemu.parameters import OCCUPATION_PARAMETERS, PARAMETERS, ZHENG07_LINE, Support
from iaemu_training.dataset.points import PARAMETER_SETS, occupation_points, sobol_points, tube_points
from iaemu_training.halos.catalogue import HaloCatalogue
from iaemu_training.halos.limits import MIN_HOSTS, CatalogueLimits

LOGMMIN = PARAMETERS.index("logMmin")


@pytest.fixture(scope="module")
def pair():
    return [HaloCatalogue.load(name) for name in ("pm160a", "pm160b")]


def test_the_shipped_pair_supports_what_the_shipped_tables_cover(pair):
    from iaemu.models.tables import TabulatedModel

    assert CatalogueLimits.of(pair).support() == TabulatedModel.load().support


def test_more_volume_raises_the_upper_limit_only(pair):
    one, two = CatalogueLimits.of(pair[:1]), CatalogueLimits.of(pair)
    assert one.logMmin_low == two.logMmin_low
    assert one.logMmin_high < two.logMmin_high
    assert one.logM0_max < two.logM0_max


def test_upper_limit_leaves_enough_hosts(pair):
    limits = CatalogueLimits.of(pair)
    masses = np.concatenate([catalogue.log_mass for catalogue in pair])
    assert np.sum(masses > limits.logMmin_high) == limits.n_hosts >= MIN_HOSTS
    assert np.sum(masses > limits.logMmin_high + 0.1) < MIN_HOSTS


def test_lower_limit_keeps_centrals_in_complete_halos(pair):
    """With <Ncen> and a mass function M^-1.9, 1 % of the centrals at most live below the completeness limit."""
    from scipy.special import erf

    limits = CatalogueLimits.of(pair)
    logMmin = limits.logMmin_low
    sigma = limits.support().bounds("sigma_logM", logMmin)[1]
    log_mass = np.linspace(8, 16, 4001)
    centrals = 0.5 * (1 + erf((log_mass - logMmin) / sigma)) * 10 ** (-0.9 * log_mass)
    assert centrals[log_mass < limits.log_mass_complete].sum() / centrals.sum() < 0.011
    assert sigma >= ZHENG07_LINE["sigma_logM"](logMmin) + ZHENG07_LINE["sigma_logM"].rmse - 1e-9


def test_finer_particles_lower_the_limit_down_to_the_papers(pair):
    lows = [CatalogueLimits.of(pair, log_mass_complete=value).logMmin_low for value in (11.2, 11.0172, 10.9, 9.8)]
    assert lows == sorted(lows, reverse=True)
    assert lows[-1] == 11.0


def test_a_catalogue_cut_above_its_resolution_is_complete_above_the_cut(pm40):
    import copy

    catalogue = copy.copy(pm40)
    # As in halotools' cache: 300 particles of Bolshoi-Planck.
    catalogue.attributes = {"particle_mass": 1.55e8, "min_mass": 300 * 1.55e8}
    assert CatalogueLimits.of([catalogue]).log_mass_complete == 10.6675
    # halotools' model takes no hosts below 10^10.5, whatever the resolution.
    catalogue.attributes = {"particle_mass": 1.55e8}
    assert CatalogueLimits.of([catalogue]).log_mass_complete == 10.5


@pytest.mark.parametrize(
    "keywords, words",
    [
        ({"logMmin": (11.2, 13.0)}, "logMmin = 11.2 is below 11.5"),
        ({"logMmin": (11.6, 14.5)}, "logMmin = 14.5 is above 14"),
        ({"logM0_max": 14.5}, "logM0_max = 14.5 is above 14.21"),
    ],
)
def test_a_range_beyond_the_limits_is_an_error_that_names_the_limit(pair, keywords, words):
    with pytest.raises(ValueError, match=words):
        CatalogueLimits.of(pair).support(**keywords)


def test_unknown_resolution_asks_for_a_limit(pm40):
    import copy

    catalogue = copy.copy(pm40)
    catalogue.attributes = {}
    limits = CatalogueLimits.of([catalogue])
    assert "unknown" in str(limits)
    with pytest.raises(ValueError, match="--complete-above"):
        limits.support()
    assert limits.support(logMmin=(11.5, 12.0)).logMmin == (11.5, 12.0)


@pytest.mark.parametrize("value", [np.nan, np.inf, -1.0, "11", 400.0, True])
def test_a_limit_must_be_a_mass(pm40, value):
    with pytest.raises(ValueError, match=r"log_mass_complete \(--complete-above\) must be a number"):
        CatalogueLimits.of([pm40], value)
    with pytest.raises(ValueError, match="must be"):
        CatalogueLimits.of([pm40]).support((value, 13.0))
    with pytest.raises(ValueError, match="logM0_max must be a number"):
        CatalogueLimits.of([pm40], 11.0).support(logM0_max=value)


def test_there_is_no_limit_of_nothing():
    with pytest.raises(ValueError, match="one or more halo catalogues"):
        CatalogueLimits.of([])


class TestPoints:
    support = Support(logMmin=(11.5, 14.0), log_mass_complete=11.0172, logM0_max=14.21)

    @pytest.mark.parametrize("name", PARAMETER_SETS)
    def test_all_lie_in_the_support_and_follow_the_seed(self, name):
        points = PARAMETER_SETS[name](self.support, 500, 3)
        assert points.shape == (500, 7)
        assert bool(self.support.contains(points).all())
        np.testing.assert_array_equal(points, PARAMETER_SETS[name](self.support, 500, 3))
        assert not np.array_equal(points, PARAMETER_SETS[name](self.support, 500, 4))

    def test_tube_is_evenly_spaced_in_logMmin_and_uniform_otherwise(self):
        points = tube_points(self.support, 2001, 5)
        np.testing.assert_allclose(np.diff(points[:, LOGMMIN]), 2.5 / 2000)
        for column, name in enumerate(PARAMETERS):
            if name != "logMmin":
                low, high = self.support.bounds(name, points[:, LOGMMIN])
                assert kstest((points[:, column] - low) / (high - low), "uniform").pvalue > 1e-3

    def test_mapping_of_sigma_logM_equals_rejection(self):
        """Where the tube is cut, draws are those of the whole tube that are inside, at the same logMmin."""
        rng = np.random.default_rng(2)
        narrow = Support(logMmin=(11.0, 11.001), n_rmse=4.0)
        ours = tube_points(narrow, 4000, 1)[:, PARAMETERS.index("sigma_logM")]
        fit = ZHENG07_LINE["sigma_logM"]
        draws = fit(11.0) + fit.rmse * rng.uniform(-4, 4, 40_000)
        assert draws.min() < 0.0
        assert kstest(ours, draws[draws >= narrow.sigma_logM_min]).pvalue > 1e-3

    def test_sobol_fills_more_evenly_than_random(self):
        n = 1024
        unit = (sobol_points(self.support, n, 1)[:, LOGMMIN] - 11.5) / 2.5
        assert kstest(unit, "uniform").statistic < 2.0 / n

    @pytest.mark.parametrize("column", range(5))
    def test_points_at_the_ends_of_one_range_fill_the_others(self, column):
        points = occupation_points(self.support, 4096, 1)
        limits = [self.support.bounds(name, points[:, 0]) for name in OCCUPATION_PARAMETERS]
        low, high = (np.column_stack([np.broadcast_to(ends[i], len(points)) for ends in limits]) for i in (0, 1))
        unit = (points - low) / (high - low)
        for end in (0.0, 1.0):
            rows = np.abs(unit[:, column] - end) < 1e-6
            assert rows.sum() > 250
            for other in np.delete(unit[rows], column, axis=1).T:
                assert np.all(np.histogram(other, 4, (-1e-9, 1 + 1e-9))[0] > 0.1 * rows.sum())

    def test_occupation_points_leave_out_alignment(self):
        points = occupation_points(self.support, 100, 1)
        assert points.shape == (100, 5)
        assert bool(self.support.contains(np.concatenate([np.zeros((100, 2)), points], axis=1)).all())

    @pytest.mark.parametrize("name", PARAMETER_SETS)
    def test_no_points_is_an_error(self, name):
        with pytest.raises(ValueError, match="at least 1, got 0"):
            PARAMETER_SETS[name](self.support, 0, 1)
