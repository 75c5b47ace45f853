"""The log-posterior as a differentiable function of batches, against Cobaya's own log-posterior."""

import copy

import numpy as np
import pytest
import torch
from cobaya.likelihood import Likelihood
from cobaya.log import LoggedError
from cobaya.model import get_model
from cobaya.theory import Theory

from iaemu import load
from iaemu.models.base import ForwardModel
from iaemu.models.factorised import Emulator
from iaemu.models.tables import TabulatedModel
from iaemu_cobaya.gradients.log_posterior import LogPosterior, RejectedRows
from iaemu_cobaya.gradients.torch_functions import differences

OCCUPATION = ("logMmin", "sigma_logM", "logM0", "logM1", "alpha")
PRIORS = {
    "logMmin": {"prior": {"dist": "norm", "loc": 12.54, "scale": 0.05}, "ref": 12.54, "proposal": 0.02},
    "sigma_logM": {"prior": {"min": 0.1, "max": 0.5}, "ref": 0.26, "proposal": 0.05},
    "logM0": {"prior": {"min": 12.0, "max": 13.0}, "ref": 12.68, "proposal": 0.1},
    "logM1": {"prior": {"dist": "norm", "loc": 13.48, "scale": 0.1}, "ref": 13.48, "proposal": 0.05},
    "alpha": {"prior": {"min": 0.8, "max": 1.2}, "ref": 1.0, "proposal": 0.05},
}


@pytest.fixture(scope="module")
def emulator():
    return Shared(Emulator.load())


@pytest.fixture(scope="module")
def tables():
    return Shared(TabulatedModel.load())


class Shared:
    """A forward model that Cobaya does not copy with its input; counts its calls."""

    def __init__(self, model):
        self._model = model
        self.calls = []

    def __deepcopy__(self, memo):
        return self

    def __getattr__(self, name):
        return getattr(self.__dict__["_model"], name)

    def predict(self, *args, **kwargs):
        self.calls.append("predict")
        return self._model.predict(*args, **kwargs)

    def at_occupation(self, *args, **kwargs):
        self.calls.append("at_occupation")
        return self._model.at_occupation(*args, **kwargs)

    @property
    def parameters(self):
        return self._model.parameters

    @property
    def support(self):
        return self._model.support

    @property
    def r_edges(self):
        return self._model.r_edges


ForwardModel.register(Shared)


class Offset(Likelihood):
    """A third party's likelihood."""

    width: float = 0.1
    wrong: float = 1.0

    def get_requirements(self):
        return {"a": None, "b": None}

    def logp(self, **params):
        return -0.5 * ((params["a"] - np.sin(params["b"])) / self.width) ** 2

    def logp_torch(self, params, products):
        b = torch.as_tensor(params["b"], dtype=torch.float64)
        return -0.5 * self.wrong * ((params["a"] - torch.sin(b)) / self.width) ** 2


class NoGradient(Likelihood):
    def get_requirements(self):
        return {"nuisance": None}

    def logp(self, **params):
        return -0.5 * params["nuisance"] ** 2


def points_of(model, n, seed=1, spread=1.0):
    density = LogPosterior(model, rng=np.random.default_rng(seed))
    rng = np.random.default_rng(seed)
    return density, np.array([density.reference.draw(rng) for _ in range(n)])


def assert_mirrors(model, n=5, rtol=1e-9):
    """Values, gradient and independence of rows, at points of the reference."""
    density, points = points_of(model, n)
    expected = np.array([model.logposterior(point).logpost for point in points])
    x = torch.tensor(points, requires_grad=True)
    values = density(x)
    np.testing.assert_allclose(values.detach(), expected, rtol=rtol, atol=1e-8)
    (gradient,) = torch.autograd.grad(values.sum(), x)
    scale = density.scales

    def logpost(rows):
        return np.array([model.logposterior(row).logpost for row in rows])

    by_differences = differences(logpost, points, 1e-3 * scale)
    largest = np.abs(by_differences * scale).max()
    np.testing.assert_allclose(
        gradient.numpy() * scale, by_differences * scale, rtol=2e-4, atol=2e-6 * max(largest, 1.0)
    )
    for row in range(n):
        single = torch.tensor(points[row : row + 1], requires_grad=True)
        value = density(single)
        assert value.shape == (1,)
        np.testing.assert_allclose(value.detach(), values.detach()[row : row + 1], rtol=1e-12, atol=1e-12)
        (slope,) = torch.autograd.grad(value.sum(), single)
        np.testing.assert_allclose(slope[0], gradient[row], rtol=1e-9, atol=1e-9 * largest)
    density.check(rng=np.random.default_rng(3), n_points=1)
    return density, points


