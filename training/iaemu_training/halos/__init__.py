"""Halo catalogues: read, checked, packed, and what parameters they support."""
