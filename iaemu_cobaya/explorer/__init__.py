"""The explorer: one HTML file that computes the emulator in the browser, beside TNG300 and LOWZ data."""
