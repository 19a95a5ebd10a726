"""Recipes of the benchmarks, one TOML file each."""
