"""Halo catalogues: read, check, pack, and prepare exactly as halotools' mock model does.

One class holds what the mock model uses of a catalogue at one redshift: host positions, masses and major axes, and the
sub-halos' ranked offsets from their hosts. It comes from an HDF5 file in halotools columns, from a text file of
ROCKSTAR or consistent-trees, from halotools' cache, or from the packed form in which the shipped catalogues travel.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np
from numpy.typing import ArrayLike

from iaemu_training.halos.columns import AXIS_COLUMNS, COLUMNS, POSITION_COLUMNS, CatalogueError, checked_columns, plain
from iaemu_training.work.hdf5 import write_hdf5

if TYPE_CHECKING:
    from halotools.sim_manager import UserSuppliedHaloCatalog

#: Coarse host-mass bins within which a host that lacks sub-halos borrows them (halotools' SubhaloPhaseSpace as set up
#: by Van Alfen et al. 2024): 14 bins, edges in log10 Msun/h.
BORROWING_EDGES = np.linspace(10.5, 15.2, 15)

PACKED_FORMAT = "iaemu-packed-halos-1"


@dataclass
class HaloCatalogue:
    """Hosts in ascending order of mass, and their sub-halos in order of host and rank.

    Attributes
    ----------
    name : str
    Lbox : float
        Side of the periodic cubic box [Mpc/h].
    position : (n_hosts, 3) float64
        Host positions in [0, Lbox) [Mpc/h].
    mass : (n_hosts,) float64
        Virial masses [Msun/h], ascending.
    axis : (n_hosts, 3) float64
        Unit major axes.
    n_subhalos : (n_hosts,) int64
    offset : (n_subhalos_total, 3) float64
        Sub-halo position minus host position [Mpc/h], by host, then by descending ``halo_mpeak``.
    attributes : dict
        Redshift, cosmology and provenance, as text and numbers.
    """

    name: str
    Lbox: float
    position: np.ndarray
    mass: np.ndarray
    axis: np.ndarray
    n_subhalos: np.ndarray
    offset: np.ndarray
    attributes: dict = field(default_factory=dict)

    @property
    def log_mass(self) -> np.ndarray:
        """log10 of the host masses [Msun/h]."""
        return np.log10(self.mass)

    @property
    def first_subhalo(self) -> np.ndarray:
        """Index into ``offset`` of each host's first sub-halo."""
        return np.concatenate([[0], np.cumsum(self.n_subhalos)[:-1]])

    @property
    def subhalo_host(self) -> np.ndarray:
        """Host index of each sub-halo."""
        return np.repeat(np.arange(len(self.mass)), self.n_subhalos)

    @property
    def subhalo_rank(self) -> np.ndarray:
        """Rank of each sub-halo in its host, from 1."""
        return np.arange(len(self.offset)) - np.repeat(self.first_subhalo, self.n_subhalos) + 1

    @property
    def borrowing_edges(self) -> np.ndarray:
        """Edges of the coarse host-mass bins within which satellites are borrowed [log10 Msun/h]."""
        return subhalo_mass_bins(self.log_mass, self.log_mass[self.subhalo_host])

    @property
    def sha256(self) -> str:
        """Hash of all that the mock model uses."""
        digest = hashlib.sha256(np.float64(self.Lbox).tobytes())
        for array in (self.position, self.mass, self.axis, self.n_subhalos, self.offset):
            digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()

    # ------------------------------------------------------------------ reading

    @classmethod
    def load(cls, source: str | Path) -> HaloCatalogue:
        """A catalogue by path of a file, by name of a shipped one, or by name in halotools' cache.

        Files are HDF5, or ROCKSTAR's if the name ends in ``.list`` or ``.list.gz``.

        Raises
        ------
        CatalogueError
            Nothing of that name is found, or the catalogue is incomplete; says what there is and what to do.
        """
        path = Path(source)
        if path.name.endswith((".list", ".list.gz")):
            return cls.read_rockstar(path)
        if path.suffix in (".hdf5", ".h5") or path.exists():
            if not path.exists():
                raise CatalogueError(f"There is no catalogue file {path}.")
            return cls.read_hdf5(path)
        shipped = shipped_catalogues()
        if str(source) in shipped:
            return cls.read_packed(shipped[str(source)])
        return cls.from_halotools_cache(str(source))

    @classmethod
    def read_hdf5(cls, path: str | Path) -> HaloCatalogue:
        """An HDF5 file with halotools' column names as data sets and ``Lbox`` as attribute, or a packed file."""
        path = Path(path)
        try:
            with h5py.File(path, "r") as file:
                if file.attrs.get("format") == PACKED_FORMAT:
                    return cls.read_packed(path)
                if "Lbox" not in file.attrs:
                    raise CatalogueError(f"{path.name} has no attribute Lbox (side of the box in Mpc/h).")
                columns = {name: file[name][:] for name in COLUMNS if name in file}
                attributes = {key: plain(value) for key, value in file.attrs.items()}
                Lbox, name = attributes.pop("Lbox"), str(attributes.pop("catalogue", path.stem))
        except OSError as error:
            raise CatalogueError(f"{path} cannot be read as HDF5: {error}") from error
        return cls.from_columns(columns, Lbox, name=name, attributes=attributes)

    @classmethod
    def read_rockstar(
        cls,
        path: str | Path,
        Lbox: float | None = None,
        particle_mass: float | None = None,
        min_mass: float | None = None,
    ) -> HaloCatalogue:
        """A catalogue of consistent-trees (``hlist_*.list``) or of ROCKSTAR (``out_*.list``, with parents).

        What is made of its columns is told in :func:`iaemu_training.halos.rockstar.read_rockstar`.

        Parameters
        ----------
        path : path
            Plain or gzipped text.
        Lbox, particle_mass : float, optional
            Side of the box [Mpc/h] and mass of a particle [Msun/h]; None: as the header states.
        min_mass : float, optional
            Halos are kept if ``Mpeak`` (where there is none, ``Mvir``) is above it [Msun/h]; None: 40 particle masses,
            or no cut if that mass is not known. halotools' own catalogues are cut at 300 particle masses.

        Raises
        ------
        CatalogueError
            The file is not there, truncated or malformed, or lacks columns, parents or the side of the box; halotools,
            which reads it, is not installed; or as :meth:`from_columns`.
        """
        try:
            from iaemu_training.halos.rockstar import read_rockstar  # needs halotools
        except ImportError as error:
            raise CatalogueError(
                f"To read {Path(path).name}, install halotools: pip install 'iaemu-cobaya[training]'."
            ) from error
        return cls.from_columns(*read_rockstar(path, Lbox, particle_mass, min_mass))

    @classmethod
    def from_halotools_cache(cls, name: str) -> HaloCatalogue:
        """A catalogue from halotools' cache by simulation name (rockstar, z = 0, ``halotools_v0p4``)."""
        try:
            from halotools.sim_manager import CachedHaloCatalog, sim_defaults
        except ImportError as error:
            raise CatalogueError(
                f"No catalogue file or shipped catalogue is called {name!r} (shipped: "
                f"{', '.join(sorted(shipped_catalogues()))}); to look in halotools' cache, install halotools: "
                "pip install 'iaemu-cobaya[training]'."
            ) from error
        try:
            halocat = CachedHaloCatalog(
                simname=name, halo_finder="rockstar", redshift=0, version_name="halotools_v0p4", dz_tol=0.05
            )
            table = halocat.halo_table
        except Exception as error:  # halotools raises several unrelated classes here
            raise CatalogueError(
                f"No catalogue file or shipped catalogue is called {name!r} (shipped: "
                f"{', '.join(sorted(shipped_catalogues()))}), and halotools' cache does not give it "
                f"({error}). Download it "
                f'with:\n    python -c "from halotools.sim_manager import DownloadManager; '
                f"DownloadManager().download_processed_halo_table('{name}', 'rockstar', 0)\""
            ) from error
        columns = {column: np.asarray(table[column]) for column in COLUMNS if column in table.colnames}
        attributes = {
            "redshift": float(halocat.redshift),
            "particle_mass": float(halocat.particle_mass),
            # halotools' own catalogues hold no halo whose peak mass was less.
            "min_mass": float(
                getattr(halocat, "halo_mpeak_row_cut_min", sim_defaults.Num_ptcl_requirement * halocat.particle_mass)
            ),
            "cosmology": str(getattr(halocat, "cosmology", "not stated by the catalogue")),
            "source": "halotools cache, rockstar, halotools_v0p4",
        }
        return cls.from_columns(columns, halocat.Lbox, name=name, attributes=attributes)

    @classmethod
    def from_columns(
        cls, columns: Mapping[str, Any], Lbox: Any, name: str = "user", attributes: dict | None = None
    ) -> HaloCatalogue:
        """Check and prepare halotools columns as halotools' SubhaloPhaseSpace does.

        Halos whose major axis is all zero and hosts below 10^10.5 Msun/h are removed, and their sub-halos with them;
        sub-halos are ordered by host and descending ``halo_mpeak``. (Where no sub-halo has an axis, all are kept.)

        Raises
        ------
        CatalogueError
            A column is missing or of another length, a value is not finite, a position lies outside the box, the box
            is not a cube, two hosts share an id, or no host remains.
        """
        columns, Lbox = checked_columns(columns, Lbox, name)
        position, axis = (
            np.stack([columns[key] for key in keys], axis=-1).astype(np.float64)
            for keys in (POSITION_COLUMNS, AXIS_COLUMNS)
        )
        oriented = np.any(axis != 0, axis=1)
        # halotools refuses hosts below its coarse mass bins; they are far below any that could host a galaxy here.
        host = (columns["halo_upid"] == -1) & oriented & (columns["halo_mvir_host_halo"] > 10.0 ** BORROWING_EDGES[0])
        if not host.any():
            raise CatalogueError(
                f"Catalogue {name}: no host halo (halo_upid = -1) with a major axis above 10^10.5 Msun/h."
            )
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
        order = np.lexsort((-columns["halo_mpeak"][sub].astype(np.float64), where))
        sub, where = sub[order], where[order]
        offset = position[sub] - position[rows[where]]
        offset -= Lbox * np.round(offset / Lbox)
        return cls(
            name=name,
            Lbox=Lbox,
            position=np.mod(position[rows], Lbox),
            mass=columns["halo_mvir_host_halo"][rows].astype(np.float64),
            axis=axis[rows] / np.linalg.norm(axis[rows], axis=1, keepdims=True),
            n_subhalos=np.bincount(where, minlength=len(rows)).astype(np.int64),
            offset=offset,
            attributes=dict(attributes or {}),
        )

    # ------------------------------------------------------------------ packed form

    def write_packed(self, path: str | Path) -> None:
        """Write the packed form: 16-bit positions, axes and offsets, 32-bit masses; about 8 bytes a sub-halo.

        Rounding: positions to Lbox / 2^16, offsets to max |offset| / 2^15, axes to 2^-15. A packed catalogue is a
        catalogue in its own right: what is made from it is made from the rounded values.
        """
        reach = float(np.abs(self.offset).max()) if len(self.offset) else 1.0

        def fill(file: h5py.File) -> None:
            file.attrs["format"] = PACKED_FORMAT
            file.attrs["Lbox"] = self.Lbox
            file.attrs["name"] = self.name
            file.attrs["offset_reach"] = reach
            for key, value in self.attributes.items():
                file.attrs[f"attribute_{key}"] = value
            packed = {
                "position": np.mod(np.round(self.position / self.Lbox * 2**16), 2**16).astype(np.uint16),
                "mass": self.mass.astype(np.float32),
                "axis": np.round(self.axis * (2**15 - 1)).astype(np.int16),
                "n_subhalos": self.n_subhalos.astype(np.uint16),
                "offset": np.round(self.offset / reach * (2**15 - 1)).astype(np.int16),
            }
            if self.n_subhalos.max(initial=0) >= 2**16:
                raise CatalogueError("A host has more than 65,535 sub-halos; the packed form cannot hold them.")
            for key, value in packed.items():
                file.create_dataset(key, data=value, compression="gzip", shuffle=True)

        write_hdf5(path, fill)

    @classmethod
    def read_packed(cls, path: str | Path) -> HaloCatalogue:
        """Expand a file written by :meth:`write_packed`."""
        try:
            with h5py.File(path, "r") as file:
                if file.attrs.get("format") != PACKED_FORMAT:
                    raise CatalogueError(f"{Path(path).name} is not a packed halo catalogue ({PACKED_FORMAT}).")
                axis = file["axis"][:].astype(np.float64)
                return cls(
                    name=str(file.attrs["name"]),
                    Lbox=float(file.attrs["Lbox"]),
                    position=file["position"][:] * (float(file.attrs["Lbox"]) / 2**16),
                    mass=file["mass"][:].astype(np.float64),
                    axis=axis / np.linalg.norm(axis, axis=1, keepdims=True),
                    n_subhalos=file["n_subhalos"][:].astype(np.int64),
                    offset=file["offset"][:] * (float(file.attrs["offset_reach"]) / (2**15 - 1)),
                    attributes={
                        key.removeprefix("attribute_"): plain(value)
                        for key, value in file.attrs.items()
                        if key.startswith("attribute_")
                    },
                )
        except (OSError, KeyError) as error:
            raise CatalogueError(f"{Path(path).name} is damaged or not a packed halo catalogue: {error}") from error

    # ------------------------------------------------------------------ to halotools

    def to_halotools(self) -> UserSuppliedHaloCatalog:
        """The catalogue as halotools' ``UserSuppliedHaloCatalog``, ready for ``populate_mock``."""
        from halotools.sim_manager import UserSuppliedHaloCatalog

        n_hosts, n_subs = len(self.mass), len(self.offset)
        host = self.subhalo_host
        position = np.concatenate([self.position, np.mod(self.position[host] + self.offset, self.Lbox)])
        axis = np.concatenate([self.axis, np.tile([0.0, 0.0, 1.0], (n_subs, 1))])
        mass = np.concatenate([self.mass, self.mass[host]])
        ids = np.arange(n_hosts + n_subs)
        # Any decreasing function of rank serves: the mock model uses halo_mpeak of sub-halos only to order them.
        mpeak = np.concatenate([self.mass, self.mass[host] / (1.0 + self.subhalo_rank)])
        zeros = np.zeros(len(ids))
        columns = dict(
            halo_id=ids,
            halo_upid=np.concatenate([np.full(n_hosts, -1), host]),
            halo_hostid=np.concatenate([np.arange(n_hosts), host]),
            halo_mvir=np.concatenate([self.mass, mpeak[n_hosts:]]),
            halo_mvir_host_halo=mass,
            halo_mpeak=mpeak,
            halo_rvir=_virial_radius(mass),
            **{key: position[:, i] for i, key in enumerate(POSITION_COLUMNS)},
            **{key: axis[:, i] for i, key in enumerate(AXIS_COLUMNS)},
            **{key: zeros for key in ("halo_vx", "halo_vy", "halo_vz")},
        )
        return UserSuppliedHaloCatalog(
            redshift=float(self.attributes.get("redshift", 0.0)),
            Lbox=self.Lbox,
            # halotools drops hosts below 300 particle masses; the catalogue's own completeness is stated elsewhere.
            particle_mass=float(self.attributes.get("particle_mass_for_halotools", 1e8)),
            simname=self.name,
            **columns,
        )


