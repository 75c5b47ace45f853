"""The physics that the models share: mean occupations, their modes, and the misalignment of galaxies."""
