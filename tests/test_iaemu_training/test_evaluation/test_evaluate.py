"""Evaluation: scores, ceilings and calibration of emulators with known faults; what is written; the command line."""

import json
import sys
import types

import numpy as np
import pytest
from matplotlib import pyplot

from iaemu import load
from iaemu.artifact import ArtifactError, shipped_artifact
from iaemu.binning import PAPER_EDGES, bin_centers
from iaemu.models.factorised import Emulator
from iaemu.models.tables import TabulatedModel
from iaemu.parameters import Support
from iaemu.prediction import STATISTICS, Prediction
from iaemu_training.commands.iaemu_train import main
from iaemu_training.evaluation.evaluate import evaluate, hold_out
from iaemu_training.evaluation.figures import draw_figures, write_report

SUPPORT = Support(logMmin=(11.6, 13.5))


def truth(theta, r_edges):
    """Smooth functions of the parameters, of the size of real correlations."""
    r = bin_centers(r_edges)
    xi = 30.0 * 10 ** (0.3 * (theta[:, 2:3] - 12.5)) * r**-1.7
    omega = 0.05 * (theta[:, :1] + 0.3 * theta[:, 1:2]) / (1 + r)
    eta = 0.003 * theta[:, :1] ** 2 / (1 + r) ** 2
    return {"xi": xi, "omega": omega, "eta": eta}


def scatter(theta, r_edges):
    """Standard deviation of one mock."""
    r = bin_centers(r_edges)
    shape = 10 ** (0.5 * (theta[:, 2:3] - 12.5))
    return {"xi": 0.03 * truth(theta, r_edges)["xi"], "omega": 2e-3 * shape * r**-0.3, "eta": 1e-3 * shape * r**-0.5}


class FakeDataset:
    """The part of a data set that an evaluation uses; normal mocks, three fifths of the points for testing."""

    has_mocks = True

    def __init__(self, n=400, k=10, seed=1):
        rng = np.random.default_rng(seed)
        self.k, self.seed = k, seed
        self.theta = SUPPORT.sample(n, rng)
        self.split = rng.permutation(np.arange(n) % 5).clip(0, 2).astype(np.uint8)
        self.mocked = np.arange(0, n, 2)
        self.cleaned = np.ones(n, dtype=bool)
        self.support = SUPPORT
        self.attributes = {"catalogues": ["boxes"], "catalogue_sha256": ["abc", "def"]}
        self.empty = None  # (row of the mocked points, realisation, bin)

    def realisations(self, row, r_edges):
        theta = self.theta[self.mocked[row]][None]
        rng = np.random.default_rng([self.seed, row])
        mean, sigma = truth(theta, r_edges), scatter(theta, r_edges)
        mocks = {name: mean[name] + sigma[name] * rng.normal(size=(self.k, len(r_edges) - 1)) for name in STATISTICS}
        if self.empty is not None and self.empty[0] == row:
            for name in ("omega", "eta"):
                mocks[name][self.empty[1:]] = np.nan
        return types.SimpleNamespace(**mocks)

    def labels(self, rows, r_edges):
        return truth(self.theta[rows], r_edges)

    @property
    def tested(self):
        """Rows of the mocked points that are held out."""
        return np.flatnonzero(self.split[self.mocked] == 2)


class FakeEmulator:
    """Predicts ``1 + error`` times the truth, ``factor`` times the scatter, and an epistemic sigma of ``error``."""

    def __init__(self, error=0.0, factor=1.0, epistemic=True, support=SUPPORT):
        self.error, self.factor, self.epistemic, self.support = error, factor, epistemic, support
        self.metadata = {"catalogue_sha256": ["def", "abc"]}
        self.has_uncertainties = True

    def predict(self, theta, r_edges=None, statistics=STATISTICS, uncertainties=False):
        values, sigma = truth(theta, r_edges), scatter(theta, r_edges)
        prediction = Prediction(
            np.asarray(r_edges), **{name: (1 + self.error) * value for name, value in values.items()}
        )
        if uncertainties:
            prediction.sigma_aleatoric = {name: self.factor * value for name, value in sigma.items()}
            if self.epistemic:
                prediction.sigma_epistemic = {
                    name: np.abs(self.error * value) + 0.05 * sigma[name] for name, value in values.items()
                }
        return prediction


class PlainModel(FakeEmulator):
    """A model without uncertainties, as the tables."""

    def __init__(self):
        super().__init__()
        self.has_uncertainties = False


