"""The TNG300 posteriors of arXiv:2504.05235 by every route, beside the paper's: ``iaemu-reproduce``."""
