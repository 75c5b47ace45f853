"""The shipped emulator and tables: exact identities, agreement, dtypes, bins, refusals."""

import json
import shutil

import numpy as np
import pytest
import torch

from iaemu.artifact import ArtifactError, shipped_artifact
from iaemu.binning import PAPER_EDGES, TNG_EDGES, BinningError, shell_volumes
from iaemu.models.base import ForwardModel
from iaemu.models.factorised import Emulator
from iaemu.models.tables import TabulatedModel
from iaemu.parameters import SupportError, SupportWarning

pytestmark = pytest.mark.filterwarnings("ignore::iaemu.FewPairsWarning")

SAMPLE1 = dict(mu_cen=0.8, mu_sat=0.3, logMmin=12.54, sigma_logM=0.26, logM0=12.68, logM1=13.48, alpha=1.0)


def relative_rms(values, truth):
    """The rms over bins of the difference, relative to that of the truth, without bins that have few pairs."""
    return np.sqrt(np.nansum((values - truth) ** 2, axis=1) / np.nansum(truth**2, axis=1))


@pytest.fixture(scope="module")
def emulator():
    return Emulator.load()


@pytest.fixture(scope="module")
def tables():
    return TabulatedModel.load()


@pytest.fixture(scope="module")
def theta(emulator):
    """Points at which many pairs are expected in the paper's bins."""
    points = emulator.support.sample(300, np.random.default_rng(42))
    return points[np.isfinite(emulator.predict(points, support="reject").xi).all(axis=1)][:200]


def test_both_are_forward_models(emulator, tables):
    assert isinstance(emulator, ForwardModel) and isinstance(tables, ForwardModel)
    assert emulator.support == tables.support


@pytest.mark.parametrize("edges", [PAPER_EDGES, TNG_EDGES], ids=["paper", "TNG"])
def test_the_emulator_follows_the_tables_on_held_out_points(emulator, tables, theta, edges):
    exact, guess = tables.predict(theta, edges), emulator.predict(theta, edges)
    for name, limit in (("xi", 0.012), ("omega", 0.012), ("eta", 0.024)):
        truth = getattr(exact, name)
        assert np.nanmedian(relative_rms(getattr(guess, name), truth)) < limit, name
    apart = np.abs(guess.n_gal / exact.n_gal - 1)
    assert np.percentile(apart, 95) < 0.03 and apart.max() < 0.06
    np.testing.assert_allclose(guess.f_sat, exact.f_sat, atol=0.015)


def test_random_orientations_give_exactly_zero(emulator, theta):
    isotropic = theta.copy()
    isotropic[:, :2] = 0.0
    prediction = emulator.predict(isotropic)
    assert np.all(prediction.omega == 0) and np.all(prediction.eta == 0)


def test_xi_does_not_depend_on_mu_and_eta_is_quadratic_in_q(emulator, theta):
    aligned, other = theta.copy(), theta.copy()
    aligned[:, :2], other[:, :2] = 1.0, -1.0  # q = 1 and q = -1/2
    plus, minus = emulator.predict(aligned), emulator.predict(other)
    np.testing.assert_array_equal(plus.xi, minus.xi)
    np.testing.assert_allclose(minus.omega, -0.5 * plus.omega, rtol=1e-12)
    np.testing.assert_allclose(minus.eta, 0.25 * plus.eta, rtol=1e-10, atol=1e-16)


def test_coarser_bins_agree_with_the_tables(emulator, tables):
    edges = PAPER_EDGES[::4]
    exact, guess = tables.predict(SAMPLE1, edges), emulator.predict(SAMPLE1, edges)
    np.testing.assert_allclose(guess.xi, exact.xi, rtol=0.03)
    np.testing.assert_allclose(guess.omega, exact.omega, rtol=0.05)
    # 1 + xi of a coarse bin is the volume average of the fine ones.
    fine = emulator.predict(SAMPLE1, PAPER_EDGES)
    volume = shell_volumes(PAPER_EDGES)
    average = np.add.reduceat((1 + fine.xi) * volume, range(0, 20, 4)) / np.add.reduceat(volume, range(0, 20, 4))
    np.testing.assert_allclose(guess.xi, average - 1, rtol=1e-10)


