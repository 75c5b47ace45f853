"""Training sets: what the file holds, and that interruptions and workers leave no trace in it."""

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

pytest.importorskip("halotools")

from iaemu.binning import PAPER_EDGES, TNG_EDGES, nesting_matrix
from iaemu.parameters import PARAMETERS
from iaemu_training.commands.iaemu_train import main
from iaemu_training.dataset.file import SPLITS, Dataset, DatasetError
from iaemu_training.dataset.make import DatasetSettings, make_dataset, matching_boxes
from iaemu_training.evaluation.figures import draw_pulls
from iaemu_training.evaluation.pulls import find_pulls, pull_statistics
from iaemu_training.halos.catalogue import CatalogueError, HaloCatalogue
from iaemu_training.mocks.halotools import HalotoolsMocks
from iaemu_training.work.parts import PartsError, PartStore

SETTINGS = DatasetSettings(n=600, n_mocked=12, n_realisations=10, seed=3)
#: The same on the command line.
OPTIONS = ["--n", "600", "--n-mocked", "12", "--n-realisations", "10", "--seed", "3"]


@pytest.fixture(scope="module")
def tables(pm40_tables, tmp_path_factory):
    path = tmp_path_factory.mktemp("tables") / "tables.safetensors"
    pm40_tables.save(path)
    return path


@pytest.fixture(scope="module")
def dataset(tables, tmp_path_factory):
    return make_dataset(
        tmp_path_factory.mktemp("dataset") / "dataset.hdf5", SETTINGS, tables, n_workers=1, progress=False
    )


class TestContent:
    def test_labels_are_the_tables_predictions(self, dataset, pm40_tables):
        rows = np.array([0, 255, 256, 599])
        expected = pm40_tables.predict(dataset.theta[rows], PAPER_EDGES, support="reject")
        for name in ("xi", "omega", "eta"):
            known = np.isfinite(getattr(expected, name))  # the model gives no prediction where few pairs are expected
            assert known.mean() > 0.5
            found = dataset.read(f"labels/{name}")[rows]
            np.testing.assert_allclose(found[known], getattr(expected, name)[known], rtol=1e-8)
        # The file counts the galaxies of a box of 40 Mpc/h.
        np.testing.assert_allclose(dataset.read("labels/n_gal")[rows], expected.n_gal * 40.0**3, rtol=1e-12)

    def test_sums_give_labels_in_other_bins(self, dataset, pm40_tables):
        rows = np.array([3, 77])
        edges = TNG_EDGES[:-2]
        labels = dataset.labels(rows, edges)
        expected = pm40_tables.predict(dataset.theta[rows], edges)
        for name, values in labels.items():
            np.testing.assert_allclose(values, getattr(expected, name), rtol=1e-10)

    def test_mocks_are_those_of_the_stated_seeds(self, dataset, pm40):
        row, i = 5, 7
        point = dataset.mocked[row]
        galaxies = HalotoolsMocks(pm40).populate(
            dataset.theta[point], np.random.SeedSequence(SETTINGS.seed, spawn_key=(int(point), 0, i))
        )
        mocks = dataset.realisations(row)
        assert mocks.n_gal[i] == len(galaxies.positions)
        assert mocks.n_sat[i] == np.sum(~galaxies.is_central)
        assert mocks.n_borrowed[i] == galaxies.is_borrowed.sum()

    def test_realisations_equal_direct_ones(self, dataset, pm40):
        row = 11
        point = int(dataset.mocked[row])
        direct = HalotoolsMocks(pm40).realisations(
            dataset.theta[point], 10, np.random.SeedSequence(SETTINGS.seed, spawn_key=(point, 0)), PAPER_EDGES
        )
        ours = dataset.realisations(row)
        np.testing.assert_array_equal(ours.DD, direct.DD)
        for name in ("xi", "omega", "eta"):
            np.testing.assert_allclose(getattr(ours, name), getattr(direct, name), rtol=1e-9, atol=1e-12)

    def test_split_is_by_point_and_in_the_stated_fractions(self, dataset):
        assert [int(np.sum(dataset.split == code)) for code in range(len(SPLITS))] == [420, 60, 120]
        # Not by position: every third of the range of logMmin has all three.
        assert all(len(np.unique(part)) == 3 for part in np.array_split(dataset.split, 3))

    def test_masks_follow_their_rules_and_are_counted(self, dataset):
        import h5py

        DD = dataset.expected_sums(slice(None))["DD"]
        empty = np.any(DD / 2 < SETTINGS.min_pairs, axis=1)
        xi = dataset.read("labels/xi")
        unphysical = np.any(xi / dataset.read("xi_matter") > SETTINGS.max_xi_ratio, axis=1)
        np.testing.assert_array_equal(dataset.read("masks/empty_bins"), empty)
        np.testing.assert_array_equal(dataset.read("masks/unphysical_xi"), unphysical)
        np.testing.assert_array_equal(dataset.cleaned, ~(empty | unphysical))
        assert 0 < empty.sum() < len(dataset)
        with h5py.File(dataset.path) as h5:
            assert h5["masks/empty_bins"].attrs["count"] == empty.sum()

    def test_empty_bins_of_mocks_are_counted_not_drawn_again(self, dataset):
        n_empty = dataset.read("mocks/n_empty")
        counted = np.array([np.sum(dataset.realisations(row).DD == 0, axis=0) for row in range(len(dataset.mocked))])
        np.testing.assert_array_equal(n_empty, counted)
        assert n_empty.sum() > 0
        row = int(np.argmax(n_empty.sum(axis=1)))
        assert np.isnan(dataset.realisations(row).omega).sum() == n_empty[row].sum()

    def test_file_describes_itself(self, dataset, pm40):
        import h5py

        with h5py.File(dataset.path) as h5:
            assert list(h5.attrs["parameters"]) == list(PARAMETERS)
            described = []
            h5.visititems(
                lambda name, item: described.append("description" in item.attrs or isinstance(item, h5py.Group))
            )
            assert all(described)
        assert dataset.identity["boxes_sha256"] == [pm40.sha256]
        assert dataset.identity["settings"]["seed"] == 3
        assert set(dataset.identity["versions"]) >= {"halotools", "torch", "iaemu-cobaya"}

    def test_rebinned_pairs_add_up(self, dataset):
        fine = dataset.realisations(2, dataset.fine_edges)
        nesting = nesting_matrix(dataset.fine_edges, PAPER_EDGES)
        np.testing.assert_array_equal(dataset.realisations(2).DD, fine.DD @ nesting.T)


