"""Mock galaxies of the paper's model in halotools, and their pair sums: the ground truth of everything else.

The model is that of Van Alfen et al. 2024 (arXiv:2311.07374) and IAEmu (arXiv:2504.05235, section 2.1): occupation of
Zheng et al. 2007; centrals at their host's centre, aligned with its major axis; satellites on sub-halos, aligned with
the radius vector; misalignments drawn from Dimroth-Watson distributions. halotools (Hearin et al. 2017, AJ 154, 190)
is imported on first use only, by :class:`HalotoolsMocks`.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import wraps
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike

from iaemu.binning import PAPER_EDGES, check_edges
from iaemu.extras import it_takes
from iaemu.halomodel.occupation import mean_nsat
from iaemu.models.laws import SLOPE, central_strengths
from iaemu.parameters import OCCUPATION_PARAMETERS, PARAMETERS, as_theta
from iaemu.ranges import Range
from iaemu_training.halos.catalogue import BORROWING_EDGES, HaloCatalogue, subhalo_mass_bins
from iaemu_training.mocks.dimroth_watson import quantile
from iaemu_training.mocks.realisations import MockRealisations
from iaemu_training.pairs.galaxies import count_pairs, random_pairs

if TYPE_CHECKING:
    from halotools.sim_manager import CachedHaloCatalog, UserSuppliedHaloCatalog

#: halotools draws from numpy's global generator and reads module globals: one mock at a time in a process.
_LOCK = threading.RLock()

_FLOAT_COLUMNS = (
    *("halo_x", "halo_y", "halo_z", "halo_axisA_x", "halo_axisA_y", "halo_axisA_z"),
    *("halo_mvir", "halo_mvir_host_halo", "halo_mpeak", "halo_rvir"),
)
_INTEGER_COLUMNS = ("halo_id", "halo_upid", "halo_hostid")
# The model carries velocities along, but nothing here depends on them.
_VELOCITY_COLUMNS = ("halo_vx", "halo_vy", "halo_vz")

#: 100 times those of any survey's box; halotools takes some 200 bytes of memory for each.
_MAX_GALAXIES = 10**8

#: Strengths between these fall into a gap of halotools' sampler, which then fails after 100 rejections: exp(-kappa)
#: is not yet 0, but erfi(sqrt(kappa)) and exp(kappa) have overflown. The lower limit stands for the whole gap, which
#: shifts <P2> by less than 1e-4.
_MU_GAP = (0.999102, 0.999147)
#: Below this strength the sampler divides by exp(kappa) - 1, which rounds to 0; <P2> is below 1e-8 there.
_MU_ISOTROPIC = 1e-8


class Galaxies(NamedTuple):
    """One mock catalogue; n galaxies, centrals first.

    Attributes
    ----------
    positions : (n, 3) float64
        In [0, Lbox) [Mpc/h].
    axes : (n, 3) float64
        Unit major axes.
    is_central : (n,) bool
    is_borrowed : (n,) bool
        Satellites beyond their host's own sub-halos, which sit at a random sub-halo's offset from its host.
    host : (n,) int64
        ``halo_id`` of the host halo.
    """

    positions: np.ndarray
    axes: np.ndarray
    is_central: np.ndarray
    is_borrowed: np.ndarray
    host: np.ndarray


class HalotoolsMocks:
    """Direct simulation: halotools mocks of one halo catalogue.

    The catalogue is prepared once; each mock is then one re-population. Repeating a seed repeats a mock exactly, and
    numpy's global generator is left as it was. Mocks carry no gradient.

    Parameters
    ----------
    catalogue : HaloCatalogue, or halotools' CachedHaloCatalog or UserSuppliedHaloCatalog
        Halos whose major axis is all zero are removed, with their sub-halos; so are hosts up to 10^10.5 Msun/h, which
        halotools' model cannot hold (the paper's own cut of 300 particles lies higher).
    r_edges : (n_bins + 1,), optional
        Bins of :meth:`realisations` [Mpc/h]; the paper's 20 by default.
    pivot : float, optional
        Makes the strength of centrals depend on their host's mass, as :mod:`iaemu.models.laws` does, with this
        pivot [log10 Msun/h] and the parameter ``mu_cen_slope`` after the seven.

    Attributes
    ----------
    parameters : tuple of str
    log_mass_edges : (n_mass_bins + 1,)
        Bins of host mass within which satellites are borrowed [log10 Msun/h], see :func:`subhalo_mass_bins`.
    Lbox : float
        [Mpc/h].

    Raises
    ------
    ImportError
        halotools is not installed.
    ValueError
        The box is not a cube, a column is missing, or the catalogue cannot be populated.
    """

    def __init__(
        self,
        catalogue: HaloCatalogue | CachedHaloCatalog | UserSuppliedHaloCatalog,
        r_edges: ArrayLike = PAPER_EDGES,
        pivot: float | None = None,
    ):
        self.r_edges = check_edges(r_edges)
        self.parameters = PARAMETERS if pivot is None else (*PARAMETERS, SLOPE)
        # halotools switches off numpy's warnings on division by zero at import.
        with np.errstate(), _halotools_warnings_ignored():
            _require_halotools()
            halocat = catalogue.to_halotools() if isinstance(catalogue, HaloCatalogue) else catalogue
            self.Lbox = _cube_side(halocat)
            columns = _prepared_columns(halocat)
            is_host = columns["halo_upid"] == -1
            log_mass = np.log10(columns["halo_mvir_host_halo"])
            self._log_mass = torch.as_tensor(log_mass[is_host])
            self.log_mass_edges = subhalo_mass_bins(log_mass[is_host], log_mass[~is_host])
            self._model, self._mock = _build_mock(columns, self.Lbox, 10.0**self.log_mass_edges, pivot)

    def populate(
        self, theta: Mapping[str, Any] | ArrayLike, seed: int | np.random.SeedSequence, smooth: bool = False
    ) -> Galaxies:
        """One mock catalogue.

        Parameters
        ----------
        theta : mapping of name to number, or array (n_parameters,)
            One parameter point. It may lie outside the support, but must be physical.
        seed : int or numpy.random.SeedSequence
        smooth : bool
            Draw misalignments by inversion (:mod:`iaemu_training.mocks.dimroth_watson`) in place of halotools'
            rejection: the same distribution, but with the same seed and occupation axes move continuously with the
            strengths.

        Raises
        ------
        ValueError
            ``theta`` is not one point, sigma_logM <= 0, a strength lies outside [-1, 1], or there would be more
            galaxies than fit into memory; ``seed`` is no whole number, or negative.
        KeyError
            ``theta`` lacks a parameter.
        """
        values = _one_point(theta, self.parameters)
        self._check_numbers(values)
        # A large integer from the sequence: halotools adds 1, 2, ... to it for its steps, so seeds next to each other
        # would share their random numbers between mocks.
        states = _seed_sequence(seed).generate_state(4) >> 1
        with _LOCK, np.errstate(), _halotools_warnings_ignored(), _seeded_halotools(states[1:], smooth):
            self._model.param_dict.update(values)
            self._mock.populate(seed=int(states[0]))
            return _as_galaxies(self._mock.galaxy_table, self.Lbox)

    def _check_numbers(self, values: Mapping[str, float]) -> None:
        """ValueError if a point makes more galaxies than fit into memory."""
        occupation = [torch.tensor(values[name], dtype=torch.float64) for name in ("logM0", "logM1", "alpha")]
        expected = len(self._log_mass) + float(mean_nsat(self._log_mass, *occupation).sum())
        if not expected <= _MAX_GALAXIES:
            raise ValueError(
                f"logM0 = {values['logM0']:g}, logM1 = {values['logM1']:g}, alpha = {values['alpha']:g} put "
                f"{expected:.3g} galaxies into this box; {_MAX_GALAXIES:g} are the most that a mock may have."
            )

    def iterate(
        self, theta: Mapping[str, Any] | ArrayLike, n: int, seed: int | np.random.SeedSequence = 0, smooth: bool = False
    ) -> Iterator[Galaxies]:
        """``n`` independent mocks, one after the other; the i-th depends on (seed, i) only, not on ``n``."""
        for child in _seed_sequence(seed).spawn(n):
            yield self.populate(theta, child, smooth)

    def realisations(
        self,
        theta: Mapping[str, Any] | ArrayLike,
        n: int,
        seed: int | np.random.SeedSequence = 0,
        r_edges: ArrayLike | None = None,
        smooth: bool = False,
    ) -> MockRealisations:
        """Pair sums of ``n`` independent mocks; the i-th depends on (seed, i) only.

        Bins without pairs stay without: nothing is drawn again. ``smooth`` as for :meth:`populate`.

        Raises
        ------
        ValueError
            As :meth:`populate`; ``n`` is not positive; bins beyond half of the box.
        """
        Range(at_least=1).check("The number of realisations", n, int)
        edges = self.r_edges if r_edges is None else check_edges(r_edges)
        sums, counts = [], []
        for galaxies in self.iterate(theta, n, seed, smooth):
            sums.append(count_pairs(galaxies.positions, galaxies.axes, self.Lbox, edges))
            n_sat = int(np.sum(~galaxies.is_central))
            counts.append((len(galaxies.positions), n_sat, int(galaxies.is_borrowed.sum())))
        DD, S_omega, S_eta = np.stack(sums, axis=1)
        n_gal, n_sat, n_borrowed = np.array(counts, dtype=np.int64).T
        return MockRealisations(
            edges, DD, S_omega, S_eta, random_pairs(n_gal, self.Lbox, edges), n_gal, n_sat, n_borrowed
        )


# ---------------------------------------------------------------------- parameters and seeds


def _one_point(theta, parameters=PARAMETERS) -> dict[str, float]:
    """halotools' names and values of one parameter point."""
    tensor = as_theta(theta, parameters).detach()
    if tensor.ndim != 1:
        raise ValueError(
            f"One mock has one parameter point, shape ({len(parameters)},); got {tuple(tensor.shape)}. "
            "Loop over points."
        )
    values = dict(zip(parameters, tensor.to(torch.float64).tolist(), strict=True))
    if values["sigma_logM"] <= 0:
        raise ValueError(f"sigma_logM = {values['sigma_logM']:g} must be positive: the step of <Ncen> would turn over.")
    strengths = {}
    for name, halotools_name in (("mu_cen", "central_alignment_strength"), ("mu_sat", "satellite_alignment_strength")):
        if abs(values[name]) > 1:
            raise ValueError(f"{name} = {values[name]:g} must lie in [-1, 1].")
        strengths[halotools_name] = _samplable(values[name])
    if SLOPE in values:
        strengths.update({name: values[name] for name in _MassDependentStrength.names})
    return {**{name: values[name] for name in OCCUPATION_PARAMETERS}, **strengths}


