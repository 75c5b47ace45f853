"""Training sets: parameter points, noise-free labels and mocks, in one file."""
