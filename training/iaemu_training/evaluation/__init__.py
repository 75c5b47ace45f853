"""Evaluation of emulators: metrics, reports, figures and model cards."""
