"""Bias and A_IA from the models, beside a direct cross-correlation of galaxies and their axes with matter particles.

    python benchmarks/large_scale_amplitudes.py -c pm160/pm160a.hdf5 -c pm160/pm160b.hdf5 --tables tables.safetensors \
        --particles pm160/pm160a/particles_z0.00.npy pm160/pm160b/particles_z0.00.npy

Halotools-IA mocks of the given catalogues, with the particles of the same boxes (`iaemu train simulate
--keep-particles`). The NLA model says that the field of the axes, s_ij = sum over galaxies of (e_i e_j - delta_ij / 3)
per mean number, is -F (k_i k_j / k^2 - delta_ij / 3) delta(k) on large scales, with F = A_IA C1 rho_cr Om / D(z). So

    b_g = <n delta*> / <delta delta*>,    F = -(3/2) <k_i k_j s_ij delta*> / (k^2 <delta delta*>),

per bin of k, over the modes of all boxes. It has no linear theory in it, and no sample variance but that of noise.
Errors are those of the mean over mocks.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import scipy.fft
from common import OCCUPATION, benchmark_parser
from tqdm import tqdm

import iaemu
from iaemu.halomodel.abundance import growth_factor
from iaemu.observables.large_scale import C1_RHO_CRITICAL
from iaemu_training.halos.catalogue import HaloCatalogue
from iaemu_training.mocks.halotools import HalotoolsMocks
from iaemu_training.simulate.particle_mesh import Mesh

CELLS = 128
K_EDGES = np.array([0.03, 0.1, 0.2, 0.35, 0.6])
R_MIN = (6.0, 8.0, 10.0)
#: Strengths and occupations: the samples of TNG300, and one like LOWZ.
SAMPLES = {
    "TNG300 sample 1": (0.80, 0.32, *OCCUPATION[1]),
    "TNG300 sample 2": (0.69, 0.11, *OCCUPATION[2]),
    "TNG300 sample 3": (0.56, 0.00, *OCCUPATION[3]),
    "like LOWZ": (0.70, 0.10, 13.15, 0.40, 12.95, 14.10, 1.0),
}


def deposit(position: np.ndarray, weights: np.ndarray, Lbox: float) -> np.ndarray:
    """Fourier transforms (n_weights, ...) of weights at positions (n, 3), by cloud-in-cell."""
    cell = position / Lbox * CELLS
    low = np.floor(cell).astype(int)
    shares = cell - low
    found = np.zeros((weights.shape[1], CELLS**3))
    for corner in np.ndindex(2, 2, 2):
        share = np.prod(np.where(corner, shares, 1.0 - shares), axis=1)
        index = np.ravel_multi_index(tuple(((low + corner) % CELLS).T), (CELLS,) * 3)
        for mesh, weight in zip(found, weights.T, strict=True):
            mesh += np.bincount(index, share * weight, CELLS**3)
    return scipy.fft.rfftn(found.reshape(-1, CELLS, CELLS, CELLS), axes=(1, 2, 3))


def directions(Lbox: float) -> tuple[np.ndarray, np.ndarray]:
    """Wave numbers [h/Mpc] and unit vectors (3, ...) of the modes."""
    one, half = np.fft.fftfreq(CELLS, 1 / CELLS), np.arange(CELLS // 2 + 1)
    vectors = 2 * np.pi / Lbox * np.array(np.meshgrid(one, one, half, indexing="ij"))
    k = np.sqrt((vectors**2).sum(axis=0))
    return k, vectors / np.where(k > 0, k, 1.0)


def cross_power(mocks, theta, matter: np.ndarray, n: int, seed: int) -> np.ndarray:
    """Sums over the modes of each bin, (n_mocks, 2, n_k): galaxies and their axes times matter, over mean numbers."""
    k, unit = directions(mocks.Lbox)
    where, weight = np.digitize(k, K_EDGES).ravel(), np.full(k.shape, 2.0)
    weight[..., 0] = 1.0
    pairs = [(i, j) for i in range(3) for j in range(i, 3)]
    found = []
    for galaxies in mocks.iterate(theta, n, seed):
        axis = galaxies.axes
        tensor = [axis[:, i] * axis[:, j] - (i == j) / 3.0 for i, j in pairs]
        fields = deposit(galaxies.positions, np.stack([np.ones(len(axis)), *tensor], axis=1), mocks.Lbox)
        along = sum((1 + (i != j)) * unit[i] * unit[j] * field for (i, j), field in zip(pairs, fields[1:], strict=True))
        products = [(field * np.conj(matter)).real / len(axis) for field in (fields[0], along)]
        found.append([np.bincount(where, (weight * p).ravel(), len(K_EDGES) + 1)[1:-1] for p in products])
    return np.array(found)


def main() -> None:
    parser = benchmark_parser(__doc__)
    parser.add_argument("-c", "--catalogue", action="append", required=True)
    parser.add_argument("--particles", nargs="+", required=True)
    parser.add_argument("--tables", required=True, help="tables of these catalogues")
    parser.add_argument("--box-error", help="their box error (default: the shipped one, if it is of these catalogues)")
    parser.add_argument("-n", "--n-mocks", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    model = iaemu.load(arguments.tables)
    if arguments.box_error:
        model.box_error = iaemu.BoxError.load(arguments.box_error)
    Om, z = model.cosmology["Om"], model.redshift
    to_A_IA = growth_factor(Om, z) / (C1_RHO_CRITICAL * Om)
    samples: dict = {name: [] for name in SAMPLES}
    power = 0.0
    for name, path in zip(arguments.catalogue, arguments.particles, strict=True):
        catalogue = HaloCatalogue.load(name)
        matter = scipy.fft.fft(Mesh(catalogue.Lbox, CELLS).transform(np.load(path, mmap_mode="r")[0]), axis=0)
        matter = matter.astype(np.complex128) / CELLS**3
        k, _ = directions(catalogue.Lbox)
        weight = np.full(k.shape, 2.0)
        weight[..., 0] = 1.0
        squares = (weight * np.abs(matter) ** 2).ravel()
        power = power + np.bincount(np.digitize(k, K_EDGES).ravel(), squares, len(K_EDGES) + 1)[1:-1]
        mocks = HalotoolsMocks(catalogue)
        for sample, theta in tqdm(SAMPLES.items(), desc=catalogue.name):
            samples[sample].append(cross_power(mocks, theta, matter, arguments.n_mocks, arguments.seed))
    bins = [f"k {low:g}-{high:g}" for low, high in pairwise(K_EDGES)]
    print(f"| z = {z:g} | | {' | '.join(bins)} | {' | '.join(f'r > {r:g}' for r in R_MIN)} |")
    print("|---|---|" + "---|" * (len(bins) + len(R_MIN)))
    for sample, found in samples.items():
        # The mocks of the same number in all boxes together are one realisation.
        each = np.sum(found, axis=0) / power
        values, errors = each.mean(axis=0), each.std(axis=0, ddof=1) / arguments.n_mocks**0.5
        ours = [model.large_scale(SAMPLES[sample], r_min=r, deviations=bool(model.n_deviations)) for r in R_MIN]
        for row, (name, factor) in enumerate({"b_g": 1.0, "A_IA": -1.5 * to_A_IA}.items()):
            direct = [
                f"{factor * v:.3f} ± {abs(factor) * e:.3f}" for v, e in zip(values[row], errors[row], strict=True)
            ]
            cells = [f"{getattr(o, name):.3f} ± {o.sigma[name] if o.sigma else np.nan:.3f}" for o in ours]
            print(f"| {sample} | {name} | {' | '.join([*direct, *cells])} |")


if __name__ == "__main__":
    main()
