"""Training of the networks of the emulator, which map occupation parameters to what is independent of the strengths."""

from __future__ import annotations

import torch

from iaemu.networks.factorised import OccupationNet
from iaemu_training.dataset.labels import Labels
from iaemu_training.fitting.config import FitSettings
from iaemu_training.fitting.harness import NetworkTraining
from iaemu_training.fitting.optimisers import MuonAdam


class OccupationTraining(NetworkTraining):
    """Training of a network of the emulator; the loss is the weighted mean squared error of standardised outputs.

    Parameters
    ----------
    network : OccupationNet
        Its buffers of the means and standard deviations of outputs are set.
    weight : tensor (n_outputs,)
        Weights of the outputs in the loss.
    settings : FitSettings
        Settings of the training.
    labels, validation : Labels
        Labels for training and for validation.
    seed : int
        Seed of this member.
    """

    network: OccupationNet
    settings: FitSettings

    def __init__(self, network, weight, settings: FitSettings, labels: Labels, validation: Labels, seed: int):
        values = torch.as_tensor(labels.values)
        network.output_mean.copy_(torch.nanmean(values, dim=0))
        network.output_std.copy_(torch.nanmean((values - network.output_mean) ** 2, dim=0).sqrt().clamp(min=1e-8))
        data = {"weight": weight / weight.mean()}
        for name, part in (("train", labels), ("validation", validation)):
            targets = (torch.as_tensor(part.values) - network.output_mean) / network.output_std
            data[f"{name}_inputs"] = network.inputs(torch.as_tensor(part.theta)).float()
            data[f"{name}_targets"] = targets.float()
        super().__init__(network, settings, seed, data, len(data["train_inputs"]))

    def optimiser(self) -> torch.optim.Optimizer:
        settings = self.settings
        if settings.optimiser != "muon":
            return super().optimiser()
        return MuonAdam(self.network, settings.learning_rate, settings.muon_learning_rate, settings.weight_decay)

    def epoch_rows(self, generator: torch.Generator) -> torch.Tensor:
        return torch.randperm(len(self.data["train_inputs"]), generator=generator)

    def batch_loss(self, rows: torch.Tensor) -> torch.Tensor:
        return self._loss(self.data["train_inputs"][rows], self.data["train_targets"][rows])

    def validation_loss(self) -> torch.Tensor:
        return self._loss(self.data["validation_inputs"], self.data["validation_targets"])

    def _loss(self, inputs, targets):
        # Inputs and targets were standardised before, in double precision.
        outputs = self.network.output(self.network.hidden(inputs))
        # Labels are NaN in bins with hardly any pairs.
        return torch.mean(self.data["weight"] * torch.nan_to_num(outputs - targets, nan=0.0) ** 2)
