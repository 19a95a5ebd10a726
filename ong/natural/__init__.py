"""Natural gradients outside continual learning: exact for deep linear networks, online for the rest."""
