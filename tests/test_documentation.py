"""The pages say what works: shell and Python blocks run, in order; YAML blocks name options that exist.

A block that is not run says why, in a comment before it: ``<!-- not run: takes an hour -->``. A block that a reader is
told to save names the file: ``<!-- file: my.yaml -->``.
"""

import ast
import os
import re
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import pytest
import yaml
from cobaya.component import get_component_class

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
#: Written by programs, or run when the site is built.
NOT_PAGES = ("reports", "results", "_build", "gallery.md")

#: Their commands have tests of their own.
SLOW_PAGES = ("own_galaxies.md", "own_data.md")

BLOCK = re.compile(r"(?P<comments>(?:^<!-- [^\n]* -->\n)*)^```(?P<language>\w+)\n(?P<code>.*?)^```", re.M | re.S)


class Block(NamedTuple):
    line: int
    language: str
    code: str
    not_run: str | None
    file: str | None


def blocks_of(page):
    text = page.read_text()
    found_blocks = []
    for found in BLOCK.finditer(text):
        says = dict(re.findall(r"<!-- (not run|file): (.*) -->", found["comments"]))
        line = text[: found.start("code")].count("\n")
        found_blocks.append(Block(line, found["language"], found["code"], says.get("not run"), says.get("file")))
    return found_blocks


def pages(languages):
    return [
        pytest.param(
            page,
            id=str(page.relative_to(ROOT)),
            marks=[pytest.mark.slow] * ("bash" in languages and page.name in SLOW_PAGES),
        )
        for page in PAGES
        if not set(NOT_PAGES) & set(page.relative_to(ROOT).parts)
        and any(block.language in languages and not block.not_run for block in blocks_of(page))
    ]


@pytest.mark.parametrize("page", pages(("bash", "python")))
def test_blocks_run(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("yaml_examples", "benchmarks"):
        (tmp_path / name).symlink_to(ROOT / name)
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent), prepend=os.pathsep)
    monkeypatch.setenv("MPLBACKEND", "Agg")
    namespace = {"__name__": "__main__"}
    for block in blocks_of(page):
        if block.file:
            Path(block.file).write_text(block.code)
        if block.not_run or block.language not in ("bash", "python"):
            continue
        where = f"{page.name}, line {block.line}"
        if block.language == "python":
            exec(compile("\n" * block.line + block.code, str(page), "exec"), namespace)
            continue
        done = subprocess.run(["bash", "-euo", "pipefail", "-c", block.code], capture_output=True, text=True)
        assert done.returncode == 0, f"{where}:\n{done.stdout[-2000:]}\n{done.stderr[-3000:]}"


@pytest.mark.parametrize("page", pages(("yaml",)))
def test_options_exist(page):
    """Components of ours in YAML blocks, and the names of their options."""
    for block in blocks_of(page):
        if block.language != "yaml":
            continue
        info = yaml.safe_load(block.code)
        for kind in ("theory", "likelihood", "sampler"):
            for name, options in (info.get(kind) or {}).items():
                name = (options or {}).get("class", name)
                if not name.startswith("iaemu_cobaya."):
                    continue
                known = get_component_class(name, kind=kind).get_defaults()
                unknown = set(options or {}) - set(known) - {"class"}
                assert not unknown, f"{page.name}, line {block.line}: {name} has no {unknown}"


def test_every_block_is_found():
    for page in PAGES:
        fences = len(re.findall(r"^```\w+\n", page.read_text(), re.M))
        assert len(blocks_of(page)) == fences, page.name


def test_excluded_blocks_say_why():
    excluded = [(page.name, block.line, block.not_run) for page in PAGES for block in blocks_of(page) if block.not_run]
    assert all(len(reason) > 10 for _, _, reason in excluded)


@pytest.mark.parametrize("page", [pytest.param(page, id=str(page.relative_to(ROOT))) for page in PAGES])
def test_headings_go_down_in_steps(page):
    """Pages have one title, and no level is left out: the site's contents depend on it."""
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.M | re.S)
    levels = [len(found[1]) for found in re.finditer(r"^(#+) ", text, re.M)]
    assert not levels or levels[0] == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))


def messages():
    """All text of the sources, with three dots in place of what is filled in."""
    for package in ("emulator/iaemu", "training/iaemu_training", "iaemu_cobaya"):
        for path in (ROOT / package).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.JoinedStr):
                    parts = [part.value if isinstance(part, ast.Constant) else "..." for part in node.values]
                    yield "".join(map(str, parts))
                elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                    yield re.sub(r"%[.\d]*[sdg]", "...", node.value)


def test_quoted_errors_are_those_of_the_sources():
    known = list(messages())
    rows = re.findall(r"^\| (.*?) \|", (ROOT / "docs" / "errors.md").read_text(), re.M)
    quoted = [text for row in rows for text in re.findall(r"`([^`]+)`", row) if " " in text]
    assert len(quoted) > 40
    lost = [
        text
        for text in quoted
        if not any(re.search(".*".join(map(re.escape, re.split(r" ?\.\.\. ?", text))), line, re.S) for line in known)
    ]
    assert not lost
