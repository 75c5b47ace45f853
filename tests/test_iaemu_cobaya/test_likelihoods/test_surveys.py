"""Files of surveys (2pt FITS of echo-IA, plain tables, our own format) become measurements, or an error says why."""

import gzip
import time
import warnings

import numpy as np
import pytest

from iaemu import measurement
from iaemu.measurement import MeasurementError
from iaemu_cobaya.commands.door import main
from iaemu_cobaya.likelihoods.data_files import Measurement
from iaemu_cobaya.likelihoods.surveys import read_survey

fits = pytest.importorskip("astropy.io.fits")

R = {"wgp": np.logspace(-0.5, 1.5, 6), "wpp": np.logspace(-0.5, 1.5, 6), "wgg": np.logspace(-0.4, 1.4, 5)}
VALUES = {"wgp": 0.5 / R["wgp"], "wpp": 0.1 / R["wpp"], "wgg": 200 / R["wgg"]}
SIZES = [6, 6, 5]
ERRORS = np.concatenate([0.1 * VALUES[name] for name in ("wgp", "wpp", "wgg")])
SHAPE = np.exp(-0.5 * ((np.arange(0.005, 1, 0.01) - 0.3) / 0.05) ** 2)


def correlation(n, strength=0.3):
    return strength ** np.abs(np.subtract.outer(np.arange(n), np.arange(n)))


MATRIX = correlation(17) * np.outer(ERRORS, ERRORS)


def table(name, r=None, value=None, columns=(), unit=None, pairs=((1, 1),), separation="SEP"):
    """One statistic; with several pairs, their values differ by the number of the pair."""
    r, value = R[name] if r is None else r, VALUES[name] if value is None else value
    n, m = len(r), len(pairs)
    data = {
        separation: np.tile(r, m),
        "SEPBIN": np.tile(np.arange(n), m),
        "SAMPLE1": np.zeros(n * m, dtype=int),
        "SAMPLE2": np.zeros(n * m, dtype=int),
        "BIN1": np.repeat([pair[0] for pair in pairs], n),
        "BIN2": np.repeat([pair[1] for pair in pairs], n),
        "VALUE": np.concatenate([value * (1 + i) for i in range(m)]) if m > 1 else value,
        **dict(columns),
    }
    kinds = {"f": "D", "i": "K", "U": "A20"}
    columns = [
        fits.Column(key, kinds[np.asarray(column).dtype.kind], unit if key == separation else None, array=column)
        for key, column in data.items()
        if column is not None
    ]
    return named(columns, name)


def named(columns, name):
    hdu = fits.BinTableHDU.from_columns(columns)
    hdu.header["EXTNAME"] = name  # in lower case, as fitsio writes it
    return hdu


def redshifts(kind, density=SHAPE):
    z = np.arange(0.005, 1, 0.01)
    data = {"Z_MID": z, "Z_LOW": z - 0.005, "Z_HIGH": z + 0.005, "BIN1": density}
    return named([fits.Column(key, "D", array=column) for key, column in data.items()], f"nz_ours_{kind}")


def covmat(matrix=MATRIX, sizes=SIZES, names=("wgp", "wpp", "wgg"), **header):
    hdu = fits.ImageHDU(np.asarray(matrix, dtype=np.float64), name="COVMAT")
    for i, name in enumerate(names):
        hdu.header[f"NAME_{i}"], hdu.header[f"STRT_{i}"] = name, int(np.sum(sizes[:i]))
    hdu.header.update(header)
    return hdu


def parts():
    both = {kind: redshifts(kind) for kind in ("shape", "density")}
    return {**both, **{name: table(name) for name in R}, "COVMAT": covmat()}


@pytest.fixture
def write(tmp_path):
    """Write a file with some parts replaced or, if None, left out; its path."""

    def run(name="2pt.fits", **changes):
        hdus = [hdu for hdu in {**parts(), **changes}.values() if hdu is not None]
        fits.HDUList([fits.PrimaryHDU(), *hdus]).writeto(tmp_path / name, overwrite=True)
        return tmp_path / name

    return run


