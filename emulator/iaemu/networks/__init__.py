"""The networks of the emulators, their scalers, and the network of the aleatoric error."""
