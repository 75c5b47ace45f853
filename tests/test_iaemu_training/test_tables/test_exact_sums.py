"""Exact sums against brute force over all places of all galaxies, and against the mean of mocks."""

from itertools import combinations

import numpy as np
import pytest
from scipy.special import erf
from scipy.stats import poisson

pytest.importorskip("numba")

from iaemu.binning import shell_volumes
from iaemu_training.halos.catalogue import HaloCatalogue
from iaemu_training.pairs.galaxies import count_pairs
from iaemu_training.pairs.tracers import radial
from iaemu_training.pairs.weighted import QUANTITIES
from iaemu_training.tables.exact import ExactSettings, exact_sums
from iaemu_training.tables.tracers import Donors
from iaemu_training.work.kernels import LIMIT

EDGES = np.array([0.1, 0.25, 0.5, 1.0, 2.0, 5.0])
#: Steep, so that most hosts borrow, and gentle, so that none does; centrals of all probabilities.
BORROWING, OWN = (12.3, 0.5, 11.2, 11.8, 0.9), (12.3, 0.5, 12.7, 13.0, 1.0)
#: Every donor is used.
ALL = ExactSettings(dropped=0.0, donor_pairs=10**7, draws=10**7)


@pytest.fixture(scope="module")
def catalogue():
    """Thirty hosts with few sub-halos, in two coarse mass bins of which one has sub-halos at small radii only."""
    rng = np.random.default_rng(3)
    mass = np.sort(10 ** rng.uniform(11.6, 13.2, 30))
    number = rng.poisson(0.4 * (mass / 10**12.0))
    number[:2], number[-1] = 2, 7
    offset = rng.normal(size=(number.sum(), 3)) * np.repeat(0.2 * (mass / 10**12.0) ** (1 / 3), number)[:, None]
    offset[:3] *= 0.05
    offset[6] = 0.0  # at the centre of its host: no axis
    axis = rng.normal(size=(30, 3))
    axis /= np.linalg.norm(axis, axis=1, keepdims=True)
    return HaloCatalogue("small", 11.0, rng.uniform(0, 11.0, (30, 3)), mass, axis, number.astype(int), offset)


def occupation(catalogue, theta):
    logMmin, sigma, logM0, logM1, alpha = theta
    ncen = 0.5 * (1.0 + erf((catalogue.log_mass - logMmin) / sigma))
    return ncen, (np.maximum(catalogue.mass - 10**logM0, 0.0) / 10**logM1) ** alpha


