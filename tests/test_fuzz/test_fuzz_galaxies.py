"""Galaxy files, measurements of galaxies, mocks, and the two commands."""

import io
import shutil
from contextlib import redirect_stderr, redirect_stdout

import numpy as np
import pytest
from fuzzing import NUMBERS, awkward_mapping, awkward_number, awkward_tensor, spoilt_bytes, spoilt_text

pytest.importorskip("numba")
pytest.importorskip("h5py")

import h5py

from iaemu.binning import BinningError
from iaemu.measurement import Measurement
from iaemu_cobaya.commands.door import main
from iaemu_training.measuring.estimators import measure, parse_bins
from iaemu_training.measuring.galaxy_files import GalaxyFileError, read_galaxies, write_galaxies
from iaemu_training.measuring.projected import measure_projected

N, LBOX = 60, 20.0
RNG = np.random.default_rng(0)
X, E = RNG.uniform(0, LBOX, (N, 3)), RNG.normal(size=(N, 3))
NAMES = ("x", "y", "z", "galaxy_axisA_x", "galaxy_axisA_y", "galaxy_axisA_z")
COLUMNS = dict(zip(NAMES, np.concatenate([X, E], axis=1).T, strict=True)) | {"mass": np.arange(float(N))}
WORDS = [
    "nan",
    "inf",
    "",
    "x",
    "--",
    "1,2",
    "1e400",
    "#",
    '"',
    "'",
    "1j",
    "x y z",
    "# %ECSV 1.0",
    "\t",
    "1 2",
    "0",
    "-1",
]
SUFFIXES = (".npz", ".npy", ".csv", ".ecsv", ".txt", ".fits", ".hdf5")


def write(path):
    from astropy.table import Table

    if path.suffix == ".hdf5":
        write_galaxies(path, X, E, LBOX, {"mass": COLUMNS["mass"]}, {"redshift": 0.5})
    elif path.suffix == ".npz":
        np.savez(path, **COLUMNS, Lbox=LBOX)
    elif path.suffix == ".npy":
        np.save(path, np.array(list(zip(*COLUMNS.values(), strict=True)), dtype=[(name, "f8") for name in COLUMNS]))
    else:
        Table(COLUMNS).write(path, format={".txt": "ascii"}.get(path.suffix))
    return path


def usable(galaxies):
    """What comes from a file can be measured: real numbers, one position and one axis a galaxy."""
    x, e = galaxies.positions, galaxies.axes
    good = x.shape == e.shape and x.ndim == 2 and x.shape[1] == 3 and len(x) > 0 and x.dtype == e.dtype == np.float64
    return bool(good and np.isfinite(x).all() and np.isfinite(e).all() and e.any(axis=1).all()) and (
        galaxies.Lbox is None or 0 < galaxies.Lbox < np.inf
    )


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_spoilt_files(fuzz, tmp_path, suffix):
    path = write(tmp_path / f"galaxies{suffix}")
    content = path.read_bytes()

    def make(rng):
        if suffix in (".csv", ".ecsv", ".txt") and rng.random() < 0.7:
            return spoilt_text(rng, content.decode(), WORDS)
        return spoilt_bytes(rng, content, 4000 if rng.random() < 0.5 else None)

    def call(data):
        path.write_bytes(data)
        return read_galaxies(path)

    n = 600 if suffix in (".fits", ".txt", ".ecsv") else 1500
    fuzz(f"read_galaxies, spoilt {suffix}", n, make, call, GalaxyFileError, usable)


def test_columns_of_any_kind(fuzz, tmp_path):
    """One column is not what it should be."""
    path = tmp_path / "galaxies.npz"

    def make(rng):
        name = list(COLUMNS)[rng.integers(len(COLUMNS))]
        value = awkward_tensor(rng, COLUMNS[name]) if rng.random() < 0.7 else awkward_number(rng)
        try:
            return COLUMNS | {name: np.asanyarray(value)}
        except Exception:
            return COLUMNS | {name: np.array("x")}

    def call(columns):
        np.savez(path, **columns)
        return read_galaxies(path, select=["mass >= 0"])

    fuzz("read_galaxies, columns", 1500, make, call, GalaxyFileError, usable)


