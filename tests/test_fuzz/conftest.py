"""The fixture of the fuzz tests, and their table of counts."""

import fuzzing
import pytest


def pytest_collection_modifyitems(items):
    for item in items:
        if "test_fuzz" in item.path.parts:
            item.add_marker(pytest.mark.slow)


@pytest.fixture
def fuzz(record_property):
    """:func:`fuzzing.run`, whose counts go into the table."""

    def fuzz(name, n, *arguments, **options):
        record_property("fuzz", [name, fuzzing.run(name, n, *arguments, **options)])

    return fuzz


def pytest_terminal_summary(terminalreporter):
    reports = [report for key in ("passed", "failed") for report in terminalreporter.stats.get(key, [])]
    rows = sorted(
        value for report in reports if report.when == "call" for key, value in report.user_properties if key == "fuzz"
    )
    if not rows:
        return
    terminalreporter.section("fuzz: inputs by entry")
    total = {"tried": 0, "accepted": 0, "refused": 0, "seconds": 0}
    for _, counts in rows:
        total = {key: total[key] + counts.get(key, 0) for key in total}
    terminalreporter.write_line(f"{'entry':44s} {'tried':>8s} {'accepted':>9s} {'refused':>9s} {'s':>5s}")
    for name, counts in [*rows, ("all", total)]:
        numbers = (counts.get(key, 0) for key in ("tried", "accepted", "refused", "seconds"))
        terminalreporter.write_line("{:44s} {:8d} {:9d} {:9d} {:5d}".format(name, *numbers))
