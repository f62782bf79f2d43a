"""Showing it: the texts that a person reads."""
