"""``iaemu mock`` and ``iaemu measure``, one after the other."""

import numpy as np
import pytest

pytest.importorskip("numba")

from iaemu.files import sha256_of_file
from iaemu.measurement import Measurement
from iaemu_training.commands.iaemu import main
from iaemu_training.measuring.galaxy_files import read_galaxies, write_galaxies


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
        (["--regions", "4"], "at most 2 regions a side"),
        (["--Lbox", "10"], "Lbox / 2"),
        (["-o", "nowhere/own.txt"], "The folder nowhere does not exist"),
        (["-o", "own.png"], "own.png: measurements are text; name the file .txt"),
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
    assert "give --Lbox" in capsys.readouterr().err


def test_mocks_of_bad_parameters_write_nothing(tmp_path, capsys):
    pytest.importorskip("halotools")
    arguments = ["mock", str(tmp_path / "m.hdf5"), "-c", "pm40", "--mu_sat", "0"]
    assert main([*arguments, "--mu_cen", "1.5"]) == 1
    assert "mu_cen = 1.5 must lie in [-1, 1]" in capsys.readouterr().err
    assert main(["mock", str(tmp_path / "m.csv"), "--mu_cen", "0", "--mu_sat", "0"]) == 1
    assert "HDF5" in capsys.readouterr().err
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
