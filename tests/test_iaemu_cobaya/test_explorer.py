"""The explorer in headless Chromium: its numbers are Python's; it works by keyboard, on a phone, and by its address."""

import re
import shutil
import warnings
from collections import defaultdict
from urllib.parse import parse_qs, urlsplit
from xml.etree import ElementTree

import numpy as np
import pytest

import iaemu
import iaemu_cobaya
from iaemu.models.factorised import Emulator
from iaemu.prediction import FewPairsWarning
from iaemu_cobaya.commands import door, explore
from iaemu_cobaya.explorer.build import write_explorer

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)

#: Largest difference between browser and Python, in units of the rms of a statistic over its bins.
TOLERANCE = 1e-4

#: Values as plain lists.
EVALUATE = """values => {
    const plain = (part) => ArrayBuffer.isView(part) ? Array.from(part)
        : part !== null && typeof part === "object" && !Array.isArray(part)
        ? Object.fromEntries(Object.entries(part).map(([name, one]) => [name, plain(one)])) : part;
    return values.map((one) => plain(explorer.evaluate(one)));
}"""


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """The page, as the command writes it, and what it opened in the browser."""
    folder, opened = tmp_path_factory.mktemp("explorer"), []
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(explore.webbrowser, "open", lambda url: opened.append(url) or True)
        assert door.main(["explore"]) == 0
    return folder / "explorer.html", opened


@pytest.fixture(scope="module")
def address(written):
    return written[0].as_uri()


@pytest.fixture(scope="module")
def tab():
    """One tab of a browser without network, for all tests."""
    if BROWSER is None:
        pytest.skip("no Chromium or Chrome is installed (chromium, google-chrome)")
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright (extra 'test')")
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=BROWSER, args=["--no-sandbox", "--disable-gpu"])
        yield browser.new_context(offline=True).new_page()
        browser.close()


@pytest.fixture
def open_page(tab, address):
    """Opens the page at a fragment of its address; until the end of the test it has no errors, and asks for nothing."""
    errors, requests = [], []
    listeners = {
        "console": lambda message: errors.append(message.text),
        "pageerror": lambda error: errors.append(str(error)),
        "request": lambda request: requests.append(request.url),
    }
    for event, listener in listeners.items():
        tab.on(event, listener)

    def opened(fragment="", width=1280, height=900):
        tab.goto("about:blank")  # or another fragment would not load the page anew
        tab.set_viewport_size({"width": width, "height": height})
        tab.goto(address + fragment)
        tab.wait_for_selector("#panels .line[d^=M]", state="attached")
        return tab

    yield opened
    for event, listener in listeners.items():
        tab.remove_listener(event, listener)
    assert not errors
    asked = {url.partition("#")[0] for url in requests if not url.startswith(("data:", "blob:"))}
    assert asked <= {address, "about:blank"} and address in asked


@pytest.fixture(scope="module")
def models():
    model = iaemu.load()
    return lambda z: model.at_redshift(z)


def state_of(page):
    return {name: words[0] for name, words in parse_qs(urlsplit(page.url).fragment).items()}


def settled(page):
    """The address is written a moment after the last move."""
    page.wait_for_function("waiting === null")
    return page


def path_of(page, panel):
    return page.locator(f"#panel-{panel} .line:not(.negative)").last.get_attribute("d")


def points(models):
    """Random points of the supported region at three redshifts, and the presets."""
    rng = np.random.default_rng(7)
    found = []
    for z in (0.0, 0.45, 1.0):
        support = models(z).support
        for theta in support.sample(4, rng):
            values = dict(zip(support.parameters, theta.tolist(), strict=True))
            found.append({**values, "a_shape": float(rng.uniform(0.1, 1.0)), "z": z, "sample": 1 + len(found) % 3})
    return found


