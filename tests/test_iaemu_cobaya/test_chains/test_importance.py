"""Chains re-weighted for another posterior, as in docs/how_to/joint_chains.md, also with rows of zero posterior.

Cobaya's ``post`` is not: it shifts the weights of all rows behind one that is dropped.
"""

import numpy as np
import pytest
from cobaya.model import get_model
from cobaya.run import run

from iaemu_cobaya.chains import load_chain


@pytest.fixture
def chain(make_info, tmp_path):
    """Of a run that extrapolates beyond the support, where the occupation leaves it."""
    sampler = {"n_chains": 8, "n_warmup": 60, "max_samples": 800, "check_every": 50, "seed": 1, "progress": False}
    run(make_info(**self_info("warn"), sampler={"iaemu_cobaya.HMC": sampler}, output=str(tmp_path / "a")))
    return load_chain(tmp_path / "a")


def self_info(support):
    """Options and parameters of the run: the mass at which the occupation leaves the support is among its draws."""
    mass = {"prior": {"min": 11.8, "max": 13.4}, "ref": {"dist": "norm", "loc": 12.5, "scale": 0.1}}
    return {"theory": {"support": support}, "params": {"logMmin": mass}}


def test_weights_where_rows_have_zero_likelihood(chain, make_info):
    model = get_model(make_info(**self_info("reject")))
    inside = model.theory["iaemu_cobaya.TabulatedIA"].model.support.contains(
        np.array([[row[name] for name in model.theory["iaemu_cobaya.TabulatedIA"].names] for row in rows_of(chain)])
    )
    assert 50 < inside.sum() < len(inside) - 50

    samples = chain.samples.copy()
    points = chain.rows[chain.sampled].to_numpy()
    new = np.array([model.logpost(point) for point in points])
    kept = np.isfinite(new)
    samples.filter(kept)
    samples.reweightAddingLogLikes(-new[kept] - chain.column("minuslogpost")[kept])

    # Inside, the posterior is that of the chain: each row that is left keeps its weight.
    assert np.array_equal(kept, inside)
    assert samples.weights == pytest.approx(np.ones(kept.sum()), rel=1e-4)
    expected = points[inside].mean(axis=0)
    found = [samples.mean(name) for name in chain.sampled]
    assert found == pytest.approx(expected, rel=1e-4)


def rows_of(chain):
    fixed = {name: info["value"] for name, info in chain.info["params"].items() if "value" in (info or {})}
    return [{**fixed, **row} for row in chain.rows.to_dict("records")]
