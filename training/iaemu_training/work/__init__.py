"""Tools for long computations: worker processes or Dask, parts that can be resumed, progress bars, files."""