def _virial_radius(mass, delta=332.5, omega_m=0.30711):
    """Radius [Mpc/h] that encloses ``delta`` times the mean matter density (Bryan & Norman 1998 at z = 0)."""
    return (3.0 * mass / (4.0 * np.pi * delta * omega_m * 2.77536627e11)) ** (1.0 / 3.0)


def shipped_catalogues() -> dict[str, Path]:
    """Names and paths of the packed catalogues inside the package."""
    folder = resources.files("iaemu_training.halos.shipped")
    return {Path(str(entry)).stem: Path(str(entry)) for entry in folder.iterdir() if str(entry).endswith(".hdf5")}


def subhalo_mass_bins(log_mass_hosts: ArrayLike, log_mass_host_of_subhalos: ArrayLike) -> np.ndarray:
    """Host-mass bins within which satellites are borrowed: the paper's, cut to what the catalogue holds.

    The paper's are 14 bins over 10^10.5 .. 10^15.2 Msun/h. halotools demands two sub-halos in each bin, so bins beyond
    the most massive host (or below the least massive) are dropped, and one with hosts but fewer than two sub-halos is
    merged with the next lower one that is left, or, at the lower end, with the next higher one. On the catalogues of
    large boxes nothing is cut.

    Parameters
    ----------
    log_mass_hosts : (n_hosts,)
        [log10 Msun/h].
    log_mass_host_of_subhalos : (n_subhalos,)
        Masses of the sub-halos' hosts [log10 Msun/h].

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
        raise CatalogueError(f"The mock model needs at least two sub-halos, the catalogue has {len(subhalos)}.")
    n_hosts = np.histogram(hosts, edges)[0]
    occupied = np.flatnonzero(n_hosts)
    edges = edges[occupied[0] : occupied[-1] + 2]
    while True:
        n_subhalos = np.histogram(subhalos, edges)[0]
        poor = np.flatnonzero(n_subhalos < 2)
        if len(poor) == 0:
            return edges
        if len(edges) == 2:
            raise CatalogueError(f"The mock model needs two sub-halos of the hosts, {n_subhalos[0]} belong to one.")
        edges = np.delete(edges, max(int(poor[-1]), 1))
