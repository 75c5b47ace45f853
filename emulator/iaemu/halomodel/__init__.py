"""The physics that the models share: mean occupations, modes of them, and the strength of alignment."""
