"""w_gg, w_g+, w_++ and the quadrupole where the truth is known, their errors, and what is refused."""

import numpy as np
import pytest

pytest.importorskip("numba")

from iaemu.measurement import Measurement, MeasurementError
from iaemu.statistics import PROJECTED
from iaemu_training.measuring.estimators import MeasureWarning, draw
from iaemu_training.measuring.projected import largest_pi_max, measure_projected
from iaemu_training.pairs.galaxies_by_region import spiral

LBOX, PI_MAX = 40.0, 12.0
EDGES = np.array([0.5, 2.0, 4.0, 8.0])


def poisson(n, seed):
    rng = np.random.default_rng(seed)
    return rng.uniform(0, LBOX, (n, 3)), rng.normal(size=(n, 3))


def aligned(seed=1, n=150):
    """Elongated clusters whose galaxies point at the centre, more or less."""
    rng = np.random.default_rng(seed)
    centres = np.repeat(rng.uniform(0, LBOX, (n, 3)), 10, axis=0)
    offset = rng.normal(scale=1.2, size=centres.shape)
    return np.mod(centres + offset, LBOX), offset + 0.5 * rng.normal(size=offset.shape)


def values(x, e, lines=3, names=("w_gg", "w_gplus"), edges=EDGES, pi_max=PI_MAX, regions=4):
    bins = measure_projected(x, e, LBOX, edges, pi_max, lines, regions, names, joint=False).bins
    return {name: bins[name].value for name in names}


@pytest.mark.parametrize("lines, tolerance", [(3, 0.2), (spiral(40), 0.06), ("all", 0.01)], ids=["3", "40", "all"])
def test_radial_pairs_give_the_analytic_value(lines, tolerance):
    """Pairs far from each other, of separation 1.3 to 1.7 in all directions, whose members point at each other."""
    n, pi_max, edges = 512, 1.4, np.array([0.4, 0.9, 1.2, 1.5])
    r = np.random.default_rng(1).permutation(np.linspace(1.3, 1.7, n))[:, None]
    centres = np.stack(np.meshgrid(*[np.arange(8) * 5.0 + 2.5] * 3), axis=-1).reshape(-1, 3)
    u = spiral(n)
    x, e = np.concatenate([centres, np.mod(centres + r * u, LBOX)]), np.concatenate([u, -2.0 * u])
    found = values(x, e, lines, edges=edges, pi_max=pi_max)
    # Of both orders, those with |Pi| = r mu < pi_max and r_p in the bin, each with eps_+ = 1 - mu^2
    mu = np.minimum(np.sqrt(np.clip(1.0 - (edges / r) ** 2, 0.0, None)), pi_max / r)
    pairs, plus = (-2 * np.diff(part).sum(axis=0) for part in (mu, mu - mu**3 / 3))
    per_depth = (2 * n) ** 2 * np.pi * np.diff(edges**2) / LBOX**3
    assert found["w_gplus"] == pytest.approx(plus / per_depth, rel=tolerance)
    assert found["w_gg"] == pytest.approx(pairs / per_depth - 2 * pi_max, rel=tolerance)


def test_tangential_pairs_are_negative():
    x, e = aligned()
    around = np.cross(e, np.random.default_rng(2).normal(size=e.shape))
    for lines in (3, "all"):
        assert values(x, e, lines)["w_gplus"][0] > 0 > values(x, around, lines)["w_gplus"][0]


def test_lines_of_sight_are_averaged_and_have_no_sign_or_length():
    x, e = aligned()
    each = [values(x, e, [line], PROJECTED) for line in np.eye(3)]
    for name, found in values(x, e, 3, PROJECTED).items():
        assert found == pytest.approx(np.mean([one[name] for one in each], axis=0))
        assert values(x, e, 2, PROJECTED)[name] == pytest.approx(0.5 * (each[1][name] + each[2][name]))
        assert values(x, e, [[0.0, 0.0, -3.0]], PROJECTED)[name] == pytest.approx(values(x, e, 1, PROJECTED)[name])