class TestPulls:
    def test_mocks_agree_with_labels(self, dataset):
        pulls = find_pulls(dataset, min_pairs=30)
        for t in pulls.t.values():
            values = t[np.isfinite(t)]
            assert len(values) > 100
            assert abs(np.mean(np.abs(values) < pulls.student.ppf(0.84)) - 0.68) < 0.15

    def test_wrong_labels_show(self, dataset, monkeypatch):
        labels = Dataset.labels

        def shifted(self, rows, r_edges):
            values = labels(self, rows, r_edges)
            return values | {"omega": 1.5 * values["omega"]}

        monkeypatch.setattr(Dataset, "labels", shifted)
        rows = pull_statistics(find_pulls(dataset))
        overall = {row["statistic"]: row["std"] for row in rows if row["r"] is None}
        assert overall["omega"] > 1.5 * overall["eta"]

    def test_points_with_borrowed_satellites_can_be_left_out(self, dataset):
        borrowed = dataset.read("mocks/n_borrowed").sum(axis=(1, 2)) > 0
        assert 0 < borrowed.sum() < len(borrowed)
        assert len(find_pulls(dataset, max_borrowed=0.0).t["xi"]) == np.sum(~borrowed)
        with pytest.raises(DatasetError, match="no point with at most -1"):
            find_pulls(dataset, max_borrowed=-1.0)

    def test_command_prints_and_draws(self, dataset, tmp_path, capsys):
        figure = tmp_path / "pulls.png"
        assert main(["check", str(dataset.path), "--output", str(figure)]) == 0
        assert "| omega | all |" in capsys.readouterr().out
        assert figure.stat().st_size > 10_000
        draw_pulls(find_pulls(dataset, TNG_EDGES[:-2]), figure)

    def test_without_mocks_it_says_so(self, tables, tmp_path, capsys):
        output = tmp_path / "labels.hdf5"
        assert (
            main(["dataset", str(output), "--tables", str(tables), "--n", "8", "--n-mocked", "0", "--workers", "1"])
            == 0
        )
        assert main(["check", str(output)]) == 1
        assert "has no mocks" in capsys.readouterr().err


@pytest.fixture(scope="module")
def shipped():
    return Dataset("calibration-pm160")


class TestShipped:
    """Mocks of the shipped boxes against the shipped tables, at 640 points."""

    def test_belongs_to_the_shipped_tables(self, shipped):
        from iaemu.models.tables import TabulatedModel

        model = TabulatedModel.load()
        assert sorted(shipped.identity["boxes_sha256"]) == sorted(model.metadata["catalogue_sha256"])
        labels = model.predict(shipped.theta[:5], PAPER_EDGES)
        np.testing.assert_allclose(shipped.read("labels/omega")[:5], labels.omega, rtol=1e-8)

    def test_mocks_follow_students_distribution(self, shipped):
        pulls = find_pulls(shipped, max_borrowed=1e-4)
        for row in pull_statistics(pulls):
            if row["r"] is None:
                assert row["n"] > 4000
                assert row["std"] == pytest.approx(row["std_expected"], rel=0.05)
                assert row["inside_68"] == pytest.approx(0.68, abs=0.015)
                assert row["inside_95"] == pytest.approx(0.95, abs=0.01)
            else:
                assert abs(row["z"]) < 4.0


