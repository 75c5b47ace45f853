"""iaemu-plot on real, short chains."""

import json
import re
from functools import partial

import numpy as np
import pytest
from cobaya.run import run
from scipy import stats

from iaemu_cobaya import TabulatedIA
from iaemu_cobaya.chains import ChainError, corner_plot, data_plot, load_chain, plotting, posterior_table
from iaemu_cobaya.chains.plotting import left_out
from iaemu_cobaya.commands.door import plot as iaemu_plot


@pytest.fixture(scope="module")
def chains(tmp_path_factory, make_analytic):
    """Output prefixes of a Metropolis run and of a single evaluation, with the analytic model as the shipped tables."""
    folder = tmp_path_factory.mktemp("chains")
    with pytest.MonkeyPatch.context() as patch:
        # The model is rebuilt from the updated YAML, so it must be one that YAML can name: the default.
        patch.setattr(TabulatedIA, "_load_artifact", lambda self, path: make_analytic())
        options = {"statistics": ["omega", "eta"], "emulator_error": False, "distribution": "gaussian"}
        common = {
            "theory": {"iaemu_cobaya.TabulatedIA": None},
            "likelihood": {"iaemu_cobaya.TNG300Sample3": options},
        }
        samplers = {"short": {"mcmc": {"max_samples": 150, "seed": 1}}, "point": {"evaluate": {"seed": 1}}}
        for name, sampler in samplers.items():
            run({**common, "sampler": sampler, "output": str(folder / name)})
        yield folder


@pytest.fixture(autouse=True)
def few_draws(monkeypatch):
    """Behind the band of a prediction."""
    monkeypatch.setattr(plotting, "data_plot", partial(data_plot, n_band=12))


def test_summary_and_plots_are_written(chains, tmp_path, capsys):
    status = iaemu_plot([str(chains / "short"), "--out", str(tmp_path), "--paper"])
    text = capsys.readouterr().out
    assert status == 0
    assert "mu_cen" in text
    assert "68 % limits" in text
    assert "R-1" in text
    # omega to 14.0 Mpc/h and eta to 13.9, with covariances of which one is from regions: their sum has no p-value
    assert "29 bins, 2 parameters\n" in text
    assert sorted(path.name for path in tmp_path.iterdir()) == ["short_corner.png", "short_data.png"]
    assert all(path.stat().st_size > 10_000 for path in tmp_path.iterdir())


def test_pdf_and_any_file_of_the_run_will_do(chains, tmp_path):
    assert iaemu_plot([str(chains / "short.1.txt"), "--out", str(tmp_path), "--format", "pdf", "--no-data"]) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["short_corner.pdf"]


def test_truth_is_marked_and_widens_the_axes_to_hold_it(chains):
    chain = load_chain(chains / "short")
    plotter = corner_plot([chain], truth={"mu_cen": -0.5})
    left, right = plotter.subplots[0, 0].get_xlim()
    assert left <= -0.5 < right
    assert any(np.allclose(line.get_xdata(), -0.5) for line in plotter.subplots[0, 0].lines)
    with pytest.raises(ChainError, match=r"mu_c \(truth\) is not shown; shown are mu_cen, mu_sat"):
        corner_plot([chain], truth={"mu_c": 0.5})


def test_pictures_name_the_data_the_fit_and_the_paper(chains):
    chain = load_chain(chains / "short")
    figure, _ = data_plot(chain, n_band=0)
    (part,) = figure.subfigs[0].subfigs
    assert part.get_suptitle().startswith(
        "TNG300-1, z = 0, galaxies of stellar mass above $10^{9.5}$ $M_\\odot$\nbest fit"
    )
    assert re.search(r"\\chi\^2\$ = [\d.]+, 29 bins, 2 parameters$", part.get_suptitle())
    assert [axes.get_ylabel() for axes in part.axes][:2] == [r"$\omega(r)$", r"$\eta(r)$"]
    (legend,) = corner_plot([chain], paper=True, truth={"mu_cen": 0.5}).fig.legends
    assert [entry.get_text() for entry in legend.get_texts()] == ["truth", plotting.PAPER]