@pytest.fixture(scope="module")
def dataset():
    return FakeDataset()


@pytest.fixture(scope="module")
def perfect(dataset):
    return evaluate(FakeEmulator(), dataset, n_bootstrap=40, progress=False)


class TestScores:
    def test_a_perfect_emulator_scores_its_ceiling(self, perfect):
        for key, scores in perfect.scores.items():
            for statistic, score in scores.items():
                if "ceiling" in score:
                    assert score["value"] == score["ceiling"], (key, statistic)
                    assert score["difference_error"] == 0.0
        for statistic in STATISTICS:
            assert perfect.scores["relative_rms_median"][statistic]["value"] == 0.0

    def test_a_perfect_emulator_is_calibrated(self, perfect):
        for statistic in STATISTICS:
            for key, expected, floor in (
                ("sigma_bias", 0.0, 0.002),
                ("sigma_bias_ratio", 0.0, 0.002),
                ("coverage_realisations_68", 0.68, 0.004),
                ("coverage_realisations_95", 0.95, 0.004),
                ("coverage_mean_68", 0.68, 0.01),
                ("coverage_mean_95", 0.95, 0.01),
            ):
                score = perfect.scores[key][statistic]
                assert abs(score["value"] - expected) < 4 * score["error"] + floor, (key, statistic)
            assert perfect.scores["epistemic_ratio"][statistic]["value"] == pytest.approx(np.log10(0.05))
            assert perfect.scores["epistemic_below"][statistic]["value"] == 1.0

    def test_the_ceiling_is_the_noise_of_the_mocks(self, perfect):
        # xi scatters by 3 %, its mean over 10 mocks by 3 % / sqrt(10), whose absolute value has mean sqrt(2 / pi).
        expected = 0.03 / np.sqrt(10)
        assert perfect.scores["nrmse"]["xi"]["ceiling"] == pytest.approx(expected, rel=0.1)
        found = perfect.scores["mean_fractional_error"]["xi"]["ceiling"]
        assert found == pytest.approx(np.sqrt(2 / np.pi) * expected, rel=0.1)
        assert perfect.scores["share_within_10_percent"]["xi"]["ceiling"] == 1.0

    def test_known_faults_are_found(self, dataset):
        report = evaluate(FakeEmulator(error=0.1, factor=2.0), dataset, n_bootstrap=0, progress=False)
        scores = report.scores
        for statistic in STATISTICS:
            assert scores["relative_rms_median"][statistic]["value"] == pytest.approx(0.1)
            assert scores["relative_rms_p95"][statistic]["value"] == pytest.approx(0.1)
            assert scores["sigma_bias"][statistic]["value"] == pytest.approx(np.log10(2), abs=0.01)
            assert np.isnan(scores["scc"][statistic]["error"])
        assert scores["coverage_realisations_68"]["eta"]["value"] > 0.9  # where 2 sigma are 95 %
        assert scores["signed_fractional_error"]["xi"]["value"] == pytest.approx(0.1, abs=0.003)
        assert scores["amplitude_bias"]["xi"]["value"] == pytest.approx(np.log10(1.1), abs=0.002)
        assert scores["median_residual"]["xi"]["value"] > 2.5
        assert scores["scc"]["xi"]["value"] == pytest.approx(scores["scc"]["xi"]["ceiling"])
        # In the logarithm beyond 1 Mpc/h, as the paper has it.
        residual = report.by_bin["xi"]["median_residual"]
        assert residual[0] == pytest.approx(0.1 / 0.03, rel=0.1)
        assert residual[-1] == pytest.approx(np.log(1.1) / 0.03, rel=0.1)

    def test_a_wrong_prediction_is_told_from_the_ceiling_though_noise_is_larger(self, dataset):
        report = evaluate(FakeEmulator(error=0.02), dataset, n_bootstrap=40, progress=False)
        score = report.scores["nrmse"]["xi"]
        assert score["value"] - score["ceiling"] > 4 * score["difference_error"]

    def test_the_paper_stands_beside(self, perfect):
        assert perfect.scores["mean_fractional_error"]["omega"]["paper"] == 0.049
        assert [perfect.scores["scc"][name]["paper"] for name in STATISTICS] == [0.99, 0.98, 0.55]
        assert [perfect.scores["sigma_bias"][name]["paper"] for name in STATISTICS] == [0.38, 0.34, 0.18]
        assert "paper" not in perfect.scores["share_within_10_percent"]["xi"]

    def test_regions_are_terciles(self, perfect):
        assert [region["parameter"] for region in perfect.regions] == ["logMmin"] * 3 + ["mu_cen"] * 3
        assert sum(region["n"] for region in perfect.regions[:3]) == perfect.about["n_points"]
        for region in perfect.regions:
            share, error = region["omega"]["mean_68"]
            assert abs(share - 0.68) < 5 * error

    def test_errors_repeat_with_the_seed(self, dataset):
        a, b = (evaluate(FakeEmulator(error=0.02), dataset, n_bootstrap=5, progress=False) for _ in range(2))
        np.testing.assert_equal(a.scores, b.scores)


