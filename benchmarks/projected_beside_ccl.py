"""w_gg and w_g+ of satellites from halo catalogues, beside the analytic halo model of CCL.

    pip install pyccl
    python benchmarks/projected_beside_ccl.py --figure beside_ccl.png

CCL (arXiv:1812.05995) has the satellite-shear model of Fortuna et al. 2021 (arXiv:2003.02700): satellites of an NFW
profile, all radially aligned with one ellipticity (b = 0), in spherical halos of an analytic mass function. The
occupation is the same, and centrals are not aligned. w_g+ of CCL is that of pairs in one halo. Its satellites have the
ellipticity a_1h whatever their direction; ours have a q(mu_sat) times sin^2 of the angle to the line of sight, so that
the ratio of w_g+ has a free factor, and is normalised at r_p = 0.5 Mpc/h.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from common import OCCUPATION, benchmark_parser
from scipy.integrate import trapezoid
from scipy.special import jv

import iaemu
from iaemu import Projection
from iaemu_training.halos.cosmology import BOLSHOI_PLANCK

#: TNG300 samples 1 and 2 (arXiv:2504.05235, table 2).
SAMPLES = {1: OCCUPATION[1], 2: OCCUPATION[2]}


def analytic(occupation, rp: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """w_gg of CCL, and w_g+ of pairs in one halo for a_1h = 1, integrated over all separations [Mpc/h]."""
    import pyccl as ccl

    h = BOLSHOI_PLANCK.h
    cosmology = ccl.Cosmology(
        Omega_c=BOLSHOI_PLANCK.Om - BOLSHOI_PLANCK.Ob,
        Omega_b=BOLSHOI_PLANCK.Ob,
        h=h,
        sigma8=BOLSHOI_PLANCK.sigma8,
        n_s=BOLSHOI_PLANCK.ns,
    )
    logMmin, sigma_logM, logM0, logM1, alpha = occupation
    shared = {
        "mass_def": ccl.halos.MassDef200m,
        "concentration": ccl.halos.ConcentrationDuffy08(mass_def=ccl.halos.MassDef200m),
        "log10Mmin_0": logMmin - np.log10(h),
        "siglnM_0": sigma_logM * np.log(10.0),
        "log10M0_0": logM0 - np.log10(h),
        "log10M1_0": logM1 - np.log10(h),
        "alpha_0": alpha,
        "ns_independent": True,
    }
    positions = ccl.halos.HaloProfileHOD(**shared)
    shapes = ccl.halos.SatelliteShearHOD(a1h=1.0, b=0, **shared)
    calculator = ccl.halos.HMCalculator(mass_function="Tinker08", halo_bias="Tinker10", mass_def=shared["mass_def"])
    k = np.geomspace(1e-3, 300.0, 3000)
    pairs = ccl.halos.Profile2ptHOD()
    clustering = ccl.halos.halomod_power_spectrum(cosmology, calculator, k, 1.0, positions, prof_2pt=pairs)
    alignment = ccl.halos.halomod_power_spectrum(cosmology, calculator, k, 1.0, positions, prof2=shapes, get_2h=False)
    fine = np.geomspace(k[0], k[-1], 60_000)
    found = []
    for power, order in ((clustering, 0), (alignment, 2)):
        # Damp the highest k, whose waves are not resolved in r_p.
        smooth = np.interp(np.log(fine), np.log(k), power) * np.exp(-((fine / 150.0) ** 2)) * fine**2 / (2 * np.pi)
        found.append([trapezoid(smooth * jv(order, fine * r / h), np.log(fine)) * h for r in rp])
    return np.array(found[0]), np.abs(np.array(found[1]))


def main(arguments=None) -> None:
    parser = benchmark_parser(__doc__)
    parser.add_argument("--figure", type=Path, help="picture to write")
    options = parser.parse_args(arguments)
    rp = np.array([0.1, 0.2, 0.3, 0.5, 0.8, 1.2, 2.0])
    model = iaemu.load("tables-pm160")
    rows = {}
    for sample, occupation in SAMPLES.items():
        found = model.project(np.array([0.0, 1.0, *occupation]), Projection.of(None, 60.0, rp))
        w_gg, w_gplus = analytic(occupation, rp)
        scale = found.w_gplus[3] / w_gplus[3]
        rows[sample] = found.w_gg, w_gg, found.w_gplus, scale * w_gplus
        print(f"\nsample {sample}: factor a_1h = {scale:.3f}\n")
        print("| r_p [Mpc/h] | " + " | ".join(f"{r:g}" for r in rp) + " |\n|---|" + "---|" * len(rp))
        for name, ours, theirs in (("w_gg", *rows[sample][:2]), ("w_g+ of one halo", *rows[sample][2:])):
            print(f"| {name}, CCL / ours | " + " | ".join(f"{ratio:.2f}" for ratio in theirs / ours) + " |")
    if options.figure:
        from matplotlib.figure import Figure

        figure = Figure(figsize=(9, 4), layout="constrained")
        axes = figure.subplots(1, 2)
        for sample, (w_gg, ccl_gg, w_gplus, ccl_gplus) in rows.items():
            for ax, ours, theirs in zip(axes, (w_gg, w_gplus), (ccl_gg, ccl_gplus), strict=True):
                ax.loglog(rp, ours, f"C{sample}", label=f"sample {sample}: halo catalogues")
                ax.loglog(rp, theirs, f"C{sample}--", label=f"sample {sample}: CCL")
        for ax, label in zip(axes, ("$w_{gg}$", "$w_{g+}$ of satellites"), strict=True):
            ax.set(xlabel="$r_p$ [Mpc/$h$]", ylabel=f"{label} [Mpc/$h$]")
        axes[0].legend(frameon=False, fontsize=8)
        figure.savefig(options.figure, dpi=120)


if __name__ == "__main__":
    main()