def test_a_file_of_echo_ia(write):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        data = read_survey(write(), pi_max=100)
    assert data.statistics == ("w_gplus", "w_gg")
    for statistic, name in (("w_gg", "wgg"), ("w_gplus", "wgp")):
        bins = data.bins[statistic]
        assert np.array_equal(bins.r_low, R[name]) and np.array_equal(bins.r_high, R[name])
        assert np.array_equal(bins.value, VALUES[name]) and np.allclose(bins.error, 0.1 * VALUES[name], rtol=1e-14)
    (covariance,) = data.covariances
    rows = np.r_[:6, 12:17]
    assert covariance.statistics == ("w_gplus", "w_gg") and covariance.n_regions is None
    assert np.allclose(covariance.matrix, MATRIX[np.ix_(rows, rows)], rtol=1e-14)
    assert data.metadata["pi_max"] == 100 and "notes" not in data.metadata
    assert data.metadata["redshift_of_samples"] == {"shape": 0.3, "density": 0.3}
    # n^2/(chi^2 dchi/dz) falls with z: the pairs are nearer than the galaxies
    assert 0.285 < data.metadata["redshift"] < 0.3


def test_it_can_be_written_and_read_again(write, tmp_path):
    data = read_survey(write(), pi_max=100, statistics=["w_gg", "w_plusplus"])
    data.write(tmp_path / "own.txt")
    for again in (read_survey(tmp_path / "own.txt"), read_survey(tmp_path / "own.txt", pi_max=100)):
        assert again.metadata == data.metadata
        assert np.array_equal(again.covariances[0].matrix, data.covariances[0].matrix)
    with pytest.raises(MeasurementError, match=r"pi_max is 100\.0 in its header, but 60 was given"):
        read_survey(tmp_path / "own.txt", pi_max=60)
    with pytest.raises(MeasurementError, match="in our own format, which states this itself: leave out edges, r_max"):
        read_survey(tmp_path / "own.txt", edges=[1, 2], r_max=3)


def test_packaged_names_and_other_spellings(write):
    assert read_survey("surveys/lowz").metadata == Measurement.read("surveys/lowz").metadata
    changes = {"wgp": table("wgp"), "wgg": table("wgg"), "COVMAT": covmat(names=("w_g+", "wpp", "wgg"))}
    changes["wgp"].header["EXTNAME"], changes["wgg"].header["EXTNAME"] = "W_G+", "W_GG"
    path = write(**changes)
    assert read_survey(path).statistics == ("w_gplus", "w_gg")


def test_gzip(write, tmp_path):
    (tmp_path / "2pt.fits.gz").write_bytes(gzip.compress(write().read_bytes()))
    assert read_survey(tmp_path / "2pt.fits.gz").statistics == ("w_gplus", "w_gg")


def test_edges_make_bins_and_cuts_choose_among_them(write):
    edges = np.sqrt(R["wgg"][1] / R["wgg"][0]) ** np.arange(-1, 10, 2) * R["wgg"][0]
    data = read_survey(write(), edges={"w_gg": edges}, r_max={"w_gg": edges[-2], "w_gplus": 20}, r_min=0.4)
    assert np.allclose(data.bins["w_gg"].r_low, edges[1:-2] if edges[0] < 0.4 else edges[:-2])
    assert np.array_equal(data.bins["w_gplus"].r_low, R["wgp"][(R["wgp"] >= 0.4) & (R["wgp"] <= 20)])
    assert len(data.covariances[0].matrix) == len(data.bins["w_gg"]) + len(data.bins["w_gplus"])


@pytest.mark.parametrize("variance", [0.0, 1e-20])
def test_bins_without_variance_are_left_out_and_named(write, variance):
    matrix = MATRIX.copy()
    matrix[1], matrix[:, 1], matrix[1, 1] = 0, 0, variance
    path = write(COVMAT=covmat(matrix))
    with pytest.warns(UserWarning, match=r"w_gplus has no measurement at r_p = 0\.7943 \(variance (0|1e-20)\)"):
        data = read_survey(path)
    assert np.array_equal(data.bins["w_gplus"].r_low, np.delete(R["wgp"], 1))
    assert "0.7943" in data.metadata["notes"] and len(data.covariances[0].matrix) == 10
    with pytest.raises(MeasurementError, match=r"no measurement at r_p = 0\.7943.*or let 'masked: drop'"):
        read_survey(path, masked="refuse")


