"""An optimiser that combines Muon, for hidden layers, with Adam, for the rest."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn


class MuonAdam(torch.optim.Optimizer):
    """Muon for the weight matrices between hidden layers, Adam for first layer, output layer and biases.

    Muon orthogonalises the momentum of a matrix before each step (Jordan et al. 2024,
    https://kellerjordan.github.io/posts/muon; ``torch.optim.Muon``). On the labels of this project it reached in 40
    epochs the error that Adam reached in 200. For schedules and checkpoints the two are one optimiser.

    Parameters
    ----------
    network : nn.Module
        Network whose ``hidden`` is a sequence of layers; Muon is for all but the first of their weight matrices.
    learning_rate, muon_learning_rate : float
        Learning rates of Adam and of Muon.
    weight_decay : float
        Weight decay of both.
    """

    def __init__(self, network: nn.Module, learning_rate: float, muon_learning_rate: float, weight_decay: float = 0.0):
        matrices = [parameter for parameter in network.get_submodule("hidden").parameters() if parameter.ndim == 2][1:]
        if not matrices:
            raise ValueError("Muon needs a network with at least two hidden layers; raise depth, or choose adam.")
        chosen = {id(parameter) for parameter in matrices}
        others = [parameter for parameter in network.parameters() if id(parameter) not in chosen]
        super().__init__([*matrices, *others], {})
        self._parts = (
            torch.optim.Muon(matrices, lr=muon_learning_rate, weight_decay=weight_decay, momentum=0.95),
            torch.optim.AdamW(others, lr=learning_rate, weight_decay=weight_decay),
        )
        self._link()

    def _link(self) -> None:
        # These are the dictionaries of the parts themselves, so that schedules set the rates of the parts.
        self.param_groups = [group for part in self._parts for group in part.param_groups]

    def step(self, closure: Callable | None = None) -> Any:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for part in self._parts:
            part.step()
        return loss

    def state_dict(self) -> dict:
        return {"parts": [part.state_dict() for part in self._parts]}

    def load_state_dict(self, state_dict: dict) -> None:
        for part, state in zip(self._parts, state_dict["parts"], strict=True):
            part.load_state_dict(state)
        self._link()
