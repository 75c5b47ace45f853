"""Training at several redshifts: the network learns what the tables say between them."""

from dataclasses import replace

import numpy as np
import pytest

from iaemu import Emulator, InterpolatedTables
from iaemu.models.tables import TabulatedModel
from iaemu_training.commands import fit
from iaemu_training.commands.iaemu_train import main
from iaemu_training.dataset.file import SHIPPED_MOCKS, Dataset
from iaemu_training.dataset.labels import make_labels
from iaemu_training.dataset.points import occupation_points
from iaemu_training.evaluation.evaluate import evaluate
from iaemu_training.fitting import factorised
from iaemu_training.fitting.config import Config, ConfigError, FitSettings
from iaemu_training.fitting.factorised import epistemic_scale, fit_factorised, fit_members, held_out_errors

TINY = FitSettings(n_train=768, n_validation=32, width=32, depth=2, epochs=60, batch_size=32, members=1)


@pytest.fixture(scope="module")
def without_radii(snapshots):
    """Tables that do not know where satellites are, for which there is one network less to train."""
    return {
        z: TabulatedModel({name: v for name, v in one._tensors.items() if not name.startswith("radial.")}, one.metadata)
        for z, one in snapshots.items()
    }


@pytest.fixture(scope="module")
def model(without_radii):
    return InterpolatedTables([without_radii[0.0], without_radii[0.6]])


@pytest.fixture(scope="module")
def few_points(model):
    """Fewer points at which a trained emulator is compared with tables."""
    with pytest.MonkeyPatch.context() as patch:
        for name, function in (("held_out_errors", held_out_errors), ("epistemic_scale", epistemic_scale)):
            patch.setattr(factorised, name, lambda *args, f=function, **kw: f(*args[:3], n=30, **kw))
        yield


@pytest.fixture(scope="module")
def fitted(model, few_points):
    return fit_factorised(model, TINY, progress=False)


def test_points_fill_the_range_of_redshifts(model):
    points = occupation_points(model.support, 1024, 3, model.metadata["snapshots"])
    assert points.shape == (1024, 6) and points[:, 5].min() == 0.0 and points[:, 5].max() == 0.6
    between = points[(points[:, 5] > 0.0) & (points[:, 5] < 0.6)]
    assert len(between) > 400 and abs(np.median(between[:, 5]) - 0.3) < 0.02
    for redshift in (0.0, 0.6):
        assert np.sum(points[:, 5] == redshift) >= 256  # a quarter, and ends of the range


def test_points_fill_the_region_that_is_supported_at_their_redshift(model):
    wide, narrow = model.support.to_dict(), {**model.support.to_dict(), "logMmin": (11.8, 12.4)}
    snapshots = [{"redshift": 0.0, "support": wide}, {"redshift": 0.6, "support": narrow}]
    points = occupation_points(model.support, 1024, 3, snapshots)
    at_zero, later = points[points[:, 5] == 0.0, 0], points[points[:, 5] > 0.0, 0]
    np.testing.assert_allclose([at_zero.min(), at_zero.max()], wide["logMmin"], atol=1e-9)
    np.testing.assert_allclose([later.min(), later.max()], narrow["logMmin"], atol=1e-9)


def test_labels_are_those_of_the_redshift_of_each_point(model):
    points = occupation_points(model.support, 8, 3, model.metadata["snapshots"])
    found = make_labels(model, points, progress=False)
    for row, redshift in enumerate(points[:, 5]):
        one = make_labels(model.at_redshift(redshift), points[[row], :5], progress=False)
        np.testing.assert_allclose(found.values[row], one.values[0], rtol=1e-7, atol=1e-9)


