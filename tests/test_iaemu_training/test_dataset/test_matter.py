"""The matter correlation function: its transform against exact pairs, its table against CAMB and against limits."""

import sys
from dataclasses import asdict

import numpy as np
import pytest
from scipy.integrate import trapezoid
from scipy.interpolate import CubicSpline

from iaemu.binning import PAPER_EDGES, TNG_EDGES, BinningError, shell_volumes
from iaemu.observables.large_scale import LargeScales
from iaemu_training.dataset.make_xi_matter import (
    compute_matter_correlation,
    correlation_from_power,
    large_scales,
    main,
    write_table,
)
from iaemu_training.dataset.matter import MatterCorrelation, MatterCorrelationError
from iaemu_training.halos import cosmology
from iaemu_training.halos.cosmology import matter_power

BOLSHOI_PLANCK = asdict(cosmology.BOLSHOI_PLANCK)
AT_Z0 = {**BOLSHOI_PLANCK, "z": 0.0}


@pytest.fixture(scope="module")
def table():
    return MatterCorrelation.load()


@pytest.fixture(scope="module")
def power():
    pytest.importorskip("camb")
    return matter_power(**AT_Z0, kmax=50.0)


# ---------------------------------------------------------------------- bins


def test_shipped_table_states_what_it_is(table):
    assert table.cosmology == BOLSHOI_PLANCK and table.redshift == 0.0
    assert "CAMB" in table.source and "HMcode-2020" in table.source
    assert table.r[0] == pytest.approx(0.05) and table.r[-1] == pytest.approx(30.0) and 100 <= len(table.r) <= 200


def test_binned_value_lies_between_the_values_at_the_edges(table):
    edges = table.r[::7]
    assert np.all(np.diff(table.xi) < 0)
    binned = table.binned(edges)
    assert np.all((binned < table.xi[::7][:-1]) & (binned > table.xi[::7][1:]))
    # Volume weights the outer part of a bin more.
    assert np.all(binned < 0.5 * (table.xi[::7][:-1] + table.xi[::7][1:]))


def test_average_of_a_power_law_is_exact():
    r = np.geomspace(0.05, 30.0, 40)
    law = MatterCorrelation(r, (r / 5.0) ** -1.8)
    low, high = PAPER_EDGES[:-1], PAPER_EDGES[1:]
    exact = 3.0 / (high**3 - low**3) * 5.0**1.8 * (high**1.2 - low**1.2) / 1.2
    np.testing.assert_allclose(law.binned(PAPER_EDGES), exact, rtol=1e-11)


@pytest.mark.parametrize("edges", [PAPER_EDGES, TNG_EDGES, np.array([0.05, 30.0])], ids=["paper", "TNG300", "all"])
def test_sub_bins_add_to_their_bin_by_volume(edges):
    fine = np.sort(np.concatenate([edges, np.sqrt(edges[1:] * edges[:-1]), 0.3 * edges[1:] + 0.7 * edges[:-1]]))
    volume = shell_volumes(fine).reshape(-1, 3)
    sub_bins = MatterCorrelation.load().binned(fine).reshape(-1, 3)
    summed = (volume * sub_bins).sum(axis=1) / volume.sum(axis=1)
    np.testing.assert_allclose(summed, MatterCorrelation.load().binned(edges), rtol=1e-11)


def test_half_the_points_of_the_table_give_the_same(table):
    coarse = MatterCorrelation(np.append(table.r[:-1:2], table.r[-1]), np.append(table.xi[:-1:2], table.xi[-1]))
    np.testing.assert_allclose(coarse.binned(PAPER_EDGES), table.binned(PAPER_EDGES), rtol=1e-5)


def test_correlation_length_of_matter_is_five(table):
    """xi = 1 at about 5 Mpc/h in LCDM with sigma8 = 0.8; 4.94 with HMcode-2020, 4.93 with halofit."""
    r0 = np.exp(np.interp(0.0, -np.log(table.xi), np.log(table.r)))
    assert r0 == pytest.approx(5.0, rel=0.05)


