"""The program ``iaemu``: one door, old names, common options, exit codes, completion, and what needs no extra."""

import argparse
import importlib
import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from cobaya.run import run

from iaemu import __version__
from iaemu_cobaya.chains.reading import BURN_IN
from iaemu_cobaya.commands import convert, door, plot
from iaemu_training.commands import iaemu_train
from iaemu_training.commands.options import read_options

#: Refuses the libraries of the extra "training".
WITHOUT_EXTRA = """
import sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"halotools", "numba", "h5py", "docstring_parser", "lightning", "astropy"}:
            raise ImportError(f"No module named {name!r}")

sys.meta_path.insert(0, Refuse())
from iaemu_cobaya.commands.door import main
sys.exit(main())
"""
COMMANDS = {name: command.module for group in door.GROUPS.values() for name, command in group.items()}


def iaemu(*argv, code="import sys; from iaemu_cobaya.commands.door import main; sys.exit(main())"):
    return subprocess.run([sys.executable, "-c", code, *map(str, argv)], capture_output=True, text=True)


@pytest.fixture(scope="module")
def chain(tmp_path_factory):
    """A short chain of two parameters."""
    prior = {"prior": {"min": -1, "max": 1}, "proposal": 0.1}
    root = tmp_path_factory.mktemp("chains") / "run"
    run(
        {
            "likelihood": {
                "one": {"external": "lambda mu_cen, mu_sat: -200 * ((mu_cen - 0.5) ** 2 + (mu_sat - 0.3) ** 2)"}
            },
            "params": {"mu_cen": {**prior, "ref": 0.5}, "mu_sat": {**prior, "ref": 0.3}},
            "sampler": {"mcmc": {"max_samples": 400, "seed": 1}},
            "output": str(root),
        }
    )
    return root


# ---------------------------------------------------------------------- door and aliases


def test_the_door_lists_all_commands_and_exit_codes(capsys):
    for argv, main in ((["--help"], door.main), (["train", "--help"], door.main), (["--help"], iaemu_train.main)):
        with pytest.raises(SystemExit) as end:
            main(argv)
        text = capsys.readouterr().out
        assert end.value.code == 0 and all(f"  {code}" in text for code in (0, 1, 2, 130, 141))
        assert all(
            f"    {name.removeprefix('train ') if 'Intrinsic' not in text else name} " in text
            for name in COMMANDS
            if name.startswith("train") or "Intrinsic" in text
        )


@pytest.mark.parametrize("argv", [["--help"], ["plot", "--help"], ["--version"], ["convert", "--help"]])
def test_help_is_fast(argv):
    code = "import sys, time, resource; from iaemu_cobaya.commands.door import main\ntry: main()\nfinally: "
    code += "print(sum(resource.getrusage(resource.RUSAGE_SELF)[:2]), file=sys.stderr)"
    began = time.perf_counter()
    done = iaemu(*argv, code=code)
    assert done.returncode == 0 and float(done.stderr) < 0.5, (done.stderr, time.perf_counter() - began)


def test_version(capsys):
    programs = (door.main, door.plot, door.reproduce, iaemu_train.main)
    for main, argv in [*((main, []) for main in programs), (door.main, ["train"]), (door.main, ["plot"])]:
        with pytest.raises(SystemExit) as end:
            main([*argv, "--version"])
        assert end.value.code == 0 and capsys.readouterr().out == f"iaemu {__version__}\n"


@pytest.mark.parametrize(
    ("alias", "argv"),
    [
        (door.plot, ["plot"]),
        (door.reproduce, ["reproduce"]),
        *((lambda argv, name=name: iaemu_train.main([name, *argv]), ["train", name]) for name in iaemu_train.COMMANDS),
    ],
)
def test_aliases_have_the_same_options(alias, argv, capsys):
    pytest.importorskip("docstring_parser")
    pytest.importorskip("numba")
    texts = []
    for main in (lambda more: door.main([*argv, *more]), alias):
        with pytest.raises(SystemExit):
            main(["--help"])
        usage, _, text = capsys.readouterr().out.partition("\n\n")
        texts.append((usage.split(maxsplit=len(argv) + 2)[-1].split()[-1], text))
    assert texts[0] == texts[1]


