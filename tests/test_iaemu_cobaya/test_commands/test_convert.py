"""Plain tables of measured values become measurements, or an error says what is not clear."""

import json

import numpy as np
import pytest

from iaemu.measurement import Measurement, MeasurementError
from iaemu_cobaya.commands.door import main

EDGES = np.array([0.1, 0.2, 0.4, 0.8, 1.6])
VALUES = np.array([0.08, 0.05, 0.03, 0.01])
ERRORS = np.array([0.008, 0.004, 0.003, 0.002])
FULL = np.column_stack([EDGES[:-1], EDGES[1:], VALUES, ERRORS])
CENTRES = np.column_stack([np.sqrt(EDGES[:-1] * EDGES[1:]), VALUES, ERRORS])
COVARIANCE = np.outer(ERRORS, ERRORS) * (0.3 + 0.7 * np.eye(4))


@pytest.fixture
def convert(tmp_path, monkeypatch):
    """Run the command in a folder on the text of a table; what it wrote."""
    monkeypatch.chdir(tmp_path)

    def run(text, *options, name="table.txt", status=0):
        (tmp_path / name).write_text(text)
        assert main(["convert", name, "-o", "own.txt", *options]) == status
        return Measurement.read("own.txt") if status == 0 else None

    return run


def as_text(rows, separator=" ", head=""):
    return head + "".join(separator.join(map(repr, row)) + "\n" for row in np.asarray(rows).tolist())


def same(measurement, statistic="omega", scale=1.0):
    bins = measurement.bins[statistic]
    for found, expected in zip(
        (bins.r_low, bins.r_high, bins.value, bins.error),
        (EDGES[:-1] * scale, EDGES[1:] * scale, VALUES, ERRORS),
        strict=True,
    ):
        assert np.allclose(found, expected, rtol=1e-14)
    return True


@pytest.mark.parametrize(
    ("text", "name"),
    [
        (as_text(FULL), "table.txt"),
        (as_text(FULL, "  ", "# from our pipeline\n# r1 r2 w sigma_w\n\n"), "table.dat"),
        (as_text(FULL, ",", "r_low,r_high,value,error\n"), "table.csv"),
        (as_text(FULL, ", "), "table.csv"),
        (as_text(FULL, ";", "% a comment\n"), "table.csv"),
        (as_text(FULL, "\t", "\ufeff").replace("\n", "\r\n"), "table.tsv"),
        (as_text(FULL).rstrip("\n"), "table.txt"),
        (as_text(FULL[:, [3, 0, 2, 1]], " ", "# error r_low value r_high\n"), "table.txt"),
        ("".join(f"{line}  # bin {n}\n" for n, line in enumerate(as_text(FULL).splitlines())), "table.txt"),
        (as_text(FULL, ",", "R_low, R_high, Value, Error\n"), "table.csv"),
    ],
)
def test_tables_of_all_kinds(convert, text, name):
    assert same(convert(text, "--statistic", "omega", name=name))


def test_columns_are_named(convert):
    table = np.column_stack([np.arange(4), FULL[:, 2], FULL[:, 0], FULL[:, 1], FULL[:, 3]])
    assert same(
        convert(as_text(table), "--statistic", "eta", "--columns", "-", *"value r_low r_high error".split()), "eta"
    )


@pytest.mark.parametrize("given", ["0.1,0.2,0.4,0.8,1.6", "edges.txt"])
def test_centres_need_edges(convert, tmp_path, capsys, given):
    np.savetxt(tmp_path / "edges.txt", EDGES, header="edges")
    convert(as_text(CENTRES), "--statistic", "omega", status=1)
    assert "bin centres, which do not say where the bins end: give --edges" in capsys.readouterr().err
    assert not (tmp_path / "own.txt").exists()
    assert same(convert(as_text(CENTRES), "--statistic", "omega", "--edges", given))
    matrix = np.diag(ERRORS**2)
    np.savetxt(tmp_path / "matrix.txt", matrix)
    # Three columns beside a covariance could be limits and values, but not if edges are given.
    assert same(convert(as_text(CENTRES), "--statistic", "omega", "--edges", given, "--covariance", "matrix.txt", "-f"))