def test_bins_outside_the_table_are_refused():
    for edges in ([0.01, 0.1], [10.0, 40.0]):
        with pytest.raises(BinningError, match=r"only from 0\.05 to 30\. Make a wider one"):
            MatterCorrelation.load().binned(edges)
    with pytest.raises(BinningError, match="increasing"):
        MatterCorrelation.load().binned([1.0, 0.5])
    # Rounding of the outermost edges is no reason to refuse.
    assert np.all(np.isfinite(MatterCorrelation.load().binned([0.05 * (1 - 1e-9), 1.0, 30.0 * (1 + 1e-9)])))


# ---------------------------------------------------------------------- files


def test_saved_table_loads_as_it_was(table, tmp_path):
    write_table(table, tmp_path / "xi.txt")
    again = MatterCorrelation.load(tmp_path / "xi.txt")
    for name in ("r", "xi"):
        np.testing.assert_array_equal(getattr(again, name), getattr(table, name))
    assert (again.cosmology, again.redshift, again.source) == (table.cosmology, table.redshift, table.source)
    assert [path.name for path in tmp_path.iterdir()] == ["xi.txt"]


def test_two_bare_columns_will_do(tmp_path):
    (tmp_path / "bare.txt").write_text("0.1 8\n1 4\n10 2\n20 1\n")
    bare = MatterCorrelation.load(tmp_path / "bare.txt")
    assert bare.cosmology == {} and bare.redshift is None and bare.source == "not stated"
    assert 1.0 < bare.binned([10.0, 20.0]) < 2.0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0.1 8\n1 nan\n10 2\n20 1\n", r"bad\.txt: xi must be positive and finite, but 1 rows are not, first row 2"),
        ("0.1 8\n1 4\n10 -2\n20 1\n", "first row 3: r = 10 Mpc/h, xi = -2"),
        ("0.1 8\n1 4\n1 2\n20 1\n", "strictly increasing, but 1 is followed by 1 Mpc/h"),
        ("0.1 8\n1 4\n10 2\n", r"at least 4, got shapes \(3,\)"),
        ("", r"at least 4, got shapes \(0,\)"),
        ("# redshift: 0\n0.1 8\n1 4 3\n", r"Line 3 of bad\.txt is not two numbers.*'1 4 3'"),
        ("r xi\n", r"Line 1 of bad\.txt is not two numbers"),
        ("# redshift: now\n0.1 8\n1 4\n10 2\n20 1\n", r"header of bad\.txt .* 'now'"),
        ("# cosmology: flat\n0.1 8\n1 4\n10 2\n20 1\n", r"header of bad\.txt"),
    ],
)
def test_malformed_tables_are_refused(tmp_path, text, message):
    (tmp_path / "bad.txt").write_text(text)
    with pytest.raises(MatterCorrelationError, match=message):
        MatterCorrelation.load(tmp_path / "bad.txt")


def test_tables_as_people_have_them(tmp_path):
    text = "# source: Jos\u00e9\n0.1, 8\n1, 4\n10, 2\n20, 1\n"
    for name, content in (("bom.csv", b"\xef\xbb\xbf" + text.encode()), ("latin.txt", text.encode("latin-1"))):
        (tmp_path / name).write_bytes(content)
        assert MatterCorrelation.load(tmp_path / name).source == "Jos\u00e9"
    (tmp_path / "bad.txt").write_text("# a\n\n0.1 8\n# b\n1 -4\n10 2\n20 1\n")
    with pytest.raises(MatterCorrelationError, match=r"first row 2: .* It is line 5\."):
        MatterCorrelation.load(tmp_path / "bad.txt")


@pytest.mark.parametrize(
    "change",
    [
        {"xi": np.array([8, 4, 2, 1j])},
        {"xi": None},
        {"xi": ["8", "4", "2", "1"]},
        {"xi": np.ma.array([8.0, 4.0, 2.0, 1.0], mask=[0, 1, 0, 0])},
        {"redshift": np.nan},
        {"cosmology": {"Om": np.inf}},
    ],
)
def test_what_are_no_real_numbers_is_refused(change):
    with pytest.raises(MatterCorrelationError):
        MatterCorrelation(**{"r": [0.1, 1.0, 10.0, 20.0], "xi": [8.0, 4.0, 2.0, 1.0], **change})


def test_missing_table_is_named(tmp_path):
    with pytest.raises(MatterCorrelationError, match=r"The table none\.txt cannot be read"):
        MatterCorrelation.load(tmp_path / "none.txt")


# ---------------------------------------------------------------------- transform


