"""Compare w_gg, w_g+, w_++ and xi_g+,2 with MeasureIA and halotools on the same halotools-IA mock.

    python benchmarks/projected_against_others.py --catalogue pm160a --point tng1 --pi-max 20 --rp 0.2 10 --n-bins 8

It prints, for each bin, our mean over the three axes as lines of sight, and the ratios of the others to it; for
MeasureIA also that of the jackknife errors (--errors). MeasureIA (van Heukelum et al., PyPI: measureia) is optional.
"direct" is the sum over all pairs with numpy, without cells or trees.

What must be told to the others so that they measure the same thing:

shapes: ours is the projected ellipticity e_x^2 - e_y^2 + 2 i e_x e_y of a unit major axis e, of modulus
    sin^2 of its angle to the line of sight. Both take the direction of the projected axis. halotools takes the
    modulus as ``ellipticities1``. MeasureIA takes an axis ratio q, from which it forms (1 - q^2) / (1 + q^2) (its
    "distortion"), so q = sqrt((1 - eps) / (1 + eps)).
responsivity: MeasureIA divides shapes by 2 R, R = 1 - <eps^2> / 2, unless ``responsivity=False``. Then values are
    1 / (2 R) times ours; the table has that factor in its last line.
random pairs: MeasureIA leaves the N pairs of a galaxy with itself out of RR, N (N - 1), unless ``num_overlap=0``. Ours
    and halotools' are N^2.
ties: positions of the shipped halos are multiples of Lbox / 65536, so that Pi is 0 or Pi_max exactly for one pair in
    10^4. halotools leaves out the former, and in MeasureIA's bins the latter depend on rounding. So positions are moved
    at random by less than that step (--ties leaves them).
sign: all are positive for radial alignment.
integral: all are from -Pi_max to Pi_max. MeasureIA sums bins in Pi, which is the same for w.
quadrupole: MeasureIA's is (2 l + 1) / 2 (l - s)! / (l + s)! int L_{2,2}(mu) xi_g+ dmu with l = s = 2 and
    L_{2,2} = 3 (1 - mu^2), as Singh et al. 2024; it takes (1 - mu^2) at the centres of --mu-bins bins.
w_++: that of halotools has no cross part either.
"""

from __future__ import annotations

import contextlib
import io
import tempfile
import time
from itertools import pairwise
from pathlib import Path

import numpy as np
from common import OCCUPATION, benchmark_parser

from iaemu.parameters import PARAMETERS
from iaemu_training.halos.catalogue import HaloCatalogue
from iaemu_training.measuring.projected import measure_projected
from iaemu_training.mocks.halotools import HalotoolsMocks

#: IAEmu's fits to the TNG300 samples (arXiv:2504.05235, Table 2), with alignment of satellites in the last.
POINTS = {
    "tng1": (0.8, 0.3, *OCCUPATION[1]),
    "tng2": (0.68, 0.14, *OCCUPATION[2]),
    "tng3": (0.56, 0.3, *OCCUPATION[3]),
}
NAMES = ("w_gg", "w_gplus", "w_plusplus", "xi_gplus_2")


def seen_along(e: np.ndarray, line: int) -> tuple[list[int], np.ndarray, np.ndarray]:
    """Return the other two axes, the directions of the projected major axes (n, 2), and the moduli (n,)."""
    plane = [axis for axis in range(3) if axis != line]
    projected = e[:, plane]
    length = np.linalg.norm(projected, axis=1)
    return plane, projected / length[:, None], length**2


