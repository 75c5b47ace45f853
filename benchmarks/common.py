"""What several benchmarks share: their command line, and the occupations of the TNG300 samples."""

from __future__ import annotations

import argparse

#: logMmin, sigma_logM, logM0, logM1 and alpha of the TNG300 samples (Table 2 of arXiv:2504.05235).
OCCUPATION = {
    1: (12.54, 0.26, 12.68, 13.48, 1.0),
    2: (11.93, 0.26, 12.05, 12.85, 1.0),
    3: (11.61, 0.26, 11.80, 12.60, 1.0),
}


def benchmark_parser(doc: str | None) -> argparse.ArgumentParser:
    """Return a parser whose help is the docstring of the script, as it stands."""
    return argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
