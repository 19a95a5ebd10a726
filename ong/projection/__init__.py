"""What past tasks forbid: directions, their factored memory, projectors."""
