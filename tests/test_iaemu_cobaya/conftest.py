"""A small analytic forward model: the physics' form (omega linear in q(mu), eta quadratic), no files."""

from __future__ import annotations

import pytest
import torch

from iaemu.binning import PAPER_EDGES, TNG_EDGES, bin_centers, check_edges, union_edges
from iaemu.halomodel.alignment import mean_p2
from iaemu.models.base import ForwardModel
from iaemu.parameters import Support
from iaemu.prediction import STATISTICS


class AnalyticModel(ForwardModel):
    """A few power laws; counts its calls."""

    metadata = {"cosmology": "toy cosmology"}

    def __init__(self, gives_counts=True, n_deviations=0):
        self.support = Support(logMmin=(11.5, 13.5))
        self.nodes = union_edges(PAPER_EDGES, TNG_EDGES)
        self.gives_counts = gives_counts
        self._n_epistemic = n_deviations
        self.calls = []

    def __deepcopy__(self, memo):
        # Cobaya copies its input; tests look at the calls of the one instance they made.
        return self

    _n_epistemic = 0

    def predict(self, theta, r_edges=None, statistics=STATISTICS, support="raise"):
        self.calls.append((None if r_edges is None else tuple(r_edges), tuple(statistics)))
        return super().predict(theta, r_edges, statistics, support)

    def _bins(self, r_edges):
        edges = self.r_edges if r_edges is None else check_edges(r_edges)
        self.check_bins(edges)
        return edges

    def _predict(self, theta, edges, names):
        r = torch.as_tensor(bin_centers(edges))
        q_cen, q_sat = mean_p2(theta[..., 0:1].clamp(-1, 1)), mean_p2(theta[..., 1:2].clamp(-1, 1))
        mass = theta[..., 2:3] - 12.54
        values = {
            "xi": 70.0 * 10 ** (0.3 * mass) * r**-1.8,
            "omega": (0.02 * q_cen / (1 + r) + 0.3 * q_sat / (1 + 4 * r) ** 2) * 10 ** (0.1 * mass),
            "eta": 0.01 * (q_cen + q_sat) ** 2 / (1 + r) + 0.0 * mass,
        }
        values = {name: value for name, value in values.items() if name in names}
        if self.gives_counts:
            values["n_gal"] = 10 ** (4.0 - mass[..., 0])
            values["f_sat"] = 0.25 + 0.01 * mass[..., 0]
        return values

    def _deviations(self, theta, r_edges, names):
        """The k-th is the prediction times a wave of r, other for each k."""
        edges = self._bins(r_edges)
        values = self._predict(theta, edges, names)
        log_r = torch.as_tensor(bin_centers(edges)).log()
        waves = torch.stack([0.1 * torch.sin((k + 1.0) * log_r) for k in range(self._n_epistemic)])
        return {name: waves * values[name].unsqueeze(-2) for name in names}


@pytest.fixture
def analytic():
    return AnalyticModel()


@pytest.fixture(scope="session")
def make_analytic():
    """The analytic model's class: keywords gives_counts, n_deviations."""
    return AnalyticModel


@pytest.fixture
def make_info(analytic):
    """Cobaya input: the analytic model and likelihoods of the caller's choice (TNG300 sample 1 by default).

    Our likelihoods are without the error of the prediction, unless ``likelihood`` sets it.
    """

    def make(theory=None, likelihood=None, params=None, **others):
        blocks = {"iaemu_cobaya.TNG300Sample1": None} if likelihood is None else likelihood
        info = {
            "theory": {"iaemu_cobaya.TabulatedIA": {"artifact": analytic, **(theory or {})}},
            # The analytic model does not know its error by default.
            "likelihood": {
                name: {"emulator_error": False, **(options or {})} if name.startswith("iaemu_cobaya.") else options
                for name, options in blocks.items()
            },
            **others,
        }
        # Cobaya 3.6 cannot do with an empty block.
        return {**info, "params": params} if params else info

    return make
