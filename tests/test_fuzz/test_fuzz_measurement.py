"""Measurement files and objects: what is accepted is what was written."""

import numpy as np
import pytest
from fuzzing import NUMBERS, awkward_mapping, awkward_number, awkward_tensor, spoilt_bytes, spoilt_text

from iaemu.measurement import Bins, Covariance, Measurement, MeasurementError

WORDS = [
    *(
        "nan",
        "inf",
        "-1",
        "0",
        "1e400",
        "1e-320",
        "1_0",
        "\u0661",
        "xi",
        "omega",
        "w_gp",
        "x",
        "",
        "1,5",
        "0x1p3",
        "''",
    ),
    *(
        "5",
        "[null]",
        "{}",
        "[]",
        "!!int foo",
        "2001-02-30",
        "&a",
        "*a",
        "true",
        "null",
        "|",
        ">",
        "? x",
        "own.txt",
        ".",
    ),
    *("# format: iaemu covariance 1", "# covariances: 5", "# bins: {xi: 3}", "# n_regions: 1e3", "# a: [" * 50),
    *("# statistics: [eta]", "# sha256: " + 64 * "0", "# r_unit: kpc/h", "# columns: r_low", "# date: 2001-02-30"),
]


def good():
    error = np.array([0.1, 0.02, 0.003])
    correlation = np.array([[1, 0.3, 0.1], [0.3, 1, 0.3], [0.1, 0.3, 1]])
    bins = Bins([0.1, 0.25, 0.5], [0.25, 0.5, 1.25], [3.0, 1.0 / 3.0, -0.1], error)
    covariance = Covariance(("omega",), correlation * np.outer(error, error), 27)
    return Measurement({"omega": bins, "xi": bins}, [covariance], {"description": "a test", "redshift": 0.5})


def numbers(measurement):
    """All that a likelihood takes from it."""
    parts = [
        np.concatenate([bins.r_low, bins.r_high, bins.value, bins.error])
        for _, bins in sorted(measurement.bins.items())
    ]
    parts += [np.append(entry.matrix.ravel(), entry.n_regions or 0) for entry in measurement.covariances]
    return np.concatenate(parts)


def names(measurement):
    return sorted(measurement.bins), [(entry.statistics, entry.n_regions) for entry in measurement.covariances]


@pytest.fixture
def written(tmp_path):
    path = good().write(tmp_path / "own.txt")
    return path, tmp_path / "own_omega_covariance.txt"


def reader(path, file):
    def read(content):
        file.write_bytes(content)
        return content, Measurement.read(path)

    return read


def same(pair):
    measurement = pair[1]
    return names(measurement) == names(good()) and np.array_equal(numbers(measurement), numbers(good()))


@pytest.mark.parametrize("which", [0, 1])
def test_spoilt_files_that_were_written(fuzz, written, which):
    """A checksum that is there holds; one that is taken out is the word of the user, who answers for the rest."""

    def check(pair):
        return same(pair) or b"# sha256: " not in pair[0]

    text = written[which].read_text()
    kind = ("table", "covariance")[which]

    def make(rng):
        return spoilt_text(rng, text, WORDS) if rng.random() < 0.6 else spoilt_bytes(rng, text.encode())

    fuzz(f"Measurement.read, written {kind}", 7000, make, reader(written[0], written[which]), MeasurementError, check)


@pytest.mark.parametrize("which", [0, 1])
def test_cuts_of_files_that_were_written(fuzz, written, which):
    content = written[which].read_bytes()
    kind = ("table", "covariance")[which]

    def make(rng):
        return content[: int(rng.integers(len(content)))]

    def check(pair):
        return False

    fuzz(f"Measurement.read, cut {kind}", 1500, make, reader(written[0], written[which]), MeasurementError, check)


def test_cuts_of_hand_written_tables(fuzz, written):
    """Whole lines may be missing at the end if nothing states how many there are; never a part of one."""
    lines = [line for line in written[0].read_text().splitlines() if not line.startswith(("# sha256", "# bins"))]
    content = ("\n".join(lines) + "\n").encode()
    whole = numbers(good())

    def check(pair):
        return pair[0].endswith(b"\n") and set(numbers(pair[1])) <= set(whole)

    def make(rng):
        return content[: int(rng.integers(len(content)))]

    fuzz("Measurement.read, hand-written, cut", 1500, make, reader(written[0], written[0]), MeasurementError, check)