def test_transform_of_exact_pairs():
    k, r = np.geomspace(1e-4, 1e3, 400), np.geomspace(0.05, 5.0, 50)
    exponential = correlation_from_power(r, k, 8.0 * np.pi / (1.0 + k**2) ** 2)
    np.testing.assert_allclose(exponential, np.exp(-r), rtol=1e-5)
    # Scaling: xi is dimensionless, P a volume.
    np.testing.assert_allclose(
        correlation_from_power(3.0 * r, k / 3.0, 27.0 * 8.0 * np.pi / (1.0 + k**2) ** 2), exponential, rtol=1e-5
    )


def test_transform_refuses_what_it_cannot_do():
    k = np.geomspace(1e-3, 1e2, 50)
    with pytest.raises(ValueError, match="r must lie within"):
        correlation_from_power([0.001], k, 1 / k)
    with pytest.raises(ValueError, match="strictly increasing"):
        correlation_from_power([1.0], k[::-1], 1 / k)
    with pytest.raises(ValueError, match="positive and finite"):
        correlation_from_power([1.0], k, np.where(k > 1, np.nan, 1 / k))


@pytest.mark.parametrize("r", [0.05, 0.1, 0.3, 1.0, 5.0, 12.0, 30.0])
def test_transform_agrees_with_direct_quadrature(power, r):
    """The damping exp(-(k r / 200)^2) makes the integral converge and changes xi by 0.01 %."""
    log_k, log_power = np.log(power)
    x = np.linspace(log_k[0], np.log(1000.0 / r), 400_001)
    values = CubicSpline(log_k, log_power)(np.minimum(x, log_k[-1]))
    values += np.maximum(x - log_k[-1], 0.0) * (log_power[-1] - log_power[-3]) / (log_k[-1] - log_k[-3])
    kr = np.exp(x) * r
    direct = trapezoid(np.exp(3.0 * x + values - (kr / 200.0) ** 2) * np.sin(kr) / kr, x) / (2.0 * np.pi**2)
    assert correlation_from_power([r], *power)[0] == pytest.approx(direct, rel=3e-4)


# ---------------------------------------------------------------------- CAMB


def test_shipped_table_agrees_with_a_fresh_computation(table, power):
    used = table.r > 0.07  # k < 50 h/Mpc suffices there
    np.testing.assert_allclose(correlation_from_power(table.r[used], *power), table.xi[used], rtol=0.005)


def test_linear_theory_holds_at_large_separations_and_fails_at_small_ones(table):
    """Non-linear motions take some 10 % off xi at 10 to 20 Mpc/h; what is left of that at 25 to 30 is 4 to 6 %."""
    pytest.importorskip("camb")
    linear = compute_matter_correlation(table.r, **AT_Z0, halofit_version="linear", kmax=50.0)
    ratio = table.xi / linear
    assert np.all(np.abs(ratio[table.r > 25.0] - 1.0) < 0.08)
    assert np.all(np.abs(ratio[table.r > 4.0] - 1.0) < 0.12)
    assert np.all(ratio[table.r < 1.0] > 4.0)


def test_linear_correlation_gives_sigma8_back():
    """The variance in spheres is the mean of xi over pairs of points in a sphere of 8 Mpc/h."""
    pytest.importorskip("camb")
    R, r = 8.0, np.geomspace(0.01, 16.0, 4000)
    xi = compute_matter_correlation(r, **AT_Z0, halofit_version="linear", kmax=20.0)
    pairs = 3.0 * r**2 / R**3 * (1.0 - 0.75 * r / R + (r / R) ** 3 / 16.0)
    assert np.sqrt(trapezoid(pairs * r * xi, np.log(r))) == pytest.approx(0.8228, rel=1e-3)


def test_linear_growth_is_that_of_lcdm():
    """xi at z = 1 over xi at z = 0 is the square of the growth factor, D ~ H * integral of da / (a H)^3."""
    pytest.importorskip("camb")
    r = np.array([1.0, 5.0, 20.0])
    now, then = (
        compute_matter_correlation(r, **{**AT_Z0, "z": z}, halofit_version="linear", kmax=10.0) for z in (0.0, 1.0)
    )

    def growth(a):
        x = np.linspace(1e-6, a, 20_001)
        hubble = np.sqrt(0.30711 / x**3 + 0.69289)
        return hubble[-1] * trapezoid((x * hubble) ** -3, x)

    # Radiation, left out of this formula, makes the growth differ by a few parts in a thousand.
    np.testing.assert_allclose(then / now, (growth(0.5) / growth(1.0)) ** 2, rtol=0.005)


