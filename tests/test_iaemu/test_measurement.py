"""The data format."""

import datetime
import gzip
import os

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
        assert np.array_equal(getattr(back.bins["omega"], name), getattr(original.bins["omega"], name))
    assert np.array_equal(back.covariances[0].matrix, original.covariances[0].matrix)
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
        (["omega 0.1 0.2 0.05"], None, "line 4: there are 4 entries for 5 columns"),
        (["omega 0.1 0.2 abc 0.01"], None, "line 4: value is 'abc'"),
        ([], None, "contains no measured bins"),
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
        ([[1e-4, 1e-5], [2e-5, 1e-4]], r"not symmetric: it is 1e-05 at \(0, 1\)"),
        ([[1e-4, 1.2e-4], [1.2e-4, 1e-4]], "not positive definite.*eigenvalue -0.2"),
        ([[1e-4, np.nan], [np.nan, 1e-4]], r"nan at \(0, 1\)"),
        ([[-1e-4, 0], [0, 1e-4]], "must be positive, but the covariance has -0.0001 at bin 0"),
        ([[4e-4, 0], [0, 4e-4]], "disagree: bin 0 has the variance 0.0004 and the error 0.01"),
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


# ---------------------------------------------------------------------- complete, and as it was written


def test_no_cut_of_a_written_file_is_read(tmp_path):
    path = measurement().write(tmp_path / "toy.txt")
    for file in (path, tmp_path / "toy_omega_covariance.txt"):
        content = file.read_bytes()
        for length in {*range(0, len(content), 11), *range(len(content) - 40, len(content))}:
            file.write_bytes(content[:length])
            with pytest.raises(MeasurementError):
                Measurement.read(path)
        file.write_bytes(content)
        Measurement.read(path)


def test_a_number_that_was_changed_is_told_until_the_checksum_is_taken_out(tmp_path):
    path = measurement().write(tmp_path / "toy.txt")
    edited = path.read_text().replace("0.3 ", "0.4 ")
    path.write_text(edited)
    with pytest.raises(MeasurementError, match=r"toy\.txt has changed since it was written.*remove the line '# sha256"):
        Measurement.read(path)
    path.write_text("".join(line for line in edited.splitlines(keepends=True) if "sha256" not in line))
    assert Measurement.read(path).bins["omega"].value[0] == 0.4


def test_an_editor_that_ends_lines_in_another_way_is_no_harm(tmp_path):
    path = measurement().write(tmp_path / "toy.txt")
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b" \r\n"))
    assert Measurement.read(path).bins["omega"].value[0] == 0.3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda text: text.rstrip("\n"),
            "'xi 0.1 0.2 900 90', does not end in a newline, so the file may have been cut short",
        ),
        (lambda text: text + "omega 0.5 0.6", "does not end in a newline"),
        (
            lambda text: text.replace("# r_unit", "# bins: {omega: 2, xi: 2}\n# r_unit"),
            r"bins .*'xi': 2.*has .*'xi': 1",
        ),
        (
            lambda text: text.replace("# r_unit", "# statistics: [omega, eta]\n# r_unit"),
            "statistic 'eta', but the table",
        ),
    ],
)
def test_hand_written_tables_that_are_not_complete_are_named(tmp_path, change, message):
    path = write(tmp_path, GOOD)
    path.write_text(change(path.read_text()))
    with pytest.raises(MeasurementError, match=message):
        Measurement.read(path)