def test_entry_points():
    import configparser

    config = configparser.ConfigParser()
    config.read(Path(__file__).parents[3] / "setup.cfg")
    for line in config["options.entry_points"]["console_scripts"].split("\n"):
        if line:
            module, function = line.split(" = ")[1].split(":")
            assert callable(getattr(importlib.import_module(module), function))


@pytest.mark.parametrize("argv", [[], ["bogus"], ["--bogus"], ["train"], ["train", "bogus"], ["plot"], ["plot", "-x"]])
def test_usage_errors_are_2(argv, capsys):
    with pytest.raises(SystemExit) as end:
        door.main(argv)
    assert end.value.code == 2 and ": error: " in capsys.readouterr().err


# ---------------------------------------------------------------------- options


def test_older_spellings_and_positions_are_accepted():
    def parsed(*argv, positional=True):
        parser = argparse.ArgumentParser("program")
        importlib.import_module("iaemu_training.commands.mock").add_options(parser)
        return vars(read_options(parser, list(argv), positional=positional, check=False))

    new = parsed("-o", "m.hdf5", "--mu-cen", "0.5", "--mu-sat=-0.1", "--logmmin", "12", "--sigma-logm", "0.2")
    old = parsed("m.hdf5", "--mu_cen", "0.5", "--mu_sat=-0.1", "--logMmin", "12", "--sigma_logM", "0.2")
    assert new == old and new["logMmin"] == 12 and new["output"] == Path("m.hdf5")
    assert parsed("--mu_cen", "0.5", "m.hdf5", "--mu_sat", "0") == parsed("--mu_cen", "0.5", "--mu_sat", "0", "m.hdf5")
    strengths = ("--mu-cen", "0", "--mu-sat", "0")
    for wrong in (("a", "b"), ("-o", "a", "b"), (), ("a", "--bogus")):
        with pytest.raises(SystemExit) as end:
            parsed(*strengths, *wrong)
        assert end.value.code == 2
    with pytest.raises(SystemExit):
        parsed(*strengths, "a", positional=False)


def test_the_help_of_an_output_says_that_it_is_required(capsys):
    pytest.importorskip("docstring_parser")
    with pytest.raises(SystemExit):
        door.main(["mock", "--help"])
    usage = capsys.readouterr().out.split("\n\n")[0]
    assert " -o FILE" in usage and "[-o FILE]" not in usage


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_the_common_options(name, capsys):
    pytest.importorskip("docstring_parser")
    pytest.importorskip("numba")
    with pytest.raises(SystemExit):
        door.main([*name.split(), "--help"])
    text = capsys.readouterr().out
    assert "-q, --quiet" in text and "--version" in text and "--output" in text
    with_result = {
        "measure",
        "convert",
        "mock",
        "plot",
        "compare",
        "prior",
        "reproduce",
        "train box-error",
        "train check",
    }
    with_result |= {"train evaluate", "train card", "train fit"}
    assert ("--json" in text) == (name in with_result)
    options = [word.strip("[],|") for word in text.split() if word.startswith("--")]
    assert all(word == word.lower() and "_" not in word.split("=")[0] for word in options), options


def test_numbers_in_texts():
    parser = argparse.ArgumentParser()
    plot.add_options(parser)
    assert f"default: {BURN_IN} for the sampler mcmc" in " ".join(parser.format_help().split())
    parser = argparse.ArgumentParser()
    convert.add_options(parser)
    from iaemu.statistics import MEASURED

    assert next(action.choices for action in parser._actions if action.dest == "statistic") == MEASURED


