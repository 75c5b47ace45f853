"""Halo catalogues, read, checked, packed, and prepared exactly as halotools' mock model prepares them.

:class:`HaloCatalogue` holds what the mock model uses of a catalogue at one redshift: positions, masses and major axes
of the hosts, and the positions of the sub-halos relative to their hosts, ordered by rank. It is read from HDF5 with
halotools' columns, from the text of ROCKSTAR or consistent-trees, from folders of AbacusSummit, from halotools' cache,
from the packed form of the shipped catalogues, or from any file whose columns are named.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import warnings
from dataclasses import dataclass, field, replace
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np
from numpy.typing import ArrayLike

from iaemu.extras import it_takes
from iaemu.ranges import Range
from iaemu_training.halos.abacus import MAX_SATELLITES, is_abacus, read_abacus
from iaemu_training.halos.checks import ENOUGH, check_arrays, check_physics, virial_radius
from iaemu_training.halos.columns import (
    AXIS_COLUMNS,
    COLUMNS,
    POSITION_COLUMNS,
    CatalogueError,
    checked_columns,
    numbers,
    wrapped,
)
from iaemu_training.halos.hdf5 import (
    PACKED_FORMAT,
    SEAL,
    is_packed,
    packed_content,
    packed_seal,
    read_hdf5,
    read_packed,
)
from iaemu_training.halos.own_columns import read_own_columns
from iaemu_training.halos.rockstar import read_rockstar
from iaemu_training.work.hdf5 import plain, write_hdf5

if TYPE_CHECKING:
    from halotools.sim_manager import UserSuppliedHaloCatalog

#: Edges of the 14 coarse host-mass bins within which satellites are borrowed [log10 Msun/h]: halotools'
#: SubhaloPhaseSpace with the settings of Van Alfen et al. 2024.
BORROWING_EDGES = np.linspace(10.5, 15.2, 15)

#: Endings of HDF5 files. For other endings the first bytes tell HDF5 from text.
_HDF5_SUFFIXES = (".hdf5", ".h5", ".hdf", ".he5")
#: Endings of text files. A name that ends like this is a missing file, not a catalogue in halotools' cache.
_TEXT_SUFFIXES = (".list", ".txt", ".ascii", ".dat", ".csv", ".gz", ".bz2", ".xz")
#: Attributes that must be numbers, if a catalogue states them, and their ranges.
_ATTRIBUTES = {
    "redshift": Range(above=-1, at_most=1e4),
    "Om0": Range(above=0, at_most=1),
    "particle_mass": Range(above=0),
    "particle_mass_for_halotools": Range(above=0),
    "min_mass": Range(at_least=0),
}

#: Masses of sub-halos below this [Msun/h] are none, or in other units.
_LEAST_MASS = 1e6
#: Matter density of a catalogue that does not state it: Bolshoi-Planck's.
_OM0 = 0.30711


@dataclass(repr=False)
class HaloCatalogue:
    """Halos of a periodic box at one redshift: hosts in ascending order of mass, with their sub-halos.

    Usually made by :meth:`load`.

    Attributes
    ----------
    name : str
        Name of the catalogue.
    Lbox : float
        Side of the periodic cubic box [comoving Mpc/h].
    position : (n_hosts, 3) float64
        Positions of the hosts, in [0, Lbox) [Mpc/h].
    mass : (n_hosts,) float64
        Virial masses of the hosts [Msun/h], ascending.
    axis : (n_hosts, 3) float64
        Unit vectors along the major axes of the hosts.
    n_subhalos : (n_hosts,) int64
        Number of sub-halos of each host.
    offset : (n_subhalos_total, 3) float64
        Position of each sub-halo minus that of its host [Mpc/h]; sorted by host, then by descending ``halo_mpeak``.
    attributes : dict
        Redshift, cosmology and origin of the catalogue, as text and numbers.
    velocity : (n_hosts, 3) float64, optional
        Peculiar velocities of the hosts [km/s], if known. Only audits of the halos use them.

    Raises
    ------
    CatalogueError
        The arrays are not as described. Or, with 100 hosts or more, their number density, their extent or the
        distances of the sub-halos are impossible in these units: see
        :func:`iaemu_training.halos.checks.check_physics`.
    """

    name: str
    Lbox: float
    position: np.ndarray
    mass: np.ndarray
    axis: np.ndarray
    n_subhalos: np.ndarray
    offset: np.ndarray
    attributes: dict = field(default_factory=dict)
    velocity: np.ndarray | None = None

    def __post_init__(self):
        self.name = str(self.name)
        what = f"Catalogue {self.name}"
        Range(above=0).check(f"{what}: Lbox [Mpc/h]", self.Lbox, error=CatalogueError)
        self.Lbox = float(self.Lbox)
        arrays = {}
        for key, kinds, kind in (
            *((key, "iuf", np.float64) for key in ("position", "mass", "axis", "offset")),
            ("n_subhalos", "iu", np.int64),
            *(() if self.velocity is None else (("velocity", "iuf", np.float64),)),
        ):
            arrays[key] = numbers(getattr(self, key), f"{what}: {key}", kinds).astype(kind, copy=False)
            setattr(self, key, arrays[key])
        self.attributes = _numbers(self.attributes, what)
        check_arrays(self.name, self.Lbox, arrays)
        check_physics(self.name, self.Lbox, arrays, self.attributes.get("redshift"))

    def __repr__(self) -> str:
        redshift = self.attributes.get("redshift")
        at = "" if redshift is None else f", z = {redshift:g}"
        return (
            f"<HaloCatalogue {self.name!r}: {len(self.mass)} hosts, {len(self.offset)} sub-halos, "
            f"Lbox = {self.Lbox:g} Mpc/h{at}>"
        )

    def __str__(self) -> str:
        low, high = self.log_mass[[0, -1]]
        return (
            f"{self.name}: {len(self.mass)} hosts, {len(self.offset)} sub-halos, hosts of 10^{low:.2f} .. "
            f"10^{high:.2f} Msun/h in a box of {self.Lbox:g} Mpc/h (units as assumed: a factor h in "
            "masses or lengths cannot be detected)"
        )

    @property
    def log_mass(self) -> np.ndarray:
        """log10 of the host masses [Msun/h], (n_hosts,)."""
        return np.log10(self.mass)

    @property
    def virial_radius(self) -> np.ndarray:
        """Virial radii of the hosts [comoving Mpc/h], (n_hosts,); see :meth:`virial_radius_of`."""
        return self.virial_radius_of(self.mass)

    def virial_radius_of(self, mass: ArrayLike) -> np.ndarray:
        """Return virial radii by the spherical collapse of Bryan & Norman 1998 (ApJ 495, 80), as ROCKSTAR has them.

        A flat universe with the attributes ``Om0`` (by default 0.30711) and ``redshift`` (0) of the catalogue.

        Parameters
        ----------
        mass : array
            Virial masses [Msun/h].

        Returns
        -------
        array
            [comoving Mpc/h]
        """
        return virial_radius(mass, self.attributes.get("Om0", _OM0), self.attributes.get("redshift", 0.0))

    @property
    def first_subhalo(self) -> np.ndarray:
        """Index into ``offset`` of each host's first sub-halo, (n_hosts,)."""
        return np.concatenate([[0], np.cumsum(self.n_subhalos)[:-1]])

    @property
    def subhalo_host(self) -> np.ndarray:
        """Index of the host of each sub-halo, (n_subhalos_total,)."""
        return np.repeat(np.arange(len(self.mass)), self.n_subhalos)

    @property
    def subhalo_rank(self) -> np.ndarray:
        """Rank of each sub-halo in its host, counted from 1, (n_subhalos_total,)."""
        return np.arange(len(self.offset)) - np.repeat(self.first_subhalo, self.n_subhalos) + 1

    @property
    def borrowing_edges(self) -> np.ndarray:
        """Edges of the coarse host-mass bins within which satellites are borrowed [log10 Msun/h]."""
        return subhalo_mass_bins(self.log_mass, self.log_mass[self.subhalo_host])

    @property
    def sha256(self) -> str:
        """SHA-256 of everything that the mock model uses, in hexadecimal."""
        digest = hashlib.sha256(np.float64(self.Lbox).tobytes())
        for array in (self.position, self.mass, self.axis, self.n_subhalos, self.offset):
            digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()

    # ------------------------------------------------------------------ reading

    @classmethod
    def load(
        cls, source: str | Path, progress: bool = True, Lbox: float | None = None, attributes: dict | None = None
    ) -> HaloCatalogue:
        """Load a catalogue from a file, from the shipped ones, or from halotools' cache.

        Masses must be in Msun/h and lengths in comoving Mpc/h. A factor h in either cannot be detected.

        Parameters
        ----------
        source : str or path-like
            Path of a file; or the name of a shipped catalogue (``pm40``, ``pm160a``, ``pm160b``) or of a simulation in
            halotools' cache. Files are HDF5, or text of ROCKSTAR or consistent-trees, also compressed (.gz, .bz2,
            .xz). A catalogue of AbacusSummit is the folder of a redshift.
        progress : bool
            Show a progress bar if reading a text file or a folder takes more than two seconds.
        Lbox : float, optional
            Side of the box [Mpc/h], for files that do not state it.
        attributes : dict, optional
            Redshift, particle mass [Msun/h], cosmology and so on, in place of what the catalogue states.

        Returns
        -------
        HaloCatalogue

        Raises
        ------
        CatalogueError
            Nothing of that name is found, the catalogue states its side and another is given, or it is incomplete or
            impossible.
        """
        found = cls._load(source, progress, Lbox, attributes or {})
        if Lbox is not None and Lbox != found.Lbox:
            raise CatalogueError(
                f"{source} states the side of its box, {found.Lbox:g} Mpc/h; leave out Lbox = {Lbox:g}."
            )
        return replace(found, attributes={**found.attributes, **attributes}) if attributes else found

    @classmethod
    def _load(cls, source: str | Path, progress: bool, Lbox: float | None, attributes: dict) -> HaloCatalogue:
        if not isinstance(source, (str, Path)) or not str(source):
            raise CatalogueError(f"Give a catalogue by its path or its name; got {source!r:.60}.")
        path, shipped = Path(source), shipped_catalogues()
        try:
            is_file, is_hdf5 = path.is_file(), path.is_file() and h5py.is_hdf5(path)
        except (OSError, ValueError) as error:
            raise CatalogueError(f"{str(source)[:200]!r} is not a valid path of a catalogue: {error}") from error
        if is_hdf5 or (is_file and path.suffix.lower() in _HDF5_SUFFIXES):
            return cls.read_hdf5(path, Lbox)
        if is_file and is_abacus(path):
            return cls.read_abacus(path, progress=progress)
        if is_file:
            return cls.read_rockstar(path, Lbox, attributes.get("particle_mass"), progress=progress)
        if str(source) in shipped:
            return cls.read_packed(shipped[str(source)])
        if path.is_dir():
            if is_abacus(path):
                return cls.read_abacus(path, progress=progress)
            raise CatalogueError(
                f"{path} is a folder; give the path of the catalogue file in it. (A folder of AbacusSummit holds "
                "halo_info/halo_info_000.asdf.)"
            )
        if path.suffix.lower() in (*_HDF5_SUFFIXES, *_TEXT_SUFFIXES, ".asdf") or path.name != str(source):
            raise CatalogueError(f"There is no catalogue file {path}.")
        return cls.from_halotools_cache(str(source))

    @classmethod
    def read_hdf5(cls, path: str | Path, Lbox: float | None = None) -> HaloCatalogue:
        """Read an HDF5 file with halotools' columns, or a packed catalogue.

        Where columns and the side of the box are looked for: :func:`iaemu_training.halos.hdf5.read_hdf5`.

        Parameters
        ----------
        path : str or path-like
            The HDF5 file.
        Lbox : float, optional
            Side of the box [Mpc/h], by default that of the file; not of a packed catalogue.

        Returns
        -------
        HaloCatalogue

        Raises
        ------
        CatalogueError
            The file is damaged or lacks a column or the side of the box; or as for :meth:`from_columns`.
        """
        if is_packed(path):
            return cls.read_packed(path)
        found = read_hdf5(path, Lbox)
        try:
            return cls.from_columns(*found)
        except CatalogueError as error:
            note = found.attributes.get("Lbox_from")
            raise CatalogueError(f"{error} (Lbox is {note}.)" if note else str(error)) from error

    @classmethod
    def read_columns(cls, path: str | Path, attributes: dict | None = None, **options: Any) -> HaloCatalogue:
        """Read a file with columns under names of its own: text, CSV, FITS, NumPy's formats or HDF5.

        Parameters
        ----------
        path : str or path-like
            The file.
        attributes : dict, optional
            Redshift, particle mass [Msun/h], cosmology and so on, in place of what the file states.
        **options
            Names of columns, side of the box and units: :func:`iaemu_training.halos.own_columns.read_own_columns`.

        Returns
        -------
        HaloCatalogue

        Raises
        ------
        CatalogueError
            As for that function, and for :meth:`from_columns`.
        """
        found = read_own_columns(path, **options)
        try:
            return cls.from_columns(*found[:3], {**found.attributes, **(attributes or {})})
        except CatalogueError as error:
            raise CatalogueError(f"{error} (Columns are {found.attributes['columns']}.)") from error

    @classmethod
    def read_rockstar(
        cls,
        path: str | Path,
        Lbox: float | None = None,
        particle_mass: float | None = None,
        min_mass: float | None = None,
        progress: bool = True,
    ) -> HaloCatalogue:
        """Read a catalogue of consistent-trees (``hlist_*.list``) or of ROCKSTAR (``out_*.list``, with parents).

        How its columns are used: :func:`iaemu_training.halos.rockstar.read_rockstar`.

        Parameters
        ----------
        path : str or path-like
            Text file, also compressed (.gz, .bz2, .xz).
        Lbox : float, optional
            Side of the box [Mpc/h]; by default that of the header.
        particle_mass : float, optional
            Mass of a particle [Msun/h]; by default that of the header.
        min_mass : float, optional
            Keep halos whose ``Mpeak`` (or ``Mvir``, if the file has no ``Mpeak``) is above this mass [Msun/h]. By
            default 40 particle masses, or no cut if the particle mass is not known. halotools' own catalogues are cut
            at 300 particle masses.
        progress : bool
            Show a progress bar if reading takes more than two seconds.

        Returns
        -------
        HaloCatalogue

        Raises
        ------
        CatalogueError
            The file is missing, truncated or malformed, or lacks columns, parents or the side of the box; or as for
            :meth:`from_columns`.
        """
        return cls.from_columns(*read_rockstar(path, Lbox, particle_mass, min_mass, progress))

    @classmethod
    def read_abacus(
        cls,
        path: str | Path,
        min_mass: float | None = None,
        subsamples: str = "A",
        max_satellites: int = MAX_SATELLITES,
        seed: int = 1,
        cleaned: bool | None = None,
        progress: bool = True,
    ) -> HaloCatalogue:
        """Read a CompaSO catalogue of AbacusSummit at one redshift; takes the extra ``abacus``.

        Which of its columns are used, and what its masses are: :func:`iaemu_training.halos.abacus.read_abacus`.

        Parameters
        ----------
        path : str or path-like
            The folder of a redshift, which holds ``halo_info/halo_info_*.asdf``; or the file, if there is only one.
        min_mass : float, optional
            Keep hosts of at least this mass [Msun/h], and above 10^10.5 Msun/h. By default that of 40 particles.
        subsamples : str
            Subsamples of which satellites are taken: "A" (3 % of the particles), "B" (7 %) or "AB".
        max_satellites : int
            Most satellites of a host.
        seed : int
            Seed of the random order of satellites.
        cleaned : bool, optional
            Whether to apply the cleaning of Bose et al. 2022 (MNRAS 512, 837), which joins halos that CompaSO split.
            By default, if a folder above holds a folder ``cleaning``.
        progress : bool
            Show a progress bar if reading takes more than two seconds.

        Returns
        -------
        HaloCatalogue

        Raises
        ------
        CatalogueError
            abacusutils is not installed; the folder is no such catalogue, is a light cone, lacks a file, a column or
            the particles, or mixes redshifts; a file is damaged; the halos lie across their axes, or do not fit into
            memory; or as for the class.
        """
        mass_range = (10.0 ** BORROWING_EDGES[0], 10.0 ** BORROWING_EDGES[-1])
        return cls(**read_abacus(path, mass_range, min_mass, subsamples, max_satellites, seed, cleaned, progress))

    @classmethod
    def from_halotools_cache(cls, name: str) -> HaloCatalogue:
        """Load a catalogue from halotools' cache (rockstar, z = 0, version ``halotools_v0p4``).

        Parameters
        ----------
        name : str
            Name of the simulation, such as ``bolplanck``.

        Returns
        -------
        HaloCatalogue

        Raises
        ------
        CatalogueError
            halotools is not installed, or its cache has no such catalogue; or as for :meth:`from_columns`.
        """
        try:
            from halotools.sim_manager import CachedHaloCatalog, sim_defaults
        except ImportError as error:
            raise CatalogueError(it_takes(f"{_unknown(name)} Looking in halotools' cache needs halotools")) from error
        try:
            halocat = CachedHaloCatalog(
                simname=name, halo_finder="rockstar", redshift=0, version_name="halotools_v0p4", dz_tol=0.05
            )
            table = halocat.halo_table
        except Exception as error:  # halotools raises several unrelated classes here
            raise CatalogueError(
                f"{_unknown(name)} Nor is it in halotools' cache, to which a simulation that halotools offers is "
                'downloaded with:\n    python -c "from halotools.sim_manager import DownloadManager; '
                f"DownloadManager().download_processed_halo_table('{name}', 'rockstar', 0)\"\n(halotools says: {error})"
            ) from error
        columns = {column: np.asarray(table[column]) for column in COLUMNS if column in table.colnames}
        attributes = {
            "redshift": float(halocat.redshift),
            "particle_mass": float(halocat.particle_mass),
            # halotools' own catalogues hold only halos whose peak mass was above this.
            "min_mass": float(
                getattr(halocat, "halo_mpeak_row_cut_min", sim_defaults.Num_ptcl_requirement * halocat.particle_mass)
            ),
            "cosmology": str(getattr(halocat, "cosmology", "not stated by the catalogue")),
            "source": "halotools cache, rockstar, halotools_v0p4",
        }
        return cls.from_columns(columns, halocat.Lbox, name=name, attributes=attributes)

    @classmethod
    def from_columns(
        cls,
        columns: Any,
        Lbox: Any,
        name: str = "user",
        attributes: dict | None = None,
        lines: np.ndarray | None = None,
    ) -> HaloCatalogue:
        """Make a catalogue from halotools' columns, prepared as halotools' SubhaloPhaseSpace does.

        Hosts below 10^10.5 Msun/h and halos whose major axis is (0, 0, 0) are removed, together with their sub-halos.
        If no sub-halo has an axis, all sub-halos are kept. Sub-halos are sorted by host and descending ``halo_mpeak``.

        Parameters
        ----------
        columns : mapping of str to (n,) array, astropy table or structured array
            Columns under halotools' names; positions in comoving Mpc/h, masses in Msun/h. With ``halo_mvir``, the mass
            of each halo, ``halo_hostid``, ``halo_mvir_host_halo`` and ``halo_mpeak`` may be missing: they follow from
            it, ``halo_id`` and ``halo_upid``.
        Lbox : float, or three equal ones
            Side of the periodic cubic box [Mpc/h].
        name : str
            Name of the catalogue.
        attributes : dict, optional
            Redshift, cosmology and origin, as text and numbers. If ``ranked_by`` is among them, ``halo_mpeak`` need
            not be a mass.
        lines : (n,) int, optional
            Line of each halo in its file, for error messages; by default rows are counted from 0.

        Returns
        -------
        HaloCatalogue

        Raises
        ------
        CatalogueError
            A column is missing or has another length, a value is not finite, a position lies outside the box, the box
            is not a cube, two hosts share an id, ``halo_mpeak`` cannot rank sub-halos, or no host remains; or as for
            the class.
        """
        columns, Lbox = checked_columns(columns, Lbox, name, lines)
        position, axis = (
            np.stack([columns[key] for key in keys], axis=-1) for keys in (POSITION_COLUMNS, AXIS_COLUMNS)
        )
        oriented = np.any(axis != 0, axis=1)
        # halotools rejects hosts below its coarse mass bins. They are far too light to host a galaxy here.
        host = (columns["halo_upid"] == -1) & oriented & (columns["halo_mvir_host_halo"] > 10.0 ** BORROWING_EDGES[0])
        if not host.any():
            raise CatalogueError(_no_host(columns, name))
        rows = np.flatnonzero(host)
        rows = rows[np.argsort(columns["halo_mvir_host_halo"][rows], kind="stable")]
        host_id = columns["halo_id"][rows]
        by_id = np.argsort(host_id, kind="stable")
        twice = np.flatnonzero(np.diff(host_id[by_id]) == 0)
        if len(twice):
            raise CatalogueError(f"Catalogue {name}: halo_id {host_id[by_id[twice[0]]]} belongs to more than one host.")
        is_sub = columns["halo_upid"] != -1
        sub = np.flatnonzero(is_sub & oriented) if np.any(is_sub & oriented) else np.flatnonzero(is_sub)
        where = np.searchsorted(host_id[by_id], columns["halo_hostid"][sub])
        where = by_id[np.minimum(where, len(by_id) - 1)]
        matched = host_id[where] == columns["halo_hostid"][sub]
        sub, where = sub[matched], where[matched]
        _check_ranking(columns["halo_mpeak"][sub], name, "ranked_by" not in (attributes or {}))
        order = np.lexsort((-columns["halo_mpeak"][sub], where))
        sub, where = sub[order], where[order]
        offset = position[sub] - position[rows[where]]
        offset -= Lbox * np.round(offset / Lbox)
        return cls(
            name=name,
            Lbox=Lbox,
            position=position[rows],
            mass=columns["halo_mvir_host_halo"][rows],
            axis=axis[rows] / np.linalg.norm(axis[rows], axis=1, keepdims=True),
            n_subhalos=np.bincount(where, minlength=len(rows)).astype(np.int64),
            offset=offset,
            attributes=attributes or {},
        )

    # ------------------------------------------------------------------ packed form

    def write_packed(self, path: str | Path) -> None:
        """Write the catalogue in packed form: an HDF5 file of about 8 bytes for each sub-halo.

        Positions are rounded to Lbox / 2^16, offsets and velocities to the largest over 2^15, axes to 2^-15, and masses
        to single precision. Tables and mocks that are made from the file use the rounded values, so its ``sha256``
        differs from that of this catalogue. The file states the SHA-256 of its contents.

        Parameters
        ----------
        path : str or path-like
            The HDF5 file to write.

        Raises
        ------
        CatalogueError
            A host has more than 65,535 sub-halos, or an attribute is neither text nor a number.
        OSError
            The file cannot be written.
        """
        reach = float(np.abs(self.offset).max(initial=0.0)) or 1.0
        if self.n_subhalos.max(initial=0) >= 2**16:
            raise CatalogueError("A host has more than 65,535 sub-halos, which the packed form cannot hold.")
        packed = {
            "position": np.mod(np.round(self.position / self.Lbox * 2**16), 2**16).astype(np.uint16),
            "mass": self.mass.astype(np.float32),
            "axis": np.round(self.axis * (2**15 - 1)).astype(np.int16),
            "n_subhalos": self.n_subhalos.astype(np.uint16),
            "offset": np.round(self.offset / reach * (2**15 - 1)).astype(np.int16),
        }
        attributes = {"format": PACKED_FORMAT, "Lbox": self.Lbox, "name": self.name, "offset_reach": reach}
        if self.velocity is not None:
            attributes["velocity_reach"] = fastest = float(np.abs(self.velocity).max()) or 1.0
            packed["velocity"] = np.round(self.velocity / fastest * (2**15 - 1)).astype(np.int16)
        attributes |= {f"attribute_{key}": value for key, value in self.attributes.items()}

        def fill(file: h5py.File) -> None:
            for key, value in attributes.items():
                try:
                    # Text of fixed length, because the HDF5 library can hang on damaged text of variable length.
                    file.attrs[key] = np.bytes_(value.encode() or b"\0") if isinstance(value, str) else value
                    json.dumps(plain(file.attrs[key]))
                except (TypeError, ValueError, RuntimeError, OSError) as error:
                    raise CatalogueError(
                        f"{key} = {value!r:.60} of catalogue {self.name} cannot be an attribute of an HDF5 file "
                        f"({error}); it must be a number, or text of less than 64 kB."
                    ) from error
            for key, value in packed.items():
                file.create_dataset(key, data=value, compression="gzip", shuffle=True)
            file.attrs[SEAL] = np.bytes_(packed_seal(*packed_content(file, self.name)).encode())

        write_hdf5(path, fill)

    @classmethod
    def read_packed(cls, path: str | Path) -> HaloCatalogue:
        """Read a file that :meth:`write_packed` wrote.

        Files of earlier versions have no checksum: they are read with a warning.

        Parameters
        ----------
        path : str or path-like
            The packed HDF5 file.

        Returns
        -------
        HaloCatalogue

        Raises
        ------
        CatalogueError
            The file is damaged, does not agree with its checksum, or is not a packed catalogue.
        """
        arrays, stated, sealed = read_packed(path)
        reaches = ["offset_reach", *(["velocity_reach"] if "velocity" in arrays else [])]
        missing = [key for key in ("name", "Lbox", *reaches) if key not in stated]
        if missing:
            raise CatalogueError(f"{Path(path).name} is damaged: it lacks the attribute(s) {', '.join(missing)}.")
        for key in ("Lbox", *reaches):
            Range(above=0).check(f"{Path(path).name}: {key}", stated[key], error=CatalogueError)
        if not sealed:
            warnings.warn(
                f"{path} was packed by an earlier version and states no SHA-256, so it cannot be checked for damage. "
                f"Pack it again: iaemu train pack {path} -o NEW.hdf5.",
                stacklevel=2,
            )
        axis = arrays["axis"].astype(np.float64)
        norm = np.linalg.norm(axis, axis=1, keepdims=True)
        return cls(
            name=str(stated["name"]),
            Lbox=stated["Lbox"],
            position=arrays["position"] * (stated["Lbox"] / 2**16),
            mass=arrays["mass"].astype(np.float64),
            axis=axis / np.where(norm > 0, norm, 1.0),
            n_subhalos=arrays["n_subhalos"].astype(np.int64),
            offset=arrays["offset"] * (stated["offset_reach"] / (2**15 - 1)),
            attributes={
                key.removeprefix("attribute_"): value for key, value in stated.items() if key.startswith("attribute_")
            },
            velocity=arrays["velocity"] * (stated["velocity_reach"] / (2**15 - 1)) if "velocity" in arrays else None,
        )

    # ------------------------------------------------------------------ to halotools

    def to_halotools(self) -> UserSuppliedHaloCatalog:
        """Convert to halotools' ``UserSuppliedHaloCatalog``, ready for ``populate_mock``.

        Returns
        -------
        halotools.sim_manager.UserSuppliedHaloCatalog
        """
        from halotools.sim_manager import UserSuppliedHaloCatalog

        n_hosts, n_subs = len(self.mass), len(self.offset)
        host = self.subhalo_host
        position = np.concatenate([self.position, wrapped(self.position[host] + self.offset, self.Lbox)])
        axis = np.concatenate([self.axis, np.tile([0.0, 0.0, 1.0], (n_subs, 1))])
        mass = np.concatenate([self.mass, self.mass[host]])
        ids = np.arange(n_hosts + n_subs)
        # Any decreasing function of rank will do: the mock model uses halo_mpeak of sub-halos only to order them.
        mpeak = np.concatenate([self.mass, self.mass[host] / (1.0 + self.subhalo_rank)])
        zeros = np.zeros(len(ids))
        columns = dict(
            halo_id=ids,
            halo_upid=np.concatenate([np.full(n_hosts, -1), host]),
            halo_hostid=np.concatenate([np.arange(n_hosts), host]),
            halo_mvir=np.concatenate([self.mass, mpeak[n_hosts:]]),
            halo_mvir_host_halo=mass,
            halo_mpeak=mpeak,
            halo_rvir=self.virial_radius_of(mass),
            **{key: position[:, i] for i, key in enumerate(POSITION_COLUMNS)},
            **{key: axis[:, i] for i, key in enumerate(AXIS_COLUMNS)},
            **{key: zeros for key in ("halo_vx", "halo_vy", "halo_vz")},
        )
        return UserSuppliedHaloCatalog(
            redshift=float(self.attributes.get("redshift", 0.0)),
            Lbox=self.Lbox,
            # Not the true particle mass: halotools would remove hosts below 300 particle masses.
            particle_mass=float(self.attributes.get("particle_mass_for_halotools", 1e8)),
            simname=self.name,
            **columns,
        )