def _samplable(mu):
    """The strengths (number or array) nearest to ``mu`` that halotools' Dimroth-Watson sampler can draw."""
    mu = np.where(np.abs(mu) < _MU_ISOTROPIC, 0.0, mu)
    in_gap = (np.abs(mu) > _MU_GAP[0]) & (np.abs(mu) < _MU_GAP[1])
    return np.where(in_gap, np.copysign(_MU_GAP[0], mu), mu)[()]


def _seed_sequence(seed) -> np.random.SeedSequence:
    """A fresh sequence, so that spawning from it twice gives the same children."""
    if isinstance(seed, np.random.SeedSequence):
        return np.random.SeedSequence(seed.entropy, spawn_key=seed.spawn_key)
    Range(at_least=0).check("seed", seed, int)
    return np.random.SeedSequence(seed)


# ---------------------------------------------------------------------- halotools


def _require_halotools() -> None:
    try:
        import halotools.empirical_models  # noqa: F401
    except ImportError as error:
        raise ImportError(it_takes(f"Mocks need halotools, which cannot be imported ({error})")) from error


@contextmanager
def _halotools_warnings_ignored():
    """halotools warns at each population that strengths come from the model's parameters, which is meant."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"(.*\.)?halotools(\..*)?")
        yield


@contextmanager
def _seeded_halotools(states, smooth: bool):
    """Make halotools' orientations follow from ``states``; leave numpy's global generator as it was.

    With ``smooth``, cosines of misalignment are drawn by inversion.

    The alignment components call ``axes_correlated_with_input_vector`` without the seed that it accepts, and without
    one it seeds itself from the operating system: seeding the global generator has no effect on it. Only the axes of
    satellites at their host's very centre come from the global generator.
    """
    from halotools.empirical_models.ia_models import ia_model_components as components

    original, distribution = components.axes_correlated_with_input_vector, components.DimrothWatson
    seeds = iter([int(state) for state in states[1:]])

    def seeded(input_vectors, p=0.0, seed=None):
        seed = next(seeds) if seed is None else seed
        perfect = np.abs(p) > _MU_GAP[0]
        if smooth or np.all(perfect) or not np.any(perfect):
            return original(input_vectors, p=p, seed=seed)
        # The sampler cannot draw strengths of which some, but not all, are perfect.
        axes = np.empty_like(input_vectors, dtype=np.float64)
        for group, its_seed in ((perfect, seed), (~perfect, seed + 1)):
            axes[group] = original(input_vectors[group], p=np.asarray(p)[group], seed=its_seed)
        return axes

    state = np.random.get_state()  # noqa: NPY002 halotools draws from the legacy generator
    components.axes_correlated_with_input_vector = seeded
    if smooth:
        components.DimrothWatson = _Inversion
    try:
        np.random.seed(int(states[0]))  # noqa: NPY002
        yield
    finally:
        components.axes_correlated_with_input_vector, components.DimrothWatson = original, distribution
        np.random.set_state(state)  # noqa: NPY002


class _Inversion:
    """In place of halotools' ``DimrothWatson``, for the one method that alignment components call."""

    @staticmethod
    def rvs(k: np.ndarray) -> np.ndarray:
        """A cosine for each shape parameter."""
        return quantile(np.random.uniform(size=np.shape(k)), k)  # noqa: NPY002 halotools has seeded it


