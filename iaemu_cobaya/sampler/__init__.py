"""The sampler that ``cobaya-run`` finds as ``iaemu_cobaya.HMC``."""
