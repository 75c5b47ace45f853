"""Catalogues of AbacusSummit: pm40 written here in their format (ASDF, Blosc, packed columns), and read back."""

import itertools
import shutil
import sys
import tracemalloc
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("h5py")
asdf = pytest.importorskip("asdf")
abacusutils = pytest.importorskip("abacusnbody.data.compaso_halo_catalog", reason="needs abacusutils")

from iaemu_training.commands.iaemu_train import main  # noqa: E402
from iaemu_training.halos import abacus  # noqa: E402
from iaemu_training.halos.catalogue import CatalogueError, HaloCatalogue  # noqa: E402
from iaemu_training.halos.checks import virial_radius  # noqa: E402

PARTICLE_MASS = 2601143601.012268
HEADER = {
    "SimName": "Mini_pm40",
    "BoxSize": 40.0,
    "BoxSizeHMpc": 40.0,
    "ParticleMassHMsun": PARTICLE_MASS,
    "Redshift": 0.1,
    "Omega_M": 0.30711,
    "Omega_DE": 0.69289,
    "H0": 67.8,
    "w0": -1.0,
    "wa": 0.0,
    "VelZSpace_to_kms": 4000.0,
    "ppd": 128.0,
    "SODensityL1": 350.0,
}


def directions():
    """The 1452 directions of a major axis in 16 bits: 12 triangles about the coordinate axes, of 121 cells each.

    From the description of the format in Abacus' euler16.c; the 45 angles of the minor axis come on top.
    """
    found = []
    for triangle, row in itertools.product(range(12), range(11)):
        t = (row + 0.5) / 11 * np.sqrt(1 - 1 / np.sqrt(2))
        slope = t * np.sqrt(2 - t**2) / (1 - t**2)
        first, second = triangle // 4, (triangle // 4 + 1 + triangle % 4 // 2) % 3
        for cell in range(2 * row + 1):
            axis = np.empty(3)
            axis[first], axis[3 - first - second] = 1.0, slope * ((cell + 0.5) / (row + 0.5) - 1)
            axis[second] = slope * (-1) ** (triangle % 2)
            found.append(axis / np.linalg.norm(axis))
    return np.array(found)


def packed_axes(axis):
    cell = np.argmax(np.abs(axis @ directions().T), axis=1)
    return (45 * cell + np.arange(len(axis)) % 45).astype(np.uint16)


def packed_particles(position, side):
    """Positions in 20 bits and velocities in 12 (here 0 km/s, which is 2048)."""
    x = np.round((np.mod(position / side, 1.0) - 0.5) * 1e6).astype(np.int32)
    return (x << 12) | 2048


def write_asdf(path, data, header):
    path.parent.mkdir(parents=True, exist_ok=True)
    file = asdf.AsdfFile({"data": data, "header": header})
    file.write_to(path, all_array_compression="blsc", compression_kwargs={"typesize": 4, "shuffle": "bitshuffle"})