def direct(x, e, Lbox, edges, pi_max, line) -> dict[str, np.ndarray]:
    """Return the statistics along one axis of the box from sums over all pairs."""
    plane, direction, eps = seen_along(e, line)
    shape = eps * (direction[:, 0] + 1j * direction[:, 1]) ** 2
    sums = np.zeros((3, len(edges) - 1))
    for start in range(0, len(x), 256):
        d = x[start : start + 256, None] - x
        d -= Lbox * np.round(d / Lbox)
        across = d[..., plane[0]] + 1j * d[..., plane[1]]
        r_p = np.abs(across)
        i, j = np.nonzero((r_p > edges[0]) & (r_p <= edges[-1]) & (np.abs(d[..., line]) <= pi_max))
        turn = (np.conj(across[i, j]) / r_p[i, j]) ** 2
        plus, other = (shape[start + i] * turn).real, (shape[j] * turn).real
        b = np.searchsorted(edges, r_p[i, j], side="left") - 1
        sums += [np.bincount(b, values, minlength=len(edges) - 1) for values in (np.ones(len(b)), plus, plus * other)]
    w = sums * Lbox**3 / (len(x) ** 2 * np.pi * np.diff(edges**2))
    w[0] -= 2.0 * pi_max
    return dict(zip(NAMES, w, strict=False))


def with_halotools(x, e, Lbox, edges, pi_max, line) -> dict[str, np.ndarray]:
    """Return the statistics along one axis of the box; halotools has no quadrupole."""
    from halotools.mock_observables import gi_plus_projected, ii_plus_projected, wp

    plane, direction, eps = seen_along(e, line)
    turned = np.ascontiguousarray(x[:, [*plane, line]])
    own = {"period": Lbox, "estimator": "Landy-Szalay"}
    return {
        "w_gg": wp(turned, edges, pi_max, period=Lbox),
        "w_gplus": gi_plus_projected(turned, direction, eps, turned, edges, pi_max, **own),
        "w_plusplus": ii_plus_projected(turned, direction, eps, turned, direction, eps, edges, pi_max, period=Lbox),
    }


def with_measureia(x, e, Lbox, edges, pi_max, line, regions, mu_bins, responsivity=False):
    """Return the statistics along one axis of the box, and their jackknife errors if there are regions."""
    import h5py
    from measureia import MeasureIABox

    _, direction, eps = seen_along(e, line)
    q = np.sqrt((1.0 - eps) / (1.0 + eps))
    data = {"Position": x, "Position_shape_sample": x, "Axis_Direction": direction, "q": q, "LOS": line}
    data |= {"Axis_Direction_density_sample": direction, "q_density_sample": q}
    limits = {"separation_limits": [edges[0], edges[-1]], "num_bins_r": len(edges) - 1, "boxsize": Lbox}
    found, errors = {}, {}
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        path = str(Path(folder) / "out.hdf5")
        common = {"num_jk": regions**3 if regions else 0, "temp_file_path": folder, "responsivity": responsivity}
        box = MeasureIABox(data, path, pi_max=pi_max, num_bins_pi=20, num_overlap=0, **limits)
        box.measure_xi_w("all", "all", **common)
        box = MeasureIABox(data, path, pi_max=pi_max, num_bins_pi=mu_bins, num_overlap=0, **limits)
        box.measure_xi_multipoles("all", "g+", **common)
        with h5py.File(path) as file:
            groups = ("w_gg", "w_g_plus", "w_plus_plus", "multipoles_g_plus")
            for name, group in zip(NAMES, groups, strict=True):
                found[name] = file[f"{group}/all"][:]
                found[name] = found[name][:, 1] if found[name].ndim == 2 else found[name]
                if regions:
                    errors[name] = file[f"{group}/all_jackknife_{regions**3}"][:]
    return found, errors


def table(ours, others, edges) -> str:
    """Return ratios of mean values over lines of sight, in Markdown."""
    bins = " | ".join(f"{low:.3g} - {high:.3g}" for low, high in pairwise(edges))
    rows = [f"| statistic | code | {bins} |", "|---" * (len(edges) + 1) + "|"]
    for name in NAMES:
        rows.append(f"| {name} | ours | " + " | ".join(f"{value:.5g}" for value in ours[name]) + " |")
        for code, values in others.items():
            if name in values:
                ratio = " | ".join(f"{value:.8f}" for value in values[name] / ours[name])
                rows.append(f"| {name} | {code} / ours | {ratio} |")
    return "\n".join(rows)


def has_measureia() -> bool:
    """Whether MeasureIA can be imported."""
    try:
        import measureia  # noqa: F401
    except ImportError as error:
        print(f"without MeasureIA ({error}): pip install measureia")
        return False
    return True


