"""Likelihoods of the measurements that come with this package."""

from __future__ import annotations

from iaemu_cobaya.likelihoods.correlations import IACorrelations
from iaemu_cobaya.likelihoods.projected import ProjectedCorrelations


class TNG300Sample1(IACorrelations):
    """Alignment of TNG300-1 galaxies with stellar masses above 10^10.5 Msun at z = 0 (Van Alfen et al. 2024)."""


class TNG300Sample2(IACorrelations):
    """Alignment of TNG300-1 galaxies with stellar masses above 10^10.0 Msun at z = 0 (Van Alfen et al. 2024)."""


class TNG300Sample3(IACorrelations):
    """Alignment of TNG300-1 galaxies with stellar masses above 10^9.5 Msun at z = 0 (Van Alfen et al. 2024)."""


class LOWZ(ProjectedCorrelations):
    """w_gg and w_g+ of BOSS LOWZ galaxies, 0.16 < z < 0.36 (Singh et al. 2015)."""


class GAMARed(ProjectedCorrelations):
    """w_gg and w_g+ of red GAMA galaxies with shapes from KiDS, z < 0.26 (Johnston et al. 2019)."""


class TNG300Projected(ProjectedCorrelations):
    """w_gg and w_g+ of TNG300-1 galaxies at z = 0 (Samuroff et al. 2021)."""