def write(folder, hosts, particles, header=HEADER, n_files=2, axis_codes=None, merged=None):
    """Write a catalogue in slabs of x.

    Parameters
    ----------
    folder : Path
        Of the redshift, such as SIMULATION/halos/z0.100.
    hosts : dict
        ``position`` [Mpc/h], ``n`` (particles), ``axis``.
    particles : dict of str to list of (n, 3) array
        Positions of the particles of each host in the subsamples "A" and "B" [Mpc/h].
    merged : dict of int to int, optional
        Hosts that cleaning merges with others; the folder ``cleaning`` is then written, beside the simulation.
    """
    side = header["BoxSize"]
    codes = packed_axes(hosts["axis"]) if axis_codes is None else axis_codes
    slab = np.minimum((hosts["position"][:, 0] / side * n_files).astype(int), n_files - 1)
    junk = np.full((3, 3), 0.25 * side)  # particles of no halo, which stand before and between those of halos
    for number in range(n_files):
        rows = np.flatnonzero(slab == number)
        data = {
            "N": hosts["n"][rows].astype(np.uint32),
            "x_L2com": (hosts["position"][rows] / side - 0.5).astype(np.float32),
            "sigman_eigenvecs_L2com_u16": codes[rows],
        }
        clean = {"N_total": data["N"].copy()}
        clean_particles = {}
        for letter, lists in particles.items():
            counts = np.array([len(lists[row]) for row in rows])
            data[f"npout{letter}"] = counts.astype(np.uint32)
            data[f"npstart{letter}"] = (3 + np.cumsum(counts + 3) - counts - 3).astype(np.uint64)
            together = [part for row in rows for part in (junk, lists[row])]
            write_asdf(
                folder / f"halo_rv_{letter}" / f"halo_rv_{letter}_{number:03d}.asdf",
                {"rvint": packed_particles(np.concatenate(together), side)},
                header,
            )
            gained = [[lists[old] for old, new in (merged or {}).items() if new == row] for row in rows]
            counts = np.array([sum(map(len, part)) for part in gained])
            clean[f"npout{letter}_merge"] = counts.astype(np.uint32)
            clean[f"npstart{letter}_merge"] = (np.cumsum(counts) - counts).astype(np.int64)
            together = [part for parts in gained for part in parts] or [junk]
            clean_particles[f"rvint_{letter}"] = packed_particles(np.concatenate(together), side)
        write_asdf(folder / "halo_info" / f"halo_info_{number:03d}.asdf", data, header)
        if merged is not None:
            for old, new in merged.items():
                clean["N_total"][rows == new] += np.uint32(hosts["n"][old])
                clean["N_total"][rows == old] = 0
            cleaning = folder.parents[2] / "cleaning" / folder.parents[1].name / folder.name
            notes = header | {"TimeSliceRedshiftsPrev": [0.2]}
            write_asdf(cleaning / "cleaned_halo_info" / f"cleaned_halo_info_{number:03d}.asdf", clean, notes)
            write_asdf(cleaning / "cleaned_rvpid" / f"cleaned_rvpid_{number:03d}.asdf", clean_particles, notes)
    return folder


