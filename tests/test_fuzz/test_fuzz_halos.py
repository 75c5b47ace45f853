"""Halo catalogues: constructors, every kind of file, limits; and the correlation function of matter."""

import bz2
import gzip
import lzma
from dataclasses import fields
from functools import partial

import numpy as np
import pytest
from fuzzing import awkward_mapping, awkward_number, awkward_tensor, spoilt_bytes, spoilt_text

h5py = pytest.importorskip("h5py")

from iaemu.binning import BinningError  # noqa: E402
from iaemu_training.dataset.matter import MatterCorrelation, MatterCorrelationError  # noqa: E402
from iaemu_training.halos.catalogue import CatalogueError, HaloCatalogue  # noqa: E402
from iaemu_training.halos.columns import COLUMNS  # noqa: E402
from iaemu_training.halos.hdf5 import SEAL  # noqa: E402
from iaemu_training.halos.limits import CatalogueLimits  # noqa: E402

WORDS = ["nan", "inf", "-1", "0", "1e400", ".", "", "x", "1e10 2", "#", "18446744073709551615", "9" * 30, "\x00", "é"]
ROCKSTAR = "#ID DescID Mvir Vmax X Y Z A[x] A[y] A[z] Mpeak PID\n"
ROCKSTAR += "#a = 1.0\n#Om = 0.3; Ol = 0.7; h = 0.7\n#Particle mass: 1e8 Msun/h\n#Box size: 40.0 Mpc/h\n"


@pytest.fixture(scope="module")
def small(pm40):
    """Every 20th host of pm40, of which there are too few to be judged, with its sub-halos."""
    rows = np.arange(30, len(pm40.mass), 25)
    first = pm40.first_subhalo
    subs = np.concatenate([np.arange(first[row], first[row] + min(pm40.n_subhalos[row], 5)) for row in rows])
    counts = np.minimum(pm40.n_subhalos[rows], 5)
    return HaloCatalogue(
        "small", 40.0, pm40.position[rows], pm40.mass[rows], pm40.axis[rows], counts, pm40.offset[subs], {"redshift": 0}
    )


@pytest.fixture(scope="module")
def columns(small):
    table = small.to_halotools().halo_table
    return {name: np.array(table[name]) for name in COLUMNS}


def sound(catalogue):
    """Whatever is accepted holds what the class promises."""
    return (
        np.all((catalogue.position >= 0) & (catalogue.position < catalogue.Lbox))
        and np.all(np.isfinite(catalogue.mass) & (catalogue.mass > 0))
        and np.all(np.diff(catalogue.mass) >= 0)
        and np.allclose(np.linalg.norm(catalogue.axis, axis=1), 1.0, atol=1e-3)
        and len(catalogue.offset) == catalogue.n_subhalos.sum()
        and np.all(np.abs(catalogue.offset) <= 0.51 * catalogue.Lbox)
        and {array.dtype for array in (catalogue.position, catalogue.mass, catalogue.axis, catalogue.offset)}
        == {np.dtype(np.float64)}
        and str(catalogue).startswith(catalogue.name)
    )


def spoilt_array(rng, array):
    """One number of an array changed, or the whole of it."""
    if rng.random() < 0.4:
        return awkward_tensor(rng, array)
    array = np.array(array)
    place = tuple(int(rng.integers(n)) for n in array.shape)
    choices = [0, -1, 1, -1e-5, 40.0, 40.000001, 1e6, -1e300] + ([np.nan, np.inf] if array.dtype.kind == "f" else [])
    array[place] = np.array(choices[rng.integers(len(choices))]).astype(array.dtype)
    return array


def test_constructor(fuzz, small):
    values = {field.name: getattr(small, field.name) for field in fields(small)}
    arrays = ["position", "mass", "axis", "n_subhalos", "offset"]

    def make(rng):
        if rng.random() < 0.3:
            return awkward_mapping(rng, {key: values[key] for key in ("Lbox", "attributes", *arrays)})
        name = arrays[rng.integers(len(arrays))]
        return values | {name: spoilt_array(rng, values[name])}

    def call(changed):
        return HaloCatalogue(**values | {key: changed[key] for key in values if key in changed})

    fuzz("HaloCatalogue", 3000, make, call, CatalogueError, sound)


