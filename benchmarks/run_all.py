"""Re-make the figures of the documentation that are accuracies or timings, and compare them with the pages.

    python benchmarks/run_all.py --quick                          # small samples: about six minutes of CPU time
    python benchmarks/run_all.py --only emulator_vs_tabulated     # one of them, with the numbers of the page
    python benchmarks/run_all.py --list                           # the commands

Each benchmark (claims.py) is a process of its own, one after the other, with one thread. What it prints is kept in
--output, and it is not run again while its commands, the sources and the versions of the libraries are the same. The
figures of the pages are read from the pages. The exit status is 1 if an accuracy does not hold, or a benchmark fails.
Timings are compared as ratios, and only reported: a page's are those of one machine.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Mapping
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

from claims import BENCHMARKS, Benchmark, Claim, Rule
from common import benchmark_parser
from tqdm import tqdm

from iaemu.files import write_whole

ROOT = Path(__file__).resolve().parents[1]
NUMBER = re.compile(r"[-+]?(?:\d+(?:,\d{3})*(?:\.\d*)?|\.\d+)(?:e[-+]?\d+)?")


class Row(NamedTuple):
    """Figures of a page beside those that were measured, and what is to be said of them."""

    benchmark: str
    page: str
    what: str
    on_page: tuple[float, ...]
    measured: tuple[float, ...]
    rule: str
    verdict: str

    @property
    def fails(self) -> bool:
        return self.verdict in ("DOES NOT HOLD", "FAILED", "NOT FOUND")


def numbers_after(text: str, start: str, which: tuple[int, ...]) -> tuple[float, ...]:
    """Return some of the numbers that follow a regular expression in a line; none if they are not all there."""
    found = re.search(start, text, re.S)
    if not found:
        return ()
    line = text[found.end() :].lstrip().split("\n")[0]
    numbers = [float(number.replace(",", "")) for number in NUMBER.findall(line)]
    return tuple(numbers[index] for index in which) if max(which) < len(numbers) else ()


def on_page(claim: Claim) -> tuple[float, ...]:
    return numbers_after((ROOT / claim.page).read_text(), claim.on_page, claim.page_at)


def holds(rule: Rule, said: float, measured: float) -> bool:
    """Whether a measured figure agrees with the page's."""
    return {
        "near": abs(measured - said) <= rule.tolerance * abs(said),
        "within": abs(measured - said) <= rule.tolerance,
        "at most": measured <= rule.tolerance * said,
        "at least": measured >= rule.tolerance,
        "timing": said / rule.tolerance <= measured <= said * rule.tolerance,
        "time": True,
    }[rule.kind]


def compare(name: str, claim: Claim, text: str) -> Row:
    """Compare what a page says with what a benchmark printed."""
    rule = claim.rule
    said, measured = on_page(claim), numbers_after(text, claim.in_output, claim.output_at)
    if not said or not measured:
        verdict = "NOT FOUND"
    elif rule.kind == "time":
        verdict = "depends on the machine"
    else:
        if rule.kind == "timing":
            said, measured = (said[0] / said[1],), (measured[0] / measured[1],)
        agree = all(holds(rule, *pair) for pair in zip(said, measured, strict=True))
        verdict = "holds" if agree else "differs" if rule.kind == "timing" else "DOES NOT HOLD"
    return Row(name, claim.page, claim.what, said, measured, str(rule), verdict)


@cache
def sources() -> str:
    """Return a hash of the packages with their data, and of what benchmarks share."""
    found = hashlib.sha256()
    folders = ("emulator/iaemu", "training/iaemu_training", "iaemu_cobaya", "yaml_examples")
    paths = [path for folder in folders for path in (ROOT / folder).rglob("*") if path.is_file()]
    for path in sorted([*paths, ROOT / "benchmarks" / "common.py", ROOT / "benchmarks" / "tng_posteriors.py"]):
        if "__pycache__" not in path.parts:
            found.update(hashlib.sha256(path.read_bytes()).digest())
    return found.hexdigest()


def key_of(commands: tuple[str, ...]) -> dict:
    """Return what a kept output depends on."""
    scripts = [ROOT / command.split()[0] for command in commands if command.startswith("benchmarks/")]
    return {
        "commands": list(commands),
        "scripts": [hashlib.sha256(path.read_bytes()).hexdigest() for path in scripts],
        "sources": sources(),
        "versions": {name: version(name) for name in ("cobaya", "numpy", "scipy", "torch")},
    }


def arguments_of(command: str) -> list[str]:
    """Return a command of the registry as a list that runs from any folder."""
    words = [
        str(ROOT / word) if word.startswith(("benchmarks/", "yaml_examples/")) else word
        for word in shlex.split(command)
    ]
    if command.startswith("benchmarks/"):
        return [sys.executable, *words]
    return [str(Path(sys.executable).with_name(words[0])), *words[1:]]


