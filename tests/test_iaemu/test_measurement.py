"""The data format."""

import numpy as np
import pytest

from iaemu.measurement import Bins, Covariance, Measurement, MeasurementError


def write(folder, rows, header=None, columns="statistic r_low r_high value error", name="data.txt"):
    header = header or ["format: iaemu measurement 1", "r_unit: Mpc/h", f"columns: {columns}"]
    path = folder / name
    path.write_text("\n".join([f"# {line}" for line in header] + rows) + "\n")
    return path


GOOD = ["omega 0.1 0.2 0.05 0.01", "omega 0.2 0.4 0.03 0.01", "xi 0.1 0.2 900 90"]


def measurement(matrix=None, n_regions=27):
    error = np.array([0.01, 0.02, 0.03])
    bins = Bins(np.array([0.1, 0.2, 0.4]), np.array([0.2, 0.4, 0.8]), np.array([0.3, 0.2, 0.1]), error)
    if matrix is None:
        correlation = np.array([[1, 0.3, 0.1], [0.3, 1, 0.3], [0.1, 0.3, 1]])
        matrix = correlation * np.outer(error, error)
    return Measurement({"omega": bins}, [Covariance(("omega",), matrix, n_regions)], {"description": "toy: a test"})


def test_what_is_written_is_read_back(tmp_path):
    original = measurement()
    path = original.write(tmp_path / "toy.txt")
    back = Measurement.read(path)
    for name in ("r_low", "r_high", "value", "error"):
        assert getattr(back.bins["omega"], name) == pytest.approx(getattr(original.bins["omega"], name), rel=1e-11)
    assert back.covariances[0].matrix == pytest.approx(original.covariances[0].matrix, rel=1e-11)
    assert back.covariances[0].n_regions == 27
    assert back.metadata["description"] == "toy: a test"
    assert sorted(file.name for file in tmp_path.iterdir()) == ["toy.txt", "toy_omega_covariance.txt"]


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path, monkeypatch):
    path = measurement().write(tmp_path / "toy.txt")
    before = path.read_text()

    def fail(*arguments):
        raise OSError("disk full")

    monkeypatch.setattr("iaemu.files.os.replace", fail)
    with pytest.raises(OSError, match="disk full"):
        measurement().write(path)
    assert path.read_text() == before
    assert len(list(tmp_path.iterdir())) == 2


def test_columns_can_come_in_any_order_and_with_others(tmp_path):
    path = write(tmp_path, ["0.01 0.05 omega 0.1 0.2 99"], columns="error value statistic r_low r_high n_pairs")
    bins = Measurement.read(path).bins["omega"]
    assert (bins.value[0], bins.error[0], bins.r_low[0]) == (0.05, 0.01, 0.1)


@pytest.mark.parametrize(
    ("rows", "columns", "message"),
    [
        (GOOD, "statistic r_low r_high value", "missing column.*error"),
        (["omega 0.1 0.2 nan 0.01"], None, "omega: value is nan in bin 0"),
        (["omega 0.1 0.2 0.05 inf"], None, "omega: error is inf in bin 0"),
        (["omega 0.1 0.2 0.05 0"], None, "error of bin 0.*is 0; errors must be positive"),
        (["omega 0.1 0.2 0.05 -0.01"], None, "-0.01"),
        (["omega 0.1 0.3 0.05 0.01", "omega 0.2 0.4 0.03 0.01"], None, "bins 0 and 1 overlap.*0.1 .. 0.3"),
        (["omega 0.2 0.1 0.05 0.01"], None, "0 < r_low < r_high"),
        (["omega 0 0.1 0.05 0.01"], None, "0 < r_low < r_high"),
        (["w_gp 0.1 0.2 0.05 0.01"], None, "unknown statistic 'w_gp'"),
        (["omega 0.1 0.2 0.05"], None, "line 4: 4 entries in 5 columns"),
        (["omega 0.1 0.2 abc 0.01"], None, "line 4: value is 'abc'"),
        ([], None, "no measurement"),
    ],
)
def test_bad_tables_are_named(tmp_path, rows, columns, message):
    path = write(tmp_path, rows, columns=columns or "statistic r_low r_high value error")
    with pytest.raises(MeasurementError, match=message) as error:
        Measurement.read(path)
    assert str(path) in str(error.value)


