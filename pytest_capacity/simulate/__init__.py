"""Servers in virtual time with a known capacity: what controllers are tried on, and compared by."""