def run(commands: tuple[str, ...], folder: Path) -> tuple[str | None, float]:
    """Run commands in ``folder``, or find what they printed before; return that (None: one failed) and the seconds."""
    kept, printed, key = folder / "done.json", folder / "output.md", key_of(commands)
    if kept.exists():
        record = json.loads(kept.read_text())
        if record["key"] == key:
            return printed.read_text(), record["seconds"]
    folder.mkdir(parents=True, exist_ok=True)
    kept.unlink(missing_ok=True)
    threads = dict.fromkeys(("OMP_NUM_THREADS", "NUMBA_NUM_THREADS"), "1")
    start = time.perf_counter()
    output = ""
    with (folder / "errors.txt").open("w") as errors:
        for command in commands:
            done = subprocess.run(
                arguments_of(command), cwd=folder, env={**os.environ, **threads}, stdout=subprocess.PIPE, stderr=errors
            )
            output += done.stdout.decode()
            if done.returncode:
                errors.write(f"\n{command}: exit status {done.returncode}\n")
                return None, time.perf_counter() - start
    seconds = time.perf_counter() - start
    record = {"key": key, "seconds": seconds}
    write_whole(printed, lambda file: file.write(output.encode()))
    write_whole(kept, lambda file: file.write(json.dumps(record, indent=1).encode()))
    return output, seconds


def missing(benchmark: Benchmark) -> list[str]:
    return [name for name in benchmark.needs if importlib.util.find_spec(name) is None]


def run_all(chosen: Mapping[str, Benchmark], quick: bool, folder: Path, progress: bool) -> tuple[list[Row], dict]:
    """Run benchmarks one after the other; return the rows of all, and the seconds of each."""
    rows, seconds = [], {}
    bar = tqdm(chosen.items(), unit="benchmark", disable=not progress)
    for name, benchmark in bar:
        bar.set_description(name)
        if lost := missing(benchmark):
            rows.append(Row(name, "", f"needs {', '.join(lost)}", (), (), "", "left out"))
            continue
        text, seconds[name] = run(benchmark.quick if quick else benchmark.full, folder / name)
        if text is None:
            rows.append(Row(name, "", f"see {folder / name / 'errors.txt'}", (), (), "", "FAILED"))
            continue
        rows += [compare(name, claim, text) for claim in benchmark.claims]
    return rows, seconds


def markdown(rows: list[Row], seconds: Mapping[str, float]) -> str:
    """Return a table of all rows, and a summary."""
    lines = ["| benchmark | page | figure | page says | measured | rule | |", "|---|---|---|---|---|---|---|"]
    for row in rows:
        numbers = (", ".join(f"{value:.5g}" for value in values) for values in (row.on_page, row.measured))
        page = row.page.removeprefix("docs/")
        lines.append(f"| {row.benchmark} | {page} | {row.what} | {' | '.join(numbers)} | {row.rule} | {row.verdict} |")
    counts = {
        verdict: sum(row.verdict == verdict for row in rows) for verdict in dict.fromkeys(r.verdict for r in rows)
    }
    lines += ["", "; ".join(f"{number} {verdict}" for verdict, number in counts.items()) + "."]
    lines.append(f"{len(seconds)} benchmarks, {sum(seconds.values()) / 60:.1f} minutes.")
    return "\n".join(lines)


def main(arguments=None) -> int:
    parser = benchmark_parser(__doc__)
    parser.add_argument("--quick", action="store_true", help="small samples; leaves out what takes long")
    parser.add_argument("--only", nargs="+", choices=tuple(BENCHMARKS), metavar="NAME", help="run these (see --list)")
    parser.add_argument("--list", action="store_true", help="print names and commands, and stop")
    parser.add_argument(
        "-o", "--output", type=Path, default=Path("chains/benchmarks"), help="folder that keeps what was printed"
    )
    parser.add_argument("--json", action="store_true", help="print the figures as one JSON document, and nothing else")
    options = parser.parse_args(arguments)
    chosen = {name: BENCHMARKS[name] for name in options.only or BENCHMARKS}
    if options.quick:
        if slow := [name for name in options.only or () if not BENCHMARKS[name].quick]:
            parser.error(f"--quick leaves out {', '.join(slow)}: run without --quick.")
        chosen = {name: benchmark for name, benchmark in chosen.items() if benchmark.quick}
    if options.list:
        for name, benchmark in chosen.items():
            print(name, *(benchmark.quick if options.quick else benchmark.full), sep="\n    ")
        return 0
    folder = options.output.resolve() / ("quick" if options.quick else "full")
    rows, seconds = run_all(chosen, options.quick, folder, not options.json)
    if options.json:
        print(json.dumps({"figures": [row._asdict() for row in rows], "seconds": seconds}, indent=1))
    else:
        print(markdown(rows, seconds))
    return int(any(row.fails for row in rows))


if __name__ == "__main__":
    sys.exit(main())
