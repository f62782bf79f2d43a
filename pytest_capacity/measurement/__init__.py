"""Measuring: the loop that joins controller, engine and health, and the measurements made with it."""

from pytest_capacity.measurement.conditions import Conditions, Progress
from pytest_capacity.measurement.loop import LoadRun
from pytest_capacity.measurement.preflight import PreflightFailed
from pytest_capacity.measurement.recorded import load_recorded
from pytest_capacity.measurement.replay import ReplayRequest, ReplayRun
from pytest_capacity.measurement.run import Run
from pytest_capacity.measurement.search import Question, SearchRun
from pytest_capacity.measurement.sustain import Requirement, SustainRun

__all__ = [
    "Conditions",
    "LoadRun",
    "PreflightFailed",
    "Progress",
    "Question",
    "ReplayRequest",
    "ReplayRun",
    "Requirement",
    "Run",
    "SearchRun",
    "SustainRun",
    "load_recorded",
]