def _no_host(columns: dict[str, np.ndarray], name: str) -> str:
    """Say why no halo of a catalogue can host galaxies."""
    host, mass = columns["halo_upid"] == -1, columns["halo_mvir_host_halo"]
    if not host.any():
        parents, rows = np.unique(columns["halo_upid"], return_counts=True)
        most = int(np.argmax(rows)) if len(rows) else None
        found = ""
        if most is not None:
            value = parents[most]
            found = (
                f" The most frequent value is {value}, in {rows[most]} rows; if it marks hosts: --no-parent {value}."
            )
        return f"Catalogue {name}: no row has halo_upid = -1, which says that a halo is a host.{found}"
    if not (mass[host] > 10.0 ** BORROWING_EDGES[0]).any():
        largest = mass[host].max()
        factor = ". Those in 1e10 Msun/h must be multiplied by 1e10 (--mass-scale 1e10)" if largest < 1e7 else ""
        return (
            f"Catalogue {name}: there is no host halo above 10^{BORROWING_EDGES[0]:g} Msun/h. Masses must be in "
            f"Msun/h, and the largest of a host is {largest:.2g}{factor}."
        )
    return (
        f"Catalogue {name}: no host halo above 10^{BORROWING_EDGES[0]:g} Msun/h has a major axis: halo_axisA_x, _y and "
        "_z are 0 for all of them."
    )


