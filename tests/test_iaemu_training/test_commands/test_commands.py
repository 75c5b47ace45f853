"""``iaemu mock`` and ``iaemu measure``, one after the other."""

import json
import shutil
import subprocess
import sys
import time

import numpy as np
import pytest

pytest.importorskip("numba")
pytest.importorskip("h5py")

import h5py

from iaemu.files import sha256_of_file
from iaemu.measurement import Measurement
from iaemu.parameters import PARAMETERS, SLOPES
from iaemu_cobaya.commands.door import main
from iaemu_training.halos.catalogue import HaloCatalogue
from iaemu_training.measuring.galaxy_files import read_galaxies, write_galaxies
from iaemu_training.mocks.halotools import HalotoolsMocks


@pytest.fixture
def catalogue(tmp_path):
    rng = np.random.default_rng(0)
    centres = np.repeat(rng.uniform(0, 40, (120, 3)), 8, axis=0)
    positions = np.mod(centres + rng.normal(scale=0.7, size=centres.shape), 40)
    mass = np.tile(np.arange(8.0), 120)
    path = tmp_path / "galaxies.hdf5"
    write_galaxies(path, positions, rng.normal(size=positions.shape), 40.0, {"mass": mass}, {"redshift": 0.3})
    return path


def test_a_mock_is_measured(tmp_path, capsys):
    pytest.importorskip("halotools")
    mock = tmp_path / "mock.hdf5"
    arguments = ["-c", "pm40", "--mu_cen", "0.8", "--mu_sat", "0.3", "--logMmin", "12.0", "--sigma_logM", "0.2"]
    arguments += ["--logM0", "11.8", "--logM1", "13.0"]
    assert main(["mock", str(mock), *arguments, "--seed", "4"]) == 0
    galaxies = read_galaxies(mock)
    assert galaxies.Lbox == 40.0
    assert galaxies.metadata["mu_cen"] == 0.8 and galaxies.metadata["alpha"] == 1.0 and galaxies.metadata["seed"] == 4
    before = mock.read_bytes()
    assert main(["mock", str(mock), *arguments, "--seed", "5"]) == 1
    assert "mock.hdf5 exists; give --force to replace it" in capsys.readouterr().err
    assert mock.read_bytes() == before
    assert main(["mock", str(mock), *arguments, "--seed", "4", "--force"]) == 0
    assert np.array_equal(read_galaxies(mock).axes, galaxies.axes)
    out = tmp_path / "own.txt"
    assert main(["measure", str(mock), "-o", str(out), "--bins", "0.3,1,3,10", "--regions", "3"]) == 0
    measured = Measurement.read(out)
    assert measured.metadata["source_sha256"] == sha256_of_file(mock)
    assert measured.metadata["redshift"] == 0 and measured.metadata["source"] == "mock.hdf5"
    assert len(measured.covariances) == 3
    assert (tmp_path / "own.png").is_file()
    assert "omega" in capsys.readouterr().out


def test_a_mock_has_the_slopes_of_its_strengths(tmp_path, capsys):
    pytest.importorskip("halotools")
    common = [
        "-c",
        "pm40",
        "--mu-cen",
        "0.6",
        "--mu-sat",
        "0.3",
        "--logMmin",
        "12.0",
        "--logM0",
        "11.8",
        "--logM1",
        "13",
    ]
    laws = ["--mu-cen-slope", "0.2", "--mu-sat-slope", "-0.7", "--pivot", "12.5"]
    flat, steep = tmp_path / "flat.hdf5", tmp_path / "steep.hdf5"
    assert main(["mock", str(flat), *common]) == main(["mock", str(steep), *common, *laws]) == 0
    assert "cannot find its parameters" not in capsys.readouterr().err
    flat, steep = read_galaxies(flat), read_galaxies(steep)
    assert {"mu_cen_slope", "pivot"}.isdisjoint(flat.metadata)
    found = [steep.metadata[name] for name in ("mu_cen_slope", "mu_sat_slope", "pivot")]
    assert found == [0.2, -0.7, 12.5]
    assert np.array_equal(flat.positions, steep.positions) and not np.array_equal(flat.axes, steep.axes)
    theta = dict(zip(PARAMETERS, (0.6, 0.3, 12.0, 0.26, 11.8, 13.0, 1.0), strict=True))
    theta |= {"mu_cen_slope": 0.2, "mu_sat_slope": -0.7}
    expected = HalotoolsMocks(HaloCatalogue.load("pm40"), slopes=SLOPES, pivot=12.5).populate(theta, 1)
    assert np.array_equal(expected.axes, steep.axes)
    assert main(["mock", str(tmp_path / "far.hdf5"), *common, "--mu-sat-slope", "-3"]) == 0
    assert "mu_sat_slope = -3 is outside" in capsys.readouterr().err


