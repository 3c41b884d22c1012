"""Gradients benchmark: doubly reparameterised and standard gradients of a guide compared."""
