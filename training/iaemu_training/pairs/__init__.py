"""Pair counts in periodic boxes, of galaxies and of tracers of the mock model; one grid of cells for all."""
