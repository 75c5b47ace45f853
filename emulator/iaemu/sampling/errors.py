"""The exception for densities that cannot be sampled."""


class SamplingError(RuntimeError):
    """Raised if sampling cannot start or continue; the message says why, and what to change."""