# ---------------------------------------------------------------- forward models at one occupation


@pytest.mark.parametrize("kind", ["emulator", "tables"])
@pytest.mark.parametrize("edges", [None, slice(0, None, 2)])
def test_at_occupation_equals_predict(kind, edges, request):
    model = request.getfixturevalue(kind)._model
    edges = None if edges is None else model.r_edges[edges]
    occupation = [12.54, 0.26, 12.68, 13.48, 1.0]
    mu = torch.tensor([[-1.0, 1.0], [0.0, 0.3], [0.77, -0.2]], dtype=torch.float64)
    theta = torch.cat([mu, torch.tensor(occupation, dtype=torch.float64).expand(3, -1)], dim=1)
    expected = model.predict(theta, edges)
    fixed = model.at_occupation(dict(zip(OCCUPATION, occupation, strict=True)), edges)
    assert fixed.statistics == ("xi", "omega", "eta")
    for name, value in fixed(mu).items():
        torch.testing.assert_close(value, getattr(expected, name), rtol=1e-9, atol=1e-14)
    assert fixed.n_gal == pytest.approx(float(expected.n_gal[0]), rel=1e-9)
    assert fixed.f_sat == pytest.approx(float(expected.f_sat[0]), rel=1e-9)
    assert set(model.at_occupation(occupation, edges, ("omega",))(mu)) == {"omega"}
    with pytest.raises(ValueError, match="logMmin = 9 is outside"):
        model.at_occupation([9.0, *occupation[1:]])


def test_a_network_of_all_seven_parameters_is_evaluated_at_each_call():
    model = load("iaemunet-pm160")
    occupation = [12.54, 0.26, 12.68, 13.48, 1.0]
    mu = torch.tensor([[0.8, 0.3], [-0.5, 1.0]], dtype=torch.float64, requires_grad=True)
    theta = torch.cat([mu, torch.tensor(occupation, dtype=torch.float64).expand(2, -1)], dim=1)
    fixed, expected = model.at_occupation(occupation, statistics="omega"), model.predict(theta)
    assert not model.factorises and fixed.statistics == ("omega",) and fixed.n_gal is None
    torch.testing.assert_close(fixed(mu)["omega"], expected.omega, rtol=1e-9, atol=1e-14)
    (slope,) = torch.autograd.grad(fixed(mu)["omega"].sum(), mu)
    assert bool((slope != 0).all())
    with pytest.raises(ValueError, match=r"mu_cen = 1\.5 of point 0 is outside \[-1, 1\]"):
        fixed(torch.tensor([[1.5, 0.0]], dtype=torch.float64))


# ---------------------------------------------------------------- the shipped theories and likelihoods


@pytest.mark.parametrize("kind", ["emulator", "tables"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"statistics": ["xi", "omega"], "r_min": 0.4},
        {"statistics": ["omega", "eta"], "r_max": {"omega": 5.0, "eta": 13.9}},
        {"covariance": "correlation"},
        {"covariance": "correlation", "emulator_error": False},
    ],
)
def test_two_strengths(make_info, request, kind, options):
    model = request.getfixturevalue(kind)
    options = {"emulator_error": True, **options}
    info = make_info({"artifact": model}, likelihood={"iaemu_cobaya.TNG300Sample1": options})
    density, points = assert_mirrors(get_model(info), n=5 if kind == "emulator" else 2)
    assert density.names == ("mu_cen", "mu_sat")
    assert [limit.tolist() for limit in density.bounds] == [[-1, -1], [1, 1]]
    model.calls.clear()
    density(torch.tensor(points))
    assert model.calls == []  # computed once, before


@pytest.mark.parametrize("kind", ["emulator", "tables"])
def test_all_seven_parameters(make_info, request, kind):
    model = request.getfixturevalue(kind)
    info = make_info(
        {"artifact": model},
        likelihood={"iaemu_cobaya.TNG300Sample1": {"statistics": ["omega", "xi"], "emulator_error": True}},
        params=copy.deepcopy(PRIORS),
    )
    assert_mirrors(get_model(info), n=3 if kind == "emulator" else 2)


