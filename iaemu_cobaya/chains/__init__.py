"""Read Cobaya chains (:func:`load_chain`), tabulate them and plot them (``iaemu plot``)."""

from iaemu_cobaya.chains.plotting import corner_plot, data_plot
from iaemu_cobaya.chains.reading import Chain, ChainError, load_chain, posterior_table

__all__ = ["Chain", "ChainError", "corner_plot", "data_plot", "load_chain", "posterior_table"]
