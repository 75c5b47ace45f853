"""How objects print: short reprs without arrays, and tables for notebooks."""

import io
import re
import subprocess
import sys
import time
from html.parser import HTMLParser

import numpy as np
import pytest
import torch

import iaemu
from iaemu import progress
from iaemu.display import describe_bins, html_table, shorten
from iaemu.sampling import sample

THETA = dict(mu_cen=0.8, mu_sat=0.3, logMmin=12.54, sigma_logM=0.26, logM0=12.68, logM1=13.48, alpha=1.0)


class _Table(HTMLParser):
    """Cells of each row, the heading first, and all other text."""

    def __init__(self, text):
        super().__init__()
        self.rows, self.others, self._in_cell, self._open = [], [], False, []
        self.feed(text)
        assert not self._open

    def handle_starttag(self, tag, attrs):
        assert not attrs
        self._open.append(tag)
        if tag == "tr":
            self.rows.append([])
        self._in_cell = tag in ("th", "td")

    def handle_endtag(self, tag):
        assert self._open.pop() == tag
        self._in_cell = False

    def handle_data(self, data):
        (self.rows[-1] if self._in_cell else self.others).append(data)


def _bins(n=3):
    edges = np.linspace(1.0, 2.0, n + 1)
    return iaemu.Bins(edges[:-1], edges[1:], np.linspace(0.1, 0.2, n), np.full(n, 0.01))


def _measurement(**options):
    covariance = iaemu.Covariance(("omega",), np.eye(3) * 1e-4, 27)
    return iaemu.Measurement({"omega": _bins(), "eta": _bins(2)}, [covariance], **options)


@pytest.fixture(scope="module")
def result():
    return sample(
        lambda x: -0.5 * x.square().sum(dim=1), torch.zeros(2), n_draws=60, names=["a", "b<c"], progress=False
    )


def test_html_table_escapes_text():
    table = html_table({"<r>": [1.0, 2.123456789], "name": ["a&b", "<script>"]}, "x < y", ["<b>"])
    assert "<script>" not in table and "<b>" not in table and "<r>" not in table
    found = _Table(table)
    assert found.rows == [["<r>", "name"], ["1", "a&b"], ["2.1235", "<script>"]]
    assert found.others == ["x < y", "<b>"]


def test_html_table_needs_columns_of_one_length():
    with pytest.raises(ValueError):
        html_table({"a": [1.0], "b": [1.0, 2.0]})


def test_words_for_bins_and_long_text():
    assert describe_bins([0.1, 1.0]) == "1 bin from 0.1 to 1 Mpc/h"
    assert describe_bins(np.array([0.1, 1.0, 15.8489])) == "2 bins from 0.1 to 15.85 Mpc/h"
    assert shorten("a\n b") == "a b" and len(shorten("x" * 1000)) == 80


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (iaemu.load, ("Emulator", "pm160a, pm160b", "xi, omega, eta", "20 bins", "11.5 to 14", "4 networks")),
        (lambda: iaemu.load("tables-pm160"), ("TabulatedModel", "pm160a", "55 bins from 0.1 to 25.12 Mpc/h")),
        (lambda: iaemu.load("iaemunet-pm160"), ("IAEmuNetEmulator", "20 bins", "median")),
        (iaemu.VaryingStrengthModel.load, ("VaryingStrengthModel", "55 bins", "pivot", "13")),
        (iaemu.BoxError.load, ("BoxError", "27 regions", "pm160a, pm160b", "55 bins")),
        (lambda: iaemu.load().support, ("Support", "logMmin 11.5 to 14", "4 RMSE", "14.21", "11.0172")),
        (iaemu.Support, ("Support", "logMmin 11 to 15", "4 RMSE")),
        (lambda: iaemu.VaryingStrengthModel.load().support, ("StrengthSupport", "mu_sat_slope -2 to 2")),
        (_bins, ("Bins", "3 bins from 1 to 2 Mpc/h")),
        (lambda: _bins(0), ("Bins", "no bins")),
        (lambda: _measurement().covariances[0], ("Covariance", "omega", "3 x 3", "27 regions")),
        (_measurement, ("Measurement", "measurement", "omega: 3 bins", "eta: 2 bins", "covariance of omega")),
    ],
)
def test_reprs_are_short_and_say_what_it_is(make, words):
    text = repr(make())
    assert len(text.splitlines()) <= 3 and len(text) < 300
    assert "array(" not in text and "tensor(" not in text
    for word in words:
        assert word in text


