"""Halos of simulated boxes beside what is known of real ones: mass function, clustering, bias, axes, matter power.

    python benchmarks/halo_audit.py -c pm160a -c pm160b --bolplanck bolplanck_wp.hdf5 --smdpl smdpl_400_ed.dat
    python benchmarks/halo_audit.py -c pm160/pm160a.hdf5 --particles pm160/pm160a/particles_z0.00.npy ...

`bolplanck_wp.hdf5` is that of TabCorr (commit b0f0e2f, docs/examples): number densities and w_p (Pi_max 40 Mpc/h) of
hosts of Bolshoi-Planck by mass, presumably in redshift space. `--smdpl` is
`halo_shape_correlations/data/smdpl_400_ed_one_two_halo_decomp.dat` of duncandc/intrinsic_alignments (commit b90f4999):
omega of SMDPL halos and sub-halos above M_peak = 10^12 Msun/h, split by centrals and satellites, over all pairs.
Boxes of one redshift are averaged. `--particles` gives the particles of each catalogue, in the same order.
"""

from __future__ import annotations

from dataclasses import asdict
from itertools import pairwise
from pathlib import Path

import h5py
import numpy as np
import scipy.fft
from common import benchmark_parser
from halotools.mock_observables import wp
from scipy.spatial import KDTree

from iaemu_training.halos.catalogue import HaloCatalogue
from iaemu_training.halos.cosmology import BOLSHOI_PLANCK, matter_power
from iaemu_training.simulate.halos import MassFunction
from iaemu_training.simulate.particle_mesh import Mesh

PI_MAX = 40.0
#: Thresholds of mass for w_p [log10 Msun/h], moved to the nearest limit of a mass bin of the reference.
THRESHOLDS = (11.6, 12.0, 12.5, 13.0, 13.5)
#: Bins of r [Mpc/h] for omega, sub-halos over hosts above 10^12 Msun/h in SMDPL (their biases differ by 1.5), and bins
#: of log mass for the bias.
R_EDGES = np.geomspace(0.1, 16.0, 16)
SATELLITES_OVER_CENTRALS = 0.28
BIAS_BINS = (11.2, 11.6, 12.0, 12.5, 13.0, 13.5, 14.5)
K_EDGES = np.array([0.035, 0.07, 0.14, 0.25, 0.4, 0.6, 0.9, 1.3, 2.0, 3.0])


def row(name, values, form="{:.2f}") -> None:
    print(f"| {name} | {' '.join(form.format(value) for value in values)} |")


def projected(catalogue: HaloCatalogue, log_mass: float, edges: np.ndarray, redshift_space: bool) -> np.ndarray:
    """w_p of the hosts above a mass, averaged over three lines of sight."""
    chosen = catalogue.mass > 10**log_mass
    found = []
    for axis in range(3):
        position = np.roll(catalogue.position[chosen], 2 - axis, axis=1)
        if redshift_space:
            z = catalogue.attributes["redshift"]
            position[:, 2] += catalogue.velocity[chosen, axis] * (1 + z) / (100 * BOLSHOI_PLANCK.E(1 / (1 + z)))
            position[:, 2] %= catalogue.Lbox
        found.append(wp(position, edges, PI_MAX, period=catalogue.Lbox))
    return np.mean(found, axis=0)


def against_bolshoi(catalogues: list[HaloCatalogue], path: Path) -> None:
    with h5py.File(path) as file:
        table, edges, matrix = file["gal_type"][:30], file["tpcf_args/arg_0"][()], file["tpcf_matrix"][()]
    low, density = table["log_prim_haloprop_min"], table["n_h"]
    volume = sum(catalogue.Lbox**3 for catalogue in catalogues)
    mass = np.concatenate([catalogue.log_mass for catalogue in catalogues])
    ours = np.histogram(mass, [*low, table["log_prim_haloprop_max"][-1]])[0] / volume
    row(f"n(M) over that of Bolshoi-Planck, log10 M from {low[4]:.2f} in steps of 0.15", (ours / density)[4:26])
    pair = np.zeros((30, 30, matrix.shape[0]))
    rows, columns = np.tril_indices(60)
    inside = (rows < 30) & (columns < 30)
    pair[rows[inside], columns[inside]] = pair[columns[inside], rows[inside]] = matrix[:, inside].T
    seen = edges[:-1] > 0.65
    print("r_p: " + " ".join(f"{r:.2f}" for r in np.sqrt(edges[1:] * edges[:-1])[seen]))
    for threshold in THRESHOLDS:
        first = int(np.argmin(np.abs(low - threshold)))
        weight = density[first:] / density[first:].sum()
        reference = np.einsum("i,j,ijk->k", weight, weight, pair[first:, first:])
        for redshift_space in (False, True) if catalogues[0].velocity is not None else (False,):
            w = np.mean([projected(catalogue, low[first], edges, redshift_space) for catalogue in catalogues], axis=0)
            space = "redshift" if redshift_space else "real"
            row(f"w_p over that of Bolshoi-Planck, M > 10^{low[first]:.2f}, {space} space", (w / reference)[seen])


