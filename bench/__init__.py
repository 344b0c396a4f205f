"""Benchmarks against the targets of the project: `python -m bench`. Never run as timed tests."""