def python_of(values, models, r_edges, rp):
    """What Python predicts: statistics, chi^2 by likelihood and statistics, and numbers."""
    theta = {name: values[name] for name in iaemu.Support.parameters}
    model, a_shape = models(values["z"]), values["a_shape"]
    sample = getattr(iaemu_cobaya, f"TNG300Sample{values['sample']}")()
    survey = iaemu_cobaya.LOWZ()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FewPairsWarning)
        near = model.predict(theta, r_edges)
        sky = model.project(theta, rp=rp, pi_max=survey.pi_max, a_shape=a_shape)
        own = model.predict(theta, sample.requests["omega"]["r_edges"])
        seen = model.project(theta, survey.requests["w_gg"]["projection"], a_shape=a_shape)
        large = model.large_scale(theta, a_shape=a_shape)
    vector = np.concatenate([seen.w_gg, seen.w_gplus])
    return (
        {name: getattr(near, name) for name in ("xi", "omega", "eta")} | {"w_gg": sky.w_gg, "w_gplus": sky.w_gplus},
        {
            "omega": sample.chi2(own.omega),
            "w_gg": survey.chi2_of(vector, "w_gg"),
            "w_gplus": survey.chi2_of(vector, "w_gplus"),
            "w_gg,w_gplus": survey.chi2(vector),
        },
        {name: float(getattr(large, name)) for name in ("n_gal", "f_sat", "b_g", "A_IA")},
    )


def test_values_are_those_of_python(open_page, models):
    page = open_page()
    presets = page.evaluate("DATA.presets")
    assert [preset["likelihood"] for preset in presets] == [*(f"TNG300Sample{n}" for n in (1, 2, 3)), "LOWZ"]
    wanted = points(models) + [
        {**preset["parameters"], "a_shape": preset.get("a_shape", 0.4), "z": preset["redshift"], "sample": 1 + n % 3}
        for n, preset in enumerate(presets)
    ]
    found = page.evaluate(EVALUATE, wanted)
    r, rp = page.evaluate("[DATA.bins.r, DATA.projection.w_gg.r]")
    edges = np.logspace(-1.0, 1.4, 23)
    np.testing.assert_allclose(r, 0.5 * (edges[1:] + edges[:-1]))
    n_masked = 0
    for values, one in zip(wanted, found, strict=True):
        curves, chi2, numbers = python_of(values, models, edges, rp)
        for name, curve in curves.items():
            mine = np.array(one["curves"][name]["total"], dtype=float)
            np.testing.assert_array_equal(np.isnan(mine), np.isnan(curve), err_msg=name)
            n_masked += int(np.isnan(curve).sum())
            scale = np.sqrt(np.nanmean(curve**2))
            assert np.nanmax(np.abs(mine - curve)) < TOLERANCE * scale, (name, values)
            # Small values count too: those of w at large separations are far below the rms.
            np.testing.assert_allclose(mine, curve, rtol=1e-3, atol=1e-5 * scale)
        entries = {",".join(entry["statistics"]): entry for part in one["chi2"].values() for entry in part}
        for name, value in chi2.items():
            np.testing.assert_allclose(entries[name]["chi2"], value, rtol=TOLERANCE)
        np.testing.assert_allclose([one["derived"][name] for name in numbers], list(numbers.values()), rtol=TOLERANCE)
    assert n_masked > 0  # bins with few pairs are among the points


def test_chi2_that_is_shown_is_that_of_the_likelihood(open_page, models):
    """The words on the page, at the preset that a click chooses."""
    page = open_page()
    for number in (1, 2, 3):
        like = getattr(iaemu_cobaya, f"TNG300Sample{number}")()
        page.get_by_role("button", name=f"TNG300 sample {number}").click()
        state = {name: float(word) for name, word in state_of(settled(page)).items() if name != "panel"}
        theta = {name: state[name] for name in iaemu.Support.parameters}
        prediction = models(0.0).predict(theta, like.requests["omega"]["r_edges"])
        shown = page.locator("#chi2 tr.default td:last-child").first.inner_text()
        assert shown == f"{like.chi2(prediction.omega):.1f}" and state["sample"] == number
        assert f"χ² = {shown}, {len(like.data_vector)} bins" in page.locator("#panel-omega").inner_text()
        # It is the least: a step of either strength to either side makes it larger.
        for name in ("mu_cen", "mu_sat"):
            for step in (-0.01, 0.01):
                moved = models(0.0).predict({**theta, name: theta[name] + step}, like.requests["omega"]["r_edges"])
                assert like.chi2(moved.omega) > like.chi2(prediction.omega)