def test_any_bins_agree_with_the_tables(emulator, tables, theta):
    edges = [0.11, 0.2, 0.33, 0.8, 1.7, 4.1, 9.0, 24.0]
    exact, guess = tables.predict(theta, edges), emulator.predict(theta, edges)
    for name, limit in (("xi", 0.01), ("omega", 0.006), ("eta", 0.012)):
        error = relative_rms(getattr(guess, name), getattr(exact, name))
        assert np.nanmedian(error) < limit, name
    assert np.nanmedian(np.abs(guess.xi[:, -1] / exact.xi[:, -1] - 1)) < 0.02


def test_bins_beyond_the_range_or_too_narrow_are_refused(emulator):
    with pytest.raises(BinningError, match=r"from 0\.1 to 30 Mpc/h are not within 0\.1 to 25\.1"):
        emulator.predict(SAMPLE1, [0.1, 0.2, 30.0])
    with pytest.raises(BinningError, match="less than the model resolves there"):
        emulator.predict(SAMPLE1, [0.3, 0.31])


def test_gradients_equal_central_differences(emulator):
    rng = np.random.default_rng(3)
    weights = torch.tensor(rng.normal(size=20))
    theta = torch.tensor(emulator.support.sample(200, rng) * 0.98 + 0.02 * _middle(emulator))
    theta = theta[torch.isfinite(emulator.predict(theta).xi).all(dim=1)].requires_grad_()

    def summary(points):
        value = emulator.predict(points, support="warn")
        return (torch.log1p(value.xi) + 30 * value.omega + 300 * value.eta) @ weights

    (gradient,) = torch.autograd.grad(summary(theta).sum(), theta)
    central = torch.empty_like(gradient)
    for column in range(7):
        step = torch.zeros(7, dtype=torch.float64)
        step[column] = 1e-5
        with torch.no_grad():
            central[:, column] = (summary(theta + step) - summary(theta - step)) / 2e-5
    worst = ((gradient - central).norm(dim=1) / gradient.norm(dim=1)).max()
    assert float(worst) < 1e-6


def test_a_first_call_under_inference_mode_does_not_spoil_later_gradients():
    for model in (Emulator.load(), TabulatedModel.load()):
        theta = torch.tensor(model.support.sample(2, np.random.default_rng(1)))
        with torch.inference_mode():
            model.predict(theta, TNG_EDGES)
        theta.requires_grad_()
        (gradient,) = torch.autograd.grad(model.predict(theta, TNG_EDGES).omega.sum(), theta)
        assert bool(torch.isfinite(gradient).all())


def test_second_derivatives_of_the_tables_equal_central_differences(tables):
    theta = torch.tensor([list(SAMPLE1.values())], dtype=torch.float64, requires_grad=True)

    def gradient(point, create_graph=False):
        value = torch.log1p(tables.predict(point, TNG_EDGES).xi).sum()
        return torch.autograd.grad(value, point, create_graph=create_graph)[0]

    slope = gradient(theta, create_graph=True)[0]
    hessian = torch.stack([torch.autograd.grad(entry, theta, retain_graph=True)[0][0] for entry in slope[2:]])
    for row, column in enumerate(range(2, 7)):
        step = torch.zeros(7, dtype=torch.float64)
        step[column] = 1e-5
        up, down = ((theta.detach() + sign * step).requires_grad_() for sign in (1, -1))
        central = (gradient(up) - gradient(down))[0] / 2e-5
        np.testing.assert_allclose(hessian[row], central, rtol=1e-4, atol=1e-3)


def _middle(model):
    return model.support.from_unit_cube(np.full((1, 7), 0.5))


def test_single_precision_tensors_are_computed_in_single_precision(emulator, theta):
    single = emulator.predict(torch.tensor(theta, dtype=torch.float32), support="warn")
    double = emulator.predict(torch.tensor(theta))
    assert single.xi.dtype == torch.float32 and double.xi.dtype == torch.float64
    np.testing.assert_allclose(single.xi, double.xi, rtol=2e-4)
    np.testing.assert_allclose(single.omega, double.omega, rtol=2e-3, atol=1e-6)


