"""The Cobaya likelihoods, and the measurements that come with the package."""