def against_smdpl(catalogues: list[HaloCatalogue], path: Path) -> None:
    data = np.genfromtxt(path, names=True)
    r = np.sqrt(R_EDGES[1:] * R_EDGES[:-1])
    # Satellites over centrals, each times its bias: the ratio of the two at large r, where pairs are not clustered.
    far = data["r"] > 20
    wanted = np.average((data["cs_ed_2"] / data["cc_ed_2"])[far], weights=data["cc_ed_2"][far])
    rng = np.random.default_rng(1)
    sums = {key: np.zeros(len(r)) for key in ("all", "cc_ed_2", "cs_ed_1", "cs_ed_2")}
    share = SATELLITES_OVER_CENTRALS
    for catalogue in 4 * catalogues:
        host, offset = _sub_halos(catalogue, share, rng)
        centrals = np.flatnonzero(catalogue.mass > 1e12)
        position = np.concatenate([catalogue.position[centrals], catalogue.position[host] + offset]) % catalogue.Lbox
        owner = np.concatenate([centrals, host])
        pairs = KDTree(position, boxsize=catalogue.Lbox).query_pairs(R_EDGES[-1], output_type="ndarray")
        for first, second in (pairs.T, pairs.T[::-1]):
            apart = position[second] - position[first]
            apart -= catalogue.Lbox * np.rint(apart / catalogue.Lbox)
            distance = np.linalg.norm(apart, axis=1)
            bins = np.digitize(distance, R_EDGES) - 1
            inside = (bins >= 0) & (bins < len(r))
            sums["all"] += np.bincount(bins[inside], minlength=len(r))
            cosine = (catalogue.axis[owner[first]] * apart).sum(1) / np.maximum(distance, 1e-9)
            central, satellite, same = first < len(centrals), second >= len(centrals), owner[first] == owner[second]
            for key, chosen in (
                ("cc_ed_2", central & ~satellite),
                ("cs_ed_1", central & satellite & same),
                ("cs_ed_2", central & satellite & ~same),
            ):
                chosen = chosen & inside
                sums[key] += np.bincount(bins[chosen], cosine[chosen] ** 2 - 1 / 3, minlength=len(r))
    print("r: " + " ".join(f"{value:.2f}" for value in r))
    print(f"SMDPL: satellites over centrals, with their biases: {wanted:.2f}; satellites over centrals here: {share}")
    for key in ("cc_ed_2", "cs_ed_1", "cs_ed_2"):
        reference = np.interp(np.log(r), np.log(data["r"]), data[key])
        seen = (reference > 2e-3) if key == "cs_ed_1" else r > 1.0
        ratio = np.where(seen, sums[key] / sums["all"] / np.where(seen, reference, 1.0), np.nan)
        row(f"omega of host axes above 10^12 over that of SMDPL, {key}", ratio)


