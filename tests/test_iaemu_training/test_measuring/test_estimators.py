"""From a galaxy catalogue to a measurement file."""

import numpy as np
import pytest

pytest.importorskip("numba")

from iaemu.binning import PAPER_EDGES, TNG_EDGES, BinningError
from iaemu.files import write_whole
from iaemu.measurement import Measurement, MeasurementError
from iaemu_training.commands.printing import measurement_table
from iaemu_training.measuring import jackknife
from iaemu_training.measuring.estimators import MeasureWarning, draw, measure, parse_bins
from iaemu_training.pairs.galaxies import count_pairs, random_pairs
from iaemu_training.pairs.galaxies_by_region import count_pairs_by_region

LBOX = 40.0
EDGES = np.array([0.3, 1.0, 3.0, 8.0])


@pytest.fixture(scope="module")
def galaxies():
    rng = np.random.default_rng(0)
    centres = np.repeat(rng.uniform(0, LBOX, (150, 3)), 8, axis=0)
    positions = np.mod(centres + rng.normal(scale=0.7, size=centres.shape), LBOX)
    return positions, rng.normal(size=positions.shape)


def test_values_are_those_of_count_pairs_and_errors_those_of_the_jackknife(galaxies):
    measured = measure(*galaxies, LBOX, EDGES, 3)
    DD, S_omega, S_eta = count_pairs(*galaxies, LBOX, EDGES)
    assert measured.bins["xi"].value == pytest.approx(DD / random_pairs(1200, LBOX, EDGES) - 1)
    assert measured.bins["omega"].value == pytest.approx(S_omega / DD)
    assert measured.bins["eta"].value == pytest.approx(S_eta / DD)
    estimates = jackknife.delete_one(count_pairs_by_region(*galaxies, LBOX, EDGES, 3))
    for name, bins in measured.bins.items():
        entry = measured.covariance_of(name)
        assert (entry.statistics, entry.n_regions) == ((name,), 27)
        assert np.sqrt(np.diag(entry.matrix)) == pytest.approx(bins.error)
        assert entry.matrix == pytest.approx(26 / 27 * 27 * np.cov(estimates[name].T, bias=True))


def test_a_joint_covariance_holds_the_separate_ones(galaxies):
    separate = measure(*galaxies, LBOX, EDGES, 3)
    (joint,) = measure(*galaxies, LBOX, EDGES, 3, joint=True).covariances
    assert joint.statistics == ("xi", "omega", "eta")
    for i, name in enumerate(joint.statistics):
        block = joint.matrix[3 * i : 3 * i + 3, 3 * i : 3 * i + 3]
        assert block == pytest.approx(separate.covariance_of(name).matrix, rel=1e-9)


def test_it_can_be_written_read_drawn_and_printed(galaxies, tmp_path):
    measured = measure(*galaxies, LBOX, EDGES, 3, metadata={"description": "toy", "redshift": 0.5})
    back = Measurement.read(measured.write(tmp_path / "own.txt"))
    assert back.metadata == measured.metadata
    assert list(back.metadata)[:2] == ["description", "redshift"]
    assert back.metadata["Lbox"] == LBOX and back.metadata["n_galaxies"] == 1200 and back.metadata["n_regions"] == 27
    for name, bins in measured.bins.items():
        assert back.bins[name].value == pytest.approx(bins.value, rel=1e-11)
        assert back.covariance_of(name).matrix == pytest.approx(measured.covariance_of(name).matrix, rel=1e-9)
        assert back.covariance_of(name).n_regions == 27
    write_whole(tmp_path / "own.png", lambda file: draw(measured, file))
    assert (tmp_path / "own.png").stat().st_size > 5000
    assert len(measurement_table(measured).splitlines()) == 10


def test_the_likelihood_reads_it_with_its_number_of_regions(galaxies, tmp_path):
    pytest.importorskip("cobaya")
    from iaemu_cobaya import IACorrelations

    measured = measure(*galaxies, LBOX, EDGES, 3)
    path = measured.write(tmp_path / "own.txt")
    for data in (str(path), measured):
        assert IACorrelations({"data": data, "statistics": ["omega", "eta"]}).n_regions == {"omega": 27, "eta": 27}
        like = IACorrelations({"data": data, "statistics": ["omega", "eta"], "distribution": "hartlap"})
        assert like.hartlap_factors == {"omega": pytest.approx(22 / 26), "eta": pytest.approx(22 / 26)}
        assert like.log_likelihood(like.data_vector) == 0
        d = np.concatenate([measured.bins["omega"].error, np.zeros(3)])
        expected = 22 / 26 * d[:3] @ np.linalg.solve(measured.covariance_of("omega").matrix, d[:3])
        assert like.chi2(like.data_vector + d) == pytest.approx(expected, rel=1e-6)