def test_several_likelihoods_in_different_bins(make_info, emulator):
    info = make_info(
        {"artifact": emulator},
        likelihood={
            "iaemu_cobaya.TNG300Sample1": {"r_min": 0.5},
            "third": {
                "class": "iaemu_cobaya.IACorrelations",
                "data": "tng300/sample3",
                "statistics": ["omega", "xi"],
                "r_max": 5.0,
            },
        },
    )
    assert_mirrors(get_model(info))


def test_parameters_can_be_renamed(make_info, emulator):
    renamed = {"alpha": "alpha_hod", "mu_cen": "A_cen"}
    info = make_info(
        {"artifact": emulator, "param_map": renamed},
        likelihood={"iaemu_cobaya.TNG300Sample1": {"param_map": renamed, "emulator_error": True}},
    )
    density, _ = assert_mirrors(get_model(info))
    assert set(density.names) == {"A_cen", "mu_sat"}


def test_users_forward_models_use_predict(make_info):
    assert_mirrors(get_model(make_info(params={"logMmin": copy.deepcopy(PRIORS["logMmin"])})))


def test_a_derived_parameter_of_the_theory_in_a_likelihood(make_info, emulator):
    class Density(Likelihood):
        def get_requirements(self):
            return {"n_gal_ia": None}

        def logp(self, n_gal_ia, **params):
            return -0.5 * (n_gal_ia / 1e4) ** 2

        def logp_torch(self, params, products):
            return -0.5 * (params["n_gal_ia"] / 1e4) ** 2

    likelihood = {"iaemu_cobaya.TNG300Sample1": None, "counts": {"external": Density}}
    for params in (None, {"logMmin": copy.deepcopy(PRIORS["logMmin"])}):
        assert_mirrors(get_model(make_info({"artifact": emulator}, likelihood=likelihood, params=params)), n=2)


# ---------------------------------------------------------------- the graph


def test_third_partys_likelihood_lambda_and_priors_of_all_kinds():
    model = get_model(
        {
            "likelihood": {"mine": {"external": Offset}},
            "params": {
                "log_a": {"prior": {"min": -2.0, "max": 0.5}, "ref": -0.5, "proposal": 0.1, "drop": True},
                "a": "lambda log_a, scale: scale * 10**log_a + np.exp(-scale)",
                "scale": 1.3,
                "b": {"prior": {"dist": "norm", "loc": 0.4, "scale": 0.3}, "ref": 0.5},
                "c": {"prior": {"dist": "beta", "a": 2.0, "b": 3.0, "min": 0.5, "max": 3.0}, "drop": True},
            },
            "prior": {
                "bananas": "lambda a, b: stats.norm.logpdf(a - b**2, loc=0.1, scale=0.5)",
                "tensorless": lambda b, c: 0.1 * b - (c**2 if c > 0.6 else 0.6 * c),
            },
        }
    )
    density, points = assert_mirrors(model, n=8)
    assert density.plan.functions["a"].call.takes_tensors
    assert density.plan.external_priors["bananas"].call.takes_tensors
    assert not density.plan.external_priors["tensorless"].call.takes_tensors
    np.testing.assert_allclose(density.bounds, [[-2, -np.inf, 0.5], [0.5, np.inf, 3.0]])
    # out of bounds and NaN: -inf, without touching the other rows
    rows = np.stack([points[0], [9.0, 0.1, 1.0], points[1], [np.nan, 0.1, 1.0]])
    x = torch.tensor(rows, requires_grad=True)
    values = density(x)
    np.testing.assert_allclose(values[[0, 2]].detach(), density(torch.tensor(points[:2])), rtol=1e-12)
    assert values[[1, 3]].tolist() == [-np.inf, -np.inf]
    (gradient,) = torch.autograd.grad(values[[0, 2]].sum(), x)
    assert bool(torch.isfinite(gradient).all()) and not gradient[[1, 3]].any()
    (gradient,) = torch.autograd.grad(density(x[1:2]).sum(), x)
    assert not gradient.any()


