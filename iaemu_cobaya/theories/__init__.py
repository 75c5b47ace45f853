"""The Cobaya theories."""