@pytest.mark.parametrize("kind", [np.asarray, torch.as_tensor])
def test_predictions_print_what_they_hold(kind):
    model = iaemu.load()
    one = model.predict({name: kind(value) for name, value in THETA.items()}, uncertainties=True)
    assert "one point" in repr(one) and "xi, omega, eta" in repr(one) and "sigma_epistemic" in repr(one)
    found = _Table(one._repr_html_())
    assert found.rows[0][:4] == ["r [Mpc/h]", "xi", "sigma_aleatoric of xi", "sigma_epistemic of xi"]
    assert len(found.rows) == 21 and len(found.rows[0]) == 10
    np.testing.assert_allclose([float(row[0]) for row in found.rows[1:]], one.r, rtol=1e-4)
    np.testing.assert_allclose([float(row[4]) for row in found.rows[1:]], np.asarray(one.omega), rtol=1e-4)
    assert re.search(r"n_gal = 0\.0019\d* \(h/Mpc\)\^3, f_sat = 0\.2[56]", found.others[-1])

    batch = model.predict({**THETA, "mu_cen": kind([[0.1, 0.2, 0.3]])}, statistics="omega")
    assert "shape (1, 3)" in repr(batch) and "Prediction(omega at" in repr(batch)
    assert batch._repr_html_() is None  # a notebook then shows the repr
    assert "no statistic" in repr(model.predict(THETA, statistics=()))


def test_measurements_are_tables():
    measurement = _measurement(metadata={"description": "<galaxies> & halos"})
    found = _Table(measurement._repr_html_())
    assert found.others[0] == "<galaxies> & halos" and "27 regions" in found.others[-1]
    assert found.rows[0][0] == "statistic" and found.rows[0][-1] == "error"
    assert [row[0] for row in found.rows[1:]] == ["omega"] * 3 + ["eta"] * 2
    assert found.rows[1] == ["omega", "1", "1.3333", "0.1", "0.01"]


def test_results_of_sampling_are_tables(result):
    assert len(repr(result)) < 300 and "64 chains of 60 draws of a, b<c" in repr(result)
    assert "tensor(" not in repr(result)
    found = _Table(result._repr_html_())
    assert found.rows[0][:3] == ["parameter", "mean", "sd"] and [row[0] for row in found.rows[1:]] == ["a", "b<c"]
    assert float(found.rows[1][1]) == pytest.approx(result.summary().mean[0], rel=1e-4)
    assert "64 chains" in found.others[0]
    assert str(result).startswith(str(result.summary())) and repr(result.summary()) == str(result.summary())
    assert len(_Table(result.summary()._repr_html_()).rows) == 3


def _sample(**options):
    sample(lambda x: -0.5 * x.square().sum(dim=1), torch.zeros(2), n_draws=60, n_warmup=40, **options)


def test_no_progress_prints_nothing(capfd):
    _sample(progress=False)
    assert capfd.readouterr() == ("", "")


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_the_bar_estimates_the_remaining_time_of_warm_up_and_draws(monkeypatch):
    monkeypatch.setattr(sys, "stderr", Terminal())
    _sample(progress=True)
    text = sys.stderr.getvalue()
    assert "warm-up" in text and "sampling" in text
    assert re.search(r"100/100 \[\d\d:\d\d<00:00, ", text)


def test_the_bar_ends_where_the_target_is_reached(monkeypatch):
    monkeypatch.setattr(sys, "stderr", Terminal())
    _sample(progress=True, target_ess=10, target_rhat=1.5)
    assert "| 90/90 [" in sys.stderr.getvalue()  # one check, after 50 draws


def test_a_file_gets_a_line_for_each_tenth_and_a_short_job_none(monkeypatch):
    monkeypatch.setattr(progress, "LINES_APART", 0.1)
    file = io.StringIO()
    with progress.tqdm(total=20, desc="epochs", file=file, mininterval=0.01, dynamic_ncols=True) as bar:
        for _ in range(20):
            time.sleep(0.02)
            for _ in progress.tqdm(range(2), "inside", file=file, mininterval=0.01):
                time.sleep(0.02)
            bar.update()
    lines = file.getvalue().splitlines()
    assert file.getvalue().endswith("\n") and "\r" not in file.getvalue()
    assert 5 <= len(lines) <= 11  # 20 steps of 0.06 s
    assert re.match(r"epochs: +\d+% \d+/20 \[\d\d:\d\d<\d\d:\d\d, ", lines[0])
    assert lines[-1].startswith("epochs: 100% 20/20 ") and len(set(lines)) == len(lines)
    short = io.StringIO()
    for _ in progress.tqdm(range(1000), file=short):
        pass
    assert short.getvalue() == ""


def test_a_notebook_without_ipywidgets_gives_no_warning():
    code = """
import sys, types, warnings
kernel = types.SimpleNamespace(config={"IPKernelApp": {}})
sys.modules["IPython"] = types.SimpleNamespace(get_ipython=lambda: kernel)
sys.modules["ipykernel.zmqshell"] = types.ModuleType("zmqshell")
sys.modules["ipywidgets"] = None
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    from iaemu.progress import tqdm
print(tqdm.__base__.__module__, *(str(entry.message) for entry in caught if "IProgress" in str(entry.message)))
"""
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.split() == ["tqdm.asyncio"] and "IProgress" not in found.stderr