def test_options_reach_the_measurement(catalogue, tmp_path):
    out = tmp_path / "own.txt"
    options = ["--bins", "0.5,2,8", "--regions", "3", "--statistics", "omega", "eta", "--joint", "--no-plot"]
    options += ["--select", "mass > 1", "--select", "mass < 6", "--description", "mine: a test", "--redshift", "1"]
    assert main(["measure", str(catalogue), "-o", str(out), *options]) == 0
    measured = Measurement.read(out)
    assert measured.statistics == ("omega", "eta")
    assert measured.covariances[0].statistics == ("omega", "eta")
    assert measured.metadata["selection"] == ["mass > 1", "mass < 6"]
    assert measured.metadata["n_galaxies"] == 480
    assert (measured.metadata["description"], measured.metadata["redshift"]) == ("mine: a test", 1.0)
    assert not (tmp_path / "own.png").exists()


def test_projected_statistics_are_measured(catalogue, tmp_path, capsys):
    out = tmp_path / "own.txt"
    options = ["--projected", "--pi-max", "12", "--bins", "1,2,4,8", "--regions", "3"]
    assert main(["measure", str(catalogue), "-o", str(out), *options, "--json"]) == 0
    measured, printed = Measurement.read(out), json.loads(capsys.readouterr().out)
    assert measured.statistics == ("w_gg", "w_gplus")
    assert [covariance.statistics for covariance in measured.covariances] == [("w_gg", "w_gplus")]
    assert measured.metadata["pi_max"] == 12 and measured.metadata["lines_of_sight"] == np.eye(3).tolist()
    assert printed["bins"]["w_gplus"]["value"] == measured.bins["w_gplus"].value.tolist()
    assert (tmp_path / "own.png").is_file()
    options += ["--all-lines-of-sight", "--statistics", "xi_gplus_2", "w_gg", "--no-plot"]
    assert main(["measure", str(catalogue), "-o", str(out), *options]) == 0
    again = Measurement.read(out)
    assert again.statistics == ("w_gg", "xi_gplus_2") and again.metadata["lines_of_sight"] == "all"
    apart = np.abs(again.bins["w_gg"].value - measured.bins["w_gg"].value)
    assert np.all(apart < 3 * measured.bins["w_gg"].error)


def test_notes_are_printed(catalogue, tmp_path, capsys):
    out = tmp_path / "own.txt"
    assert main(["measure", str(catalogue), "-o", str(out), "--regions", "2", "--no-plot"]) == 0
    assert "iaemu measure: xi: errors only" in capsys.readouterr().err
    assert not Measurement.read(out).covariances


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--axes", "a", "b", "c"], "no column a, b, c (--axes). It has: galaxy_axisA_x"),
        (["--bins", "few"], "--bins few: give paper, tng300"),
        (["--regions", "4"], "at most 2 regions along a side"),
        (["--Lbox", "10"], "Lbox / 2"),
        (["-o", "nowhere/own.txt"], "The folder nowhere does not exist"),
        (["-o", "own.png"], "own.png: name the file .txt"),
        (["--projected", "--bins", "1,8"], "pi_max is missing, the largest separation along the line of sight"),
        (["--projected", "--bins", "1,8", "--pi-max", "25"], "it may be up to 20 Mpc/h"),
        (["--projected", "--bins", "1,8", "--pi-max", "9", "--statistics", "eta"], "xi_gplus_2; got eta"),
        (["--pi-max", "9", "--statistics", "w_gg"], "--pi-max, w_gg: only with --projected"),
    ],
)
def test_errors_end_in_one_line_and_write_nothing(catalogue, tmp_path, capsys, arguments, message):
    assert main(["measure", str(catalogue), "-o", str(tmp_path / "own.txt"), *arguments]) == 1
    error = capsys.readouterr().err
    assert message in error and error.startswith("iaemu measure: ") and error.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["galaxies.hdf5"]


def test_the_side_of_the_box_must_be_known(tmp_path, capsys):
    np.savez(tmp_path / "g.npz", positions=np.ones((5, 3)), axes=np.ones((5, 3)))
    assert main(["measure", str(tmp_path / "g.npz"), "-o", str(tmp_path / "own.txt")]) == 1
    assert "give --lbox" in capsys.readouterr().err


