"""Sending it on time: engines, their timers, and the guard that says what may be loaded at all."""