def brute_force(catalogue, theta, n_ranks=60):
    """Sum over pairs of galaxies (central, rank 1, 2, ...) and over all places that both can have, (6, n_bins)."""
    ncen, nsat = occupation(catalogue, theta)
    donors = Donors.of(catalogue)
    sums = np.zeros((6, len(EDGES) - 1))

    def add(weight, places, others, kinds):
        """Add one order of the pairs of two sets of places, (x, axis) each, with weights (n, m) and one kind each."""
        (x, a), (y, b) = places, others
        d = y[None] - x[:, None]
        d -= catalogue.Lbox * np.round(d / catalogue.Lbox)
        r = np.linalg.norm(d, axis=-1)
        norm_a, norm_b = np.sum(a**2, axis=1)[:, None], np.sum(b**2, axis=1)[None]
        omega = (np.einsum("id,ijd->ij", a, d) / np.where(r > 0, r, 1.0)) ** 2 - norm_a / 3
        eta = (a @ b.T) ** 2 - norm_a * norm_b / 3
        where = np.searchsorted(EDGES, r) - 1
        inside = (where >= 0) & (where < len(EDGES) - 1)
        weight = np.broadcast_to(weight, r.shape)
        half = 0.5 if sum(kinds) == 1 else 1.0
        for row, term in ((0, 1.0), (1 + kinds[0], omega), (3 + sum(kinds), half * eta)):
            np.add.at(sums[row], where[inside], (weight * term)[inside])

    everything = []
    for h in range(len(catalogue.mass)):
        first, own = catalogue.first_subhalo[h], catalogue.n_subhalos[h]
        offset = catalogue.offset[first : first + own]
        borrowed = catalogue.offset[donors.order[slice(*donors.first[donors.bin_of_host[h] + np.array([0, 1])])]]
        tail = poisson.sf(np.arange(n_ranks) - 1, nsat[h])  # P(N >= rank)
        missing = tail[own + 1 :]
        both = sum(min(pair) for pair in combinations(missing, 2))
        # (weight, kind, positions, axes) of galaxies with places of their own; all borrowed ones have the same places.
        galaxies = [(ncen[h], 0, catalogue.position[h][None], catalogue.axis[h][None])]
        galaxies += [(tail[k + 1], 1, catalogue.position[h] + d[None], radial(d[None])) for k, d in enumerate(offset)]
        galaxies += [(missing.sum(), 1, catalogue.position[h] + borrowed, radial(borrowed))]
        for (p, kind, x, a), (q, other, y, b) in combinations(galaxies, 2):
            # Of two sub-halos the larger rank decides; a borrowed satellite has a larger rank than all of them.
            together = p * q if kind == 0 else q
            add(together / len(y), (x, a), (y, b), (kind, other))
            add(together / len(y), (y, b), (x, a), (other, kind))
        add(2 * both / len(y) ** 2, (y, b), (y, b), (1, 1))
        everything += [(h, p / len(x), kind, x, a) for p, kind, x, a in galaxies]
    host, weight, kind = (np.concatenate([np.full(len(part[3]), part[i]) for part in everything]) for i in (0, 1, 2))
    x, a = (np.concatenate([part[i] for part in everything]) for i in (3, 4))
    for h in range(len(catalogue.mass)):
        for one in (0, 1):
            mine = (host == h) & (kind == one)
            for two in (0, 1):
                theirs = (host != h) & (kind == two)
                together = weight[mine][:, None] * weight[theirs]
                add(together, (x[mine], a[mine]), (x[theirs], a[theirs]), (one, two))
    return sums


@pytest.mark.parametrize("theta", [OWN, BORROWING], ids=["own", "borrowing"])
def test_sums_are_those_of_brute_force(catalogue, theta):
    found = exact_sums([catalogue], theta, EDGES, ALL)
    assert found.borrowed > 0.4 if theta is BORROWING else found.borrowed < 0.02
    expected = brute_force(catalogue, theta)
    for name, values in zip(QUANTITIES, expected, strict=True):
        np.testing.assert_allclose(getattr(found.total, name)[0], values, rtol=1e-9, atol=1e-11, err_msg=name)
        np.testing.assert_allclose(found.one_halo[name] + found.two_halo[name], values, rtol=1e-9, atol=1e-11)


def test_few_draws_are_right_on_average(catalogue):
    expected = exact_sums([catalogue], BORROWING, EDGES, ALL)
    few = [
        exact_sums([catalogue], BORROWING, EDGES, ExactSettings(donor_pairs=40, draws=60, seed=s)) for s in range(80)
    ]
    for name in QUANTITIES:
        values = np.array([getattr(sums.total, name)[0].numpy() for sums in few])
        error = values.std(axis=0, ddof=1) / np.sqrt(len(values))
        truth = getattr(expected.total, name)[0].numpy()
        assert np.all(np.abs(values.mean(axis=0) - truth) <= 4.5 * error + 1e-4 * np.abs(truth).max()), name
        assert name == "E_cc" or error.max() > 0


def mock(catalogue, theta, donors, rng):
    """Draw a mock with perfectly aligned galaxies: positions and axes."""
    ncen, nsat = occupation(catalogue, theta)
    hosts = np.flatnonzero(rng.uniform(size=len(ncen)) < ncen)
    number = rng.poisson(nsat)
    host = np.repeat(np.arange(len(number)), number)
    rank = np.arange(len(host)) - np.repeat(np.cumsum(number) - number, number)
    group = donors.bin_of_host[host]
    any_donor = donors.order[donors.first[group] + (rng.uniform(size=len(host)) * donors.number(group)).astype(int)]
    own = rank < catalogue.n_subhalos[host]
    which = np.where(own, catalogue.first_subhalo[host] + rank, any_donor)
    offset = catalogue.offset[which]
    axis = radial(offset)
    central = np.all(axis == 0, axis=1)  # halotools draws a random axis
    axis[central] = rng.normal(size=(central.sum(), 3))
    position = np.concatenate([catalogue.position[hosts], catalogue.position[host] + offset])
    return np.mod(position, catalogue.Lbox), np.concatenate([catalogue.axis[hosts], axis])