def test_spoilt_hand_written_tables(fuzz, written):
    lines = [line for line in written[0].read_text().splitlines() if not line.startswith(("# sha256", "# bins"))]
    text = "\n".join(lines) + "\n"

    def check(pair):
        found = numbers(pair[1])
        bins = pair[1].bins.values()
        return bool(np.isfinite(found).all()) and all(np.all(b.error > 0) and np.all(b.r_low < b.r_high) for b in bins)

    def make(rng):
        return spoilt_text(rng, text, WORDS)

    fuzz("Measurement.read, hand-written", 4000, make, reader(written[0], written[0]), MeasurementError, check)


def test_bins(fuzz):
    columns = {"r_low": [0.1, 0.2], "r_high": [0.2, 0.4], "value": [1.0, 2.0], "error": [0.1, 0.2]}

    def make(rng):
        name = list(columns)[rng.integers(4)]
        form = rng.integers(3)
        if form == 0:
            return columns | {name: awkward_tensor(rng, columns[name])}
        if form == 1:
            return columns | {name: awkward_number(rng)}
        return columns | {name: [columns[name][0], awkward_number(rng)]}

    def call(values):
        return Measurement({"omega": Bins(**values)})

    def check(measurement):
        bins = measurement.bins["omega"]
        arrays = (bins.r_low, bins.r_high, bins.value, bins.error)
        return all(a.dtype == np.float64 and np.isfinite(a).all() and type(a) is np.ndarray for a in arrays)

    fuzz("Bins", 4000, make, call, MeasurementError, check)


def test_covariances(fuzz):
    start = {"statistics": ("omega",), "matrix": np.diag([0.01, 0.04]), "n_regions": 27, "metadata": {}}
    bins = {"omega": Bins([0.1, 0.2], [0.2, 0.4], [1.0, 2.0], [0.1, 0.2])}

    def make(rng):
        if rng.random() < 0.4:
            return start | {"matrix": awkward_tensor(rng, start["matrix"])}
        if rng.random() < 0.3:
            matrix = start["matrix"] * 10.0 ** rng.integers(-300, 300, (2, 2))
            return start | {"matrix": matrix + rng.normal(size=(2, 2)) * 10.0 ** rng.integers(-300, 300)}
        name = list(start)[rng.integers(4)]
        choices = [awkward_number(rng), [awkward_number(rng)], ["omega", awkward_number(rng)], {awkward_key(rng): 1}]
        return start | {name: choices[rng.integers(4)]}

    def check(measurement):
        matrix = measurement.covariances[0].matrix
        return matrix == pytest.approx(np.diag([0.01, 0.04]), rel=0.02, abs=0.02) and np.linalg.det(matrix) > 0

    fuzz("Covariance", 4000, make, lambda v: Measurement(bins, [Covariance(**v)]), MeasurementError, check)


def awkward_key(rng):
    value = awkward_number(rng)
    try:
        hash(value)
    except TypeError:
        return "a"
    return value


def test_measurements(fuzz, tmp_path):
    start = good()

    def make(rng):
        bins, metadata = dict(start.bins), dict(start.metadata)
        part = rng.integers(4)
        if part == 0:
            bins = awkward_mapping(rng, bins)
        elif part == 1:
            metadata = awkward_mapping(rng, metadata)
        elif part == 2:
            return start.bins, [NUMBERS[rng.integers(len(NUMBERS))]], metadata
        else:
            return start.bins, awkward_number(rng), awkward_number(rng)
        return bins, list(start.covariances), metadata

    def call(given):
        path = Measurement(*given).write(tmp_path / "x.txt")
        return None, Measurement.read(path)

    def check(pair):
        found = numbers(pair[1])
        return bool(np.isfinite(found).all()) and set(found) <= set(numbers(start))

    fuzz("Measurement, written and read", 4000, make, call, MeasurementError, check)