def test_hdf5_of_any_structure(fuzz, tmp_path):
    path = tmp_path / "galaxies.hdf5"
    tables = [np.array(list(zip(*COLUMNS.values(), strict=True)), dtype=[(name, "f8") for name in COLUMNS])]
    tables += [tables[0][["x", "y", "z"]], tables[0][list(NAMES[3:])], tables[0][: N // 2]]
    places = ["x", "a", "b", "Header", "a/x", "a/y", "a/z", "b/positions", "axes", "galaxy_axisA_x", "positions"]

    def make(rng):
        entries = {}
        for _ in range(rng.integers(1, 5)):
            choices = [*tables, X, E, X[:, 0], np.float64(1), np.array([b"a"] * N), np.ones((N, 3), complex), None]
            entries[places[rng.integers(len(places))]] = choices[rng.integers(len(choices))]
        return entries

    def call(entries):
        with h5py.File(path, "w") as file:
            for place, value in entries.items():
                try:
                    file.create_group(place) if value is None else file.create_dataset(place, data=value)
                except (ValueError, OSError, TypeError):
                    continue
        return read_galaxies(path)

    fuzz("read_galaxies, structure of HDF5", 1500, make, call, GalaxyFileError, usable)


def test_requests(fuzz, tmp_path):
    path = write(tmp_path / "galaxies.npz")
    columns = [*COLUMNS, "", "nothing", "x/y", "/", "\x00", "Lbox"]
    texts = [
        "mass > 3",
        "mass>3",
        "mass >",
        "> 3",
        "mass = 3",
        "mass == nan",
        "mass != 3",
        "mass < 1e400",
        "",
        "a b > 1",
    ]
    texts += ["mass > 1_0", "mass > \u0661", "x >= -1e3", "mass <> 3", "mass > 3 > 2", "x y > 1", "mass >= 59.0"]

    def make(rng):
        def some(n):
            return [columns[k] for k in rng.integers(len(columns), size=n)]

        return {
            "positions": some(rng.integers(4)) if rng.random() < 0.5 else (),
            "axes": some(rng.integers(4)) if rng.random() < 0.5 else (),
            "select": [texts[k] for k in rng.integers(len(texts), size=rng.integers(3))],
            "scale": awkward_number(rng) if rng.random() < 0.5 else 1.0,
        }

    fuzz("read_galaxies, requests", 3000, make, lambda v: read_galaxies(path, **v), GalaxyFileError, usable)


def test_written_galaxies(fuzz, tmp_path):
    path = tmp_path / "galaxies.hdf5"
    start = {"positions": X, "axes": E, "Lbox": LBOX, "columns": {"mass": COLUMNS["mass"]}, "attributes": {"a": 1}}

    def make(rng):
        name = list(start)[rng.integers(5)]
        if name in ("positions", "axes"):
            return start | {name: awkward_tensor(rng, start[name])}
        if name == "Lbox":
            return start | {name: awkward_number(rng)}
        return start | {name: awkward_mapping(rng, start[name]) if rng.random() < 0.8 else awkward_number(rng)}

    def call(values):
        write_galaxies(path, **values)
        return read_galaxies(path)

    fuzz("write_galaxies, and read", 1500, make, call, GalaxyFileError, usable)


def test_measure(fuzz):
    start = dict(positions=X, axes=E, Lbox=LBOX, r_edges=[1.0, 3.0, 6.0], n_regions_per_side=3, statistics=["omega"])
    start |= {"joint": False, "metadata": {"redshift": 0.0}}

    def make(rng):
        name = list(start)[rng.integers(len(start))]
        if name in ("positions", "axes"):
            return start | {name: awkward_tensor(rng, start[name])}
        if name == "r_edges":
            return start | {name: [[1.0, awkward_real(rng)], [awkward_real(rng)], awkward_real(rng)][rng.integers(3)]}
        if name == "metadata" and rng.random() < 0.7:
            return start | {name: awkward_mapping(rng, start[name])}
        if name == "statistics":
            return start | {name: [[], ["xi", "xi"], "eta", "x", ("omega", "eta"), [""], {"xi"}][rng.integers(7)]}
        return start | {name: awkward_number(rng)}

    def check(measurement):
        return all(np.isfinite(bins.value).all() and (bins.error > 0).all() for bins in measurement.bins.values())

    fuzz("measure", 3000, make, lambda values: measure(**values), ValueError, check)


def test_measure_projected(fuzz):
    start = dict(positions=X, axes=E, Lbox=LBOX, rp_edges=[1.0, 3.0, 6.0], pi_max=8.0, lines_of_sight=1)
    start |= {"n_regions_per_side": 3, "statistics": ["w_gg", "xi_gplus_2"], "metadata": {"redshift": 0.0}}
    lines = ["all", "z", 2, 4, [[0.0, 1.0, 1.0]], [[np.nan, 0.0, 0.0]], [], [[]], [1.0, 0.0, 0.0], X, True]
    names = [[], ["w_gg", "w_gg"], "w_plusplus", "xi", ("w_gg", 3), {"w_gplus"}, None]

    def make(rng):
        name = list(start)[rng.integers(len(start))]
        if name in ("positions", "axes"):
            return start | {name: awkward_tensor(rng, start[name])}
        if name == "rp_edges":
            return start | {name: [[1.0, awkward_real(rng)], [awkward_real(rng)], awkward_real(rng)][rng.integers(3)]}
        if name == "lines_of_sight" and rng.random() < 0.7:
            return start | {name: lines[rng.integers(len(lines))]}
        if name == "statistics":
            return start | {name: names[rng.integers(len(names))]}
        return start | {name: awkward_number(rng)}

    def check(measurement):
        return all(np.isfinite(bins.value).all() and (bins.error > 0).all() for bins in measurement.bins.values())

    fuzz("measure_projected", 1500, make, lambda values: measure_projected(**values), ValueError, check)


def awkward_real(rng):
    reals = [value for value in NUMBERS if type(value) in (int, float) and abs(value) < 1e300]
    return reals[rng.integers(len(reals))]


def test_bins_of_the_command(fuzz):
    parts = ["paper", "tng300", "1", "2", "3.5", "nan", "inf", "-1", "", "x", "1e400", "1_0", "\u0661", "1j", " ", "0"]

    def make(rng):
        return ",".join(parts[k] for k in rng.integers(len(parts), size=rng.integers(1, 5)))

    def check(edges):
        return bool(np.isfinite(edges).all() and (np.diff(edges) > 0).all() and edges[0] > 0)

    fuzz("parse_bins", 2000, make, parse_bins, BinningError, check)


# ---------------------------------------------------------------------- mocks


@pytest.fixture(scope="module")
def mocks(pm40):
    pytest.importorskip("halotools")
    from iaemu_training.mocks.halotools import HalotoolsMocks

    return HalotoolsMocks(pm40, [0.5, 2.0, 8.0], ["mu_cen_slope", "mu_sat_slope"])


THETA = dict(mu_cen=0.8, mu_sat=0.5, logMmin=12.0, sigma_logM=0.26, logM0=12.2, logM1=13.2, alpha=1.0)
THETA |= dict(mu_cen_slope=0.2, mu_sat_slope=-0.5)


def sound(galaxies):
    x, e = galaxies.positions, galaxies.axes
    return x.shape == e.shape and np.isfinite(x).all() and (x >= 0).all() and (x < 40).all() and np.isfinite(e).all()


def test_populate(fuzz, mocks):
    def make(rng):
        part = rng.integers(3)
        if part == 0:
            return awkward_mapping(rng, THETA), 1
        if part == 1:
            return [*THETA.values()][: rng.integers(5, 10)] + [awkward_real(rng)] * int(rng.integers(2)), 1
        return THETA, awkward_number(rng)

    # TypeError: of a parameter that is no number, as wherever a point is given.
    documented = (ValueError, KeyError, TypeError)
    fuzz("HalotoolsMocks.populate", 400, make, lambda v: mocks.populate(*v), documented, sound)


def test_realisations(fuzz, mocks):
    def make(rng):
        n, seed, edges = 1, 1, [1.0, 2.0]
        part = rng.integers(3)
        if part == 0:
            n = small(awkward_number(rng))
        elif part == 1:
            seed = awkward_number(rng)
        else:
            edges = [1.0, awkward_real(rng)]
        return THETA, n, seed, edges

    def check(found):
        return np.isfinite(found.DD).all() and len(found) == 1

    fuzz("HalotoolsMocks.realisations", 150, make, lambda v: mocks.realisations(*v), ValueError, check)


def small(value):
    """Not a number of mocks that takes hours."""
    return value if not isinstance(value, int | np.integer) or value < 3 else 1


def test_ensembles(fuzz):
    pytest.importorskip("halotools")
    from iaemu_training.mocks.ensemble import MockEnsemble

    start = dict(catalogues=["pm40"], n_realisations=2, seed=1, seeds="fixed", processes=1, support=None)
    start |= dict(slopes=["mu_sat_slope"], pivot=13.0)

    def make(rng):
        name = list(start)[rng.integers(8)]
        value = awkward_number(rng)
        return start | {name: [value] if name in ("catalogues", "slopes") and rng.random() < 0.5 else value}

    def check(ensemble):
        return ensemble.n_realisations >= 2 and ensemble.processes >= 1 and ensemble.seed >= 0

    documented = (ValueError, FileNotFoundError)
    fuzz("MockEnsemble", 600, make, lambda values: MockEnsemble(**values), documented, check)


# ---------------------------------------------------------------------- command lines


def run(argv):
    """The exit status and what was said; SystemExit is that of argparse, with its message."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        try:
            status = main([*argv])
        except SystemExit as end:
            status = end.code
    if status:
        raise Refused(status, err.getvalue())
    return out.getvalue()


class Refused(Exception):
    """A command that ended with a status and a message of its own, not with a traceback."""

    def __init__(self, status, message):
        super().__init__(message)
        assert status in (1, 2) and "iaemu" in message and "Traceback" not in message


OPTIONS = {
    "--Lbox": ["20", "0", "nan", "1e400", "x", "", "-3", "1e-300"],
    "--positions": ["x y z", "x", "x y", "a b c", "mass"],
    "--axes": ["x y z", "galaxy_axisA_x galaxy_axisA_y galaxy_axisA_z", "axes"],
    "--scale": ["1", "0", "-1", "inf", "0.001", "1e300"],
    "--select": ["mass > 3", "mass >", "nothing > 1", "mass > 1e9", "mass > nan"],
    "--bins": ["0.5,2,5", "paper", "1", "nan,1", "", "5,2", "1e-300,1e-299"],
    "--regions": ["3", "2", "1", "0", "-1", "101", "1e3", "nan", "10" * 200],
    "--statistics": ["xi", "omega eta", "w_gp", "xi xi"],
    "--redshift": ["0.5", "-1", "nan", "x"],
    "--description": ["a: b", "", "\u2028", "\udcff", "# x", "*a"],
    "--joint": [""],
    "--no-plot": [""],
}


def test_command_lines_of_measure(fuzz, tmp_path):
    galaxies = write(tmp_path / "galaxies.hdf5")
    (tmp_path / "folder.txt").mkdir()
    (tmp_path / "text.txt").write_text("not galaxies\n")
    outputs = [
        "own.txt",
        "folder.txt",
        "nowhere/own.txt",
        "own.dat",
        ".txt",
        "galaxies.hdf5",
        "",
        "a\x00.txt",
        "n" * 300,
    ]
    kept = galaxies.read_bytes()

    def make(rng):
        output = outputs[rng.integers(len(outputs))] if rng.random() < 0.3 else "own.txt"
        source = ["nothing.csv", "text.txt", "folder.txt", ""][rng.integers(4)] if rng.random() < 0.1 else galaxies.name
        argv = ["measure", str(tmp_path / source), "-o", str(tmp_path / output), "--bins", "0.5,3,6", "--regions", "2"]
        argv += ["--no-plot"] if rng.random() < 0.97 else []
        for _ in range(rng.integers(3)):
            name = list(OPTIONS)[rng.integers(len(OPTIONS))]
            argv += [name, *OPTIONS[name][rng.integers(len(OPTIONS[name]))].split(" ")]
        return [word for word in argv if word != ""] if rng.random() < 0.9 else argv

    def call(argv):
        for file in tmp_path.glob("own*"):
            file.unlink()
        try:
            run(argv)
        except Refused:
            # Nothing is left of what was refused.
            left = {file.name for file in tmp_path.iterdir()} - {"galaxies.hdf5", "folder.txt", "text.txt", ".txt"}
            assert not left and galaxies.read_bytes() == kept, left
            raise
        output = argv[argv.index("-o") + 1]
        return Measurement.read(output)

    def check(measurement):
        return all(np.isfinite(bins.value).all() for bins in measurement.bins.values())

    fuzz("iaemu measure", 1500, make, call, Refused, check)


def test_command_lines_of_mock(fuzz, tmp_path):
    pytest.importorskip("halotools")
    (tmp_path / "folder.hdf5").mkdir()
    (tmp_path / "text.hdf5").write_text("mine\n")
    outputs = ["mock.hdf5", "mock.hdf5", "folder.hdf5", "text.hdf5", "nowhere/m.hdf5", "mock.csv", "", "m\x00.hdf5"]
    words = ["0.5", "1", "-2", "nan", "1e400", "x", "", "13", "1j", "1_0"]

    def make(rng):
        argv = ["mock", str(tmp_path / outputs[rng.integers(len(outputs))]), "-c", "pm40"]
        argv += ["--mu_cen", "0.5", "--mu_sat", "0.5"]
        for _ in range(rng.integers(1, 3)):
            name = ["--mu_cen", "--logMmin", "--sigma_logM", "--alpha", "--seed", "--catalogue", "--logM1"][
                rng.integers(7)
            ]
            argv += [name, words[rng.integers(len(words))]]
        return argv

    def call(argv):
        shutil.rmtree(tmp_path / "mock.hdf5", ignore_errors=True)
        (tmp_path / "mock.hdf5").unlink(missing_ok=True)
        try:
            run(argv)
        finally:
            assert (tmp_path / "text.hdf5").read_text() == "mine\n"
            assert {file.name for file in tmp_path.iterdir()} <= {"mock.hdf5", "folder.hdf5", "text.hdf5"}
        return read_galaxies(argv[1])

    fuzz("iaemu mock", 400, make, call, Refused, usable)
