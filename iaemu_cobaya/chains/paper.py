"""Published results for comparison."""

from __future__ import annotations

#: Table 2 of arXiv:2504.05235, by TNG300 sample and method: (value, upper error, lower error).
TABLE_2 = {
    1: {
        "IAEmu, HMC": {"mu_cen": (0.80, 0.02, 0.03), "mu_sat": (0.32, 0.04, 0.05)},
        "halotools-IA, MCMC": {"mu_cen": (0.79, 0.02, 0.02), "mu_sat": (0.30, 0.05, 0.06)},
    },
    2: {
        "IAEmu, HMC": {"mu_cen": (0.69, 0.03, 0.03), "mu_sat": (0.11, 0.04, 0.05)},
        "halotools-IA, MCMC": {"mu_cen": (0.68, 0.03, 0.03), "mu_sat": (0.14, 0.03, 0.03)},
    },
    3: {
        "IAEmu, HMC": {"mu_cen": (0.56, 0.04, 0.07), "mu_sat": (0.00, 0.05, 0.04)},
        "halotools-IA, MCMC": {"mu_cen": (0.54, 0.04, 0.04), "mu_sat": (0.05, 0.03, 0.03)},
    },
}