def test_a_slider_moves_curves_and_address_by_keyboard(open_page):
    page = open_page()
    before, untouched = path_of(page, "omega"), path_of(page, "xi")
    page.locator("#mu_cen").focus()
    page.keyboard.press("ArrowLeft")
    assert float(state_of(settled(page))["mu_cen"]) == pytest.approx(0.79, abs=0.006)
    assert path_of(page, "omega") != before and path_of(page, "xi") == untouched
    page.keyboard.press("PageDown")
    page.locator("#z").focus()
    for _ in range(3):
        page.keyboard.press("ArrowRight")
    page.locator("#logM1-number").fill("13.456")
    page.locator("#samples input").first.focus()
    page.keyboard.press("ArrowDown")
    after, state = path_of(settled(page), "omega"), state_of(page)
    assert (state["z"], state["logM1"], state["sample"]) == ("0.03", "13.456", "2")
    page.reload()
    assert path_of(page, "omega") == after and state_of(settled(page)) == state
    assert page.locator("#logM1-number").input_value() == "13.456"
    # The address of one view, pasted while another is shown.
    page.evaluate("location.hash = 'mu_cen=0.1&sample=3'")
    page.wait_for_function("document.getElementById('mu_cen').value === '0.1'")
    assert state_of(settled(page))["sample"] == "3"


@pytest.mark.parametrize("width", [360, 1280])
def test_every_control_is_reached_by_tab(open_page, width):
    """In the order of the page, in sight and not behind another element; and nothing is wider than the screen."""
    page = open_page(width=width, height=740)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    names = page.evaluate("NAMES")
    reached = []
    for _ in range(60):
        page.keyboard.press("Tab")
        name, hidden = page.evaluate("""() => {
            const one = document.activeElement, target = one.closest("label") ?? one, [box] = target.getClientRects();
            const top = document.elementFromPoint(box.x + box.width / 2, box.y + box.height / 2);
            const shown = getComputedStyle(one.type === "radio" ? target : one).outlineStyle;
            return [one.id || one.name || one.ariaLabel || one.textContent.trim(),
                    one !== document.body && (!target.contains(top) || shown === "none")];
        }""")
        assert not hidden, name
        if name in reached:
            break
        reached.append(name)
    sliders = [name for name in reached if name in names]
    assert sliders == names and [f"{name}-number" for name in names] == [n for n in reached if n.endswith("-number")]
    assert {"sample", "LOWZ", "follow", "keep", "copy-link", "copy-python"} <= set(reached)
    assert ("panel" in reached) == (width == 360)


def test_a_phone_shows_one_plot_beside_the_slider(open_page):
    page = open_page(width=360, height=740)
    assert page.locator(".panel:visible").count() == 1
    page.locator("#tabs label").nth(4).click()
    assert state_of(settled(page))["panel"] == "w_gplus" and page.locator("#panel-w_gplus").is_visible()
    page.locator("#alpha").focus()
    shown = page.locator("#panel-w_gplus svg").bounding_box()
    assert shown["y"] >= 0 and shown["y"] + shown["height"] < page.locator("#alpha").bounding_box()["y"] < 740


#: Fragments of addresses, and what the page says of them.
BAD = {
    "#logMmin=99": "logMmin = 99 in the address is not a number from 11.2 to 14.3; 12.54 is shown instead.",
    "#mu_cen=high&sample=7": "mu_cen = high in the address is not a number from -1 to 1",
    "#mu_cen=": "mu_cen =  in the address is not a number",
    "#z=NaN&panel=spin": "panel = spin in the address is unknown",
    "#mu_cen=0.5&%%%=&colour=red<b>x": "The address holds colour, which is no parameter",
}


def test_a_bad_address_is_told(open_page):
    page = open_page("#alpha=Infinity")
    assert "alpha = Infinity in the address is not a number" in page.locator("#messages").text_content()
    for fragment, says in BAD.items():
        page.evaluate("fragment => { location.hash = fragment; }", fragment)
        page.wait_for_function("says => document.getElementById('messages').textContent.includes(says)", arg=says)
        assert len(path_of(page, "omega")) > 100
        kept = state_of(settled(page))
        assert kept["logMmin"] == "12.54" and kept["sample"] == "1" and kept["panel"] == "omega"
    page.locator("#mu_sat").focus()
    page.keyboard.press("ArrowRight")
    page.wait_for_function("document.getElementById('messages').textContent === ''")