def test_steep_variances_are_no_bins_without_variance(write):
    error = 10.0 ** -np.arange(17)  # a factor of 100 in variance from bin to bin
    data = read_survey(write(COVMAT=covmat(correlation(17) * np.outer(error, error))))
    assert len(data.bins["w_gplus"]) == 6 and len(data.bins["w_gg"]) == 5


def test_realisations_count_if_the_covariance_has_their_noise(write):
    rng = np.random.default_rng(1)
    sample = np.cov(rng.multivariate_normal(np.zeros(17), MATRIX / ERRORS / ERRORS[:, None], 100).T)
    estimate = sample * np.outer(ERRORS, ERRORS)
    assert read_survey(write(COVMAT=covmat(estimate, NREAL=100))).covariances[0].n_regions == 100
    smooth = write(COVMAT=covmat(NREAL=100))
    data = read_survey(smooth)
    assert data.covariances[0].n_regions is None
    assert "less noise than 100 realisations, which the file states (NREAL)" in data.metadata["notes"]
    assert read_survey(smooth, n_regions=100).covariances[0].n_regions == 100


def test_several_pairs_of_samples(write):
    pairs = ((1, 1), (2, 2))
    changes = {name: table(name, pairs=pairs) for name in R}
    sizes = [12, 12, 10]
    matrix = np.diag(np.arange(1.0, 35.0))
    path = write(**changes, COVMAT=covmat(matrix, sizes))
    with pytest.raises(MeasurementError) as error:
        read_survey(path)
    assert "wgp holds 2 pairs of samples: BIN1 = 1, BIN2 = 1; BIN1 = 2, BIN2 = 2. Choose one" in str(error.value)
    assert "pair: {BIN1: 1, BIN2: 1}" in str(error.value)
    data = read_survey(path, pair={"BIN1": 2, "BIN2": 2})
    assert np.array_equal(data.bins["w_gg"].value, 2 * VALUES["wgg"])
    assert np.array_equal(np.diag(data.covariances[0].matrix), np.r_[7.0:13, 30.0:35])
    with pytest.raises(MeasurementError, match="wgp has no row with BIN1 = 3"):
        read_survey(path, pair={"BIN1": 3})
    with pytest.raises(MeasurementError, match="pair: Z is none of SAMPLE"):
        read_survey(path, pair={"Z": 3})


def test_samples_that_differ(write):
    other = np.interp(np.arange(0.005, 1, 0.01) - 0.015, np.arange(0.005, 1, 0.01), SHAPE)
    with pytest.warns(UserWarning, match=r"n\(z\) of the shape and of the density sample differ \(12 % of their area"):
        data = read_survey(write(density=redshifts("density", other)))
    assert "one sample for both" in data.metadata["notes"]
    far = np.interp(np.arange(0.005, 1, 0.01) - 0.2, np.arange(0.005, 1, 0.01), SHAPE)
    with pytest.raises(MeasurementError, match=r"differ \(9\d % of their area.*0\.300, 0\.500\).*cannot be fitted"):
        read_survey(write(density=redshifts("density", far)))
    assert "redshift" not in read_survey(write(density=None, shape=None)).metadata
    alone = read_survey(write(density=None)).metadata
    assert 0.28 < alone["redshift"] < 0.3 and "redshift_of_samples" not in alone
    assert read_survey(write(), redshift=0.5).metadata["redshift"] == 0.5


