"""The sampler ``iaemu_cobaya.HMC``."""