class TestWhatIsUsed:
    def test_only_held_out_points_with_mocks(self, dataset):
        held_out = hold_out(FakeEmulator(), dataset, progress=False)
        points = dataset.mocked[dataset.tested]
        np.testing.assert_array_equal(held_out.theta, dataset.theta[points])
        np.testing.assert_array_equal(held_out.cases["eta"].label, truth(dataset.theta[points], PAPER_EDGES)["eta"])
        expected = dataset.realisations(dataset.tested[3], PAPER_EDGES).omega
        np.testing.assert_array_equal(held_out.cases["omega"].realisations[3], expected)

    def test_points_outside_the_support_are_counted(self, dataset):
        narrow = FakeEmulator(support=Support(logMmin=(12.0, 13.0)))
        held_out = hold_out(narrow, dataset, progress=False)
        assert 0 < held_out.n_outside == len(dataset.tested) - len(held_out.theta)
        assert held_out.theta[:, 2].max() <= 13.0
        elsewhere = FakeEmulator(support=Support(logMmin=(14.0, 14.5)))
        with pytest.raises(ValueError, match="in the supported region of the emulator"):
            hold_out(elsewhere, dataset, progress=False)

    def test_cleaned_points_on_request(self):
        data = FakeDataset(n=100)
        data.cleaned[data.mocked[data.tested[:3]]] = False
        assert hold_out(FakeEmulator(), data, progress=False).n_cleaned == 0
        held_out = hold_out(FakeEmulator(), data, cleaned=True, progress=False)
        assert held_out.n_cleaned == 3
        assert len(held_out.theta) == len(data.tested) - 3

    def test_says_what_is_missing(self):
        data = FakeDataset(n=50)
        data.split[:] = 0
        with pytest.raises(ValueError, match="None of the 25 points with mocks is in the test split"):
            hold_out(FakeEmulator(), data, progress=False)
        data.has_mocks = False
        with pytest.raises(ValueError, match="--n-mocked"):
            hold_out(FakeEmulator(), data, progress=False)
        with pytest.raises(ValueError, match="must not be negative"):
            evaluate(FakeEmulator(), FakeDataset(n=50), n_bootstrap=-1, progress=False)
        with pytest.raises(ValueError, match="aleatoric standard deviations of xi"):
            hold_out(FakeEmulator(factor=0.0), FakeDataset(n=50), progress=False)

    def test_empty_bins_are_masked_by_entry_and_counted(self):
        data = FakeDataset(n=100)
        data.empty = (data.tested[2], 4, 0)
        report = evaluate(FakeEmulator(), data, n_bootstrap=3, progress=False)
        assert report.about["masked_entries"] == {"xi": 0, "omega": 1, "eta": 1}
        n = report.about["n_points"]
        assert report.by_bin["omega"]["n"] == [n - 1] + [n] * 19
        assert report.by_bin["xi"]["n"] == [n] * 20
        assert all(np.isfinite(score["value"]) for scores in report.scores.values() for score in scores.values())
        assert "0 of xi, 1 of omega, 1 of eta" in report.markdown()

    def test_missing_predictions_are_told(self):
        class Broken(FakeEmulator):
            def predict(self, *arguments, **keywords):
                prediction = super().predict(*arguments, **keywords)
                prediction.xi[0, :2] = np.nan
                return prediction

        report = evaluate(Broken(), FakeDataset(n=60), n_bootstrap=0, progress=False)
        assert any("For 2 entries with a label the prediction is not finite" in note for note in report.notes)
        assert report.about["masked_entries"]["xi"] == 2

    def test_the_ceiling_is_of_the_same_entries(self, dataset):
        case = hold_out(FakeEmulator(error=0.3), dataset, progress=False).cases["omega"]
        case.prediction[4, 7] = np.nan
        ceiling = case.ceiling()
        assert np.isnan(ceiling.prediction[4, 7])
        np.testing.assert_array_equal(ceiling.kept, case.kept)
        np.testing.assert_array_equal(np.delete(ceiling.prediction, 4, axis=0), np.delete(case.label, 4, axis=0))
        some = case.take([4, 4, 2])
        np.testing.assert_array_equal(some.moments.mean, case.moments.mean[[4, 4, 2]])
        np.testing.assert_array_equal(some.pit_of_mean, case.pit_of_mean[[4, 4, 2]])

    def test_other_catalogues_are_told(self, dataset, perfect):
        assert not any("different halo catalogues" in note for note in perfect.notes)
        emulator = FakeEmulator()
        emulator.metadata = {"catalogue_sha256": ["abc"]}
        report = evaluate(emulator, dataset, n_bootstrap=0, progress=False)
        assert any("different halo catalogues" in note for note in report.notes)


