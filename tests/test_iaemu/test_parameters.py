"""Parameters and their support: shapes, names, the tube, policies."""

import re

import numpy as np
import pytest
import torch

from iaemu.parameters import PARAMETERS, ZHENG07_LINE, Support, SupportError, SupportWarning, as_theta

SAMPLE1 = dict(mu_cen=0.8, mu_sat=0.3, logMmin=12.54, sigma_logM=0.26, logM0=12.68, logM1=13.48, alpha=1.0)


@pytest.fixture
def support():
    return Support(logMmin=(11.5, 14.0), log_mass_complete=11.0172)


def test_order_is_the_papers():
    assert PARAMETERS == ("mu_cen", "mu_sat", "logMmin", "sigma_logM", "logM0", "logM1", "alpha")


def test_mapping_array_and_tensor_give_the_same_point():
    values = [SAMPLE1[name] for name in PARAMETERS]
    shuffled = {name: SAMPLE1[name] for name in reversed(PARAMETERS)}
    for theta in (shuffled, values, np.array(values), torch.tensor(values, dtype=torch.float64)):
        assert as_theta(theta).tolist() == values


def test_mapping_broadcasts():
    theta = as_theta({**SAMPLE1, "mu_cen": np.linspace(-1, 1, 5), "mu_sat": np.zeros((3, 1))})
    assert theta.shape == (3, 5, 7)


def test_gradients_flow_through_a_mapping():
    mu = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    assert as_theta({**SAMPLE1, "mu_cen": mu}).requires_grad


def test_missing_unknown_wrong_shape_and_nan_are_named():
    with pytest.raises(ValueError, match=r"Missing parameter.*alpha"):
        as_theta({name: value for name, value in SAMPLE1.items() if name != "alpha"})
    with pytest.raises(ValueError, match=r"Unknown parameter.*logMmax"):
        as_theta({**SAMPLE1, "logMmax": 1.0})
    with pytest.raises(ValueError, match=r"shape \(6,\)"):
        as_theta(np.zeros(6))
    with pytest.raises(ValueError, match="logM1 are NaN"):
        as_theta({**SAMPLE1, "logM1": np.nan})


def test_tng_samples_lie_inside(support):
    points = [
        [0.8, 0.3, 12.54, 0.26, 12.68, 13.48, 1.0],
        [0.7, 0.1, 11.93, 0.26, 12.05, 12.85, 1.0],
        [0.6, 0.0, 11.61, 0.26, 11.80, 12.60, 1.0],
    ]
    assert bool(support.contains(points).all())


def test_stepping_over_each_limit_is_refused_by_name(support):
    for name in PARAMETERS:
        low, high = support.bounds(name, SAMPLE1["logMmin"])
        for value in (low - 1e-3, high + 1e-3):
            theta = {**SAMPLE1, name: float(value)}
            assert not bool(support.contains(theta))
            with pytest.raises(SupportError, match=rf"{name} = .* is outside \[.*\].*nearest supported point"):
                support.enforce(theta, "raise")


def test_nearest_is_inside_and_moves_only_what_is_outside(support):
    theta = {**SAMPLE1, "alpha": 3.0}
    nearest = support.nearest(theta)
    assert bool(support.contains(nearest))
    moved = [name for name, a, b in zip(PARAMETERS, nearest, as_theta(theta), strict=True) if a != b]
    assert moved == ["alpha"]
    random = np.random.default_rng(0).uniform([-2, -2, 10, -1, 8, 10, -1], [2, 2, 16, 2, 17, 17, 3], (500, 7))
    assert bool(support.contains(support.nearest(random)).all())


def test_non_positive_sigma_is_outside_although_the_tube_reaches_it(support):
    fit = ZHENG07_LINE["sigma_logM"]
    assert fit(11.5) - 4 * fit.rmse < 0
    theta = {**SAMPLE1, "logMmin": 11.5, "logM0": 11.1, "logM1": 12.8, "sigma_logM": 0.0}
    with pytest.raises(SupportError, match=r"sigma_logM = 0 is outside \[0\.01"):
        support.enforce(theta)


def test_resolution_limits_sigma_at_low_mass_only(support):
    fit = ZHENG07_LINE["sigma_logM"]
    high = support.bounds("sigma_logM", 11.5)[1]
    assert high == pytest.approx((11.5 - 11.0172) / 1.75)
    assert high < fit(11.5) + 4 * fit.rmse
    assert support.bounds("sigma_logM", 13.0)[1] == pytest.approx(fit(13.0) + 4 * fit.rmse)


def test_policies(support):
    outside = {**SAMPLE1, "alpha": 3.0}
    assert not bool(support.enforce(outside, "reject"))
    with pytest.warns(SupportWarning, match="alpha = 3"):
        support.enforce(outside, "warn")
    with pytest.raises(ValueError, match="support must be one of"):
        support.enforce(outside, "ignore")


def test_samples_fill_the_support(support):
    theta = support.sample(4000, np.random.default_rng(1))
    assert bool(support.contains(theta).all())
    for column, name in enumerate(PARAMETERS):
        low, high = support.bounds(name, theta[:, 2])
        unit = (theta[:, column] - low) / (high - low)
        assert 0 <= unit.min() < 0.01 and 0.99 < unit.max() <= 1
        assert abs(unit.mean() - 0.5) < 0.02


def test_dictionary_round_trip(support):
    assert Support.from_dict(support.to_dict()) == support