def _check_ranking(mpeak: np.ndarray, name: str, is_mass: bool) -> None:
    """Check that the peak masses of sub-halos can rank them."""
    if len(mpeak) < ENOUGH:
        return
    low, high = mpeak.min(), mpeak.max()
    if low == high:
        raise CatalogueError(
            f"Catalogue {name}: halo_mpeak is {low:g} for all {len(mpeak)} sub-halos, so that they cannot be ranked. "
            "It must hold their peak masses, or their masses."
        )
    if is_mass and high < _LEAST_MASS:
        raise CatalogueError(
            f"Catalogue {name}: halo_mpeak of sub-halos is {low:.3g} to {high:.3g}, which are no masses in Msun/h. It "
            "must hold their peak masses, or their masses. (Another quantity may rank them if the attribute ranked_by "
            "names it.)"
        )


def _numbers(attributes: Any, what: str) -> dict[str, Any]:
    """Return the attributes with those of ``_ATTRIBUTES`` as numbers; they may be text, or None to be left out."""
    if not isinstance(attributes, dict):
        raise CatalogueError(f"{what}: attributes must be a dictionary, got {type(attributes).__name__}.")
    found = {}
    for key, value in attributes.items():
        if key in _ATTRIBUTES:
            value = value[0] if isinstance(value, list) and len(value) == 1 else value
            if isinstance(value, str):
                with contextlib.suppress(ValueError):
                    value = float(value)
            if value is None:
                continue
            _ATTRIBUTES[key].check(f"{what}: the attribute {key}", value, error=CatalogueError)
        found[str(key)] = value
    return found