def test_a_parameter_that_takes_no_tensors_is_differentiated_numerically(caplog):
    caplog.set_level("INFO")
    model = get_model(
        {
            "likelihood": {"mine": {"external": Offset}},
            "params": {
                "s": {"prior": {"min": 0.1, "max": 2.0}, "drop": True},
                "a": lambda s: s**3 if s > 1.0 else float(s),
                "b": 0.7,
            },
        }
    )
    assert_mirrors(model)
    assert "the parameter a does not accept tensors" in caplog.text


def test_external_functions_are_likelihoods_if_they_take_tensors():
    params = {"x": {"prior": {"min": -3.0, "max": 3.0}}, "y": {"prior": {"min": -3.0, "max": 3.0}}}
    model = get_model({"likelihood": {"f": "lambda x, y: -(x - 0.3)**2 - np.cosh(y)"}, "params": params})
    assert_mirrors(model)
    model = get_model({"likelihood": {"f": lambda x, y: -(float(x) ** 2) - y**2}, "params": params})
    with pytest.raises(LoggedError, match=r"f \(a function that does not accept tensors; depends on x, y\)"):
        LogPosterior(model)


def test_external_prior_of_zero_density_hides_the_point_from_the_likelihood(make_info, emulator):
    info = make_info(
        {"artifact": emulator}, prior={"cut": "lambda mu_cen, mu_sat: np.where(mu_sat < mu_cen, 0.0, -np.inf)"}
    )
    model = get_model(info)
    density = LogPosterior(model)
    x = torch.tensor([[0.6, 0.2], [0.2, 0.6], [0.7, 0.1]], dtype=torch.float64, requires_grad=True)
    values = density(x)
    assert values[1] == -np.inf
    np.testing.assert_allclose(
        values.detach()[[0, 2]], [model.logposterior(point).logpost for point in x.detach().numpy()[[0, 2]]], rtol=1e-9
    )
    (gradient,) = torch.autograd.grad(values[[0, 2]].sum(), x)
    assert bool(torch.isfinite(gradient).all()) and not gradient[1].any()


def test_theory_that_depends_on_a_theory():
    class First(Theory):
        def get_requirements(self):
            return {"p": None}

        def get_can_provide(self):
            return ["square"]

        def calculate(self, state, want_derived=True, **params):
            if params["p"] < -1.0:
                return False
            state["square"] = params["p"] ** 2

        def forward_torch(self, params, products):
            rejected = params["p"].detach() < -1.0
            if bool(rejected.any()):
                raise RejectedRows(rejected)
            return {"square": params["p"] ** 2}

    class Second(Theory):
        def get_requirements(self):
            return {"square": None, "q": None}

        def get_can_provide(self):
            return ["cube"]

        def calculate(self, state, want_derived=True, **params):
            state["cube"] = self.provider.get_result("square") * params["q"]

        def forward_torch(self, params, products):
            return {"cube": products["square"] * params["q"]}

    class Needs(Likelihood):
        def get_requirements(self):
            return {"cube": None}

        def logp(self, **params):
            return -((self.provider.get_result("cube") - 1.0) ** 2)

        def logp_torch(self, params, products):
            return -((products["cube"] - 1.0) ** 2)

    model = get_model(
        {
            "theory": {"first": {"external": First}, "second": {"external": Second}},
            "likelihood": {"needs": {"external": Needs}},
            "params": {"p": {"prior": {"min": -2, "max": 2}}, "q": {"prior": {"min": -2, "max": 2}}},
        }
    )
    density, points = assert_mirrors(model)
    x = torch.tensor(np.concatenate([points, [[-1.5, 0.2]]]), requires_grad=True)
    values = density(x)
    assert values[-1] == -np.inf and bool(torch.isfinite(values[:-1]).all())
    assert density(x[-1:]).tolist() == [-np.inf]


# ---------------------------------------------------------------- constants and missing gradients


def mixed(make_info, emulator, nuisance):
    return get_model(
        make_info(
            {"artifact": emulator},
            likelihood={"iaemu_cobaya.TNG300Sample1": None, "other": {"external": NoGradient}},
            params={"nuisance": nuisance},
        )
    )


def test_missing_gradient_names_component_parameters_and_ways_out(make_info, emulator):
    model = mixed(make_info, emulator, {"prior": {"min": -1, "max": 1}})
    expected = (
        r"No gradient of: other \(no logp_torch; depends on nuisance\)\. Use 'sampler: mcmc'; or fix nuisance; or set "
        r"'gradient: finite_difference', at the cost of 6 evaluations"
    )
    with pytest.raises(LoggedError, match=expected):
        LogPosterior(model)


