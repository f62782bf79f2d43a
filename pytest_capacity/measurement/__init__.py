"""Measuring: the loop that joins controller, engine and health, and the measurements made with it."""

from pytest_capacity.measurement.loop import Conditions, LoadRun, PreflightFailed, Progress
from pytest_capacity.measurement.run import Run
from pytest_capacity.measurement.search import Question, SearchRun
from pytest_capacity.measurement.sustain import Requirement, SustainRun

__all__ = [
    "Conditions",
    "LoadRun",
    "PreflightFailed",
    "Progress",
    "Question",
    "Requirement",
    "Run",
    "SearchRun",
    "SustainRun",
]