def test_large_scales_between_the_redshifts_of_the_file_are_those_of_camb():
    """At redshifts that are in no row of the shipped table, up to where both functions are large."""
    pytest.importorskip("camb")
    r = np.geomspace(1.0, 60.0, 40)
    for z in (0.45, 1.2):
        found = LargeScales.shipped(z)
        for value, expected in zip(
            (found.xi, found.Xi_2), large_scales(r, **{**AT_Z0, "z": z}, kmax=20.0), strict=True
        ):
            at = CubicSpline(np.log(found.r), found.r**2 * value)(np.log(r)) / r**2
            np.testing.assert_allclose(at, expected, rtol=4e-3)
    nearest = LargeScales.shipped(0.3)
    assert np.abs(found.xi / nearest.xi - 1)[:100].min() > 0.2


def test_large_scales_end_where_the_file_does():
    assert LargeScales.shipped(-0.004).xi.tolist() == LargeScales.shipped(0.0).xi.tolist()
    for z in (-0.1, 1.6, np.nan):
        with pytest.raises(ValueError, match=r"known from 0 to 1\.5"):
            LargeScales.shipped(z)


def test_unreasonable_parameters_are_refused():
    pytest.importorskip("camb")
    with pytest.raises(ValueError, match="0 < Ob < Om"):
        matter_power(**{**AT_Z0, "Ob": 0.4})
    for name in ("Om", "Ob", "h", "sigma8", "ns", "z", "kmax"):
        for value in (np.nan, np.inf, -10.0, "1"):
            with pytest.raises(ValueError, match=f"{name}.* must be a number"):
                matter_power(**{**AT_Z0, name: value})
    with pytest.raises(ValueError, match=r"no non-linear model 'halofit9'; it has .*mead2020"):
        matter_power(**AT_Z0, halofit_version="halofit9")


def test_without_camb_the_table_works_and_the_computation_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "camb", None)
    assert np.all(MatterCorrelation.load().binned(PAPER_EDGES) > 0)
    with pytest.raises(ImportError, match="pip install camb"):
        compute_matter_correlation([1.0], **AT_Z0)


# ---------------------------------------------------------------------- command line


def test_command_line_makes_a_table_of_another_cosmology(tmp_path, capsys):
    pytest.importorskip("camb")
    output = tmp_path / "xi.txt"
    options = "--Om 0.27 --sigma8 0.9 --z 0.5 --kmax 20 --r-range 1 40 --halofit-version linear"
    assert main([str(output), *options.split()]) == 0
    made = MatterCorrelation.load(output)
    assert made.cosmology == {**BOLSHOI_PLANCK, "Om": 0.27, "sigma8": 0.9} and made.redshift == 0.5
    assert made.r[0] == 1.0 and made.r[-1] == 40.0 and "linear theory" in made.source
    assert "written to" in capsys.readouterr().out


def test_command_line_makes_a_table_of_large_scales_at_several_redshifts(tmp_path, capsys):
    pytest.importorskip("camb")
    output = tmp_path / "large.txt"
    assert main([str(output), *"--large-scales --z 0.6 0 --kmax 5".split()]) == 0
    lines = output.read_text().splitlines()
    assert "# redshifts: 0, 0.6" in lines
    rows = np.array([line.split() for line in lines if not line.startswith("#")], dtype=float)
    shipped = LargeScales.shipped(0.6)
    np.testing.assert_allclose(rows[60:110, 3], shipped.xi[60:110], rtol=5e-3)
    assert main([str(output), "--z", "0", "0.6"]) == 1
    assert "--z takes one redshift, got 2" in capsys.readouterr().err


def test_command_line_says_what_is_wrong(tmp_path, capsys):
    assert main([str(tmp_path / "none" / "xi.txt")]) == 1
    assert "does not exist; make it first" in capsys.readouterr().err
    assert main([str(tmp_path / "xi.txt"), "--r-range", "30", "1"]) == 1
    assert "lower end first" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
