"""From recipes to runs to records."""
