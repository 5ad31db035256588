"""Measurements of speed and memory; each module is a command: python -m benchmarks.step --help."""
