"""Mock galaxies of halotools-IA, and the statistics of many of them."""
