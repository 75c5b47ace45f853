"""A small analytic forward model: the physics' form (omega linear in q(mu), eta quadratic), no files."""

from __future__ import annotations

import pytest
import torch

from iaemu.binning import PAPER_EDGES, TNG_EDGES, bin_centers, check_edges, find_edges, union_edges
from iaemu.halomodel.alignment import mean_p2
from iaemu.parameters import PARAMETERS, Support, as_theta
from iaemu.prediction import STATISTICS, Prediction


class AnalyticModel:
    """A ForwardModel of a few power laws; counts its calls."""

    parameters = PARAMETERS
    metadata = {"cosmology": "toy cosmology"}

    def __init__(self, gives_counts=True, n_deviations=0):
        self.support = Support(logMmin=(11.5, 13.5))
        self.r_edges = union_edges(PAPER_EDGES, TNG_EDGES)
        self.gives_counts = gives_counts
        self.n_deviations = n_deviations
        self.calls = []

    def __deepcopy__(self, memo):
        # Cobaya copies its input; tests look at the calls of the one instance they made.
        return self

    def predict(self, theta, r_edges=None, statistics=STATISTICS, support="raise"):
        self.calls.append((None if r_edges is None else tuple(r_edges), tuple(statistics)))
        is_tensor = isinstance(theta, torch.Tensor)
        theta = as_theta(theta)
        self.support.enforce(theta, support)
        edges = self.r_edges if r_edges is None else check_edges(r_edges)
        find_edges(self.r_edges, edges)
        r = torch.as_tensor(bin_centers(edges))
        q_cen, q_sat = mean_p2(theta[..., 0:1].clamp(-1, 1)), mean_p2(theta[..., 1:2].clamp(-1, 1))
        mass = theta[..., 2:3] - 12.54
        values = {
            "xi": 70.0 * 10 ** (0.3 * mass) * r**-1.8,
            "omega": (0.02 * q_cen / (1 + r) + 0.3 * q_sat / (1 + 4 * r) ** 2) * 10 ** (0.1 * mass),
            "eta": 0.01 * (q_cen + q_sat) ** 2 / (1 + r) + 0.0 * mass,
        }
        values = {name: value for name, value in values.items() if name in statistics}
        if self.gives_counts:
            values["n_gal"] = 10 ** (4.0 - mass[..., 0])
            values["f_sat"] = 0.25 + 0.01 * mass[..., 0]
        prediction = Prediction(r_edges=edges, **values)
        return prediction if is_tensor else prediction.numpy()

    def deviations(self, theta, r_edges=None, statistics=STATISTICS, support="raise"):
        """The k-th is the prediction times a wave of r, other for each k."""
        prediction = self.predict(theta, r_edges, statistics, support)
        waves = [0.1 * torch.sin((k + 1.0) * torch.as_tensor(prediction.r).log()) for k in range(self.n_deviations)]
        result = {}
        for name in statistics:
            value = torch.as_tensor(getattr(prediction, name))
            result[name] = torch.stack(waves) * value.unsqueeze(-2)
        return result if isinstance(theta, torch.Tensor) else {name: value.numpy() for name, value in result.items()}


@pytest.fixture
def analytic():
    return AnalyticModel()


@pytest.fixture
def make_analytic():
    """The analytic model's class: keywords gives_counts, n_deviations."""
    return AnalyticModel


@pytest.fixture
def make_info(analytic):
    """Cobaya input: the analytic model and likelihoods of the caller's choice (TNG300 sample 1 by default)."""

    def make(theory=None, likelihood=None, params=None, **others):
        info = {
            "theory": {"iaemu_cobaya.TabulatedIA": {"artifact": analytic, **(theory or {})}},
            "likelihood": likelihood if likelihood is not None else {"iaemu_cobaya.TNG300Sample1": None},
            **others,
        }
        # Cobaya 3.6 cannot do with an empty block.
        return {**info, "params": params} if params else info

    return make
