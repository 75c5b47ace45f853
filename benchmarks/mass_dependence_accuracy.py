"""Measure how accurate the tables are for an alignment strength of centrals that depends on halo mass.

The tables hold pairs of different hosts in modes of the occupations, which were fitted to <Ncen>(M) and to products
<Ncen>(M) q(mu_cen(M)). Here these pairs are counted without modes at a few occupations, by the host-mass bin of each
central, with the expected occupation of each tracer as its weight. With these counts any q(mu_cen(M)) is exact. Prints
the difference of omega and eta, rms over the paper's 20 bins, relative to the rms of the statistic, at random strengths
with a pivot of 12.5. Takes about 15 s for each occupation on one core.
"""

from __future__ import annotations

import argparse
import copy

import numpy as np
import torch
from tqdm import tqdm

from iaemu.binning import PAPER_EDGES, nesting_matrix
from iaemu.halomodel.alignment import mean_p2
from iaemu.halomodel.modes import Occupations
from iaemu.models.laws import central_strengths
from iaemu.models.tables import TabulatedModel
from iaemu_training.evaluation.metrics import relative_rms
from iaemu_training.halos.catalogue import HaloCatalogue
from iaemu_training.pairs.cells import CellGrid, choose_cells
from iaemu_training.pairs.tracers import CELLS_PER_RADIUS, bin_lookup, two_halo_rows
from iaemu_training.tables.species import Resolution, Species
from iaemu_training.tables.tracers import Donors, build_tracers

PIVOT = 12.5
TNG = {
    "TNG300 sample 1": (12.54, 0.26, 12.68, 13.48, 1.0),
    "TNG300 sample 2": (11.93, 0.26, 12.05, 12.85, 1.0),
    "TNG300 sample 3": (11.61, 0.26, 11.80, 12.60, 1.0),
}
_NEGLIGIBLE = 1e-7


class Reference:
    """Count expected two-halo sums at one occupation by the mass bins of centrals, without modes."""

    def __init__(self, tables: TabulatedModel):
        self.settings = dict(tables.metadata["settings"])
        self.catalogues = [HaloCatalogue.load(name) for name in tables.metadata["catalogues"]]
        self.species = Species(self.catalogues, tables.support, Resolution(**self.settings["two_halo"]))
        self.log_mass = torch.as_tensor(self.species.log_mass("central"))
        self._occupations = Occupations({kind: self.species.occupation(kind) for kind in ("central", "satellite")})
        self._edges = tables.r_edges

    def __call__(self, occupation):
        """Return A_c (n_masses, n_bins), E_cc (n_masses, n_masses, n_bins) and E_cs (n_masses, n_bins)."""
        n_masses, n_bins = self.species.n_mass_bins, len(self._edges) - 1
        amplitudes = self._occupations.amplitudes(torch.tensor([occupation], dtype=torch.float64))
        central, satellite = (amplitudes[kind][0].numpy() for kind in ("central", "satellite"))
        total = np.zeros((n_masses, n_masses + 1, n_bins, 3))
        for box, catalogue in enumerate(self.catalogues):
            mass_bin = self.species.mass_bin[box]
            draws = (self.settings["max_draws"], self.settings["seed"])
            tracers = build_tracers(catalogue, self.species, mass_bin, Donors.of(catalogue), *draws)
            species = self.species.first_satellite[mass_bin[tracers.host]] + tracers.rank_bin
            of_centrals, of_satellites = central[mass_bin], satellite[species] * tracers.multiplicity
            c, s = of_centrals > _NEGLIGIBLE, of_satellites > _NEGLIGIBLE
            host = tracers.host[s]
            position = np.mod(catalogue.position[host] + tracers.offset[s], catalogue.Lbox)
            points = (
                np.concatenate([catalogue.position[c], position]),
                np.concatenate([catalogue.axis[c], tracers.axis[s]]).astype(np.float32),
                np.concatenate([of_centrals[c], of_satellites[s]]).astype(np.float32),
                np.concatenate([mass_bin[c], np.full(s.sum(), n_masses)]).astype(np.int32),
                np.concatenate([np.flatnonzero(c), host]).astype(np.int32),
            )
            n_cells = choose_cells(len(points[0]), catalogue.Lbox, float(self._edges[-1]), CELLS_PER_RADIUS)
            grid = CellGrid.build(points[0], catalogue.Lbox, n_cells)
            position, axis, weight, which, host = (np.ascontiguousarray(values[grid.order]) for values in points)
            rows = np.argsort(which, kind="stable")
            first = np.searchsorted(which[rows], np.arange(n_masses + 2))
            out = np.empty_like(total)
            two_halo_rows(
                np.arange(n_masses),
                first,
                rows,
                position,
                axis,
                weight,
                which,
                host,
                grid,
                *bin_lookup(self._edges),
                out,
            )
            total += out
        return total[..., 1].sum(axis=1), total[:, :-1, :, 2], total[:, -1, :, 2]