# ---------------------------------------------------------------------- results


def test_json_and_quiet_of_plot(chain, tmp_path, capsys):
    argv = ["plot", str(chain), "--no-data", "-o", str(tmp_path)]
    assert door.main(argv) == 0
    text = capsys.readouterr().out
    assert "68 % limits" in text and "wrote" in text
    assert door.main([*argv, "--json"]) == 0
    out, err = capsys.readouterr()
    document = json.loads(out)
    (found,) = document["chains"]
    assert err == f"wrote {tmp_path / 'run_corner.png'}\n" and document["plots"] == [str(tmp_path / "run_corner.png")]
    assert found["name"] == "run" and found["converged"] is False and found["chi2"] < 1
    assert found["parameters"]["mu_cen"]["mean"] == pytest.approx(0.5, abs=0.02)
    low, high = found["parameters"]["mu_sat"]["limits_68"]
    assert low < 0.3 < high and 0 < found["Rminus1"] < 0.5 and f"{found['Rminus1']:.4f}" in text
    assert door.main([*argv, "-q"]) == 0
    out, err = capsys.readouterr()
    assert err == "" and "wrote" not in out and "68 % limits" in out
    assert door.main([*argv, "-q", "--json"]) == 0
    out, err = capsys.readouterr()
    assert err == "" and json.loads(out) == document


def test_errors_stay_with_quiet_and_json(tmp_path, capsys):
    assert door.main(["plot", str(tmp_path / "none"), "--json", "-q"]) == 1
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("iaemu plot: There is no run") and err.count("\n") == 1