def test_files_are_read_as_people_have_them(tmp_path):
    path = write(tmp_path, GOOD)
    text = path.read_text().replace("# r_unit", "# author: Müller\n# r_unit")
    expected = Measurement.read(path).bins["omega"].value.tolist()
    path.write_bytes(text.encode("latin-1"))
    assert Measurement.read(path).metadata["author"] == "Müller"
    (tmp_path / "data.txt.gz").write_bytes(gzip.compress(text.encode()))
    assert Measurement.read(tmp_path / "data.txt.gz").bins["omega"].value.tolist() == expected
    (tmp_path / "short.txt.gz").write_bytes(gzip.compress(text.encode())[:-20])
    with pytest.raises(MeasurementError, match=r"short\.txt\.gz cannot be read"):
        Measurement.read(tmp_path / "short.txt.gz")
    with pytest.raises(MeasurementError, match="cannot be read"):
        Measurement.read(tmp_path)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("date: 2001-02-30", "not valid YAML"),
        ("n: !!int foo", "not valid YAML"),
        ("when: !!timestamp foo", "not valid YAML"),
        ("a: " + "[" * 5000, "not valid YAML"),
        ("a: &x [1, 2]\n# b: *x", r"references \(\*\) are not supported"),
        ("covariances: 5", "'covariances' in the header must list names of files; got 5"),
        ("covariances: [null]", r"got \[None\]"),
        ("covariances: [[a]]", "must list names"),
        ("covariances: .", "no such file in its folder"),
        ("bins: 3", "states the numbers of bins 3"),
        ("2: 3", "key: value"),
    ],
)
def test_headers_that_are_not_meant_are_named(tmp_path, line, message):
    path = write(tmp_path, GOOD)
    path.write_text(path.read_text().replace("# r_unit", f"# {line}\n# r_unit"))
    with pytest.raises(MeasurementError, match=message):
        Measurement.read(path)


def test_a_few_lines_of_aliases_do_not_make_gigabytes(tmp_path):
    bomb = ["a0: &a0 [lol, lol, lol, lol, lol, lol, lol, lol, lol]"]
    bomb += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 9)]
    head = ["format: iaemu measurement 1", "r_unit: Mpc/h", "columns: statistic r_low r_high value error"]
    with pytest.raises(MeasurementError, match=r"references \(\*\) are not supported"):
        Measurement.read(write(tmp_path, GOOD, header=head + bomb))


# ---------------------------------------------------------------------- objects


@pytest.mark.parametrize("index", range(4))
@pytest.mark.parametrize(
    "bad",
    [1j * np.ones(3), np.ma.array(np.ones(3), mask=[0, 1, 0]), ["1", "2", "3"], np.ones((3, 1)), np.ones(2), None],
)
def test_bins_are_real_numbers_one_of_each_a_bin(index, bad):
    columns = [[0.1, 0.2, 0.4], [0.2, 0.4, 0.8], [0.3, 0.2, 0.1], [1, 1, 1]]
    bins = Bins(*columns)
    assert len(bins) == 3 and bins.error.dtype == np.float64 and bins.r[0] == pytest.approx(0.15)
    columns[index] = bad
    with pytest.raises(MeasurementError, match="bins"):
        Bins(*columns)


@pytest.mark.parametrize(
    ("statistics", "matrix", "n_regions", "message"),
    [
        (("omega",), [[1.0]], True, "'n_regions' of a covariance must be a whole number above 1.*True"),
        (("omega",), [[1.0]], 27.5, "27.5"),
        (("omega",), [[1j]], 27, "real numbers.*complex"),
        (("omega",), np.ma.array([[1.0]], mask=True), 27, "masked"),
        (("omega",), [1.0], 27, "2-dimensional"),
        (("omega",), [[1.0, 2.0]], 27, r"as many rows as columns.*\(1, 2\)"),
        (("omega", "omega"), np.eye(2), 27, "without repetition"),
        (([],), np.eye(2), 27, "one or more of xi, omega, eta"),
        (None, np.eye(2), 27, "one or more of xi, omega, eta"),
    ],
)
def test_covariances_are_square_and_real(statistics, matrix, n_regions, message):
    with pytest.raises(MeasurementError, match=message):
        Covariance(statistics, matrix, n_regions)


@pytest.mark.parametrize(
    ("matrix", "message"),
    [
        (np.diag([1e-300, 1e300]), "disagree"),
        ([[1e-300, 1.0], [1.0, 1e300]], "not positive definite.*eigenvalue 0"),
        ([[1e-300, 1e300], [1e300, 1e-300]], "not positive definite: 1e.300 at"),
    ],
)
def test_variances_of_any_size_are_compared(matrix, message):
    bins = Bins([0.1, 0.2], [0.2, 0.4], [1, 1], [1, 1])
    with pytest.raises(MeasurementError, match=message):
        Measurement({"xi": bins}, [Covariance("xi", matrix)])
    own = Bins([0.1, 0.2], [0.2, 0.4], [1, 1], [1e-150, 1e150])
    Measurement({"xi": own}, [Covariance("xi", np.diag([1e-300, 1e300]))])


