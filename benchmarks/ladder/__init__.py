"""How wrong a capacity is, from a constant trickle of one payload up to replayed traffic."""
