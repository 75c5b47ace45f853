"""Reader for the CompaSO halo catalogues of AbacusSummit (Maksimova et al. 2021, MNRAS 508, 4017).

They come as a folder for each redshift, with one file for each slab of the box. abacusutils unpacks them. Hosts are
CompaSO's L1 halos (Hadzhiyska et al. 2022, MNRAS 509, 501), of which there are no sub-halos: the satellites' places are
particles of the subsamples, in random order.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import re
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from iaemu.extras import it_takes
from iaemu.progress import BAR_AFTER, tqdm
from iaemu.ranges import Range, short
from iaemu_training.halos.checks import ENOUGH, virial_radius
from iaemu_training.halos.columns import MIN_PARTICLES, CatalogueError, wrapped
from iaemu_training.work.memory import available_memory

#: Most satellites of a host; the shipped catalogues have as many. The mock model borrows those that a host lacks.
MAX_SATELLITES = 300
#: Eigenvectors of the sum of x x^T / x^2 over the inner 90 % of the particles, about the densest part of the halo, as
#: ROCKSTAR's axes are from a tensor weighted by 1/r^2.
AXIS, AXIS_ON_DISK = "sigman_eigenvecsMaj_L2com", "sigman_eigenvecs_L2com_u16"
#: Centre of mass of the largest L2 group, the densest part of the halo.
CENTRE = "x_L2com"

_ENDING = ".asdf"
_FILE = re.compile(r"halo_info_(\d+)\.asdf")
_HEADER = ("BoxSize", "BoxSizeHMpc", "ParticleMassHMsun", "Redshift", "Omega_M")
#: What the header states of the cosmology, under our names.
_COSMOLOGY = {"Om0": "Omega_M", "Ode0": "Omega_DE", "w0": "w0", "wa": "wa", "ns": "n_s", "A_s": "A_s"}
#: Particles whose distances are found at once.
_CHUNK = 4_000_000
#: Memory, as measured with a margin of a fifth [bytes]. While a file is read: for each of its halos, its particles and
#: those whose distances are found, and each host and satellite kept; and for these when they are sorted and checked.
_HALO_OF_FILE, _PARTICLE_OF_FILE, _PARTICLE_OF_CHUNK, _HOST_READ, _SATELLITE_READ = 290, 24, 80, 80, 14
_HOST, _SATELLITE = 110, 95


@dataclass(frozen=True)
class _Box:
    """A catalogue at one redshift, and what is read of it; see :func:`read_abacus`."""

    folder: Path
    files: list[Path]
    header: dict[str, Any]
    cleaned: bool
    subsamples: str
    min_mass: float
    mass_range: tuple[float, float]
    max_satellites: int

    @property
    def side(self) -> float:
        return float(self.header["BoxSize"])

    def mass(self, n_particles: Any) -> np.ndarray:
        return np.asarray(n_particles) * float(self.header["ParticleMassHMsun"])

    def keeps(self, n_particles: Any) -> np.ndarray:
        """Tell which halos are kept. Those that cleaning merged with others have no particles left."""
        mass, (low, high) = self.mass(n_particles), self.mass_range
        # 40 times the rounded mass of a particle may exceed that of 40 particles in the last digit.
        return (mass >= self.min_mass * (1 - 1e-9)) & (mass > low) & (mass < high)


class _Count(NamedTuple):
    """Numbers in a file: all halos and particles; hosts and satellites, at most, that are kept; hosts too massive."""

    halos: int
    particles: int
    hosts: int
    satellites: int
    too_massive: int


def is_abacus(path: str | Path) -> bool:
    """Tell whether a path looks like a halo catalogue of Abacus: an ASDF file, or a folder that holds such files.

    Parameters
    ----------
    path : path-like
        A file or a folder.

    Returns
    -------
    bool
    """
    path = Path(path)
    if path.is_file():
        with path.open("rb") as file:
            return path.suffix.lower() == _ENDING or file.read(5) == b"#ASDF"
    patterns = ("halo_info_*.asdf", "halo_info", "lc_*.asdf", "z*/halo_info", "halos/z*/halo_info")
    return path.is_dir() and any(next(path.glob(pattern), None) for pattern in patterns)


def read_abacus(
    path: str | Path,
    mass_range: tuple[float, float],
    min_mass: float | None = None,
    subsamples: str = "A",
    max_satellites: int = MAX_SATELLITES,
    seed: int = 1,
    cleaned: bool | None = None,
    progress: bool = False,
) -> dict[str, Any]:
    """Read the halos, axes and satellites of one redshift, file by file.

    The mass of a host is its number of particles (``N``, in cleaned catalogues ``N_total``) times the particle mass.
    CompaSO's L1 halos end where the density falls below 200 / (18 pi^2) = 1.126 times the virial one of Bryan & Norman
    1998, and no particle is unbound. So it is not quite a virial mass: an NFW halo of concentration 5 to 12 has 2.5 to
    4 % less mass within that radius than within the virial one. The position is ``x_L2com``, shifted by half the side
    of the box; the axis is ``sigman_eigenvecsMaj_L2com``, which is stored to about 2 degrees.

    Satellites are particles of the halo in the subsamples, no farther from the host than the virial radius of a halo
    of its mass, in random order.

    Parameters
    ----------
    path
        See :meth:`iaemu_training.halos.catalogue.HaloCatalogue.read_abacus`.
    mass_range : (float, float)
        Masses of hosts that the mock model can take, both exclusive [Msun/h].
    min_mass, subsamples, max_satellites, seed, cleaned, progress
        See :meth:`iaemu_training.halos.catalogue.HaloCatalogue.read_abacus`.

    Returns
    -------
    dict
        The arguments of :class:`iaemu_training.halos.catalogue.HaloCatalogue`.

    Raises
    ------
    CatalogueError
        See :meth:`iaemu_training.halos.catalogue.HaloCatalogue.read_abacus`.
    """
    if min_mass is not None:
        Range(at_least=0).check("min_mass [Msun/h]", min_mass, error=CatalogueError)
    Range(at_least=1, at_most=2**16 - 1).check("max_satellites", max_satellites, int, CatalogueError)
    Range(at_least=0, at_most=2**32 - 1).check("seed", seed, int, CatalogueError)
    if subsamples not in ("A", "B", "AB"):
        raise CatalogueError(f'subsamples must be "A" (3 % of particles), "B" (7 %) or "AB"; got {short(subsamples)}.')
    folder, files = _files(Path(path).absolute())
    there = any((parent / "cleaning").is_dir() for parent in folder.parents)
    cleaned = there if cleaned is None else bool(cleaned)
    if not cleaned:
        warnings.warn(
            f"{folder} is read without cleaning{'' if there else ': no folder above it holds a folder cleaning'}. Some "
            "of its halos are then parts of others, which CompaSO split off.",
            stacklevel=3,
        )
    header = _header(files, subsamples)
    least = MIN_PARTICLES * float(header["ParticleMassHMsun"]) if min_mass is None else float(min_mass)
    box = _Box(folder, files, header, cleaned, subsamples, least, mass_range, max_satellites)
    bar = {"unit": "file", "delay": BAR_AFTER, "disable": not progress}
    counts = [_count(file, box) for file in tqdm(files, f"counting halos of {folder.name}", **bar)]
    _check_memory(box, counts)
    hosts, offset, outside = _read(box, counts, np.random.default_rng(seed), bar)
    _check_gaps(box, hosts["position"])
    _check_axes(box, hosts, offset)
    too_massive = sum(count.too_massive for count in counts)
    if too_massive:
        warnings.warn(
            f"{folder}: {too_massive} hosts above {mass_range[1]:.3g} Msun/h were left out; the mock model has no bins "
            "of mass for them.",
            stacklevel=3,
        )
    return {
        "name": f"{header.get('SimName', 'Abacus')}_z{header['Redshift']:.3f}",
        "Lbox": box.side,
        **_by_mass(hosts, offset),
        "attributes": _attributes(box)
        | {"seed": seed, "n_particles_outside": outside, "n_hosts_too_massive": too_massive},
    }


# ---------------------------------------------------------------------- files and headers


def _files(path: Path) -> tuple[Path, list[Path]]:
    """Return the folder of a redshift, and its files in order."""
    if path.is_file():
        if not _FILE.fullmatch(path.name) or path.parent.name != "halo_info":
            raise CatalogueError(
                f"{path} is not a halo catalogue of AbacusSummit, which is a file halo_info/halo_info_000.asdf, or the "
                "folder that holds halo_info."
            )
        if len(others := list(path.parent.glob("halo_info_*.asdf"))) > 1:
            raise CatalogueError(
                f"{path.name} is one of the {len(others)} files of a catalogue, and a part of a box is not periodic. "
                f"Give the folder: {path.parents[1]}."
            )
        return path.parents[1], [path]
    folder = path.parent if path.name == "halo_info" else path
    numbered = sorted(
        (int(match[1]), file) for file in (folder / "halo_info").glob("*.asdf") if (match := _FILE.fullmatch(file.name))
    )
    if not numbered:
        below = [str(inner.parent) for where in ("z*", "halos/z*") for inner in sorted(path.glob(f"{where}/halo_info"))]
        if below:
            raise CatalogueError(
                f"{path} holds a folder for each redshift, of which a catalogue is one. Give {' or '.join(below[:40])}."
            )
        if next(folder.glob("lc_*.asdf"), None):
            raise CatalogueError(f"{path} is a light cone, which is not periodic. Give a folder with halo_info in it.")
        raise CatalogueError(
            f"{path} is no halo catalogue of AbacusSummit: there is no halo_info/halo_info_000.asdf in it. Give the "
            "folder of a redshift, such as AbacusSummit_base_c000_ph000/halos/z0.500."
        )
    missing = sorted(set(range(numbered[-1][0] + 1)) - {number for number, _ in numbered})
    if missing:
        raise CatalogueError(
            f"{folder / 'halo_info'} lacks {', '.join(f'halo_info_{number:03d}.asdf' for number in missing[:10])}. "
            "Copy all files of the catalogue: a part of a box is not periodic."
        )
    return folder, [file for _, file in numbered]


@contextlib.contextmanager
def _reading(file: Path) -> Iterator[None]:
    """Say which file cannot be read."""
    try:
        yield
    except (CatalogueError, MemoryError):
        raise
    except FileNotFoundError as error:  # abacusutils names the file
        raise CatalogueError(f"{file}: {error}") from error
    except Exception as error:  # asdf, yaml, blosc and abacusutils raise many unrelated classes
        raise CatalogueError(
            f"{file} cannot be read, or is damaged ({type(error).__name__}: {short(str(error))}). Copy it again, and "
            "compare it with checksums.crc32 in its folder."
        ) from error


def _abacusutils() -> tuple[Any, Callable]:
    """Return the modules asdf and abacusutils' reader."""
    try:
        import asdf
        from abacusnbody.data.compaso_halo_catalog import CompaSOHaloCatalog
    except (ImportError, AttributeError) as error:  # it asks for os.sched_getaffinity, which only Linux has
        raise CatalogueError(
            it_takes(f"Halo catalogues of AbacusSummit are read with abacusutils ({error})", extra="abacus")
        ) from error
    return asdf, CompaSOHaloCatalog