class TestWithoutUncertainties:
    def test_models_without_the_keyword_are_scored_on_the_rest(self, dataset):
        report = evaluate(PlainModel(), dataset, n_bootstrap=0, progress=False)
        assert not any("sigma" in key or "coverage" in key or "epistemic" in key for key in report.scores)
        assert report.regions == []
        assert any("predicts no uncertainties" in note for note in report.notes)
        assert "## Uncertainties" not in report.markdown()
        names = [name for name, _, _ in draw_figures(report)]
        assert names == ["figure3.png", "figureD1.png", "figureD2.png", "figureD3.png"]

    def test_aleatoric_alone(self, dataset):
        report = evaluate(FakeEmulator(epistemic=False), dataset, n_bootstrap=0, progress=False)
        assert "sigma_bias" in report.scores
        assert "epistemic_ratio" not in report.scores
        assert any("no epistemic" in note for note in report.notes)


class TestWritten:
    def test_json_is_complete_and_without_nan(self, dataset):
        report = evaluate(FakeEmulator(error=0.1), dataset, n_bootstrap=0, progress=False)

        def refuse(name):
            raise AssertionError(name)

        content = json.loads(report.json(), parse_constant=refuse)
        assert set(content) == {"about", "notes", "scores", "by_bin", "regions", "history"}
        assert content["scores"]["scc"]["xi"]["error"] is None  # no bootstrap samples
        assert content["scores"]["scc"]["xi"]["value"] == report.scores["scc"]["xi"]["value"]
        assert len(content["by_bin"]["eta"]["smape_ceiling"]) == 20

    def test_markdown_has_the_tables(self, perfect):
        text = perfect.markdown([("figure3.png", "Figure 3: a caption.")])
        for part in (
            "## Comparison with means over mocks",
            "## Uncertainties",
            "## Comparison with noise-free",
            "## eta by bin",
        ):
            assert part in text
        row = next(line for line in text.splitlines() if line.startswith("| mean absolute fractional error | omega |"))
        assert row.endswith("| 4.9 % |")
        assert "| aleatoric sigma, median bias | eta |" in text
        assert "0.18 dex" in text
        assert "![Figure 3](figure3.png)\n\nFigure 3: a caption.\n" in text
        tables = [line for line in text.splitlines() if line.startswith("|")]
        assert all(line.endswith("|") for line in tables)
        assert "nan" not in text.lower().replace("nanmean", "")

    def test_figures(self, dataset, tmp_path, monkeypatch):
        monkeypatch.setattr("iaemu_training.evaluation.figures._N_EXAMPLES", 5)  # panels take a while
        report = evaluate(FakeEmulator(error=0.02), dataset, n_bootstrap=0, progress=False)
        figures = write_report(report, tmp_path / "report")
        names = [f"figure{name}.png" for name in ("3", "4", "5", "B1", "D1", "D2", "D3")] + ["coverage.png"]
        assert figures == names
        folder = tmp_path / "report"
        assert sorted(path.name for path in folder.iterdir()) == sorted([*names, "report.json", "report.md"])
        assert json.loads((folder / "report.json").read_text())["about"]["n_points"] == report.about["n_points"]
        assert "(figureD3.png)" in (folder / "report.md").read_text()
        for name in names:
            content = (folder / name).read_bytes()
            assert content.startswith(b"\x89PNG")
            assert len(content) > 20_000
        assert pyplot.get_fignums() == []

    @pytest.mark.parametrize("there", [True, False])
    def test_all_files_are_written_or_none(self, dataset, tmp_path, monkeypatch, there):
        monkeypatch.setattr("iaemu_training.evaluation.figures._N_EXAMPLES", 1)
        report = evaluate(PlainModel(), dataset, n_bootstrap=0, progress=False)
        folder = tmp_path / "report"
        if there:
            folder.mkdir()
            (folder / "figure3.png").write_bytes(b"old")

        def full(text, file):
            raise OSError("no space left")

        monkeypatch.setattr("iaemu_training.evaluation.figures._write_text", full)
        with pytest.raises(OSError, match="no space left"):
            write_report(report, folder)
        assert [path.read_bytes() for path in tmp_path.rglob("*.*")] == [b"old"] * there
        assert folder.exists() == there

    def test_learning_curve_of_an_emulator_that_keeps_its_losses(self):
        from iaemu_training.evaluation.figures import learning_curve_figure

        history = [{"epoch": epoch, "train": 1.0 - epoch, "validation": 0.5 - epoch} for epoch in range(3)]
        (ax,) = learning_curve_figure(history).axes
        assert ax.get_yscale() == "linear"
        assert [line.get_ydata()[0] for line in ax.lines] == [1.0, 0.5]
        positive = [{"epoch": epoch, "train": 10.0**-epoch} for epoch in range(3)]
        assert learning_curve_figure(positive).axes[0].get_yscale() == "log"


