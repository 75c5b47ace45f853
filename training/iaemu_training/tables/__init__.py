"""Tables of expected pair sums by host mass and sub-halo rank, and the box error."""