def _header(files: list[Path], subsamples: str) -> dict[str, Any]:
    """Return the header of all files; CatalogueError unless they agree and have all columns and all particles."""
    asdf, _ = _abacusutils()
    headers = []
    for file in files:
        with _reading(file), asdf.open(file, lazy_load=True, memmap=False) as content:
            header, columns = dict(content["header"]), set(content["data"])
        _check_columns(file, header, columns, subsamples)
        headers.append(header)
        for letter in subsamples:
            if not (particles := _particles(file, letter)).is_file():
                raise CatalogueError(
                    f"{particles} is missing. Satellites are particles of subsample {letter}: copy the folder "
                    f"{particles.parent.name}. AbacusSummit has it at its primary redshifts (0.1, 0.2, 0.3, 0.4, 0.5, "
                    "0.8, 1.1 ...) only."
                )
    for file, header in zip(files, headers, strict=True):
        for key in ("SimName", *_HEADER):
            if header.get(key) != headers[0].get(key):
                raise CatalogueError(
                    f"{file} states {key} = {header.get(key)}, but {files[0].name} {headers[0].get(key)}. The files of "
                    "a catalogue must be of one simulation at one redshift."
                )
    return headers[0]


def _check_columns(file: Path, header: dict[str, Any], columns: set[str], subsamples: str) -> None:
    for key in _HEADER:
        limits = Range(above=-1 if key == "Redshift" else 0)
        limits.check(f"{file}: {key} of the header", header.get(key), error=CatalogueError)
    if not math.isclose(header["BoxSize"], header["BoxSizeHMpc"], rel_tol=1e-6):
        raise CatalogueError(
            f"{file}: lengths must be in Mpc/h, but the header states BoxSize = {header['BoxSize']} and BoxSizeHMpc = "
            f"{header['BoxSizeHMpc']}."
        )
    if AXIS_ON_DISK not in columns:
        raise CatalogueError(
            f"{file} has no column {AXIS_ON_DISK}, the eigenvectors that give the axes of the halos. Copy the file as "
            "AbacusSummit has it, without leaving out columns."
        )
    counts = [f"{what}{letter}" for letter in subsamples for what in ("npstart", "npout")]
    missing = [key for key in ("N", CENTRE, *counts) if key not in columns]
    if missing:
        raise CatalogueError(
            f"{file} lacks the column(s) {', '.join(missing)}; it has {', '.join(sorted(columns)[:40]) or 'none'}."
        )


