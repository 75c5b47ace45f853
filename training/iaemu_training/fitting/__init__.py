"""Training of networks, and the fit of the scatter of mocks."""
