"""The supported region as coordinates: what is found, what is left to rejection, and the same posterior either way."""

from pathlib import Path

import numpy as np
import pytest
import torch
from cobaya.input import load_input_file
from cobaya.likelihood import Likelihood
from cobaya.model import get_model
from cobaya.theory import Theory

from iaemu.parameters import ZHENG07_LINE, Support
from iaemu.sampling import Sampler, Settings, Transform, diagnostics
from iaemu.sampling.polytope import Polytope
from iaemu_cobaya.gradients.limits import Linear
from iaemu_cobaya.gradients.log_posterior import LogPosterior, RejectedRows

JOINT = Path(__file__).parents[3] / "yaml_examples" / "tng_sample1_joint.yaml"

#: Wide priors of the occupation about the analytic model's supported tube.
WIDE = {
    "logMmin": {"prior": {"min": 11.0, "max": 14.0}, "ref": {"dist": "norm", "loc": 12.5, "scale": 0.05}},
    "sigma_logM": {"prior": {"min": 0.0, "max": 2.0}, "ref": {"dist": "norm", "loc": 0.35, "scale": 0.05}},
    "logM1": {"prior": {"min": 11.0, "max": 16.0}, "ref": {"dist": "norm", "loc": 13.5, "scale": 0.05}},
}


def density_of(info):
    return LogPosterior(get_model(info), rng=np.random.default_rng(1))


def theta_of(density, x, names, values=()):
    """The model's parameters at sampled points, by Cobaya's own functions."""
    rows = [{**density.model.parameterization.constant_params(), **dict(values)} for _ in x]
    for row, point in zip(rows, x, strict=True):
        row.update(density.model.parameterization.to_input(point))
    return np.array([[row[name] for name in names] for row in rows])


def normal_points(density, n=400, scale=1.5):
    generator = torch.Generator().manual_seed(2)
    return scale * torch.randn(n, len(density.names), generator=generator, dtype=torch.float64)


def assert_covers(density, support, names):
    """Points of the coordinates are supported, and supported points of the prior have coordinates."""
    x = density.transform.forward(normal_points(density)).numpy()
    assert bool(support.contains(theta_of(density, x, names)).all())
    rng = np.random.default_rng(3)
    low, high = (np.clip(bound, -20, 20) for bound in density.bounds)
    x = rng.uniform(low, high, (4000, len(low)))
    supported = support.contains(theta_of(density, x, names)).numpy()
    assert 0 < supported.sum() < len(x)
    assert np.array_equal(density.transform.contains(torch.as_tensor(x)).numpy(), supported)


# ---------------------------------------------------------------- linear functions


@pytest.mark.parametrize(
    ("function", "slopes", "constant"),
    [
        (lambda x, y: 2.0 * x - (y + 3) / 4 + np.float64(1.5), [2.0, -0.25], 0.75),
        (lambda x, y: -(1 - x) * 3 + y * np.pi, [3.0, np.pi], -3.0),
        (lambda x, y: +x * (y - y + 2), [2.0, 0.0], 0.0),
        (lambda x, y: (np.float64(2.0) - y) / (x - x + 4), [0.0, -0.25], 0.5),
    ],
)
def test_linear_functions_are_recognised(function, slopes, constant):
    found = function(Linear(np.array([1.0, 0.0]), 0.0), Linear(np.array([0.0, 1.0]), 0.0))
    assert found.slopes.tolist() == pytest.approx(slopes) and found.constant == pytest.approx(constant)


@pytest.mark.parametrize(
    "function",
    [
        lambda x, y: x * y,
        lambda x, y: 1.0 / x,
        lambda x, y: x**2,
        lambda x, y: np.exp(x),
        lambda x, y: np.clip(x, 0, 1),
        lambda x, y: np.where(x > 0, x, y),
        lambda x, y: max(x, y),
        lambda x, y: x if y else -x,
        lambda x, y: x if x == y else y,
        lambda x, y: abs(x),
        lambda x, y: float(x),
        lambda x, y: np.array([1.0, 2.0]) * x,
        lambda x, y: np.asarray(x, dtype=float) + 0.0,
    ],
)
def test_whatever_is_not_linear_is_an_error(function):
    with pytest.raises(TypeError):
        function(Linear(np.array([1.0, 0.0]), 0.0), Linear(np.array([0.0, 1.0]), 0.0))


# ---------------------------------------------------------------- what is found


