"""Deciding: controllers that ask for load and are told what came of it, doubts and verdicts."""
