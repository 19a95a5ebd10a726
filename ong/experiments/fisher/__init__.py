"""Benchmarks of kind ``fisher``: how far random estimates of a net's Fisher are from it."""
