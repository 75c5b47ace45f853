import sys
import warnings

import numpy as np
import pytest
import torch

pytest.importorskip("halotools")

from scipy.stats import f as f_distribution
from scipy.stats import kstest, poisson

from iaemu.binning import PAPER_EDGES, TNG_EDGES, nesting_matrix, union_edges
from iaemu.halomodel.alignment import mean_p2
from iaemu.halomodel.occupation import mean_ncen, mean_nsat
from iaemu.models.base import ForwardModel
from iaemu.parameters import Support, SupportError
from iaemu_training.halos.catalogue import HaloCatalogue, subhalo_mass_bins
from iaemu_training.mocks.ensemble import MockEnsemble
from iaemu_training.mocks.halotools import HalotoolsMocks
from iaemu_training.mocks.realisations import MockRealisations, concatenate
from iaemu_training.pairs.galaxies import count_pairs

EDGES = np.logspace(-1, 1, 11)
#: Dense enough for the small box, and without borrowed satellites.
OCCUPATION = dict(logMmin=11.6, sigma_logM=0.26, logM0=11.9, logM1=12.7, alpha=1.0)


def point(mu_cen=0.8, mu_sat=0.5, **changes):
    return dict(mu_cen=mu_cen, mu_sat=mu_sat, **(OCCUPATION | changes))


#: A mean of (M / 10^11.2)^1.3 satellites: far more than there are sub-halos.
CROWDED = point(logM0=11.0, logM1=11.2, alpha=1.3)
EMPTY = point(logMmin=16.0, sigma_logM=0.2, logM0=16.0, logM1=17.0)


@pytest.fixture(scope="module")
def catalogue():
    return HaloCatalogue.load("pm40")


@pytest.fixture(scope="module")
def mocks(catalogue):
    return HalotoolsMocks(catalogue, EDGES)


# ``HaloCatalogue.to_halotools`` numbers hosts by their row, so ``galaxies.host`` indexes the catalogue.


def n_empty(found):
    """Number of mocks without a pair, by bin."""
    return np.sum(found.DD == 0, axis=0)


def radius_vectors(catalogue, galaxies):
    d = galaxies.positions - catalogue.position[galaxies.host]
    return d - catalogue.Lbox * np.round(d / catalogue.Lbox)


