"""run_all.py knows every benchmark, finds every figure that it compares on its page, and goes on where it was."""

import json
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "benchmarks"))
run_all = pytest.importorskip("run_all")
from claims import BENCHMARKS, NOT_RUN, Benchmark, Claim, Rule, row  # noqa: E402

PAGES = sorted((ROOT / "docs").rglob("*.md"))
NO_SCRIPTS = {"run_all", "claims", "common"}


def commands():
    return [command for benchmark in BENCHMARKS.values() for command in (*benchmark.full, *benchmark.quick)]


def test_every_script_is_run_or_says_why_not():
    scripts = {path.stem for path in (ROOT / "benchmarks").glob("*.py")} - NO_SCRIPTS
    called = {Path(command.split()[0]).stem for command in commands() if command.startswith("benchmarks/")}
    assert called | set(NOT_RUN) == scripts
    assert not called & set(NOT_RUN)
    assert all(len(reason) > 10 for reason in NOT_RUN.values())


@pytest.mark.parametrize("name", [name for name, benchmark in BENCHMARKS.items() if benchmark.claims])
def test_claims_are_on_their_pages(name):
    lost = [claim.what for claim in BENCHMARKS[name].claims if not run_all.on_page(claim)]
    assert not lost
    assert all(len(claim.page_at) == len(claim.output_at) for claim in BENCHMARKS[name].claims)
    pages = {claim.page for claim in BENCHMARKS[name].claims if not claim.page.startswith("docs/reports")}
    silent = [page for page in pages if not re.search(rf"--only[\s\w]*\b{name}\b", (ROOT / page).read_text())]
    assert set(silent) <= {"docs/validation/index.md"}


def test_pages_name_benchmarks_that_exist():
    named = [
        name
        for page in PAGES
        for names in re.findall(r"run_all\.py\s+--only\s+([\w\s]+)`", page.read_text())
        for name in names.split()
    ]
    assert len(named) > 30
    assert set(named) <= {*BENCHMARKS, "NAME"}


@pytest.mark.parametrize("page", sorted((ROOT / "docs" / "validation").glob("*.md")), ids=lambda page: page.stem)
def test_sections_with_tables_name_a_command(page):
    """What makes the figures of a table stands in its section, or in the one above it."""
    sections = re.split(r"^#+ ", page.read_text(), flags=re.M)[1:]
    command = re.compile(r"benchmarks/\w+\.py|`\s*iaemu |`cobaya-run|iaemu train|yaml_examples/")
    for above, section in zip(["", *sections], sections, strict=False):
        if re.search(r"^\|---", section, re.M):
            assert command.search(section) or command.search(above), section.split("\n")[0]


@pytest.mark.parametrize(
    ("rule", "said", "good", "bad"),
    [
        (Rule("near", 0.1), -2.0, -2.15, -2.25),
        (Rule("within", 0.1), 0.0, -0.09, 0.11),
        (Rule("at most", 2.0), 1e-9, 1e-12, 3e-9),
        (Rule("at least", 0.001), 0.5, 0.01, 0.0001),
        (Rule("timing", 3.0), 30.0, 11.0, 95.0),
    ],
)
def test_rules(rule, said, good, bad):
    assert run_all.holds(rule, said, good)
    assert not run_all.holds(rule, said, bad)


def test_a_changed_page_is_noticed(tmp_path, monkeypatch):
    claim = Claim("share", "page.md", row("1", "xi"), row("1", "xi"), Rule("within", 0.005), (1,), (1,))
    monkeypatch.setattr(run_all, "ROOT", tmp_path)
    for text, verdict in (
        ("| 1 | xi | 5.6 | 0.40 |", "holds"),
        ("| 1 | xi | 5.6 | 0.50 |", "DOES NOT HOLD"),
        ("| 1 | omega | 5.6 | 0.40 |", "NOT FOUND"),
    ):
        (tmp_path / "page.md").write_text(text)
        found = run_all.compare("box", claim, "| 1 | xi | 5.62 | 0.401 |")
        assert found.verdict == verdict
        assert found.fails == (verdict != "holds")


def test_goes_on_after_a_failure_and_resumes(tmp_path, monkeypatch, capsys):
    pytest.importorskip("halotools")
    good, bad = BENCHMARKS["box_error"], "benchmarks/box_error.py --emulator none.safetensors"
    monkeypatch.setattr(run_all, "BENCHMARKS", {"bad": Benchmark((bad,), (bad,)), "box_error": good})
    arguments = ["--quick", "--json", "-o", str(tmp_path)]
    assert run_all.main(arguments) == 1
    figures = json.loads(capsys.readouterr().out)["figures"]
    assert [figure["verdict"] for figure in figures] == ["FAILED"] + len(good.claims) * ["holds"]
    assert "none.safetensors" in (tmp_path / "quick" / "bad" / "errors.txt").read_text()

    kept = tmp_path / "quick" / "box_error" / "output.md"
    kept.write_text(kept.read_text().replace("| 1 | xi | 5.62 |", "| 1 | xi | 9.99 |"))
    assert run_all.main([*arguments, "--only", "box_error"]) == 1  # what was kept is read, not made again
    figures = json.loads(capsys.readouterr().out)["figures"]
    assert [figure["verdict"] for figure in figures].count("DOES NOT HOLD") == 1

    monkeypatch.setattr(run_all, "version", lambda name: "another")
    assert not run_all.key_of(good.quick) == json.loads((kept.parent / "done.json").read_text())["key"]


def test_what_is_not_quick_is_refused(capsys):
    with pytest.raises(SystemExit):
        run_all.main(["--quick", "--only", "strength_laws"])
    assert "run without --quick" in capsys.readouterr().err