def test_turned_galaxies_give_the_same_along_turned_lines():
    """Cubes allow turns by 90 degrees; lines are in no special direction."""
    x, e = aligned()
    lines = np.array([[1.0, 2.0, -0.5], [0.3, -1.0, 1.0]])
    turn = np.array([[0.0, 1.0, 0.0], [0.0, 0.0, 1.0], [1.0, 0.0, 0.0]]) @ np.diag([1.0, -1.0, 1.0])
    turned = values(np.mod(x @ turn.T, LBOX), e @ turn.T, lines @ turn.T, PROJECTED)
    for name, found in values(x, e, lines, PROJECTED).items():
        assert turned[name] == pytest.approx(found)


def test_many_lines_of_sight_tend_to_all_of_them():
    x, e = aligned()
    names = ("w_gg", "w_gplus", "xi_gplus_2")
    every, many = values(x, e, "all", names), values(x, e, spiral(60), names)
    for name in names:
        assert many[name] == pytest.approx(every[name], rel=0.03, abs=0.03 * np.abs(every[name][0]))


def test_unclustered_random_axes_give_zero_with_the_errors_of_poisson_pairs():
    """Along one line, and with regions (10 Mpc/h) shorter than Pi_max: both ends of a pair count."""
    n, n_catalogues, pi_max, edges = 2000, 12, 18.0, np.array([0.5, 2.0, 3.0, 4.0])
    shells = 4 / 3 * np.pi * np.diff(edges**3)
    RR = n**2 / LBOX**3 * np.pi * np.diff(edges**2) * 2 * pi_max
    # <eps_+^2> = 4/15. Both orders of a pair are the same in w_gg and w_++, and independent in w_g+ and xi_g+,2.
    variance = {
        "w_gg": (2 * pi_max) ** 2 * 2 / RR,
        "w_gplus": (2 * pi_max) ** 2 * (4 / 15) / RR,
        "w_plusplus": (2 * pi_max) ** 2 * 2 * (4 / 15) ** 2 / RR,
        "xi_gplus_2": (5 / 8) ** 2 * (8 / 15) * (4 / 15) / (n**2 / LBOX**3 * shells),
    }
    measured = [
        measure_projected(*poisson(n, seed), LBOX, edges, pi_max, 1, 4, PROJECTED, joint=False).bins
        for seed in range(n_catalogues)
    ]
    for name in PROJECTED:
        value = np.array([bins[name].value for bins in measured])
        errors = np.array([bins[name].error for bins in measured])
        assert np.mean(errors**2, axis=0) / variance[name] == pytest.approx(1.0, abs=0.2)
        assert np.abs(value.mean(axis=0)) == pytest.approx(0.0, abs=4 * np.sqrt(variance[name].max() / n_catalogues))
        chi2 = (value**2 / variance[name]).sum()
        assert abs(chi2 - value.size) < 4 * np.sqrt(2 * value.size)


def test_errors_for_all_lines_of_sight_are_the_scatter():
    """And smaller than those along one."""
    measured = [measure_projected(*poisson(2000, seed), LBOX, EDGES, PI_MAX, "all", 4).bins for seed in range(8)]
    for name in ("w_gg", "w_gplus"):
        value = np.array([bins[name].value for bins in measured])
        errors = np.array([bins[name].error for bins in measured])
        ratio = np.mean(errors**2) / np.mean(value**2)
        assert ratio == pytest.approx(1.0, abs=0.5)
    one = measure_projected(*poisson(2000, 0), LBOX, EDGES, PI_MAX, 1, 4).bins
    assert np.all(measured[0]["w_gplus"].error < 0.8 * one["w_gplus"].error)


def test_values_are_those_of_halotools():
    pytest.importorskip("halotools")
    from halotools.mock_observables import gi_plus_projected, ii_plus_projected, wp

    x, e = aligned()
    e /= np.linalg.norm(e, axis=1, keepdims=True)
    eps = e[:, 0] ** 2 + e[:, 1] ** 2
    found = values(x, e, 1, PROJECTED[:3])
    assert found["w_gg"] == pytest.approx(wp(x, EDGES, PI_MAX, period=LBOX))
    plus = gi_plus_projected(x, e[:, :2], eps, x, EDGES, PI_MAX, period=LBOX)
    assert found["w_gplus"] == pytest.approx(plus)
    both = ii_plus_projected(x, e[:, :2], eps, x, e[:, :2], eps, EDGES, PI_MAX, period=LBOX)
    assert found["w_plusplus"] == pytest.approx(both)