def test_derived_parameters_are_told_and_shown(tmp_path, capsys, monkeypatch):
    """Also those that are not a label as GetDist would have it, and whose values are small."""
    prior = {"prior": {"min": 0, "max": 1}, "ref": 0.5, "proposal": 0.2}
    info = {
        "likelihood": {"one": {"external": "lambda x, y: -8 * ((x - 0.5) ** 2 + (y - 0.5) ** 2)"}},
        "params": {
            "x": prior,
            "y": prior,
            "b_g": {"derived": "lambda x: 1e-4 * x"},
            "a_long_name": {"derived": "lambda y: 2 * y"},
        },
        "sampler": {"mcmc": {"max_samples": 300, "seed": 1}},
        "output": str(tmp_path / "run"),
    }
    run(info)
    chain = load_chain(tmp_path / "run")
    assert chain.derived == ["b_g", "a_long_name"]
    capsys.readouterr()
    assert iaemu_plot([str(tmp_path / "run"), "--no-data", "--json", "-q"]) == 0
    found = json.loads(capsys.readouterr().out)["chains"][0]
    rows = chain.rows
    assert found["parameters"]["b_g"]["mean"] == pytest.approx(
        np.average(rows["b_g"], weights=rows["weight"]), rel=1e-4
    )
    assert found["parameters"]["b_g"]["derived"] and not found["parameters"]["x"]["derived"]
    table = posterior_table(chain)
    (line,) = (line for line in table.splitlines() if "b_g" in line)
    assert float(line.split()[1]) == pytest.approx(found["parameters"]["b_g"]["mean"], rel=0.01)
    labels = [axes.get_xlabel() for axes in corner_plot([chain]).subplots[-1]]
    assert labels == ["$\\mathrm{x}$", "$\\mathrm{y}$", "$b_g$"]
    assert left_out([chain], None) == []
    monkeypatch.setattr("iaemu_cobaya.chains.plotting.N_READABLE", 2)
    assert left_out([chain], None) == ["b_g"] and left_out([chain], ["x"]) == []
    monkeypatch.undo()
    assert chain.samples.paramNames.parWithName("a_long_name").label == r"\mathrm{a\_long\_name}"
    with pytest.raises(ChainError, match=r"z \(params\) does not vary in all chains; those that do are x, y, b_g"):
        corner_plot([chain], params=["z"])


def test_long_titles_are_no_wider_than_their_panels(chains):
    chain = load_chain(chains / "short")
    chain.samples.paramNames.parWithName("mu_cen").label = r"\mathrm{the\ alignment\ strength\ of\ centrals}"
    plotter = corner_plot([chain])
    renderer = plotter.fig.canvas.get_renderer()
    for panel in plotter.subplots.diagonal():
        assert panel.title.get_window_extent(renderer).width <= 1.01 * panel.get_window_extent(renderer).width


def test_truth_is_read_from_the_command_line(chains, tmp_path):
    arguments = [str(chains / "short"), "--out", str(tmp_path), "--no-data", "--truth"]
    assert iaemu_plot([*arguments, "mu_cen=0.8", "mu_sat=-3e-1"]) == 0
    with pytest.raises(SystemExit):
        iaemu_plot([*arguments, "mu_cen"])


def test_a_single_evaluation_gets_a_data_plot_but_no_corner_plot(chains, tmp_path, capsys):
    assert iaemu_plot([str(chains / "point"), "--out", str(tmp_path)]) == 0
    assert "too few samples" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["point_data.png"]


