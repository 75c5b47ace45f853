"""halotools-IA mocks, and the statistics of many of them."""
