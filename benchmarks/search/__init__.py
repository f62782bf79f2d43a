"""How near searches come, and how often sustain is wrong, on random servers whose truth is known."""