def _unknown(name: str) -> str:
    return (
        f"No catalogue file or shipped catalogue is called {name!r} (shipped: "
        f"{', '.join(sorted(shipped_catalogues()))}). Give the path of its file."
    )


def load_stated(name: str, progress: bool = True) -> HaloCatalogue:
    """Load a catalogue that tables name, which is shipped or in halotools' cache.

    Parameters
    ----------
    name : str
        Its name.
    progress : bool
        See :meth:`HaloCatalogue.load`.

    Returns
    -------
    HaloCatalogue

    Raises
    ------
    CatalogueError
        It is neither, so that its file must be given.
    """
    if name in shipped_catalogues():
        return HaloCatalogue.load(name, progress)
    try:
        return HaloCatalogue.from_halotools_cache(name)
    except CatalogueError as error:
        raise CatalogueError(
            f"The tables were made from {name}, which is neither shipped nor in halotools' cache. Give the files of "
            "all catalogues of the tables with -c (--catalogue)."
        ) from error


def shipped_catalogues() -> dict[str, Path]:
    """Return the paths of the catalogues that come with the package, by name."""
    folder = resources.files("iaemu_training.halos.shipped")
    return {Path(str(entry)).stem: Path(str(entry)) for entry in folder.iterdir() if str(entry).endswith(".hdf5")}


