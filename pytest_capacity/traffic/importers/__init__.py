"""Recorded traffic as teams hold it, read into rows of a trace: one module a family of formats."""