def test_sums_are_the_mean_of_mocks(catalogue):
    rng, donors, n = np.random.default_rng(5), Donors.of(catalogue), 1500
    mocks = [mock(catalogue, BORROWING, donors, rng) for _ in range(n)]
    counted = np.array([count_pairs(x, e, catalogue.Lbox, EDGES) for x, e in mocks])
    found = exact_sums([catalogue] * 2, BORROWING, EDGES, ALL).total
    expected = [found.DD, found.A_c + found.A_s, found.E_cc + 2 * found.E_cs + found.E_ss]
    t = (counted.mean(axis=0) - np.array([values[0].numpy() / 2 for values in expected])) / counted.std(axis=0)
    assert np.abs(t * np.sqrt(n)).max() < 3.5
    pairs = np.array([len(x) ** 2 for x, _ in mocks])
    expected = pairs.mean() * shell_volumes(EDGES) / catalogue.Lbox**3
    np.testing.assert_allclose(found.RR[0] / 2, expected, rtol=4 * pairs.std() / pairs.mean() / np.sqrt(n))
    assert float(found.n_galaxies) == pytest.approx(np.mean([len(x) for x, _ in mocks]), rel=0.01)


def test_sums_do_not_depend_on_threads(pm40):
    few = ExactSettings(donor_pairs=10**5, draws=10**4)
    found = []
    for threads in (1, 2):
        token = LIMIT.set(threads)
        found.append(exact_sums([pm40], (11.6, 0.2, 10.2, 12.6, 0.9), EDGES, few))
        LIMIT.reset(token)
    one, two = found
    assert one.borrowed > 0.05
    for name in QUANTITIES:
        np.testing.assert_array_equal(getattr(one.total, name), getattr(two.total, name))


@pytest.mark.parametrize("theta", [(12.54, 0.26, 12.68, 13.48, 1.0), (12.6, 0.6, 11.8, 13.6, 0.7)])
def test_what_is_dropped_does_not_matter(pm40, theta):
    edges = np.array([0.1, 0.5, 2.0, 8.0])
    some, everything = (
        exact_sums([pm40], theta, edges, ExactSettings(dropped, 10**5, 10**4)) for dropped in (1e-6, 0.0)
    )
    assert everything.borrowed < 1e-6
    for name in QUANTITIES:
        one, two = (getattr(sums.total, name)[0].numpy() for sums in (some, everything))
        np.testing.assert_allclose(one, two, rtol=2e-5, atol=2e-6 * np.abs(two).max(), err_msg=name)


def test_factors_of_orientations_multiply_their_sums(catalogue):
    few = (12.3, 0.5, 12.9, 13.6, 1.0)  # no satellites to borrow
    whole = exact_sums([catalogue], few, EDGES, ALL).total
    found = exact_sums([catalogue], few, EDGES, ALL, lambda c: (np.full(30, 0.25), np.full(len(c.offset), 0.49))).total
    powers = {"DD": 1.0, "A_c": 0.25, "A_s": 0.49, "E_cc": 0.25**2, "E_cs": 0.25 * 0.49, "E_ss": 0.49**2}
    for name, power in powers.items():
        np.testing.assert_allclose(getattr(found, name), power * getattr(whole, name), rtol=1e-7, atol=1e-10)
    with pytest.raises(ValueError, match=r"A factor of orientations is -0\.1"):
        exact_sums([catalogue], few, EDGES, ALL, lambda c: (np.full(30, -0.1), np.ones(len(c.offset))))
    with pytest.raises(ValueError, match="of the satellites are borrowed"):
        exact_sums([catalogue], BORROWING, EDGES, ALL, lambda c: (np.ones(30), np.ones(len(c.offset))))