def _sub_halos(catalogue: HaloCatalogue, share: float, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Draw satellites of hosts above 10^12, as many as sub-halos of SMDPL above that mass: proportional to the mass."""
    enough = np.where(catalogue.mass > 2e12, catalogue.mass, 0.0)
    mean = enough / enough.sum() * share * np.sum(catalogue.mass > 1e12)
    n = np.minimum(rng.poisson(mean), catalogue.n_subhalos)
    chosen = catalogue.subhalo_rank <= np.repeat(n, catalogue.n_subhalos)
    return catalogue.subhalo_host[chosen], catalogue.offset[chosen]


def modes(position: np.ndarray, Lbox: float, cells: int) -> np.ndarray:
    """Fourier transform of the density contrast, with the window of cloud-in-cell taken out."""
    found = scipy.fft.fft(Mesh(Lbox, cells).transform(position), axis=0)
    full, half = np.sinc(np.fft.fftfreq(cells)) ** 2, np.sinc(np.arange(cells // 2 + 1) / cells) ** 2
    return found / (full[:, None, None] * full[:, None] * half) * np.float32((Lbox**0.5 / cells) ** 3)


def against_theory(catalogues: list[HaloCatalogue], particles: list[Path], cells: int = 512) -> None:
    z = catalogues[0].attributes["redshift"]
    totals: list[np.ndarray] = []
    for catalogue, path in zip(catalogues, particles, strict=True):
        Lbox = catalogue.Lbox
        matter = modes(np.load(path, mmap_mode="r")[0], Lbox, cells)
        k1 = 2 * np.pi / Lbox * np.fft.fftfreq(cells, 1 / cells)
        k = np.sqrt(k1[:, None, None] ** 2 + k1[:, None] ** 2 + (2 * np.pi / Lbox * np.arange(cells // 2 + 1)) ** 2)
        where = np.digitize(k, K_EDGES).ravel()
        weight = np.full(k.shape, 2.0)
        weight[..., 0] = 1.0

        def binned(values, weight=weight, where=where):
            return np.bincount(where, (weight * values).ravel(), len(K_EDGES) + 1)[1:-1]

        rows = [binned(np.ones_like(k)), binned(np.abs(matter) ** 2)]
        for model in ("mead2020", "linear"):
            at, power = matter_power(**asdict(BOLSHOI_PLANCK), z=z, halofit_version=model, kmax=60.0)
            rows.append(binned(np.exp(np.interp(np.log(np.maximum(k, 1e-3)), np.log(at), np.log(power)))))
        for low, high in pairwise(BIAS_BINS):
            chosen = (catalogue.log_mass > low) & (catalogue.log_mass <= high)
            halos = modes(catalogue.position[chosen].T.astype(np.float32), Lbox, cells)
            rows.append(binned((halos * np.conj(matter)).real))
        totals.append(np.array(rows))
    _, power, hm, linear, *cross = np.sum(totals, axis=0)
    print("k: " + " ".join(f"{value:.2f}" for value in np.sqrt(K_EDGES[1:] * K_EDGES[:-1])))
    row(f"P(k) of matter over HMcode-2020, z = {z:g}", power / hm, "{:.3f}")
    row("P(k) of matter over linear theory", power / linear, "{:.3f}")
    with BOLSHOI_PLANCK.colossus():
        from colossus.lss import bias

        for (low, high), found in zip(pairwise(BIAS_BINS), cross, strict=True):
            grid = 10 ** np.linspace(low, high, 60)
            density = -np.diff(MassFunction(BOLSHOI_PLANCK, z).above(grid))
            middle = np.sqrt(grid[1:] * grid[:-1])
            wanted = np.average(bias.haloBias(middle, z, mdef="vir", model="tinker10"), weights=density)
            b = (found / power)[:2]
            print(f"| bias, 10^{low}..{high}, k < 0.07, 0.07-0.14; Tinker et al. 2010; ratio | {b[0]:.3f} {b[1]:.3f} | "
                  f"{wanted:.3f} | {b[0] / wanted:.3f} {b[1] / wanted:.3f} |")  # fmt: skip


def main() -> None:
    parser = benchmark_parser(__doc__)
    parser.add_argument("-c", "--catalogue", action="append", required=True)
    parser.add_argument("--particles", action="append", type=Path)
    parser.add_argument("--bolplanck", type=Path)
    parser.add_argument("--smdpl", type=Path)
    options = parser.parse_args()
    catalogues = [HaloCatalogue.load(name) for name in options.catalogue]
    print("\n".join(map(str, catalogues)))
    if options.bolplanck:
        against_bolshoi(catalogues, options.bolplanck)
    if options.smdpl:
        against_smdpl(catalogues, options.smdpl)
    if options.particles:
        against_theory(catalogues, options.particles)


if __name__ == "__main__":
    main()