@pytest.mark.parametrize("n_rows", [2, 13, 19])
def test_a_chain_that_has_just_started_is_no_error(chains, tmp_path, n_rows, capsys):
    for path in chains.glob("short.*"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    lines = (chains / "short.1.txt").read_text().splitlines(keepends=True)
    (tmp_path / "short.1.txt").write_text("".join(lines[: n_rows + 1]))
    assert iaemu_plot([str(tmp_path / "short"), "--burn-in", "0"]) == 0
    captured = capsys.readouterr()
    assert "too few samples for limits" in captured.out
    assert "chi2 (-2 log-likelihood) at the best fit" in captured.out
    assert "too few samples" in captured.err


def test_likelihoods_of_others_are_not_evaluated(chains, tmp_path, capsys):
    """They can be slow, or need data that are not on the machine where the plots are made."""
    info = {
        "theory": {"iaemu_cobaya.TabulatedIA": None},
        "likelihood": {
            "iaemu_cobaya.TNG300Sample3": {"emulator_error": False},
            "other": {"external": "lambda nuisance: -0.5 * nuisance ** 2"},
        },
        "params": {"nuisance": {"prior": {"min": -5, "max": 5}, "proposal": 1.0}},
        "sampler": {"mcmc": {"max_samples": 60, "seed": 1}},
        "output": str(tmp_path / "mixed"),
    }
    run(info)
    updated = tmp_path / "mixed.updated.yaml"
    text = updated.read_text()
    assert "-0.5 * nuisance ** 2" in text
    updated.write_text(text.replace("-0.5 * nuisance ** 2", "1 / 0"))
    assert iaemu_plot([str(tmp_path / "mixed"), "--burn-in", "0"]) == 0
    # -2 log L of the t-distribution of 17 bins, 125 regions and the two parameters on which omega depends
    loss = load_chain(tmp_path / "mixed", burn_in=0.0).best()["chi2__IA"]
    extra = 106 / (107 * 104)
    chi2 = 124 * np.expm1(loss / (4 + (124 + 15 * extra) / (1 + 15 * extra)))
    p_value = stats.f.sf(chi2 * 110 / (15 * 124), 15, 110)
    assert (
        f"chi2 = {chi2:.2f} at the best fit, 17 bins, 2 parameters, p = {p_value:.2g} of Hotelling's T^2 with 125 "
        "regions" in capsys.readouterr().out
    )


def test_chi2_of_the_best_fit_is_that_of_the_chain(chains, tmp_path):
    chain = load_chain(chains / "short", burn_in=0.0)
    _, text = data_plot(chain, n_band=0)
    rows = np.loadtxt(chains / "short.1.txt")
    header = (chains / "short.1.txt").read_text().splitlines()[0].lstrip("#").split()
    chi2 = rows[np.argmin(rows[:, header.index("minuslogpost")]), header.index("chi2")]
    assert f"chi2 = {chi2:.2f}" in text


def test_burn_in_is_dropped_for_metropolis_only(chains):
    assert load_chain(chains / "short").burn_in == 0.3
    assert load_chain(chains / "point").burn_in == 0.0
    all_rows = len(load_chain(chains / "short", burn_in=0.0).samples.weights)
    assert len(load_chain(chains / "short").samples.weights) == pytest.approx(0.7 * all_rows, abs=1)


def test_missing_chain_is_named_with_those_that_exist(chains, capsys):
    assert iaemu_plot([str(chains / "shirt")]) == 1
    message = capsys.readouterr().err
    assert "shirt.updated.yaml" in message
    assert "point, short" in message


def test_bad_burn_in_is_named(chains, capsys):
    assert iaemu_plot([str(chains / "short"), "--burn-in", "2"]) == 1
    assert "fraction in [0, 1); got 2.0" in capsys.readouterr().err


def test_help_names_the_options(capsys):
    with pytest.raises(SystemExit) as error:
        iaemu_plot(["--help"])
    assert error.value.code == 0
    assert "--burn-in" in capsys.readouterr().out


def test_importing_does_not_choose_a_backend():
    import subprocess
    import sys

    code = "import iaemu_cobaya.chains.plotting, sys; assert 'matplotlib.pyplot' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("prefix", ["b.txt", "b.covmat", "b.1.txt"])
def test_prefixes_that_end_like_a_file(chains, tmp_path, monkeypatch, prefix):
    """Also by its bare name in the current folder, and by a file of its own."""
    for path in chains.glob("short.*"):
        (tmp_path / path.name.replace("short", prefix)).write_bytes(path.read_bytes())
    monkeypatch.chdir(tmp_path)
    assert load_chain(prefix).name == load_chain(f"{prefix}.1.txt").name == prefix


def test_output_that_is_a_folder(chains, tmp_path):
    """Cobaya's ``output: folder/``, whose files have no prefix."""
    for path in chains.glob("short.*"):
        (tmp_path / path.name.removeprefix("short.")).write_bytes(path.read_bytes())
    assert (
        len(load_chain(tmp_path).rows) == len(load_chain(f"{tmp_path}/").rows) == len(load_chain(chains / "short").rows)
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([""], "'' is not the name of a run"),
        (["short", "--truth", "mu_c=0.5"], "--truth: mu_c is none of the parameters mu_cen, mu_sat"),
        (["short", "--params", "mu_cen", "A"], "--params: A is none of the parameters mu_cen, mu_sat"),
        (["short", "--out", "short.1.txt"], "--output: no folder 'short.1.txt' can be made"),
        (["short", "--burn-in", "nan"], "The burn-in must be a fraction"),
    ],
)
def test_errors_are_one_line_and_leave_nothing(chains, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(chains)
    before = sorted(chains.iterdir())
    assert iaemu_plot([*arguments, "--no-data"]) == 1
    captured = capsys.readouterr()
    assert message in captured.err and len(captured.err.splitlines()) == 1 and not captured.out
    assert sorted(chains.iterdir()) == before


def test_a_run_that_has_not_converged_says_so(chains, capsys, tmp_path):
    chain = load_chain(chains / "short")
    assert chain.converged is False
    iaemu_plot([str(chains / "short"), "--no-data", "--out", str(tmp_path)])
    assert "NOT CONVERGED" in capsys.readouterr().out
