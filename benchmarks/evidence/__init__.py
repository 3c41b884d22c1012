"""The evidence benchmark."""
