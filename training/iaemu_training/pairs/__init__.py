"""Pair counts in periodic boxes, for galaxies and for the tracers of the mock model."""
