"""The options of the self-test, apart from it so that ``--help`` loads nothing heavy."""

from __future__ import annotations

import argparse

RATES = "100,1000,10000,40000"


def add_options(command: argparse.ArgumentParser) -> None:
    """How long, and how fast."""
    command.add_argument("--seconds", type=float, default=2.0, help="of load at each rate (2)")
    command.add_argument("--rates", default=RATES, help=f"requests a second, separated by commas ({RATES})")