@pytest.fixture(scope="module")
def joint():
    info = load_input_file(JOINT)
    return LogPosterior(get_model({key: info[key] for key in ("theory", "likelihood", "params", "prior")}))


def test_the_joint_example_is_sampled_in_its_supported_region(joint):
    """Its parameters are offsets, of which lambdas make those of the emulator."""
    (theory,) = joint.model.theory.values()
    assert isinstance(joint.transform, Polytope)
    assert_covers(joint, theory.model.support, theory.names)


def test_log_density_and_jacobian_in_these_coordinates(joint):
    """Cobaya's log-posterior plus the log-determinant of finite differences; the gradient by differences of the sum."""
    sampler = Sampler(joint, 7, joint.transform, Settings())
    rng = np.random.default_rng(4)
    points = joint.transform.inverse(torch.as_tensor(np.array([joint.reference.draw(rng) for _ in range(3)])))
    value, gradient = sampler.density(points)
    step = 1e-5
    for point, found, slope in zip(points, value, gradient, strict=True):
        columns = [
            (joint.transform.forward((point + e)[None]) - joint.transform.forward((point - e)[None]))[0] / (2 * step)
            for e in step * torch.eye(7, dtype=torch.float64)
        ]
        log_volume = float(torch.linalg.slogdet(torch.stack(columns, dim=1))[1])
        theta = joint.transform.forward(point[None])[0].numpy()
        assert float(found) == pytest.approx(joint.model.logposterior(theta).logpost + log_volume, abs=1e-5)
        sides = torch.cat([point + 1e-4 * torch.eye(7, dtype=torch.float64), point - 1e-4 * torch.eye(7)])
        values = sampler.density(sides)[0]
        torch.testing.assert_close((values[:7] - values[7:]) / 2e-4, slope, rtol=1e-3, atol=1e-3)


def test_renamed_and_fixed_parameters(make_info):
    names = {"logMmin": "mass", "alpha": "slope"}
    params = {"mass": WIDE["logMmin"], "logM1": WIDE["logM1"], "slope": 1.05}
    likelihood = {"iaemu_cobaya.TNG300Sample1": {"param_map": names}}
    info = make_info({"param_map": names}, likelihood=likelihood, params=params)
    density = density_of(info)
    (theory,) = density.model.theory.values()
    assert isinstance(density.transform, Polytope)
    assert_covers(density, theory.model.support, theory.names)
    # The fixed parameters leave a part of the range of logMmin.
    low, high = theory.model.support.logMmin
    at = density.names.index("mass")
    assert float(density.transform.low[at]) == low and float(density.transform.high[at]) < high - 0.1


def test_two_theories_that_share_a_parameter(make_info, make_analytic):
    """The region of both: that of one ends at logMmin 13.5, that of the other at 13."""
    other = make_analytic()
    other.support = Support(logMmin=(12.0, 13.0))
    models, theory, likelihood, params = (make_analytic(), other), {}, {}, {"logMmin": WIDE["logMmin"]}
    for number, model in enumerate(models, 1):
        names = {name: f"{name}_{number}" for name in ("mu_cen", "mu_sat", "sigma_logM")}
        options = {"tag": f"s{number}", "param_map": names}
        theory[f"t{number}"] = {"class": "iaemu_cobaya.TabulatedIA", "artifact": model, **options}
        likelihood[f"l{number}"] = {"class": "iaemu_cobaya.TNG300Sample1", "emulator_error": False, **options}
        params |= {names["sigma_logM"]: WIDE["sigma_logM"], names["mu_cen"]: 0.8, names["mu_sat"]: 0.3}
    density = density_of({"theory": theory, "likelihood": likelihood, "params": params})
    x = density.transform.forward(normal_points(density)).numpy()
    assert density.names == ("logMmin", "sigma_logM_1", "sigma_logM_2") and isinstance(density.transform, Polytope)
    for one in density.model.theory.values():
        assert bool(one.model.support.contains(theta_of(density, x, one.names)).all())
    assert x[:, 0].min() < 12.05 and x[:, 0].max() > 12.85


def test_a_fixed_logMmin_leaves_a_box(make_info):
    density = density_of(make_info(params={"sigma_logM": WIDE["sigma_logM"]}))
    assert type(density.transform) is Transform
    index = density.names.index("sigma_logM")
    low, high = Support().bounds("sigma_logM", 12.54)
    assert (float(density.transform.low[index]), float(density.transform.high[index])) == pytest.approx((low, high))