def test_bounds_of_one_parameter_agree_with_what_is_contained():
    support = Support(logMmin=(11.5, 14.0), log_mass_complete=11.0172, logM0_max=14.2)
    middle = support.from_unit_cube(np.full((50, 7), 0.5))
    middle[:, 2] = np.linspace(11.5, 14.0, 50)
    middle = support.nearest(middle).numpy()
    for column, name in enumerate(PARAMETERS):
        low, high = support.bounds(name, middle[:, 2])
        for value, inside in ((low, True), (high, True), (low - 1e-6, False), (high + 1e-6, False)):
            if name == "logMmin":
                continue  # the other ranges move with it
            theta = middle.copy()
            theta[:, column] = value
            assert bool((support.contains(theta) == inside).all()), name


def test_a_support_with_nothing_left_is_refused():
    with pytest.raises(ValueError, match=r"At logMmin = 11\.5 no sigma_logM is supported"):
        Support(logMmin=(11.5, 14.0), log_mass_complete=11.6)
    with pytest.raises(ValueError, match="no logM0 is supported"):
        Support(logMmin=(11.5, 14.0), logM0_max=12.0)


def test_plain_arrays_of_any_kind_are_read():
    values = np.array([SAMPLE1[name] for name in PARAMETERS])
    stack = np.stack([values, values + 0.01])
    for array in (stack[::-1], stack.astype(">f8"), stack.astype(np.float32), stack.tolist()):
        assert as_theta(array).dtype == torch.float64
    read_only = stack.copy()
    read_only.flags.writeable = False
    assert as_theta(read_only).shape == (2, 7)


def test_precision_is_never_lowered_by_mixing():
    mixed = {**SAMPLE1, "mu_cen": torch.tensor(0.5, dtype=torch.float16), "alpha": torch.tensor(1.0)}
    assert as_theta(mixed).dtype == torch.float32
    assert as_theta({**mixed, "logM1": np.array(13.48)}).dtype == torch.float64
    sequence = [torch.tensor(SAMPLE1[name], dtype=torch.float64, requires_grad=True) for name in PARAMETERS]
    assert as_theta(sequence).requires_grad


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ([0.8, 0.3, 12.54, 0.26, 12.68, 13.48, 1.0 + 0.5j], "complex"),
        (["0.8", "0.3", "12.54", "0.26", "12.68", "13.48", "1.0"], "not of type <U5"),
        ([0.8, 0.3, 12.54, 0.26, 12.68, 13.48, None], "theta must be real numbers"),
        ([0.8, 0.3, 12.54, 0.26, 12.68, 13.48, 10**400], "double precision"),
        ([True] * 7, "not of type bool"),
        (np.ma.array([0.8, 0.3, 12.54, 0.26, 12.68, 13.48, 1.0], mask=[0, 0, 0, 0, 0, 0, 1]), "masked entries"),
        ([[0.8, 0.3], [12.54, 0.26, 12.68]], "must be an array of real numbers"),
        (torch.ones(7, dtype=torch.complex64), "of type torch.complex64"),
        (torch.ones(7).to_sparse(), "of layout torch.sparse_coo"),
        (torch.ones(7, device="meta"), "on the device meta"),
        ({**SAMPLE1, "alpha": 1j}, "alpha must be real numbers"),
        ({**SAMPLE1, "alpha": np.ma.masked}, "alpha must be real numbers, but has masked entries"),
        (
            {**SAMPLE1, "alpha": [1.0, 1.1], "mu_cen": [0.1, 0.2, 0.3]},
            r"do not broadcast: mu_cen \(3,\), .*\(2,\)",
        ),
    ],
)
def test_what_is_no_real_number_is_refused(values, words):
    with pytest.raises(ValueError, match=words):
        as_theta(values)


def test_real_numbers_of_any_type_are_taken():
    values = [SAMPLE1[name] for name in PARAMETERS]
    for theta in (np.array(values, dtype=object), np.ma.array(values), np.array(values, dtype=np.longdouble)):
        np.testing.assert_allclose(as_theta(theta), values)


def test_ranges_are_those_at_a_supported_logMmin(support):
    with pytest.raises(SupportError) as refused:
        support.enforce({**SAMPLE1, "logMmin": 10.5, "logM0": 9.0})
    message = str(refused.value)
    assert "logMmin = 10.5 is outside [11.5, 14] (nearest supported point: 11.5)" in message
    low, high = support.bounds("logM0", 11.5)
    assert f"logM0 = 9 is outside [{low:.6g}, {high:.6g}] at the nearest supported logMmin = 11.5" in message
    # Every range that a message gives can be, and holds the nearest supported value.
    for outside in (dict(logMmin=5.0), dict(logMmin=20.0, alpha=9.0), dict(logMmin=11.2, sigma_logM=3.0)):
        with pytest.raises(SupportError) as refused:
            support.enforce({**SAMPLE1, **outside})
        found = re.findall(r"outside \[(\S+), (\S+)\].*?point: (\S+)\)", str(refused.value))
        assert found and all(float(low) < float(high) for low, high, _ in found)
        assert all(float(low) <= float(nearest) <= float(high) for low, high, nearest in found)


def test_fields_of_a_support_are_in_ranges():
    for field, value in (("n_rmse", -1.0), ("sigma_logM_min", 0.0), ("logM0_max", np.nan), ("logMmin", ("11", "12"))):
        with pytest.raises(ValueError, match=field):
            Support(**{field: value})
