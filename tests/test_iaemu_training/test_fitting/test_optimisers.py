"""Muon and Adam as one optimiser."""

import pytest
import torch
from torch import nn

from iaemu.networks.factorised import FactorisedNet
from iaemu.parameters import Support
from iaemu_training.fitting.optimisers import MuonAdam


def network(depth=3):
    torch.manual_seed(1)
    return FactorisedNet(Support(logMmin=(11.5, 13.0)), 2, width=8, depth=depth)


def steps(model, optimiser, schedule, n):
    inputs = torch.linspace(-1, 1, 80).reshape(16, 5)
    for _ in range(n):
        optimiser.zero_grad()
        loss = model.output(model.hidden(inputs)).square().mean()
        loss.backward()
        optimiser.step()
        schedule.step()
    return loss.item()


def test_every_parameter_is_trained_once():
    model = network()
    optimiser = MuonAdam(model, 1e-3, 0.02)
    trained = [id(parameter) for group in optimiser.param_groups for parameter in group["params"]]
    assert sorted(trained) == sorted(id(parameter) for parameter in model.parameters())
    # Muon's are the square matrices between hidden layers.
    assert [tuple(parameter.shape) for parameter in optimiser.param_groups[0]["params"]] == [(8, 8), (8, 8)]


def test_a_schedule_reaches_both_parts_and_the_loss_falls():
    model = network()
    optimiser = MuonAdam(model, 1e-3, 0.02)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, 20)
    first = steps(model, optimiser, schedule, 1)
    assert steps(model, optimiser, schedule, 19) < first
    assert all(group["lr"] == pytest.approx(0.0, abs=1e-9) for group in optimiser.param_groups)


def test_goes_on_from_its_state():
    straight, resumed = network(), network()
    optimiser = MuonAdam(straight, 1e-3, 0.02)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, 20)
    steps(straight, optimiser, schedule, 10)

    half = MuonAdam(resumed, 1e-3, 0.02)
    half_schedule = torch.optim.lr_scheduler.CosineAnnealingLR(half, 20)
    steps(resumed, half, half_schedule, 5)
    state, schedule_state = half.state_dict(), half_schedule.state_dict()
    again = MuonAdam(resumed, 1e-3, 0.02)
    again_schedule = torch.optim.lr_scheduler.CosineAnnealingLR(again, 20)
    again.load_state_dict(state)
    again_schedule.load_state_dict(schedule_state)
    steps(resumed, again, again_schedule, 5)
    for one, other in zip(straight.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(one, other)


def test_a_network_without_hidden_matrices_is_refused():
    with pytest.raises(ValueError, match="at least two hidden layers"):
        MuonAdam(network(depth=1), 1e-3, 0.02)
    assert isinstance(network().hidden[0], nn.Linear)