@pytest.fixture(scope="module", autouse=True)
def no_garbage_collection():
    """abacusutils collects garbage after each file, which takes a tenth of a second with the test suite in memory."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(abacusutils, "gc", SimpleNamespace(collect=lambda: 0))
        yield


@pytest.fixture(scope="module")
def written(pm40):
    """Hosts of pm40 in no order, with their sub-halos as subsample A, and these mirrored as B."""
    order = np.random.default_rng(3).permutation(len(pm40.mass))
    hosts = {
        "position": pm40.position[order],
        "n": np.round(pm40.mass[order] / PARTICLE_MASS).astype(int),
        "axis": pm40.axis[order],
    }
    radius = virial_radius(hosts["n"] * PARTICLE_MASS, HEADER["Omega_M"], HEADER["Redshift"])
    # Two more particles for each host, on its axis within and beyond the radius; and all hosts have room for them.
    parts = [part[:200] for part in np.split(pm40.offset, pm40.first_subhalo[1:])]
    ends = np.array([0.98, -1.02])[:, None] * (radius[:, None] * hosts["axis"])[:, None]
    offsets = [np.concatenate([parts[row], end]) for row, end in zip(order, ends, strict=True)]
    return hosts, offsets, radius


def particles_of(hosts, offsets):
    pairs = list(zip(hosts["position"], offsets, strict=True))
    return {"A": [x + dx for x, dx in pairs], "B": [x - dx for x, dx in pairs]}


@pytest.fixture(scope="module")
def folder(tmp_path_factory, written):
    hosts, offsets, _ = written
    place = tmp_path_factory.mktemp("abacus") / "Mini_pm40" / "halos" / "z0.100"
    return write(place, hosts, particles_of(hosts, offsets), merged={})


@pytest.fixture(scope="module")
def catalogue(folder):
    return HaloCatalogue.load(folder)


def rows_of(catalogue, position):
    """The rows of hosts in a catalogue, by their positions."""
    apart = catalogue.position[None] - position[:, None]
    apart = np.linalg.norm(apart - catalogue.Lbox * np.round(apart / catalogue.Lbox), axis=2)
    assert np.all(apart.min(axis=1) < 1e-4)
    return np.argmin(apart, axis=1)


def satellites(catalogue, row):
    first = catalogue.first_subhalo[row]
    return catalogue.offset[first : first + catalogue.n_subhalos[row]]


def assert_same_points(found, expected, atol):
    """In any order."""
    assert len(found) == len(expected)
    nearest = np.argmin(np.linalg.norm(found[:, None] - expected, axis=2), axis=1)
    assert len(set(nearest)) == len(expected)
    np.testing.assert_allclose(found, expected[nearest], rtol=0, atol=atol)


class TestWhatIsRead:
    def test_hosts(self, catalogue, written):
        hosts, _, _ = written
        kept = hosts["n"] >= 40
        assert 100 < len(catalogue.mass) == kept.sum() < len(kept)
        # Positions in 32 bits of the unit box.
        rows = rows_of(catalogue, hosts["position"][kept])
        assert len(set(rows)) == len(rows)
        assert np.all(np.diff(catalogue.mass) >= 0)
        np.testing.assert_allclose(catalogue.mass[rows], hosts["n"][kept] * PARTICLE_MASS, rtol=1e-12)
        cosine = np.abs(np.sum(catalogue.axis[rows] * hosts["axis"][kept], axis=1))
        # Cells of about 4 degrees: an rms of 1.7 degrees, and less than 4 in a corner.
        angle = np.degrees(np.arccos(np.minimum(cosine, 1.0)))
        assert angle.max() < 4.0 and 1.0 < np.sqrt(np.mean(angle**2)) < 2.0

    def test_satellites(self, catalogue, written):
        hosts, offsets, radius = written
        outside = 0
        for number in np.flatnonzero(hosts["n"] >= 40):
            inside = np.linalg.norm(offsets[number], axis=1) < radius[number]
            outside += np.sum(~inside)
            found = satellites(catalogue, rows_of(catalogue, hosts["position"][number][None])[0])
            # Particles' positions are rounded to a millionth of the box.
            assert_same_points(found, offsets[number][inside], atol=4e-5)
        assert outside == catalogue.attributes["n_particles_outside"] >= len(catalogue.mass)

    def test_attributes(self, catalogue):
        assert catalogue.Lbox == 40.0 and catalogue.name == "Mini_pm40_z0.100"
        stated = {"redshift": 0.1, "Om0": 0.30711, "h": 0.678, "particle_mass": PARTICLE_MASS}
        assert stated.items() <= catalogue.attributes.items()
        assert catalogue.attributes["min_mass"] == 40 * PARTICLE_MASS
        assert catalogue.attributes["source"] == "CompaSO halos of Mini_pm40, cleaned"

    def test_virial_radii_are_those_of_the_satellites(self, catalogue):
        apart = np.linalg.norm(catalogue.offset, axis=1) / catalogue.virial_radius[catalogue.subhalo_host]
        assert 0.979 < apart.max() < 1.0

    def test_the_inner_folder_and_a_single_file_do_as_well(self, catalogue, folder, written, tmp_path):
        assert HaloCatalogue.load(folder / "halo_info").sha256 == catalogue.sha256
        hosts, offsets, _ = written
        place = write(tmp_path / "Mini_pm40" / "halos" / "z0.100", hosts, particles_of(hosts, offsets), n_files=1)
        with pytest.warns(UserWarning, match="is read without cleaning: no folder above it holds"):
            alone = HaloCatalogue.load(place / "halo_info" / "halo_info_000.asdf")
        np.testing.assert_array_equal(np.sort(alone.position[:, 0]), np.sort(catalogue.position[:, 0]))

    def test_cleaning_merges_halos(self, written, tmp_path):
        """A halo goes to its host, with its particles, of which those within the radius stay."""
        hosts, offsets, radius = written
        # Nearby halos, of which the smaller one gives its particles to the other, at the place of that one's own.
        new = int(np.argmax(hosts["n"]))
        old = int(np.argsort(hosts["n"])[-20])
        moved = list(offsets)
        moved[old] = np.stack([[0.1, 0.2, 0.3], [0.0, 0.0, 1.01]]) * [[1], [radius[new] * 1.1]]
        particles = particles_of(hosts, moved)
        particles["A"][old] = hosts["position"][new] + moved[old]
        place = write(tmp_path / "Mini_pm40" / "halos" / "z0.100", hosts, particles, merged={old: new})
        cleaned = HaloCatalogue.read_abacus(place, max_satellites=1000)
        with pytest.warns(UserWarning, match="is read without cleaning. Some"):
            whole = HaloCatalogue.read_abacus(place, max_satellites=1000, cleaned=False)
        assert len(cleaned.mass) == len(whole.mass) - 1
        assert cleaned.mass[-1] == pytest.approx((hosts["n"][new] + hosts["n"][old]) * PARTICLE_MASS, rel=1e-12)
        gained = [x for x in satellites(cleaned, -1) if np.abs(x - moved[old][0]).max() < 1e-4]
        assert len(gained) == 1
        inside = np.linalg.norm(offsets[new], axis=1) < cleaned.virial_radius[-1]
        assert cleaned.n_subhalos[-1] == inside.sum() + 1
        assert whole.attributes["source"].endswith("not cleaned")


class TestChoices:
    def test_mass_limit(self, folder, written):
        hosts, _, _ = written
        found = HaloCatalogue.read_abacus(folder, min_mass=1e12)
        assert len(found.mass) == np.sum(hosts["n"] * PARTICLE_MASS >= 1e12) > 100
        assert found.attributes["min_mass"] == 1e12
        # The files of all but the most massive hosts are read and leave none.
        assert len(HaloCatalogue.read_abacus(folder, min_mass=np.sort(hosts["n"])[-3] * PARTICLE_MASS).mass) == 3
        with pytest.raises(CatalogueError, match="no halo between 1e\\+15 and"):
            HaloCatalogue.read_abacus(folder, min_mass=1e15)

    def test_subsamples(self, folder, catalogue):
        """B holds the places of A mirrored, and is read for the same hosts."""
        mirrored = HaloCatalogue.read_abacus(folder, subsamples="B")
        both = HaloCatalogue.read_abacus(folder, subsamples="AB", max_satellites=1000)
        for row in (-1, -100, -1000):
            first, second = satellites(catalogue, row), satellites(mirrored, row)
            assert_same_points(first, -second, atol=8e-5)
            everything = np.concatenate([first, second])
            assert_same_points(satellites(both, row), everything, atol=0)

    def test_order_is_random_and_reproducible(self, folder, catalogue):
        again, other = (HaloCatalogue.read_abacus(folder, seed=seed) for seed in (1, 2))
        assert again.sha256 == catalogue.sha256 != other.sha256
        np.testing.assert_array_equal(other.n_subhalos, catalogue.n_subhalos)
        few = HaloCatalogue.read_abacus(folder, max_satellites=5)
        np.testing.assert_array_equal(few.n_subhalos, np.minimum(catalogue.n_subhalos, 5))
        # Those that are left are as far from their hosts as all of them.
        apart = [np.linalg.norm(satellites(x, -1), axis=1).mean() for x in (catalogue, few)]
        spread = np.linalg.norm(satellites(catalogue, -1), axis=1).std()
        assert abs(apart[1] - apart[0]) < 4 * spread / np.sqrt(5)

    def test_chunks_of_particles(self, folder, catalogue, monkeypatch):
        monkeypatch.setattr(abacus, "_CHUNK", 100)
        found = HaloCatalogue.load(folder)
        np.testing.assert_array_equal(found.n_subhalos, catalogue.n_subhalos)
        assert_same_points(satellites(found, -2), satellites(catalogue, -2), atol=0)

    def test_wrong_values(self, folder):
        for wrong in ({"min_mass": -1}, {"subsamples": "C"}, {"max_satellites": 0}, {"seed": -1}):
            with pytest.raises(CatalogueError, match=next(iter(wrong))):
                HaloCatalogue.read_abacus(folder, **wrong)

    def test_hosts_beyond_the_bins_of_mass_are_left_out(self, written, tmp_path):
        hosts, offsets, _ = written
        heavy = hosts | {"n": hosts["n"].copy()}
        heavy["n"][np.argmax(heavy["n"])] = int(10**15.3 / PARTICLE_MASS)
        place = write(tmp_path / "Mini_pm40" / "halos" / "z0.100", heavy, particles_of(hosts, offsets), merged={})
        with pytest.warns(UserWarning, match="1 hosts above 1.58e\\+15 Msun/h were left out"):
            found = HaloCatalogue.load(place)
        assert found.attributes["n_hosts_too_massive"] == 1 and found.mass[-1] < 10**15.2


class TestCommands:
    def test_pack(self, folder, catalogue, tmp_path, capsys):
        assert not main(["pack", str(folder), "-o", str(tmp_path / "packed.hdf5")])
        assert "Mini_pm40_z0.100" in capsys.readouterr().out
        packed = HaloCatalogue.load(tmp_path / "packed.hdf5")
        np.testing.assert_array_equal(packed.n_subhalos, catalogue.n_subhalos)
        assert packed.attributes["axis_definition"] == "sigman_eigenvecsMaj_L2com"


class TestMemory:
    def test_is_refused_with_figures(self, folder, monkeypatch):
        monkeypatch.setattr(abacus, "available_memory", lambda: 1e6)
        with pytest.raises(CatalogueError, match=r"takes 0.00[0-9]* GiB of memory, but 0.000931 GiB are free") as error:
            HaloCatalogue.load(folder)
        assert "min_mass=1.04e+12, max_satellites=100)" in str(error.value)

    def test_the_estimate_holds(self, tmp_path, monkeypatch):
        """It is above what is taken, but not by much; 40,000 hosts with 12 satellites on average."""
        rng = np.random.default_rng(5)
        n, side = 40_000, 160.0
        hosts = {"position": side * rng.random((n, 3)), "n": (40 / rng.uniform(0.001, 1, n)).astype(int) + 40}
        hosts["axis"] = rng.standard_normal((n, 3))
        hosts["axis"] /= np.linalg.norm(hosts["axis"], axis=1, keepdims=True)
        particles = {"A": [x + 0.02 * rng.standard_normal((rng.poisson(12), 3)) for x in hosts["position"]]}
        header = HEADER | {"BoxSize": side, "BoxSizeHMpc": side}
        place = write(tmp_path / "Large" / "halos" / "z0.100", hosts, particles, header, n_files=4, merged={})
        estimate = []
        check = abacus._check_memory

        def noted(box, counts):
            monkeypatch.setattr(abacus, "available_memory", lambda: 0.0)
            with pytest.raises(CatalogueError) as error:
                check(box, counts)
            estimate.append(float(str(error.value).split("takes ")[1].split(" GiB")[0]) * 2**30)
            tracemalloc.start()

        monkeypatch.setattr(abacus, "_check_memory", noted)
        try:
            HaloCatalogue.load(place)
            taken = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert 0.5 < taken / estimate[0] < 1.0


class TestErrors:
    @pytest.fixture
    def copy(self, folder, tmp_path):
        shutil.copytree(folder.parents[2], tmp_path / "copy")
        return tmp_path / "copy" / "Mini_pm40" / "halos" / "z0.100"

    def error(self, path, **options):
        with pytest.raises(CatalogueError) as error:
            HaloCatalogue.read_abacus(path, **options) if options else HaloCatalogue.load(path)
        return str(error.value)

    def test_abacusutils_is_missing(self, folder, monkeypatch):
        monkeypatch.setitem(sys.modules, "abacusnbody.data.compaso_halo_catalog", None)
        assert "pip install 'iaemu-cobaya[abacus]'" in self.error(folder)

    def test_no_catalogue(self, folder, copy, tmp_path):
        (tmp_path / "empty").mkdir()
        assert "is a folder; give" in self.error(tmp_path / "empty")
        assert "there is no halo_info/halo_info_000.asdf" in self.error(tmp_path / "empty", seed=1)
        assert f"Give {folder}" in self.error(folder.parent) and f"Give {folder}" in self.error(folder.parents[1])
        assert "is one of the 2 files" in self.error(folder / "halo_info" / "halo_info_001.asdf")
        assert "is not a halo catalogue of AbacusSummit" in self.error(folder / "halo_rv_A" / "halo_rv_A_000.asdf")
        assert "There is no catalogue file" in self.error(tmp_path / "absent.asdf")
        (copy / "halo_info").rename(copy / "other")
        (copy / "lc_halo_info.asdf").touch()
        assert "is a light cone, which is not periodic" in self.error(copy)

    def test_missing_files(self, copy):
        first, last = (copy / "halo_info" / f"halo_info_00{number}.asdf" for number in (0, 1))
        last.rename(copy / "last")
        assert "files leave the box empty from x = 19" in self.error(copy)
        (copy / "last").rename(last)
        first.rename(copy / "first")
        assert "lacks halo_info_000.asdf. Copy" in self.error(copy)
        (copy / "first").rename(first)
        cleaning = copy.parents[2] / "cleaning" / "Mini_pm40" / "z0.100"
        (cleaning / "cleaned_rvpid" / "cleaned_rvpid_001.asdf").unlink()
        assert "cleaned_rvpid_001.asdf" in self.error(copy)
        (cleaning / "cleaned_halo_info" / "cleaned_halo_info_001.asdf").unlink()
        assert "Cleaning info not found" in self.error(copy)
        (copy / "halo_rv_A" / "halo_rv_A_001.asdf").unlink()
        message = self.error(copy)
        assert "halo_rv_A_001.asdf is missing" in message and "primary redshifts" in message

    def change(self, file, **changes):
        with asdf.open(file, memmap=False, lazy_load=False) as content:
            data, header = dict(content["data"]), dict(content["header"])
        for key, value in changes.items():
            (header if key in header else data).pop(key)
            if value is not None:
                header[key] = value
        write_asdf(file, data, header)

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"sigman_eigenvecs_L2com_u16": None}, "no column sigman_eigenvecs_L2com_u16, the eigenvectors"),
            ({"x_L2com": None, "npoutA": None}, "lacks the column\\(s\\) x_L2com, npoutA"),
            ({"Redshift": 0.2}, "Redshift = 0.2, but halo_info_000.asdf 0.1. The files of"),
            ({"Omega_M": None}, "Omega_M of the header must be a number"),
            ({"ParticleMassHMsun": 0.0}, "ParticleMassHMsun of the header must be a number, above 0"),
            ({"BoxSizeHMpc": 27.1}, "lengths must be in Mpc/h"),
        ],
    )
    def test_columns_and_headers(self, copy, changes, message):
        self.change(copy / "halo_info" / "halo_info_001.asdf", **changes)
        with pytest.raises(CatalogueError, match=message):
            HaloCatalogue.load(copy)

    def test_damaged_files(self, copy):
        file = copy / "halo_info" / "halo_info_001.asdf"
        whole = file.read_bytes()
        for damaged in (whole[: len(whole) // 2], whole[:100], b"", b"#ASDF 1.0.0\nnonsense"):
            file.write_bytes(damaged)
            assert "halo_info_001.asdf cannot be read, or is damaged" in self.error(copy)

    def test_axes_that_are_not_major(self, written, tmp_path):
        """Axes across the major ones are told from the particles, which are stretched along the major ones."""
        hosts, offsets, _ = written
        across = np.cross(hosts["axis"], [0.6, 0.0, 0.8])
        codes = packed_axes(across / np.linalg.norm(across, axis=1, keepdims=True))
        place = tmp_path / "Mini_pm40" / "halos" / "z0.100"
        write(place, hosts, particles_of(hosts, offsets), axis_codes=codes, merged={})
        with pytest.raises(CatalogueError, match=r"not elongated along the axes .* must exceed 1"):
            HaloCatalogue.load(place)
