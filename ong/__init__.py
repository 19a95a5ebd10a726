"""ong: continual learning with projected natural gradients, on Avalanche and PyTorch."""