def test_a_reader_that_goes_away_is_141(chain, tmp_path):
    code = "import sys; from iaemu_cobaya.commands.door import main; sys.exit(main())"
    argv = [sys.executable, "-c", code, "plot", chain, "--no-data", "-q", "-o", tmp_path]
    process = subprocess.Popen([*map(str, argv)], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stdout.close()
    assert (process.wait(), process.stderr.read()) == (141, b"")


def test_ctrl_c_is_130(monkeypatch, chain, tmp_path, capsys):
    from iaemu_cobaya.chains import plotting

    def interrupt(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(plotting, "corner_plot", interrupt)
    assert door.main(["plot", str(chain), "--no-data", "-o", str(tmp_path)]) == 130
    assert capsys.readouterr().err == "iaemu plot: interrupted.\n"


def test_json_of_mock_measure_and_card(tmp_path, capsys):
    pytest.importorskip("halotools")
    pytest.importorskip("numba")
    mock, own = str(tmp_path / "m.hdf5"), str(tmp_path / "own.txt")
    argv = [
        "mock",
        "-o",
        mock,
        "-c",
        "pm40",
        "--mu-cen",
        "0.8",
        "--mu-sat",
        "0.3",
        "--logmmin",
        "12",
        "--logm0",
        "11.8",
    ]
    assert door.main([*argv, "--json", "-q"]) == 0
    out, err = capsys.readouterr()
    galaxies = json.loads(out)
    assert err == "" and galaxies["n_galaxies"] > galaxies["n_satellites"] > 0
    measure = ["measure", mock, "-o", own, "--bins", "1,3,10", "--regions", "3", "--json", "-q"]
    assert door.main(measure) == 0
    out, err = capsys.readouterr()
    found = json.loads(out)
    assert err == "" and found["metadata"]["n_galaxies"] == galaxies["n_galaxies"]
    assert len(found["bins"]["omega"]["value"]) == 2 and np.shape(found["covariances"][0]["matrix"]) == (2, 2)
    assert door.main(["train", "card", "factorised-pm160", "--json", "-q"]) == 0
    out, err = capsys.readouterr()
    card = json.loads(out)
    assert err == "" and card["support"]["logMmin"] == [11.5, 14.0] and card["metadata"]["held_out"]


@pytest.mark.slow
def test_json_of_training_commands(tmp_path, capsys):
    pytest.importorskip("lightning")
    pytest.importorskip("halotools")
    done = []
    for argv in (
        ["check", "calibration-pm160"],
        ["evaluate", "shipped", "calibration-pm160", "-o", str(tmp_path / "report"), "--bootstrap", "0"],
    ):
        assert door.main(["train", *argv, "--json", "-q"]) == 0
        out, err = capsys.readouterr()
        assert err == ""
        done.append(json.loads(out))
    checked, evaluated = done
    assert {row["statistic"] for row in checked["tests"]} == {"xi", "omega", "eta"}
    assert evaluated == json.loads((tmp_path / "report" / "report.json").read_text())


# ---------------------------------------------------------------------- without the extra; completion


def test_plot_and_convert_need_no_extra(chain, tmp_path):
    table = tmp_path / "table.txt"
    np.savetxt(table, [[0.1, 0.2, 0.05, 0.01], [0.2, 0.4, 0.04, 0.01]])
    for argv in (
        ["plot", chain, "--no-data", "-o", tmp_path, "-q"],
        ["convert", table, "-o", tmp_path / "own.txt", "--statistic", "omega", "-q"],
        ["--help"],
        ["train", "--help"],
    ):
        done = iaemu(*argv, code=WITHOUT_EXTRA)
        assert done.returncode == 0 and done.stderr == "" and done.stdout


@pytest.mark.parametrize(
    "argv", [["train", "tabulate", "-o", "t.safetensors", "-c", "pm40"], ["train", "fit", "--help"]]
)
def test_a_missing_extra_is_one_line(argv, tmp_path):
    done = iaemu(*argv, code=WITHOUT_EXTRA)
    assert done.returncode == 1 and done.stderr.count("\n") == 1 and done.stderr.startswith(f"iaemu train {argv[1]}: ")
    assert done.stderr.endswith("It takes: pip install 'iaemu-cobaya[training]'\n")


@pytest.mark.parametrize("code", [None, WITHOUT_EXTRA])
def test_completion_of_bash(code, tmp_path):
    pytest.importorskip("shtab")
    done = iaemu("--print-completion", "bash", **({} if code is None else {"code": code}))
    assert done.returncode == 0 and done.stderr == ""
    script = tmp_path / "iaemu.bash"
    script.write_text(done.stdout)
    subprocess.run(["bash", "-n", script], check=True)

    def completed(*words):
        given = f"COMP_WORDS=({' '.join(words)}); COMP_CWORD={len(words) - 1}; _shtab_iaemu; echo ${{COMPREPLY[@]}}"
        return subprocess.run(
            ["bash", "-c", f"source {script}; {given}"], capture_output=True, text=True, check=True
        ).stdout.split()

    assert completed("iaemu", "me") == ["measure"]
    assert completed("iaemu", "train", "ev") == ["evaluate"]
    assert completed("iaemu", "plot", "--bu") == ["--burn-in"]
    assert completed("iaemu", "convert", "table.txt", "--statistic", "om") == ["omega"]
    if code is None:
        pytest.importorskip("docstring_parser")
        pytest.importorskip("numba")
        assert completed("iaemu", "train", "fit", "--ep") == ["--epochs"]
        assert "--mu-cen" in completed("iaemu", "mock", "--mu")


@pytest.mark.slow
def test_completion_of_other_shells():
    pytest.importorskip("shtab")
    done = iaemu("--print-completion", "zsh")
    assert done.returncode == 0 and done.stdout.startswith("#compdef iaemu")
    assert iaemu("--print-completion", "fish").returncode == 2


def test_completion_without_its_library():
    code = "import sys; sys.modules['shtab'] = None; from iaemu_cobaya.commands.door import main; sys.exit(main())"
    done = iaemu("--print-completion", "bash", code=code)
    assert done.returncode == 1 and done.stderr.count("\n") == 1 and "pip install shtab" in done.stderr
