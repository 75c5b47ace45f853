"""Long work: worker processes or Dask, and parts that survive a kill."""