def test_fixed_occupation_within_the_support_leaves_the_bounds_of_the_prior(make_info):
    density = density_of(make_info())
    assert type(density.transform) is Transform
    assert density.transform.low.tolist() == [-1, -1] and density.transform.high.tolist() == [1, 1]


def test_a_prior_outside_the_tube_at_small_masses_shrinks_logMmin(make_info):
    narrow = {"prior": {"min": 0.55, "max": 2.0}, "ref": {"dist": "norm", "loc": 0.65, "scale": 0.02}}
    mass = {"prior": {"min": 11.0, "max": 14.0}, "ref": {"dist": "norm", "loc": 12.9, "scale": 0.02}}
    free = {"logM0": 12.6, "logM1": 13.4}
    density = density_of(make_info(params={"logMmin": mass, "sigma_logM": narrow, **free}))
    (theory,) = density.model.theory.values()
    line = ZHENG07_LINE["sigma_logM"]
    first = (0.55 - 4.0 * line.rmse - line.intercept) / line.slope
    assert float(density.transform.low[density.names.index("logMmin")]) == pytest.approx(first)
    assert_covers(density, theory.model.support, theory.names)


def test_normal_and_one_sided_priors(make_info):
    params = {
        "logMmin": {"prior": {"dist": "norm", "loc": 12.5, "scale": 0.3}},
        "sigma_logM": {"prior": {"dist": "gamma", "a": 4.0, "scale": 0.1}, "ref": WIDE["sigma_logM"]["ref"]},
    }
    density = density_of(make_info(params=params))
    (theory,) = density.model.theory.values()
    assert isinstance(density.transform, Polytope)
    x = density.transform.forward(normal_points(density))
    assert bool(theory.model.support.contains(theta_of(density, x.numpy(), theory.names)).all())
    assert bool(torch.isfinite(density(x)).all())


@pytest.mark.parametrize("function", ["lambda s: np.exp(s)", "lambda s: s if s > 0.3 else 0.3 + 0.5 * (s - 0.3)"])
def test_what_a_function_makes_that_is_not_linear_is_left_to_rejection(make_info, function):
    s = {"prior": {"min": -3.0, "max": 2.0}, "ref": {"dist": "norm", "loc": -1.0, "scale": 0.02}, "drop": True}
    if "exp" not in function:
        s["ref"]["loc"] = 0.35
    density = density_of(make_info(params={"logMmin": WIDE["logMmin"], "s": s, "sigma_logM": function}))
    index = [density.names.index(name) for name in ("logMmin", "s")]
    assert type(density.transform) is Transform
    # That of logMmin is known nevertheless.
    assert float(density.transform.high[index[0]]) < 13.5
    assert float(density.transform.low[index[1]]) == -3.0
    values = density(density.transform.forward(normal_points(density)))
    assert bool(torch.isinf(values).any()) and bool(torch.isfinite(values).any())


@pytest.mark.parametrize("options", [{"support": "warn"}, {"support": "raise"}, {"stop_at_error": True}])
def test_only_rejection_bounds_the_region(make_info, options):
    mass = {"prior": {"min": 11.0, "max": 14.0}, "ref": {"dist": "norm", "loc": 12.5, "scale": 0.01}}
    density = density_of(make_info(options, params={"logMmin": mass}))
    assert float(density.transform.low[density.names.index("logMmin")]) == 11.0


# ---------------------------------------------------------------- the same posterior


class Corner(Theory):
    """A third party's theory that rejects what is not above its diagonal."""

    params = {"a": None, "b": None}

    def get_can_provide(self):
        return ["place"]

    def calculate(self, state, want_derived=True, **params):
        if params["b"] < params["a"] + 0.1:
            return False
        state["place"] = (params["a"], params["b"])

    def get_place(self):
        return self.current_state["place"]

    def forward_torch(self, params, products):
        rows = params["b"] < params["a"] + 0.1
        if bool(rows.any()):
            raise RejectedRows(rows)
        return {"place": (params["a"], params["b"])}

    def inequalities(self):
        return [({"a": 1.0, "b": -1.0}, -0.1)]


class Data(Likelihood):
    def get_requirements(self):
        return {"place": None}

    def logp(self, **params):
        a, b = self.provider.get_place()
        return -0.5 * ((a - 0.5) ** 2 + (b - 0.3) ** 2 + a * b) / 0.2**2

    def logp_torch(self, params, products):
        a, b = products["place"]
        return -0.5 * ((a - 0.5) ** 2 + (b - 0.3) ** 2 + a * b) / 0.2**2