def test_a_component_that_nothing_feeds_is_a_constant(make_info, emulator):
    assert_mirrors(mixed(make_info, emulator, 0.8))


def test_a_constant_theory_is_looked_up_with_the_provider(make_info, emulator):
    class Scaled(Likelihood):
        def get_requirements(self):
            return {"ia_omega": {"r_edges": [0.1, 1.0]}, "shift": None}

        def logp(self, shift, **params):
            return -((self.provider.get_ia_omega(r_edges=[0.1, 1.0])[0] - shift) ** 2)

        def logp_torch(self, params, products):
            return -((products["ia_omega"][(0.1, 1.0)][:, 0] - params["shift"]) ** 2)

    class Foreign(Theory):
        """A theory without gradient."""

        def get_requirements(self):
            return {"H0": None}

        def get_can_provide(self):
            return ["age"]

        def calculate(self, state, want_derived=True, **params):
            state["age"] = 1000.0 / params["H0"]

    class Old(Likelihood):
        def get_requirements(self):
            return {"age": None, "shift": None}

        def logp(self, shift, **params):
            return -((self.provider.get_result("age") - 14.0 - shift) ** 2)

        def logp_torch(self, params, products):
            return -((self.provider.get_result("age") - 14.0 - params["shift"]) ** 2)

    info = {
        "theory": {"foreign": {"external": Foreign}},
        "likelihood": {"old": {"external": Old}},
        "params": {"H0": 70.0, "shift": {"prior": {"min": -1, "max": 1}}},
    }
    assert_mirrors(get_model(copy.deepcopy(info)))
    info["params"]["H0"] = {"prior": {"min": 60, "max": 80}}
    with pytest.raises(LoggedError, match=r"foreign \(no forward_torch; depends on H0\)"):
        LogPosterior(get_model(info))


# ---------------------------------------------------------------- points outside

WIDE = {"logMmin": {"prior": {"min": 11.0, "max": 14.0}, "ref": 12.5, "proposal": 0.05}, "logM1": 13.48, "logM0": 12.68}


def test_rows_outside_the_support_are_rejected_and_leave_the_others_alone(make_info, emulator):
    model = get_model(make_info({"artifact": emulator}, params=copy.deepcopy(WIDE)))
    density, points = assert_mirrors(model)
    good = points[0]
    bad = good.copy()
    bad[density.names.index("logMmin")] = 13.9
    assert model.logposterior(bad).logpost == -np.inf
    x = torch.tensor(np.stack([bad, good, bad]), requires_grad=True)
    values = density(x)
    assert values[0] == values[2] == -np.inf
    assert float(values[1]) == pytest.approx(model.logposterior(good).logpost, rel=1e-9)
    (gradient,) = torch.autograd.grad(values[1], x)
    assert bool(torch.isfinite(gradient).all()) and not gradient[[0, 2]].any() and bool(gradient[1].all())


def test_policies_raise_and_warn(make_info, emulator, caplog):
    model = get_model(make_info({"artifact": emulator, "support": "warn"}, params=copy.deepcopy(WIDE)))
    density = LogPosterior(model)
    assert density.names == ("logMmin", "mu_cen", "mu_sat")
    bad = np.array([[13.9, 0.6, 0.2]])
    caplog.clear()
    assert float(density(torch.tensor(bad))) == pytest.approx(model.logposterior(bad[0]).logpost, rel=1e-9)
    messages = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert (
        len(
            [
                message
                for message in messages
                if "at logMmin = 13.9" in message and "extrapolation. (This warning" in message
            ]
        )
        == 1
    )
    model = get_model(make_info({"artifact": emulator, "support": "raise"}, params=copy.deepcopy(WIDE)))
    with pytest.raises(LoggedError, match=r"is outside .* at logMmin = 13\.9"):
        LogPosterior(model)(torch.tensor(bad))


def test_strengths_beyond_one_follow_the_policy(make_info, emulator):
    params = {"mu_cen": {"prior": {"min": -2, "max": 2}, "ref": 0.6, "proposal": 0.03}}
    model = get_model(make_info({"artifact": emulator}, params=params))
    values = LogPosterior(model)(torch.tensor([[0.6, 0.2], [1.5, 0.2]], dtype=torch.float64))
    assert float(values[0]) == pytest.approx(model.logposterior([0.6, 0.2]).logpost, rel=1e-9)
    assert values[1] == -np.inf == model.logposterior([1.5, 0.2]).logpost