def p2(a, b):
    cosine = np.sum(a * b, axis=1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    return 1.5 * cosine**2 - 0.5


class TestReproducibility:
    def test_same_seed_gives_the_same_mock(self, mocks):
        for a, b in zip(mocks.populate(point(), 3), mocks.populate(point(), 3), strict=True):
            assert np.array_equal(a, b)

    def test_another_mock_in_between_does_not_matter(self, mocks):
        first = mocks.populate(point(), 3)
        mocks.populate(CROWDED, 4)
        for a, b in zip(first, mocks.populate(point(), 3), strict=True):
            assert np.array_equal(a, b)

    def test_another_seed_gives_another_mock(self, mocks):
        a, b = mocks.populate(point(), 3), mocks.populate(point(), 4)
        assert len(a.positions) != len(b.positions) or not np.allclose(a.positions, b.positions)

    def test_neighbouring_seeds_share_no_random_numbers(self, mocks):
        """halotools steps its seed from one draw to the next, so consecutive seeds alone would."""
        axes = [mocks.populate(point(mu_cen=0.0, mu_sat=0.0), seed).axes for seed in range(4)]
        for i in range(4):
            for j in range(i):
                n = min(len(axes[i]), len(axes[j]))
                assert abs(np.mean(axes[i][:n] * axes[j][:n])) < 5 / np.sqrt(9 * n)

    def test_global_generator_is_left_alone(self, mocks):
        np.random.seed(1)  # noqa: NPY002
        before = np.random.get_state()[1].copy()  # noqa: NPY002
        mocks.populate(point(), 3)
        assert np.array_equal(before, np.random.get_state()[1])  # noqa: NPY002

    def test_global_generator_does_not_matter(self, mocks):
        np.random.seed(1)  # noqa: NPY002
        a = mocks.populate(point(), 3)
        np.random.seed(2)  # noqa: NPY002
        assert np.array_equal(a.axes, mocks.populate(point(), 3).axes)

    def test_realisation_depends_on_its_number_only(self, mocks):
        few, many = mocks.realisations(point(), 2, seed=5), mocks.realisations(point(), 4, seed=5)
        assert np.array_equal(few.S_omega, many.S_omega[:2])
        assert not np.array_equal(many.DD[0], many.DD[1])

    def test_no_warning_leaks_and_filters_are_restored(self, mocks):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            filters = list(warnings.filters)
            mocks.populate(point(), 3)
            assert warnings.filters == filters

    def test_numpy_error_state_is_left_alone(self, catalogue):
        before = np.geterr()
        HalotoolsMocks(catalogue)
        assert np.geterr() == before


class TestGalaxies:
    def test_lie_in_the_box_with_unit_axes(self, mocks, catalogue):
        galaxies = mocks.populate(CROWDED, 1)
        assert galaxies.positions.dtype == galaxies.axes.dtype == np.float64
        assert galaxies.positions.min() >= 0 and galaxies.positions.max() < catalogue.Lbox
        np.testing.assert_allclose(np.linalg.norm(galaxies.axes, axis=1), 1.0, rtol=1e-14)

    def test_centrals_sit_at_their_host(self, mocks, catalogue):
        galaxies = mocks.populate(point(), 1)
        offset = radius_vectors(catalogue, galaxies)[galaxies.is_central]
        assert np.abs(offset).max() == 0

    def test_satellites_sit_on_the_first_ranked_subhalos(self, mocks, catalogue):
        galaxies = mocks.populate(point(), 1)
        satellite = ~galaxies.is_central
        hosts = galaxies.host[satellite]
        expected = np.concatenate(
            [
                catalogue.offset[catalogue.first_subhalo[h] : catalogue.first_subhalo[h] + n]
                for h, n in zip(*np.unique(hosts, return_counts=True), strict=True)
            ]
        )
        found = radius_vectors(catalogue, galaxies)[satellite]
        found = found[np.argsort(hosts, kind="stable")]
        np.testing.assert_allclose(found, expected, atol=1e-9)

    def test_numbers_agree_with_the_occupation_formulas(self, mocks, catalogue):
        n = 40
        counts = mocks.realisations(point(), n, seed=1)
        log_mass = torch.as_tensor(catalogue.log_mass)
        names = ("logMmin", "sigma_logM", "logM0", "logM1", "alpha")
        logMmin, sigma, logM0, logM1, alpha = (torch.tensor(OCCUPATION[name], dtype=torch.float64) for name in names)
        ncen = mean_ncen(log_mass, logMmin, sigma).numpy()
        nsat = mean_nsat(log_mass, logM0, logM1, alpha).numpy()
        n_cen = counts.n_gal - counts.n_sat
        assert abs(n_cen.mean() - ncen.sum()) < 5 * np.sqrt((ncen * (1 - ncen)).sum() / n)
        assert abs(counts.n_sat.mean() - nsat.sum()) < 5 * np.sqrt(nsat.sum() / n)
        assert n_cen.var(ddof=1) == pytest.approx((ncen * (1 - ncen)).sum(), rel=5 * np.sqrt(2 / n))
        assert counts.n_sat.var(ddof=1) == pytest.approx(nsat.sum(), rel=5 * np.sqrt(2 / n))


class TestBorrowing:
    def test_occurs_exactly_where_ranks_exceed_subhalos(self, mocks, catalogue):
        galaxies = mocks.populate(CROWDED, 1)
        hosts = galaxies.host
        n_sat = np.bincount(hosts[~galaxies.is_central], minlength=len(catalogue.mass))
        n_borrowed = np.bincount(hosts[galaxies.is_borrowed], minlength=len(catalogue.mass))
        assert np.array_equal(n_borrowed, np.maximum(n_sat - catalogue.n_subhalos, 0))
        assert n_borrowed.sum() > 100

    def test_does_not_occur_where_subhalos_suffice(self, mocks):
        assert mocks.realisations(point(), 2).n_borrowed.sum() == 0

    def test_donors_are_uniform_over_the_subhalos_of_the_mass_bin(self, mocks, catalogue):
        """Borrowed positions are the offsets of sub-halos of the same mass bin: any host's, the borrower's included."""
        donor_bin = np.digitize(catalogue.log_mass[catalogue.subhalo_host], mocks.log_mass_edges)
        host_bin = np.digitize(catalogue.log_mass, mocks.log_mass_edges)
        chosen = 4
        donors = catalogue.offset[donor_bin == chosen]
        donor_hosts = catalogue.subhalo_host[donor_bin == chosen]
        picks, own = [], 0
        for seed in range(6):
            galaxies = mocks.populate(CROWDED, seed)
            hosts = galaxies.host
            taken = galaxies.is_borrowed & (host_bin[hosts] == chosen)
            offsets = radius_vectors(catalogue, galaxies)[taken]
            distance = np.abs(offsets[:, None] - donors[None]).max(axis=-1)
            assert distance.min(axis=1).max() < 1e-9
            pick = distance.argmin(axis=1)
            own += np.sum(donor_hosts[pick] == hosts[taken])
            picks.append(pick)
        picks = np.concatenate(picks)
        assert len(picks) > 1000
        counts = np.bincount(picks, minlength=len(donors))
        mean = len(picks) / len(donors)
        assert np.sum((counts - mean) ** 2 / mean) == pytest.approx(len(donors), abs=5 * np.sqrt(2 * len(donors)))
        assert counts.max() <= poisson.isf(1e-6 / len(donors), mean)
        assert own > 0

    def test_borrowed_satellites_point_along_their_own_radius(self, mocks, catalogue):
        galaxies = mocks.populate(CROWDED | dict(mu_sat=1.0), 1)
        radius = radius_vectors(catalogue, galaxies)
        away = galaxies.is_borrowed & (np.linalg.norm(radius, axis=1) > 1e-3)
        np.testing.assert_allclose(p2(galaxies.axes[away], radius[away]), 1.0, atol=1e-5)


class TestOrientations:
    def test_isotropic_without_alignment(self, mocks, catalogue):
        galaxies = mocks.populate(point(mu_cen=0.0, mu_sat=0.0, logMmin=11.0), 1)
        for i in range(3):
            assert kstest(galaxies.axes[:, i], "uniform", (-1, 2)).pvalue > 1e-4
        central = galaxies.is_central
        cosine = np.sum(galaxies.axes * catalogue.axis[galaxies.host], axis=1)[central]
        assert kstest(cosine, "uniform", (-1, 2)).pvalue > 1e-4

    def test_perfect_alignment_is_exact(self, mocks, catalogue):
        galaxies = mocks.populate(point(mu_cen=1.0, mu_sat=1.0), 1)
        central = galaxies.is_central
        hosts = galaxies.host
        np.testing.assert_allclose(p2(galaxies.axes[central], catalogue.axis[hosts[central]]), 1.0, atol=1e-5)
        radius = radius_vectors(catalogue, galaxies)[~central]
        away = np.linalg.norm(radius, axis=1) > 1e-3
        np.testing.assert_allclose(p2(galaxies.axes[~central][away], radius[away]), 1.0, atol=1e-5)

    def test_perfect_antialignment_is_exact(self, mocks, catalogue):
        galaxies = mocks.populate(point(mu_cen=-1.0, mu_sat=-1.0), 1)
        central = galaxies.is_central
        hosts = galaxies.host
        np.testing.assert_allclose(p2(galaxies.axes[central], catalogue.axis[hosts[central]]), -0.5, atol=1e-5)

    # 0.99912 lies in a gap of halotools' sampler; 1e-17 is divided by in it
    @pytest.mark.parametrize("mu", [-0.99912, -0.6, -1e-17, 1e-17, 0.3, 0.9, 0.99912, 0.9999])
    def test_mean_alignment_follows_the_dimroth_watson_law(self, mocks, catalogue, mu):
        galaxies = mocks.populate(point(mu_cen=mu, logMmin=11.0), 1)
        central = galaxies.is_central
        values = p2(galaxies.axes[central], catalogue.axis[galaxies.host[central]])
        expected = float(mean_p2(torch.tensor(mu, dtype=torch.float64)))
        # halotools takes the limit of perfect alignment from mu = 0.99915, where <P2> is 0.998
        assert abs(values.mean() - expected) < 5 * values.std() / np.sqrt(len(values)) + 3e-3


class TestSmooth:
    """Misalignments by inversion."""

    @pytest.mark.parametrize("mu", [(0.8, 0.3), (-0.6, 1.0), (0.0, -0.9)])
    def test_mean_alignment_follows_the_same_law(self, mocks, catalogue, mu):
        galaxies = mocks.populate(point(*mu), 11, smooth=True)
        central = galaxies.is_central
        reference = np.where(central[:, None], catalogue.axis[galaxies.host], radius_vectors(catalogue, galaxies))
        found = p2(galaxies.axes, reference)
        for kind, strength in ((central, mu[0]), (~central, mu[1])):
            error = found[kind].std() / np.sqrt(kind.sum())
            assert found[kind].mean() == pytest.approx(float(mean_p2(torch.tensor(strength))), abs=4 * error + 1e-5)

    def test_galaxies_are_those_of_the_other_mocks_but_for_their_axes(self, mocks):
        smooth, other = (mocks.populate(point(), 3, smooth=smooth) for smooth in (True, False))
        assert np.array_equal(smooth.positions, other.positions)
        assert not np.array_equal(smooth.axes, other.axes)
        assert np.array_equal(mocks.populate(point(), 3).axes, other.axes)  # nothing of it stays

    def test_axes_move_with_the_strength_continuously(self, mocks):
        def turned(smooth):
            first, second = (mocks.populate(point(mu, mu), 5, smooth=smooth).axes for mu in (0.5, 0.502))
            return np.sqrt(2.0 * np.maximum(1.0 - np.abs(np.sum(first * second, axis=1)), 0.0))

        assert turned(smooth=True).max() < 0.01
        assert (turned(smooth=False) > 0.1).mean() > 0.02


class TestRealisations:
    def test_sums_are_those_of_the_mocks(self, mocks):
        found = mocks.realisations(point(), 2, seed=7)
        for i, galaxies in enumerate(mocks.iterate(point(), 2, seed=7)):
            sums = count_pairs(galaxies.positions, galaxies.axes, mocks.Lbox, EDGES)
            assert np.array_equal(found.DD[i], sums.DD)
            assert np.array_equal(found.S_eta[i], sums.S_eta)
            assert found.n_sat[i] == np.sum(~galaxies.is_central)

    def test_statistics_agree_with_halotools(self, mocks):
        from halotools.mock_observables import ed_3d, ee_3d, tpcf

        found = mocks.realisations(point(), 1, seed=7)
        galaxies = next(mocks.iterate(point(), 1, seed=7))
        x, e = galaxies.positions, galaxies.axes
        np.testing.assert_allclose(found.xi[0], tpcf(x, EDGES, period=mocks.Lbox), rtol=1e-10)
        np.testing.assert_allclose(found.omega[0], ed_3d(x, e, x, EDGES, period=mocks.Lbox), rtol=0, atol=1e-10)
        np.testing.assert_allclose(found.eta[0], ee_3d(x, e, x, e, EDGES, period=mocks.Lbox), rtol=0, atol=1e-10)

    def test_empty_bins_stay_nan_and_are_counted(self, mocks):
        sparse = point(logMmin=13.0, logM0=13.2, logM1=14.0)
        found = mocks.realisations(sparse, 5, seed=1)
        assert np.array_equal(n_empty(found), np.isnan(found.omega).sum(axis=0))
        assert np.array_equal(n_empty(found), np.isnan(found.eta).sum(axis=0))
        assert n_empty(found).max() > 0 and n_empty(found).min() == 0
        assert np.all(found.xi[found.DD == 0] == -1)

    def test_mocks_without_galaxies_are_allowed(self, mocks):
        found = mocks.realisations(EMPTY, 2)
        assert found.n_gal.tolist() == [0, 0]
        assert np.isnan(found.xi).all() and n_empty(found).tolist() == [2] * 10

    def test_populations_of_one_kind_are_allowed(self, mocks):
        only_centrals = mocks.realisations(point(logM0=16.0, logM1=17.0), 1)
        assert only_centrals.n_sat[0] == 0 and only_centrals.n_gal[0] > 100
        only_satellites = mocks.realisations(point(logMmin=16.0, sigma_logM=0.1), 1)
        assert only_satellites.n_sat[0] == only_satellites.n_gal[0] > 100

    def test_pooled_is_the_ratio_of_sums(self, mocks):
        found = mocks.realisations(point(), 3)
        np.testing.assert_allclose(found.pooled()["omega"], found.S_omega.sum(0) / found.DD.sum(0))

    def test_rebinned_equals_counted_in_coarse_bins(self, mocks):
        fine = union_edges(PAPER_EDGES, TNG_EDGES)
        coarse = mocks.realisations(point(), 2, r_edges=TNG_EDGES)
        rebinned = mocks.realisations(point(), 2, r_edges=fine).rebinned(nesting_matrix(fine, TNG_EDGES), TNG_EDGES)
        np.testing.assert_allclose(rebinned.xi, coarse.xi, rtol=1e-6)
        np.testing.assert_allclose(rebinned.omega, coarse.omega, atol=1e-9, equal_nan=True)

    def test_boxes_add(self, mocks):
        found = mocks.realisations(point(), 2)
        assert np.array_equal((found + found).DD, 2 * found.DD)
        with pytest.raises(ValueError, match="equal in number"):
            found + mocks.realisations(point(), 1)


def expected_sums(catalogue, theta, r_edges):
    """Expected DD, S_omega and S_eta by weighted sums over all pairs of tracers; without borrowed satellites."""
    names = ("logMmin", "sigma_logM", "logM0", "logM1", "alpha")
    logMmin, sigma, logM0, logM1, alpha = (torch.tensor(theta[name], dtype=torch.float64) for name in names)
    log_mass = torch.as_tensor(catalogue.log_mass)
    q_cen, q_sat = mean_p2(torch.tensor([theta["mu_cen"], theta["mu_sat"]], dtype=torch.float64)).tolist()
    n_hosts, host = len(catalogue.mass), catalogue.subhalo_host
    nsat = mean_nsat(log_mass, logM0, logM1, alpha).numpy()
    rank = np.arange(len(host)) - catalogue.first_subhalo[host] + 1
    weight = np.concatenate([mean_ncen(log_mass, logMmin, sigma).numpy(), poisson.sf(rank - 1, nsat[host])])
    radius = np.linalg.norm(catalogue.offset, axis=1, keepdims=True)
    kept = weight > 1e-9
    position = np.concatenate([catalogue.position, catalogue.position[host] + catalogue.offset])[kept]
    axis = np.concatenate([catalogue.axis, catalogue.offset / radius])[kept]
    q = np.where(np.arange(len(weight)) < n_hosts, q_cen, q_sat)[kept]
    host = np.concatenate([-1 - np.arange(n_hosts), host])[kept]  # negative: centrals, independent of satellites
    weight = weight[kept]
    sums = np.zeros((3, len(r_edges) - 1))
    for rows in np.array_split(np.arange(len(weight)), 40):
        d = position[rows, None] - position[None]
        d -= catalogue.Lbox * np.round(d / catalogue.Lbox)
        r2 = np.sum(d**2, axis=-1)
        i, j = np.nonzero((r2 > r_edges[0] ** 2) & (r2 <= r_edges[-1] ** 2))
        d, r2, i = d[i, j], r2[i, j], rows[i]
        # Of two sub-halos of one host, the higher rank is occupied only if the lower one is.
        pair = np.where(host[i] == host[j], np.minimum(weight[i], weight[j]), weight[i] * weight[j])
        along = np.sum(axis[i] * d, axis=1) ** 2 / r2 - 1 / 3
        cosine = np.sum(axis[i] * axis[j], axis=1) ** 2 - 1 / 3
        which = np.searchsorted(r_edges**2, r2) - 1
        for row, values in zip(sums, (pair, pair * q[i] * along, pair * q[i] * q[j] * cosine), strict=True):
            row += np.bincount(which, weights=values, minlength=len(row))
    return sums


def test_mocks_scatter_about_the_exact_expectation(mocks, catalogue):
    """Occupation, ranks, positions and orientations at once: the identities that the tables rest on."""
    n = 150
    DD, S_omega, S_eta = expected_sums(catalogue, point(), EDGES)
    found = mocks.realisations(point(), n, seed=3)
    assert found.n_borrowed.sum() == 0
    for z in (found.DD - DD, found.S_omega - S_omega / DD * found.DD, found.S_eta - S_eta / DD * found.DD):
        t2 = n * z.mean(axis=0) @ np.linalg.solve(np.cov(z, rowvar=False), z.mean(axis=0))
        n_bins = z.shape[1]
        assert f_distribution.sf(t2 * (n - n_bins) / (n_bins * (n - 1)), n_bins, n - n_bins) > 1e-3
        assert np.abs(z.mean(axis=0) / z.std(axis=0, ddof=1) * np.sqrt(n)).max() < 4.5


class TestForwardModel:
    """:class:`MockEnsemble`, which predicts by these mocks."""

    @pytest.fixture(scope="class")
    @classmethod
    def ensemble(cls):
        return MockEnsemble(["pm40"], n_realisations=3, seed=2, support=Support(logMmin=(11.5, 14.0)))

    def test_is_made_of_the_mocks_of_its_seed(self, mocks, ensemble):
        prediction, single = ensemble.predict(point(), EDGES), ensemble.single(point(), EDGES)
        seeds = [np.random.SeedSequence([2], spawn_key=(0, i)) for i in range(3)]
        found = concatenate([mocks.realisations(point(), 1, seed, smooth=True) for seed in seeds])
        np.testing.assert_allclose(prediction.xi, found.pooled()["xi"])
        np.testing.assert_allclose(single["xi"].mean(axis=0), found.xi.mean(axis=0))
        np.testing.assert_allclose(single["omega"].std(axis=0, ddof=1), found.omega.std(axis=0, ddof=1))
        assert prediction.n_gal == pytest.approx(found.n_gal.mean() / 40.0**3)

    def test_predicts_what_it_is_asked_for(self, ensemble):
        prediction = ensemble.predict(point(mu_cen=-0.5), EDGES[:4], statistics=("omega",))
        assert isinstance(prediction.omega, np.ndarray) and prediction.omega.shape == (3,)
        assert prediction.xi is None

    def test_keeps_the_contract_of_forward_models(self, ensemble):
        assert isinstance(ensemble, ForwardModel)

    def test_support_is_enforced(self, ensemble):
        with pytest.raises(SupportError, match="logMmin = 11"):
            ensemble.predict(point(logMmin=11.0), EDGES)


class TestErrors:
    @pytest.mark.parametrize(
        "changes, message",
        [
            (dict(sigma_logM=0.0), "sigma_logM = 0 must be positive"),
            (dict(mu_cen=1.5), r"mu_cen = 1.5 must lie in \[-1, 1\]"),
            (dict(mu_sat=-1.01), "mu_sat = -1.01"),
        ],
    )
    def test_unphysical_parameters(self, mocks, changes, message):
        with pytest.raises(ValueError, match=message):
            mocks.populate(point() | changes, 1)

    def test_several_points_at_once(self, mocks):
        with pytest.raises(ValueError, match="One mock has one parameter point"):
            mocks.populate(np.zeros((2, 7)), 1)

    def test_too_few_realisations(self, mocks):
        with pytest.raises(ValueError, match="at least"):
            mocks.realisations(point(), 0)
        with pytest.raises(ValueError, match="at least"):
            MockEnsemble(["pm40"], n_realisations=1)

    def test_missing_halotools_names_the_extra(self, catalogue, monkeypatch):
        monkeypatch.setitem(sys.modules, "halotools.empirical_models", None)
        with pytest.raises(ImportError, match=r"It takes: pip install 'iaemu-cobaya\[training\]'$"):
            HalotoolsMocks(catalogue)

    def test_missing_column(self, catalogue):
        halocat = catalogue.to_halotools()
        halocat.halo_table.remove_column("halo_axisA_y")
        with pytest.raises(ValueError, match="halo_axisA_y"):
            HalotoolsMocks(halocat)


class TestCatalogues:
    def test_halotools_catalogue_gives_the_same_mocks(self, mocks, catalogue):
        direct = HalotoolsMocks(catalogue.to_halotools(), EDGES)
        assert np.array_equal(direct.populate(point(), 3).axes, mocks.populate(point(), 3).axes)

    def test_halos_without_an_axis_are_removed_with_their_subhalos(self, catalogue):
        halocat = catalogue.to_halotools()
        massive = len(catalogue.mass) - 1
        row = np.flatnonzero(halocat.halo_table["halo_id"] == massive)[0]
        for x in "xyz":
            halocat.halo_table[f"halo_axisA_{x}"][row] = 0.0
        galaxies = HalotoolsMocks(halocat).populate(point(), 1)
        assert massive not in galaxies.host

    def test_small_boxes_get_fewer_mass_bins(self, mocks, catalogue):
        np.testing.assert_allclose(mocks.log_mass_edges, np.linspace(10.5, 15.2, 15)[:13])
        assert np.array_equal(mocks.log_mass_edges, catalogue.borrowing_edges)


class TestMassBins:
    FULL = np.linspace(10.5, 15.2, 15)
    CENTRES = 0.5 * (FULL[1:] + FULL[:-1])

    def test_full_range_is_the_papers(self):
        assert np.array_equal(subhalo_mass_bins(self.CENTRES, np.repeat(self.CENTRES, 2)), self.FULL)

    def test_bins_without_hosts_at_either_end_are_dropped(self):
        edges = subhalo_mass_bins(self.CENTRES[2:10], np.repeat(self.CENTRES[2:10], 2))
        assert np.array_equal(edges, self.FULL[2:11])

    def test_bins_with_too_few_subhalos_are_merged_downwards(self):
        edges = subhalo_mass_bins(self.CENTRES, np.repeat(np.delete(self.CENTRES, [5, 13]), 2))
        assert np.array_equal(edges, np.delete(self.FULL, [5, 13]))

    def test_lowest_bin_is_merged_upwards(self):
        edges = subhalo_mass_bins(self.CENTRES, np.repeat(self.CENTRES[1:], 2))
        assert np.array_equal(edges, np.delete(self.FULL, 1))

    @pytest.mark.parametrize("mass", [10.4, 15.3])
    def test_masses_beyond_the_bins_are_refused(self, mass):
        with pytest.raises(ValueError, match=r"between 10\^10.5 and 10\^15.2"):
            subhalo_mass_bins([12.0, mass], [12.0, 12.0])

    def test_too_few_subhalos_are_refused(self):
        with pytest.raises(ValueError, match="at least two sub-halos"):
            subhalo_mass_bins([12.0, 13.0], [12.0])


def test_importing_the_module_does_not_import_halotools():
    import subprocess

    code = "import sys, iaemu_training.mocks.halotools; sys.exit('halotools' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_results_are_a_plain_record():
    record = MockRealisations(EDGES, *np.ones((4, 2, 10)), *np.ones((3, 2), dtype=int))
    assert len(record) == 2 and (record.n_borrowed / record.n_sat).tolist() == [1.0, 1.0]