def test_the_emulator_follows_the_tables_in_redshift(fitted, model, without_radii):
    assert isinstance(fitted, Emulator) and fitted.redshift_range == (0.0, 0.6) and fitted.redshift == 0.0
    theta = model.support.sample(60, np.random.default_rng(8))
    change = []
    for each in (fitted, model):
        now, then = (each.at_redshift(z).predict(theta, fitted.r_edges, support="reject") for z in (0.0, 0.6))
        change.append(np.log(then.n_gal / now.n_gal))
    # Halos are lighter by 0.09 dex, so that there are fewer galaxies of one occupation. The network is tiny.
    assert np.median(change[1]) < -0.1
    assert np.median(np.abs(change[0] - change[1])) < 0.5 * np.median(np.abs(change[1]))
    assert fitted.metadata["snapshots"] == model.metadata["snapshots"]


def test_errors_are_stated_at_each_redshift(fitted):
    held_out = fitted.metadata["held_out"]
    assert set(held_out) == {"inside", "faces", "corners", "z = 0", "z = 0.3", "z = 0.6"}
    parts = [held_out[f"z = {z}"] for z in ("0", "0.3", "0.6")]
    assert sum(part["n_points"] for part in parts) == held_out["inside"]["n_points"]
    assert all(part["omega"]["median"] < 1.0 for part in parts)


def test_one_redshift_is_trained_as_before(without_radii):
    alone = InterpolatedTables([without_radii[0.3]])
    settings = replace(TINY, epochs=1, n_train=32)
    one, other = (fit_members(each, settings, progress=False)[0] for each in (alone, without_radii[0.3]))
    assert one.network.redshifts is None
    np.testing.assert_array_equal(one.network.output.weight.detach(), other.network.output.weight.detach())


def test_mocks_of_one_of_the_redshifts_give_the_scatter(model, few_points, monkeypatch):
    seen = []
    monkeypatch.setattr(
        factorised, "fit_scatter", lambda emulator, *_: (seen.append(emulator.redshift), (None, {"n_points": 1}))[1]
    )
    settings = replace(TINY, epochs=1, n_train=32, members=2)
    found = fit_factorised(model, settings, progress=False, mocks=Dataset(SHIPPED_MOCKS))
    assert seen == [0.0] and found.metadata["aleatoric"]["n_points"] == 1
    assert set(found.metadata["epistemic_scale"]) == {"xi", "omega", "eta"}
    with pytest.raises(ValueError, match="not of the boxes of the tables"):
        fit_factorised(InterpolatedTables(model.tables[1:]), settings, progress=False, mocks=Dataset(SHIPPED_MOCKS))


def test_the_command_takes_several_tables(without_radii, tmp_path, monkeypatch):
    paths = [str(tmp_path / f"t{z}.safetensors") for z in (0.0, 0.6)]
    given = {}

    class Stop(Exception):
        pass

    def stop(config, *_):
        given.update(config.sources)
        raise Stop

    monkeypatch.setattr(fit, "_fit_factorised", stop)
    for tables, expected in ((paths, paths), (paths[:1], paths[0])):
        with pytest.raises(Stop):
            main(["fit", "-o", str(tmp_path / "e.safetensors"), "--tables", *tables])
        assert given["tables"] == expected


def test_a_configuration_may_list_tables():
    assert Config.from_dict({"network": "factorised", "tables": ["a", "b"]}).to_dict()["tables"] == ["a", "b"]
    for tables, words in (([], "empty list"), (["a", 3], "tables must be text"), ({"a": 1}, "tables must be text")):
        with pytest.raises(ConfigError, match=words):
            Config.from_dict({"network": "factorised", "tables": tables})
    with pytest.raises(ConfigError, match="dataset must be text"):
        Config.from_dict({"network": "factorised", "dataset": ["a", "b"]})


def test_an_evaluation_is_at_the_redshift_of_the_data_set(fitted):
    dataset = Dataset(SHIPPED_MOCKS)
    report = evaluate(fitted.at_redshift(0.6), dataset, n_bootstrap=0, progress=False)
    assert report.about["redshift"] == 0.0