def _attributes(box: _Box) -> dict[str, Any]:
    header = box.header
    cosmology = {key: header[name] for key, name in _COSMOLOGY.items() if isinstance(header.get(name), (int, float))}
    if isinstance(header.get("H0"), (int, float)):
        cosmology["h"] = round(header["H0"] / 100.0, 10)
    return cosmology | {
        "cosmology": " ".join(f"{key}={value:g}" for key, value in cosmology.items()),
        "redshift": round(float(header["Redshift"]), 5) + 0.0,
        "particle_mass": float(header["ParticleMassHMsun"]),
        "min_mass": box.min_mass,
        "source": f"CompaSO halos of {header.get('SimName', 'Abacus')}, {'' if box.cleaned else 'not '}cleaned",
        "mass_definition": "particles of the CompaSO L1 halo, which ends at 1.126 times the virial overdensity",
        "axis_definition": AXIS,
        "satellites": f"particles of subsample {box.subsamples} within the virial radius, in random order",
        "max_satellites": box.max_satellites,
    }


# ---------------------------------------------------------------------- halos and particles


def _count(file: Path, box: _Box) -> _Count:
    """Count what a file holds."""
    asdf, catalogue = _abacusutils()
    parts = ("", "_merge") if box.cleaned else ("",)
    columns = [f"npout{letter}{part}" for letter in box.subsamples for part in parts]
    with _reading(file):
        halos = catalogue(file, cleaned=box.cleaned, halo_lc=False, fields=["N", *columns]).halos
        of_halos = np.sum([np.asarray(halos[column], dtype=np.int64) for column in columns], axis=0)
        kept = box.keeps(halos["N"])
        too_massive = int(np.sum(box.mass(halos["N"]) >= box.mass_range[1]))
    n_particles = 0
    for letter in box.subsamples:
        particles = _particles(file, letter)
        with _reading(particles), asdf.open(particles, lazy_load=True, memmap=False) as content:
            n_particles += len(content["data"]["rvint"])
    satellites = np.minimum(of_halos[kept], box.max_satellites)
    return _Count(len(kept), n_particles, int(kept.sum()), int(satellites.sum()), too_massive)


