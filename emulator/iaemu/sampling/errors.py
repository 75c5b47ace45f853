"""What is raised when a posterior cannot be sampled, apart from mistakes in the arguments (``ValueError``)."""


class SamplingError(RuntimeError):
    """Sampling cannot begin or go on; the message says why and what to change."""