def test_covariances_that_are_not_positive_definite_get_a_remedy(write):
    # The last bins of w_gplus and w_gg are correlated more than both can be with the first of w_gg.
    matrix = correlation(17, 0.0) * np.outer(ERRORS, ERRORS)
    for one, two, value in ((5, 16, 0.8), (12, 16, 0.9), (5, 12, -0.5)):
        matrix[one, two] = matrix[two, one] = value * ERRORS[one] * ERRORS[two]
    path = write(COVMAT=covmat(matrix))
    with pytest.raises(MeasurementError) as error:
        read_survey(path)
    message = str(error.value)
    assert "not positive definite: its correlation matrix has the eigenvalue -0." in message
    assert "leave out w_gg at r_p = 25.12 (then 0.5): r_max: {w_gg: 8.913}" in message
    assert "leave out the covariance between statistics (then 1, 0.1): correlations: separate" in message
    assert len(read_survey(path, r_max={"w_gg": 8.913}).bins["w_gg"]) == 4
    separate = read_survey(path, correlations="separate").covariances
    assert [covariance.statistics for covariance in separate] == [("w_gplus",), ("w_gg",)]
    assert read_survey(path, correlations="none").covariances == []


def changed(matrix, row, column, value):
    matrix = matrix.copy()
    matrix[row, column] = matrix[column, row] = value
    return matrix


def replaced(values, row, value):
    values = np.array(values, dtype=float)
    values[row] = value
    return values


DAMAGES = {
    "not sorted": (
        lambda: {"wgp": table("wgp", R["wgp"][::-1])},
        "2pt.fits, wgp: separations are not sorted: r_p is 31.6228 in row 1 and 12.5893 in row 2",
    ),
    "repeated": (
        lambda: {"wgg": table("wgg", replaced(R["wgg"], 1, R["wgg"][0]))},
        "wgg: separations are repeated: r_p is 0.398107 in row 1 and 0.398107 in row 2",
    ),
    "nan": (lambda: {"wgg": table("wgg", value=replaced(R["wgg"], 2, np.nan))}, "wgg: the value is nan in row 3"),
    "nan r_p": (lambda: {"wgg": table("wgg", replaced(R["wgg"], 2, np.nan))}, "wgg: r_p is nan in row 3"),
    "negative r_p": (
        lambda: {"wgg": table("wgg", replaced(R["wgg"], 0, -1))},
        "r_p must be positive, but is -1 in row 1",
    ),
    "kpc": (
        lambda: {"wgg": table("wgg", unit="kpc")},
        "the column SEP is in 'kpc'. Separations and w must be in Mpc/h",
    ),
    "kpc by size": (lambda: {"wgp": table("wgp", 1e3 * R["wgp"])}, "from 316.228 to 31622.8 cannot be Mpc/h"),
    "degrees": (lambda: {"wgg": table("wgg", unit="deg")}, "the column SEP is in 'deg'"),
    "angles": (lambda: {"wgg": table("wgg", separation="ANG")}, "wgg has angles, not separations"),
    "no SEP": (lambda: {"wgg": table("wgg", separation="X")}, "wgg has no column SEP; its columns are: X, SEPBIN"),
    "no VALUE": (lambda: {"wgg": table("wgg", columns={"VALUE": None})}, "wgg has no column VALUE"),
    "text": (
        lambda: {"wgg": table("wgg", value=np.array(["a"] * 5))},
        "VALUE must hold one real number (TFORM D or E) per row",
    ),
    "no rows": (lambda: {"wgg": table("wgg", np.empty(0), np.empty(0))}, "wgg has no rows"),
    "bins that differ": (
        lambda: {"wgg": table("wgg", pairs=((1, 2),))},
        "the correlation of redshift bin 1 with bin 2",
    ),
    "a lost extension": (lambda: {"wgg": None}, "COVMAT has a part of w_gg, but there is no such extension"),
    "nothing": (
        lambda: {"wgg": None, "wgp": None, "wpp": None},
        "no extension called wgg, wgp or wpp; its extensions are: nz_ours_shape, nz_ours_density, COVMAT",
    ),
    "no covariance": (lambda: {"COVMAT": None}, "has no extension COVMAT, so its values have no errors"),
    "zero variances": (
        lambda: {"COVMAT": covmat(np.zeros((17, 17)))},
        "wgp: w_gplus has no measurement at r_p = 0.3162 (variance 0), 0.7943",
    ),
    "negative variance": (
        lambda: {"COVMAT": covmat(changed(MATRIX, 13, 13, -1.0))},
        "wgg: the variance at r_p = 1.12202 is -1; variances must be positive",
    ),
    "nan variance": (
        lambda: {"COVMAT": covmat(changed(MATRIX, 13, 13, np.nan))},
        "the variance at r_p = 1.12202 is nan",
    ),
    "nan covariance": (lambda: {"COVMAT": covmat(changed(MATRIX, 13, 3, np.nan))}, "must be finite, but is nan at"),
    "too correlated": (lambda: {"COVMAT": covmat(changed(MATRIX, 13, 3, 9e9))}, "is more than the variances"),
    "not symmetric": (lambda: {"COVMAT": covmat(MATRIX * np.triu(np.full((17, 17), 2.0)))}, "is not symmetric"),
    "small covariance": (
        lambda: {"COVMAT": covmat(MATRIX[:16, :16])},
        "COVMAT has 16 rows, 4 of them for w_gg, which has 5 values in the file",
    ),
    "covariance of others": (
        lambda: {"COVMAT": covmat(MATRIX, [5, 7, 5])},
        "COVMAT has 17 rows, 5 of them for w_gplus, which has 6 values",
    ),
    "cube": (lambda: {"COVMAT": covmat(np.zeros((2, 3, 3)))}, "must be a square matrix; got shape (2, 3, 3)"),
    "no image": (lambda: {"COVMAT": fits.ImageHDU(name="COVMAT")}, "must be a square matrix; got no image"),
    "no names": (lambda: {"COVMAT": covmat(names=())}, "does not say where w_gplus, w_plusplus, w_gg begins"),
    "bad start": (lambda: {"COVMAT": covmat(STRT_1="x")}, "the first row of wpp in its header, STRT_1, is 'x'"),
    "bad n(z)": (lambda: {"shape": redshifts("shape", SHAPE - 1)}, "n(z) must be numbers that are not negative"),
    "no n(z)": (lambda: {"shape": redshifts("shape", 0 * SHAPE)}, "n(z) be positive at some z > 0"),
}