def test_metadata_come_back_whatever_they_hold_and_names_of_the_format_are_refused(tmp_path):
    twice = [1, 2]
    entries = {"date": datetime.date(2001, 2, 3), "n": np.float64(0.5), "list": np.arange(2), "a": twice, "b": twice}
    entries |= {"text": "x\u2028yz: # 'q'\n\n", "long": "word " * 100, "odd": "\udcff"}
    bins = {"omega": Bins([0.1], [0.2], [0.1], [1])}
    back = Measurement.read(Measurement(bins, (), entries).write(tmp_path / "toy.txt")).metadata
    assert back == entries | {"list": [0, 1]}
    for name in ("format", "columns", "covariances", "sha256", "bins"):
        with pytest.raises(MeasurementError, match=f"cannot contain {name}"):
            Measurement(bins, (), {name: 1})
    with pytest.raises(MeasurementError, match="cannot be written"):
        Measurement(bins, (), {"a": object()}).write(tmp_path / "toy.txt")
    endless = {}
    endless["a"] = endless
    with pytest.raises(MeasurementError, match="cannot be written"):
        Measurement(bins, (), endless).write(tmp_path / "toy.txt")


# ---------------------------------------------------------------------- several files together


def several(scale, joint=False):
    """xi and omega, with a covariance each or one of both."""
    error = np.array([0.01, 0.02]) * scale
    bins = {name: Bins([0.1, 0.2], [0.2, 0.4], [0.1 * scale, 0.1], error) for name in ("xi", "omega")}
    if joint:
        return Measurement(bins, [Covariance(("xi", "omega"), np.diag(np.tile(error, 2) ** 2), 27)])
    return Measurement(bins, [Covariance((name,), np.diag(error**2), 27) for name in bins])


def contents(folder):
    return {file.name: file.read_bytes() for file in folder.iterdir()}


class Killed(BaseException):
    pass


@pytest.mark.parametrize("before", [None, several(1.0), several(1.0, joint=True)])
@pytest.mark.parametrize("joint", [False, True])
def test_a_write_that_is_killed_at_any_step_leaves_the_old_or_the_new_and_can_be_run_again(
    tmp_path, monkeypatch, before, joint
):
    new, picture = several(2.0, joint), {}
    for name in ("whole", "expected"):
        (tmp_path / name).mkdir()
    path = tmp_path / "whole" / "own.txt"
    picture = {path.with_suffix(".png"): lambda file: file.write(b"picture")}
    new.write(tmp_path / "expected" / "own.txt", {tmp_path / "expected" / "own.png": lambda f: f.write(b"picture")})
    steps = 0
    while True:
        for file in path.parent.iterdir():
            file.unlink()
        if before is not None:
            before.write(path, picture)
        left = steps

        def step(original):
            def call(*arguments, **keywords):
                nonlocal left
                if left == 0:
                    raise Killed
                left -= 1
                return original(*arguments, **keywords)

            return call

        with monkeypatch.context() as patch:
            patch.setattr("iaemu.files.os.replace", step(os.replace))
            patch.setattr("pathlib.Path.unlink", step(type(path).unlink))
            try:
                new.write(path, picture)
                finished = True
            except Killed:
                finished = False
        if before is not None or finished:
            found = Measurement.read(path)
            assert found.bins["xi"].value[0] in (0.1, 0.2) and len(found.covariances) in (1, 2)
        for temporary in path.parent.glob(".*.tmp"):  # a process that ends in an exception takes them away itself
            temporary.unlink()
        new.write(path, picture)
        assert contents(path.parent) == contents(tmp_path / "expected")
        if finished:
            break
        steps += 1
    assert steps >= 4


def test_covariances_of_others_stay(tmp_path):
    (tmp_path / "own_xi_covariance.txt").write_text("mine\n")
    (tmp_path / "other.txt").write_text("mine\n")
    path = write(tmp_path, GOOD, name="own.txt")
    path.write_text(path.read_text().replace("# r_unit", "# covariances: [other.txt]\n# r_unit"))
    several(1.0, joint=True).write(path)
    assert sorted(contents(tmp_path)) == [
        "other.txt",
        "own.txt",
        "own_xi_covariance.txt",
        "own_xi_omega_covariance.txt",
    ]