def _particles(file: Path, letter: str) -> Path:
    """Return the path of the particles of the halos in a file, in a subsample."""
    return file.parents[1] / f"halo_rv_{letter}" / file.name.replace("halo_info", f"halo_rv_{letter}")


def _check_memory(box: _Box, counts: list[_Count]) -> None:
    n_hosts, n_satellites = sum(count.hosts for count in counts), sum(count.satellites for count in counts)
    if not n_hosts:
        low, high = max(box.min_mass, box.mass_range[0]), box.mass_range[1]
        raise CatalogueError(f"{box.folder} has no halo between {low:.4g} and {high:.4g} Msun/h.")
    largest = max(
        _HALO_OF_FILE * count.halos
        + _PARTICLE_OF_FILE * count.particles
        + _PARTICLE_OF_CHUNK * min(count.particles, _CHUNK)
        for count in counts
    )
    reading = largest + _HOST_READ * n_hosts + _SATELLITE_READ * n_satellites
    needed, free = max(reading, _HOST * n_hosts + _SATELLITE * n_satellites), available_memory()
    if needed > free:
        raise CatalogueError(
            f"{box.folder} has {n_hosts} hosts of at least {box.min_mass:.4g} Msun/h, with up to {n_satellites} "
            f"satellites. Reading them takes {needed / 2**30:.3g} GiB of memory, but {free / 2**30:.3g} GiB are free. "
            "Read fewer of them in Python, and pass the packed copy to --catalogue; for example:\n"
            "    from iaemu_training.halos.catalogue import HaloCatalogue\n"
            f"    catalogue = HaloCatalogue.read_abacus({str(box.folder)!r}, min_mass={10 * box.min_mass:.3g}, "
            f"max_satellites={max(1, box.max_satellites // 3)})\n"
            "    catalogue.write_packed('packed.hdf5')"
        )