@pytest.mark.parametrize("kind", DAMAGES)
def test_damaged_files(write, kind):
    make, message = DAMAGES[kind]
    with pytest.raises(MeasurementError) as error:
        read_survey(write(**make()))
    assert message in str(error.value)
    assert "2pt.fits" in str(error.value)


OTHERS = {
    "empty": (b"", "is empty. Copy or download it again"),
    "page": (b"\n<!DOCTYPE html><html>...", "is a web page, not a file of data"),
    "pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "is a pointer of Git LFS"),
    "table": (b"0.1 2 3\n0.2 3 4\n", "does not say what it holds. Give plain tables as {w_gg: FILE, w_gplus: FILE}"),
    "binary": (b"\x89HDF\r\n\x1a\n\0\0", "is neither a FITS file nor text"),
    "gzip cut": (gzip.compress(b"SIMPLE  =" * 1000, mtime=0)[:-20], "is a gzip file that was cut short"),
    "gzip damaged": (b"\x1f\x8b\x08\xff\x00" + b"x" * 50, "is a damaged gzip file"),
    "nearly": (b"SIMPLE  =                    T", "is damaged or cut short, and cannot be read as FITS"),
}


@pytest.mark.parametrize("kind", OTHERS)
def test_files_of_another_kind(tmp_path, kind):
    content, message = OTHERS[kind]
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(MeasurementError) as error:
        read_survey(tmp_path / "file")
    assert message in str(error.value) and str(tmp_path / "file") in str(error.value)