def test_prediction_that_is_not_finite_is_zero_likelihood_with_zero_gradient(make_info, analytic, caplog):
    class Hole(type(analytic)):
        def predict(self, theta, *args, **kwargs):
            prediction = super().predict(theta, *args, **kwargs)
            if isinstance(theta, torch.Tensor):
                mu = theta[..., :1]
                prediction.omega = prediction.omega * torch.sqrt(mu) / torch.sqrt(mu)
            elif theta[0] < 0:
                prediction.omega = prediction.omega * np.nan
            return prediction

    model = get_model(make_info({"artifact": Hole()}))
    density = LogPosterior(model)
    caplog.clear()
    x = torch.tensor([[0.6, 0.2], [-0.3, 0.2], [0.7, 0.1]], dtype=torch.float64, requires_grad=True)
    values = density(x)
    assert values[1] == -np.inf == model.logposterior(x.detach().numpy()[1]).logpost
    (gradient,) = torch.autograd.grad(values[[0, 2]].sum(), x, retain_graph=True)
    (everything,) = torch.autograd.grad(values.sum(), x)
    for found in (gradient, everything):
        assert bool(torch.isfinite(found).all()) and not found[1].any() and bool(found[[0, 2]].all())
    assert "omega is nan in 12 of 12 bins" in caplog.text
    model = get_model(
        make_info({"artifact": Hole()}, likelihood={"iaemu_cobaya.TNG300Sample1": {"stop_at_error": True}})
    )
    with pytest.raises(LoggedError, match="omega is nan"):
        LogPosterior(model)(x)


# ---------------------------------------------------------------- finite differences and the self-check


def test_finite_differences_of_cobaya_itself(make_info, emulator):
    model = mixed(make_info, emulator, {"prior": {"min": -1, "max": 1}, "proposal": 0.2})
    density = LogPosterior(model, gradient="finite_difference")
    density.check()
    # One row at an edge of the prior, one out of bounds.
    points = np.array([[0.6, 0.2, 0.5], [0.7, 0.1, 1.0], [0.7, 0.1, 1.1]])
    points = points[:, [("mu_cen", "mu_sat", "nuisance").index(name) for name in density.names]]
    x = torch.tensor(points, requires_grad=True)
    values = density(x)
    expected = [model.logposterior(point).logpost for point in points]
    assert values.tolist() == expected
    (gradient,) = torch.autograd.grad(values[:2].sum(), x)
    column = density.names.index("nuisance")
    np.testing.assert_allclose(gradient[:, column], [-0.5, -1.0, 0.0], rtol=1e-6)
    autograd = LogPosterior(get_model(make_info({"artifact": emulator})))
    y = torch.tensor(points[:2, [density.names.index(name) for name in autograd.names]], requires_grad=True)
    (slopes,) = torch.autograd.grad(autograd(y).sum(), y)
    for index, name in enumerate(autograd.names):
        np.testing.assert_allclose(gradient[:2, density.names.index(name)], slopes[:, index], rtol=1e-4)


def test_differences_are_one_sided_at_the_edge_of_a_domain():
    def function(points):
        with np.errstate(invalid="ignore"):
            return points[:, 0] ** 2 * np.where(points[:, 1] > 1.0, np.nan, points[:, 1] ** 2)

    points = np.array([[0.5, 0.2], [0.0, 1.0], [2.0, 1.0]])
    found = differences(function, points, 1e-4, (np.array([0.0, 0.0]), np.array([2.0, 2.0])))
    expected = np.stack([2 * points[:, 0] * points[:, 1] ** 2, 2 * points[:, 1] * points[:, 0] ** 2], axis=1)
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6)


PARAMS = {"a": {"prior": {"min": -1, "max": 1}}, "b": {"prior": {"min": -1, "max": 1}}}