def test_batches_of_any_shape(emulator, theta):
    flat = emulator.predict(theta)
    shaped = emulator.predict(theta.reshape(2, 50, 2, 7))
    assert shaped.omega.shape == (2, 50, 2, 20) and shaped.n_gal.shape == (2, 50, 2)
    np.testing.assert_allclose(shaped.omega.reshape(200, 20), flat.omega, rtol=1e-9, atol=1e-14)
    one = emulator.predict(SAMPLE1)
    assert one.xi.shape == (20,) and one.r.shape == (20,)


def test_only_what_is_asked_for_is_computed(emulator, tables):
    prediction = emulator.predict(SAMPLE1, TNG_EDGES, statistics=("omega",))
    assert prediction.xi is None and prediction.eta is None
    for model in (emulator, tables):
        counts = model.predict(SAMPLE1, TNG_EDGES, statistics=())
        assert counts.omega is None and counts.n_gal > 0
        with pytest.raises(ValueError, match=r"Unknown statistic.* omgea"):
            model.predict(SAMPLE1, statistics=("omgea",))
    np.testing.assert_allclose(prediction.omega, emulator.predict(SAMPLE1, TNG_EDGES).omega, rtol=1e-12)


@pytest.mark.parametrize("model", ["emulator", "tables"])
def test_support_policies(request, model):
    model = request.getfixturevalue(model)
    outside = {**SAMPLE1, "logMmin": 10.9}
    with pytest.raises(SupportError, match=r"logMmin = 10\.9 is outside \[11\.5, 14\]"):
        model.predict(outside)
    assert np.isnan(model.predict(outside, support="reject").omega).all()
    with pytest.warns(SupportWarning):
        assert np.isfinite(model.predict(outside, support="warn").omega).all()


def test_a_truncated_or_foreign_artifact_is_refused(tmp_path):
    path = tmp_path / "cut.safetensors"
    data = shipped_artifact(Emulator.shipped).read_bytes()
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(ArtifactError, match="truncated, corrupt"):
        Emulator.load(path)
    shutil.copy(shipped_artifact(Emulator.shipped), path)
    with pytest.raises(ArtifactError, match="'emulator', but 'tables'"):
        TabulatedModel.load(path)


def test_sizes_of_what_is_shipped():
    for path in shipped_artifact(Emulator.shipped).parent.glob("*.safetensors"):
        assert path.stat().st_size <= 20_000_000, path.name


def test_metadata_say_what_it_was_made_from(emulator, tables):
    for model in (emulator, tables):
        assert model.metadata["catalogues"] == ["pm160a", "pm160b"]
        assert all(len(value) == 64 for value in model.metadata["catalogue_sha256"])
        assert model.cosmology == {
            "Om": 0.30711,
            "Ob": 0.048,
            "h": 0.678,
            "sigma8": 0.8228,
            "ns": 0.96,
            "redshift": 0.0,
        }
    assert emulator.metadata["catalogue_sha256"] == tables.metadata["catalogue_sha256"]


def test_shipped_artifacts_are_those_that_the_documented_commands_make(emulator, tables):
    pytest.importorskip("numba")
    from dataclasses import asdict

    from iaemu_training.fitting.config import read_config
    from iaemu_training.tables.tabulate import TabulationSettings

    assert tables.metadata["settings"] == json.loads(json.dumps(asdict(TabulationSettings())))
    # An artifact may be older than a setting that has been added since.
    made_with, configured = emulator.metadata["fit"], asdict(read_config("factorised").settings)
    assert made_with == {name: configured[name] for name in made_with}


def test_shipped_artifacts_belong_to_the_shipped_catalogues(tables):
    pytest.importorskip("h5py")
    from iaemu_training.halos.catalogue import HaloCatalogue

    hashes = [HaloCatalogue.load(name).sha256 for name in tables.metadata["catalogues"]]
    assert hashes == tables.metadata["catalogue_sha256"]