def test_missing_files_and_wrong_options(write, tmp_path):
    with pytest.raises(FileNotFoundError, match="surveys/lowz"):
        read_survey("surveys/missing")
    path = write(wgg=None, wpp=None, COVMAT=covmat(MATRIX[:6, :6], [6], ["wgp"]))
    assert read_survey(path).statistics == ("w_gplus",)
    for options, message in (
        ({"statistics": ["w_gg"]}, "has no 'w_gg'; it has w_gplus"),
        ({"masked": "keep"}, "masked: must be one of drop, refuse; got 'keep'"),
        ({"correlations": "some"}, "correlations: must be one of joint, separate, none"),
        ({"pi_max": -1}, r"pi_max \[Mpc/h\]"),
        ({"redshift": float("nan")}, "redshift"),
        ({"edges": [1, 2, 3]}, "has 6 bins, whose edges are 7 increasing numbers"),
        ({"edges": np.logspace(0, 3, 7)}, r"r_p = 0\.316228 is not in its bin, 1 to 3\.162"),
        ({"r_min": 100}, "no bin is left between r_min = 100 and r_max = None; separations are 0.316228 to 31.6228"),
        ({"covariance": "cov.txt"}, "covariance: is for plain tables"),
    ):
        with pytest.raises(MeasurementError, match=message):
            read_survey(path, **options)


@pytest.fixture
def tables(tmp_path):
    """Plain tables of w_gg and w_g+, and covariances, one under a line of column names as in GAMA's."""
    found = {}
    for statistic, name in (("w_gg", "wgg"), ("w_gplus", "wgp")):
        found[statistic] = tmp_path / name
        np.savetxt(found[statistic], np.stack([R[name], VALUES[name], 0.1 * VALUES[name]], axis=1), header="r_p w err")
    gg, gp = MATRIX[12:, 12:], MATRIX[:6, :6]
    (tmp_path / "cov_wgg").write_text(
        "col0\tcol1\tcol2\tcol3\tcol4\n" + "\n".join("\t".join(map(repr, r)) for r in gg.tolist())
    )
    np.savetxt(tmp_path / "cov_wgp", gp)
    both = np.r_[12:17, :6]
    np.savetxt(tmp_path / "joint", MATRIX[np.ix_(both, both)])
    return found


def test_plain_tables(tables, tmp_path):
    covariance = {"w_gg": tmp_path / "cov_wgg", "w_gplus": tmp_path / "cov_wgp"}
    data = read_survey(tables, pi_max=60, redshift=0.2, covariance=covariance, n_regions=40)
    assert data.metadata["pi_max"] == 60 and data.metadata["redshift"] == 0.2
    assert np.allclose(data.bins["w_gg"].value, VALUES["wgg"]) and np.allclose(data.bins["w_gplus"].r_high, R["wgp"])
    assert [entry.n_regions for entry in data.covariances] == [40, 40]
    assert np.allclose(data.covariance_of("w_gg").matrix, MATRIX[12:, 12:])
    joint = read_survey({"wgg": tables["w_gg"], "w_g+": tables["w_gplus"]}, covariance=tmp_path / "joint")
    assert joint.covariances[0].statistics == ("w_gg", "w_gplus") and len(joint.covariances[0].matrix) == 11
    assert read_survey(tables).covariances == []


def test_columns_of_plain_tables(tmp_path):
    path = tmp_path / "table"
    rows = np.stack([0.1 * VALUES["wgg"], np.arange(5), VALUES["wgg"], R["wgg"]], axis=1)
    np.savetxt(path, rows, header="error n wgg r_p")
    assert np.allclose(read_survey({"w_gg": path}).bins["w_gg"].r_low, R["wgg"])
    np.savetxt(path, rows, header="error n y r_p")
    with pytest.raises(MeasurementError, match="has 4 columns, and it is not clear what they are"):
        read_survey({"w_gg": path})
    edges = np.arange(1.0, 7)
    np.savetxt(path, np.stack([edges[:-1], edges[1:], VALUES["wgg"], VALUES["wgg"]], axis=1))
    assert np.array_equal(read_survey({"w_gg": path}).bins["w_gg"].r_high, edges[1:])


