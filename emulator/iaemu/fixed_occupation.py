"""Predictions at one occupation, as functions of the alignment strengths alone.

At fixed occupation xi is a constant, omega linear and eta quadratic in q(mu), see :mod:`iaemu.alignment`: whatever the
forward model costs is paid once, and a batch of strengths takes one small matrix product.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

from .alignment import mean_p2
from .parameters import ALIGNMENT_PARAMETERS, OCCUPATION_PARAMETERS, as_theta


class FixedOccupation:
    """xi, omega and eta at strengths mu; float64 or the precision of mu, differentiable.

    Made by ``at_occupation`` of the forward models.

    Parameters
    ----------
    r_edges : array (n_bins + 1,)
        [Mpc/h]
    ingredients : mapping of "xi", "A_c", "A_s", "E_cc", "E_cs", "E_ss" to tensors (n_bins,)
        Means over pairs. Statistics whose ingredients are not there are not predicted.
    n_gal, f_sat : float or None

    Attributes
    ----------
    statistics : tuple of str
        What it predicts.
    r_edges, n_gal, f_sat
        As in :class:`iaemu.prediction.Prediction`.
    """

    def __init__(self, r_edges, ingredients: Mapping[str, torch.Tensor], n_gal=None, f_sat=None):
        self.r_edges = r_edges
        self.n_gal, self.f_sat = n_gal, f_sat
        self._xi = ingredients.get("xi")
        # Rows as the powers of q that they multiply.
        self._omega = self._eta = None
        if "A_c" in ingredients:
            self._omega = torch.stack([ingredients["A_c"], ingredients["A_s"]])
        if "E_cc" in ingredients:
            self._eta = torch.stack([ingredients["E_cc"], 2.0 * ingredients["E_cs"], ingredients["E_ss"]])
        held = {"xi": self._xi, "omega": self._omega, "eta": self._eta}
        self.statistics = tuple(name for name, value in held.items() if value is not None)

    def __call__(self, mu: torch.Tensor) -> dict[str, torch.Tensor]:
        """Statistics (n, n_bins) by name.

        Parameters
        ----------
        mu : tensor (n, 2)
            ``mu_cen, mu_sat`` in [-1, 1].

        Raises
        ------
        ValueError
            A value outside [-1, 1], or NaN.
        """
        values = {}
        if self._xi is not None:
            values["xi"] = self._xi.to(mu).expand(len(mu), -1)
        if self._omega is None and self._eta is None:
            return values
        q = mean_p2(mu)
        if self._omega is not None:
            values["omega"] = q @ self._omega.to(mu)
        if self._eta is not None:
            q_cen, q_sat = q.unbind(dim=1)
            values["eta"] = torch.stack([q_cen**2, q_cen * q_sat, q_sat**2], dim=1) @ self._eta.to(mu)
        return values


def without_alignment(occupation) -> torch.Tensor:
    """Parameters (1, 7) in float64 at one occupation, with strengths of zero.

    Parameters
    ----------
    occupation : mapping of names, or sequence of the five numbers in the order of ``OCCUPATION_PARAMETERS``

    Raises
    ------
    KeyError, ValueError
        A parameter is missing, unknown, not one number, or not finite.
    """
    values = as_theta(occupation, OCCUPATION_PARAMETERS).detach().to(device="cpu", dtype=torch.float64)
    if values.ndim != 1:
        raise ValueError(f"at_occupation takes one occupation, not a batch of shape {tuple(values.shape[:-1])}.")
    return torch.as_tensor(np.concatenate([np.zeros(len(ALIGNMENT_PARAMETERS)), values.numpy()]))[None]
