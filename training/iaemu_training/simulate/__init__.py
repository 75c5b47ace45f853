"""Simulations of matter with a particle mesh, and the halos in them: catalogues of any cosmology and redshift."""