@pytest.mark.parametrize("head", ["# rmin rmax omega err\n", "rmin,rmax,omega,sigma\n"])
def test_a_heading_may_name_the_statistic(convert, head):
    assert same(convert(as_text(FULL, "," if "," in head else " ", head)))


def test_a_survey_table_whose_heading_names_two_statistics(convert, capsys):
    rows = np.column_stack([CENTRES[:, 0], VALUES, ERRORS, 2 * VALUES, ERRORS])
    found = convert(as_text(rows, " ", "# rp wgg err wgp err\n"), "--pi-max", "60")
    assert np.array_equal(found.bins["w_gg"].value, VALUES) and np.array_equal(found.bins["w_gplus"].value, 2 * VALUES)
    assert "no --redshift is given" in capsys.readouterr().err


def test_a_survey_table_in_one_file_with_edges_of_each(convert, tmp_path):
    np.savetxt(tmp_path / "edges.txt", EDGES)
    head = "# statistic r_p value error\n"
    rows = "".join(f"{name} {r!r} 1.0 0.1\n" for name in ("w_gg", "w_gplus") for r in CENTRES[:, 0].tolist())
    found = convert(
        head + rows, "--pi-max", "60", "--edges", "w_gg=edges.txt", "--edges", "w_gplus=0.1,0.2,0.4,0.8,1.6"
    )
    assert all(np.array_equal(bins.edges()[0], EDGES) for bins in found.bins.values())


def test_named_edges_are_in_mpc(convert):
    from iaemu.binning import TNG_EDGES

    centres = 0.5 * (TNG_EDGES[1:] + TNG_EDGES[:-1])
    table = np.column_stack([centres * 1000, np.ones(12), np.ones(12)])
    found = convert(as_text(table), "--statistic", "xi", "--edges", "tng300", "--scale", "0.001").bins["xi"]
    assert np.allclose(found.edges()[0], TNG_EDGES)


def test_other_units(convert):
    table = FULL * [1000, 1000, 1, 1]
    assert same(convert(as_text(table), "--statistic", "omega", "--scale", "0.001"))
    centres = CENTRES * [1000, 1, 1]
    edges = ",".join(map(str, EDGES * 1000))
    assert same(convert(as_text(centres), "--statistic", "omega", "--scale", "1e-3", "--edges", edges, "-f"))


def test_radii_in_another_unit_are_noticed(convert, capsys):
    convert(as_text(FULL * [1000, 1000, 1, 1]), "--statistic", "omega")
    assert "iaemu convert: the bins reach 1600 Mpc/h. If the table is in kpc/h" in capsys.readouterr().err
    convert(as_text(FULL), "--statistic", "omega", "-f")
    assert capsys.readouterr().err == ""


def test_a_covariance_and_a_header(convert, tmp_path, capsys):
    np.savetxt(tmp_path / "cov.txt", COVARIANCE, fmt="%.17g")
    options = ["--covariance", "cov.txt", "--n-regions", "27", "--redshift", "0.3", "--description", "ours: a test"]
    found = convert(as_text(FULL), "--statistic", "omega", *options)
    assert same(found) and np.allclose(found.covariances[0].matrix, COVARIANCE)
    assert found.covariances[0].n_regions == 27 and found.metadata["redshift"] == 0.3
    assert found.metadata["description"] == "ours: a test" and found.metadata["source"] == "table.txt"
    assert same(
        convert(
            as_text(CENTRES[:, :2]),
            "--statistic",
            "omega",
            "--covariance",
            "cov.txt",
            "-f",
            "--edges",
            "0.1,0.2,0.4,0.8,1.6",
        )
    )
    assert "Without --n-regions the likelihood takes this covariance as exact" in capsys.readouterr().out
    named = as_text(FULL[:, :3], " ", "# r_low r_high value\n")
    assert same(convert(named, "--statistic", "omega", "--covariance", "cov.txt", "-f"))


