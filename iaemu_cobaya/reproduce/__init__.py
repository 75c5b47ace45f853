"""Reproduce the TNG300 posteriors of arXiv:2504.05235 with several methods: ``iaemu reproduce``."""
