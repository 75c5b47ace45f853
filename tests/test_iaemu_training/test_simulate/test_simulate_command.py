"""The command from start to end: resuming, refusals, names, and what its catalogues state."""

import json
import subprocess
import sys

import numpy as np
import pytest

from iaemu_training.commands.iaemu_train import main
from iaemu_training.halos.catalogue import HaloCatalogue
from iaemu_training.halos.cosmology import BOLSHOI_PLANCK, Cosmology
from iaemu_training.simulate import run
from iaemu_training.simulate.box import Simulation, SimulationError, simulate_particles
from iaemu_training.simulate.run import at_a_time, boxes
from iaemu_training.work.cluster import available_cores

SMALL = ["--box", "60", "--particles", "32", "--mesh", "64"]


def particles(folder):
    return {path.name: np.load(path) for path in sorted(folder.glob("particles_*.npy"))}


@pytest.fixture(scope="module")
def simulation():
    return Simulation(60.0, 32, 64, redshifts=(0.0, 0.5), seed=4)


@pytest.fixture(scope="module")
def uninterrupted(simulation, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole") / "box"
    simulate_particles(simulation, folder, progress=False)
    return folder


class Stop(Exception):
    pass


def test_stopped_and_resumed_equals_uninterrupted(simulation, uninterrupted, tmp_path, monkeypatch):
    from iaemu_training.simulate import box

    whole, write, left = particles(uninterrupted), box._write_state, [5]

    def write_some(*arguments):
        write(*arguments)
        left[0] -= 1
        if not left[0]:
            raise Stop

    folder = tmp_path / "box"
    monkeypatch.setattr(box, "_write_state", write_some)
    for _ in range(2):
        left[0] = 12
        with pytest.raises(Stop):
            simulate_particles(simulation, folder, progress=False)
        assert len(list(folder.glob("state-*.npy"))) == 1
    monkeypatch.setattr(box, "_write_state", write)
    simulate_particles(simulation, folder, progress=False)
    found = particles(folder)
    assert found.keys() == whole.keys() and len(found) == 2
    assert all(np.array_equal(found[name], whole[name]) for name in whole)
    assert not list(folder.glob("state-*"))


@pytest.mark.slow
def test_a_full_disk_loses_one_step(simulation, uninterrupted, tmp_path):
    folder = tmp_path / "box"
    script = (
        "import resource, signal, sys; from pathlib import Path\n"
        "from iaemu_training.simulate import box\n"
        "write, steps = box._write_state, [0]\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "def short(folder, step, state):\n"
        "    steps[0] += 1\n"
        "    if steps[0] == 6:\n"
        "        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))\n"
        "    write(folder, step, state)\n"
        "box._write_state = short\n"
        "settings = box.Simulation(60.0, 32, 64, redshifts=(0.0, 0.5), seed=4)\n"
        f"box.simulate_particles(settings, Path({str(folder)!r}), False)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 1 and "File too large" in done.stderr
    assert [path.name for path in folder.glob("state-*")] == ["state-0005.npy"]
    simulate_particles(simulation, folder, progress=False)
    whole = particles(uninterrupted)
    assert all(np.array_equal(array, whole[name]) for name, array in particles(folder).items())


def test_a_pair_at_two_redshifts(tmp_path, capsys):
    folder = tmp_path / "pm"
    argv = ["simulate", str(folder), *SMALL, "--redshifts", "0", "0.5", "--paired", "--seed", "3"]
    assert main([*argv, "--keep-particles"]) == 0
    assert "2 box(es): 32^3 particles on a mesh of 64^3 take" in capsys.readouterr().out
    files = ["pma.hdf5", "pma-z0.5.hdf5", "pmb.hdf5", "pmb-z0.5.hdf5"]
    assert sorted(path.name for path in folder.glob("*.hdf5")) == sorted(files)
    found = {name: HaloCatalogue.load(folder / name) for name in files}
    for name, catalogue in found.items():
        stated = catalogue.attributes
        assert catalogue.name == name.removesuffix(".hdf5") and catalogue.Lbox == 60.0
        assert stated["redshift"] == (0.5 if "z0.5" in name else 0.0)
        assert (stated["Om0"], stated["sigma8"], stated["h"]) == (0.30711, 0.8228, 0.678)
        assert json.loads(stated["simulation"])["sign"] == (-1 if name.startswith("pmb") else 1)
        assert json.loads(stated["halos"])["mass_function"] == "tinker08" and "colossus" in stated["versions"]
        assert catalogue.velocity.shape == catalogue.position.shape and 100 < catalogue.velocity.std() < 500
        assert catalogue.mass[0] >= 40 * stated["particle_mass"]
        distance = np.linalg.norm(catalogue.offset, axis=1)
        assert np.all(distance <= catalogue.virial_radius[catalogue.subhalo_host] * (1 + 1e-4))
    # Masses are by rank, so both boxes of a pair have the same; velocities of the pair are opposite on large scales.
    assert found["pma.hdf5"].mass[-20:] == pytest.approx(found["pmb.hdf5"].mass[-20:])
    # Run again, nothing is done, and files are kept; other settings are refused.
    stamps = {name: (folder / name).stat().st_mtime_ns for name in files}
    assert main([*argv, "--keep-particles"]) == 0
    assert stamps == {name: (folder / name).stat().st_mtime_ns for name in files}
    capsys.readouterr()
    assert main([*argv[:-1], "9"]) == 1
    assert "pma.hdf5 was made with other settings: simulation is" in capsys.readouterr().err
    # Of particles that were kept, the catalogues are the same again.
    (folder / "pmb-z0.5.hdf5").unlink()
    assert main(argv) == 0
    again = HaloCatalogue.load(folder / "pmb-z0.5.hdf5")
    assert again.sha256 == found["pmb-z0.5.hdf5"].sha256
    assert not (folder / "pmb").exists()  # particles go unless they are to be kept


@pytest.mark.parametrize(
    "options, message",
    [
        (["--cosmology", "nowhere"], "No cosmology or file is called 'nowhere'"),
        (["--cosmology", "Om=3"], "Om must be a number, at least 0.05 and at most 1; got 3.0"),
        (["--cosmology", "omega=0.3"], "there is no parameter 'omega'; the parameters are Om, Ob, h, sigma8, ns"),
        (["--cosmology", "Om=low"], "Om must be a number; got 'low'"),
        (["--cosmology", "Om=0.04"], "Om must be"),
        (["--cosmology", "Om=0.3 Om=0.4"], "Om=0.3 Om=0.4: Om is stated twice"),
        (["--cosmology", "bolplanck", "sigma8=0.8228"], "bolplanck and sigma8_0.8228 are the same"),
        (["--cosmology", "h=0.7", "h = 0.7"], "'h = 0.7' would give boxes the same name as another, h_0.7"),
        (["--redshifts=-0.5"], "must be a number, at least 0 and at most 20; got -0.5"),
        (["--redshifts", "0.3", "0.3"], "redshifts must differ by 0.01 or more"),
        (["--particles", "33"], "particles and mesh must be even"),
        (["--mesh", "512"], "mesh within 1 to 4 times particles; got 32 and 512"),
        (["--box", "1"], "at least 5 and at most 5000"),
        (["--seed", "1", "1"], "Each seed gives one box; got 1, 1"),
        (["--particles", "4096", "--mesh", "8192"], "There is too little memory: 4096^3 particles on a mesh of 8192^3"),
        (["--mass-function", "mine"], "The mass function must be one of"),
        (["--apart", "9"], "at most 5"),
    ],
)
def test_what_cannot_be_simulated_is_refused(options, message, tmp_path, capsys):
    try:
        assert main(["simulate", str(tmp_path / "out"), *SMALL, *options]) == 1
    except SystemExit as stopped:  # argparse
        assert stopped.code == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.glob("out/*.hdf5"))


def test_too_little_disk_is_refused_with_the_figures(tmp_path):
    with pytest.raises(SimulationError, match=r"too little disk: .* up to 9\.7 GB of disk \(1\.0 GB are free\)"):
        Simulation().check_resources(tmp_path, memory=10**11, disk=10**9)


def test_boxes_have_names_of_their_own():
    found = boxes("grid", Simulation(), [1, 2], {"a": BOLSHOI_PLANCK, "b": Cosmology.read("sigma8=0.9")}, paired=True)
    assert list(found) == ["grid-a-1a", "grid-a-1b", "grid-a-2a", "grid-a-2b", "grid-b-1a", "grid-b-1b", "grid-b-2a",
                           "grid-b-2b"]  # fmt: skip
    assert found["grid-b-2b"].cosmology.sigma8 == 0.9 and found["grid-b-2b"].seed == 2 and found["grid-b-2b"].sign == -1


def test_boxes_at_a_time_are_no_more_than_there_are():
    assert at_a_time(5, 2, "local") == at_a_time(2, 8, None) == 2
    assert at_a_time(100, None, "local") == available_cores()
    assert at_a_time(5, None, "slurm") is None


def test_an_error_in_one_box_ends_the_run(tmp_path, monkeypatch):
    begun = []

    def fail(folder, settings, keep, n_threads, progress, box, simulation):
        begun.append(box)
        raise OSError("No space left on device")

    monkeypatch.setattr(run, "_run_box", fail)
    with pytest.raises(OSError, match="No space left"):
        run.simulate(tmp_path / "out", {"a": Simulation(seed=1), "b": Simulation(seed=2)}, progress=False)
    assert begun == ["a"]


@pytest.mark.slow
def test_boxes_on_dask_are_those_of_this_process(tmp_path, capsys):
    cosmologies = ["--cosmology", "sigma8=0.74", "sigma8=0.9"]
    assert main(["simulate", str(tmp_path / "grid"), *SMALL, *cosmologies, "--dask", "local", "--workers", "2"]) == 0
    assert "2 box(es): 32^3 particles on a mesh of 64^3, 2 at a time, take" in capsys.readouterr().out
    names = ["grid-sigma8_0.74.hdf5", "grid-sigma8_0.9.hdf5"]
    assert sorted(path.name for path in (tmp_path / "grid").iterdir()) == names
    low, high = (HaloCatalogue.load(tmp_path / "grid" / name) for name in names)
    assert (low.attributes["sigma8"], high.attributes["sigma8"]) == (0.74, 0.9)
    assert high.mass[-20:].mean() > 1.1 * low.mass[-20:].mean()  # the same phases, of larger amplitude
    assert main(["simulate", str(tmp_path / "alone"), *SMALL, "--cosmology", "sigma8=0.9"]) == 0
    alone = HaloCatalogue.load(tmp_path / "alone" / "alone.hdf5")
    assert np.array_equal(alone.position, high.position) and np.array_equal(alone.axis, high.axis)


def test_cosmologies_by_name_file_and_parameters(tmp_path):
    assert Cosmology.read("bolplanck") == BOLSHOI_PLANCK
    assert Cosmology.read("planck18").Om == pytest.approx(0.3111)
    assert Cosmology.read("Om=0.3, h=0.7") == Cosmology(0.3, 0.048, 0.7, 0.8228, 0.96)
    assert Cosmology.read(" Om = 0.3 h= 0.7 ") == Cosmology.read("Om=0.3, h=0.7")
    path = tmp_path / "mine.yaml"
    path.write_text("{Om: 0.3, Ob: 0.05, h: 0.7, sigma8: 0.8, ns: 0.97}")
    assert Cosmology.read(str(path)) == Cosmology(0.3, 0.05, 0.7, 0.8, 0.97)
    path.write_text("{Om: 0.3}")
    with pytest.raises(ValueError, match="lacks Ob, h, sigma8, ns"):
        Cosmology.read(str(path))