def test_mocks_of_bad_parameters_write_nothing(tmp_path, capsys):
    pytest.importorskip("halotools")
    arguments = ["mock", str(tmp_path / "m.hdf5"), "-c", "pm40", "--mu_sat", "0"]
    with pytest.raises(SystemExit):
        main([*arguments, "--mu_cen", "1.5"])
    assert "--mu-cen: it must be a number, at least -1 and at most 1; got 1.5" in capsys.readouterr().err
    assert main(["mock", str(tmp_path / "m.csv"), "--mu_cen", "0", "--mu_sat", "0"]) == 1
    assert "m.csv: name the file .hdf5 or .h5" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_mocks_without_galaxies_or_beyond_the_emulator_are_named(tmp_path, capsys):
    pytest.importorskip("halotools")
    out = tmp_path / "mock.hdf5"
    strengths = ["-c", "pm40", "--mu_cen", "0.8", "--mu_sat", "0.3"]
    assert main(["mock", str(out), *strengths, "--logMmin", "15", "--logM0", "15", "--logM1", "16"]) == 1
    assert "No halo of pm40 got a galaxy at logMmin = 15" in capsys.readouterr().err
    assert not out.exists()
    assert main(["mock", str(out), *strengths, "--logMmin", "12", "--alpha", "2"]) == 0
    assert "alpha = 2" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["mock", str(out), *strengths, "--seed", "-1"])
    assert "argument --seed: it must be a whole number, at least 0" in capsys.readouterr().err


def test_an_output_that_is_the_input_is_refused(catalogue, tmp_path, capsys):
    pytest.importorskip("halotools")
    text = tmp_path / "galaxies.txt"
    text.write_text("x y z\n1 2 3\n")
    for path, arguments in (
        (text, ["measure", str(text), "-o", str(tmp_path / "." / "galaxies.txt"), "--Lbox", "40"]),
        (catalogue, ["mock", str(catalogue), "-c", str(catalogue), "--mu_cen", "0", "--mu_sat", "0"]),
    ):
        before = path.read_bytes()
        assert main(arguments) == 1
        assert "is the catalogue itself" in capsys.readouterr().err
        assert path.read_bytes() == before


# ---------------------------------------------------------------------- full disks, closed pipes, kills

#: Runs ``iaemu`` where no file can grow beyond a limit, as on a full disk or at the end of a quota.
LIMITED = """
import resource, sys
from iaemu_cobaya.commands.door import main
import iaemu_training.measuring.estimators, iaemu_training.mocks.halotools
limit = int(sys.argv.pop(1))
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
sys.exit(main())
"""
MOCK = ["-c", "pm40", "--mu_cen", "0.8", "--mu_sat", "0.3", "--logMmin", "12.0", "--logM0", "11.8", "--logM1", "13.0"]


def limited(limit, *arguments, **keywords):
    command = [sys.executable, "-c", LIMITED, str(limit), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=200, **keywords)


@pytest.mark.parametrize("older", [pytest.param(None, marks=pytest.mark.slow), b"an older mock"])
def test_a_mock_on_a_full_disk_is_an_error_in_one_line_and_an_older_file_stays(tmp_path, older):
    pytest.importorskip("halotools")
    out = tmp_path / "mock.hdf5"
    if older:
        out.write_bytes(older)
    done = limited(20_000, "mock", out, *MOCK, "--force")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("iaemu mock: ") and done.stderr.count("\n") == 1 and "too large" in done.stderr
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == ({"mock.hdf5": older} if older else {})


# the first covariance, the table, the picture
@pytest.mark.parametrize(
    "limit", [pytest.param(200, marks=pytest.mark.slow), 1500, pytest.param(8000, marks=pytest.mark.slow)]
)
def test_a_measurement_on_a_full_disk_leaves_the_older_one(catalogue, tmp_path, limit):
    out = tmp_path / "own.txt"
    arguments = ["measure", catalogue, "-o", out, "--regions", "3"]
    assert main([*map(str, arguments), "--bins", "0.5,2,4,6,8"]) == 0
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    done = limited(limit, *arguments, "--bins", "1,3,8", "--joint")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("iaemu measure: ") and done.stderr.count("\n") == 1
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before
    Measurement.read(out)


def test_outputs_that_are_folders_are_named_before_anything_is_read(tmp_path, capsys):
    for name in ("own.txt", "other.png"):
        (tmp_path / name).mkdir()
    for output in ("own.txt", "other.txt"):
        assert main(["measure", str(tmp_path / "nothing.hdf5"), "-o", str(tmp_path / output)]) == 1
        error = capsys.readouterr().err
        assert "is a folder" in error and error.count("\n") == 1
    assert sorted(file.name for file in tmp_path.iterdir()) == ["other.png", "own.txt"]


def test_whoever_reads_the_table_may_go_away(catalogue, tmp_path):
    out = tmp_path / "own.txt"
    command = f"'{sys.executable}' -c 'from iaemu_cobaya.commands.door import main; raise SystemExit(main())' "
    command += f"measure '{catalogue}' -o '{out}' --regions 3 --bins 1,2,3,4,5,6,7,8 --no-plot"
    done = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {command} | true"], capture_output=True, text=True, timeout=200
    )
    assert (done.returncode, done.stderr) == (141, "")
    assert len(Measurement.read(out).covariances) == 3


