"""Measurement of xi, omega and eta of galaxies in a file, with jackknife covariances."""
