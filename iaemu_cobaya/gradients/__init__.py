"""Gradients of a Cobaya model's log-posterior."""

from iaemu_cobaya.gradients.log_posterior import LogPosterior
from iaemu_cobaya.gradients.torch_functions import RejectedRows

__all__ = ["LogPosterior", "RejectedRows"]
