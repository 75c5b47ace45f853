"""Predictions, deviations and occupations from parameters, bins and options that nobody meant to give."""

import numpy as np
import pytest
import torch
from fuzzing import _pick, awkward_mapping, awkward_number, awkward_tensor

import iaemu
from iaemu.binning import (
    PAPER_EDGES,
    TNG_EDGES,
    BinningError,
    check_edges,
    nesting_matrix,
    pairs_inside_cube,
    shell_volumes,
    union_edges,
)
from iaemu.models.laws import StrengthSupport, VaryingStrengthModel
from iaemu.models.network import NetworkModel
from iaemu.parameters import PARAMETERS, Support, as_theta

POINT = dict(mu_cen=0.8, mu_sat=0.3, logMmin=12.54, sigma_logM=0.26, logM0=12.68, logM1=13.48, alpha=1.0)
WORDS = ["xi", "omega", "eta", "Xi", "", "x", None, 3, ("xi",), object(), np.array(["xi", "omega"]), b"xi", print]

MODELS = {
    "emulator": lambda: iaemu.load(),
    "tables": lambda: iaemu.load("tables-pm160"),
    "iaemunet": lambda: iaemu.load("iaemunet-pm160"),
    "varying strengths": lambda: VaryingStrengthModel.load(),
}


@pytest.fixture(scope="module", params=MODELS)
def model(request):
    return MODELS[request.param]()


def point_of(model) -> dict:
    return {name: POINT.get(name, 0.1) for name in model.parameters}


def some_theta(rng, values: dict):
    """Parameters in some form, mostly near a point that is supported."""
    like = np.array(list(values.values()))
    form = rng.integers(6)
    if form == 0:
        return awkward_mapping(rng, values)
    if form == 1:
        return awkward_number(rng)
    if form == 2:
        return awkward_tensor(rng, np.stack([like, like]))
    if form == 3:
        entries = {name: awkward_tensor(rng, np.array([value, value])) for name, value in values.items()}
        return {name: entries[name] if rng.random() < 0.3 else value for name, value in values.items()}
    if form == 4:
        return [awkward_number(rng) if rng.random() < 0.2 else torch.tensor(value) for value in like]
    return awkward_tensor(rng, like)


def some_edges(rng, native: np.ndarray):
    if rng.integers(4) == 0:
        return awkward_number(rng)
    edges = np.array(native)[:: int(rng.integers(1, 4))]
    return awkward_tensor(rng, edges)


def some_options(rng, model) -> dict:
    """Mostly one of them is wrong."""
    options: dict = {}
    kind = rng.integers(8)
    if kind < 5:
        return {"theta": some_theta(rng, point_of(model))}
    options["theta"] = point_of(model)
    if kind == 5:
        options["r_edges"] = some_edges(rng, model.r_edges)
    elif kind == 6:
        options["statistics"] = _pick(rng, [[_pick(rng, WORDS) for _ in range(rng.integers(4))], _pick(rng, WORDS)])
    else:
        options["support"] = _pick(
            rng, ["raise", "reject", "warn", "Raise", None, 3, ["raise"], np.array(["raise"] * 2)]
        )
        options["theta"] = some_theta(rng, point_of(model))
    return options


def as_plain(theta, parameters) -> np.ndarray:
    """What was meant, by another way than the package's."""
    if isinstance(theta, dict):
        theta = [theta[name] for name in parameters]
        return np.stack(np.broadcast_arrays(*[as_plain(value, None) for value in theta]), axis=-1)
    if isinstance(theta, torch.Tensor):
        return theta.detach().double().numpy()
    if isinstance(theta, list | tuple):
        return np.stack(np.broadcast_arrays(*[as_plain(value, None) for value in theta]), axis=-1 if parameters else 0)
    return np.asarray(theta, dtype=np.float64)


def is_as_meant(result, reference, kinds) -> bool:
    """Shapes, and values to single precision: the form of the parameters does not change them."""
    for name in kinds:
        value, expected = (x[name] if isinstance(x, dict) else getattr(x, name) for x in (result, reference))
        if (value is None) != (expected is None):
            return False
        if value is None:
            continue
        value = value.detach().double().numpy() if isinstance(value, torch.Tensor) else value
        if value.shape != expected.shape:
            return False
        scale = np.nanmax(np.abs(expected), initial=1e-3)
        if not np.allclose(value, expected, rtol=1e-3, atol=1e-3 * scale, equal_nan=True):
            return False
    return True


def test_predict(fuzz, model, request):
    def call(options):
        found = model.predict(**options)
        plain = {**options, "theta": as_plain(options["theta"], model.parameters)}
        if plain.get("r_edges") is not None:
            plain["r_edges"] = np.array(as_plain(plain["r_edges"], None))
        return found, model.predict(**plain)

    def check(result):
        return is_as_meant(*result, ("xi", "omega", "eta", "n_gal", "f_sat"))

    name = request.node.callspec.params["model"]
    n = 4000 if isinstance(model, NetworkModel) else 2000
    fuzz(f"predict, {name}", n, lambda rng: some_options(rng, model), call, ValueError, check)


