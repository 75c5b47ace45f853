"""A small halo catalogue of N-body origin (pm40, 40 Mpc/h) and tables made from it, shared by the tests."""

import logging
import os
import sys

# For the processes that tests run in, and for those that they start: one thread each.
for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ.setdefault(name, "1")

import pytest
import torch


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    """Tests are of a few numbers each: handing these to several threads takes longer than working on them."""
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def no_figure_stays_open():
    """pyplot keeps figures in a list of the process, where one test's would be met by the next."""
    yield
    pyplot = sys.modules.get("matplotlib.pyplot")
    if pyplot is not None:
        pyplot.close("all")


@pytest.fixture(autouse=True)
def no_log_handler_stays():
    """Libraries add handlers to the root logger, for the captured streams of one test, which are closed in the next."""
    before = logging.getLogger().handlers[:]
    yield
    logging.getLogger().handlers[:] = before


@pytest.fixture(scope="session")
def pm40():
    pytest.importorskip("h5py")
    from iaemu_training.halos.catalogue import HaloCatalogue

    return HaloCatalogue.load("pm40")


@pytest.fixture(scope="session")
def pm40_tables(pm40):
    """Tables of pm40 over a small support, with every mass and rank resolution at its default."""
    pytest.importorskip("numba")
    from iaemu.parameters import Support
    from iaemu_training.tables.tabulate import TabulationSettings, tabulate

    support = Support(logMmin=(11.5, 12.8), log_mass_complete=11.0172)
    return tabulate([pm40], support, settings=TabulationSettings(mode_samples=1024), progress=False)


@pytest.fixture(scope="session")
def snapshots():
    """The shipped tables as if they were those of other redshifts, by redshift: lighter halos, stronger alignment.

    What is between two of them is known: it is made in the same way.
    """
    from iaemu.models.tables import TabulatedModel

    today = TabulatedModel.load()

    def at(redshift):
        tensors = dict(today._tensors)
        for name in tensors:
            if name.endswith("log_mass"):
                tensors[name] = tensors[name] - 0.15 * redshift
        for name in ("two_halo_S_omega", "two_halo_S_eta"):
            tensors[name] = tensors[name] * (1.0 + 0.2 * redshift)
        names = [f"{name}-z{redshift}" for name in today.metadata["catalogues"]]
        metadata = {**today.metadata, "redshift": redshift, "catalogues": names, "catalogue_sha256": names}
        return TabulatedModel(tensors, metadata)

    return {0.0: today, 0.3: at(0.3), 0.6: at(0.6)}
