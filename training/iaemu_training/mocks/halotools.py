"""halotools-IA mocks and their pair sums, against which all other models are checked.

The model is that of Van Alfen et al. 2024 (arXiv:2311.07374) and IAEmu (arXiv:2504.05235, section 2.1): the occupation
of Zheng et al. 2007; centrals at the centre of their host, aligned with its major axis; satellites on sub-halos,
aligned with the radius vector; and misalignments from Dimroth-Watson distributions. Strengths that depend on host mass
or radius are those of halotools' own components. halotools (Hearin et al. 2017, AJ 154, 190) is imported when
:class:`HalotoolsMocks` is first used.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import wraps
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike

from iaemu.binning import PAPER_EDGES, check_edges
from iaemu.extras import it_takes
from iaemu.halomodel.occupation import mean_nsat
from iaemu.models.laws import CEN_SLOPE, PIVOT, SAT_SLOPE
from iaemu.parameters import ALIGNMENT_PARAMETERS, PARAMETERS, SLOPES, as_theta
from iaemu.progress import BAR_AFTER, tqdm
from iaemu.ranges import Range
from iaemu_training.halos.catalogue import BORROWING_EDGES, HaloCatalogue, subhalo_mass_bins
from iaemu_training.halos.columns import wrapped
from iaemu_training.mocks.dimroth_watson import quantile
from iaemu_training.mocks.realisations import MockRealisations
from iaemu_training.pairs.galaxies import count_pairs, random_pairs

if TYPE_CHECKING:
    from halotools.sim_manager import CachedHaloCatalog, UserSuppliedHaloCatalog

#: One mock at a time in a process: halotools uses numpy's global generator and global variables of its modules.
_LOCK = threading.RLock()

_FLOAT_COLUMNS = (
    *("halo_x", "halo_y", "halo_z", "halo_axisA_x", "halo_axisA_y", "halo_axisA_z"),
    *("halo_mvir", "halo_mvir_host_halo", "halo_mpeak", "halo_rvir"),
)
_INTEGER_COLUMNS = ("halo_id", "halo_upid", "halo_hostid")
# The model needs velocities, but nothing here depends on them.
_VELOCITY_COLUMNS = ("halo_vx", "halo_vy", "halo_vz")

#: Most galaxies in a mock, far more than in any survey. halotools needs some 200 bytes of memory for each.
_MAX_GALAXIES = 10**8

#: Columns of halotools with the strengths of centrals and of satellites; also names of parameters, for one strength.
_STRENGTHS = ("central_alignment_strength", "satellite_alignment_strength")

#: Allowed slopes, so that halotools' laws do not overflow.
_SLOPE = Range(at_least=-100, at_most=100)

#: Between these strengths halotools' sampler fails after 100 rejections: exp(-kappa) is not yet 0, but
#: erfi(sqrt(kappa)) and exp(kappa) have overflowed. The lower limit is used instead, which changes <P2> by less than
#: 1e-4.
_MU_GAP = (0.999102, 0.999147)
#: Below this strength the sampler would divide by exp(kappa) - 1, which rounds to 0. <P2> is below 1e-8 there.
_MU_ISOTROPIC = 1e-8


class Galaxies(NamedTuple):
    """One mock catalogue of n galaxies, centrals first.

    Attributes
    ----------
    positions : (n, 3) float64
        Positions in [0, Lbox) [Mpc/h].
    axes : (n, 3) float64
        Unit vectors along the major axes.
    is_central : (n,) bool
        Whether a galaxy is a central.
    is_borrowed : (n,) bool
        Whether a galaxy is a borrowed satellite, placed like a sub-halo of another host of similar mass.
    host : (n,) int64
        ``halo_id`` of the host halo.
    """

    positions: np.ndarray
    axes: np.ndarray
    is_central: np.ndarray
    is_borrowed: np.ndarray
    host: np.ndarray

    def __repr__(self) -> str:
        n_sat, n_borrowed = int(np.sum(~self.is_central)), int(np.sum(self.is_borrowed))
        return f"<Galaxies: {len(self.host)} galaxies, of which {n_sat} satellites ({n_borrowed} borrowed)>"


class HalotoolsMocks:
    """halotools-IA mocks of one halo catalogue.

    The catalogue is prepared once, and each mock populates it again. The same seed gives the same mock, and numpy's
    global generator is left unchanged. Mocks have no gradient.

    Parameters
    ----------
    catalogue : HaloCatalogue, or halotools' CachedHaloCatalog or UserSuppliedHaloCatalog
        Halos to populate. Halos whose major axis is (0, 0, 0) and hosts up to 10^10.5 Msun/h, which halotools' model
        cannot hold, are removed with their sub-halos. (The paper's cut of 300 particles is higher.)
    r_edges : (n_bins + 1,), optional
        Default bins of :meth:`realisations` [Mpc/h]; the paper's 20.
    slopes : sequence of str
        Which slopes are parameters, of ``mu_cen_slope`` and ``mu_sat_slope``; see :mod:`iaemu.models.laws`. The laws
        are halotools' ``HaloMassCentralAlignmentStrength`` and ``RadialSatelliteAlignmentStrength``, with ``halo_rvir``
        of the host. Where a slope is 0 the strength is the constant one, which may exceed the limit of the laws, 0.99.
    pivot : float
        log10 of the host mass [Msun/h] at which the strength of centrals is ``mu_cen``.

    Attributes
    ----------
    parameters : tuple of str
        Names of the parameters, in order.
    log_mass_edges : (n_mass_bins + 1,)
        Edges of the bins of host mass within which satellites are borrowed [log10 Msun/h].
    Lbox : float
        Side of the box [Mpc/h].

    Raises
    ------
    ImportError
        halotools is not installed.
    ValueError
        The box is not a cube, a column is missing, or the catalogue cannot be populated; a slope is unknown, ``pivot``
        is not a number between 8 and 17, or a host has no virial radius, which ``mu_sat_slope`` needs.
    """

    def __init__(
        self,
        catalogue: HaloCatalogue | CachedHaloCatalog | UserSuppliedHaloCatalog,
        r_edges: ArrayLike = PAPER_EDGES,
        slopes: Sequence[str] = (),
        pivot: float = PIVOT,
    ):
        self.r_edges = check_edges(r_edges)
        check_pivot(pivot)
        self.parameters = (*PARAMETERS, *check_slopes(slopes))
        # halotools switches off numpy's warnings of divisions by zero when it is imported.
        with np.errstate(), _halotools_warnings_ignored():
            _require_halotools()
            halocat = catalogue.to_halotools() if isinstance(catalogue, HaloCatalogue) else catalogue
            self.Lbox = _cube_side(halocat)
            columns = _prepared_columns(halocat)
            is_host = columns["halo_upid"] == -1
            if SAT_SLOPE in self.parameters:
                _check_radii(columns["halo_rvir"][is_host])
            log_mass = np.log10(columns["halo_mvir_host_halo"])
            self._log_mass = torch.as_tensor(log_mass[is_host])
            self.log_mass_edges = subhalo_mass_bins(log_mass[is_host], log_mass[~is_host])
            self._model, self._mock = _build_mock(columns, self.Lbox, 10.0**self.log_mass_edges, slopes, pivot)

    def __repr__(self) -> str:
        return f"<HalotoolsMocks: {len(self._log_mass)} hosts in a box of {self.Lbox:g} Mpc/h>"

    def populate(
        self, theta: Mapping[str, Any] | ArrayLike, seed: int | np.random.SeedSequence, smooth: bool = False
    ) -> Galaxies:
        """Make one mock catalogue.

        Parameters
        ----------
        theta : mapping of str to float, or array (n_parameters,)
            One parameter point. It may lie outside the supported region, but must be physical.
        seed : int or numpy.random.SeedSequence
            Seed of the occupation and of the orientations.
        smooth : bool
            Draw misalignments by inversion (:mod:`iaemu_training.mocks.dimroth_watson`) instead of halotools'
            rejection. The distribution is the same, but for a given seed and occupation the axes are continuous
            functions of the alignment strengths.

        Returns
        -------
        Galaxies

        Raises
        ------
        ValueError
            ``theta`` is not one point, ``sigma_logM`` is not positive, a strength lies outside [-1, 1] or a slope
            outside [-100, 100], or there would be more than 10^8 galaxies; ``seed`` is negative or not a whole number.
        KeyError
            ``theta`` lacks a parameter.
        """
        values = _one_point(theta, self.parameters)
        self._check_numbers(values)
        # halotools adds 1, 2, ... to the seed for its steps. Large integers from the sequence keep mocks with
        # neighbouring seeds from sharing random numbers.
        states = _seed_sequence(seed).generate_state(4) >> 1
        with _LOCK, np.errstate(), _halotools_warnings_ignored(), _seeded_halotools(states[1:], smooth):
            self._model.param_dict.update(values)
            self._mock.populate(seed=int(states[0]))
            return _as_galaxies(self._mock.galaxy_table, self.Lbox)

    def _check_numbers(self, values: Mapping[str, float]) -> None:
        """Raise ValueError if a point makes more galaxies than fit into memory."""
        occupation = [torch.tensor(values[name], dtype=torch.float64) for name in ("logM0", "logM1", "alpha")]
        expected = len(self._log_mass) + float(mean_nsat(self._log_mass, *occupation).sum())
        if not expected <= _MAX_GALAXIES:
            raise ValueError(
                f"logM0 = {values['logM0']:g}, logM1 = {values['logM1']:g}, alpha = {values['alpha']:g} put "
                f"{expected:.3g} galaxies into this box; a mock may have at most {_MAX_GALAXIES:g}. Raise logM1."
            )

    def iterate(
        self, theta: Mapping[str, Any] | ArrayLike, n: int, seed: int | np.random.SeedSequence = 0, smooth: bool = False
    ) -> Iterator[Galaxies]:
        """Make ``n`` independent mocks, one after the other.

        Parameters
        ----------
        theta : mapping of str to float, or array (n_parameters,)
            One parameter point.
        n : int
            Number of mocks.
        seed : int or numpy.random.SeedSequence
            Seed of all mocks; the i-th mock depends on (seed, i) only.
        smooth : bool
            See :meth:`populate`.

        Yields
        ------
        Galaxies
        """
        for child in _seed_sequence(seed).spawn(n):
            yield self.populate(theta, child, smooth)

    def realisations(
        self,
        theta: Mapping[str, Any] | ArrayLike,
        n: int,
        seed: int | np.random.SeedSequence = 0,
        r_edges: ArrayLike | None = None,
        smooth: bool = False,
        progress: bool = False,
    ) -> MockRealisations:
        """Make ``n`` independent mocks and count their pairs.

        Mocks with bins without pairs are kept.

        Parameters
        ----------
        theta : mapping of str to float, or array (n_parameters,)
            One parameter point.
        n : int
            Number of mocks, at least 1.
        seed : int or numpy.random.SeedSequence
            Seed of all mocks; the i-th mock depends on (seed, i) only.
        r_edges : (n_bins + 1,), optional
            Edges of the bins [Mpc/h], at most half of the side of the box; by default those of the object.
        smooth : bool
            See :meth:`populate`.
        progress : bool
            Show a progress bar if it takes more than two seconds.

        Returns
        -------
        MockRealisations

        Raises
        ------
        ValueError
            ``n`` is not positive, or bins exceed half of the side of the box; or as for :meth:`populate`.
        KeyError
            ``theta`` lacks a parameter.
        """
        Range(at_least=1).check("The number of realisations", n, int)
        edges = self.r_edges if r_edges is None else check_edges(r_edges)
        sums, counts = [], []
        mocks = self.iterate(theta, n, seed, smooth)
        # A bar leaves a thread behind, even if it is not shown.
        for galaxies in tqdm(mocks, total=n, desc="mocks", unit="mock", delay=BAR_AFTER) if progress else mocks:
            sums.append(count_pairs(galaxies.positions, galaxies.axes, self.Lbox, edges))
            n_sat = int(np.sum(~galaxies.is_central))
            counts.append((len(galaxies.positions), n_sat, int(galaxies.is_borrowed.sum())))
        DD, S_omega, S_eta = np.stack(sums, axis=1)
        n_gal, n_sat, n_borrowed = np.array(counts, dtype=np.int64).T
        return MockRealisations(
            edges, DD, S_omega, S_eta, random_pairs(n_gal, self.Lbox, edges), n_gal, n_sat, n_borrowed
        )


# ---------------------------------------------------------------------- parameters and seeds


def check_pivot(pivot: float) -> None:
    """Raise ValueError unless a pivot is the log10 of a host mass [Msun/h].

    Parameters
    ----------
    pivot : float
    """
    Range(at_least=8, at_most=17).check("pivot, the log10 of a halo mass in Msun/h,", pivot)


def check_slopes(slopes: Sequence[str]) -> tuple[str, ...]:
    """Return names of slopes in the order of the parameters.

    Parameters
    ----------
    slopes : sequence of str

    Returns
    -------
    tuple of str

    Raises
    ------
    ValueError
        They are no sequence, or a name is not one of ``iaemu.parameters.SLOPES``.
    """
    if isinstance(slopes, str | bytes) or not isinstance(slopes, Sequence):
        raise ValueError(f"slopes must be a list of some of {', '.join(SLOPES)}, got {slopes!r:.60}.")
    unknown = [name for name in slopes if name not in SLOPES]
    if unknown:
        raise ValueError(f"Unknown slope(s) {', '.join(map(str, unknown))}. The slopes are {', '.join(SLOPES)}.")
    return tuple(name for name in SLOPES if name in slopes)


def _one_point(theta, parameters=PARAMETERS) -> dict[str, float]:
    """Return the parameters of one point under halotools' names."""
    tensor = as_theta(theta, parameters).detach()
    if tensor.ndim != 1:
        raise ValueError(
            f"One mock has one parameter point, of shape ({len(parameters)},); got {tuple(tensor.shape)}. "
            "Loop over the points."
        )
    values = dict(zip(parameters, tensor.to(torch.float64).tolist(), strict=True))
    if values["sigma_logM"] <= 0:
        raise ValueError(f"sigma_logM = {values['sigma_logM']:g} must be positive; it is the width of <Ncen> in dex.")
    for name in ALIGNMENT_PARAMETERS:
        if abs(values[name]) > 1:
            raise ValueError(f"{name} = {values[name]:g} must lie in [-1, 1].")
    for name in parameters[len(PARAMETERS) :]:
        _SLOPE.check(name, values[name])
    constant = dict(zip(_STRENGTHS, (_samplable(values[name]) for name in ALIGNMENT_PARAMETERS), strict=True))
    return {**values, **constant}


def _samplable(mu):
    """Return the strengths nearest to ``mu`` (number or array) that halotools' Dimroth-Watson sampler can draw."""
    mu = np.where(np.abs(mu) < _MU_ISOTROPIC, 0.0, mu)
    in_gap = (np.abs(mu) > _MU_GAP[0]) & (np.abs(mu) < _MU_GAP[1])
    return np.where(in_gap, np.copysign(_MU_GAP[0], mu), mu)[()]


def _seed_sequence(seed) -> np.random.SeedSequence:
    """Return a new sequence, so that spawning from it twice gives the same children."""
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
    """Ignore halotools' warning, at each mock, that strengths come from the model's parameters, which is intended."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"(.*\.)?halotools(\..*)?")
        yield


@contextmanager
def _seeded_halotools(states, smooth: bool):
    """Seed halotools' orientations with ``states``; numpy's global generator is restored afterwards.

    With ``smooth``, cosines of misalignment are drawn by inversion.

    halotools' alignment components call ``axes_correlated_with_input_vector`` without a seed. It then takes one from
    the operating system, whatever the state of numpy's global generator. Only the axes of satellites exactly at the
    centre of their host come from the global generator.
    """
    from halotools.empirical_models.ia_models import ia_model_components as components

    original, distribution = components.axes_correlated_with_input_vector, components.DimrothWatson
    seeds = iter([int(state) for state in states[1:]])

    def seeded(input_vectors, p=0.0, seed=None):
        seed = next(seeds) if seed is None else seed
        perfect = np.abs(p) > _MU_GAP[0]
        if smooth or np.all(perfect) or not np.any(perfect):
            return original(input_vectors, p=p, seed=seed)
        # The sampler fails if some, but not all, strengths are perfect.
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
    """Replacement of halotools' ``DimrothWatson``, with the one method that alignment components call."""

    @staticmethod
    def rvs(k: np.ndarray) -> np.ndarray:
        """Draw a cosine for each shape parameter."""
        return quantile(np.random.uniform(size=np.shape(k)), k)  # noqa: NPY002 halotools has seeded it


def _cube_side(halocat) -> float:
    sides = np.broadcast_to(np.asarray(halocat.Lbox, dtype=np.float64), 3)
    if np.ptp(sides) > 0:
        raise ValueError(f"The box must be a cube, but its sides are {sides.tolist()} Mpc/h.")
    return float(sides[0])


def _check_radii(radius) -> None:
    wrong = int(np.sum(~(radius > 0)))
    if wrong:
        raise ValueError(
            f"halo_rvir of {wrong} of {len(radius)} hosts is not positive; {SAT_SLOPE} needs the virial radius [Mpc/h]."
        )


def _prepared_columns(halocat) -> dict[str, np.ndarray]:
    """Return the columns that the model uses, as float64 and int64, of the halos that it can populate."""
    table = halocat.halo_table
    missing = [name for name in (*_FLOAT_COLUMNS, *_INTEGER_COLUMNS) if name not in table.colnames]
    if missing:
        raise ValueError(f"The halo catalogue lacks the column(s) {', '.join(missing)}, which the mock model needs.")
    columns = {name: np.asarray(table[name], dtype=np.float64) for name in _FLOAT_COLUMNS}
    columns |= {name: np.asarray(table[name], dtype=np.int64) for name in _INTEGER_COLUMNS}
    axes = [columns[f"halo_axisA_{x}"] for x in "xyz"]
    is_host = columns["halo_upid"] == -1
    keep = np.any(np.stack(axes) != 0, axis=0)
    if not keep[~is_host].any():  # the catalogue has no axes of sub-halos, which the model does not need
        keep |= ~is_host
    keep &= ~is_host | (columns["halo_mvir_host_halo"] > 10.0 ** BORROWING_EDGES[0])
    keep &= is_host | np.isin(columns["halo_hostid"], columns["halo_id"][is_host & keep])
    columns = {name: values[keep] for name, values in columns.items()}
    # halotools' periodic distances need positions in [0, Lbox].
    Lbox = _cube_side(halocat)
    for name in _FLOAT_COLUMNS[:3]:
        columns[name] = wrapped(columns[name], Lbox)
    return columns | {name: np.zeros(int(keep.sum())) for name in _VELOCITY_COLUMNS}


class _Strength:
    """Component of a halotools model that sets the strength of each galaxy by halotools' component for it.

    Two of halotools' components cannot be in one model, since both have parameters ``a`` and ``gamma``. They are called
    with arrays instead of a table, in which they would round strengths to 32 bits.

    Parameters
    ----------
    law : HaloMassCentralAlignmentStrength or RadialSatelliteAlignmentStrength
    names : (str, str)
        Names of the strength and its slope.
    column : str
        Column of strengths that the orientation component reads.
    """

    def __init__(self, law, names, column: str):
        self._law, self._names, self._column = law, names, column
        self.gal_type = law.gal_type
        self.param_dict = dict.fromkeys(names, 0.0)
        self.list_of_haloprops_needed = law.list_of_haloprops_needed
        self._galprop_dtypes_to_allocate = np.dtype([(column, "f8")])
        self._mock_generation_calling_sequence = self._methods_to_inherit = ["assign_strength"]
        self._additional_kwargs_dict = {"assign_strength": ["Lbox"]}

    def assign_strength(self, table: Any, Lbox: np.ndarray, **kwargs: Any) -> None:
        """Fill the column of strengths of a table of galaxies."""
        strength, slope = (self.param_dict[name] for name in self._names)
        # Unlike halotools' laws, one strength for all has no limit of 0.99.
        found = self._by_law(table, Lbox, strength, slope) if slope else strength
        table[self._column][:] = _samplable(found)

    def _by_law(self, table, Lbox, strength: float, slope: float):
        raise NotImplementedError

    def _call(self, table, columns, a: float, gamma: float, **kwargs: Any):
        self._law.param_dict.update(a=a, gamma=gamma)
        arrays = {name: np.asarray(table[name], dtype=np.float64) for name in columns}
        return getattr(self._law, f"assign_{self._column}")(**arrays, **kwargs)


class _CentralStrength(_Strength):
    def __init__(self, law, pivot: float):
        super().__init__(law, ("mu_cen", CEN_SLOPE), _STRENGTHS[0])
        self._pivot = pivot

    def _by_law(self, table, Lbox, strength, slope):
        return self._call(table, ["halo_mvir"], a=slope, gamma=strength - slope * self._pivot)


class _SatelliteStrength(_Strength):
    def __init__(self, law):
        super().__init__(law, ("mu_sat", SAT_SLOPE), _STRENGTHS[1])

    def _by_law(self, table, Lbox, strength, slope):
        if strength == 0:
            return 0.0  # also at the centre of a host, where the law would be 0 times infinity
        columns = [*"xyz", *self.list_of_haloprops_needed]
        with np.errstate(divide="ignore", over="ignore"):
            return self._call(table, columns, a=strength, gamma=slope, Lbox=Lbox)


def _build_mock(columns: dict[str, np.ndarray], Lbox: float, mass_edges: np.ndarray, slopes, pivot: float):
    """Return halotools' model and mock factory for a catalogue, not yet populated.

    The factory has only a weak reference to the model: keep both.
    """
    from halotools.empirical_models import (
        CentralAlignment,
        HaloMassCentralAlignmentStrength,
        HodMockFactory,
        HodModelFactory,
        RadialSatelliteAlignment,
        RadialSatelliteAlignmentStrength,
        SubhaloPhaseSpace,
        TrivialPhaseSpace,
        Zheng07Cens,
        Zheng07Sats,
    )
    from halotools.sim_manager import UserSuppliedHaloCatalog

    strengths: dict[str, _Strength] = {}
    if CEN_SLOPE in slopes:
        strengths["centrals_strength"] = _CentralStrength(HaloMassCentralAlignmentStrength(), pivot)
    if SAT_SLOPE in slopes:
        strengths["satellites_strength"] = _SatelliteStrength(RadialSatelliteAlignmentStrength())
    model = HodModelFactory(
        **strengths,
        centrals_occupation=Zheng07Cens(),
        centrals_profile=TrivialPhaseSpace(),
        centrals_orientation=CentralAlignment(central_alignment_strength=1.0),
        satellites_occupation=Zheng07Sats(modulate_with_cenocc=False),
        satellites_profile=SubhaloPhaseSpace("satellites", mass_edges),
        satellites_orientation=RadialSatelliteAlignment(satellite_alignment_strength=1.0),
        # Strengths and orientations come last, because those of satellites depend on positions.
        model_feature_calling_sequence=(
            *("centrals_occupation", "centrals_profile", "satellites_occupation"),
            *("satellites_profile", *strengths, "centrals_orientation", "satellites_orientation"),
        ),
    )
    for name in ("assign_central_orientation_centrals", "assign_satellite_orientation_satellites"):
        setattr(model, name, _unless_empty(getattr(model, name)))
    # A tiny particle mass switches off halotools' cut at 300 particles: the halos were selected before.
    halocat = UserSuppliedHaloCatalog(redshift=0.0, Lbox=Lbox, particle_mass=1.0, **columns)
    return model, HodMockFactory(halocat=halocat, model=model, Num_ptcl_requirement=1)


def _unless_empty(method):
    """Skip halotools' orientation of an empty population, which is common at high ``logMmin`` and would fail."""

    @wraps(method)
    def call(table, **kwargs):
        return method(table=table, **kwargs) if len(table) else table

    return call


def _as_galaxies(table, Lbox: float) -> Galaxies:
    positions = np.stack([np.asarray(table[x], dtype=np.float64) for x in "xyz"], axis=-1)
    axes = np.stack([np.asarray(table[f"galaxy_axisA_{x}"], dtype=np.float64) for x in "xyz"], axis=-1)
    # halotools keeps axes in 32 bits, so they are not normalised to double precision.
    axes /= np.linalg.norm(axes, axis=1, keepdims=True)
    is_central = np.asarray(table["gal_type"] == "centrals", dtype=bool)
    is_borrowed = ~is_central & ~np.asarray(table["real_subhalo"], dtype=bool)
    host = np.asarray(table["halo_hostid"], dtype=np.int64)
    return Galaxies(wrapped(positions, Lbox), axes, is_central, is_borrowed, host)
