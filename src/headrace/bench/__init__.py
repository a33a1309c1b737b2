"""Benchmarks: what the engine costs, what compression costs."""
