"""Data sets and in-memory Avalanche streams."""
