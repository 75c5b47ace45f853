"""Configurations of training runs by name: ``iaemu-train fit OUTPUT --config factorised``."""
