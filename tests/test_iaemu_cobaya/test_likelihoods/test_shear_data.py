"""Files of cosmic shear: the packaged one, our own format, SACC; and what is wrong with them."""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from cobaya.log import LoggedError
from cobaya.model import get_model

from iaemu.measurement import MeasurementError
from iaemu_cobaya.likelihoods.data_files import resolve
from iaemu_cobaya.likelihoods.shear_data import ShearData

PARAMS = {"Omega_m": 0.3, "sigma8": 0.79, "h": 0.69, "n_s": 0.97, "Omega_b": 0.048, "A_IA": 1.0}


@pytest.fixture
def data():
    """Two source bins, three separations."""
    statistic = np.repeat(["xi_plus", "xi_minus"], 9).astype(object)
    pairs = np.tile(np.repeat([[0, 0], [0, 1], [1, 1]], 3, axis=0), (2, 1))
    theta = np.tile([5.0, 20.0, 80.0], 6)
    z = np.linspace(0.05, 1.5, 30)
    nz = np.array([np.exp(-(((z - mean) / 0.15) ** 2)) for mean in (0.4, 0.8)])
    matrix = 1e-12 * (np.eye(18) + 0.2)
    return ShearData(statistic, pairs, theta, 1e-6 / theta, matrix, z, nz, {"description": "made up"})


def same(one, other):
    for name in ("statistic", "pairs", "theta", "values", "covariance", "z", "nz"):
        first, second = getattr(one, name), getattr(other, name)
        assert np.array_equal(first, second) if first.dtype == object else second == pytest.approx(first, rel=1e-12)


def test_the_packaged_data_are_the_published_ones():
    path = resolve("shear/des_y1")
    assert path.stat().st_size < 1_000_000
    found = ShearData.read(path)
    assert found.counts() == {"xi_plus": 167, "xi_minus": 60}
    assert found.nz.shape == (4, 351)
    assert "1708.01538" in found.metadata["reference"] and "firecrown" in found.metadata["source"]
    assert (found.theta[0], found.values[0]) == (8.94802743, 9.5804336888e-06)
    assert found.pairs[-1].tolist() == [3, 3] and found.statistic[-1] == "xi_minus"
    assert np.trapezoid(found.nz, found.z, axis=1) == pytest.approx(1.0)
    # mean redshifts of the four bins, of arXiv:1708.01532 about 0.38, 0.51, 0.74, 0.96
    assert np.trapezoid(found.nz * found.z, found.z, axis=1) == pytest.approx([0.40, 0.52, 0.75, 0.94], abs=0.04)


def test_a_written_file_reads_back(data, tmp_path):
    same(data, ShearData.read(data.write(tmp_path / "own.txt")))


def test_distributions_are_normalised(data):
    same(data, replace(data, nz=7.0 * data.nz))


def made_sacc(data, path, unit=1.0, covariance=True):
    sacc = pytest.importorskip("sacc")
    file = sacc.Sacc()
    file.add_tracer("NZ", "lens", data.z, data.nz[0])
    for number, row in enumerate(data.nz):
        file.add_tracer("NZ", f"source{number}", data.z, row)
    # What is not shear, between the points: it has to be left out, of the covariance too.
    file.add_data_point("galaxy_density_xi", ("lens", "lens"), 0.1, theta=5.0)
    for statistic, (i, j), theta, value in zip(data.statistic, data.pairs, data.theta, data.values, strict=True):
        file.add_data_point(f"galaxy_shear_{statistic}", (f"source{i}", f"source{j}"), value, theta=theta / unit)
    if covariance:
        matrix = np.eye(len(data.values) + 1)
        matrix[1:, 1:] = data.covariance
        file.add_covariance(matrix)
    file.save_fits(str(path))
    return path


def test_sacc_files_hold_the_same_as_our_own(data, tmp_path):
    same(data, ShearData.read(made_sacc(data, tmp_path / "own.sacc")))


def test_separations_of_sacc_in_radian(data, tmp_path):
    path = made_sacc(data, tmp_path / "own.sacc", unit=60.0 * 180.0 / np.pi)
    with pytest.raises(MeasurementError, match=r"the largest separation would be 0.0233 arcmin.*theta_unit"):
        ShearData.read(path)
    assert ShearData.read(path, "radian").theta == pytest.approx(data.theta)


def test_sacc_without_covariance_is_refused(data, tmp_path):
    with pytest.raises(MeasurementError, match=r"own.sacc has no covariance.*add_covariance"):
        ShearData.read(made_sacc(data, tmp_path / "own.sacc", covariance=False))


def test_sacc_of_something_else_is_refused(tmp_path, data):
    sacc = pytest.importorskip("sacc")
    file = sacc.Sacc()
    file.add_tracer("NZ", "source0", data.z, data.nz[0])
    file.add_data_point("galaxy_shear_cl_ee", ("source0", "source0"), 1e-9, ell=100.0)
    file.save_fits(str(tmp_path / "harmonic.sacc"))
    with pytest.raises(MeasurementError, match=r"no points of galaxy_shear_xi_plus .*it has galaxy_shear_cl_ee"):
        ShearData.read(tmp_path / "harmonic.sacc")


