"""The gradients benchmark."""