def _cube_side(halocat) -> float:
    sides = np.broadcast_to(np.asarray(halocat.Lbox, dtype=np.float64), 3)
    if np.ptp(sides) > 0:
        raise ValueError(f"The box must be a cube, its sides are {sides.tolist()} Mpc/h.")
    return float(sides[0])


def _prepared_columns(halocat) -> dict[str, np.ndarray]:
    """Columns that the model uses, float64 and int64, of the halos that it can populate."""
    table = halocat.halo_table
    missing = [name for name in (*_FLOAT_COLUMNS, *_INTEGER_COLUMNS) if name not in table.colnames]
    if missing:
        raise ValueError(f"The halo catalogue lacks the column(s) {', '.join(missing)}, which the mock model needs.")
    columns = {name: np.asarray(table[name], dtype=np.float64) for name in _FLOAT_COLUMNS}
    columns |= {name: np.asarray(table[name], dtype=np.int64) for name in _INTEGER_COLUMNS}
    axes = [columns[f"halo_axisA_{x}"] for x in "xyz"]
    is_host = columns["halo_upid"] == -1
    keep = np.any(np.stack(axes) != 0, axis=0)
    if not keep[~is_host].any():  # a catalogue that does not measure axes of sub-halos, which the model does not use
        keep |= ~is_host
    keep &= ~is_host | (columns["halo_mvir_host_halo"] > 10.0 ** BORROWING_EDGES[0])
    keep &= is_host | np.isin(columns["halo_hostid"], columns["halo_id"][is_host & keep])
    columns = {name: values[keep] for name, values in columns.items()}
    # Positions at the upper face: halotools' periodic distances demand [0, Lbox].
    Lbox = _cube_side(halocat)
    for name in _FLOAT_COLUMNS[:3]:
        columns[name] = _wrap(columns[name], Lbox)
    return columns | {name: np.zeros(int(keep.sum())) for name in _VELOCITY_COLUMNS}


