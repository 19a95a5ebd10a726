"""Avalanche training plugins: OGD, ONG and their kin."""