@pytest.mark.parametrize(
    ("header", "message"),
    [
        (["r_unit: Mpc/h", "columns: statistic r_low r_high value error"], "format: iaemu measurement 1"),
        (["format: iaemu measurement 1", "columns: statistic r_low r_high value error"], "r_unit.*Mpc/h.*None"),
        (["format: iaemu measurement 1", "r_unit: Mpc"], "r_unit.*'Mpc'"),
        (["format: [unclosed"], "not valid YAML"),
        (["just words"], "key: value"),
    ],
)
def test_bad_headers_are_named(tmp_path, header, message):
    path = write(tmp_path, GOOD, header=header)
    with pytest.raises(MeasurementError, match=message):
        Measurement.read(path)


def covariance_file(folder, matrix, header=("statistics: [omega]", "n_regions: 27")):
    lines = ["# format: iaemu covariance 1"] + [f"# {line}" for line in header]
    lines += [" ".join(f"{value:.12g}" for value in row) for row in matrix]
    (folder / "cov.txt").write_text("\n".join(lines) + "\n")
    columns = "statistic r_low r_high value error"
    head = ["format: iaemu measurement 1", "r_unit: Mpc/h", "covariances: cov.txt", f"columns: {columns}"]
    return write(folder, GOOD, header=head)


@pytest.mark.parametrize(
    ("matrix", "message"),
    [
        ([[1e-4]], r"shape \(1, 1\).*2 bins"),
        ([[1e-4, 0], [0, 1e-4], [0, 0]], "3 rows"),
        ([[1e-4, 1e-5], [2e-5, 1e-4]], r"not symmetric: 1e-05 at \(0, 1\)"),
        ([[1e-4, 1.2e-4], [1.2e-4, 1e-4]], "not positive definite.*eigenvalue -0.2"),
        ([[1e-4, np.nan], [np.nan, 1e-4]], r"nan at \(0, 1\)"),
        ([[-1e-4, 0], [0, 1e-4]], "variance -0.0001 at bin 0"),
        ([[4e-4, 0], [0, 4e-4]], "disagree: bin 0 has variance 0.0004 and error 0.01"),
    ],
)
def test_bad_covariances_are_named(tmp_path, matrix, message):
    path = covariance_file(tmp_path, matrix)
    with pytest.raises(MeasurementError, match=message) as error:
        Measurement.read(path)
    assert str(tmp_path) in str(error.value)


@pytest.mark.parametrize(
    ("header", "message"),
    [
        (("statistics: [w_gp]",), "statistics"),
        (("statistics: [eta]",), "eta is not in the table"),
        (("statistics: [omega]", "n_regions: many"), "n_regions.*'many'"),
    ],
)
def test_bad_covariance_headers_are_named(tmp_path, header, message):
    path = covariance_file(tmp_path, np.diag([1e-4, 1e-4]), header)
    with pytest.raises(MeasurementError, match=message):
        Measurement.read(path)


def test_a_covariance_that_is_not_there_is_named(tmp_path):
    path = covariance_file(tmp_path, np.diag([1e-4, 1e-4]))
    (tmp_path / "cov.txt").unlink()
    with pytest.raises(MeasurementError, match=r"cov\.txt"):
        Measurement.read(path)


def test_bins_with_gaps_keep_their_place_in_contiguous_edges():
    bins = Bins(np.array([0.1, 0.4]), np.array([0.2, 0.8]), np.ones(2), np.ones(2))
    edges, index = bins.edges()
    assert edges == pytest.approx([0.1, 0.2, 0.4, 0.8])
    assert index.tolist() == [0, 2]