def test_attributes(fuzz, small, tmp_path):
    values = {field.name: getattr(small, field.name) for field in fields(small)}
    stated = {"redshift": 0.0, "particle_mass": 1e8, "min_mass": 1e10, "cosmology": "flat", "seed": 3}

    def call(attributes):
        catalogue = HaloCatalogue(**values | {"attributes": attributes})
        catalogue.write_packed(tmp_path / "packed.hdf5")
        return HaloCatalogue.load(tmp_path / "packed.hdf5")

    fuzz(
        "HaloCatalogue, attributes, packed", 500, lambda rng: awkward_mapping(rng, stated), call, CatalogueError, sound
    )


def test_from_columns(fuzz, columns):
    def make(rng):
        action = rng.integers(4)
        if action == 0:
            return awkward_mapping(rng, columns), 40.0
        if action == 1:
            return columns, [awkward_number(rng), [40.0, awkward_number(rng), 40.0]][rng.integers(2)]
        name = COLUMNS[rng.integers(len(COLUMNS))]
        return columns | {name: spoilt_array(rng, columns[name])}, 40.0

    fuzz(
        "HaloCatalogue.from_columns",
        3000,
        make,
        lambda given: HaloCatalogue.from_columns(*given, name="fuzz"),
        CatalogueError,
        sound,
    )


@pytest.mark.parametrize("value", [None, 3, [], {}, "x", np.zeros(3), object(), np.zeros(3, dtype=[("halo_id", int)])])
def test_no_columns_at_all(value):
    with pytest.raises(CatalogueError):
        HaloCatalogue.from_columns(value, 40.0)


def test_load_by_any_name(fuzz):
    pytest.importorskip("halotools")
    fuzz(
        "HaloCatalogue.load, names",
        100,
        lambda rng: [awkward_number(rng), "x" * 5000, "/", ".", "\udcff", "a/b", "\x00"][rng.integers(7)],
        HaloCatalogue.load,
        CatalogueError,
    )


