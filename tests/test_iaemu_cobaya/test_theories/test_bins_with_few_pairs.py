"""Runs whose data have bins in which hardly any pairs are expected."""

import numpy as np
import pytest
from cobaya.log import LoggedError
from cobaya.model import get_model

from iaemu import Bins, Measurement

RARE = {"logMmin": 14.0, "sigma_logM": 0.906, "logM0": 14.21, "logM1": 15.27, "alpha": 1.41}
MU = {"mu_cen": {"prior": [-1, 1], "ref": 0.5}, "mu_sat": {"prior": [-1, 1], "ref": 0.1}}
EDGES = np.geomspace(0.1, 20.0, 8)


def make_info(params):
    data = Measurement({"omega": Bins(EDGES[:-1], EDGES[1:], np.full(7, 0.02), np.full(7, 0.01))})
    likelihood = {"iaemu_cobaya.IACorrelations": {"data": data, "statistics": ["omega"]}}
    return {"theory": {"iaemu_cobaya.IAEmu": None}, "likelihood": likelihood, "params": params}


def test_a_fixed_occupation_without_pairs_is_an_error_that_names_the_bin():
    with pytest.raises(LoggedError, match=r"fewer than 3 pairs are expected .* bin from 0\.1 to 0\.2132 Mpc/h"):
        get_model(make_info({**RARE, **MU})).logposterior([0.5, 0.1])


def test_a_reference_point_without_pairs_is_an_error_at_the_start():
    free = {"prior": [12.0, 14.0], "ref": {"dist": "norm", "loc": 14.0, "scale": 0.01}}
    with pytest.raises(LoggedError, match=r"At the reference point of this run, .* bin from 0\.1 to 0\.2132 Mpc/h"):
        get_model(make_info({**RARE, **MU, "logMmin": free}))


def test_other_points_without_pairs_are_rejected_and_counted(caplog):
    free = {"prior": [13.5, 14.0], "ref": 13.5}
    fixed = {"sigma_logM": 0.65, "logM0": 13.2, "logM1": 14.3, "alpha": 1.0}
    params = {**MU, "logMmin": free, **fixed}
    params["logM0"] = {"prior": [13.0, 14.21], "ref": 13.0}
    params["logM1"] = {"prior": [13.8, 15.2], "ref": 14.0}
    model = get_model(make_info(params))
    points = {name: 0.2 for name in MU} | {"logMmin": 14.0, "logM0": 14.2, "logM1": 15.1}
    for _ in range(2):
        assert model.logposterior(points, cached=False).logpost == -np.inf
    theory = model.theory["iaemu_cobaya.IAEmu"]
    assert theory._evaluation.n_few_pairs == 2
    assert caplog.text.count("Such points get zero likelihood") == 1
    assert np.isfinite(model.logposterior(points | {"logMmin": 13.5, "logM0": 13.0, "logM1": 14.0}).logpost)