class TestModels:
    def test_artifacts_of_any_kind_are_loaded(self):
        assert isinstance(load(shipped_artifact(Emulator.shipped)), Emulator)
        assert isinstance(load(shipped_artifact(TabulatedModel.shipped)), TabulatedModel)

    def test_what_is_no_artifact_is_refused(self, tmp_path):
        (tmp_path / "x.safetensors").write_bytes(b"nothing")
        with pytest.raises(ArtifactError, match="corrupt"):
            load(tmp_path / "x.safetensors")
        with pytest.raises(ArtifactError, match="no artifact file"):
            load(tmp_path / "none.safetensors")


class TestCommandLine:
    @pytest.fixture(autouse=True)
    def fake_file(self, monkeypatch):
        """A module in place of the one that reads data sets."""
        module = types.ModuleType("iaemu_training.dataset.make")
        module.Dataset = lambda path: FakeDataset(n=80)
        monkeypatch.setitem(sys.modules, "iaemu_training.dataset.file", module)

    @pytest.mark.slow
    def test_writes_a_report(self, tmp_path, capsys, monkeypatch):
        monkeypatch.setattr("iaemu_training.evaluation.figures._N_EXAMPLES", 2)
        folder = tmp_path / "report"
        options = ["--output", str(folder), "--bootstrap", "3", "--cleaned"]
        assert main(["evaluate", "shipped", "dataset.hdf5", *options]) == 0
        assert "| SMAPE | eta |" in capsys.readouterr().out
        written = {path.name for path in folder.iterdir()}
        assert {"report.json", "report.md", "figure3.png", "figureD3.png"} <= written
        text = (folder / "report.md").read_text()
        assert text.startswith(f"# {Emulator.shipped} on dataset.hdf5")
        assert str(tmp_path) not in text + (folder / "report.json").read_text()
        assert main(["evaluate", "shipped", "dataset.hdf5", *options]) == 0  # over an older report

    def test_says_what_is_wrong(self, tmp_path, capsys):
        assert main(["evaluate", str(tmp_path / "none"), "d.hdf5", "-o", str(tmp_path / "r")]) == 1
        assert "no artifact file" in capsys.readouterr().err
        assert not (tmp_path / "r").exists()


def test_an_emulator_without_uncertainties_is_reported_without_them():
    """One network and no mocks for the scatter, as `fit --members 1` on tables of one's own makes it."""
    from iaemu.models.factorised import Emulator

    shipped = Emulator.load()
    bare = Emulator(shipped.network, shipped.nodes, dict(shipped.metadata))
    theta = shipped.support.sample(3, np.random.default_rng(1))
    for emulator, known in ((bare, False), (shipped, True)):
        found = emulator.predict(theta, PAPER_EDGES, uncertainties=emulator.has_uncertainties)
        assert (found.sigma_aleatoric is not None) == known