class _MassDependentStrength:
    """Component of a halotools model: a strength for each central, in the column that CentralAlignment looks for."""

    names = ("mu_cen", SLOPE)

    def __init__(self, pivot: float):
        self.gal_type = "centrals"
        self._mock_generation_calling_sequence = ["assign_central_strength"]
        self._methods_to_inherit = ["assign_central_strength"]
        self._galprop_dtypes_to_allocate = np.dtype([("central_alignment_strength", "f8")])
        self.list_of_haloprops_needed = ["halo_mvir"]
        self.param_dict = dict.fromkeys(self.names, 0.0)
        self._pivot = pivot

    def assign_central_strength(self, table: Any, **kwargs: Any) -> Any:
        """Fill the column of a table of galaxies."""
        mu_cen, slope = (torch.as_tensor([self.param_dict[name]], dtype=torch.float64) for name in self.names)
        log_mass = torch.as_tensor(np.log10(np.asarray(table["halo_mvir"], dtype=np.float64)))
        table["central_alignment_strength"][:] = _samplable(
            central_strengths(mu_cen, slope, log_mass, self._pivot)[0].numpy()
        )
        return table


def _build_mock(columns: dict[str, np.ndarray], Lbox: float, mass_edges: np.ndarray, pivot: float | None = None):
    """halotools' model and mock factory, with the catalogue prepared but not yet populated.

    The factory holds the model by a weak reference only: keep both.
    """
    from halotools.empirical_models import (
        CentralAlignment,
        HodMockFactory,
        HodModelFactory,
        RadialSatelliteAlignment,
        SubhaloPhaseSpace,
        TrivialPhaseSpace,
        Zheng07Cens,
        Zheng07Sats,
    )
    from halotools.sim_manager import UserSuppliedHaloCatalog

    strength = {} if pivot is None else {"centrals_strength": _MassDependentStrength(pivot)}
    model = HodModelFactory(
        **strength,
        centrals_occupation=Zheng07Cens(),
        centrals_profile=TrivialPhaseSpace(),
        centrals_orientation=CentralAlignment(central_alignment_strength=1.0),
        satellites_occupation=Zheng07Sats(modulate_with_cenocc=False),
        satellites_profile=SubhaloPhaseSpace("satellites", mass_edges),
        satellites_orientation=RadialSatelliteAlignment(satellite_alignment_strength=1.0),
        # Orientations come last: those of satellites are relative to positions.
        model_feature_calling_sequence=(
            *("centrals_occupation", "centrals_profile", "satellites_occupation"),
            *("satellites_profile", *strength, "centrals_orientation", "satellites_orientation"),
        ),
    )
    for name in ("assign_central_orientation_centrals", "assign_satellite_orientation_satellites"):
        setattr(model, name, _unless_empty(getattr(model, name)))
    # The least particle mass switches off halotools' cut at 300 particles: what to keep was decided before.
    halocat = UserSuppliedHaloCatalog(redshift=0.0, Lbox=Lbox, particle_mass=1.0, **columns)
    return model, HodMockFactory(halocat=halocat, model=model, Num_ptcl_requirement=1)