def test_a_column_of_statistics(convert, tmp_path):
    rows = [f"{kind} {line}" for line in as_text(FULL).splitlines() for kind in ("omega", "xi")]
    full = np.kron(COVARIANCE, np.eye(2))
    np.savetxt(tmp_path / "cov.txt", full, fmt="%.17g")
    text = "# statistic r_low r_high value error\n" + "\n".join(rows) + "\n"
    found = convert(text, "--covariance", "cov.txt")
    assert same(found) and same(found, "xi") and found.statistics == ("omega", "xi")
    (covariance,) = found.covariances
    assert covariance.statistics == ("omega", "xi")
    assert np.allclose(covariance.matrix, np.kron(np.eye(2), COVARIANCE))


def test_the_likelihood_reads_it(convert):
    from iaemu_cobaya import IACorrelations

    convert(as_text(FULL), "--statistic", "omega")
    like = IACorrelations({"data": "own.txt"})
    assert len(like.data_vector) == 4


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        (as_text(FULL), [], "does not say what was measured: give --statistic"),
        ("", ["--statistic", "xi"], "holds no rows of numbers"),
        ("# only\n# words\n", ["--statistic", "xi"], "holds no rows of numbers"),
        ("1 2 3 4\n1 2 3\n", ["--statistic", "xi"], "line 2: 3 entries, but 4 in line 1"),
        ("1,2,,4\n", ["--statistic", "xi"], "line 1: value is '', which is not a number"),
        ("1 2 x 4\n", ["--statistic", "xi"], "line 1: value is 'x', which is not a number"),
        ("1 2 nan 4\n", ["--statistic", "xi"], "value is nan in bin 0"),
        ("1 2 3 0\n", ["--statistic", "xi"], "errors must be positive"),
        ("0 2 3 1\n", ["--statistic", "xi"], "0 < r_low < r_high"),
        ("1 2 3 4 5\n", ["--statistic", "xi"], "has 5 columns, and nothing says what they are"),
        (as_text(FULL[:, [1, 0, 2, 3]]), ["--statistic", "xi"], "line 1: the bin goes from 0.2 to 0.1. The columns"),
        (as_text(FULL[::-1]), ["--statistic", "xi"], "overlap or are not sorted"),
        (as_text(FULL), ["--statistic", "xi", "--edges", "1,2"], "has columns r_low and r_high: leave out --edges"),
        (as_text(FULL), ["--statistic", "xi", "--n-regions", "9"], "give --covariance too"),
        (as_text(FULL), ["--statistic", "xi", "--columns", "r", "value"], "4 columns, but --columns names 2"),
        (as_text(FULL), ["--statistic", "xi", "--columns", "r", "y", "value", "error"], "--columns: y is unknown"),
        (as_text(FULL), ["--statistic", "xi", "--columns", "r", "r", "value", "error"], "two columns are called r"),
        (as_text(FULL), ["--statistic", "xi", "--columns", "-", "r", "error", "-"], "no column is called 'value'"),
        (as_text(CENTRES), ["--statistic", "xi", "--edges", "0.1,1,2"], "has 4 bins of xi, which have 5 edges"),
        (as_text(CENTRES), ["--statistic", "xi", "--edges", "1,2,3,4,5"], "r = 0.141421 is not in its bin, 1 to 2"),
        (as_text(CENTRES), ["--statistic", "xi", "--edges", "xi=1", "--edges", "2"], "--edges: give one for each"),
        (
            as_text(CENTRES),
            ["--statistic", "xi", "--edges", "eta=1,2"],
            "holds xi: give its edges too, --edges xi=EDGES",
        ),
        ("0.1 0.2 7 0.5\n", ["--statistic", "omega"], "lies between -1/3 and 2/3. If it is in per cent, divide it"),
        (
            "0.1 0.2 3.6 0.8\n0.2 0.4 3.9 2\n0.4 0.8 0.1 2\n",
            ["--statistic", "omega"],
            "lies between -1/3 and 2/3. If it is in per cent, divide it",
        ),
        (as_text(CENTRES), ["--statistic", "xi", "--edges", "few"], "--edges few: give paper, tng300"),
        (as_text(CENTRES), ["--statistic", "xi", "--edges", "2,1"], "must be increasing"),
        (as_text(CENTRES[:, :2]), ["--statistic", "xi", "--edges", "0.1,0.2,0.4,0.8,1.6"], "has no errors"),
        (as_text(CENTRES), ["--statistic", "xi", "--covariance", "small.txt"], "nothing says what they are"),
        (as_text(FULL), ["--statistic", "xi", "--covariance", "small.txt"], "has 2 rows of 2 numbers; the table has 4"),
        (as_text(FULL), ["--statistic", "xi", "--covariance", "other.txt"], "and the errors in the table disagree"),
        (as_text(FULL), ["--statistic", "xi", "--covariance", "missing.txt"], "No such file"),
        ("a\0b", ["--statistic", "xi"], "is not a text file"),
        (
            "omega 1 2 3 4\n",
            ["--columns", "statistic", "r_low", "r_high", "value", "error", "--statistic", "xi"],
            "holds omega: leave out --statistic xi",
        ),
    ],
)
def test_what_is_not_clear_is_an_error(convert, tmp_path, capsys, text, options, message):
    np.savetxt(tmp_path / "small.txt", np.eye(2))
    np.savetxt(tmp_path / "other.txt", np.eye(4))
    convert(text, *options, status=1)
    error = capsys.readouterr().err
    assert message in error and error.startswith("iaemu convert: ") and error.count("\n") == 1
    assert not (tmp_path / "own.txt").exists()