@pytest.mark.parametrize(
    "heading", ["rp wgg err wgp err", "r_p w_gg wgg_err w_gplus sigma_wgp", "R_P W_GG error wg+ error_wg+"]
)
def test_one_table_of_two_statistics(tmp_path, heading):
    path, n = tmp_path / "table", len(R["wgg"])
    columns = R["wgg"], VALUES["wgg"], np.full(n, 3.0), VALUES["wgp"][:n], np.full(n, 0.2)
    np.savetxt(path, np.stack(columns, axis=1), header=heading)
    edges = np.r_[0.9 * R["wgg"], 1.1 * R["wgg"][-1]]
    np.savetxt(tmp_path / "edges.txt", edges)
    data = read_survey({"w_gg": path, "w_gplus": path}, edges=str(tmp_path / "edges.txt"))
    for index, statistic in enumerate(("w_gg", "w_gplus")):
        assert np.array_equal(data.bins[statistic].value, columns[1 + 2 * index])
        assert np.array_equal(data.bins[statistic].error, columns[2 + 2 * index])
        assert np.array_equal(data.bins[statistic].r_low, edges[:-1])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("# r_p w error\n", "holds no rows of numbers"),
        ("1 2 3\n2 3\n", "line 2: 2 entries, but 3 in line 1"),
        ("1 2 x\n", "line 1: error is 'x', which is not a number"),
        ("1 2\n2 3\n", "has no errors: it needs a third column, or a covariance"),
        ("1 2 3 4 5\n", "has 5 columns, and it is not clear what they are"),
        ("1 2 -3\n2 3 4\n", "the variance at r_p = 1 is -9; variances must be positive"),
        ("1 2 0\n2 3 0\n", "w_gg has no measurement at r_p = 1 (variance 0), 2 (variance 0). Give its errors"),
        ("1 nan 3\n", "the value is nan in row 1"),
        ("2 1 3\n1 1 3\n", "separations are not sorted"),
        ("100 1 3\n3000 1 3\n", "separations from 100 to 3000 cannot be Mpc/h"),
        ("# r_p r_p wgg\n1 2 3\n", "two columns are read as r of w_gg. Name them in the line above"),
        ("<html><body>404</body></html>", "is a web page"),
    ],
)
def test_plain_tables_that_are_not_clear(tmp_path, text, message):
    (tmp_path / "table").write_text(text)
    with pytest.raises(MeasurementError) as error:
        read_survey({"w_gg": tmp_path / "table"})
    assert message in str(error.value) and "table" in str(error.value)


def test_tables_and_covariances_that_do_not_fit(tables, tmp_path, write):
    for source, options, message in (
        ({"xi": tables["w_gg"]}, {}, "'xi': tables must be given as {statistic: file}"),
        ({}, {}, "No table is given"),
        ({"w_gg": write()}, {}, "is no plain table: give its name alone"),
        (tables, {"covariance": tmp_path / "cov_wgp"}, "has 6 rows of 6 numbers; the table has 11 bins"),
        (tables, {"covariance": {"w_plusplus": tmp_path / "cov_wgp"}}, "there is no table of 'w_plusplus'"),
        ({"w_gg": tables["w_gplus"]}, {"covariance": tmp_path / "other"}, "and the errors in the table disagree"),
        (tables, {"pair": {"BIN1": 1}}, "pair: plain tables hold one pair"),
        (tables, {"n_regions": 40}, "n_regions: there is no covariance"),
    ):
        np.savetxt(tmp_path / "other", 9 * MATRIX[:6, :6])
        with pytest.raises(MeasurementError) as error:
            read_survey(source, **options)
        assert message in str(error.value)


