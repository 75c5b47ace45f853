"""The networks behind the emulators, and the scalers and the scatter that go with them."""