def test_a_joint_measurement_is_written_and_read(tmp_path):
    x, e = aligned()
    measured = measure_projected(x, e, LBOX, EDGES, PI_MAX, n_regions_per_side=4, metadata={"redshift": 0.5})
    (covariance,) = measured.covariances
    assert covariance.statistics == ("w_gg", "w_gplus") and covariance.n_regions == 64
    correlation = covariance.matrix / np.sqrt(np.outer(*[np.diag(covariance.matrix)] * 2))
    assert np.abs(correlation[:3, 3:]).max() > 0.1  # clusters make both
    measured.write(tmp_path / "own.txt")
    again = Measurement.read(tmp_path / "own.txt")
    assert again.metadata["pi_max"] == PI_MAX and again.metadata["redshift"] == 0.5
    assert again.metadata["lines_of_sight"] == np.eye(3).tolist() and again.metadata["Lbox"] == LBOX
    assert np.array_equal(again.covariances[0].matrix, covariance.matrix)
    with (tmp_path / "own.png").open("wb") as file:
        draw(again, file)
    assert (tmp_path / "own.png").read_bytes().startswith(b"\x89PNG")


def test_bins_without_pairs_are_left_out():
    arguments = {"pi_max": PI_MAX, "n_regions_per_side": 4, "statistics": "w_gplus"}
    with pytest.warns(MeasureWarning, match=r"w_gplus: left out 0.001-0.002"):
        measured = measure_projected(*aligned(), LBOX, [0.001, 0.002, 1.0], **arguments)
    assert measured.bins["w_gplus"].r_low == pytest.approx([0.002])
    with pytest.raises(MeasurementError, match="w_gplus cannot be measured in any bin"):
        measure_projected(*aligned(), LBOX, [0.001, 0.002], **arguments)


def test_largest_pi_max():
    assert largest_pi_max(100.0, 10.0, 1) == 50.0  # the nearest image along each axis is enough
    assert largest_pi_max(100.0, 30.0, "all") == pytest.approx(40.0)
    most = largest_pi_max(40.0, 12.0, 3.0 * np.array([[1.0, 1.0, 0.0]]))
    assert most == pytest.approx(20.0 * np.sqrt(2) - 12.0)  # along x and y
    assert largest_pi_max(40.0, 3.0, np.ones((1, 3))) == 20.0  # not more than half of the box
    assert largest_pi_max(40.0, 21.0, 1) == 0.0


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"pi_max": None}, "pi_max is missing.*40 Mpc/h with r_p up to 8 Mpc/h it may be up to 20 Mpc/h"),
        ({"pi_max": 25.0}, "pi_max = 25 Mpc/h is too large.*up to 20 Mpc/h"),
        ({"pi_max": 19.0, "lines_of_sight": "all"}, "too large.*up to 18.33 Mpc/h"),
        ({"pi_max": -1.0}, "pi_max"),
        ({"pi_max": "60"}, "pi_max"),
        ({"lines_of_sight": 4}, "lines_of_sight must be 1, 2 or 3 axes of the box, 'all'.*got 4"),
        ({"lines_of_sight": [[0.0, 0.0, 0.0]]}, "length above 0"),
        ({"lines_of_sight": [1.0, 0.0, 0.0]}, r"shape \(n, 3\)"),
        ({"lines_of_sight": "z"}, "got 'z'"),
        ({"statistics": "xi"}, "w_gg, w_gplus, w_plusplus, xi_gplus_2; got xi"),
        ({"statistics": []}, "got none"),
        ({"statistics": 3}, "got 3"),
        ({"statistics": "w_plusplus", "lines_of_sight": "all"}, "w_plusplus does not follow"),
        ({"n_regions_per_side": 6}, "at most 5 regions"),
        ({"rp_edges": [1.0, 30.0]}, "Lbox / 2"),
        ({"metadata": 3}, "metadata must be a mapping"),
    ],
)
def test_what_cannot_be_measured_is_refused(changes, message):
    arguments = {"rp_edges": EDGES, "pi_max": PI_MAX, "n_regions_per_side": 4} | changes
    with pytest.raises(ValueError, match=message):
        measure_projected(*poisson(50, 1), LBOX, **arguments)
