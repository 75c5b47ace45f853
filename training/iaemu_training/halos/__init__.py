"""Halo catalogues: reading, checking, packing, and the parameters that they support."""
