"""Training sets: points, noise-free labels and mocks in one file."""