def test_outputs_are_not_replaced_unless_forced(convert, tmp_path, capsys):
    convert(as_text(FULL), "--statistic", "omega")
    before = (tmp_path / "own.txt").read_bytes()
    convert(as_text(FULL), "--statistic", "xi", status=1)
    assert "own.txt exists; give --force to replace it" in capsys.readouterr().err
    assert (tmp_path / "own.txt").read_bytes() == before
    assert same(convert(as_text(FULL), "--statistic", "xi", "--force"), "xi")
    assert main(["convert", "own.txt", "-o", "own.txt", "-f", "--statistic", "xi"]) == 1
    assert "is the table itself" in capsys.readouterr().err


def test_json_and_quiet(convert, capsys):
    convert(as_text(FULL), "--statistic", "omega", "-q", "--json")
    out, err = capsys.readouterr()
    found = json.loads(out)
    assert err == "" and found["bins"]["omega"]["value"] == VALUES.tolist() and found["output"] == "own.txt"
    convert(as_text(FULL), "--statistic", "omega", "-f")
    assert "Columns read as r_low r_high value error; written: own.txt" in capsys.readouterr().out


def test_the_error_of_a_plain_table_shows_the_format_and_names_the_command(tmp_path):
    path = tmp_path / "plain.txt"
    for text in (as_text(FULL), as_text(FULL, " ", "# r_low r_high value error\n"), "", as_text(FULL).rstrip()):
        path.write_text(text)
        with pytest.raises(MeasurementError) as error:
            Measurement.read(path)
        message = str(error.value)
        assert "# format: iaemu measurement 1" in message and "iaemu convert" in message
        example = [line.strip() for line in message.splitlines() if line.startswith("  ")]
        path.write_text("\n".join(example) + "\n")
        assert len(Measurement.read(path).bins["omega"]) == 2