def main(arguments=None) -> None:
    parser = benchmark_parser(__doc__)
    parser.add_argument("--catalogue", default="pm40", help="shipped name, or file, of the halos (default: pm40)")
    parser.add_argument("--point", choices=tuple(POINTS), default="tng3")
    parser.add_argument("--pi-max", type=float, default=11.0, help="[Mpc/h]; halotools needs less than Lbox / 3")
    parser.add_argument("--rp", type=float, nargs=2, default=(1.5, 10.0), help="least and largest r_p [Mpc/h]")
    parser.add_argument("--n-bins", type=int, default=4)
    parser.add_argument("--mu-bins", type=int, default=100, help="MeasureIA's bins in mu")
    parser.add_argument("--regions", type=int, default=4, help="jackknife regions along a side of the box (default: 4)")
    parser.add_argument("--errors", action="store_true", help="compare jackknife errors with MeasureIA's")
    parser.add_argument("--ties", action="store_true", help="keep pairs whose Pi is exactly 0 or Pi_max")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args(arguments)
    mocks = HalotoolsMocks(HaloCatalogue.load(options.catalogue))
    theta = POINTS[options.point]
    x, e, *_ = mocks.populate(dict(zip(PARAMETERS, theta, strict=True)), options.seed)
    Lbox, edges = mocks.Lbox, np.geomspace(*options.rp, options.n_bins + 1)
    if not options.ties:
        step = Lbox / 65536
        x = np.mod(x + np.random.default_rng(options.seed).uniform(-step, step, x.shape) / 2, Lbox)
    print(f"{len(x)} galaxies of {options.point} in {options.catalogue}, Pi_max = {options.pi_max:g} Mpc/h\n")

    start = time.perf_counter()
    measured = measure_projected(x, e, Lbox, edges, options.pi_max, 3, options.regions, NAMES, joint=False)
    seconds = {"ours, three lines of sight, with jackknife": time.perf_counter() - start}
    ours = {name: measured.bins[name].value for name in NAMES}
    if any(len(values) < options.n_bins for values in ours.values()):
        raise SystemExit("A bin has too few pairs: use fewer or larger bins (--rp, --n-bins).")
    others = {}
    by_line = [direct(x, e, Lbox, edges, options.pi_max, line) for line in range(3)]
    others["direct"] = {name: np.mean([values[name] for values in by_line], axis=0) for name in by_line[0]}
    start = time.perf_counter()
    by_line = [with_halotools(x, e, Lbox, edges, options.pi_max, line) for line in range(3)]
    seconds["halotools"] = time.perf_counter() - start
    others["halotools"] = {name: np.mean([values[name] for values in by_line], axis=0) for name in by_line[0]}
    if has_measureia():
        start = time.perf_counter()
        found = [
            with_measureia(x, e, Lbox, edges, options.pi_max, line, options.regions * options.errors, options.mu_bins)
            for line in range(3)
        ]
        seconds["MeasureIA"] = time.perf_counter() - start
        others["MeasureIA"] = {name: np.mean([values[name] for values, _ in found], axis=0) for name in NAMES}
    print(table(ours, others, edges))
    if options.errors and "MeasureIA" in others:
        print("\nJackknife errors along z, MeasureIA / ours:\n")
        one = measure_projected(x, e, Lbox, edges, options.pi_max, 1, options.regions, NAMES, joint=False)
        for name in NAMES:
            print(name, " ".join(f"{value:.2f}" for value in found[2][1][name] / one.bins[name].error))
    if "MeasureIA" in others:
        eps = seen_along(e, 2)[2]
        default, _ = with_measureia(x, e, Lbox, edges, options.pi_max, 2, 0, 10, responsivity=True)
        ratio = default["w_gplus"] / found[2][0]["w_gplus"]
        factor = 0.5 / (1.0 - np.mean(eps**2) / 2.0)
        print(f"\nMeasureIA, w_g+ along z with / without responsivity: {ratio[0]:.6f}; 1 / (2 R): {factor:.6f}")
    print("\nseconds: " + ", ".join(f"{name} {value:.1f}" for name, value in seconds.items()))


if __name__ == "__main__":
    main()
