"""How w_gg and w_g+ of halos of fixed mass change with redshift, in linear theory.

    python benchmarks/growth_at_fixed_mass.py

The bias is that of Tinker et al. 2010 (arXiv:1001.3162, equation 6) for halos of 200 times the mean density, the matter
power spectrum CAMB's at the cosmology of the shipped catalogues. w_gg is proportional to (b D)^2, and w_g+ at a fixed
amplitude A_IA to b D.
"""

from __future__ import annotations

from dataclasses import asdict

import numpy as np
from common import benchmark_parser
from scipy.integrate import trapezoid

from iaemu.halomodel.abundance import bias, growth_factor
from iaemu_training.halos.cosmology import BOLSHOI_PLANCK, matter_power

#: Critical density at z = 0 [Msun/h / (Mpc/h)^3], and linear threshold of collapse.
RHO_CRITICAL, DELTA_C = 2.775e11, 1.686


def main(arguments=None) -> None:
    parser = benchmark_parser(__doc__)
    parser.add_argument("--redshifts", type=float, nargs="+", default=(0.1, 0.27, 0.5))
    parser.add_argument("--log-masses", type=float, nargs="+", default=(12.0, 13.0, 13.5, 14.0))
    options = parser.parse_args(arguments)
    Om = BOLSHOI_PLANCK.Om
    k, power = matter_power(**asdict(BOLSHOI_PLANCK), z=0.0, halofit_version="linear", kmax=50.0)

    def sigma(log_mass: float) -> float:
        x = k * (3 * 10**log_mass / (4 * np.pi * Om * RHO_CRITICAL)) ** (1 / 3)
        window = 3 * (np.sin(x) - x * np.cos(x)) / x**3
        return np.sqrt(trapezoid(power * window**2 * k**3 / (2 * np.pi**2), np.log(k)))

    masses = ", ".join(f"{mass:g}" for mass in options.log_masses)
    print(f"| z | D^2 | w_gg over z = 0, log M = {masses} | w_g+ at fixed A_IA |\n|---|---|---|---|")
    for z in options.redshifts:
        D = growth_factor(Om, z)
        ratios = [D * bias(DELTA_C / (sigma(m) * D)) / bias(DELTA_C / sigma(m)) for m in options.log_masses]
        columns = (", ".join(f"{ratio**n:.2f}" for ratio in ratios) for n in (2, 1))
        print(f"| {z:g} | {D**2:.2f} | {' | '.join(columns)} |")


if __name__ == "__main__":
    main()
