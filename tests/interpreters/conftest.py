"""Kept interpreters run in the lab of the hostile programs."""

from tests.hostile.conftest import cell, lab, mark, run

__all__ = ["cell", "lab", "mark", "run"]