def _read(
    box: _Box, counts: list[_Count], rng: np.random.Generator, bar: dict[str, Any]
) -> tuple[dict[str, np.ndarray], np.ndarray, int]:
    """Return the hosts in the order of the files, their satellites, and the number of particles beyond the radius."""
    n_hosts = sum(count.hosts for count in counts)
    hosts = {"position": np.empty((n_hosts, 3)), "axis": np.empty((n_hosts, 3)), "mass": np.empty(n_hosts)}
    hosts["n_subhalos"] = np.empty(n_hosts, dtype=np.int64)
    offset = np.empty((sum(count.satellites for count in counts), 3), dtype=np.float32)
    first = filled = outside = 0
    for file in tqdm(box.files, "reading halos", **bar):
        with _reading(file):
            halos, particles = _unpacked(file, box)
        rows = slice(first, first := first + len(halos))
        mass = hosts["mass"][rows] = box.mass(halos["N"])
        hosts["position"][rows] = wrapped(np.asarray(halos[CENTRE], dtype=np.float64) + 0.5 * box.side, box.side)
        hosts["axis"][rows] = halos[AXIS]
        radius = virial_radius(mass, float(box.header["Omega_M"]), float(box.header["Redshift"]))
        # Chunks of hosts with as many particles.
        total = np.cumsum(sum(np.asarray(halos[f"npout{letter}"], dtype=np.int64) for letter in box.subsamples))
        edges = np.unique([0, *np.searchsorted(total, np.arange(_CHUNK, total[-1:].sum(), _CHUNK)), len(halos)])
        for begin, end in itertools.pairwise(edges.tolist()):
            found, n_found, beyond = _satellites(halos[begin:end], particles, radius[begin:end], box, rng)
            hosts["n_subhalos"][rows][begin:end] = n_found
            offset[filled : (filled := filled + len(found))] = found
            outside += beyond
    return hosts, offset[:filled], outside


def _unpacked(file: Path, box: _Box) -> tuple[Any, np.ndarray]:
    """Return the halos of a file that are kept, and their particles' positions [Mpc/h]."""
    _, catalogue = _abacusutils()
    indices = [f"{what}{letter}" for letter in box.subsamples for what in ("npstart", "npout")]
    found = catalogue(
        file,
        cleaned=box.cleaned,
        halo_lc=False,
        fields=["N", CENTRE, AXIS, *indices],
        subsamples={letter: True for letter in box.subsamples} | {"pos": True},
        filter_func=lambda halos: box.keeps(halos["N"]),
    )
    return found.halos, np.asarray(found.subsamples["pos"])