def test_a_damaged_sacc_file_is_named(tmp_path):
    pytest.importorskip("sacc")
    (tmp_path / "damaged.sacc").write_bytes(b"SIMPLE  =                    T" + b" " * 100)
    with pytest.raises(MeasurementError, match=r"damaged.sacc cannot be read as a SACC file"):
        ShearData.read(tmp_path / "damaged.sacc")


def test_without_sacc_the_message_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "sacc", None)
    (tmp_path / "own.sacc").write_bytes(b"SIMPLE  = ")
    with pytest.raises(ImportError, match=r"own.sacc is a SACC file.*pip install 'iaemu-cobaya\[lensing\]'"):
        ShearData.read(tmp_path / "own.sacc")


def test_without_pyccl_the_message_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "pyccl", None)
    with pytest.raises(LoggedError, match=r"needs pyccl.*pip install 'iaemu-cobaya\[lensing\]'"):
        get_model({"likelihood": {"iaemu_cobaya.DESY1Shear": None}, "params": PARAMS})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: {"covariance": d.covariance - 1.3e-13 * 9}, r"variances must be positive|not positive definite"),
        (lambda d: {"covariance": 1e-12 * np.ones((18, 18))}, r"not positive definite.*use fewer points \(theta_min"),
        (lambda d: {"covariance": d.covariance[:5, :5]}, r"has shape \(5, 5\), but there are 18 points"),
        (lambda d: {"nz": np.array([d.nz[0], 0 * d.nz[1]])}, "that of source bin 2 cannot be normalised"),
        (lambda d: {"nz": d.nz * np.nan}, "that of source bin 1 cannot be normalised"),
        (lambda d: {"z": 5 * d.z}, r"from z = 0.25 to 7.5; supported are 0 to 5.*Leave out rows"),
        (lambda d: {"z": d.z[::-1]}, "must be finite and increasing"),
        (lambda d: {"nz": d.nz[:1]}, r"a point of source bin 2, but .* of 1 source bins"),
        (lambda d: {"theta": d.theta * np.pi / 180 / 60}, "theta_unit, one of arcmin, degree"),
        (lambda d: {"theta": -d.theta}, "separations must be positive"),
        (lambda d: {"values": d.values * np.inf}, "values must be finite; point 1 is not"),
        (lambda d: {"statistic": np.full(18, "w_theta", dtype=object)}, "unknown statistic 'w_theta'"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused(data, change, message):
    with pytest.raises(MeasurementError, match=message):
        replace(data, name="own.txt", **change(data))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "# format: iaemu cosmic shear 1",
            "# format: iaemu measurement 1",
            "must hold '# format: iaemu cosmic shear 1'",
        ),
        ("xi_plus 1 1 5.0", "xi_plus 1 1", "line 36: xi_plus must be followed by 4|give xi_plus, two source bins"),
        ("xi_plus 1 1 5.0", "xi_plus 1.5 1 5.0", "source bins must be whole numbers"),
        (
            "xi_plus 1 1 5.0",
            "gamma_t 1 1 5.0",
            "rows begin with one of nz, xi_plus, xi_minus, covariance; got 'gamma_t'",
        ),
        ("xi_plus 1 1 5.0", "# xi_plus 1 1 5.0", "17 points, 18 rows of the covariance|not valid YAML"),
        ("points: {xi_plus: 9", "points: {xi_plus: 8", "its header states the points"),
        ("xi_plus 1 1 5.0", "xi_plus 1 1 five", "'five', which is not a number"),
    ],
)
def test_mistakes_in_our_own_format_are_named(data, tmp_path, old, new, message):
    path = data.write(tmp_path / "own.txt")
    text = "\n".join(line for line in path.read_text().splitlines() if "sha256" not in line) + "\n"
    assert old in text
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(MeasurementError, match=message):
        ShearData.read(path)


def test_a_changed_file_is_noticed(data, tmp_path):
    path = data.write(tmp_path / "own.txt")
    path.write_text(path.read_text().replace("xi_plus 1 1 5.0", "xi_plus 1 1 6.0"))
    with pytest.raises(MeasurementError, match="has changed since it was written"):
        ShearData.read(path)


def test_units_are_for_sacc_files(data, tmp_path):
    with pytest.raises(MeasurementError, match=r"theta_unit: .* is in our own format, whose unit is arcmin"):
        ShearData.read(data.write(tmp_path / "own.txt"), "radian")
    with pytest.raises(MeasurementError, match="theta_unit: must be one of arcmin, degree, radian, arcsec; got 'deg'"):
        ShearData.read(Path("any"), "deg")