def test_convert_is_the_other_door(write, tables, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    path = write()
    assert main(["convert", "2pt.fits", "-o", "own.txt", "--pi-max", "100", "--r-max", "20", "--r-min", "w_gg=1"]) == 0
    found = measurement.Measurement.read("own.txt")
    direct = read_survey(path, pi_max=100, r_max=20, r_min={"w_gg": 1})
    assert found.metadata["pi_max"] == 100 and found.metadata["redshift"] == direct.metadata["redshift"]
    assert np.array_equal(found.covariances[0].matrix, direct.covariances[0].matrix)
    words = ["convert", "w_gg=wgg", "w_gplus=wgp", "-o", "two.txt", "--pi-max", "60"]
    assert main([*words, "--covariance", "w_gg=cov_wgg", "--covariance", "w_gplus=cov_wgp", "--n-regions", "40"]) == 0
    found = measurement.Measurement.read("two.txt")
    assert found.statistics == ("w_gg", "w_gplus") and found.covariance_of("w_gplus").n_regions == 40
    assert main(["convert", "wgp", "-o", "one.txt", "--statistic", "w_gplus", "--covariance", "cov_wgp"]) == 0
    assert "no --pi-max is given" in capsys.readouterr().err
    assert np.array_equal(measurement.Measurement.read("one.txt").bins["w_gplus"].r_low, R["wgp"])
    columns = ["--columns", "r", "value", "error", "--statistic", "w_gg", "--pi-max", "60"]
    assert main(["convert", "wgg", "-o", "three.txt", *columns]) == 0
    assert np.allclose(measurement.Measurement.read("three.txt").bins["w_gg"].r_high, R["wgg"])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["2pt.fits", "--scale", "0.001"], "--columns and --scale are for one plain table"),
        (["2pt.fits", "--statistic", "eta"], "has no 'eta'"),
        (["w_gg=wgg", "wgp"], "TABLE: give one for each statistic, w_gg=... w_gplus=..."),
        (["w_gg=wgg", "w_gg=wgp"], "each once; got w_gg=wgp"),
        (["w_gg=wgg", "--statistic", "w_gg"], "--statistic: the tables say what they are"),
        (["2pt.fits", "--r-max", "x"], "--r-max x: give a number, or NAME=NUMBER"),
        (["2pt.fits", "--r-max", "2", "--r-max", "w_gg=3"], "--r-max: give one number, or one for each"),
        (["2pt.fits", "--pair", "BIN1=7"], "has no row with BIN1 = 7"),
        (["wgg", "--statistic", "xi", "--r-max", "2"], "are for w_gg and w_g+ of surveys"),
        (["w_gg=missing"], "missing"),
        (["missing.fits", "--statistic", "w_gg"], "missing.fits"),
    ],
)
def test_convert_refuses(write, tables, tmp_path, monkeypatch, capsys, words, message):
    monkeypatch.chdir(tmp_path)
    write()
    assert main(["convert", *words, "-o", "own.txt"]) == 1
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert not (tmp_path / "own.txt").exists()


def test_cut_and_spoilt_files_are_read_the_same_or_refused(write, tmp_path):
    content = write().read_bytes()
    good, rng = read_survey(tmp_path / "2pt.fits"), np.random.default_rng(7)
    blocks = range(0, len(content), 2880)
    headers = [at for at in blocks if content[at : at + 2880].isascii() and b"\0" not in content[at : at + 2880]]
    path, outcomes = tmp_path / "spoilt.fits", {"read": 0, "refused": 0}
    for i in range(200):
        spoilt = bytearray(content)
        if i % 4 == 0:
            del spoilt[int(rng.integers(len(content) - 2880)) :]
        for _ in range(0 if i % 4 == 0 else rng.integers(1, 4)):
            at = rng.choice(headers) + 80 * rng.integers(12) + rng.integers(80)
            spoilt[at] = rng.choice(list(b"0123456789 'TFXDK=/.-E\xff"))
        path.write_bytes(spoilt)
        began = time.monotonic()
        try:
            with warnings.catch_warnings(action="ignore"):
                data = read_survey(path)
        except MeasurementError as error:
            assert "spoilt.fits" in str(error)
            outcomes["refused"] += 1
        else:
            assert i % 4 and data.statistics == good.statistics
            for statistic, bins in good.bins.items():
                assert np.array_equal(data.bins[statistic].r_low, bins.r_low)
                assert np.array_equal(data.bins[statistic].value, bins.value)
            assert np.array_equal(data.covariances[0].matrix, good.covariances[0].matrix)
            outcomes["read"] += 1
        assert time.monotonic() - began < 10
    assert min(outcomes.values()) > 20


def test_a_size_that_is_no_number_takes_no_time(write, tmp_path):
    content = write().read_bytes().replace(b"GCOUNT  =                    1", b"GCOUNT  =       -            1")
    (tmp_path / "spoilt.fits").write_bytes(content)
    with pytest.raises(MeasurementError, match=r"damaged or cut short, .*\(GCOUNT is - .* at byte"):
        read_survey(tmp_path / "spoilt.fits")