class TestFiles:
    def load(self, tmp_path, name):
        path = tmp_path / name

        def call(content):
            path.write_bytes(content)
            return HaloCatalogue.load(path)

        return call

    def hdf5_file(self, path, columns, table=False):
        with h5py.File(path, "w") as file:
            if table:
                file["data"] = np.rec.fromarrays(list(columns.values()), names=list(columns))
            else:
                for name, values in columns.items():
                    file[name] = values
            file.attrs["Lbox"], file.attrs["redshift"] = 40.0, 0.0
        return path.read_bytes()

    @pytest.mark.parametrize("table", [False, True])
    def test_columns_in_hdf5(self, fuzz, columns, tmp_path, table):
        content = self.hdf5_file(tmp_path / "whole.hdf5", columns, table)
        fuzz(
            f"HaloCatalogue.load, HDF5 {'table' if table else 'columns'}",
            1500,
            lambda rng: spoilt_bytes(rng, content, [6000, None][rng.integers(2)]),
            self.load(tmp_path, "spoilt.hdf5"),
            CatalogueError,
            sound,
        )

    def test_columns_of_other_kinds(self, fuzz, columns, tmp_path):
        """Columns as groups, scalars, texts, tables, of other shapes."""
        path = tmp_path / "other.hdf5"

        def make(rng):
            name = [*COLUMNS, "Lbox"][rng.integers(len(COLUMNS) + 1)]
            values = columns.get(name, np.array([40.0]))
            forms = [3.0, "text", b"bytes", values[:, None], values[:0], values[:-1], values.astype("f2")]
            forms += [np.array(["a"] * len(values), dtype="S3"), values.astype(bool), values.astype(complex), None]
            forms += [np.zeros(len(values), dtype=[("x", float)]), h5py.Empty("f"), np.full(len(values), np.nan)]
            return name, forms[rng.integers(len(forms))]

        def call(given):
            name, value = given
            with h5py.File(path, "w") as file:
                for key, values in columns.items():
                    if key != name:
                        file[key] = values
                if name != "Lbox":
                    file.attrs["Lbox"] = [40.0, 40.0, 40.0]
                if value is None:
                    file.create_group(name)["inside"] = 1
                else:
                    file[name] = value
            return HaloCatalogue.load(path)

        fuzz("HaloCatalogue.load, HDF5 of other kinds", 500, make, call, CatalogueError, sound)

    def test_packed(self, fuzz, small, tmp_path):
        """Of what is changed, nothing is accepted that differs."""
        small.write_packed(tmp_path / "whole.hdf5")
        whole = HaloCatalogue.load(tmp_path / "whole.hdf5")
        content = (tmp_path / "whole.hdf5").read_bytes()
        fuzz(
            "HaloCatalogue.load, packed",
            3000,
            lambda rng: spoilt_bytes(rng, content, [3000, None][rng.integers(2)]),
            self.load(tmp_path, "spoilt.hdf5"),
            CatalogueError,
            lambda read: (
                read.sha256 == whole.sha256 and read.attributes == whole.attributes and read.name == whole.name
            ),
        )

    def test_edited_packed(self, fuzz, small, tmp_path):
        """Numbers changed where HDF5 finds no fault: the seal does, or without it what is promised of the arrays."""
        small.write_packed(tmp_path / "whole.hdf5")
        content = (tmp_path / "whole.hdf5").read_bytes()
        path = tmp_path / "edited.hdf5"
        seal = HaloCatalogue.load(tmp_path / "whole.hdf5").sha256

        def make(rng):
            name = ["position", "mass", "axis", "n_subhalos", "offset", "Lbox", "offset_reach", "name"][rng.integers(8)]
            return name, int(rng.integers(50)), awkward_number(rng), rng.random() < 0.5

        def call(given):
            name, row, value, sealed = given
            path.write_bytes(content)
            with h5py.File(path, "r+") as file:
                try:
                    if name in file:
                        file[name][row] = value
                    else:
                        file.attrs[name] = value
                except (TypeError, ValueError, OSError, OverflowError, AttributeError, RuntimeError):
                    pass
                if not sealed:
                    file.attrs["format"] = "iaemu-packed-halos-1"
                    del file.attrs[SEAL]
            return sealed, HaloCatalogue.load(path)

        fuzz(
            "HaloCatalogue.load, packed, edited",
            1000,
            make,
            call,
            CatalogueError,
            lambda read: sound(read[1]) and (not read[0] or read[1].sha256 == seal),
        )

    @pytest.mark.parametrize("ending", [".list", ".txt.gz", ".LIST.bz2", ".ascii.xz", ".csv"])
    def test_rockstar(self, fuzz, columns, tmp_path, ending):
        pack = {"gz": partial(gzip.compress, mtime=0), "bz2": bz2.compress, "xz": lzma.compress}.get(
            ending.rpartition(".")[2], bytes
        )
        rows = zip(
            *(columns[name] for name in ("halo_id", "halo_id", "halo_mvir_host_halo", "halo_mvir_host_halo")),
            *(columns[name] for name in COLUMNS if name.startswith(("halo_x", "halo_y", "halo_z", "halo_axis"))),
            *(columns[name] for name in ("halo_mpeak", "halo_upid")),
            strict=True,
        )
        text = ROCKSTAR + "".join(" ".join(f"{value:.8g}" for value in row) + "\n" for row in list(rows)[::3])
        if ending == ".csv":
            lines = text.splitlines(keepends=True)
            text = "".join(
                line if line.startswith("#") and i else line.replace(" ", ",") for i, line in enumerate(lines)
            )
        words = [*WORDS, ". Msun/h", "#Particle mass: . Msun/h", "#Box size: e Mpc/h", "#Box size: inf Mpc/h"]
        assert sound(self.load(tmp_path, f"whole{ending}")(pack(text.encode())))

        def make(rng):
            content = spoilt_text(rng, text, words)
            return spoilt_bytes(rng, pack(content)) if rng.random() < 0.2 else pack(content)

        fuzz(f"HaloCatalogue.load, {ending}", 700, make, self.load(tmp_path, f"spoilt{ending}"), CatalogueError, sound)

    def test_rockstar_options(self, fuzz, tmp_path):
        path = tmp_path / "out.list"
        path.write_text(ROCKSTAR + "1 1 1e12 1 1 1 1 0 0 1 1e12 -1\n2 2 1e11 1 1 1 1 0 0 1 1e12 1\n")
        options = {"Lbox": 40.0, "particle_mass": 1e8, "min_mass": 1e9}
        fuzz(
            "HaloCatalogue.read_rockstar, options",
            1000,
            lambda rng: awkward_mapping(rng, options),
            lambda given: HaloCatalogue.read_rockstar(path, **{key: given[key] for key in options if key in given}),
            CatalogueError,
            sound,
        )

    def test_own_columns(self, fuzz, columns, tmp_path):
        """CSV with names of its own, whole or spoilt, and options that are none."""
        used = {"ID": "halo_id", "UP": "halo_upid", "M": "halo_mvir_host_halo"}
        used |= {name: f"halo_{name.lower()}" for name in "XYZ"}
        used |= {f"A{name}": f"halo_axisA_{name.lower()}" for name in "XYZ"}
        rows = zip(*(columns[name].tolist() for name in used.values()), strict=True)
        text = (
            ",".join(used) + "\n" + "".join(",".join(f"{value:.8g}" for value in row) + "\n" for row in list(rows)[::3])
        )
        options = {"id": "ID", "parent": "UP", "mass": "M", "positions": ["X", "Y", "Z"], "axes": ["AX", "AY", "AZ"]}
        options |= {"Lbox": 40.0, "scale": 1.0, "mass_scale": 1.0, "no_parent": -1}
        path = tmp_path / "own.csv"
        path.write_text(text)
        assert sound(HaloCatalogue.read_columns(path, **options))

        def call(given):
            content, changed = given
            path.write_bytes(content)
            return HaloCatalogue.read_columns(path, **options | changed)

        def make(rng):
            if rng.random() < 0.7:
                return spoilt_text(rng, text, [*WORDS, ",", '"', "ID"]), {}
            name = ["Lbox", "scale", "mass_scale"][rng.integers(3)]
            return text.encode(), {name: awkward_number(rng)}

        fuzz("HaloCatalogue.read_columns, CSV", 400, make, call, CatalogueError, sound)

    def test_npz(self, fuzz, columns, tmp_path):
        """Of no kind that is read, whole or spoilt."""
        np.savez(tmp_path / "whole.npz", **columns, Lbox=40.0)
        content = (tmp_path / "whole.npz").read_bytes()
        fuzz(
            "HaloCatalogue.load, npz",
            300,
            lambda rng: spoilt_bytes(rng, content),
            self.load(tmp_path, "spoilt.npz"),
            CatalogueError,
            lambda read: False,
        )