def test_too_few_regions_leave_errors_and_say_how_many_it_takes(galaxies):
    with pytest.warns(MeasureWarning, match=r"eta: errors only.*8 regions.*9 bins.*at least 3 regions along each side"):
        measured = measure(*galaxies, LBOX, EDGES, 2, joint=True)
    assert not measured.covariances
    assert len(measured.metadata["notes"]) == 1
    assert len(measure(*galaxies, LBOX, EDGES, 3, joint=True).covariances) == 1


def test_bins_without_pairs_are_left_out_and_named():
    grid = np.stack(np.meshgrid(*[np.arange(2.5, 40, 5.0)] * 3), axis=-1).reshape(-1, 3)
    axes = np.random.default_rng(1).normal(size=grid.shape)
    jitter = np.random.default_rng(2).uniform(-0.4, 0.4, grid.shape)
    with pytest.warns(MeasureWarning, match=r"omega: left out 0.5-1, 1-2 Mpc/h"):
        measured = measure(grid + jitter, axes, LBOX, [0.5, 1.0, 2.0, 6.0, 9.0], 2, ["omega"])
    assert measured.bins["omega"].r_low.tolist() == [2.0, 6.0]
    assert measured.covariances[0].matrix.shape == (2, 2)
    with pytest.raises(MeasurementError, match=r"xi cannot be measured.*0.01 to 0.02.*unit of the positions"):
        measure(grid, axes, LBOX, [0.01, 0.015, 0.02], 2)


def test_pairs_of_a_single_region_make_no_measurement():
    rng = np.random.default_rng(3)
    x = np.concatenate([5 + rng.uniform(-1, 1, (20, 3)), [[30.0, 30.0, 30.0]]])
    with pytest.raises(MeasurementError, match="omega cannot be measured"):
        measure(x, rng.normal(size=x.shape), LBOX, [0.1, 4.0], 2, ["omega"])


@pytest.mark.filterwarnings("ignore::iaemu_training.measuring.estimators.MeasureWarning")
@pytest.mark.parametrize("n", [2, 40])
def test_pairs_that_share_one_border_get_no_error(n):
    # A share of a pair stays when either of its regions goes: the mean of the rest would hardly scatter at all.
    grid = np.stack(np.meshgrid(*[np.arange(2.5, 40, 5.0)] * 3), axis=-1).reshape(-1, 3)
    rng = np.random.default_rng(4)
    group = [10.0, 3.7, 3.8] + rng.uniform(-0.3, 0.3, (n, 3))
    group[:2, 0] = 9.9, 10.1
    x = np.concatenate([grid, group])
    with pytest.warns(MeasureWarning, match=r"eta: left out 0.01-1 Mpc/h: fewer than 10 pairs, or in fewer than 5"):
        measured = measure(x, rng.normal(size=x.shape), LBOX, [0.01, 1.0, 6.0, 9.0], 4)
    assert all(bins.r_low.tolist() == [1.0, 6.0] for bins in measured.bins.values())


@pytest.mark.parametrize(
    "change, message",
    [
        (dict(statistics=["w_gp"]), "w_gp"),
        (dict(Lbox=1.0), "outside the box|Lbox / 2"),
        (dict(n_regions_per_side=1), "needs 2 to 100 regions"),
        (dict(n_regions_per_side=9), "at most 5 regions along a side"),
        (dict(axes=np.zeros((1200, 3))), "axes have length 0"),
    ],
)
def test_bad_input_is_named(galaxies, change, message):
    arguments = dict(positions=galaxies[0], axes=galaxies[1], Lbox=LBOX, r_edges=EDGES, n_regions_per_side=3) | change
    with pytest.raises(ValueError, match=message):
        measure(**arguments)


def test_bins_by_name_and_by_number():
    assert np.array_equal(parse_bins("paper"), PAPER_EDGES)
    assert np.array_equal(parse_bins("tng300"), TNG_EDGES)
    assert parse_bins("0.1,1,10").tolist() == [0.1, 1, 10]
    for text in ("papers", "1,0.5", "3"):
        with pytest.raises(BinningError, match=f"--bins {text}: give paper, tng300"):
            parse_bins(text)