def test_two_tables_in_a_file_are_an_error_that_names_both(catalogue, tmp_path, capsys):
    with h5py.File(catalogue) as file, h5py.File(tmp_path / "two.hdf5", "w") as two:
        two.attrs["Lbox"] = 40.0
        for name, values in file.items():
            two[f"galaxies/{name}"] = values[()]
        for name in "xyz":
            two[f"halos/{name}"] = np.random.default_rng(1).uniform(0, 40, len(file["x"]))
    arguments = [
        "measure",
        str(tmp_path / "two.hdf5"),
        "-o",
        str(tmp_path / "own.txt"),
        "--bins",
        "0.5,2,8",
        "--no-plot",
    ]
    arguments += ["--regions", "3"]
    assert main(arguments) == 1
    assert "are in the table galaxies and the table halos" in capsys.readouterr().err
    assert main([*arguments, "--positions", "galaxies/x", "galaxies/y", "galaxies/z", "--select", "mass > 1"]) == 0
    select = ["--select", "mass > 1"]
    assert main(["measure", str(catalogue), "-o", str(tmp_path / "one.txt"), *arguments[4:], *select]) == 0
    one, two = (Measurement.read(tmp_path / name) for name in ("one.txt", "own.txt"))
    assert np.array_equal(one.bins["xi"].value, two.bins["xi"].value) and one.bins["xi"].value[0] > 5


def test_galaxies_outside_of_the_box_by_rounding_are_noted(tmp_path, capsys):
    rng = np.random.default_rng(2)
    x = rng.uniform(0, 40, (800, 3))
    x[0] = -1e-5, 40 * (1 + 1e-7), 40.0
    np.savez(tmp_path / "g.npz", positions=x, axes=rng.normal(size=x.shape), Lbox=40.0)
    arguments = ["-o", str(tmp_path / "own.txt"), "--bins", "2,4,8", "--regions", "3", "--no-plot"]
    assert main(["measure", str(tmp_path / "g.npz"), *arguments]) == 0
    assert "iaemu measure: 1 galaxies outside the box by a rounding error were wrapped" in capsys.readouterr().err
    assert "outside the box" in Measurement.read(tmp_path / "own.txt").metadata["notes"][0]
    x[0, 0] = -0.01
    np.savez(tmp_path / "g.npz", positions=x, axes=rng.normal(size=x.shape), Lbox=40.0)
    assert main(["measure", str(tmp_path / "g.npz"), *arguments]) == 1
    assert "1 positions lie outside the box [0, 40] Mpc/h" in capsys.readouterr().err


@pytest.mark.slow
def test_kills_leave_the_older_or_the_new_measurement_and_it_can_be_run_again(catalogue, tmp_path):
    def command(output, *options):
        program = "from iaemu_cobaya.commands.door import main; raise SystemExit(main())"
        return [sys.executable, "-c", program, "measure", str(catalogue), "-o", str(output), "--regions", "3", *options]

    old, new = ["--bins", "0.5,2,4,6,8", "--joint"], ["--bins", "1,3,8"]
    folders = [tmp_path / name for name in ("old", "new", "work")]
    for folder in folders:
        folder.mkdir()
    start = time.perf_counter()
    for folder, options in zip(folders, (old, new), strict=False):
        subprocess.run(command(folder / "own.txt", *options), check=True, capture_output=True)
    seconds = 0.5 * (time.perf_counter() - start)
    before, after = ({file.name: file.read_bytes() for file in folder.iterdir()} for folder in folders[:2])
    texts = {folder.name: Measurement.read(folder / "own.txt").bins["xi"].value.tolist() for folder in folders[:2]}
    rng, work, killed = np.random.default_rng(1), folders[2], 0
    for number in range(20):
        shutil.rmtree(work)
        shutil.copytree(folders[0], work)
        process = subprocess.Popen(
            command(work / "own.txt", *new), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        if number % 2:
            time.sleep(rng.uniform(0, 1.1 * seconds))
        else:  # when the first file of it appears: while it writes
            while process.poll() is None and len(list(work.iterdir())) <= len(before):
                pass
            time.sleep(rng.uniform(0, 0.03))
        process.kill()
        killed += process.wait() == -9
        found = Measurement.read(work / "own.txt")
        name = "old" if found.bins["xi"].value.tolist() == texts["old"] else "new"
        assert found.bins["xi"].value.tolist() == texts[name]
        assert len(found.covariances) == (1 if name == "old" else 3)
        subprocess.run(command(work / "own.txt", *new), check=True, capture_output=True)
        assert {file.name: file.read_bytes() for file in work.iterdir()} == after
    assert killed >= 10