def _unless_empty(method):
    """halotools cannot orient an empty population, which at high ``logMmin`` is an ordinary outcome."""

    @wraps(method)
    def call(table, **kwargs):
        return method(table=table, **kwargs) if len(table) else table

    return call


def _as_galaxies(table, Lbox: float) -> Galaxies:
    positions = np.stack([np.asarray(table[x], dtype=np.float64) for x in "xyz"], axis=-1)
    axes = np.stack([np.asarray(table[f"galaxy_axisA_{x}"], dtype=np.float64) for x in "xyz"], axis=-1)
    # halotools keeps axes in 32 bits.
    axes /= np.linalg.norm(axes, axis=1, keepdims=True)
    is_central = np.asarray(table["gal_type"] == "centrals", dtype=bool)
    is_borrowed = ~is_central & ~np.asarray(table["real_subhalo"], dtype=bool)
    host = np.asarray(table["halo_hostid"], dtype=np.int64)
    return Galaxies(_wrap(positions, Lbox), axes, is_central, is_borrowed, host)


def _wrap(coordinates: np.ndarray, Lbox: float) -> np.ndarray:
    """Into [0, Lbox); numpy.mod alone gives Lbox for tiny negative numbers."""
    wrapped = np.mod(coordinates, Lbox)
    return np.where(wrapped >= Lbox, 0.0, wrapped)
