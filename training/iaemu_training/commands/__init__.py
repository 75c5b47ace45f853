"""The commands that use halos and galaxies: one file each, the only places that know argparse."""
