"""Progress bars of HMC: what they show, when they show it, and that draws do not depend on them."""

import io
import logging
import re
import sys
import types
import warnings

import numpy as np
from cobaya.likelihood import Likelihood
from cobaya.run import run

from iaemu_cobaya.sampler import progress


class Normal(Likelihood):
    params = {"x": {"prior": {"min": -10, "max": 10}, "ref": {"dist": "norm", "loc": 0.5, "scale": 0.2}}}

    def logp(self, _derived=None, x=None):
        return -0.5 * x**2

    def logp_torch(self, params, products):
        return self.logp(x=params["x"])


class Terminal(io.StringIO):
    def isatty(self):
        return True


def sample(**options):
    small = {"n_chains": 8, "n_files": 2, "n_warmup": 60, "check_every": 20, "seed": 1, "ess_stop": 500, **options}
    return run({"likelihood": {"it": {"external": Normal}}, "sampler": {"iaemu_cobaya.HMC": small}})[1]


def test_all_stages_are_shown(monkeypatch):
    monkeypatch.setattr(sys, "stderr", Terminal())
    sampler = sample()
    text = sys.stderr.getvalue()
    assert re.search(r"maximum: .*\d/8 ", text)
    assert re.search(r"warm-up: .*\d+/60 ", text)
    assert re.search(rf"draws: .*/{sampler.n_draws()} \[.*R-1 0\.\d+, ess \d+/500", text)


def test_draws_are_the_same_without_a_terminal(monkeypatch):
    # Cobaya's log may still go to the standard output of an earlier test, which is closed: that is not this test's.
    monkeypatch.setattr(logging, "raiseExceptions", False)
    monkeypatch.setattr(sys, "stderr", Terminal())
    shown = sample().samples()["x"].to_numpy()
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    hidden = sample().samples()["x"].to_numpy()
    assert not sys.stderr.getvalue()
    monkeypatch.setattr(sys, "stderr", Terminal())
    assert np.array_equal(sample(progress=False).samples()["x"].to_numpy(), hidden)
    assert not sys.stderr.getvalue()
    assert np.array_equal(shown, hidden)


def test_the_estimate_is_the_check_at_which_the_run_stops():
    sampler = sample(ess_stop=2000, Rminus1_stop=10)
    sampler.n_kept = 20
    # 20 draws of each chain give 100 effective draws: 2000 take 400. The checks are after 20, ..., 300, 360, 440, ...
    assert sampler._expected_draws(0.1, 100.0) == 8 * 440
    assert sampler._expected_draws(0.1, 112.0) == 8 * 360
    # Enough effective draws, but R-1 is too large: the next check at the earliest.
    assert sampler._expected_draws(20.0, 5000.0) == 8 * 40
    assert sampler._expected_draws(0.1, 5000.0) == 8 * 20
    assert sampler._expected_draws(float("nan"), float("nan")) is None
    sampler.max_samples = 1000
    assert sampler._expected_draws(float("nan"), float("nan")) == 1000
    assert sampler._expected_draws(0.1, 100.0) == 1000


def test_it_can_be_seen_on_terminals_and_in_notebooks(monkeypatch):
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    assert not progress.can_show()
    shell = types.SimpleNamespace(kernel=object())
    monkeypatch.setitem(sys.modules, "IPython", types.SimpleNamespace(get_ipython=lambda: shell))
    assert progress.can_show()
    monkeypatch.setitem(sys.modules, "IPython", types.SimpleNamespace(get_ipython=lambda: None))
    assert not progress.can_show()
    monkeypatch.setattr(sys, "stderr", Terminal())
    assert progress.can_show()


def test_a_notebook_without_ipywidgets_gets_text_and_no_warning(monkeypatch):
    shell = types.SimpleNamespace(kernel=object(), config={"IPKernelApp": {}})
    monkeypatch.setitem(sys.modules, "IPython", types.SimpleNamespace(get_ipython=lambda: shell))
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    for name in ("tqdm.auto", "tqdm.autonotebook", "iaemu.progress", "iaemu_cobaya.sampler.progress"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        import iaemu_cobaya.sampler.progress as anew
    with anew.progress_bar(True, desc="draws", total=3) as bar:
        bar.update()
    assert "draws:" in sys.stderr.getvalue()


def test_a_widget_gets_the_new_total():
    bar = progress.DrawsBar(False)
    widget = types.SimpleNamespace(max=1, bar_style="info", layout=types.SimpleNamespace(width="20px"))
    bar._bar.container = types.SimpleNamespace(children=[None, widget, None])
    bar.begin(100, 1, 1)
    bar.end(400, "R-1 0.1")
    assert widget.max == 400 and widget.layout.width is None