def _satellites(
    halos: Any, particles: np.ndarray, radius: np.ndarray, box: _Box, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, int]:
    """Return offsets of satellites by host, in random order, their number in each host, and of particles left out."""
    host, position = [], []
    for letter in box.subsamples:
        n_particles, start = np.asarray(halos[f"npout{letter}"]), int(halos[f"npstart{letter}"][0])
        # abacusutils puts the particles of one halo after those of the other.
        host.append(np.repeat(np.arange(len(halos)), n_particles))
        position.append(particles[start : start + len(host[-1])])
    of = np.concatenate(host)
    offset = np.concatenate(position) - np.asarray(halos[CENTRE])[of]
    offset -= np.float32(box.side) * np.round(offset / np.float32(box.side))
    inside = np.sum(offset**2, axis=1) <= radius[of] ** 2
    of, offset = of[inside], offset[inside]
    order = np.lexsort((rng.random(len(of)), of))
    n_inside = np.bincount(of, minlength=len(halos))
    rank = np.arange(len(of)) - np.repeat(np.cumsum(n_inside) - n_inside, n_inside)
    chosen = order[rank < box.max_satellites]
    return offset[chosen], np.minimum(n_inside, box.max_satellites), len(inside) - len(of)


def _check_gaps(box: _Box, position: np.ndarray) -> None:
    """Raise CatalogueError if the files leave a slab of the box empty: the last ones are missing."""
    x = np.sort(position[:, 0])
    gap = np.diff(x, append=x[0] + box.side)
    widest = int(np.argmax(gap))
    # Half of what a missing file leaves, and ten times the widest gap that is expected between random points.
    by_chance = 10.0 * box.side * math.log(len(x) + 1) / len(x)
    if gap[widest] > max(0.5 * box.side / (len(box.files) + 1), by_chance):
        raise CatalogueError(
            f"{box.folder}: the {len(box.files)} files leave the box empty from x = {x[widest]:.6g} to "
            f"{x[widest] + gap[widest]:.6g} of {box.side:g} Mpc/h. Copy all files of the catalogue: a part of a box is "
            "not periodic."
        )


def _check_axes(box: _Box, hosts: dict[str, np.ndarray], offset: np.ndarray) -> None:
    """Raise CatalogueError if the particles lie across the major axes: these are then not the major axes."""
    part = slice(0, int(np.searchsorted(np.cumsum(hosts["n_subhalos"]), _CHUNK)) + 1)
    axis = np.repeat(hosts["axis"][part], hosts["n_subhalos"][part], axis=0)
    some = offset[: len(axis)]
    distance2 = np.sum(some**2, axis=1)
    seen = distance2 > 0
    if np.sum(seen) < ENOUGH:
        return
    along = 3.0 * np.sum(some * axis, axis=1)[seen] ** 2 / distance2[seen]
    # 3 cos^2 is 1 on average if directions are random, with a scatter of sqrt(4/5).
    if along.mean() < 1.0 - 5.0 * math.sqrt(0.8 / len(along)):
        raise CatalogueError(
            f"{box.folder}: the halos are not elongated along the axes in the column {AXIS_ON_DISK}: the particles' "
            f"mean of 3 cos^2 to them is {along.mean():.3f}, but must exceed 1 (in abacusutils' own test box it is "
            "1.36). The eigenvectors are packed in another order than abacusutils reads."
        )


def _by_mass(hosts: dict[str, np.ndarray], offset: np.ndarray) -> dict[str, np.ndarray]:
    """Return hosts in ascending order of mass, with their satellites."""
    order = np.argsort(hosts["mass"], kind="stable")
    before = np.cumsum(hosts["n_subhalos"]) - hosts["n_subhalos"]
    for key in hosts:
        hosts[key] = hosts[key][order]
    after = np.cumsum(hosts["n_subhalos"]) - hosts["n_subhalos"]
    moved = np.repeat(before[order] - after, hosts["n_subhalos"])
    moved += np.arange(len(offset))
    return hosts | {"offset": offset[moved].astype(np.float64)}