def test_outside_the_supported_region_it_says_so(open_page, models):
    page = open_page("#logMmin=13.99&z=1&logM1=12")
    text = page.locator("#messages").inner_text()
    assert "logMmin = 13.99 is outside 11.500 to 13.500, its range at z = 1" in text
    low, high = models(1.0).support.bounds("logM1", 13.5)
    assert f"logM1 = 12 is outside {low:.3f} to {high:.3f}, its range at logMmin = 13.5 and z = 1" in text
    assert page.locator("#panel-xi .line.outside").count() and page.locator(".control.outside").count() >= 2
    page.get_by_role("button", name="Move to the nearest supported point").click()
    state = {name: float(word) for name, word in state_of(settled(page)).items() if name != "panel"}
    assert bool(models(1.0).support.contains({name: state[name] for name in iaemu.Support.parameters}))
    assert state["logMmin"] == 13.5 and page.locator("#messages").inner_text() == ""
    assert page.locator(".line.outside").count() == 0


def test_supported_ranges_are_those_of_python(open_page, models):
    page = open_page()
    for z in (0.0, 0.15, 0.3, 0.5, 0.6, 0.9, 1.0):
        support = models(z).support
        for logMmin in (*support.logMmin, 12.7):
            found = page.evaluate("theta => supportedRanges(theta)", {"logMmin": logMmin, "z": z})
            for name in support.parameters:
                np.testing.assert_allclose(found[name], support.bounds(name, logMmin), atol=1e-9, err_msg=name)


def test_curves_can_be_kept_and_saved_and_the_others_follow(open_page):
    page = open_page()
    before = path_of(page, "omega")
    page.locator("#keep").click()
    page.locator("#follow").check()
    page.locator("#logMmin").focus()
    page.keyboard.press("ArrowRight")
    state = state_of(settled(page))
    step = float(state["logMmin"]) - 12.54
    assert step == pytest.approx(0.01) and float(state["logM1"]) == pytest.approx(13.48 + 0.72541259 * step, abs=1e-6)
    assert page.locator("#panel-omega .line.kept").first.get_attribute("d") == before != path_of(page, "omega")
    with page.expect_download() as download:
        page.get_by_role("button", name="Save ω(r) as an SVG picture").click()
    root = ElementTree.parse(download.value.path()).getroot()
    classes = defaultdict(int)
    for one in root.iter():
        classes[one.get("class", "").partition(" ")[0]] += 1
    assert root.tag.endswith("svg") and classes["point"] == 14 and classes["line"] >= 4


def test_copied_python_predicts_what_is_shown(open_page, models, monkeypatch):
    monkeypatch.setattr(iaemu, "load", lambda: models(0.0))  # which takes a second
    page = open_page("#mu_cen=0.4&z=0.3&a_shape=0.5")
    code = page.evaluate("pythonOf(state)")
    names = {}
    exec(code, names)
    [shown] = page.evaluate(EVALUATE, [{}])
    assert names["large"].A_IA == pytest.approx(shown["derived"]["A_IA"], rel=TOLERANCE)
    assert names["model"].redshift == 0.3 and len(names["sky"].w_gplus) == len(names["found"].omega)


def test_the_command_writes_one_whole_file_and_opens_it(written, tmp_path, capsys):
    path, opened = written
    text = path.read_text()
    assert opened == [path.as_uri()] and "{{" not in text and text.endswith("</html>\n")
    assert not re.search(r"""(src|href)=["']?(https?:)?//(?!arxiv)""", text)
    assert [one.name for one in path.parent.iterdir()] == ["explorer.html"]
    assert door.main(["explore", "-o", str(tmp_path / "page.txt")]) == 1 and "page.txt" in capsys.readouterr().err
    assert door.main(["explore", "-o", str(tmp_path / "none" / "page.html")]) == 1
    assert "none" in capsys.readouterr().err


def test_an_emulator_of_one_redshift_is_refused(models, tmp_path):
    today = models(0.0)
    single = Emulator(today.network, today.nodes, {**today.metadata, "snapshots": None})
    with pytest.raises(ValueError, match="several redshifts"):
        write_explorer(tmp_path / "explorer.html", single)
    assert not list(tmp_path.iterdir())