class TestSameWhateverHappens:
    """Bit for bit: the files are compared as bytes."""

    def command(self, output, tables, *options):
        return [
            sys.executable,
            "-m",
            "iaemu_training.commands.iaemu_train",
            "dataset",
            str(output),
            "--tables",
            str(tables),
        ] + [
            *OPTIONS,
            *options,
        ]

    def wait_for_parts(self, process, output, n):
        folder = output.with_name(output.name + ".parts")
        while process.poll() is None:
            if folder.exists() and len(list(folder.glob("*.npz"))) >= n:
                return
            time.sleep(0.02)
        raise AssertionError(f"The run ended with status {process.returncode} before {n} parts were there.")

    @pytest.mark.slow
    def test_killed_twice(self, dataset, tables, tmp_path):
        output = tmp_path / "killed.hdf5"
        for n, n_workers in ((2, "1"), (6, "2")):
            process = subprocess.Popen(
                self.command(output, tables, "--workers", n_workers), stderr=subprocess.DEVNULL, start_new_session=True
            )
            self.wait_for_parts(process, output, n)
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            assert not output.exists()
        assert subprocess.run(self.command(output, tables, "--workers", "2"), stderr=subprocess.DEVNULL).returncode == 0
        assert output.read_bytes() == dataset.path.read_bytes()
        assert not output.with_name(output.name + ".parts").exists()

    @pytest.mark.slow
    def test_killed_dask_worker(self, dataset, tables, tmp_path):
        psutil = pytest.importorskip("psutil")
        pytest.importorskip("distributed")
        output = tmp_path / "dask.hdf5"
        process = subprocess.Popen(self.command(output, tables, "--dask", "--workers", "2"), stderr=subprocess.DEVNULL)
        try:
            self.wait_for_parts(process, output, 4)
            children = psutil.Process(process.pid).children(recursive=True)
            found = [child for child in children if "spawn_main" in " ".join(child.cmdline())]
            assert len(found) == 2, "Dask's workers were not found"
            found[0].send_signal(signal.SIGKILL)
            assert process.wait(timeout=240) == 0
        finally:
            process.kill()
        assert output.read_bytes() == dataset.path.read_bytes()

    def test_finished_output_is_left_alone(self, dataset, tables):
        before = dataset.path.stat().st_mtime_ns
        make_dataset(dataset.path, SETTINGS, tables, n_workers=1, progress=False)
        assert dataset.path.stat().st_mtime_ns == before


class TestRefusals:
    def test_output_of_other_settings(self, dataset, tables):
        with pytest.raises(DatasetError, match="exists and was made with other settings"):
            make_dataset(dataset.path, DatasetSettings(n=5, n_mocked=0), tables, progress=False)

    def test_parts_of_other_settings(self, tables, tmp_path):
        output = tmp_path / "d.hdf5"
        with PartStore(tmp_path / "d.hdf5.parts", {"settings": {"n": 9}}):
            pass
        with pytest.raises(PartsError, match="other settings: settings ="):
            make_dataset(output, DatasetSettings(n=5, n_mocked=0), tables, progress=False)

    def test_boxes_other_than_the_tables(self, pm40_tables):
        with pytest.raises(CatalogueError, match="were made from pm40"):
            matching_boxes(pm40_tables, ["pm160a"])
        assert [box.path for box in matching_boxes(pm40_tables)] == ["pm40"]
        assert matching_boxes(pm40_tables)[0].sha256 == HaloCatalogue.load("pm40").sha256

    @pytest.mark.parametrize(
        "settings, words",
        [
            ({"n": 0}, "n must be a whole number, at least 1 and at most 100000000; got 0"),
            ({"points": "grid"}, "one of tube, sobol"),
            ({"n": 5, "n_mocked": 6}, "between 0 and n = 5, got 6"),
            ({"split": (0.5, 0.5, 0.5)}, "with sum 1"),
            ({"n_realisations": 0}, "n_realisations must be a whole number, at least 1 and at most 100000; got 0"),
        ],
    )
    def test_settings(self, settings, words):
        with pytest.raises(ValueError, match=words):
            DatasetSettings(**settings)

    def test_foreign_missing_and_damaged_files(self, dataset, tmp_path):
        import h5py

        with pytest.raises(DatasetError, match="cannot be read"):
            Dataset(tmp_path / "none.hdf5")
        foreign = tmp_path / "foreign.hdf5"
        with h5py.File(foreign, "w") as h5:
            h5["theta"] = np.zeros(3)
        with pytest.raises(DatasetError, match="not a data set"):
            Dataset(foreign)
        with pytest.raises(DatasetError, match="has no labels/zeta; it holds"):
            dataset.read("labels/zeta")
        damaged = tmp_path / "damaged.hdf5"
        with h5py.File(dataset.path) as h5:
            offset = h5["labels/eta"].id.get_chunk_info(0).byte_offset
        content = bytearray(dataset.path.read_bytes())
        content[offset + 50] ^= 1
        damaged.write_bytes(content)
        with pytest.raises(DatasetError, match="labels/eta is damaged"):
            Dataset(damaged).read("labels/eta")
