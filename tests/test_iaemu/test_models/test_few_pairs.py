"""Where hardly any pairs are expected nothing is predicted; everywhere else predictions are physical."""

import warnings

import numpy as np
import pytest

import iaemu
from iaemu.binning import PAPER_EDGES

#: Tables predicted DD < 0 here, xi = -0.99 and omega = 1.8.
RARE = dict(mu_cen=0.5, mu_sat=0.5, logMmin=14.0, sigma_logM=0.906, logM0=14.21, logM1=15.27, alpha=1.41)
OCCUPATION = {name: value for name, value in RARE.items() if not name.startswith("mu")}


@pytest.fixture(scope="module", params=["factorised-pm160", "tables-pm160"])
def model(request):
    return iaemu.load(request.param)


def test_bins_with_few_pairs_are_nan_and_named(model):
    with pytest.warns(iaemu.FewPairsWarning, match=r"from 0\.1 to 0\.1288 Mpc/h at logMmin = 14, sigma_logM = 0\.906"):
        prediction = model.predict(RARE, PAPER_EDGES)
    few = np.isnan(prediction.xi)
    assert few[:4].all() and not few[-8:].any()
    np.testing.assert_array_equal(np.isnan(prediction.omega), few)
    assert prediction.n_gal > 0
    pairs = model.expected_pairs(model.predict(RARE, PAPER_EDGES[-9:]))
    assert np.all(pairs > 6)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        silent = model.predict(RARE, PAPER_EDGES, support="reject")
        wide = model.predict(RARE, [0.1, 1.5, 5.0, 20.0])  # more pairs in wider bins
    np.testing.assert_array_equal(np.isnan(silent.xi), few)
    assert np.isfinite(wide.xi[1:]).all()


def test_one_occupation_is_masked_too(model):
    with pytest.warns(iaemu.FewPairsWarning):
        fixed = model.at_occupation(OCCUPATION, PAPER_EDGES, "omega")
    with pytest.warns(iaemu.FewPairsWarning):
        whole = model.predict(RARE, PAPER_EDGES, "omega")
    mu = np.array([[RARE["mu_cen"], RARE["mu_sat"]]])
    np.testing.assert_allclose(fixed(mu)["omega"][0], whole.omega, rtol=1e-9)


@pytest.mark.filterwarnings("ignore::iaemu.FewPairsWarning")
def test_predictions_are_physical_in_the_whole_region(model):
    rng = np.random.default_rng(5)
    unit = rng.uniform(size=(600, 7))
    unit[200:400] = np.clip(2.0 * unit[200:400] - 0.5, 0.0, 1.0)  # faces and edges
    unit[400:] = np.round(unit[400:])  # corners
    theta = model.support.from_unit_cube(unit)
    theta[::3, :2] = np.sign(theta[::3, :2])
    prediction = model.predict(theta, model.nodes)
    known = np.isfinite(prediction.xi)
    assert 0.8 < known.mean() < 1.0
    assert prediction.xi[known].min() > -1.0
    for name in ("omega", "eta"):
        values = getattr(prediction, name)[known]
        assert values.min() > -1.0 / 3.0 and values.max() < 2.0 / 3.0
