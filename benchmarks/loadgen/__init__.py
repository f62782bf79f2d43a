"""How cheap, punctual and honest the load generator is, beside its peers and what is to be reached."""
