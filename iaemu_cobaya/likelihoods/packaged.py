"""Likelihoods of the measurements that come with this package."""

from __future__ import annotations

from iaemu_cobaya.likelihoods.correlations import IACorrelations


class TNG300Sample1(IACorrelations):
    """Alignment of TNG300-1 galaxies with stellar masses above 10^10.5 Msun at z = 0 (Van Alfen et al. 2024)."""


class TNG300Sample2(IACorrelations):
    """Alignment of TNG300-1 galaxies with stellar masses above 10^10.0 Msun at z = 0 (Van Alfen et al. 2024)."""


class TNG300Sample3(IACorrelations):
    """Alignment of TNG300-1 galaxies with stellar masses above 10^9.5 Msun at z = 0 (Van Alfen et al. 2024)."""