def test_uncertainties(fuzz, model, request):
    def make(rng):
        options = {"volume": awkward_number(rng)}
        if name == "iaemunet":
            options[_pick(rng, ["n_passes", "seed", "volume"])] = awkward_number(rng)
            options = {key: 3 if key == "n_passes" and value is True else value for key, value in options.items()}
        return options

    def check(found):
        sigmas = [*(found.sigma_aleatoric or {}).values(), *(found.sigma_epistemic or {}).values()]
        return bool(sigmas) and all(np.all(np.isfinite(value) & (value > 0)) for value in sigmas)

    name = request.node.callspec.params["model"]
    point = point_of(model)

    def call(options):
        return model.predict(point, uncertainties=True, **options)

    fuzz(f"predict with uncertainties, {name}", 300 if name == "iaemunet" else 600, make, call, ValueError, check)


def test_deviations(fuzz, model, request):
    def call(options):
        found = model.deviations(**options)
        plain = {**options, "theta": as_plain(options["theta"], model.parameters)}
        if plain.get("r_edges") is not None:
            plain["r_edges"] = np.array(as_plain(plain["r_edges"], None))
        return found, model.deviations(**plain)

    def check(result):
        return is_as_meant(*result, result[0])

    name = request.node.callspec.params["model"]
    n = 200 if name == "iaemunet" else 2000
    fuzz(f"deviations, {name}", n, lambda rng: some_options(rng, model), call, ValueError, check)


def test_at_occupation(fuzz, model, request):
    strengths = [name for name in model.parameters if name not in PARAMETERS[2:]]
    occupation = {name: POINT[name] for name in PARAMETERS[2:]}
    good = model.at_occupation(occupation)

    def make(rng):
        if rng.integers(3):
            return None, awkward_tensor(rng, 0.5 * np.ones((int(rng.integers(1, 4)), len(strengths))))
        return some_theta(rng, occupation), torch.full((2, len(strengths)), 0.2)

    def call(value):
        fixed = good if value[0] is None else model.at_occupation(value[0], statistics=("xi", "omega"))
        result = fixed(value[1])
        if fixed.n_deviations and name != "iaemunet":
            fixed.deviations(value[1])
        return result

    name = request.node.callspec.params["model"]
    fuzz(f"at_occupation, {name}", 600 if name == "iaemunet" else 1200, make, call, ValueError, all_finite)


def all_finite(found: dict) -> bool:
    return all(bool(torch.isfinite(value).all()) and value.ndim == 2 for value in found.values())


def test_support(fuzz):
    fields = {
        "logMmin": (11.5, 14.0),
        "n_rmse": 4.0,
        "sigma_logM_min": 0.01,
        "log_mass_complete": 11.0172,
        "n_sigma_complete": 1.75,
        "logM0_max": 14.21,
    }

    def make(rng):
        kind = StrengthSupport if rng.integers(2) else Support
        values = dict(fields)
        if kind is StrengthSupport:
            values |= {"mu_cen_slope": (-2.0, 2.0), "mu_sat_slope": (-1.0, 0.5)}
        name = _pick(rng, list(values))
        values[name] = awkward_number(rng)
        if name in ("logMmin", "mu_cen_slope", "mu_sat_slope") and rng.integers(2):
            values[name] = (
                _pick(rng, [tuple, list])([awkward_number(rng), 12.5])
                if rng.integers(2)
                else (awkward_tensor(rng, np.array([11.5, 14.0])))
            )
        return kind, values

    def call(value):
        support = value[0](**value[1])
        return support, support.sample(3, np.random.default_rng(1))

    fuzz("Support", 3000, make, call, ValueError, lambda found: bool(found[0].contains(found[1]).all()))

    support = Support(**fields)
    for name in ("contains", "nearest", "enforce"):
        call_it = getattr(support, name)
        fuzz(f"Support.{name}", 1500, lambda rng: some_theta(rng, POINT), call_it, ValueError)
    fuzz("as_theta", 3000, lambda rng: some_theta(rng, POINT), as_theta, ValueError, lambda t: t.shape[-1] == 7)


def test_edges(fuzz):
    def all_good(*arrays):
        return all(np.all(np.isfinite(array)) for array in arrays)

    def make(rng):
        return some_edges(rng, _pick(rng, [PAPER_EDGES, TNG_EDGES]))

    fuzz("check_edges", 3000, make, check_edges, BinningError, lambda edges: bool(np.all(np.diff(edges) > 0)))
    fuzz("shell_volumes", 2000, make, shell_volumes, BinningError, lambda found: all_good(found) and np.all(found > 0))
    fuzz("union_edges", 1000, make, lambda edges: union_edges(edges, PAPER_EDGES), BinningError, all_good)
    fuzz("nesting_matrix", 2000, make, lambda edges: nesting_matrix(PAPER_EDGES, edges), BinningError, all_good)
    fuzz(
        "pairs_inside_cube",
        2000,
        lambda rng: (make(rng), 100.0) if rng.integers(2) else (PAPER_EDGES, awkward_number(rng)),
        lambda value: pairs_inside_cube(*value),
        BinningError,
        lambda found: bool(np.all((found > 0) & (found <= 1))),
    )
