"""The Cobaya likelihoods, their data, and measurements by name."""