def test_limits(fuzz, pm40):
    low, high, lowest = 11.6, 12.1, 11.02

    def make(rng):
        return awkward_mapping(rng, {"complete": lowest, "low": low, "high": high, "logM0_max": 12.45, "range": None})

    def call(given):
        limits = CatalogueLimits.of([pm40], given.get("complete"))
        logMmin = given.get("range") or (given.get("low"), given.get("high"))
        return limits.support(logMmin, given.get("logM0_max"))

    fuzz(
        "CatalogueLimits",
        2000,
        make,
        call,
        ValueError,
        lambda support: 0 <= support.logMmin[0] < support.logMmin[1] <= 15 and 0 < support.logM0_max <= 15,
    )


# ---------------------------------------------------------------------- matter


def finite_bins(table):
    return bool(np.all(np.isfinite(table.binned(np.geomspace(table.r[0], table.r[-1], 4)))))


def test_matter_file(fuzz, tmp_path):
    rows = "".join(f"{r:.6g} {(r / 5) ** -1.8:.6g}\n" for r in np.geomspace(0.05, 30, 12))
    text = "# cosmology: Om = 0.3, h = 0.7\n# redshift: 0\n# source: nobody\n" + rows
    path = tmp_path / "xi.txt"

    def call(content):
        path.write_bytes(content)
        return MatterCorrelation.load(path)

    def check(table):
        try:
            return finite_bins(table)
        except BinningError:
            return True

    words = [*WORDS, "redshift:", "cosmology: Om =", "Om = nan"]
    fuzz("MatterCorrelation.load", 2000, lambda rng: spoilt_text(rng, text, words), call, MatterCorrelationError, check)


def test_matter_arrays(fuzz):
    r = np.geomspace(0.05, 30.0, 12)
    values = {"r": r, "xi": (r / 5) ** -1.8, "cosmology": {"Om": 0.3}, "redshift": 0.0}

    def make(rng):
        if rng.random() < 0.4:
            return {key: value for key, value in awkward_mapping(rng, values).items() if key in values}
        name = ["r", "xi"][rng.integers(2)]
        return values | {name: spoilt_array(rng, values[name])}

    def call(given):
        return finite_bins(MatterCorrelation(**values | given))

    fuzz("MatterCorrelation", 2000, make, call, (MatterCorrelationError, BinningError), bool)


def test_matter_bins(fuzz):
    table = MatterCorrelation.load()
    fuzz(
        "MatterCorrelation.binned",
        1000,
        lambda rng: awkward_tensor(rng, np.array([0.1, 1.0, 10.0])),
        table.binned,
        BinningError,
        lambda binned: bool(np.all(np.isfinite(binned))),
    )
