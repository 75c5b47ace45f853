"""Show what more lines of sight gain: errors of w_gg, w_g+ and xi_g+,2 along one, three and all lines of sight.

    python benchmarks/projected_lines_of_sight.py --n-mocks 40

The same halotools-IA mocks of one halo catalogue are measured along one axis of the box, along all three, and by the
exact mean over all lines of sight (``iaemu measure --projected --all-lines-of-sight``). The table has, in each bin of
r_p, the errors in units of those along three axes: the jackknife errors (root mean square over mocks), and the scatter
of mocks. The mocks have the same halos, so that their scatter has no large-scale structure in it, but the noise of
shapes and of the occupation; the jackknife has both. "error equal to volume" is the square of the ratio: the volume
that would be needed with three axes for the errors of all lines.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from common import OCCUPATION, benchmark_parser
from tqdm import tqdm

from iaemu.parameters import PARAMETERS
from iaemu_training.halos.catalogue import HaloCatalogue
from iaemu_training.measuring.projected import measure_projected
from iaemu_training.mocks.halotools import HalotoolsMocks

#: halotools-IA's fit to TNG300 sample 1 (arXiv:2504.05235, Table 2).
SAMPLE_1 = dict(zip(PARAMETERS, (0.8, 0.3, *OCCUPATION[1]), strict=True))
NAMES = ("w_gg", "w_gplus", "xi_gplus_2")
LINES = {"1": 1, "3": 3, "all": "all"}


def main(arguments=None) -> None:
    parser = benchmark_parser(__doc__)
    parser.add_argument("--catalogue", default="pm160a", help="shipped name, or file, of the halos (default: pm160a)")
    parser.add_argument("--n-mocks", type=int, default=20)
    parser.add_argument("--pi-max", type=float, default=20.0, help="[Mpc/h]")
    parser.add_argument("--edges", type=float, nargs="+", default=[0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 10.0])
    parser.add_argument("--regions", type=int, default=5, help="jackknife regions along a side of the box")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args(arguments)
    mocks = HalotoolsMocks(HaloCatalogue.load(options.catalogue))
    found = {(name, lines): [] for name in NAMES for lines in LINES}
    for x, e, *_ in tqdm(mocks.iterate(SAMPLE_1, options.n_mocks, options.seed), total=options.n_mocks):
        for label, lines in LINES.items():
            measured = measure_projected(
                x, e, mocks.Lbox, options.edges, options.pi_max, lines, options.regions, NAMES, joint=False
            )
            for name, bins in measured.bins.items():
                if len(bins) < len(options.edges) - 1:
                    raise SystemExit(f"{name} has too few pairs in a bin: use fewer or larger bins (--edges).")
                found[name, label].append((bins.value, bins.error))
    results = {key: np.array(values) for key, values in found.items()}
    print(
        f"{options.n_mocks} mocks of {options.catalogue}, Pi_max = {options.pi_max:g} Mpc/h, errors / those of 3 axes\n"
    )
    bins = " | ".join(f"{low:g} - {high:g}" for low, high in pairwise(options.edges))
    print(f"| statistic | lines of sight | of | {bins} |\n" + "|---" * (len(options.edges) + 2) + "|")
    for name in NAMES:
        for label in LINES:
            for of, error in (("jackknife", jackknife), ("scatter of mocks", scatter)):
                ratio = error(results[name, label]) / error(results[name, "3"])
                if label != "3":
                    print(f"| {name} | {label} | {of} | " + " | ".join(f"{value:.2f}" for value in ratio) + " |")
    volume = (jackknife(results["w_gplus", "3"]) / jackknife(results["w_gplus", "all"])) ** 2
    print("\nw_gplus, error equal to volume: " + ", ".join(f"{value:.1f}" for value in volume))
    print(f"Standard error of a ratio of scatters: about {1 / np.sqrt(2 * (options.n_mocks - 1)):.0%} or less.")


def jackknife(measured: np.ndarray) -> np.ndarray:
    """Return the root mean square of the errors (n_bins,) of values and errors (n_mocks, 2, n_bins)."""
    return np.sqrt(np.mean(measured[:, 1] ** 2, axis=0))


def scatter(measured: np.ndarray) -> np.ndarray:
    """Return the standard deviation of the values between mocks."""
    return measured[:, 0].std(axis=0, ddof=1)


if __name__ == "__main__":
    main()
