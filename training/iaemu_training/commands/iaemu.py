"""``iaemu``: what one measures of one's own galaxies, and mock galaxies to try it on."""

from __future__ import annotations

from iaemu_training.commands.program import run

COMMANDS = {
    "measure": "measure xi, omega and eta of a galaxy catalogue, with jackknife covariances",
    "mock": "make a mock galaxy catalogue of known parameters",
}


def main(argv: list[str] | None = None) -> int:
    """Entry point; the exit status."""
    return run(
        "iaemu", "Measure alignment correlations of galaxies, for the likelihood IACorrelations.", COMMANDS, argv
    )
