"""Benchmarks of kind ``deep-linear``: the exact natural gradient against SGD and Newton."""