def test_self_check_refuses_a_wrong_value_with_both_numbers():
    model = get_model({"likelihood": {"mine": {"external": Offset, "wrong": 1.001}}, "params": copy.deepcopy(PARAMS)})
    density = LogPosterior(model)
    expected = r"log-likelihood of mine,.* is -12\.5125, but -12\.5 in Cobaya at a = 0\.5, b = 0\. Correct"
    with pytest.raises(LoggedError, match=expected):
        density.check([[0.5, 0.0]])
    with pytest.raises(LoggedError, match="log-likelihood of mine"):
        density.check(rng=np.random.default_rng(0))


def test_self_check_refuses_a_wrong_gradient_and_mixed_rows():
    class Detached(Offset):
        def logp_torch(self, params, products):
            return super().logp_torch({**params, "b": params["b"].detach()}, products)

    class Mixed(Offset):
        def logp_torch(self, params, products):
            return super().logp_torch(params, products).flip(0)

    class Summed(Offset):
        def logp_torch(self, params, products):
            return super().logp_torch(params, products).sum()

    for kind, message in (
        (Detached, r"mine.* has the slope 0 with b, but [-0-9.]+ by differences of Cobaya's"),
        (Mixed, "depend on one another"),
        (Summed, r"logp_torch of mine returned shape \(\) for 1 points"),
    ):
        density = LogPosterior(get_model({"likelihood": {"mine": {"external": kind}}, "params": copy.deepcopy(PARAMS)}))
        with pytest.raises(LoggedError, match=message):
            density.check(rng=np.random.default_rng(1))


def test_self_check_finds_no_fault_with_the_shipped_models(make_info, emulator):
    LogPosterior(get_model(make_info({"artifact": emulator}))).check(rng=np.random.default_rng(5))


def test_options_and_shapes_are_checked(make_info):
    model = get_model(make_info())
    with pytest.raises(LoggedError, match="gradient: must be one of auto, autograd, finite_difference; got 'exact'"):
        LogPosterior(model, gradient="exact")
    with pytest.raises(LoggedError, match="scales: needs a positive number for each of mu_cen, mu_sat"):
        LogPosterior(model, scales=[1.0, 0.0])
    with pytest.raises(LoggedError, match=r"shape \(n, 2\)"):
        LogPosterior(model)(torch.zeros(3, 4))


def test_a_density_that_does_not_vary_has_a_gradient_of_zero():
    density = LogPosterior(get_model({"likelihood": {"one": None}, "params": copy.deepcopy(PARAMS)}))
    density.check(rng=np.random.default_rng(0))
    x = torch.tensor([[0.1, 0.2], [0.3, 0.4], [2.0, 0.0]], dtype=torch.float64, requires_grad=True)
    values = density(x)
    assert values.tolist() == pytest.approx([-2 * np.log(2.0)] * 2 + [-np.inf])
    (gradient,) = torch.autograd.grad(values.sum(), x)
    assert not gradient.any()


def test_theories_that_share_a_product_do_not_mix(make_info, emulator, analytic):
    class Other(Theory):
        provides = ["ia_xi"]

        def get_requirements(self):
            return {"amplitude": None}

        def get_can_provide(self):
            return ["ia_xi", "ia_omega"]

        def calculate(self, state, want_derived=True, **params):
            state["ia_xi"] = params["amplitude"]

        def forward_torch(self, params, products):
            return {"ia_xi": params["amplitude"], "ia_omega": None}

    class Needs(Likelihood):
        def get_requirements(self):
            return {"ia_xi": None}

        def logp(self, **params):
            return -((self.provider.get_result("ia_xi") - 1.0) ** 2)

        def logp_torch(self, params, products):
            return -((products["ia_xi"] - 1.0) ** 2)

    info = make_info(
        {"artifact": emulator, "provides": ["ia_omega"]},
        likelihood={"iaemu_cobaya.TNG300Sample1": None, "needs": {"external": Needs}},
        params={"amplitude": {"prior": {"min": 0, "max": 2}}},
    )
    info["theory"]["other"] = {"external": Other}
    assert_mirrors(get_model(info), n=2)


def test_the_error_of_the_prediction_has_a_gradient(make_info, make_analytic):
    options = {"emulator_error": True, "statistics": ["xi", "omega"], "r_min": {"xi": 1.0}}
    likelihood = {"iaemu_cobaya.TNG300Sample1": options}
    info = make_info({"artifact": make_analytic(n_deviations=3)}, likelihood, PRIORS)
    LogPosterior(get_model(info)).check(rng=np.random.default_rng(5))
