"""Autoencoder benchmarks: images through a bottleneck, natural gradients against SGD, Adam and SOAP."""
