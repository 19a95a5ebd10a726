"""Recipes of the strategies, one TOML file each."""