def differences(tables, no_one_halo, reference, occupation, slope: float, n: int, seed: int) -> dict:
    """Return relative differences (n,) of omega and eta between tables and direct counts at n random strengths."""
    rng = np.random.default_rng(seed)
    mu_cen, mu_sat = (torch.as_tensor(rng.uniform(-1, 1, n)) for _ in range(2))
    slopes = torch.as_tensor(rng.choice([-slope, slope], n))

    def weight(log_mass):
        return mean_p2(central_strengths(mu_cen, slopes, log_mass, PIVOT))

    theta = np.tile(occupation, (n, 1))
    whole, two_halo = (model.sums(theta, PAPER_EDGES, weight) for model in (tables, no_one_halo))
    nesting = nesting_matrix(tables.r_edges, PAPER_EDGES)
    q, q_sat = weight(reference["log_mass"]).numpy(), mean_p2(mu_sat).numpy()[:, None]
    A_c = q @ reference["A_c"] @ nesting.T
    E_cc = np.einsum("ni,nj,ijb->nb", q, q, reference["E_cc"], optimize=True) @ nesting.T
    E_cs = q @ reference["E_cs"] @ nesting.T
    DD = whole.DD.numpy()
    omega = (whole.A_c.numpy() + q_sat * whole.A_s.numpy()) / DD
    eta = (whole.E_cc.numpy() + 2 * q_sat * whole.E_cs.numpy() + q_sat**2 * whole.E_ss.numpy()) / DD
    d_omega = (A_c - two_halo.A_c.numpy()) / DD
    d_eta = (E_cc - two_halo.E_cc.numpy() + 2 * q_sat * (E_cs - two_halo.E_cs.numpy())) / DD
    return {"omega": relative_rms(omega + d_omega, omega), "eta": relative_rms(eta + d_eta, eta)}


def main(argv=None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tables", default=None, help="tables to test (default: the shipped ones)")
    parser.add_argument("--slopes", nargs="+", type=float, default=[0.0, 0.5, 1.0, 2.0], help="absolute slopes")
    parser.add_argument("--n-random", type=int, default=5, help="number of random occupations (default: 5)")
    parser.add_argument("--n-strengths", type=int, default=64, help="number of random strengths (default: 64)")
    parser.add_argument("--seed", type=int, default=3)
    options = parser.parse_args(argv)
    tables = TabulatedModel.load(options.tables)
    no_one_halo = copy.copy(tables)
    no_one_halo._binned = {}
    for name in ("_central_satellite", "_satellite_pair"):
        sums = copy.copy(getattr(tables, name))
        sums.values = torch.zeros_like(sums.values)
        setattr(no_one_halo, name, sums)
    reference = Reference(tables)
    drawn = tables.support.sample(options.n_random, np.random.default_rng(options.seed))[:, 2:]
    points = TNG | {f"random {number + 1}": tuple(point) for number, point in enumerate(drawn)}
    found = {}
    for name, occupation in tqdm(points.items(), desc="pairs without modes", unit="point"):
        A_c, E_cc, E_cs = reference(occupation)
        sums = {"log_mass": reference.log_mass, "A_c": A_c, "E_cc": E_cc, "E_cs": E_cs}
        for slope in options.slopes:
            found[name, slope] = differences(
                tables, no_one_halo, sums, occupation, slope, options.n_strengths, options.seed
            )
    print("| occupation | slope | omega: median | 95 % | worst | eta: median | 95 % | worst |")
    print("|---|---|---|---|---|---|---|---|")
    for (name, slope), result in found.items():
        columns = [f"{f(result[key]):.3%}" for key in ("omega", "eta") for f in (np.median, _p95, np.max)]
        print(f"| {name} | ± {slope:g} | " + " | ".join(columns) + " |")


def _p95(values):
    return np.percentile(values, 95)


if __name__ == "__main__":
    main()
