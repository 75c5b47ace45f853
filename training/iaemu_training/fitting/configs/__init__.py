"""Configurations of training runs by name: ``iaemu train fit -o OUTPUT --config factorised``."""
