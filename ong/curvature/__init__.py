"""What a network's Fisher looks like: layer factors, eigenbases, Fisher types."""