def test_moments_against_a_grid_of_cobayas_posterior():
    flat = {"prior": {"min": -1.0, "max": 1.0}}
    info = {
        "theory": {"corner": {"external": Corner}},
        "likelihood": {"data": {"external": Data}},
        "params": {"a": {**flat, "ref": 0.1}, "c": {**flat, "ref": 0.1, "drop": True}, "b": "lambda a, c: c + 0.5 * a"},
    }
    density = density_of(info)
    assert isinstance(density.transform, Polytope)
    sampler = Sampler(density, 2, density.transform, Settings(n_warmup=60), 3)
    sampler.warm_up([[-0.2, 0.5]])
    draws = sampler.draw(100)
    assert not bool(draws.info.divergent.any())
    grid = np.stack(np.meshgrid(*[np.linspace(-0.998, 0.998, 500)] * 2, indexing="ij"), axis=-1).reshape(-1, 2)
    weight = np.exp(density(torch.as_tensor(grid)).numpy())
    x = draws.positions.numpy()
    for values, known in ((x, grid), (x**2, grid**2), (x.prod(axis=2, keepdims=True), grid.prod(axis=1)[:, None])):
        expected = np.average(known, axis=0, weights=weight)
        error = values.std(axis=(0, 1)) / np.sqrt(diagnostics.ess(values, "mean"))
        assert np.all(np.abs(values.mean(axis=(0, 1)) - expected) < 4.5 * error + 1e-3)


@pytest.mark.slow
def test_the_joint_posterior_is_that_of_rejection_and_long_trajectories(joint):
    """Means and standard deviations of the seven parameters, with neither these coordinates nor jumps."""
    rng = np.random.default_rng(5)
    starts = np.array([joint.reference.draw(rng) for _ in range(4)])
    settings = {
        "new": (joint.transform, Settings(n_chains=128, n_warmup=80)),
        "old": (joint.bounds, Settings(n_chains=128, n_warmup=150, trajectory_length=3.14, n_proposals=0)),
    }
    draws = {}
    for name, (bounds, one) in settings.items():
        sampler = Sampler(joint, 7, bounds, one, 3)
        sampler.warm_up(starts)
        found = sampler.draw(100)
        draws[name] = found.positions.numpy()
        assert bool(found.info.divergent.any()) == (name == "old")
    for power in (1, 2):
        means, errors = [], []
        for x in draws.values():
            values = (x - draws["new"].mean(axis=(0, 1))) ** power
            means.append(values.mean(axis=(0, 1)))
            errors.append(values.std(axis=(0, 1)) / np.sqrt(diagnostics.ess(values, "mean")))
        assert np.all(np.abs(means[0] - means[1]) < 4.5 * np.hypot(*errors))


# ---------------------------------------------------------------- draws that are computed together


def test_prepared_points_are_those_of_calculate(make_info, make_analytic):
    model = make_analytic(n_deviations=2)
    likelihood = {"iaemu_cobaya.TNG300Sample1": {"emulator_error": True}}
    params = {"logMmin": WIDE["logMmin"], "n_gal_ia": None}
    density = density_of(make_info({"artifact": model}, likelihood=likelihood, params=params))
    rng = np.random.default_rng(6)
    points = np.array([density.reference.draw(rng) for _ in range(5)])
    alone = [density.model.logposterior(point, cached=False) for point in points]
    density.prepare(points)
    model.calls.clear()
    together = [density.model.logposterior(point, cached=False) for point in points]
    assert model.calls == []
    for one, other in zip(alone, together, strict=True):
        assert other.logpost == pytest.approx(one.logpost, rel=1e-12)
        assert other.derived == pytest.approx(one.derived, rel=1e-12)
    # Each is used once, so that nothing stays from an earlier state of the theory.
    density.model.logposterior(points[0], cached=False)
    assert model.calls != []


def test_points_that_are_rejected_are_left_to_calculate(make_info):
    density = density_of(make_info(params={"logMmin": WIDE["logMmin"]}))
    inside = density.reference.draw(np.random.default_rng(7))
    outside = inside.copy()
    outside[density.names.index("logMmin")] = 11.1
    density.prepare(np.array([inside, outside]))
    assert density.model.logposterior(outside).logpost == -np.inf
    assert np.isfinite(density.model.logposterior(inside).logpost)