def subhalo_mass_bins(log_mass_hosts: ArrayLike, log_mass_host_of_subhalos: ArrayLike) -> np.ndarray:
    """Return the host-mass bins within which satellites are borrowed: the paper's, limited to what a catalogue holds.

    The paper has 14 bins from 10^10.5 to 10^15.2 Msun/h. halotools needs two sub-halos in each bin. So bins above the
    most massive host or below the least massive one are dropped, and a bin with fewer than two sub-halos is merged with
    the bin below, or, if it is the lowest, with the bin above. Catalogues of large boxes keep all bins.

    Parameters
    ----------
    log_mass_hosts : (n_hosts,)
        Masses of the hosts [log10 Msun/h].
    log_mass_host_of_subhalos : (n_subhalos,)
        Mass of the host of each sub-halo [log10 Msun/h].

    Returns
    -------
    (n_bins + 1,) float64
        Edges [log10 Msun/h]; a host belongs to bin b if edge[b] <= log mass < edge[b + 1].

    Raises
    ------
    CatalogueError
        A host lies outside the paper's bins, or there are fewer than two sub-halos in all.
    """
    hosts = np.asarray(log_mass_hosts, dtype=np.float64)
    subhalos = np.asarray(log_mass_host_of_subhalos, dtype=np.float64)
    edges = np.asarray(BORROWING_EDGES, dtype=np.float64)
    if len(hosts) == 0 or hosts.min() <= edges[0] or hosts.max() >= edges[-1]:
        found = f"they span {hosts.min():.3f} .. {hosts.max():.3f}" if len(hosts) else "there are none"
        raise CatalogueError(
            f"Host masses must lie between 10^{edges[0]:g} and 10^{edges[-1]:g} Msun/h, but {found}. "
            f"Cut the catalogue, or check its units (Msun/h)."
        )
    if len(subhalos) < 2:
        raise CatalogueError(f"The mock model needs at least two sub-halos; the catalogue has {len(subhalos)}.")
    n_hosts = np.histogram(hosts, edges)[0]
    occupied = np.flatnonzero(n_hosts)
    edges = edges[occupied[0] : occupied[-1] + 2]
    while True:
        n_subhalos = np.histogram(subhalos, edges)[0]
        poor = np.flatnonzero(n_subhalos < 2)
        if len(poor) == 0:
            return edges
        if len(edges) == 2:
            raise CatalogueError(
                f"The mock model needs at least two sub-halos with a host in the catalogue; there are {n_subhalos[0]}."
            )
        edges = np.delete(edges, max(int(poor[-1]), 1))
