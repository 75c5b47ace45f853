"""Training of networks, and the fit of the scatter between mocks."""
