"""``iaemu``: all commands; and the older names of some, ``iaemu-plot``, ``iaemu-reproduce`` and ``iaemu-train``."""

from __future__ import annotations

import sys
from functools import partial

from iaemu_training.commands import iaemu_train
from iaemu_training.commands.program import Command, run_command, run_program

_OURS, _TRAINING = "iaemu_cobaya.commands", "iaemu_training.commands"
GROUPS = {
    "measurements": {
        "measure": Command(f"{_TRAINING}.measure", "measure xi, omega and eta of the galaxies of a simulation"),
        "convert": Command(
            f"{_OURS}.convert", "write a plain table of measured values in the format of the likelihood"
        ),
        "mock": Command(f"{_TRAINING}.mock", "make a mock galaxy catalogue of known parameters"),
    },
    "chains of cobaya-run": {
        "plot": Command(f"{_OURS}.plot", "print a summary of chains, and plot the posterior and the fit"),
        "compare": Command(f"{_OURS}.compare", "compare models of the same data: AIC, DIC, evidence"),
        "prior": Command(f"{_OURS}.prior", "print what a chain says of A_IA, as a prior for lensing likelihoods"),
        "reproduce": Command(f"{_OURS}.reproduce", "compute the TNG300 posteriors of arXiv:2504.05235 anew"),
    },
    "the model": {
        "explore": Command(f"{_OURS}.explore", "write a page with sliders and curves beside data, and open it"),
    },
    "models": {f"train {name}": command for name, command in iaemu_train.COMMANDS.items()},
}
DESCRIPTION = "Intrinsic alignments of galaxies: measure them, fit them with Cobaya, and train the models for the fit."


def main(argv: list[str] | None = None) -> int:
    """Entry point ``iaemu``; the exit code."""
    argv = sys.argv[1:] if argv is None else argv
    if argv[:1] == ["train"]:
        return iaemu_train.main(argv[1:], "iaemu train")
    return run_program("iaemu", DESCRIPTION, GROUPS, argv, _completion)


def _completion(shell: str) -> str:
    from iaemu_training.commands.completion import completion_script

    return completion_script("iaemu", GROUPS, shell)


#: Entry points ``iaemu-plot`` and ``iaemu-reproduce``.
plot = partial(run_command, "iaemu-plot", f"{_OURS}.plot")
reproduce = partial(run_command, "iaemu-reproduce", f"{_OURS}.reproduce")
